//! The plan of a restore: what will be written where, what is there already, what is in the way. Printable, on disk, and free of
//! side effects: the dry run is a plan that is not carried out.

use crate::manifest::{self, EntryReader, ExtentReader};
use crate::model::{Content, Entry, EntryKind, Name, RelPath, SnapshotId, Stream};
use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::Context;
use crate::platform::fs::File;
use crate::platform::lines::{LineWriter, Lines};
use crate::platform::root_dir::{Replace, RootDir};
use crate::platform::shutdown::Shutdown;
use crate::restore::compare::Comparison;
use crate::restore::conflict::{Conflict, second_name};
use crate::restore::folder_stack::FolderStack;
use crate::restore::select::Include;
use crate::restore::{Error, Result};
use crate::vault::Vault;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What happens to one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Written where nothing is.
    Create,
    /// Written in the place of what is there.
    Replace,
    /// Written beside what is there, under a second name.
    Beside,
    /// There already with the same bytes (or a folder that is there); only metadata is put back.
    Keep,
    /// A further name for a file of this plan: the path, base64, of the first.
    HardLink(String),
    /// Left alone, as asked.
    Skip,
}

/// One entry of the plan.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What happens.
    pub action: Action,
    /// The entry; its path is the one in the target.
    pub entry: Entry,
}

/// Numbers for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanStats {
    /// Files in the selection.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are there already, identical.
    pub identical_files: u64,
    /// Files that get a second name.
    pub beside_files: u64,
    /// Files whose place is taken.
    pub replaced_files: u64,
    /// Files that are left alone.
    pub skipped_files: u64,
    /// Bytes to write.
    pub bytes_to_write: u64,
}

/// What a restore will do.
#[derive(Debug)]
pub struct Plan {
    /// Numbers.
    pub stats: PlanStats,
    file: File,
}

/// What to plan.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// Which snapshot, for second names.
    pub snapshot: SnapshotId,
    /// Its manifest.
    pub manifest: Stream,
    /// Only what is in (or is) this, straight into the target.
    pub path: Option<RelPath>,
    /// Only these.
    pub include: Include,
    /// What is in the way.
    pub conflict: Conflict,
    /// The folder to restore into; `None` for a zip file, where nothing is in the way.
    pub target: Option<PathBuf>,
}

/// Reads the manifest and compares it with the target. Writes nothing but the plan.
///
/// # Errors
/// The manifest cannot be read, the selection is empty, or the plan's disk failed.
pub async fn plan<V: Vault>(
    vault: Arc<V>,
    options: PlanOptions,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
) -> Result<Plan> {
    let handle = Handle::current();
    let planning = tokio::task::spawn_blocking(move || {
        monitor.phase(Phase::Plan);
        let planner = Planner::new(vault, options, &*monitor, handle)?;
        planner.run(&shutdown)
    });
    planning.await.unwrap_or(Err(Error::Stopped))
}

impl Plan {
    /// The planned entries in path order; may be read as often as needed, one reader at a time.
    pub fn entries(&self) -> Result<PlanReader> {
        let path = PathBuf::from("the plan of this restore");
        let mut file = self.file.try_clone().context("open", &path)?;
        file.seek(SeekFrom::Start(0)).context("read", &path)?;
        Ok(PlanReader { lines: Lines::new(file, path)? })
    }
}

/// Reads a plan.
#[derive(Debug)]
pub struct PlanReader {
    lines: Lines,
}

impl PlanReader {
    /// The next entry; `None` after the last.
    pub fn read_next(&mut self) -> Result<Option<Planned>> {
        let Some(line) = self.lines.read_next()? else { return Ok(None) };
        let parse = || {
            let tab = line.iter().position(|b| *b == b'\t')?;
            let action = serde_json::from_slice(&line[..tab]).ok()?;
            Some(Planned { action, entry: manifest::decode(&line[tab + 1..]).ok()? })
        };
        parse().map(Some).ok_or_else(|| self.lines.damaged().into())
    }
}

/// A folder on the way to the entry at hand.
struct Folder {
    /// Its path in the selection.
    path: RelPath,
    /// Its path in the target.
    to: RelPath,
    /// Nothing is there yet, so nothing in it can be in the way.
    fresh: bool,
    /// Left alone with all that is in it.
    skipped: bool,
    /// Not asked for by itself: planned once something in it is.
    pending: Option<Entry>,
}

struct Planner<'a, V> {
    vault: Arc<V>,
    options: PlanOptions,
    monitor: &'a dyn Monitor,
    handle: Handle,
    folders: Vec<Folder>,
    target: Option<FolderStack>,
    groups: HashMap<String, RelPath>,
    stats: PlanStats,
    lines: LineWriter,
    file: File,
}

impl<'a, V: Vault> Planner<'a, V> {
    fn new(vault: Arc<V>, options: PlanOptions, monitor: &'a dyn Monitor, handle: Handle) -> Result<Self> {
        let target = match &options.target {
            None => None,
            Some(path) => match RootDir::open(path) {
                Ok(root) => Some(FolderStack::new(root)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).context("open", path).map_err(Error::from),
            },
        };
        let name = PathBuf::from("a temporary file");
        let file = tempfile::tempfile().context("create", &name)?;
        let lines = LineWriter::new(file.try_clone().context("open", &name)?, &name)?;
        let (folders, groups, stats) = (Vec::new(), HashMap::new(), PlanStats::default());
        Ok(Self { vault, options, monitor, handle, folders, target, groups, stats, lines, file })
    }

    fn run(mut self, shutdown: &Shutdown) -> Result<Plan> {
        let mut reader = EntryReader::new(self.vault.clone(), &self.options.manifest)?;
        let mut any = false;
        let handle = self.handle.clone();
        while let Some(entry) = handle.block_on(reader.next())? {
            if shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            self.monitor.count(Counter::Entries, 1);
            if let Some(entry) = self.selected(entry) {
                any |= self.entry(entry)?;
            }
        }
        let everything = self.options.path.is_none() && self.options.include.is_everything();
        if !any && !everything {
            return Err(Error::Selection("nothing in the snapshot fits what was asked for".to_owned()));
        }
        self.lines.finish()?;
        Ok(Plan { stats: self.stats, file: self.file })
    }

    /// The entry with its path in the selection; `None` when it is not in it.
    fn selected(&self, mut entry: Entry) -> Option<Entry> {
        let Some(wanted) = &self.options.path else { return Some(entry) };
        if entry.path == *wanted {
            // A folder that was named is the target itself; anything else goes into the target under its name.
            entry.path = RelPath::from_name(&wanted.name());
            return (!matches!(entry.kind, EntryKind::Folder)).then_some(entry);
        }
        entry.path = entry.path.strip_prefix(wanted)?;
        Some(entry)
    }

    /// Plans one entry. Returns whether it is part of the restore.
    fn entry(&mut self, entry: Entry) -> Result<bool> {
        while self.folders.last().is_some_and(|folder| entry.path.strip_prefix(&folder.path).is_none()) {
            self.folders.pop();
        }
        let wanted = self.options.include.wants(&entry.path);
        if matches!(entry.kind, EntryKind::Folder) {
            let (path, to) = (entry.path.clone(), self.to(&entry.path));
            self.folders.push(Folder { path, to, fresh: false, skipped: false, pending: Some(entry) });
            if wanted {
                self.plan_folders()?;
            }
            return Ok(wanted);
        }
        if wanted {
            self.plan_folders()?;
            self.plan_leaf(entry)?;
        }
        Ok(wanted)
    }

    fn to(&self, path: &RelPath) -> RelPath {
        let name = path.name();
        let parent = self.folders.iter().rfind(|folder| path.strip_prefix(&folder.path).is_some());
        let joined = parent.and_then(|folder| folder.to.join(&name).ok());
        joined.unwrap_or_else(|| RelPath::from_name(&name))
    }

    /// Plans the folders on the way that were not planned yet, outermost first.
    fn plan_folders(&mut self) -> Result<()> {
        for at in 0..self.folders.len() {
            let Some(mut entry) = self.folders[at].pending.take() else { continue };
            let above = at.checked_sub(1).map(|above| &self.folders[above]);
            let (fresh, skipped) = above.map_or((false, false), |above| (above.fresh, above.skipped));
            // The folder above may have got a second name since.
            let mut to = above
                .and_then(|above| above.to.join(&entry.path.name()).ok())
                .unwrap_or_else(|| RelPath::from_name(&entry.path.name()));
            let there = if fresh || skipped { None } else { self.look(&to)? };
            let action = match there {
                _ if skipped => Action::Skip,
                None => Action::Create,
                Some(There::Folder) => Action::Keep,
                Some(There::File | There::Other) => match self.options.conflict {
                    Conflict::Skip => Action::Skip,
                    Conflict::Overwrite => Action::Replace,
                    Conflict::KeepBoth => {
                        to = self.free_name(&to)?;
                        Action::Beside
                    }
                },
            };
            let folder = &mut self.folders[at];
            folder.fresh = fresh || !matches!(action, Action::Keep | Action::Skip);
            folder.skipped = action == Action::Skip;
            folder.to = to.clone();
            entry.path = to;
            self.write(&action, &entry)?;
        }
        Ok(())
    }

    fn plan_leaf(&mut self, mut entry: Entry) -> Result<()> {
        let (fresh, skipped) = self.folders.last().map_or((false, false), |folder| (folder.fresh, folder.skipped));
        entry.path = self.to(&entry.path);
        let there = if fresh || skipped { None } else { self.look(&entry.path)? };
        let mut action = match there {
            _ if skipped => Action::Skip,
            None => Action::Create,
            Some(There::Folder) if self.options.conflict == Conflict::Overwrite => {
                let problem = "a folder is in the way, and folders are never replaced".to_owned();
                self.monitor.fault(Fault { subject: entry.path.to_string(), problem });
                Action::Skip
            }
            Some(_) if self.is_identical(&entry)? => Action::Keep,
            Some(_) => match self.options.conflict {
                Conflict::Skip => Action::Skip,
                Conflict::Overwrite => Action::Replace,
                Conflict::KeepBoth => self.beside(&mut entry)?,
            },
        };
        if let EntryKind::File { link_group: Some(group), .. } = &entry.kind
            && self.options.target.is_some()
            && action != Action::Skip
        {
            match self.groups.get(group) {
                Some(first) if action != Action::Keep => action = Action::HardLink(encode(first)),
                Some(_) => {}
                None => drop(self.groups.insert(group.clone(), entry.path.clone())),
            }
        }
        if entry.is_file() {
            let stats = &mut self.stats;
            stats.files += 1;
            stats.bytes += entry.size();
            match &action {
                Action::Create => stats.bytes_to_write += entry.size(),
                Action::Replace => {
                    stats.replaced_files += 1;
                    stats.bytes_to_write += entry.size();
                }
                Action::Beside => {
                    stats.beside_files += 1;
                    stats.bytes_to_write += entry.size();
                }
                Action::Keep => stats.identical_files += 1,
                Action::Skip => stats.skipped_files += 1,
                Action::HardLink(_) => {}
            }
        }
        self.write(&action, &entry)
    }

    /// Gives `entry` the first second name that is free, or that holds the same bytes already (a restore run again).
    fn beside(&mut self, entry: &mut Entry) -> Result<Action> {
        let original = entry.path.clone();
        for attempt in 1.. {
            entry.path = sibling(&original, &second_name(&original.name(), &self.options.snapshot, attempt));
            match self.look(&entry.path)? {
                None => return Ok(Action::Beside),
                Some(There::Folder) => {}
                Some(_) if self.is_identical(entry)? => return Ok(Action::Keep),
                Some(_) => {}
            }
        }
        Ok(Action::Beside)
    }

    fn free_name(&mut self, path: &RelPath) -> Result<RelPath> {
        let mut attempt = 1;
        loop {
            let candidate = sibling(path, &second_name(&path.name(), &self.options.snapshot, attempt));
            if self.look(&candidate)?.is_none() {
                return Ok(candidate);
            }
            attempt += 1;
        }
    }

    fn look(&mut self, path: &RelPath) -> Result<Option<There>> {
        let Some(target) = &mut self.target else { return Ok(None) };
        let found = target.enter_parent(path).and_then(|folder| folder.look_at(&path.name()));
        match found {
            Ok(None) => Ok(None),
            Ok(Some(metadata)) if metadata.is_dir() => Ok(Some(There::Folder)),
            Ok(Some(metadata)) if metadata.is_file() => Ok(Some(There::File)),
            Ok(Some(_)) => Ok(Some(There::Other)),
            // A folder on the way that is not there (it will be made) holds nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::Target(error)),
        }
    }

    fn is_identical(&mut self, entry: &Entry) -> Result<bool> {
        let Some(target) = &mut self.target else { return Ok(false) };
        let Ok(folder) = target.enter_parent(&entry.path) else { return Ok(false) };
        let name = entry.path.name();
        match &entry.kind {
            EntryKind::Folder => Ok(false),
            EntryKind::Link { target } => Ok(folder.read_link(&name).is_ok_and(|found| found == *target)),
            EntryKind::File { size, content, .. } => {
                // What cannot be opened cannot be compared; it counts as different, and the conflict rule decides.
                let Ok(file) = folder.open_file(&name) else { return Ok(false) };
                if file.metadata().map_err(Error::Target)?.len() != *size {
                    return Ok(false);
                }
                let mut comparison = Comparison::new(file);
                match content {
                    None => Ok(false),
                    Some(Content::Inline(extents)) => {
                        for extent in extents {
                            if !comparison.matches(extent).map_err(Error::Target)? {
                                return Ok(false);
                            }
                        }
                        Ok(true)
                    }
                    Some(Content::Indirect(stream)) => self.matches_list(&mut comparison, stream),
                }
            }
        }
    }

    fn matches_list(&self, comparison: &mut Comparison, stream: &Stream) -> Result<bool> {
        let mut extents = ExtentReader::new(self.vault.clone(), stream)?;
        while let Some(extent) = self.handle.block_on(extents.next())? {
            if !comparison.matches(&extent).map_err(Error::Target)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, action: &Action, entry: &Entry) -> Result<()> {
        let action = serde_json::to_string(action).expect("an action has only string keys");
        Ok(self.lines.write(&action, &manifest::encode(entry))?)
    }
}

enum There {
    Folder,
    File,
    Other,
}

fn sibling(path: &RelPath, name: &Name) -> RelPath {
    let joined = path.parent().and_then(|parent| parent.join(name).ok());
    joined.unwrap_or_else(|| RelPath::from_name(name))
}

fn encode(path: &RelPath) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(path.as_bytes())
}

impl Action {
    /// How a file comes to its final name.
    pub fn replace(&self) -> Replace {
        if *self == Self::Replace { Replace::Existing } else { Replace::Nothing }
    }

    /// For a further name of a file: the path of the first.
    pub fn first_name(&self) -> Option<RelPath> {
        use base64::Engine as _;
        let Self::HardLink(first) = self else { return None };
        RelPath::new(base64::engine::general_purpose::STANDARD.decode(first).ok()?).ok()
    }
}
