//! A repository on another device or here, opened for reading: its snapshots checked, its chunks at hand.

use crate::client::{Client, RemoteVault};
use crate::daemon::locate::Located;
use crate::daemon::{Context, Error, Result};
use crate::identity::trust::Trust;
use crate::model::{Alias, Fingerprint, OwnerEvent, RepositoryId, SessionId, SnapshotInfo};
use crate::monitor::Monitor;
use crate::protocol::session::{PrepareDownload, SessionState};
use crate::restore::chain::{self, Break, Checked};
use crate::store::{LocalVault, Store};
use crate::vault::Vault;
use std::sync::Arc;

/// A repository that can be read.
#[derive(Debug)]
pub struct Opened<V> {
    /// Its chunks.
    pub vault: Arc<V>,
    /// Who owns it now.
    pub owner: Fingerprint,
    /// What its owner calls itself.
    pub alias: Alias,
    /// How it came to its owner.
    pub owner_log: Vec<OwnerEvent>,
    /// Its snapshots, by set and sequence.
    pub snapshots: Vec<Checked>,
    /// What does not fit; to be shouted.
    pub breaks: Vec<Break>,
    session: Option<(Client, SessionId)>,
}

impl<V> Opened<V> {
    /// Ends the session at the other device.
    pub async fn close(&self) {
        if let Some((client, session)) = &self.session {
            let _ = client.cancel(*session).await;
        }
    }
}

/// Opens a repository on another device: this device's own, or that `of` another. The holder's person may be asked.
///
/// # Errors
/// Not paired, declined, no such repository.
pub async fn open_remote(
    context: &Context,
    located: &Located,
    of: Option<String>,
    adopt: bool,
    monitor: &Arc<dyn Monitor>,
) -> Result<Opened<RemoteVault>> {
    let client = located.client(context)?;
    let request = PrepareDownload { of, adopt, idempotency_key: None };
    let mut answer = client.prepare_download(&request).await?;
    if answer.state == SessionState::Waiting {
        monitor.notice(format!("waiting for the person at {} to accept", located.alias));
        answer = client.wait(answer.session, || {}).await?;
    }
    let vault = Arc::new(RemoteVault::new(client.clone(), &answer)?);
    let id = vault.parameters().id;
    let listing = client.listing(Some(answer.session)).await?;
    let listed = listing.repositories.into_iter().find(|one| one.repository.id == id);
    let Some(listed) = listed else {
        return Err(crate::client::Error::NotUnderstood("without the repository it had opened".to_owned()).into());
    };
    let (snapshots, breaks) = checked(context, id, &listed.owner_log, &listed.snapshots);
    let session = Some((client, answer.session));
    let (owner, alias, owner_log) = (listed.owner, listed.alias, listed.owner_log);
    Ok(Opened { vault, owner, alias, owner_log, snapshots, breaks, session })
}

/// Opens a repository in the store of this device: that `of` a device, or the only one there is.
///
/// # Errors
/// None fits, or several do.
pub fn open_local(context: &Context, store: &Store, of: Option<&str>) -> Result<Opened<LocalVault>> {
    let fitting = of.map_or_else(|| store.repositories(), |text| store.matching(text));
    let repository = match fitting.as_slice() {
        [one] => one.clone(),
        [] => {
            let message = of.map_or("no device has backed up to this one".to_owned(), |of| {
                format!("no device `{of}` has backed up here")
            });
            return Err(Error::usage(message, "`lan-backup snapshots` lists what is kept here"));
        }
        several => {
            let names: Vec<_> =
                several.iter().map(|one| format!("{} ({})", one.alias(), one.owner().short_code())).collect();
            let message = format!("several devices have backed up here: {}", names.join(", "));
            return Err(Error::usage(message, "say whose backup is meant with --of ALIAS"));
        }
    };
    let (owner, alias, owner_log) = (repository.owner(), repository.alias(), repository.owner_log());
    let (snapshots, breaks) = checked(context, repository.id(), &owner_log, &repository.snapshots()?);
    let vault = Arc::new(LocalVault::new(repository, context.identity.fingerprint()));
    Ok(Opened { vault, owner, alias, owner_log, snapshots, breaks, session: None })
}

/// Checks a list of snapshots against the owner log and the keys this device knows for itself.
pub fn checked(
    context: &Context,
    repository: RepositoryId,
    owner_log: &[OwnerEvent],
    listed: &[SnapshotInfo],
) -> (Vec<Checked>, Vec<Break>) {
    let mut known: Vec<String> = context.trust.list().into_iter().map(|trust: Trust| trust.signing_key).collect();
    known.push(context.identity.signing_key().public());
    chain::check(repository, owner_log, &known, listed)
}
