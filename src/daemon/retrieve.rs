//! A repository on another device or here, opened for reading: its snapshots checked, its chunks at hand.

use crate::backup::heads;
use crate::client::{Client, RemoteVault};
use crate::daemon::keep_alive::KeepAlive;
use crate::daemon::locate::Located;
use crate::daemon::{Context, Error, Result};
use crate::identity::trust::Trust;
use crate::model::{Alias, Fingerprint, Forgotten, Mark, OwnerEvent, RepositoryId, SessionId, SetName, SnapshotInfo};
use crate::monitor::Monitor;
use crate::platform::shutdown::Shutdown;
use crate::protocol::listing::RepositoryListing;
use crate::protocol::session::{PrepareDownload, SessionAnswer, SessionState};
use crate::restore;
use crate::restore::chain::{self, Break, Checked};
use crate::restore::select::Selection;
use crate::server::listing::advertised;
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
    /// What does not fit, in sentences; to be shouted.
    pub alarms: Vec<String>,
    /// What the holder knows about snapshots that have lost something.
    pub marks: Vec<Mark>,
    /// Snapshots of which only the record is there, because their data was not copied.
    pub not_copied: usize,
    session: Option<(Client, SessionId, KeepAlive)>,
}

impl<V> Opened<V> {
    /// The snapshot that is meant.
    ///
    /// # Errors
    /// None fits, or several do.
    pub fn find(&self, selection: &Selection, set: Option<&SetName>) -> Result<&Checked> {
        selection.find(&self.snapshots, set).map_err(|error| match error {
            restore::Error::Selection(text) if self.not_copied > 0 => restore::Error::Selection(format!(
                "{text}; of {} others only the record is here, because they were damaged where they were copied from, or not \
                 asked for: when `repair` there and `send` on their source have made them whole, `copy` brings them",
                self.not_copied
            ))
            .into(),
            error => error.into(),
        })
    }

    /// Ends the session at the other device.
    pub async fn close(&self) {
        if let Some((client, session, _)) = &self.session {
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
    shutdown: &Shutdown,
) -> Result<Opened<RemoteVault>> {
    let client = located.client(context)?;
    let own = of.is_none();
    let request = PrepareDownload { of, adopt, idempotency_key: None };
    let answer = client.prepare_download(&request).await?;
    let answer = opened(&client, answer, &located.alias, monitor, shutdown).await?;
    let alive = KeepAlive::start(&client, answer.session);
    let vault = Arc::new(RemoteVault::new(client.clone(), &answer)?);
    let id = vault.parameters().id;
    let listing = client.listing(Some(answer.session)).await?;
    let listed = listing.repositories.into_iter().find(|one| one.repository.id == id);
    let Some(listed) = listed else {
        return Err(crate::client::Error::NotUnderstood("without the repository it had opened".to_owned()).into());
    };
    let (snapshots, mut alarms) = checked(context, &listed, Holder::Other(located.fingerprint));
    if own {
        alarms.extend(rolled_back(context, located, &[(id, &listed.snapshots)])?);
    }
    let session = Some((client, answer.session, alive));
    let not_copied = count_not_copied(&listed.snapshots);
    let RepositoryListing { owner, alias, owner_log, damaged: marks, .. } = listed;
    Ok(Opened { vault, owner, alias, owner_log, snapshots, alarms, marks, not_copied, session })
}

/// Waits until a person has decided about a session that waits for one. When that is not to be, the session is ended, so that
/// the question does not stay on the other screen.
///
/// # Errors
/// Declined, or stopped.
pub async fn opened(
    client: &Client,
    answer: SessionAnswer,
    alias: &Alias,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<SessionAnswer> {
    if answer.state == SessionState::Open {
        return Ok(answer);
    }
    monitor.notice(format!("waiting for the person at {alias} to accept"));
    let decided = tokio::select! {
        decided = client.wait(answer.session, || {}) => decided.map_err(Error::from),
        () = shutdown.stopped() => Err(Error::Stopped),
    };
    if decided.is_err() {
        let _ = client.cancel(answer.session).await;
    }
    decided
}

/// Alarms when what this device has had acknowledged by the holder is not there any more. `listed` are this device's own
/// repositories there: one, or two when it has taken over another.
///
/// # Errors
/// The disk's.
pub fn rolled_back(
    context: &Context,
    located: &Located,
    listed: &[(RepositoryId, &[SnapshotInfo])],
) -> Result<Vec<String>> {
    let heads = context.heads()?;
    let mut alarms = Vec::new();
    if let Some(remembered) = heads.repository_at(&located.fingerprint)?
        && listed.iter().all(|(id, _)| *id != remembered)
    {
        alarms
            .push(format!("{} does not have the repository any more that this device has backed up to", located.alias));
    }
    for (id, snapshots) in listed {
        let remembered = heads.of_repository(*id)?;
        alarms.extend(remembered.iter().filter_map(|head| heads::check(head, snapshots).alarm()));
        // A holder that says so of what it has acknowledged has lost it, or got its store from a copy that has.
        let record_only =
            |info: &&SnapshotInfo| info.forgotten.as_ref().is_some_and(|mark: &Forgotten| mark.is_not_copied());
        for info in snapshots.iter().filter(record_only) {
            if let Some(head) = remembered.iter().find(|head| head.snapshot == info.id) {
                alarms.push(format!(
                    "set `{}`: of snapshot {}, which it has acknowledged to this device, {} has only the record and not the data",
                    head.set,
                    info.id.short(),
                    located.alias
                ));
            }
        }
    }
    Ok(alarms)
}

/// Opens a repository in the store of this device: that `of` a device, or the only one there is.
///
/// # Errors
/// None fits, or several do.
pub fn open_local(context: &Context, store: &Store, of: Option<&str>) -> Result<Opened<LocalVault>> {
    let fitting = of.map_or_else(|| store.find_all(), |text| store.find_matching(text))?;
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
    let listed = advertised(&repository)?;
    let (snapshots, mut alarms) = checked(context, &listed, Holder::This);
    alarms.extend(repository.unreadable_records()?);
    let not_copied = count_not_copied(&listed.snapshots);
    let RepositoryListing { owner, alias, owner_log, damaged: marks, .. } = listed;
    let vault = Arc::new(LocalVault::new(repository, context.identity.fingerprint()));
    Ok(Opened { vault, owner, alias, owner_log, snapshots, alarms, marks, not_copied, session: None })
}

fn count_not_copied(snapshots: &[SnapshotInfo]) -> usize {
    snapshots.iter().filter(|info| info.forgotten.as_ref().is_some_and(Forgotten::is_not_copied)).count()
}

/// Who says whose a repository is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This device: its owner logs are its own word.
    This,
    /// Another one, whose word is not enough: it could sign a snapshot itself and write its key into the log.
    Other(Fingerprint),
}

/// Checks a list of snapshots: what they say of themselves, and whose signatures they carry. What does not fit comes back in
/// sentences.
///
/// This device vouches for its own key and for those of devices it is paired with, the holder's excepted; on this device's own
/// store, for the owner log, too. What only another holder's owner log vouches for is marked so.
pub fn checked(context: &Context, listed: &RepositoryListing, holder: Holder) -> (Vec<Checked>, Vec<String>) {
    let RepositoryListing { repository, owner_log, snapshots, damaged, .. } = listed;
    let trusted = context.trust.list().into_iter().filter(|trust: &Trust| holder != Holder::Other(trust.fingerprint));
    let mut known: Vec<String> = trusted.map(|trust| trust.signing_key).collect();
    known.push(context.identity.signing_key().public());
    if holder == Holder::This {
        known.extend(owner_log.iter().map(|event| event.signer().to_owned()));
    }
    let (snapshots, breaks) = chain::check(repository.id, owner_log, &known, snapshots, damaged);
    (snapshots, breaks.iter().map(Break::to_string).collect())
}
