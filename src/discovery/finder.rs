//! Finds the one device that a person meant: where it was last, then whoever is heard, then everybody.
//!
//! Only a device that answered during this search counts, so a forged datagram or an old address finds nobody. A name is
//! an alias, and aliases are free: a paired device of that name is taken before strangers, and while one is paired no
//! stranger is taken for it, because `send nas` must not go to whoever calls itself `nas` when the real one is off.

use crate::discovery::Found;
use crate::discovery::asker::{ANYBODY, NATIVE, Outcome, Way, ask};
use crate::discovery::scan::{self, Extent};
use crate::discovery::selector::{Place, Selector};
use crate::discovery::state::State;
use crate::model::{Device, DeviceKind, Fingerprint};
use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Silence after which the subnets are scanned; whoever hears the first two datagrams has answered by then.
const SCAN_AFTER: Duration = Duration::from_secs(1);
/// Time for another device of the same name to answer as well, before the first is taken.
const NAMESAKE_GRACE: Duration = Duration::from_millis(400);
/// Who did not answer is asked again, and hello said again, this often.
const AGAIN_EVERY: Duration = Duration::from_secs(4);
/// Longest time for proving a whole list: a flood of forged claims is not waited for.
const PROVE_LIMIT: Duration = Duration::from_secs(3);
/// Who answered within this time is not asked again before it is shown.
const JUST_NOW: Duration = Duration::from_secs(10);
/// Calls under way at once: a few addresses of a few devices.
const MAX_CALLS: usize = 16;

/// Looks for the device that `selector` names.
pub(crate) async fn find(state: &State, selector: &Selector, wait: Duration) -> Found {
    tokio::select! {
        () = state.shutdown.stopped() => Found::None(state.report()),
        found = async {
            match selector {
                Selector::Address(place) => at_place(state, place, wait).await,
                Selector::Fingerprint(_) | Selector::Name(_) => by_name(state, selector, wait).await,
            }
        } => found,
    }
}

/// Calls every device that is listed and has not proved itself just now, and every address of those that may be several machines
/// with one identity. Who proved itself once and does not answer any more goes. Returns those that are several machines.
pub(crate) async fn prove(state: &State) -> Vec<Device> {
    let since = state.now();
    let mut questions = Vec::new();
    {
        let registry = state.registry();
        for device in registry.unproved(since) {
            questions.extend(device.addresses.first().map(|at| (*at, ways_to(&device), device.fingerprint)));
        }
        let just_now = since.checked_sub(JUST_NOW).unwrap_or(since);
        for device in registry.proved_before(just_now, since) {
            questions.extend(device.addresses.iter().map(|at| (*at, ways_to(&device), device.fingerprint)));
        }
        for device in registry.suspected_clones(since) {
            questions.extend(device.addresses.iter().map(|at| (*at, ways_to(&device), None)));
        }
    }
    let calls =
        futures_util::stream::iter(questions).for_each_concurrent(MAX_CALLS, async |(address, ways, claimed)| {
            let outcome = ask(state, address, ways, claimed).await;
            if let (Outcome::Failed(_), Some(fingerprint)) = (outcome, claimed) {
                state.registry().left(&fingerprint, address);
            }
        });
    tokio::select! {
        () = state.shutdown.stopped() => {}
        () = tokio::time::sleep(PROVE_LIMIT) => {}
        () = calls => {}
    }
    state.registry().cloned(since, state.now())
}

/// Listens, and asks around where it stays silent.
pub(crate) async fn look_around(state: &State, wait: Duration, scan_wait: Duration) -> Vec<Device> {
    let listened = async {
        tokio::time::sleep(wait).await;
    };
    let scanned = async {
        state.request_burst();
        let silence = SCAN_AFTER.min(wait);
        tokio::time::sleep(silence).await;
        // Half a network would have been asked for nothing: it may take longer than the silence.
        let limit = scan_wait.max(wait).saturating_sub(silence);
        let _ = tokio::time::timeout(limit, scan::scan(state, Extent::Silent)).await;
    };
    tokio::select! {
        () = state.shutdown.stopped() => {}
        ((), ()) = async { tokio::join!(listened, scanned) } => {}
    }
    prove(state).await
}

fn ways_to(device: &Device) -> &'static [Way] {
    // Of a LocalSend app it is not remembered whether it speaks TLS.
    if device.kind == DeviceKind::LanBackup { NATIVE } else { &ANYBODY[1..] }
}

async fn at_place(state: &State, place: &Place, wait: Duration) -> Found {
    let interfaces = state.links().all().to_vec();
    let address = match place.resolve(state.options.scan_port, &interfaces) {
        Ok(address) => address,
        Err(error) => {
            state.failed(SocketAddr::new(place.ip, place.port.unwrap_or_default()), &error.to_string());
            return Found::None(state.report());
        }
    };
    match tokio::time::timeout(wait, ask(state, address, ANYBODY, None)).await {
        Ok(Outcome::Answered(device)) => Found::One(Device { addresses: vec![address], ..device }),
        Ok(Outcome::Own) => {
            state.failed(address, "this device itself answers there");
            Found::None(state.report())
        }
        Ok(Outcome::Mismatched | Outcome::Failed(_)) => Found::None(state.report()),
        Err(_) => {
            state.failed(address, "no answer in time");
            Found::None(state.report())
        }
    }
}

async fn by_name(state: &State, selector: &Selector, wait: Duration) -> Found {
    let since = state.now();
    let mut changes = state.changes();
    let mut asked = HashSet::new();
    let mut calls = FuturesUnordered::new();
    let mut failed = HashSet::new();
    let mut over = std::pin::pin!(tokio::time::sleep(wait));
    let mut silence = std::pin::pin!(tokio::time::sleep(SCAN_AFTER));
    let mut grace = OptionFuture::default();
    let mut scan = OptionFuture::default();
    let (mut scanned, mut in_grace) = (false, false);
    let mut again = tokio::time::interval(AGAIN_EVERY);
    loop {
        let answers = Answers::since(state, selector, since);
        if answers.is_certain(selector) {
            return answers.take(state);
        }
        if !answers.is_empty() && !in_grace {
            in_grace = true;
            grace = Some(Box::pin(tokio::time::sleep(NAMESAKE_GRACE))).into();
        }
        for (address, ways, claimed) in candidates(state, selector) {
            if calls.len() < MAX_CALLS && asked.insert(address) {
                calls.push(async move { (address, ask(state, address, ways, claimed).await) });
            }
        }
        tokio::select! {
            () = &mut over => return answers.take(state),
            Some(()) = &mut grace, if in_grace => return answers.take(state),
            () = &mut silence, if !scanned => {
                scanned = true;
                scan = Some(Box::pin(scan::scan(state, Extent::Subnets))).into();
            }
            Some(_) = &mut scan, if scanned => scan = OptionFuture::default(),
            Some((address, outcome)) = calls.next() => {
                if matches!(outcome, Outcome::Failed(_)) {
                    failed.insert(address);
                }
            }
            Ok(()) = changes.changed() => {}
            _ = again.tick() => {
                for address in failed.drain() {
                    asked.remove(&address);
                }
                state.request_burst();
            }
        }
    }
}

/// Where the wanted device may be: its last known addresses first, then what is proved or claimed.
fn candidates(state: &State, selector: &Selector) -> Vec<(SocketAddr, &'static [Way], Option<Fingerprint>)> {
    let mut candidates = Vec::new();
    let mut fitting = HashSet::new();
    for (fingerprint, alias, addresses) in state.registry().known() {
        if selector.fits(alias, Some(fingerprint)) {
            fitting.insert(*fingerprint);
            // Whoever has that address by now is somebody else and no impostor: nothing is claimed.
            candidates.extend(addresses.iter().map(|address| (*address, NATIVE, None)));
        }
    }
    // A paired device may have been given a new alias since; it fits by either.
    let fits = |device: &Device| {
        device.fingerprint.is_some_and(|fingerprint| fitting.contains(&fingerprint))
            || selector.fits(&device.alias, device.fingerprint.as_ref())
    };
    for device in state.devices().into_iter().filter(fits) {
        let ways = ways_to(&device);
        candidates.extend(device.addresses.iter().map(|address| (*address, ways, device.fingerprint)));
    }
    candidates
}

/// Devices that fit and answered.
struct Answers {
    paired: Vec<Device>,
    strangers: Vec<Device>,
    /// Paired devices that fit, whether they answered or not.
    paired_fitting: usize,
    /// Those of them that did not.
    absent: Vec<Device>,
}

impl Answers {
    fn since(state: &State, selector: &Selector, since: Instant) -> Self {
        let now = state.now();
        let registry = state.registry();
        let fitting: HashSet<Fingerprint> = registry
            .known()
            .filter(|(fingerprint, alias, _)| selector.fits(alias, Some(fingerprint)))
            .map(|(fingerprint, _, _)| *fingerprint)
            .collect();
        // A paired device may have been given a new alias since; it fits by either.
        let fits = |device: &Device| {
            device.fingerprint.is_some_and(|fingerprint| fitting.contains(&fingerprint))
                || selector.fits(&device.alias, device.fingerprint.as_ref())
        };
        let answered = registry.proved_since(since, now).into_iter().filter(fits);
        let is_paired = |device: &Device| device.fingerprint.is_some_and(|fingerprint| registry.is_known(&fingerprint));
        let (paired, strangers): (Vec<Device>, Vec<Device>) = answered.partition(is_paired);
        let answers = |fingerprint: &Fingerprint| paired.iter().any(|device| device.fingerprint == Some(*fingerprint));
        let absent = registry
            .known()
            .filter(|(fingerprint, _, _)| fitting.contains(fingerprint) && !answers(fingerprint))
            .map(|(fingerprint, alias, addresses)| Device {
                alias: alias.clone(),
                fingerprint: Some(*fingerprint),
                kind: DeviceKind::LanBackup,
                addresses: addresses.to_vec(),
                transient: false,
            })
            .collect();
        Self { paired, strangers, paired_fitting: fitting.len(), absent }
    }

    fn is_empty(&self) -> bool {
        self.paired.is_empty() && (self.strangers.is_empty() || self.paired_fitting > 0)
    }

    /// Whether waiting longer cannot change the answer.
    fn is_certain(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Fingerprint(_) => !self.is_empty(),
            _ => self.paired_fitting == 1 && self.paired.len() == 1,
        }
    }

    fn take(mut self, state: &State) -> Found {
        if !self.paired.is_empty() && self.paired_fitting > 1 {
            // Whichever of two paired namesakes happens to be switched on is not the answer.
            self.paired.append(&mut self.absent);
            return Found::Several(self.paired);
        }
        let found =
            if self.paired_fitting > 0 || !self.paired.is_empty() { &mut self.paired } else { &mut self.strangers };
        match found.len() {
            0 => {
                let namesakes = self.strangers.into_iter().map(Into::into).collect();
                Found::None(crate::discovery::Report { namesakes, ..state.report() })
            }
            1 => Found::One(found.remove(0)),
            _ => Found::Several(std::mem::take(found)),
        }
    }
}
