//! Building the index anew from the packs' trailers.
//!
//! The new one is made beside the old one and takes its place when it is complete: others go on with the old one until then, and never see half
//! of it. That needs room for two. Where there is none, the old one, which is damaged or doubted, makes room: until the new one is complete, there
//! is none, and whoever wants to open it waits. Whatever fails, no draft is left.

use crate::model::PackId;
use crate::platform::fs;
use crate::platform::lock::Lock;
use crate::store::error::{Error, Result};
use crate::store::index::table::{PackRows, Trouble};
use crate::store::index::{Index, Open, PACKS_PER_TRANSACTION, State, add, forget, table};
use crate::store::layout::{self, INDEX_FILE};
use rusqlite::ErrorCode;
use std::collections::HashSet;
use std::path::Path;

/// What belongs to a file of SQLite's, itself included.
const ALL: [&str; 4] = ["", "-wal", "-shm", "-journal"];

impl Index {
    /// Makes another index with all packs. The lock keeps two processes from doing so at once, and from opening what is about to go.
    pub(crate) fn rebuild(&self, state: &mut State) -> Result<()> {
        state.open = None;
        let draft = self.path.with_file_name(format!("{INDEX_FILE}.new"));
        {
            let _locked = Lock::exclusive(&self.lock)?;
            remove(&draft, &ALL)?;
            let built = match self.build(&draft) {
                Err(error) if error.is_full() => {
                    tracing::warn!(path = %self.path.display(), "there is no room for a second index: the old one makes room");
                    remove(&draft, &ALL).and_then(|()| remove(&self.path, &ALL)).and_then(|()| self.build(&draft))
                }
                other => other,
            };
            if let Err(error) = built {
                // What is left of it takes room, and on a full disk everybody's.
                remove(&draft, &ALL)?;
                return Err(error);
            }
            // What belongs to the old one must not be taken for the new one's. Cut here, the old one lacks its last rows, and opening it adds them.
            remove(&self.path, &ALL[1..])?;
            fs::rename(&draft, &self.path)?;
        }
        // Who added or took out a pack meanwhile may have told the old one; the shelf was told before that.
        let listed = self.listed()?;
        let there: HashSet<PackId> = listed.iter().copied().collect();
        let open = self.current(state).map_err(failed)?;
        let gone: Vec<(i64, PackId)> = open.packs.iter().map(|(n, pack)| (*n, pack.id)).collect();
        let (numbers, ids): (Vec<i64>, Vec<PackId>) = gone.into_iter().filter(|(_, id)| !there.contains(id)).unzip();
        if !ids.is_empty() {
            forget(open, &numbers, &ids).map_err(failed)?;
        }
        let known: HashSet<PackId> = open.packs.values().map(|pack| pack.id).collect();
        let new: Vec<PackId> = listed.into_iter().filter(|id| !known.contains(id)).collect();
        self.fill(open, &new)
    }

    /// An index of all packs in this file, which is not there yet.
    fn build(&self, path: &Path) -> Result<()> {
        let connection = table::open(path).map_err(failed)?;
        #[cfg(test)]
        if fs::metadata_if_there(&self.path)?.is_some() {
            connection.pragma_update(None, "max_page_count", self.draft_pages).map_err(|error| failed(error.into()))?;
        }
        let mut open = Open { connection, identity: None, version: 0, packs: PackRows::new() };
        self.fill(&mut open, &self.listed()?)?;
        // Everything in one file.
        open.connection.pragma_update(None, "journal_mode", "delete").map_err(|error| failed(error.into()))
    }

    /// Adds these packs, which survive a power cut before that. A pack that cannot be read at the moment is an error: an index without it would
    /// say that what it holds is lost.
    fn fill(&self, open: &mut Open, ids: &[PackId]) -> Result<()> {
        self.shelf.confirm(&ids.iter().map(layout::pack).collect::<Vec<_>>())?;
        for ids in ids.chunks(PACKS_PER_TRANSACTION) {
            let mut bad = Vec::new();
            let packs = self.read_trailers(ids, &mut bad);
            for (pack, error) in bad {
                if !is_damage(&error) {
                    return Err(error);
                }
                tracing::error!(%pack, error = &error as &dyn std::error::Error, "a pack cannot be read");
            }
            add(open, &packs).map_err(failed)?;
        }
        Ok(())
    }
}

/// A medium that cannot give a file is damage, too.
fn is_damage(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Platform(error) if error.is_bad_medium())
}

pub(crate) fn failed(trouble: Trouble) -> Error {
    match trouble {
        Trouble::Fatal(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Error::Full,
        Trouble::Fatal(error) => Error::Index(Box::new(error)),
        Trouble::Corrupt(reason) => Error::Index(reason.into()),
    }
}

/// Deletes a file of SQLite's, and what belongs to it; fine when there is none.
fn remove(path: &Path, suffixes: &[&str]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    for suffix in suffixes {
        fs::remove_file(&path.with_file_name(format!("{name}{suffix}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Compression, Encoder};
    use crate::model::{Alias, Fingerprint};
    use crate::platform::clock::ManualClock;
    use crate::signer::SigningKey;
    use crate::store::Store;
    use std::sync::Arc;

    #[test]
    fn an_index_is_built_anew_where_there_is_no_room_for_two() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let (store, _) = Store::open_or_create(folder.path(), clock, SigningKey::from_bytes(&[9; 32])).unwrap();
        let (owner, signer) = (Fingerprint::from_bytes([1; 32]), SigningKey::from_bytes(&[1; 32]).public());
        let repository = store.create_repository(owner, &signer, Alias::new("laptop")).unwrap();
        let chunks: Vec<_> = (0..2000_u32).map(|n| bytes::Bytes::copy_from_slice(&n.to_le_bytes())).collect();
        let chunks: Vec<_> = chunks.into_iter().map(|bytes| (codec::chunk_id(&bytes), bytes)).collect();
        let mut writer = repository.begin_pack().unwrap();
        for chunks in chunks.chunks(100) {
            writer.append(&Encoder::new(Compression::default()).encode(chunks)).unwrap();
        }
        writer.finish().unwrap();
        repository.sync().unwrap();
        let home = repository.lock("index").ancestors().nth(2).unwrap().to_owned();
        let (mut index, _) = Index::open(&home, Arc::clone(&repository.packs.shelf)).unwrap();
        index.draft_pages = 10;
        let draft = home.join(format!("{INDEX_FILE}.new"));
        assert!(index.build(&draft).unwrap_err().is_full(), "the control: it does not fit beside the old one");
        index.build_anew().unwrap();
        let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
        assert!(index.find(&ids).unwrap().iter().all(Option::is_some));
        assert!(ALL.iter().all(|end| !home.join(format!("{INDEX_FILE}.new{end}")).exists()));
    }
}
