//! Advisory locks between processes. The system drops them when their process ends, however it ends, so none goes stale and
//! nobody has to tell a dead holder from a living one.
//!
//! Nobody waits in silence, and nobody for ever: after [`SILENCE`] the log says for whom, after [`PATIENCE`] there is an error that
//! says it. Who holds a lock is asked of the system at that moment; nothing is written down that could be out of date.
//!
//! A file system without such locks is refused: two processes on it could throw away each other's work.

use crate::model::text::clean_bytes;
use crate::platform::{Context, Result, fs};
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The longest anybody holds a lock while others wait for it: an index of many million chunks that is built anew.
const PATIENCE: Duration = Duration::from_mins(10);
/// A wait of this length is ordinary.
const SILENCE: Duration = Duration::from_secs(3);
/// The first pause between two tries; each is twice as long as the one before, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// Characters of a command that are shown: enough to come past its general options to its verb.
const SHOWN_COMMAND: usize = 300;

/// A held lock; dropped, it is released.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds the lock on `path` in any way. The file is made when it is not there, and stays.
    pub fn exclusive(path: &Path) -> Result<Self> {
        Self::wait(path, File::try_lock, PATIENCE)
    }

    /// The same, waiting no longer than this.
    pub fn exclusive_within(path: &Path, patience: Duration) -> Result<Self> {
        Self::wait(path, File::try_lock, patience)
    }

    /// Waits until nobody holds it exclusively; many may share it.
    pub fn shared(path: &Path) -> Result<Self> {
        Self::wait(path, File::try_lock_shared, PATIENCE)
    }

    /// Takes the lock if it is free this moment; `None` when somebody else holds it.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = fs::open_or_create(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(explained(error)).context("lock", path),
        }
    }

    fn wait(path: &Path, take: impl Fn(&File) -> Result<(), TryLockError>, patience: Duration) -> Result<Self> {
        let file = fs::open_or_create(path)?;
        let (mut waited, mut pause, mut said) = (Duration::ZERO, FIRST_PAUSE, false);
        loop {
            match take(&file) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(explained(error)).context("lock", path),
            }
            if waited >= patience {
                let text = format!("{} still holds it: wait until that is done, or end it", Holders::of(path));
                return Err(io::Error::new(ErrorKind::ResourceBusy, text)).context("lock", path);
            }
            if waited >= SILENCE && !said {
                tracing::warn!(lock = %path.display(), holder = %Holders::of(path), "waiting for another process");
                said = true;
            }
            thread::sleep(pause);
            waited += pause;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// The system's word, or ours for a file system that has no locks.
fn explained(error: io::Error) -> io::Error {
    // Both kinds of "not supported" and the "no locks available" of network file systems.
    let without = [rustix::io::Errno::NOTSUP, rustix::io::Errno::NOSYS, rustix::io::Errno::NOLCK];
    if without.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        let text = "its file system has no locks, and without them two processes could harm each other's work: \
                    use a folder on another file system, or mount this one with locks";
        return io::Error::new(ErrorKind::Unsupported, text);
    }
    error
}

/// Who holds a lock, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holders {
    all: Vec<Holder>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    process: u32,
    command: Option<String>,
}

impl Holders {
    /// Who holds the lock on `path` at this moment, as far as the system tells (Linux does, of processes that can be seen from here).
    pub fn of(path: &Path) -> Self {
        let identity = fs::metadata_if_there(path).ok().flatten();
        let identity = identity.map(|metadata| {
            let device = metadata.dev();
            format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), metadata.ino())
        });
        let table = fs::read_to_string(Path::new("/proc/locks")).unwrap_or_default();
        let processes = identity.map(|identity| processes(&table, &identity)).unwrap_or_default();
        Self { all: processes.into_iter().map(|process| Holder { process, command: command(process) }).collect() }
    }
}

/// The processes that hold a whole-file lock on a file, from the system's table of locks.
fn processes(table: &str, identity: &str) -> Vec<u32> {
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Those who wait have an arrow in the place of the kind.
        match words[..] {
            [_, "FLOCK", _, _, process, file, ..] if file == identity => process.parse().ok().filter(|p| *p != 0),
            _ => None,
        }
    };
    let mut all: Vec<u32> = table.lines().filter_map(holder).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn command(process: u32) -> Option<String> {
    let bytes = fs::read(Path::new(&format!("/proc/{process}/cmdline"))).ok()?;
    let text: Vec<u8> =
        bytes.strip_suffix(&[0]).unwrap_or(&bytes).iter().map(|b| if *b == 0 { b' ' } else { *b }).collect();
    let shown = clean_bytes(&text);
    (!shown.is_empty()).then(|| shown.chars().take(SHOWN_COMMAND).collect())
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.all.is_empty() {
            return f.write_str("another process");
        }
        for (number, holder) in self.all.iter().enumerate() {
            let before = if number > 0 { ", " } else { "" };
            write!(f, "{before}process {}", holder.process)?;
            if let Some(command) = &holder.command {
                write!(f, " (`{command}`)")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_free_again_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::try_exclusive(&path).unwrap();
        assert!(held.is_some());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        let shared = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(shared);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn who_waits_in_vain_learns_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::shared(&path).unwrap();
        let error = Lock::exclusive_within(&path, Duration::from_millis(5)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        if cfg!(target_os = "linux") {
            let own = format!("process {} (`", std::process::id());
            assert!(error.source.to_string().starts_with(&own), "{}", error.source);
        }
        drop(held);
        Lock::exclusive_within(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn who_comes_late_gets_the_lock_as_soon_as_it_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::exclusive(&path).unwrap();
        let (begun, begins) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                begun.send(()).unwrap();
                Lock::exclusive(&path).map(|_| ())
            });
            begins.recv().unwrap();
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_table_of_locks_names_holders_and_not_those_who_wait() {
        let table = "1: POSIX  ADVISORY  WRITE 11 fe:01:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 fe:01:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  READ 13 fe:01:77 0 EOF\n3: FLOCK  ADVISORY  READ 14 fe:01:78 0 EOF\n\
                     4: FLOCK  ADVISORY  READ 0 fe:01:77 0 EOF\n";
        assert_eq!(processes(table, "fe:01:77"), [12]);
        assert!(processes(table, "fe:01:79").is_empty());
        assert_eq!(Holders { all: Vec::new() }.to_string(), "another process");
    }

    #[test]
    fn a_file_system_without_locks_is_named_as_one() {
        for errno in [rustix::io::Errno::NOTSUP, rustix::io::Errno::NOLCK, rustix::io::Errno::NOSYS] {
            let error = explained(io::Error::from_raw_os_error(errno.raw_os_error()));
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("its file system has no locks"), "{error}");
        }
        let other = explained(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        assert_eq!(other.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    }
}
