//! The device that a person named, and a way to call it.
//!
//! A paired device is called at its last known address first, by its fingerprint: that needs no discovery at all. An address is
//! called as it is. Only a name that is left is looked for.

use crate::client::{self, Client, Patience};
use crate::daemon::phone::Phone;
use crate::daemon::rotation;
use crate::daemon::service::{Neighbourhood, NeighbourhoodOptions};
use crate::daemon::{Context, Error, Result};
use crate::discovery::{Found, Selector};
use crate::identity::Expect;
use crate::identity::trust::Trust;
use crate::model::limits::DEFAULT_PORT;
use crate::model::{Alias, Device, DeviceKind, Fingerprint};
use crate::platform::interfaces;
use crate::protocol::{Announcement, paths};
use std::net::SocketAddr;
use std::time::Duration;

/// A device that does not answer at its last address within this time is looked for.
const LAST_ADDRESS_LIMIT: Duration = Duration::from_millis(1500);

/// A name is looked for this long: two rounds of multicast and a scan of a /24.
const FIND_LIMIT: Duration = Duration::from_secs(6);

/// Before the address of a LocalSend app that is to be called without TLS.
const IN_THE_CLEAR: &str = "http://";

/// Chooses among devices that fit one name.
pub trait Chooser: Send {
    /// The index of the one that is meant; `None` when nobody can choose.
    fn choose(&mut self, name: &str, devices: &[Device]) -> Option<usize>;
}

/// A device that answered just now.
#[derive(Clone, Debug)]
pub struct Located {
    /// Who it is; proved by its handshake.
    pub fingerprint: Fingerprint,
    /// What it calls itself.
    pub alias: Alias,
    /// Where it answers.
    pub addresses: Vec<SocketAddr>,
    /// What is remembered of it, if it is paired.
    pub trust: Option<Trust>,
}

impl Located {
    /// Calls it, and nobody else.
    ///
    /// # Errors
    /// Without any address.
    pub fn client(&self, context: &Context) -> Result<Client> {
        Ok(Client::new(&context.identity, self.addresses.clone(), Expect::Known(self.fingerprint))?)
    }
}

/// What answers to a name.
#[derive(Clone, Debug)]
pub enum Answering {
    /// A device that keeps backups.
    LanBackup(Located),
    /// A stock LocalSend app that is not paired.
    Phone(Phone),
}

/// Finds the device that `name` means: an alias, the beginning of a fingerprint, or an address.
///
/// # Errors
/// [`Error::UnknownDevice`], [`Error::Ambiguous`], [`Error::NotLanBackup`], [`Error::PairedAsLocalSend`].
pub async fn locate(context: &Context, name: &str, chooser: &mut dyn Chooser) -> Result<Located> {
    match locate_any(context, name, chooser).await? {
        Answering::LanBackup(located) => Ok(located),
        Answering::Phone(phone) => Err(Error::NotLanBackup(phone.alias.to_string())),
    }
}

/// The same, LocalSend apps included.
///
/// # Errors
/// [`Error::UnknownDevice`], [`Error::Ambiguous`], [`Error::PairedAsLocalSend`].
pub async fn locate_any(context: &Context, name: &str, chooser: &mut dyn Chooser) -> Result<Answering> {
    let found = look_for(context, name, chooser).await?;
    if let Answering::LanBackup(located) = &found
        && located.trust.is_some()
        && let Some(address) = located.addresses.first()
    {
        rotation::introduce(context, *address, located.fingerprint).await;
    }
    Ok(found)
}

async fn look_for(context: &Context, name: &str, chooser: &mut dyn Chooser) -> Result<Answering> {
    if let Some(place) = name.trim().strip_prefix(IN_THE_CLEAR) {
        return phone_in_the_clear(context, place).await.map(Answering::Phone);
    }
    let selector: Selector = name.parse().map_err(|error: crate::model::ParseError| {
        Error::usage(
            error.to_string(),
            "a device is an alias, the beginning of its fingerprint, or an address like 192.168.1.7:53317",
        )
    })?;
    if let Selector::Address(place) = &selector {
        let interfaces = interfaces::list().map_err(crate::discovery::Error::Interfaces)?;
        let address = place.resolve(DEFAULT_PORT, &interfaces);
        let address = address.map_err(|error| Error::usage(error.to_string(), "check the address"))?;
        return match at(context, address).await {
            Err(Error::NotLanBackup(_)) => phone_at(context, address).await.map(Answering::Phone),
            other => other.map(Answering::LanBackup),
        };
    }
    let fitting: Vec<Trust> = context
        .trust
        .list()
        .into_iter()
        .filter(|trust| selector.fits(&trust.alias, Some(&trust.fingerprint)))
        .collect();
    if let [trust] = fitting.as_slice()
        && let Some(located) = at_last_address(context, trust).await?
    {
        return Ok(Answering::LanBackup(located));
    }
    let neighbourhood = Neighbourhood::open(context, NeighbourhoodOptions::transient()).await?;
    let found = neighbourhood.discovery().find(&selector, FIND_LIMIT).await;
    neighbourhood.close().await;
    let device = match found {
        Found::One(device) => device,
        Found::None(report) => {
            // Not where it was, and somebody else has its name: it may be the same device with a new certificate.
            let places = report.namesakes.iter().filter_map(|namesake| namesake.addresses.first().copied());
            if let [trust] = fitting.as_slice() {
                for address in places {
                    if let Some(located) = under_another_certificate(context, trust, address).await? {
                        return Ok(Answering::LanBackup(located));
                    }
                }
            }
            return Err(Error::UnknownDevice { name: name.to_owned(), tried: report.to_string() });
        }
        Found::Several(devices) => match chooser.choose(name, &devices) {
            Some(index) if index < devices.len() => devices[index].clone(),
            _ => {
                let interfaces = interfaces::list().unwrap_or_default();
                let show = |d: &Device| {
                    let code = d.fingerprint.map(|f| f.short_code().to_string()).unwrap_or_default();
                    let place = d.addresses.first().map(|at| interfaces::in_words(*at, &interfaces));
                    format!("{} {code} at {}", d.alias, place.unwrap_or_else(|| "no known address".to_owned()))
                };
                return Err(Error::Ambiguous { name: name.to_owned(), devices: devices.iter().map(show).collect() });
            }
        },
    };
    if device.kind != DeviceKind::LanBackup {
        let Some(fingerprint) = device.fingerprint else {
            // Plain HTTP only: nobody can tell who it is.
            return Err(Error::NotLanBackup(device.alias.to_string()));
        };
        return phone(context, Some(fingerprint), device.alias, device.addresses).map(Answering::Phone);
    }
    let unknown = || Error::UnknownDevice { name: name.to_owned(), tried: String::new() };
    let fingerprint = device.fingerprint.ok_or_else(unknown)?;
    let trust = remember_address(context, fingerprint, device.addresses.first().copied())?;
    Ok(Answering::LanBackup(Located { fingerprint, alias: device.alias, addresses: device.addresses, trust }))
}

/// A LocalSend app, unless it is a paired device that is made to look like one: by its fingerprint, its name, or its address.
fn phone(
    context: &Context,
    fingerprint: Option<Fingerprint>,
    alias: Alias,
    addresses: Vec<SocketAddr>,
) -> Result<Phone> {
    let paired = context.trust.list().into_iter().find(|trust| {
        Some(trust.fingerprint) == fingerprint
            || trust.alias == alias
            || trust.address.is_some_and(|address| addresses.contains(&address))
    });
    match paired {
        Some(trust) => Err(Error::PairedAsLocalSend(trust.alias.to_string())),
        None => Ok(Phone { fingerprint, alias, addresses }),
    }
}

/// The app at an address. Who answers is looked at before a word of LocalSend's is said.
async fn phone_at(context: &Context, address: SocketAddr) -> Result<Phone> {
    let unproved = || client::Error::NotUnderstood("without a certificate".to_owned());
    let first = Client::new(&context.identity, vec![address], Expect::FirstUse)?;
    let fingerprint = first.certificate().await?.ok_or_else(unproved)?;
    phone(context, Some(fingerprint), Alias::new(&address.to_string()), vec![address])?;
    let client = Client::new(&context.identity, vec![address], Expect::Known(fingerprint))?;
    let own = Announcement::of_this_device(context.alias.clone(), context.identity.fingerprint(), DEFAULT_PORT, true);
    let (said, _) = client.register_at(paths::LOCALSEND_REGISTER, &own).await?;
    phone(context, Some(fingerprint), said.alias, vec![address])
}

/// The app at an address that a person has typed with `http://` before it: its encryption is off, so nobody can tell who it is. What it
/// says of itself is good for refusing it, and for nothing else.
async fn phone_in_the_clear(context: &Context, place: &str) -> Result<Phone> {
    let wrong = |problem: String| Error::usage(problem, "an app in the clear is named like http://192.168.1.7:53317");
    let place = match place.trim_end_matches('/').parse::<Selector>() {
        Ok(Selector::Address(place)) => place,
        Ok(_) => return Err(wrong(format!("`{}` is no address", crate::model::text::clean(place)))),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let interfaces = interfaces::list().map_err(crate::discovery::Error::Interfaces)?;
    let address = place.resolve(DEFAULT_PORT, &interfaces).map_err(|error| wrong(error.to_string()))?;
    let own = Announcement::of_this_device(context.alias.clone(), context.identity.fingerprint(), DEFAULT_PORT, true);
    // Where a paired device lives, no word of LocalSend's is said.
    phone(context, None, Alias::new(&address.to_string()), vec![address])?;
    let said = client::register_in_the_clear(address, paths::LOCALSEND_REGISTER, &own).await?;
    phone(context, said.fingerprint.parse().ok(), said.alias.clone(), vec![address])?;
    phone(context, None, said.alias, vec![address])
}

async fn at_last_address(context: &Context, trust: &Trust) -> Result<Option<Located>> {
    let Some(address) = trust.address else { return Ok(None) };
    let patience = Patience { connect: LAST_ADDRESS_LIMIT, answer: LAST_ADDRESS_LIMIT, ..Patience::default() };
    let client = Client::with_patience(&context.identity, vec![address], Expect::Known(trust.fingerprint), patience)?;
    match client.info().await {
        Ok(said) => Ok(Some(Located {
            fingerprint: trust.fingerprint,
            alias: said.alias,
            addresses: vec![address],
            trust: Some(trust.clone()),
        })),
        Err(client::Error::WrongFingerprint { found, .. }) => {
            let trust = rotation::recognise(context, trust, address, found).await?;
            Ok(trust.map(|trust| proved_at(address, trust)))
        }
        // Somewhere else now, or off: discovery finds out which.
        Err(error) => {
            tracing::debug!(%address, %error, "not at its last address");
            Ok(None)
        }
    }
}

fn proved_at(address: SocketAddr, trust: Trust) -> Located {
    let (fingerprint, alias) = (trust.fingerprint, trust.alias.clone());
    Located { fingerprint, alias, addresses: vec![address], trust: Some(trust) }
}

/// Whether whoever answers at `address` proves to be `trust` with a new certificate.
async fn under_another_certificate(context: &Context, trust: &Trust, address: SocketAddr) -> Result<Option<Located>> {
    let patience = Patience { connect: LAST_ADDRESS_LIMIT, answer: LAST_ADDRESS_LIMIT, ..Patience::default() };
    let client = Client::with_patience(&context.identity, vec![address], Expect::Known(trust.fingerprint), patience)?;
    let Err(client::Error::WrongFingerprint { found, .. }) = client.info().await else { return Ok(None) };
    let trust = rotation::recognise(context, trust, address, found).await?;
    let trust = match trust {
        Some(trust) => remember_address(context, trust.fingerprint, Some(address))?,
        None => None,
    };
    Ok(trust.map(|trust| proved_at(address, trust)))
}

async fn at(context: &Context, address: SocketAddr) -> Result<Located> {
    let client = Client::new(&context.identity, vec![address], Expect::FirstUse)?;
    // Nothing listens here, so there is no port to call back.
    let own = Announcement::of_this_device(context.alias.clone(), context.identity.fingerprint(), 0, true)
        .by_instance(context.identity.instance());
    let (said, certificate) = match client.register_at(paths::REGISTER, &own).await {
        Err(error) if error.answer().is_some() => return Err(Error::NotLanBackup(address.to_string())),
        other => other?,
    };
    if said.lan_backup.is_none() {
        return Err(Error::NotLanBackup(said.alias.to_string()));
    }
    let unproved = || client::Error::NotUnderstood("without a certificate".to_owned());
    let fingerprint = certificate.ok_or_else(unproved)?;
    if fingerprint == context.identity.fingerprint() {
        return Err(Error::usage(format!("{address} is this device itself"), "name another device, or use `local`"));
    }
    let trust = context.trust.find(&fingerprint);
    let lived_here = context.trust.list().into_iter().find(|t| t.address == Some(address) && trust.is_none());
    if let Some(other) = lived_here {
        if let Some(trust) = rotation::recognise(context, &other, address, fingerprint).await? {
            return Ok(proved_at(address, trust));
        }
        return Err(Error::AnotherDevice {
            address,
            alias: other.alias,
            expected: other.fingerprint,
            found: fingerprint,
        });
    }
    let trust = remember_address(context, fingerprint, Some(address))?;
    warn_of_an_impostor(context, &said.alias, fingerprint);
    Ok(Located { fingerprint, alias: said.alias, addresses: vec![address], trust })
}

/// A paired device's new address is remembered for next time.
fn remember_address(context: &Context, fingerprint: Fingerprint, address: Option<SocketAddr>) -> Result<Option<Trust>> {
    let trust = context.trust.find(&fingerprint);
    if let (Some(trust), Some(address)) = (&trust, address)
        && trust.address != Some(address)
    {
        context.trust.update(&fingerprint, |trust| trust.address = Some(address))?;
    }
    Ok(trust)
}

/// A device that calls itself like a paired one and is another: worth a loud word, because it may be after the backups.
fn warn_of_an_impostor(context: &Context, alias: &Alias, fingerprint: Fingerprint) {
    let other = context.trust.list().into_iter().find(|t| t.alias == *alias && t.fingerprint != fingerprint);
    if let Some(other) = other {
        tracing::warn!(
            %alias,
            paired = %other.fingerprint.short_code(),
            found = %fingerprint.short_code(),
            "a device with the name of a paired one has another fingerprint"
        );
    }
}
