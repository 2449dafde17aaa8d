//! What objects are called, and the numbers of the on-disk format. `docs/store-format.md` is normative.
//!
//! An object's name is made of parts that hold only lower-case letters, digits, `-` and `.`, and never begin with a dot. No
//! part ever comes from a peer as it is: a set's name becomes a hash, everything else is a number or a hash already.

use crate::model::digest::to_hex;
use crate::model::limits::MAX_UPLOAD_BYTES;
use crate::model::{PackId, SetName, SnapshotId};
use jiff::Timestamp;
use std::fmt;

/// The format of stores and repositories that this version reads and writes.
pub const FORMAT: u32 = 1;

/// First bytes of a pack.
pub const PACK_MAGIC: &[u8; 8] = b"LBPACK01";
/// Last bytes of a pack.
pub const TRAILER_MAGIC: &[u8; 8] = b"LBTRAIL1";
/// What follows the trailer: its length (4), its BLAKE3 (32), [`TRAILER_MAGIC`].
pub const FOOTER_BYTES: usize = 44;
/// Blocks of one pack, headers and stored bytes: one upload, always; a pack can be held in memory to be checked.
pub const MAX_PACK_BLOCK_BYTES: u64 = MAX_UPLOAD_BYTES;
/// A whole pack: no block header is longer than its block, so the trailer at most doubles it.
pub const MAX_PACK_BYTES: u64 = 3 * MAX_PACK_BLOCK_BYTES;

/// The file of a store that says that it is one.
pub const STORE_FILE: &str = "store.json";
/// The folder of a store in which its repositories lie.
pub const REPOSITORIES: &str = "repositories";
/// Taken exclusively while repositories are created or opened.
pub const STORE_LOCK: &str = "lock";
/// The index of a repository: a cache, no object.
pub const INDEX_FILE: &str = "index.sqlite";
/// Where the locks of a repository lie.
pub const LOCKS: &str = "locks";
/// Where drafts lie until they have a name.
pub const STAGING: &str = "staging";

/// The name of an object: checked, relative, harmless.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// Takes a name whose parts are between slashes; `None` when it breaks the rule.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
        let part_ok = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(legal);
        // 200 bytes hold the longest name there is (a record's, 154) with room.
        (text.len() <= 200 && text.split('/').all(part_ok)).then(|| Self(text.to_owned()))
    }

    fn made(text: String) -> Self {
        debug_assert!(Self::parse(&text).is_some(), "{text}");
        Self(text)
    }

    /// The name with its slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows the last slash.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The parameters of a repository.
pub fn config() -> ObjectName {
    ObjectName::made("config.json".to_owned())
}

/// All packs.
pub fn packs() -> ObjectName {
    ObjectName::made("packs".to_owned())
}

/// One pack.
pub fn pack(id: &PackId) -> ObjectName {
    let hex = id.to_string();
    ObjectName::made(format!("packs/{}/{hex}", &hex[..2]))
}

/// The pack behind a name; `None` for anything that [`pack`] does not make.
pub fn pack_id(name: &ObjectName) -> Option<PackId> {
    let id = name.last().parse().ok()?;
    (pack(&id) == *name).then_some(id)
}

/// All events of the owner log.
pub fn owners() -> ObjectName {
    ObjectName::made("owners".to_owned())
}

/// One event of the owner log; the first has number 1.
pub fn owner(number: u64) -> ObjectName {
    ObjectName::made(format!("owners/{number:06}.json"))
}

/// All records.
pub fn records() -> ObjectName {
    ObjectName::made("records".to_owned())
}

/// All records of one set.
pub fn records_of(set: &SetName) -> ObjectName {
    let key = blake3::hash(set.as_str().as_bytes());
    ObjectName::made(format!("records/{}", to_hex(key.as_bytes())))
}

/// One record. Sequence numbers have ten digits, so that names sort as numbers do.
pub fn record(set: &SetName, sequence: u64, id: &SnapshotId) -> ObjectName {
    ObjectName::made(format!("{}/{sequence:010}-{id}", records_of(set)))
}

/// Where what is damaged lies, out of the way of the rest: below here it keeps the name it had. `copy` 0 is the first of that
/// name.
pub fn quarantined(name: &ObjectName, copy: u32) -> ObjectName {
    let suffix = if copy == 0 { String::new() } else { format!(".{copy}") };
    ObjectName::made(format!("{}/{name}{suffix}", quarantine()))
}

/// Everything that was set aside.
pub fn quarantine() -> ObjectName {
    ObjectName::made("quarantine".to_owned())
}

/// What is known about snapshots that have lost something.
pub fn marks() -> ObjectName {
    ObjectName::made("damage".to_owned())
}

/// What is known about one of them.
pub fn mark(snapshot: &SnapshotId) -> ObjectName {
    ObjectName::made(format!("damage/{snapshot}.json"))
}

/// Packs that could not give what they should, or are gone.
pub fn doubts() -> ObjectName {
    ObjectName::made("doubts".to_owned())
}

/// One of them.
pub fn doubt(pack: &PackId) -> ObjectName {
    ObjectName::made(format!("doubts/{pack}.json"))
}

/// The pack behind the name of a doubt.
pub fn doubted_pack(name: &ObjectName) -> Option<PackId> {
    let id = name.last().strip_suffix(".json")?.parse().ok()?;
    (doubt(&id) == *name).then_some(id)
}

/// When each pack was read and found whole.
pub fn scrub() -> ObjectName {
    ObjectName::made("scrub.json".to_owned())
}

/// What the time was when somebody looked last.
pub fn clock() -> ObjectName {
    ObjectName::made("clock.json".to_owned())
}

/// How much of each snapshot's bytes the next one has rewritten, as far as that was measured.
pub fn brake() -> ObjectName {
    ObjectName::made("brake.json".to_owned())
}

/// Sequence and id behind a record's name.
pub fn record_parts(name: &ObjectName) -> Option<(u64, SnapshotId)> {
    let (sequence, id) = name.last().split_once('-')?;
    (sequence.len() == 10).then_some(())?;
    Some((sequence.parse().ok()?, id.parse().ok()?))
}

/// Says that a repository is a copy that another device keeps up to date.
pub fn copy_mark() -> ObjectName {
    ObjectName::made("copy.json".to_owned())
}

/// Packs that nothing needs and that wait to be deleted.
pub fn trash() -> ObjectName {
    ObjectName::made("trash".to_owned())
}

/// A pack in the trash, with the second in which it came there.
pub fn trashed(pack: &PackId, since: Timestamp) -> ObjectName {
    ObjectName::made(format!("trash/{:012}-{pack}", since.as_second().max(0)))
}

/// Pack and time behind a name in the trash.
pub fn trashed_parts(name: &ObjectName) -> Option<(PackId, Timestamp)> {
    let (since, id) = name.last().split_once('-')?;
    let (id, since) = (id.parse().ok()?, Timestamp::from_second(since.parse().ok()?).ok()?);
    (trashed(&id, since) == *name).then_some((id, since))
}

/// All marks of forgotten snapshots.
pub fn forgotten() -> ObjectName {
    ObjectName::made("forgotten".to_owned())
}

/// The mark of one forgotten snapshot. The second in which it was made is in the name, so that no name ever means two marks.
pub fn forgotten_mark(id: &SnapshotId, when: Timestamp) -> ObjectName {
    ObjectName::made(format!("forgotten/{:012}-{id}", when.as_second().max(0)))
}

/// All snapshots that were forgotten and brought back.
pub fn brought_back() -> ObjectName {
    ObjectName::made("brought-back".to_owned())
}

/// That one snapshot was brought back.
pub fn brought_back_mark(id: &SnapshotId, when: Timestamp) -> ObjectName {
    ObjectName::made(format!("brought-back/{:012}-{id}", when.as_second().max(0)))
}

/// All snapshots at which the brake stopped forgetting and a person has looked.
pub fn released() -> ObjectName {
    ObjectName::made("released".to_owned())
}

/// That a person has looked at one of them.
pub fn released_mark(id: &SnapshotId, when: Timestamp) -> ObjectName {
    ObjectName::made(format!("released/{:012}-{id}", when.as_second().max(0)))
}

/// All snapshots whose record lies aside and that a person has given up.
pub fn given_up() -> ObjectName {
    ObjectName::made("given-up".to_owned())
}

/// That a person has given up one of them.
pub fn given_up_mark(id: &SnapshotId, when: Timestamp) -> ObjectName {
    ObjectName::made(format!("given-up/{:012}-{id}", when.as_second().max(0)))
}

/// Time and snapshot behind the name of a mark of any kind.
pub fn timed_parts(name: &ObjectName) -> Option<(Timestamp, SnapshotId)> {
    let (when, id) = name.last().split_once('-')?;
    (when.len() == 12).then_some(())?;
    Some((Timestamp::from_second(when.parse().ok()?).ok()?, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_folder_or_hide_are_refused() {
        for bad in ["", "/", "a//b", "/a", "a/", "..", "a/../b", ".a", "a/.b", "A", "a b", "a\0", "a\\b", "é"] {
            assert_eq!(ObjectName::parse(bad), None, "{bad:?}");
        }
        assert!(ObjectName::parse(&"a".repeat(201)).is_none());
    }

    #[test]
    fn names_are_read_as_they_were_made() {
        let id = PackId::from_bytes([0xab; 32]);
        assert_eq!(pack_id(&pack(&id)), Some(id));
        assert_eq!(pack_id(&ObjectName::parse(&format!("packs/ac/{id}")).unwrap()), None);
        let since = Timestamp::from_second(1_777_636_800).unwrap();
        assert_eq!(trashed_parts(&trashed(&id, since)), Some((id, since)));
        assert_eq!(trashed_parts(&pack(&id)), None);
        let set: SetName = "Üben/..".replace("/..", "").parse().unwrap();
        let snapshot = SnapshotId::from_bytes([1; 32]);
        let name = record(&set, 42, &snapshot);
        assert_eq!(record_parts(&name), Some((42, snapshot)));
        assert!(ObjectName::parse(name.as_str()).is_some());
        assert!(record(&set, 9, &snapshot) < record(&set, 10, &snapshot));
    }
}
