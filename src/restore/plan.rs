//! The plan of a restore: what will be written where, what is there already, what is in the way. Printable, on disk, and free of
//! side effects: the dry run is a plan that is not carried out.

use crate::manifest::{self, EntryReader, ExtentReader};
use crate::model::limits::MAX_NAME_BYTES;
use crate::model::{Content, Entry, EntryKind, Name, RelPath, SnapshotId, Stream};
use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::Context;
use crate::platform::fs::File;
use crate::platform::lines::{LineWriter, Lines};
use crate::platform::root_dir::RootDir;
use crate::platform::shutdown::Shutdown;
use crate::restore::action::{Action, PlanStats, Planned};
use crate::restore::compare::Comparison;
use crate::restore::conflict::{Conflict, second_name};
use crate::restore::fetch::is_fatal;
use crate::restore::folder_stack::FolderStack;
use crate::restore::links::{Existing, LinkGroups};
use crate::restore::select::Include;
use crate::restore::{Error, Result};
use crate::vault::Vault;
use std::collections::HashSet;
use std::io::{self, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

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
    /// Where the plan is written: about 50 bytes an entry, which a folder in memory may not have to spare.
    pub scratch: PathBuf,
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
    planning.await.unwrap_or(Err(Error::Internal))
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
    links: LinkGroups,
    // Second names that were cut to fit, so that two never become one. Few: names of nearly 255 bytes.
    cut_names: HashSet<RelPath>,
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
        let name = options.scratch.join("the plan of this restore");
        let file = tempfile::tempfile_in(&options.scratch).context("create", &name)?;
        let lines = LineWriter::new(file.try_clone().context("open", &name)?, &name)?;
        Ok(Self {
            vault,
            options,
            monitor,
            handle,
            folders: Vec::new(),
            target,
            links: LinkGroups::default(),
            cut_names: HashSet::new(),
            stats: PlanStats::default(),
            lines,
            file,
        })
    }

    fn run(mut self, shutdown: &Shutdown) -> Result<Plan> {
        let mut any = false;
        let handle = self.handle.clone();
        let (vault, manifest) = (self.vault.clone(), &self.options.manifest);
        let mut reader = match &self.options.path {
            None => EntryReader::new(vault, manifest)?,
            Some(path) => EntryReader::starting_at(vault, manifest, path)?,
        };
        while let Some(entry) = handle.block_on(reader.next())? {
            if shutdown.is_stopped() {
                return Err(Error::Stopped);
            }
            self.monitor.count(Counter::Entries, 1);
            // Sorted by path: what does not lie in it comes after all that does.
            if self.options.path.as_ref().is_some_and(|wanted| !is_in(&entry.path, wanted)) {
                break;
            }
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
            let there = if fresh || skipped { None } else { self.look(&to) };
            let action = match there {
                _ if skipped => Action::Skip,
                None => Action::Create,
                Some(There::Folder) => Action::Keep,
                Some(There::Unknown) => Action::Skip,
                Some(There::File | There::Other) => match self.options.conflict {
                    Conflict::Skip => Action::Skip,
                    Conflict::Overwrite => Action::Replace,
                    Conflict::KeepBoth => match self.free_name(&to) {
                        Some(free) => {
                            to = free;
                            Action::Beside
                        }
                        None => Action::Skip,
                    },
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
        let there = if fresh || skipped { None } else { self.look(&entry.path) };
        let mut action = match there {
            _ if skipped => Action::Skip,
            None => Action::Create,
            Some(There::Unknown) => Action::Skip,
            Some(There::Folder) if self.options.conflict == Conflict::Overwrite => {
                let problem = "a folder is in the way, and folders are never replaced".to_owned();
                self.monitor.fault(Fault { subject: entry.path.to_string(), problem });
                Action::Skip
            }
            Some(_) if self.may_stay(&entry)? => Action::Keep,
            Some(_) => match self.options.conflict {
                Conflict::Skip => Action::Skip,
                Conflict::Overwrite => Action::Replace,
                Conflict::KeepBoth => self.beside(&mut entry)?,
            },
        };
        if self.options.target.is_some()
            && action != Action::Skip
            && let Some(first) = self.links.first_of(&entry)
            && action != Action::Keep
        {
            action = Action::link_to(&first, &action);
        }
        if entry.is_file() {
            self.stats.count(&action, entry.size());
        }
        self.write(&action, &entry)
    }

    /// Gives `entry` the first second name that is free, or that holds the same bytes already (a restore run again).
    fn beside(&mut self, entry: &mut Entry) -> Result<Action> {
        let original = entry.path.clone();
        for attempt in 1.. {
            entry.path = sibling(&original, &second_name(&original.name(), &self.options.snapshot, attempt));
            match self.look(&entry.path) {
                None if self.takes(&entry.path) => return Ok(Action::Beside),
                Some(There::Unknown) => return Ok(Action::Skip),
                Some(There::File | There::Other) if self.is_identical(entry)? => return Ok(Action::Keep),
                _ => {}
            }
        }
        Ok(Action::Beside)
    }

    /// The first second name that is free; `None` when the folder it would lie in cannot be looked at.
    fn free_name(&mut self, path: &RelPath) -> Option<RelPath> {
        let mut attempt = 1;
        loop {
            let candidate = sibling(path, &second_name(&path.name(), &self.options.snapshot, attempt));
            match self.look(&candidate) {
                None if self.takes(&candidate) => return Some(candidate),
                Some(There::Unknown) => return None,
                _ => attempt += 1,
            }
        }
    }

    /// Whether no other entry of this plan has got the second name.
    fn takes(&mut self, path: &RelPath) -> bool {
        // Shorter ones hold the whole of the first name, and so differ like those. A cut ends between UTF-8 characters.
        path.name().as_bytes().len() < MAX_NAME_BYTES - 3 || self.cut_names.insert(path.clone())
    }

    /// What is there. What cannot be looked at (a folder of somebody else, a failing disk) is told and left alone.
    fn look(&mut self, path: &RelPath) -> Option<There> {
        let Some(target) = &mut self.target else { return None };
        let found = target.enter_parent(path).and_then(|folder| folder.look_at(&path.name()));
        match found {
            Ok(None) => None,
            Ok(Some(metadata)) if metadata.is_dir() => Some(There::Folder),
            Ok(Some(metadata)) if metadata.is_file() => Some(There::File),
            Ok(Some(_)) => Some(There::Other),
            // A folder on the way that is not there (it will be made) holds nothing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.monitor.fault(Fault::new(path.to_string(), &error));
                Some(There::Unknown)
            }
        }
    }

    /// Whether what is there is what the entry says. To overwrite means to have the tree as it was, so there it must also be the
    /// same file under the same names: bytes that another name shares would get the metadata of both.
    fn may_stay(&mut self, entry: &Entry) -> Result<bool> {
        if self.options.conflict != Conflict::Overwrite || !entry.is_file() {
            return self.is_identical(entry);
        }
        let existing = self.identical_file(entry)?;
        Ok(existing.is_some_and(|existing| self.links.may_stay(entry, existing)))
    }

    fn is_identical(&mut self, entry: &Entry) -> Result<bool> {
        match &entry.kind {
            EntryKind::Folder => Ok(false),
            EntryKind::File { .. } => Ok(self.identical_file(entry)?.is_some()),
            EntryKind::Link { target } => {
                let Some(root) = &mut self.target else { return Ok(false) };
                let Ok(folder) = root.enter_parent(&entry.path) else { return Ok(false) };
                Ok(folder.read_link(&entry.path.name()).is_ok_and(|found| found == *target))
            }
        }
    }

    /// The file that is there, when it has the same bytes.
    fn identical_file(&mut self, entry: &Entry) -> Result<Option<Existing>> {
        let EntryKind::File { size, content: Some(content), .. } = &entry.kind else { return Ok(None) };
        let Some(target) = &mut self.target else { return Ok(None) };
        // What cannot be opened cannot be compared; it counts as different, and the conflict rule decides.
        let opened = target.enter_parent(&entry.path).and_then(|folder| folder.open_file(&entry.path.name()));
        let Ok(file) = opened else { return Ok(None) };
        let Ok(metadata) = file.metadata() else { return Ok(None) };
        if metadata.len() != *size {
            return Ok(None);
        }
        let mut comparison = Comparison::new(file);
        let same = match content {
            Content::Inline(extents) => comparison.all_match(extents).unwrap_or(false),
            Content::Indirect(stream) => self.matches_list(&mut comparison, stream)?,
        };
        Ok((same && comparison.compared() == *size).then(|| Existing::new(&metadata)))
    }

    fn matches_list(&self, comparison: &mut Comparison, stream: &Stream) -> Result<bool> {
        let Ok(mut extents) = ExtentReader::new(self.vault.clone(), stream) else { return Ok(false) };
        loop {
            match self.handle.block_on(extents.next()) {
                Ok(None) => return Ok(true),
                Ok(Some(extent)) if comparison.matches(&extent).unwrap_or(false) => {}
                Err(manifest::Error::Vault(error)) if is_fatal(&error) => return Err(error.into()),
                // A damaged list is the trouble of its own file, which is told when it is to be written.
                Ok(Some(_)) | Err(_) => return Ok(false),
            }
        }
    }

    fn write(&mut self, action: &Action, entry: &Entry) -> Result<()> {
        let action = serde_json::to_string(action).expect("an action has only string keys");
        Ok(self.lines.write(action.as_bytes(), &manifest::encode(entry))?)
    }
}

enum There {
    Folder,
    File,
    Other,
    Unknown,
}

/// Whether `path` is, or lies in, `wanted`.
fn is_in(path: &RelPath, wanted: &RelPath) -> bool {
    path == wanted || path.strip_prefix(wanted).is_some()
}

fn sibling(path: &RelPath, name: &Name) -> RelPath {
    let joined = path.parent().and_then(|parent| parent.join(name).ok());
    joined.unwrap_or_else(|| RelPath::from_name(name))
}
