//! What goes to a phone: files of this machine, a zip of them, or files of a snapshot, each with what an offer says of it.
//!
//! Files are offered without their hash unless it is known already: to hash first would mean to read everything twice, even what the
//! other side has. The connection keeps the bytes right, and a length that is wrong is refused.

use crate::backup::Roots;
use crate::backup::filter::{Filter, FilterOptions};
use crate::backup::walk::Walk;
use crate::daemon::{Error, Result};
use crate::model::{Content, Entry, EntryKind, FileTime, Metadata, RelPath};
use crate::monitor::{Counter, Fault, Monitor};
use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use crate::platform::{attributes, fs};
use crate::protocol::localsend::MAX_FILES;
use crate::restore::action::{Action, Planned};
use crate::restore::select::Include;
use crate::restore::target::{FileWriter, Target};
use crate::restore::zip_target::ZipTarget;
use crate::server::share::tree::{Item, Kind, Tree};
use bytes::Bytes;
use std::error::Error as StdError;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// How files are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Each by itself.
    Files,
    /// All in one zip, which is written to this disk first: an offer names its length.
    Zip,
}

/// One file that is offered.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) source: Source,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<FileTime>,
    pub(crate) sha256: Option<String>,
}

/// Where its bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// On this machine.
    File(PathBuf),
    /// In a snapshot.
    Kept(Arc<dyn Tree>, RelPath),
}

impl Outgoing {
    /// For people.
    pub(crate) fn subject(&self) -> String {
        match &self.source {
            Source::File(path) => path.display().to_string(),
            Source::Kept(_, path) => path.to_string(),
        }
    }
}

/// Gives the bytes of a file, exactly as many as were offered: what has another length now changed, and is not sent as whole.
///
/// # Errors
/// The disk's, or the vault's.
pub(crate) async fn read(
    file: Outgoing,
    pieces: mpsc::Sender<Bytes>,
    monitor: Arc<dyn Monitor>,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let (tree, path) = match file.source {
        Source::File(path) => {
            let reading = move || read_from_disk(&path, file.size, &pieces, &*monitor);
            return Ok(tokio::task::spawn_blocking(reading).await??);
        }
        Source::Kept(tree, path) => (tree, path),
    };
    let held = tree.open(path).await?.ok_or("it is not in the snapshot")?;
    let (sink, mut taken) = mpsc::channel::<Bytes>(1);
    let passing = async move {
        while let Some(piece) = taken.recv().await {
            monitor.count(Counter::Bytes, piece.len() as u64);
            // The connection ended; the call says why.
            if pieces.send(piece).await.is_err() {
                return;
            }
        }
    };
    let (read, ()) = tokio::join!((held.read)(0..file.size, sink), passing);
    Ok(read?)
}

fn read_from_disk(source: &Path, size: u64, pieces: &mpsc::Sender<Bytes>, monitor: &dyn Monitor) -> io::Result<()> {
    let mut file = fs::open_no_follow(source).map_err(|error| error.source)?;
    fs::read_exactly(&mut file, size, PIECE, |piece| {
        monitor.count(Counter::Bytes, piece.len() as u64);
        // The connection ended; the call says why.
        pieces.blocking_send(piece.into()).is_ok()
    })
}

/// Apps show pictures as pictures and put them into the gallery.
pub(crate) fn file_type(name: &str) -> &'static str {
    let extension = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "mp4" | "m4v" => "video/mp4",
        "mov" => "video/quicktime",
        "mp3" => "audio/mpeg",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "apk" => "application/vnd.android.package-archive",
        _ => "application/octet-stream",
    }
}

/// Gives every regular file below `paths` with its name in the set; what LocalSend has no word for is named.
fn each_file(
    paths: &[PathBuf],
    filter: &FilterOptions,
    clock: &dyn Clock,
    monitor: &dyn Monitor,
    mut each: impl FnMut(PathBuf, RelPath, &fs::Metadata) -> Result<()>,
) -> Result<()> {
    let roots = Roots::resolve(paths)?;
    let filter = Filter::new(filter)?;
    for found in Walk::new(&roots, &filter, clock, monitor) {
        if found.metadata.is_file() {
            each(found.source, found.path, &found.metadata)?;
        } else if !found.metadata.is_dir() {
            let problem = "is no regular file, and LocalSend sends nothing else".to_owned();
            monitor.fault(Fault { subject: found.source.display().to_string(), problem });
        }
    }
    Ok(())
}

/// The name as LocalSend carries it; why not, otherwise.
fn name_of(path: &RelPath) -> Result<String, &'static str> {
    let name = String::from_utf8(path.as_bytes().to_vec())
        .map_err(|_| "has a name that is not UTF-8, which LocalSend cannot carry")?;
    if name.contains('\\') { Err("has a backslash in its name, which LocalSend apps refuse") } else { Ok(name) }
}

fn too_many() -> Error {
    let message = format!("more than {MAX_FILES} files are too many for one transfer to a LocalSend app");
    Error::usage(message, "send them in parts, or as one file: `send --zip`, `restore --zip`")
}

/// The files below `paths`.
pub(crate) fn collect(
    paths: &[PathBuf],
    filter: &FilterOptions,
    clock: &dyn Clock,
    monitor: &dyn Monitor,
) -> Result<Vec<Outgoing>> {
    let mut files = Vec::new();
    each_file(paths, filter, clock, monitor, |source, path, metadata| {
        match name_of(&path) {
            Ok(name) => {
                let (size, modified) = (metadata.len(), Some(attributes::modified(metadata)));
                files.push(Outgoing { source: Source::File(source), name, size, modified, sha256: None });
            }
            Err(problem) => {
                monitor.fault(Fault { subject: source.display().to_string(), problem: problem.to_owned() });
            }
        }
        if files.len() > MAX_FILES { Err(too_many()) } else { Ok(()) }
    })?;
    if files.is_empty() {
        return Err(Error::usage("there is no file to send", "name a file, or a folder with files in it"));
    }
    Ok(files)
}

/// The files below `paths` in a zip in `folder`. One that cannot be read to its end is left out and named.
pub(crate) fn pack(
    paths: &[PathBuf],
    filter: &FilterOptions,
    folder: &Path,
    clock: &dyn Clock,
    monitor: &Arc<dyn Monitor>,
    stop: &Shutdown,
) -> Result<Outgoing> {
    let roots = Roots::resolve(paths)?;
    let first = roots.iter().next().map(|(name, _)| name.to_string()).unwrap_or_default();
    let name = match paths.len() {
        1 => format!("{first}.zip"),
        several => format!("{first} and {} more.zip", several - 1),
    };
    let path = folder.join("zip");
    let mut zip = ZipTarget::new(&path, monitor.clone())?;
    let mut any = false;
    each_file(paths, filter, clock, &**monitor, |source, path, metadata| {
        if stop.is_stopped() {
            return Err(Error::Stopped);
        }
        match add(&mut zip, &source, path, metadata) {
            Ok(()) => any = true,
            Err(error) if crate::restore::write::is_full(&error) => {
                return Err(crate::restore::Error::Target(error).into());
            }
            Err(error) => {
                zip.abandon();
                monitor.fault(Fault::new(source.display().to_string(), &error));
            }
        }
        Ok(())
    })?;
    if !any {
        return Err(Error::usage("there is no file to send", "name a file, or a folder with files in it"));
    }
    zip.finish().map_err(crate::restore::Error::Target)?;
    let size = fs::metadata(&path)?.len();
    Ok(Outgoing { source: Source::File(path), name, size, modified: None, sha256: None })
}

fn add(zip: &mut impl Target, source: &Path, path: RelPath, metadata: &fs::Metadata) -> io::Result<()> {
    let mut file = fs::open_no_follow(source).map_err(|error| error.source)?;
    let content = Some(Content::Inline(Vec::new()));
    let kind = EntryKind::File { size: metadata.len(), content, link_group: None };
    let mode = Some(attributes::permissions(metadata));
    let metadata = Metadata { mtime: Some(attributes::modified(metadata)), mode, ..Metadata::default() };
    zip.begin(&Planned { action: Action::Create, entry: Entry { path, kind, metadata } })?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return zip.end(),
            count => zip.write(&piece[..count])?,
        }
    }
}

/// The files of a snapshot that are wanted.
pub(crate) async fn choose(tree: &Arc<dyn Tree>, include: &Include, monitor: &dyn Monitor) -> Result<Vec<Outgoing>> {
    let failed =
        |error| Error::Vault(crate::vault::Error::Failed("the snapshot cannot be read".into(), Some(Box::new(error))));
    let items = tree.files(MAX_FILES).await.map_err(failed)?.ok_or_else(too_many)?;
    let mut files = Vec::new();
    for Item { path, kind, mtime, sha256 } in items {
        let Kind::File(size) = kind else { continue };
        if !include.wants(&path) {
            continue;
        }
        match name_of(&path) {
            Ok(name) => {
                let (modified, sha256) = (mtime, sha256.map(|hash| hash.to_string()));
                files.push(Outgoing { source: Source::Kept(tree.clone(), path), name, size, modified, sha256 });
            }
            Err(problem) => monitor.fault(Fault { subject: path.to_string(), problem: problem.to_owned() }),
        }
    }
    if files.is_empty() {
        return Err(
            crate::restore::Error::Selection("nothing in the snapshot fits what was asked for".to_owned()).into()
        );
    }
    Ok(files)
}
