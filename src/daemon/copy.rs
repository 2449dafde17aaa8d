//! A copy of what one place keeps at another: a store on this device, a store in a folder (on a USB disk), another device.
//!
//! Whoever types `copy` between two stores of his own machine has two stores then, each as good as the other. What another device
//! brings, or what is fetched from one, is marked as a copy: its owner's word is not this device's own (`store/copies.rs`).

use crate::client::RemoteVault;
use crate::copy::{self, Report};
use crate::daemon::keep_alive::KeepAlive;
use crate::daemon::locate::{Chooser, Located, locate};
use crate::daemon::retrieve::{self, Opened};
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error, Result};
use crate::model::{Alias, Fingerprint, RepositoryId, SetName, SnapshotId};
use crate::monitor::{Fault, Monitor};
use crate::platform::shutdown::Shutdown;
use crate::protocol::session::PrepareCopy;
use crate::restore::select::Selection;
use crate::store::layout::STORE_FILE;
use crate::store::{LocalVault, Store};
use crate::vault::Vault;
use std::collections::HashSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Where backups are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The store of this device.
    Local,
    /// A store in this folder.
    Folder(PathBuf),
    /// Another device.
    Device(String),
}

impl FromStr for Place {
    type Err = Infallible;

    /// `local`; what holds a slash is a folder; anything else is a device.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "local" => Self::Local,
            "." | ".." => Self::Folder(text.into()),
            text if text.contains('/') => Self::Folder(text.into()),
            text => Self::Device(text.to_owned()),
        })
    }
}

/// What is to be copied.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Where it is.
    pub from: Place,
    /// Where it is wanted.
    pub to: Place,
    /// The store of this device, when that is not the usual one.
    pub store: Option<PathBuf>,
    /// Whose backup; all of a store otherwise, and of a device this device's own.
    pub of: Option<String>,
    /// Every backup that the other device lets this one read.
    pub all: bool,
    /// Only this set.
    pub set: Option<SetName>,
    /// Only these snapshots; all otherwise.
    pub snapshots: Vec<Selection>,
}

/// One backup that was copied.
#[derive(Debug)]
pub struct Copied {
    /// Whose it is.
    pub alias: Alias,
    /// Which repository.
    pub repository: RepositoryId,
    /// What was done.
    pub report: Report,
}

enum End {
    Store(Store),
    Device(Box<Located>),
}

/// Copies, and tells `each` what was copied, one repository after the other.
///
/// # Errors
/// Whatever concerns the copy as a whole; a snapshot that is damaged at its source is a fault.
pub async fn copy(
    context: &Context,
    options: &CopyOptions,
    chooser: &mut dyn Chooser,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
    mut each: impl FnMut(Copied),
) -> Result<()> {
    if options.snapshots.iter().any(|selection| selection.path.is_some()) {
        return Err(Error::usage(
            "a copy is of whole snapshots",
            "leave out `:PATH`; `restore` gets parts of a snapshot",
        ));
    }
    let from = source(context, options, chooser).await?;
    let to = target(context, options, chooser).await?;
    match (&from, &to) {
        (End::Store(one), End::Store(other)) if one.id() == other.id() => {
            return Err(Error::usage("both are the same store", "name another folder, or another device"));
        }
        (End::Device(one), End::Device(other)) if one.fingerprint == other.fingerprint => {
            return Err(Error::usage("both are the same device", "name another device, or a folder"));
        }
        _ => {}
    }
    let job = Job { context, options, to: &to, monitor, shutdown };
    match &from {
        End::Store(store) => {
            let of: Vec<String> = match &options.of {
                Some(of) => vec![of.clone()],
                None => store.find_all()?.iter().map(|repository| repository.id().to_string()).collect(),
            };
            if options.of.is_none() {
                for unusable in store.unusable().values() {
                    let problem = format!("not copied, because `{}` is damaged: {}", unusable.path, unusable.problem);
                    monitor.fault(Fault { subject: unusable.holds(), problem });
                }
            }
            for of in of {
                let opened = retrieve::open_local(context, store, Some(&of))?;
                // A copy stays one, wherever it is copied to.
                let brought_by = opened.vault.repository().copied_from();
                each(job.repository(&opened, brought_by).await?);
            }
        }
        End::Device(located) => {
            let of: Vec<Option<String>> = if options.all {
                let listing = located.client(context)?.listing(None).await?;
                listing.repositories.iter().map(|listed| Some(listed.repository.id.to_string())).collect()
            } else {
                vec![options.of.clone()]
            };
            for of in of {
                let opened = retrieve::open_remote(context, located, of, false, monitor, shutdown).await?;
                let copied = job.repository(&opened, Some(located.fingerprint)).await;
                opened.close().await;
                each(copied?);
            }
        }
    }
    Ok(())
}

async fn source(context: &Context, options: &CopyOptions, chooser: &mut dyn Chooser) -> Result<End> {
    Ok(match &options.from {
        Place::Local => End::Store(open_store(context, options.store.clone()).await?.0),
        Place::Folder(folder) => {
            if crate::platform::fs::metadata_if_there(&folder.join(STORE_FILE))?.is_none() {
                let message = format!("there is no store in `{}`", folder.display());
                return Err(Error::usage(message, "a store is a folder with a `store.json` in it"));
            }
            End::Store(open_store(context, Some(folder.clone())).await?.0)
        }
        Place::Device(name) => End::Device(Box::new(locate(context, name, chooser).await?)),
    })
}

async fn target(context: &Context, options: &CopyOptions, chooser: &mut dyn Chooser) -> Result<End> {
    let folder = match &options.to {
        Place::Device(name) => return Ok(End::Device(Box::new(locate(context, name, chooser).await?))),
        Place::Local => match open_store(context, options.store.clone()).await {
            Err(Error::Usage { .. }) => context.store_folder(options.store.clone()),
            opened => return Ok(End::Store(opened?.0)),
        },
        Place::Folder(folder) => folder.clone(),
    };
    let (clock, signer) = (context.clock.clone(), context.identity.signing_key().clone());
    let opening = tokio::task::spawn_blocking(move || Store::open_or_create(&folder, clock, signer));
    Ok(End::Store(opening.await.map_err(|_| Error::Stopped)??.0))
}

/// What holds for all repositories of one copy.
struct Job<'a> {
    context: &'a Context,
    options: &'a CopyOptions,
    to: &'a End,
    monitor: &'a Arc<dyn Monitor>,
    shutdown: &'a Shutdown,
}

impl Job<'_> {
    async fn repository<A: Vault>(&self, opened: &Opened<A>, brought_by: Option<Fingerprint>) -> Result<Copied> {
        for problem in &opened.alarms {
            self.monitor.fault(Fault::alarm(problem));
        }
        let parameters = opened.vault.parameters();
        let report = match self.to {
            End::Store(store) => {
                let (store, events) = (store.clone(), opened.owner_log.clone());
                let opening = tokio::task::spawn_blocking(move || store.open_copy(parameters, &events, brought_by));
                let repository = opening.await.map_err(|_| Error::Stopped)??;
                let own = self.context.identity.fingerprint();
                let report = self.carry(opened, Arc::new(LocalVault::new(repository.clone(), own))).await?;
                if !report.partly.is_empty() {
                    let shutdown = self.shutdown.clone();
                    let naming = tokio::task::spawn_blocking(move || repository.name_losses(&shutdown));
                    naming.await.map_err(|_| Error::Stopped)??;
                }
                report
            }
            End::Device(located) => {
                let client = located.client(self.context)?;
                let request = PrepareCopy { repository: parameters, owner_log: opened.owner_log.clone() };
                let answer = client.prepare_copy(&request).await?;
                let session = answer.session;
                let _alive = KeepAlive::start(&client, session);
                let vault = Arc::new(RemoteVault::new(client.clone(), &answer)?);
                let report = self.carry(opened, vault).await;
                let _ = client.cancel(session).await;
                report?
            }
        };
        Ok(Copied { alias: opened.alias.clone(), repository: parameters.id, report })
    }

    async fn carry<A: Vault, B: Vault>(&self, opened: &Opened<A>, to: Arc<B>) -> Result<Report> {
        let set = self.options.set.as_ref();
        let chosen: Option<HashSet<SnapshotId>> = if self.options.snapshots.is_empty() {
            None
        } else {
            let find = |selection: &Selection| Ok(opened.find(selection, set)?.info.id);
            Some(self.options.snapshots.iter().map(find).collect::<Result<_>>()?)
        };
        let set = set.cloned();
        let wanted = move |info: &crate::model::SnapshotInfo, record: &crate::model::Record| {
            set.as_ref().is_none_or(|set| record.set == *set)
                && chosen.as_ref().is_none_or(|chosen| chosen.contains(&info.id))
        };
        let copying = copy::run(opened.vault.clone(), to, wanted, self.monitor.clone(), self.shutdown.clone());
        tokio::select! {
            copied = copying => Ok(copied?),
            () = self.shutdown.stopped() => Err(Error::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_this_device_a_folder_or_another_device() {
        let place = |text: &str| text.parse::<Place>().unwrap();
        assert_eq!(place("local"), Place::Local);
        for folder in ["/media/usb", "./x", "usb/", "."] {
            assert_eq!(place(folder), Place::Folder(folder.into()));
        }
        for device in ["nas", "192.168.1.7:53317", "K7QM-2XRT", "Local"] {
            assert_eq!(place(device), Place::Device(device.to_owned()));
        }
    }
}
