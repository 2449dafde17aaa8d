//! What all handlers share, and the few steps that more than one of them takes.
//!
//! The two state machines (sessions, pairing) sit behind plain mutexes that are held for a look-up, never across an await.
//! Whoever waits for a decision waits for `changed` and looks again, so a decision is never missed and nothing polls.

use crate::identity::pairing::Shower;
use crate::identity::{Identity, Trust, TrustStore};
use crate::model::{Alias, Fingerprint, Right, SessionId, SetName};
use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use crate::protocol::session::SessionLimits;
use crate::server::AcceptMode;
use crate::server::allowance::Allowance;
use crate::server::api_error::ApiError;
use crate::server::approval::{ApprovalRequest, Approver, Question};
use crate::server::connections::Connections;
use crate::server::events::{Events, ServerEvent};
use crate::server::impostors::Impostors;
use crate::server::limits::{
    MAX_TRANSFERS, MAX_TRANSFERS_PER_DEVICE, ONCE_LIMIT, PARALLEL_CALLS, Pace, RESTORE_ONCE_LIMIT, TRANSFER_MEMORY,
    TRANSFER_MEMORY_PER_DEVICE, memory_units,
};
use crate::server::listing::may_see;
use crate::server::localsend::Door;
use crate::server::pairing::Pairing;
use crate::server::room::OnTheWay;
use crate::server::sessions::{Session, SessionKind, Sessions, Use};
use crate::server::shares::{Share, Shares};
use crate::store::{Repository, Store};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// What an exchange keeps between `pair/start` and `pair/confirm`.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Checks the proof.
    pub(crate) shower: Shower,
    /// The other side's signing key, as it stands in the transcript.
    pub(crate) signing_key: String,
}

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) trust: TrustStore,
    store: Option<Store>,
    pub(crate) alias: Alias,
    pub(crate) transient: bool,
    pub(crate) port: u16,
    pub(crate) accept: AcceptMode,
    pub(crate) approver: Arc<dyn Approver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) quota: Option<u64>,
    pub(crate) reserve_bytes: u64,
    pub(crate) on_the_way: Arc<OnTheWay>,
    pub(crate) pace: Pace,
    pub(crate) localsend: Door,
    pub(crate) allowance: Allowance,
    /// How many LocalSend senders nobody vouched for may have a repository made today.
    pub(crate) new_senders: Allowance,
    pub(crate) connections: Connections,
    impostors: Impostors,
    pub(crate) shutdown: Shutdown,
    sessions: Mutex<Sessions>,
    pairing: Mutex<Pairing<Exchange>>,
    once: Mutex<Vec<(Fingerprint, SetName, Instant)>>,
    creating: Mutex<()>,
    transfers: Shares,
    memory: Shares,
    changed: watch::Sender<u64>,
    numbers: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({:?}, port {})", self.identity, self.port)
    }
}

impl Shared {
    /// The state of a server that begins now.
    pub(crate) fn new(options: crate::server::ServerOptions, port: u16, pace: Pace, shutdown: Shutdown) -> Self {
        Self {
            identity: options.identity,
            trust: options.trust,
            store: options.store,
            alias: options.alias,
            transient: options.transient,
            port,
            accept: options.accept,
            approver: options.approver,
            clock: options.clock,
            events: Events::new(options.events),
            quota: options.quota,
            reserve_bytes: options.reserve_bytes,
            on_the_way: Arc::default(),
            pace,
            localsend: Door::new(options.localsend),
            allowance: Allowance::new(&options.state_folder),
            new_senders: Allowance::of_new_senders(&options.state_folder),
            connections: Connections::default(),
            impostors: Impostors::default(),
            shutdown,
            sessions: Mutex::default(),
            pairing: Mutex::new(Pairing::new(options.accept)),
            once: Mutex::default(),
            creating: Mutex::default(),
            transfers: Shares::new(MAX_TRANSFERS, MAX_TRANSFERS_PER_DEVICE),
            memory: Shares::new(memory_units(TRANSFER_MEMORY), memory_units(TRANSFER_MEMORY_PER_DEVICE)),
            changed: watch::Sender::new(0),
            numbers: AtomicU64::new(0),
        }
    }

    /// What is kept here.
    ///
    /// # Errors
    /// 404 from a listener that keeps nothing.
    pub(crate) fn store(&self) -> Result<&Store, ApiError> {
        self.store
            .as_ref()
            .ok_or_else(|| ApiError::not_found("this device keeps no backups; it only listens for a moment"))
    }

    /// What this device says about itself.
    pub(crate) fn announcement(&self) -> Announcement {
        Announcement::of_this_device(self.alias.clone(), self.identity.fingerprint(), self.port, self.transient)
            .by_instance(self.identity.instance())
    }

    /// What sources are told to keep to.
    pub(crate) fn session_limits() -> SessionLimits {
        SessionLimits {
            max_upload_bytes: crate::model::limits::MAX_UPLOAD_BYTES,
            max_ids: crate::model::limits::MAX_MISSING_IDS,
            parallel_calls: PARALLEL_CALLS,
        }
    }

    /// The sessions; not to be held across an await.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pairing machine; not to be held across an await.
    pub(crate) fn pairing(&self) -> MutexGuard<'_, Pairing<Exchange>> {
        self.pairing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a device's repository is looked for and made, so that two calls at once do not make two. Blocking.
    pub(crate) fn creating(&self) -> MutexGuard<'_, ()> {
        self.creating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that no other question or session of this server has.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Lets everybody who waits look again.
    pub(crate) fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// What `look` finds, as soon as it does; `None` after `limit`, or when the server stops. Cancel-safe.
    pub(crate) async fn wait_for<T>(&self, limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut changes = self.changed.subscribe();
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            changes.borrow_and_update();
            if let Some(found) = look() {
                return Some(found);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(deadline) => return None,
                () = self.shutdown.stopped() => return None,
            }
        }
    }

    /// Puts a question to the person.
    pub(crate) fn ask(&self, question: Question) -> oneshot::Receiver<crate::server::approval::Decision> {
        let (request, answer) = ApprovalRequest::new(self.next_number(), question);
        self.approver.ask(request);
        answer
    }

    /// Tells whoever watches, once, when a device carries the name of a paired one.
    pub(crate) fn look_for_impostors(&self, alias: &Alias, fingerprint: Fingerprint, from: SocketAddr) {
        if let Some(paired) = self.impostors.notice(&self.trust, alias, fingerprint) {
            let (found, code) = (fingerprint.short_code(), paired.short_code());
            tracing::warn!(%alias, %found, paired = %code, "a device with the name of a paired one has another fingerprint");
            self.events.send(ServerEvent::Impostor { alias: alias.clone(), fingerprint, paired, from });
        }
    }

    /// Remembers that a person said yes, once, to what a device wants to back up right after pairing.
    pub(crate) fn accept_once(&self, device: Fingerprint, set: SetName) {
        let now = self.clock.instant();
        let mut once = self.once.lock().unwrap_or_else(PoisonError::into_inner);
        once.retain(|(_, _, at)| now.saturating_duration_since(*at) <= ONCE_LIMIT);
        once.push((device, set, now));
    }

    /// Whether a backup of this set needs no question any more.
    pub(crate) fn is_settled(&self, trust: &Trust, set: &SetName) -> bool {
        let now = self.clock.instant();
        let once = self.once.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted_once = once.iter().any(|(device, accepted, at)| {
            *device == trust.fingerprint && accepted == set && now.saturating_duration_since(*at) <= ONCE_LIMIT
        });
        self.accept == AcceptMode::Paired || trust.sets.contains(set) || accepted_once
    }

    /// Begins a call of a session; it ends with the value.
    pub(crate) async fn begin_call(
        self: &Arc<Self>,
        id: SessionId,
        device: Fingerprint,
        want: Use,
    ) -> Result<CallUnderWay, ApiError> {
        let (session, repository) = self.sessions().begin_call(id, device, want, self.clock.instant())?;
        // From here on the call is counted, and whatever happens ends it.
        let under_way = Counted { shared: self.clone(), session, bytes: 0 };
        let (shared, session) = (self.clone(), under_way.session.clone());
        let repository = blocking(move || {
            let repository = shared.store()?.repository(&repository);
            let repository = repository.ok_or_else(|| ApiError::not_found("the repository is not there any more"))?;
            may_use(&shared, &session, &repository)?;
            Ok(repository)
        });
        Ok(CallUnderWay { repository: repository.await?, counted: under_way })
    }

    /// Begins a call that belongs to no session; it ends with the value.
    pub(crate) fn begin_lone_call(self: &Arc<Self>, device: Fingerprint) -> Result<LoneCall, ApiError> {
        self.sessions().begin_lone_call(device)?;
        Ok(LoneCall { shared: self.clone(), device })
    }

    /// A place among the transfers under way for a device; 503 when none is free for long.
    pub(crate) async fn transfer(&self, device: Fingerprint) -> Result<Share, ApiError> {
        self.transfers.take(device, 1).await
    }

    /// Transfers that have a place.
    #[cfg(test)]
    pub(crate) fn transfers_under_way(&self) -> u32 {
        self.transfers.taken(MAX_TRANSFERS)
    }

    /// Memory for so many bytes that are under way; 503 when it is not free for long. Blocking.
    pub(crate) fn memory(&self, device: Fingerprint, bytes: u64) -> Result<Share, ApiError> {
        self.memory.take_blocking(device, memory_units(bytes))
    }

    /// Ends everything that a device has under way, after it was unpaired.
    pub(crate) fn end_everything_of(&self, device: Fingerprint) {
        for session in self.sessions().forget_device(device) {
            self.events.send(ServerEvent::SessionEnded(session.summary()));
        }
        self.once.lock().unwrap_or_else(PoisonError::into_inner).retain(|(d, _, _)| *d != device);
        if let Some(closed) = self.pairing().forget_device(device) {
            self.events.send(ServerEvent::PinGone { fingerprint: closed.asker.fingerprint, paired: false });
        }
        self.connections.kill(device);
        self.wake();
    }
}

/// Whether a session may still do to its repository what it was opened for, reading included: owners and rights change meanwhile.
/// Blocking.
fn may_use(shared: &Shared, session: &Session, repository: &Repository) -> Result<(), ApiError> {
    let trust = shared.trust.find(&session.device).ok_or_else(ApiError::not_paired)?;
    let (allowed, why) = match session.kind {
        SessionKind::Copy => (
            trust.rights.allow(Right::Replicate) && repository.copied_from() == Some(session.device),
            "this device does not let that copy be brought up to date any more",
        ),
        SessionKind::Backup | SessionKind::Inbox => (
            repository.owner() == session.device && repository.copied_from().is_none(),
            "another device has taken over this repository",
        ),
        SessionKind::Restore => {
            let age = |since| shared.clock.instant().saturating_duration_since(since);
            let once = session.once.is_some_and(|since| age(since) <= RESTORE_ONCE_LIMIT);
            (once || may_see(&trust, repository), "this device may not read that backup any more")
        }
    };
    if allowed { Ok(()) } else { Err(ApiError::not_allowed(why)) }
}

/// A call under way that belongs to no session.
#[derive(Debug)]
pub(crate) struct LoneCall {
    shared: Arc<Shared>,
    device: Fingerprint,
}

impl Drop for LoneCall {
    fn drop(&mut self) {
        self.shared.sessions().end_lone_call(self.device);
    }
}

/// A call of a session under way.
#[derive(Debug)]
pub(crate) struct CallUnderWay {
    /// The repository of the session.
    pub(crate) repository: Arc<Repository>,
    counted: Counted,
}

#[derive(Debug)]
struct Counted {
    shared: Arc<Shared>,
    session: Session,
    bytes: u64,
}

impl CallUnderWay {
    /// The session as it was when the call began.
    pub(crate) fn session(&self) -> &Session {
        &self.counted.session
    }

    /// Bytes moved.
    pub(crate) fn moved(&mut self, bytes: u64) {
        self.counted.bytes += bytes;
        let number = self.counted.session.number;
        self.counted.shared.events.progress(ServerEvent::Moved { number, bytes });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let session = &self.session;
        self.shared.sessions().end_call(session.id, session.device, self.bytes, self.shared.clock.instant());
    }
}

/// Runs blocking work; 500 when it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::failed().caused_by(error))?
}
