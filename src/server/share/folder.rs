//! A plain folder, or one file of it, as it is on the disk while it is shared.
//!
//! Everything is opened one checked name at a time below the folder that was named ([`RootDir`]), so no link and no swap of a folder
//! for a link leads out of it.

use crate::model::{Content, Entry, EntryKind, Metadata, Name, RelPath};
use crate::monitor::Monitor;
use crate::platform::attributes;
use crate::platform::fs::{File, Metadata as FileMetadata, read_exactly};
use crate::platform::root_dir::{self, RootDir};
use crate::platform::shutdown::Shutdown;
use crate::restore::action::{Action, Planned};
use crate::restore::target::Target;
use crate::restore::zip_target::ZipTarget;
use crate::server::share::pipe::Pipe;
use crate::server::share::tree::{Held, Item, Kind, Result, Tree};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// A folder that is held open.
#[derive(Clone, Debug)]
pub struct FolderTree {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: RootDir,
    // Only this, when one file is shared.
    only: Option<Name>,
    title: String,
    monitor: Arc<dyn Monitor>,
}

impl FolderTree {
    /// Shares the folder or file that a person named; links in this path are followed, it is theirs.
    ///
    /// # Errors
    /// It is not there, or neither a folder nor a file.
    pub fn open(path: &Path, monitor: Arc<dyn Monitor>) -> io::Result<Self> {
        let path = crate::platform::fs::canonicalize(path).map_err(|error| error.source)?;
        let title = path.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned());
        let (root, only) = match RootDir::open(&path) {
            Ok(root) => (root, None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let name = path.file_name().map(attributes::bytes_of).unwrap_or_default();
                let name = Name::new(name).map_err(io::Error::other)?;
                let folder = RootDir::open(path.parent().unwrap_or(Path::new("/")))?;
                folder.open_file(&name)?;
                (folder, Some(name))
            }
            Err(error) => return Err(error),
        };
        Ok(Self { inner: Arc::new(Inner { root, only, title, monitor }) })
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error).into()))
    }
}

impl Inner {
    /// The folder in which `path` lies, opened component by component.
    fn parent_of(&self, path: &RelPath) -> io::Result<RootDir> {
        if self.only.as_ref().is_some_and(|only| *path != RelPath::from_name(only)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        path.parent().map_or_else(|| RootDir::open_again(&self.root), |parent| self.descend(&parent))
    }

    fn descend(&self, folder: &RelPath) -> io::Result<RootDir> {
        let mut at = RootDir::open_again(&self.root)?;
        for component in folder.components() {
            at = at.open_folder(&Name::new(component).map_err(io::Error::other)?)?;
        }
        Ok(at)
    }

    fn folder(&self, folder: Option<&RelPath>) -> io::Result<RootDir> {
        match folder {
            None => RootDir::open_again(&self.root),
            Some(_) if self.only.is_some() => Err(io::ErrorKind::NotFound.into()),
            Some(folder) => self.descend(folder),
        }
    }

    /// The names in a folder, sorted.
    fn names(&self, folder: &RootDir, at_top: bool) -> io::Result<Vec<Name>> {
        if let Some(only) = self.only.as_ref().filter(|_| at_top) {
            return Ok(vec![only.clone()]);
        }
        let mut names = folder.names()?;
        names.sort_unstable();
        Ok(names)
    }

    /// All files below a folder, in path order; `false` when `each` wants no more.
    fn walk(
        &self,
        folder: &RootDir,
        path: Option<&RelPath>,
        each: &mut dyn FnMut(&RootDir, &Item) -> Result<bool>,
    ) -> Result<bool> {
        for name in self.names(folder, path.is_none())? {
            // What is to be whole does not leave out what lies too deep to have a path.
            if let Some(path) = path {
                path.join(&name).map_err(|error| at(path, &io::Error::other(error)))?;
            }
            let Some(item) = item(folder, path, &name)? else { continue };
            if !each(folder, &item)? {
                return Ok(false);
            }
            if item.kind == Kind::Folder {
                // One that may not be read, or that became something else just now, ends what is to be whole.
                let below = folder.open_folder(&name).map_err(|error| at(&item.path, &error))?;
                if !self.walk(&below, Some(&item.path), each)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// What is under a name; nothing when it is gone meanwhile, or too deep.
fn item(folder: &RootDir, path: Option<&RelPath>, name: &Name) -> io::Result<Option<Item>> {
    let Some(path) = path.map_or_else(|| Some(RelPath::from_name(name)), |path| path.join(name).ok()) else {
        return Ok(None);
    };
    let Some(found) = folder.look_at(name)? else { return Ok(None) };
    let kind = match () {
        () if found.is_dir() => Kind::Folder,
        () if found.is_file() => Kind::File(found.len()),
        () => Kind::Other,
    };
    Ok(Some(Item { path, kind, mtime: Some(root_dir::modified(&found)), sha256: None }))
}

/// The error with the place where it happened, for the person who shares.
fn at(path: &RelPath, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{path}`: {error}"))
}

fn tag(metadata: &FileMetadata) -> String {
    let (inode, time) = (attributes::inode(metadata), attributes::changed(metadata).as_nanos());
    format!("\"{inode:x}-{:x}-{time:x}\"", metadata.len())
}

/// Reads what was promised.
fn read(mut file: File, range: &Range<u64>, sink: &mpsc::Sender<Bytes>) -> io::Result<()> {
    file.seek(SeekFrom::Start(range.start))?;
    let each = |piece: Vec<u8>| sink.blocking_send(piece.into()).is_ok();
    read_exactly(&mut file, range.end - range.start, READ_BYTES, each)
}

impl Tree for FolderTree {
    fn title(&self) -> String {
        self.inner.title.clone()
    }

    fn look(&self, path: RelPath) -> BoxFuture<'_, Result<Option<Item>>> {
        Box::pin(self.run(move |inner| {
            let folder = inner.parent_of(&path)?;
            Ok(item(&folder, path.parent().as_ref(), &path.name())?)
        }))
    }

    fn list(&self, path: Option<RelPath>, after: Option<Name>, count: usize) -> BoxFuture<'_, Result<Vec<Item>>> {
        Box::pin(self.run(move |inner| {
            let folder = inner.folder(path.as_ref())?;
            let mut items = Vec::new();
            for name in inner.names(&folder, path.is_none())? {
                if after.as_ref().is_some_and(|after| name <= *after) {
                    continue;
                }
                items.extend(item(&folder, path.as_ref(), &name)?);
                if items.len() == count {
                    break;
                }
            }
            Ok(items)
        }))
    }

    fn files(&self, most: usize) -> BoxFuture<'_, Result<Option<Vec<Item>>>> {
        Box::pin(self.run(move |inner| {
            let mut files = Vec::new();
            let all = inner.walk(&inner.folder(None)?, None, &mut |_, item| {
                if matches!(item.kind, Kind::File(_)) {
                    files.push(item.clone());
                }
                Ok(files.len() <= most)
            })?;
            Ok(all.then_some(files))
        }))
    }

    fn open(&self, path: RelPath) -> BoxFuture<'_, Result<Option<Held>>> {
        Box::pin(self.run(move |inner| {
            let file = inner.parent_of(&path)?.open_file(&path.name())?;
            let metadata = file.metadata()?;
            let read = move |range: Range<u64>, sink: mpsc::Sender<Bytes>| -> BoxFuture<'static, Result<()>> {
                Box::pin(async move {
                    let reading = tokio::task::spawn_blocking(move || read(file, &range, &sink));
                    Ok(reading.await.map_err(io::Error::other)??)
                })
            };
            Ok(Some(Held { size: metadata.len(), tag: tag(&metadata), read: Box::new(read) }))
        }))
    }

    fn zip(&self, path: Option<RelPath>, pipe: Pipe, stop: Shutdown) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.run(move |inner| {
            let top = inner.folder(path.as_ref())?;
            let mut zip = ZipTarget::stream(pipe, inner.monitor.clone(), stop);
            inner.walk(&top, path.as_ref(), &mut |folder, item| {
                add(&mut zip, folder, item, path.as_ref()).map_err(|error| at(&item.path, &error))?;
                Ok(true)
            })?;
            Ok(zip.finish()?)
        }))
    }
}

/// One thing into the zip, under its path below the folder that is packed.
fn add(zip: &mut impl Target, folder: &RootDir, item: &Item, top: Option<&RelPath>) -> io::Result<()> {
    let name = item.path.name();
    let below = top.and_then(|top| item.path.strip_prefix(top));
    let path = below.unwrap_or_else(|| item.path.clone());
    let planned = |kind, mode| {
        let metadata = Metadata { mtime: item.mtime, mode, ..Metadata::default() };
        Planned { action: Action::Create, entry: Entry { path, kind, metadata } }
    };
    match item.kind {
        Kind::Folder => zip.folder(&planned(EntryKind::Folder, None))?,
        Kind::Other => {
            // A socket, a pipe, a device: no zip holds these.
            if let Ok(target) = folder.read_link(&name) {
                zip.settle(&planned(EntryKind::Link { target }, None))?;
            }
        }
        Kind::File(_) => {
            let mut file = folder.open_file(&name)?;
            let metadata = file.metadata()?;
            let content = Some(Content::Inline(Vec::new()));
            let kind = EntryKind::File { size: metadata.len(), content, link_group: None };
            zip.begin(&planned(kind, Some(attributes::permissions(&metadata))))?;
            let mut piece = vec![0; READ_BYTES];
            loop {
                let count = file.read(&mut piece)?;
                if count == 0 {
                    break;
                }
                zip.write(&piece[..count])?;
            }
            zip.end()?;
        }
    }
    Ok(())
}
