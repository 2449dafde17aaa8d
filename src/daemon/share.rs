//! What `share` shares: a plain folder or file, or a snapshot, kept here or on a device that lets this one read it.

use crate::client::RemoteVault;
use crate::daemon::locate::{Chooser, locate};
use crate::daemon::retrieve::{self, Opened};
use crate::daemon::service::open_store;
use crate::daemon::{Context, Error, Result};
use crate::model::SetName;
use crate::monitor::Monitor;
use crate::platform::shutdown::Shutdown;
use crate::restore::select::Selection;
use crate::server::share::folder::FolderTree;
use crate::server::share::snapshot::{SnapshotOptions, SnapshotTree};
use crate::server::share::tree::Tree;
use crate::vault::Vault;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// What is to be shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A folder or file of this machine.
    Folder(PathBuf),
    /// A snapshot, or a part of it.
    Snapshot(Selection),
}

impl FromStr for What {
    type Err = Error;

    /// What begins like a path is one, and so is what holds a slash before any colon; the rest names a snapshot.
    fn from_str(text: &str) -> Result<Self> {
        let first = text.split(':').next().unwrap_or_default();
        if first.contains('/') || matches!(text, "." | "..") {
            return Ok(Self::Folder(PathBuf::from(text)));
        }
        text.parse().map(Self::Snapshot).map_err(|error: crate::restore::Error| {
            Error::usage(
                error.to_string(),
                "a folder needs a slash: `./photos`; a snapshot is `latest` or the beginning of its id",
            )
        })
    }
}

/// Where a snapshot is looked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// `local`, or a device.
    pub device: String,
    /// Another device's backup there.
    pub of: Option<String>,
    /// Of this set.
    pub set: Option<SetName>,
    /// The store of this device.
    pub store: Option<PathBuf>,
}

/// Something that can be shared, and the session it needs at another device.
#[derive(Debug)]
pub struct Shared {
    /// What it is.
    pub tree: Arc<dyn Tree>,
    /// What does not fit in the history of the snapshot; to be shouted.
    pub alarms: Vec<String>,
    session: Option<Opened<RemoteVault>>,
}

impl Shared {
    /// Ends the session at the other device.
    pub async fn close(&self) {
        if let Some(session) = &self.session {
            session.close().await;
        }
    }
}

/// Finds what is to be shared.
///
/// # Errors
/// It is not there, or may not be read.
pub async fn open(
    context: &Context,
    what: &What,
    place: &Place,
    chooser: &mut dyn Chooser,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<Shared> {
    let selection = match what {
        What::Folder(path) => {
            let opened = FolderTree::open(path, monitor.clone()).map_err(|error| {
                Error::usage(format!("`{}` cannot be shared: {error}", path.display()), "name a folder or a file")
            })?;
            return Ok(Shared { tree: Arc::new(opened), alarms: Vec::new(), session: None });
        }
        What::Snapshot(selection) => selection,
    };
    if place.device == "local" {
        let (store, _) = open_store(context, place.store.clone()).await?;
        let opened = retrieve::open_local(context, &store, place.of.as_deref())?;
        let tree = tree(context, &opened, selection, place.set.as_ref(), monitor).await?;
        return Ok(Shared { tree, alarms: opened.alarms, session: None });
    }
    let located = locate(context, &place.device, chooser).await?;
    let opened = retrieve::open_remote(context, &located, place.of.clone(), false, monitor, shutdown).await?;
    match tree(context, &opened, selection, place.set.as_ref(), monitor).await {
        Ok(tree) => Ok(Shared { tree, alarms: opened.alarms.clone(), session: Some(opened) }),
        Err(error) => {
            opened.close().await;
            Err(error)
        }
    }
}

async fn tree<V: Vault>(
    context: &Context,
    opened: &Opened<V>,
    selection: &Selection,
    set: Option<&SetName>,
    monitor: &Arc<dyn Monitor>,
) -> Result<Arc<dyn Tree>> {
    let snapshot = opened.find(selection, set)?;
    let what = selection.path.as_ref().map_or_else(|| snapshot.record.set.to_string(), ToString::to_string);
    let when = snapshot.info.receipt.received_at.strftime("%Y-%m-%d");
    let options = SnapshotOptions {
        snapshot: snapshot.info.id,
        manifest: snapshot.record.manifest.clone(),
        path: selection.path.clone(),
        title: format!("{what} of {}, {when}", opened.alias),
        scratch: context.home.cache().to_owned(),
    };
    Ok(Arc::new(SnapshotTree::open(opened.vault.clone(), options, monitor.clone()).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_like_a_path_is_one_and_the_rest_is_a_snapshot() {
        for path in ["/srv", "./photos", "../x", ".", "photos/2024", "./a:b", "/a/b:c"] {
            assert_eq!(path.parse::<What>().unwrap(), What::Folder(path.into()), "{path}");
        }
        for snapshot in ["latest", "latest~2", "latest:Documents/letters", "1a2b3c", "1a2b3c:a/b", ":a/b"] {
            assert!(matches!(snapshot.parse::<What>(), Ok(What::Snapshot(_))), "{snapshot}");
        }
        let error = "photos".parse::<What>().unwrap_err();
        assert!(error.hint().unwrap().contains("./photos"), "{error}");
    }
}
