//! The two tables of the index, and the suspicion with which they are read.
//!
//! SQLite finds some damage by itself; the rest is found here: each row carries a checksum over its values, rows of a chunk
//! name a pack by a number that is never used twice, and a pack's row says how many rows its chunks have. Whatever does not
//! fit is [`Trouble::Corrupt`], and the answer to that is always the same: build the index anew from the packs.

use crate::model::{ChunkId, PackId};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

/// Written into the file; another number means another form of the tables, and the index is built anew.
const SCHEMA_VERSION: i64 = 1;
/// How long to wait for another process that writes to the same index.
const BUSY_TIMEOUT: Duration = Duration::from_mins(1);
/// Statements kept prepared.
const STATEMENTS: usize = 16;

const SCHEMA: [(&str, &str); 2] = [
    (
        "packs",
        "CREATE TABLE packs(number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, \
         chunk_count INTEGER NOT NULL, bytes INTEGER NOT NULL, checksum INTEGER NOT NULL)",
    ),
    (
        "chunks",
        "CREATE TABLE chunks(id BLOB NOT NULL, pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, \
         checksum INTEGER NOT NULL, PRIMARY KEY(id, pack)) WITHOUT ROWID",
    ),
];

/// Why the index did not answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It is damaged: build it anew and ask again.
    Corrupt(String),
    /// Building it anew would not help.
    Fatal(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        let hopeless = matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::OutOfMemory
                    | ErrorCode::DiskFull
                    | ErrorCode::CannotOpen
                    | ErrorCode::OperationInterrupted
            )
        );
        // A flipped bit can make SQLite say nearly anything ("read-only", "no such table", "string too big").
        if hopeless { Self::Fatal(error) } else { Self::Corrupt(error.to_string()) }
    }
}

fn corrupt<T>(text: &str) -> Result<T, Trouble> {
    Err(Trouble::Corrupt(text.to_owned()))
}

/// A pack as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackRow {
    pub(crate) id: PackId,
    pub(crate) chunk_count: u64,
    pub(crate) bytes: u64,
}

/// Where a block lies that holds a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) pack: PackId,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The packs by their numbers.
pub(crate) type PackRows = HashMap<i64, PackRow>;

/// Opens the file and checks that it is an index of this version; makes one of a new or empty file.
pub(crate) fn open(path: &Path) -> Result<Connection, Trouble> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Not FULL: a power cut may cost rows, never more, and the next opening adds them from the packs.
    connection.pragma_update(None, "synchronous", "normal")?;
    let transaction = write(&mut connection)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
    if tables == 0 {
        for (_, sql) in SCHEMA {
            transaction.execute(sql, [])?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    } else {
        let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        for (table, expected) in SCHEMA {
            let sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?1";
            let found: Option<String> = transaction.query_row(sql, [table], |row| row.get(0)).optional()?;
            if version != SCHEMA_VERSION || found.as_deref() != Some(expected) {
                return corrupt("its tables are not those of this version");
            }
        }
    }
    transaction.commit()?;
    Ok(connection)
}

/// Begins a transaction that may write; waits for other writers now and not half-way.
pub(crate) fn write(connection: &mut Connection) -> Result<Transaction<'_>, Trouble> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// A number that changes when another connection has changed the file.
pub(crate) fn data_version(connection: &Connection) -> Result<i64, Trouble> {
    Ok(connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
}

/// All packs, each row checked.
pub(crate) fn packs(connection: &Connection) -> Result<PackRows, Trouble> {
    let mut statement =
        connection.prepare_cached("SELECT number, id, chunk_count, bytes, checksum FROM packs ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut packs = PackRows::new();
    while let Some(row) = rows.next()? {
        let (number, chunks, bytes, sum): (i64, i64, i64, i64) = (row.get(0)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let id = PackId::from_bytes(row.get(1)?);
        if sum != pack_checksum(number, &id, chunks, bytes) {
            return corrupt("the row of a pack does not match its checksum");
        }
        let row = PackRow { id, chunk_count: chunks as u64, bytes: bytes as u64 };
        if packs.insert(number, row).is_some() {
            return corrupt("a pack's number stands there twice");
        }
    }
    Ok(packs)
}

/// Adds a pack and its chunks, each with offset and length of its block, and returns its row. Does nothing when the pack is
/// there.
pub(crate) fn add(
    transaction: &Transaction<'_>,
    id: PackId,
    bytes: u64,
    chunks: &HashMap<ChunkId, (u64, u64)>,
) -> Result<Option<(i64, PackRow)>, Trouble> {
    let row = PackRow { id, chunk_count: chunks.len() as u64, bytes };
    let (count, bytes) = (chunks.len() as i64, bytes as i64);
    let known = "SELECT number FROM packs WHERE id = ?1";
    let found: Option<i64> =
        transaction.prepare_cached(known)?.query_row([id.as_bytes()], |row| row.get(0)).optional()?;
    if found.is_some() {
        return Ok(None);
    }
    transaction
        .prepare_cached("INSERT INTO packs(id, chunk_count, bytes, checksum) VALUES(?1, ?2, ?3, 0)")?
        .execute(params![id.as_bytes(), count, bytes])?;
    let number = transaction.last_insert_rowid();
    transaction
        .prepare_cached("UPDATE packs SET checksum = ?2 WHERE number = ?1")?
        .execute([number, pack_checksum(number, &id, count, bytes)])?;
    let mut insert = transaction
        .prepare_cached("INSERT INTO chunks(id, pack, offset, length, checksum) VALUES(?1, ?2, ?3, ?4, ?5)")?;
    let mut sorted: Vec<_> = chunks.iter().collect();
    sorted.sort_unstable();
    for (chunk, (offset, length)) in sorted {
        let (offset, length) = (*offset as i64, *length as i64);
        let sum = chunk_checksum(chunk, number, &id, offset, length);
        insert.execute(params![chunk.as_bytes(), number, offset, length, sum])?;
    }
    Ok(Some((number, row)))
}

/// Drops a pack and the rows of its chunks.
pub(crate) fn drop_pack(transaction: &Transaction<'_>, number: i64) -> Result<(), Trouble> {
    transaction.execute("DELETE FROM chunks WHERE pack = ?1", [number])?;
    transaction.execute("DELETE FROM packs WHERE number = ?1", [number])?;
    Ok(())
}

/// Drops a pack and the rows of its chunks, which are named; without a look at the rows of all other packs. Does nothing when
/// the number means another pack: the index was built anew meanwhile.
pub(crate) fn remove(
    transaction: &Transaction<'_>,
    number: i64,
    pack: &PackId,
    chunks: &[ChunkId],
) -> Result<(), Trouble> {
    let gone = transaction
        .prepare_cached("DELETE FROM packs WHERE number = ?1 AND id = ?2")?
        .execute(params![number, pack.as_bytes()])?;
    if gone == 0 {
        return Ok(());
    }
    let mut delete = transaction.prepare_cached("DELETE FROM chunks WHERE id = ?1 AND pack = ?2")?;
    for id in chunks {
        delete.execute(params![id.as_bytes(), number])?;
    }
    Ok(())
}

/// A row of the chunks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkRow {
    pub(crate) id: ChunkId,
    /// Its pack's number; with the id, the key of the row.
    pub(crate) number: i64,
    pub(crate) place: Place,
}

/// The next rows after a key, in the order of keys.
pub(crate) fn page(
    connection: &mut Connection,
    packs: &mut PackRows,
    after: Option<(ChunkId, i64)>,
    limit: usize,
) -> Result<Vec<ChunkRow>, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut page = Vec::with_capacity(limit);
    {
        let sql = "SELECT id, pack, offset, length, checksum FROM chunks WHERE (id, pack) > (?1, ?2) \
                   ORDER BY id, pack LIMIT ?3";
        let mut statement = transaction.prepare_cached(sql)?;
        let (id, number) = after.unwrap_or((ChunkId::from_bytes([0; 32]), -1));
        let mut rows = statement.query(params![id.as_bytes(), number, limit as i64])?;
        while let Some(row) = rows.next()? {
            if !packs.contains_key(&row.get(1)?) {
                *packs = self::packs(&transaction)?;
            }
            let (id, number, place) = chunk_row(row, packs)?;
            page.push(ChunkRow { id, number, place });
        }
    }
    transaction.commit()?;
    Ok(page)
}

/// Where each of `ids` lies, in their order, in any pack but `except`. All in one transaction, so that all answers are of one
/// moment. `packs` is brought up to that moment when another process has added some.
pub(crate) fn find(
    connection: &mut Connection,
    packs: &mut PackRows,
    ids: &[ChunkId],
    except: &HashSet<PackId>,
) -> Result<Vec<Option<Place>>, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let mut places = Vec::with_capacity(ids.len());
    {
        let sql = "SELECT id, pack, offset, length, checksum FROM chunks WHERE id = ?1";
        let mut statement = transaction.prepare_cached(sql)?;
        for id in ids {
            let mut rows = statement.query([id.as_bytes()])?;
            let mut found = None;
            while let (None, Some(row)) = (found, rows.next()?) {
                if !packs.contains_key(&row.get(1)?) {
                    *packs = self::packs(&transaction)?;
                }
                let place = chunk_row(row, packs)?.2;
                found = (!except.contains(&place.pack)).then_some(place);
            }
            places.push(found);
        }
    }
    transaction.commit()?;
    Ok(places)
}

/// All places where each of `ids` lies, in their order.
pub(crate) fn copies(
    connection: &mut Connection,
    packs: &mut PackRows,
    ids: &[ChunkId],
) -> Result<Vec<Vec<Place>>, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    *packs = self::packs(&transaction)?;
    let mut all = Vec::with_capacity(ids.len());
    {
        let sql = "SELECT id, pack, offset, length, checksum FROM chunks WHERE id = ?1";
        let mut statement = transaction.prepare_cached(sql)?;
        for id in ids {
            let mut rows = statement.query([id.as_bytes()])?;
            let mut places = Vec::new();
            while let Some(row) = rows.next()? {
                places.push(chunk_row(row, packs)?.2);
            }
            all.push(places);
        }
    }
    transaction.commit()?;
    Ok(all)
}

/// The chunks of one pack.
pub(crate) fn chunks_of(connection: &Connection, packs: &PackRows, pack: PackId) -> Result<Vec<ChunkId>, Trouble> {
    let Some(number) = packs.iter().find(|(_, row)| row.id == pack).map(|(number, _)| *number) else {
        return Ok(Vec::new());
    };
    let mut statement = connection.prepare_cached("SELECT id FROM chunks WHERE pack = ?1")?;
    let ids = statement.query_map([number], |row| Ok(ChunkId::from_bytes(row.get(0)?)))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// What the rows of one pack say, in two numbers that do not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    chunks: u64,
    sum: u64,
}

impl Summary {
    /// Counts a chunk whose block lies there.
    pub(crate) fn add(&mut self, chunk: &ChunkId, offset: u64, length: u64) {
        self.chunks += 1;
        let numbers = [offset.to_le_bytes(), length.to_le_bytes()].concat();
        self.sum = self.sum.wrapping_add(checksum(&[chunk.as_bytes(), &numbers]) as u64);
    }
}

/// Reads everything: every checksum, the order of the keys, and that each pack has as many chunks as it should. Returns what is
/// said of each pack.
pub(crate) fn check(connection: &mut Connection) -> Result<HashMap<PackId, Summary>, Trouble> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let packs = packs(&transaction)?;
    let mut found: HashMap<i64, Summary> = HashMap::new();
    {
        let sql = "SELECT id, pack, offset, length, checksum FROM chunks ORDER BY id, pack";
        let mut statement = transaction.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let (id, number, place) = chunk_row(row, &packs)?;
            if last.replace((id, number)).is_some_and(|last| last >= (id, number)) {
                return corrupt("rows are not in their order");
            }
            found.entry(number).or_default().add(&id, place.offset, place.length);
        }
    }
    transaction.commit()?;
    let of = |number: &i64| found.get(number).copied().unwrap_or_default();
    if packs.iter().any(|(number, pack)| of(number).chunks != pack.chunk_count) {
        return corrupt("a pack has another number of chunks than it should");
    }
    Ok(packs.iter().map(|(number, pack)| (pack.id, of(number))).collect())
}

fn chunk_row(row: &Row<'_>, packs: &PackRows) -> Result<(ChunkId, i64, Place), Trouble> {
    let (number, offset, length, sum): (i64, i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
    let id = ChunkId::from_bytes(row.get(0)?);
    let Some(pack) = packs.get(&number) else { return corrupt("a chunk lies in a pack that is not known") };
    if sum != chunk_checksum(&id, number, &pack.id, offset, length) {
        return corrupt("the row of a chunk does not match its checksum");
    }
    Ok((id, number, Place { pack: pack.id, offset: offset as u64, length: length as u64 }))
}

fn pack_checksum(number: i64, id: &PackId, chunks: i64, bytes: i64) -> i64 {
    checksum(&[&number.to_le_bytes(), id.as_bytes(), &chunks.to_le_bytes(), &bytes.to_le_bytes()])
}

fn chunk_checksum(id: &ChunkId, number: i64, pack: &PackId, offset: i64, length: i64) -> i64 {
    let numbers = [number.to_le_bytes(), offset.to_le_bytes(), length.to_le_bytes()].concat();
    checksum(&[id.as_bytes(), pack.as_bytes(), &numbers])
}

/// The first eight bytes of BLAKE3: nobody forges an index, bits only flip.
fn checksum(parts: &[&[u8]]) -> i64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    i64::from_le_bytes(first)
}
