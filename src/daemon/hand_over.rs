//! What the store here keeps of a device goes with it to its new certificate, at once or as soon as the store can be opened.
//!
//! Whoever recognises a device by its new certificate must not depend on the store here: a damaged `store.json`, or a disk that is not
//! plugged in, would keep this device from backing up there. What could not be handed over is written down, with the proof, and done
//! when the store is opened the next time. Doing it twice changes nothing.

use crate::daemon::service::is_store;
use crate::daemon::{Context, Error, Result};
use crate::identity::trust::Trust;
use crate::model::Fingerprint;
use crate::platform;
use crate::platform::durable::{self, Access};
use crate::platform::lock::Lock;
use crate::server;
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Hand-overs that are written down; the oldest go first. Each is one new certificate of a paired device.
const MAX_PENDING: usize = 1000;

/// A hand-over that waits for the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pending {
    /// The device as it was known before.
    known: Trust,
    /// Its new certificate.
    new: Fingerprint,
    /// The old key's word for it.
    signature: String,
}

/// Hands over, or writes down that it is to be done.
///
/// # Errors
/// It can be neither done nor written down.
pub(crate) async fn now_or_later(context: &Context, known: &Trust, new: Fingerprint, signature: String) -> Result<()> {
    let folder = context.store_folder(None);
    // Nothing was ever kept in the usual place; one that the settings name may be on a disk that is not there now.
    if !is_store(&folder)? && context.settings.store.is_none() {
        return Ok(());
    }
    let (context, pending) = (context.clone(), Pending { known: known.clone(), new, signature });
    let work = move || match hand_over(&context, &folder, &pending) {
        Ok(true) => Ok(()),
        Ok(false) => write_down(&context, pending),
        Err(error) => {
            let device = pending.new.short_code();
            tracing::warn!(%device, error = &error as &dyn std::error::Error, "what is kept of a device goes with it to its new certificate later");
            write_down(&context, pending)
        }
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}

/// Does what was written down, now that the store is open. What still cannot be done stays written down. Blocking.
pub(crate) fn catch_up(context: &Context, store: &Store) {
    let caught_up = || -> Result<()> {
        if store.folder() != context.store_folder(None) {
            return Ok(());
        }
        let path = path(context);
        if platform::fs::metadata_if_there(&path)?.is_none() {
            return Ok(());
        }
        let _locked = Lock::exclusive(&path.with_extension("lock"))?;
        let mut left = Vec::new();
        for pending in read(&path)? {
            if !in_store(context, store, &pending)? {
                left.push(pending);
            }
        }
        save(&path, &left)
    };
    if let Err(error) = caught_up() {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "what is kept of a device does not go with it to its new certificate yet"
        );
    }
}

fn hand_over(context: &Context, folder: &Path, pending: &Pending) -> Result<bool> {
    // Opening would make one where a disk is not there.
    if !is_store(folder)? {
        return Ok(false);
    }
    let key = context.identity.signing_key().clone();
    let (store, _) = Store::open_or_create(folder, context.clock.clone(), key)?;
    in_store(context, &store, pending)
}

/// Whether it is done for good: a repository that cannot be used now may be one of those that go with the device.
fn in_store(context: &Context, store: &Store, pending: &Pending) -> Result<bool> {
    // Mends what one flipped bit keeps from being used.
    let all = store.find_all();
    server::hand_over(store, &pending.known, pending.new, &pending.signature, context.clock.now())?;
    Ok(all.is_ok() && store.unusable().is_empty())
}

fn path(context: &Context) -> PathBuf {
    context.home.state().join("hand-overs.json")
}

fn write_down(context: &Context, pending: Pending) -> Result<()> {
    platform::fs::create_private_dir_all(&context.home.state())?;
    let path = path(context);
    let _locked = Lock::exclusive(&path.with_extension("lock"))?;
    let mut all = read(&path)?;
    all.retain(|other| (other.known.fingerprint, other.new) != (pending.known.fingerprint, pending.new));
    all.push(pending);
    let surplus = all.len().saturating_sub(MAX_PENDING);
    all.drain(..surplus);
    save(&path, &all)
}

/// In the order in which they came: a device may have had several new certificates meanwhile.
fn read(path: &Path) -> Result<Vec<Pending>> {
    let Some(bytes) = platform::fs::read_if_there(path)? else { return Ok(Vec::new()) };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        tracing::error!(path = %path.display(), %error, "what was to be handed over cannot be read");
        Vec::new()
    }))
}

fn save(path: &Path, all: &[Pending]) -> Result<()> {
    if all.is_empty() {
        return Ok(platform::fs::remove_file(path)?);
    }
    let bytes = serde_json::to_vec_pretty(all).expect("a hand-over has only string keys");
    Ok(durable::save(path, Access::Private, &bytes)?)
}
