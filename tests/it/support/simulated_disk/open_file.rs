//! An open file of a simulated disk.

use crate::support::simulated_disk::tree::Number;
use crate::support::simulated_disk::{Fate, State, failed, over};
use lan_backup::platform::disk::{DiskFile, ReadAt};
use lan_backup::platform::{Context, Result};
use std::fmt;
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// An open file.
pub(super) struct Open {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) number: Number,
    pub(super) path: PathBuf,
    pub(super) position: usize,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({})", self.path.display())
    }
}

impl Write for Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        let fate = state.fate()?;
        let length = state.tree.file(self.number)?.shown.len();
        let fits = (state.room() as usize).saturating_add(length.saturating_sub(self.position)).min(bytes.len());
        if fits == 0 && !bytes.is_empty() {
            return Err(ErrorKind::StorageFull.into());
        }
        let (count, result) = match fate {
            Fate::Done => (fits, Ok(fits)),
            Fate::Failed => (state.dice.below(fits as u64 + 1) as usize, Err(failed())),
            Fate::Last => (state.dice.below(fits as u64 + 1) as usize, Err(over())),
        };
        let file = state.tree.file(self.number)?;
        file.write(self.position, &bytes[..count]);
        let grown = file.shown.len() - length;
        state.used += grown as u64;
        self.position += count;
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Open {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let length = self.state.lock().unwrap().tree.file(self.number)?.shown.len() as i64;
        let position = match position {
            SeekFrom::Start(offset) => offset as i64,
            SeekFrom::End(offset) => length + offset,
            SeekFrom::Current(offset) => self.position as i64 + offset,
        };
        self.position = usize::try_from(position).map_err(|_| ErrorKind::InvalidInput)?;
        Ok(self.position as u64)
    }
}

impl DiskFile for Open {
    fn sync(&self) -> io::Result<()> {
        let mut guard = self.state.lock().unwrap();
        let state = &mut *guard;
        let (fate, lies) = (state.fate()?, state.faults.file_syncs_lie);
        let file = state.tree.file(self.number)?;
        match fate {
            Fate::Failed => {
                file.fail_to_sync(&mut state.dice);
                if state.faults.failed_syncs_lie { Ok(()) } else { Err(failed()) }
            }
            Fate::Last => Err(over()),
            Fate::Done => {
                if !lies {
                    file.sync();
                }
                Ok(())
            }
        }
    }
}

impl ReadAt for Open {
    fn length(&self) -> Result<u64> {
        let mut state = self.state.lock().unwrap();
        let fate = state.fate().context("look at", &self.path)?;
        match fate {
            Fate::Done => Ok(state.tree.file(self.number).context("look at", &self.path)?.shown.len() as u64),
            Fate::Failed => Err(failed()).context("look at", &self.path),
            Fate::Last => Err(over()).context("look at", &self.path),
        }
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut state = self.state.lock().unwrap();
        let read = |state: &mut State| match state.fate()? {
            Fate::Failed => Err(failed()),
            Fate::Last => Err(over()),
            Fate::Done => {
                let shown = &state.tree.file(self.number)?.shown;
                let range = offset as usize..(offset as usize).saturating_add(length);
                shown.get(range).map(<[u8]>::to_vec).ok_or(ErrorKind::UnexpectedEof.into())
            }
        };
        read(&mut state).context("read", &self.path)
    }
}
