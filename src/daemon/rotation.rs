//! New certificates: this device makes one, tells those it is paired with, and recognises another that has one.
//!
//! A paired device that answers with another certificate than the remembered one is either itself with a new one, which its
//! signing key proves, or somebody else, and then nothing is sent to it and the person is told.

use crate::client::{self, Client};
use crate::daemon::{Context, Error, Result, hand_over};
use crate::identity::rotation::is_proved;
use crate::identity::trust::Trust;
use crate::identity::{Expect, Identity};
use crate::model::{Fingerprint, OwnerEvent};
use crate::platform;
use crate::platform::lock::Lock;
use crate::protocol::rotation::{Former, MAX_FORMER, ROTATION_VERSION, Rotated};
use crate::store::{Repository, Store};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A paired device that is not there does not keep the others waiting for the news.
const TELL_LIMIT: Duration = Duration::from_secs(3);

/// What became of a new certificate.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// The former certificate.
    pub was: Fingerprint,
    /// The present one.
    pub is: Fingerprint,
    /// The paired devices, and whether they know already.
    pub told: Vec<(Trust, bool)>,
}

/// Makes a new certificate for this device and tells the paired devices that answer at their last address. The others learn of it
/// when this device next calls them, or they it.
///
/// # Errors
/// A `serve` runs with this home and would go on with the old certificate; or the disk's.
pub async fn replace(context: &Context) -> Result<Replaced> {
    let lock = Lock::try_exclusive(&context.home.control_socket().with_extension("lock"))?;
    let _only = lock.ok_or_else(|| {
        let hint = "stop it, run this again, and start it anew: it then shows the new certificate";
        Error::usage("a `lan-backup serve` runs with this home and has the old certificate in memory", hint)
    })?;
    let was = context.identity.fingerprint();
    let home = context.home.identity().to_owned();
    let identity = tokio::task::spawn_blocking(move || Identity::rotate(&home)).await.map_err(|_| Error::Stopped)??;
    let context = Context { identity, ..context.clone() };
    keep_own_repositories(&context, was).await?;
    let mut told = Vec::new();
    for trust in context.trust.list() {
        let knows = match trust.address {
            Some(address) => tokio::time::timeout(TELL_LIMIT, tell(&context, address, trust.fingerprint)).await,
            None => Ok(Ok(false)),
        };
        told.push((trust, matches!(knows, Ok(Ok(true)))));
    }
    Ok(Replaced { was, is: context.identity.fingerprint(), told })
}

/// Repositories that this device keeps for itself go with it.
async fn keep_own_repositories(context: &Context, was: Fingerprint) -> Result<()> {
    let folder = context.store_folder(None);
    if platform::fs::metadata_if_there(&folder)?.is_none() {
        return Ok(());
    }
    let context = context.clone();
    let work = move || {
        let identity = &context.identity;
        let (store, _) = Store::open_or_create(&folder, context.clock.clone(), identity.signing_key().clone())?;
        let Some(signature) = identity.proof_of_former(&was) else { return Ok(()) };
        // Copies that others bring have the owner log of where they come from.
        let own = |repository: &&Arc<Repository>| repository.owner() == was && repository.copied_from().is_none();
        for repository in store.repositories().iter().filter(own) {
            let (fingerprint, signer) = (identity.fingerprint(), identity.signing_key().public());
            let (signature, at) = (signature.clone(), context.clock.now());
            repository.append_owner(OwnerEvent::Rotate { fingerprint, signer, signature, at })?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}

/// Who this device was, when it was ever another.
fn formerly(identity: &Identity) -> Vec<Former> {
    let prove = |fingerprint: &Fingerprint| {
        Some(Former { fingerprint: *fingerprint, signature: identity.proof_of_former(fingerprint)? })
    };
    identity.former().iter().take(MAX_FORMER).filter_map(prove).collect()
}

/// Tells a paired device of this device's former certificates, if there are any. Whether it knows the present one.
async fn tell(context: &Context, address: SocketAddr, device: Fingerprint) -> client::Result<bool> {
    let client = Client::new(&context.identity, vec![address], Expect::Known(device))?;
    let said = Rotated { v: ROTATION_VERSION, formerly: formerly(&context.identity), expected: None };
    Ok(client.rotated(&said).await?.accepted)
}

/// Before a paired device is called: it may know this one by a former certificate only.
pub(crate) async fn introduce(context: &Context, address: SocketAddr, device: Fingerprint) {
    if context.identity.former().is_empty() {
        return;
    }
    match tokio::time::timeout(TELL_LIMIT, tell(context, address, device)).await {
        Ok(Ok(_)) => {}
        // Whatever it is, the call that follows says it better.
        Ok(Err(error)) => tracing::debug!(%address, %error, "could not tell of the new certificate"),
        Err(_) => tracing::debug!(%address, "could not tell of the new certificate in time"),
    }
}

/// Somebody with another certificate answers where `known` should: `known` with a new certificate, when its signing key says so.
/// Then that is remembered. `None` when it is somebody else.
///
/// # Errors
/// The disk's.
pub(crate) async fn recognise(
    context: &Context,
    known: &Trust,
    address: SocketAddr,
    found: Fingerprint,
) -> Result<Option<Trust>> {
    let client = Client::new(&context.identity, vec![address], Expect::Known(found))?;
    let (formerly, expected) = (formerly(&context.identity), Some(known.fingerprint));
    let asked = client.rotated(&Rotated { v: ROTATION_VERSION, formerly, expected }).await;
    let was = asked.ok().and_then(|answer| answer.was);
    let Some(was) = was.filter(|was| {
        was.fingerprint == known.fingerprint
            && is_proved(&known.signing_key, &known.fingerprint, &found, &was.signature)
    }) else {
        return Ok(None);
    };
    // What was acknowledged there stays remembered; the trust store comes last, so that a crash leaves the question open.
    let heads = context.heads()?;
    if let Some(repository) = heads.repository_at(&was.fingerprint)? {
        heads.save_repository_at(&found, repository)?;
    }
    hand_over::now_or_later(context, known, found, was.signature).await?;
    context.trust.rotate(&known.fingerprint, found)?;
    heads.forget(&known.fingerprint)?;
    tracing::warn!(
        alias = %known.alias,
        was = %known.fingerprint.short_code(),
        is = %found.short_code(),
        "a paired device has a new certificate, signed with its old key"
    );
    Ok(context.trust.find(&found))
}
