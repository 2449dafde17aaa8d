//! Are these snapshots what their source made, all of them, in this order? Pure.

use crate::model::{Mark, OwnerEvent, Record, RepositoryId, SetName, SnapshotId, SnapshotInfo};
use crate::signer;
use std::collections::{BTreeMap, HashSet};

/// A snapshot whose record was read and checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// As it was listed.
    pub info: SnapshotInfo,
    /// What it says.
    pub record: Record,
    /// Whose signature it carries.
    pub trust: Signature,
}

/// Whose signature a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Of a key that the caller vouches for.
    Known,
    /// Of a key that the holder's owner log names: the repository had another owner, as far as the holder says.
    OwnerLog,
    /// It fits, but nobody we know made it: shown as "consistent, unverified".
    Unverified,
}

/// Something that does not fit; shouted, because it means loss or forgery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// The record does not hash to its id, its signature does not fit, or it cannot be read.
    #[error("snapshot {} of the list is not what it says it is: {problem}", id.short())]
    Record {
        /// Which.
        id: SnapshotId,
        /// What is wrong.
        problem: String,
    },
    /// It was made for another repository.
    #[error("snapshot {} belongs to another repository", .0.short())]
    Repository(SnapshotId),
    /// Its place in the chain is taken, or the one before it is missing.
    #[error("set `{set}`: snapshot {} does not follow the one before it; snapshots were removed or replaced, or a record is damaged", id.short())]
    Link {
        /// Which set.
        set: SetName,
        /// Where the chain breaks.
        id: SnapshotId,
    },
    /// The holder has lost it: its disk has damaged the record, so it says.
    #[error("snapshot {} (number {sequence}{}) is lost: its record was damaged", id.short(), of_set(set.as_ref()))]
    Lost {
        /// Which.
        id: SnapshotId,
        /// Its set, when that is known.
        set: Option<SetName>,
        /// Its place in the chain.
        sequence: u64,
    },
    /// The holder has forgotten the newest one, which no rule of its lets it do.
    #[error("set `{set}`: the holder has forgotten the newest snapshot, {}, which it never should", id.short())]
    Forgotten {
        /// Which set.
        set: SetName,
        /// Its newest snapshot.
        id: SnapshotId,
    },
}

fn of_set(set: Option<&SetName>) -> String {
    set.map(|set| format!(" of set `{set}`")).unwrap_or_default()
}

/// Checks a listing: every id, signature and link, forgotten snapshots included. Returns the snapshots that hold and that are not
/// forgotten, by set and sequence, and every break.
///
/// A gap in which every snapshot is `damaged` beyond reading is told as what it is, a loss, not as a chain that somebody has cut.
///
/// `known_signers` are keys (hex) that the caller vouches for; the owner log is only the holder's word.
pub fn check(
    repository: RepositoryId,
    owner_log: &[OwnerEvent],
    known_signers: &[String],
    listed: &[SnapshotInfo],
    damaged: &[Mark],
) -> (Vec<Checked>, Vec<Break>) {
    let known: HashSet<&str> = known_signers.iter().map(String::as_str).collect();
    let logged: HashSet<&str> = owner_log.iter().map(OwnerEvent::signer).collect();
    let lost: Vec<&Mark> = damaged.iter().filter(|mark| mark.record_lost).collect();
    let tell = |mark: &&Mark| Break::Lost { id: mark.snapshot, set: mark.set.clone(), sequence: mark.sequence };
    let mut breaks: Vec<Break> = lost.iter().map(tell).collect();
    let mut sets: BTreeMap<SetName, Vec<Checked>> = BTreeMap::new();
    for info in listed {
        let problem = match signer::open_record(&info.signed) {
            Err(error) => error.to_string(),
            Ok(_) if signer::snapshot_id(&info.signed) != info.id => "its id is not the hash of its record".to_owned(),
            Ok(record) if record.repository != repository => {
                breaks.push(Break::Repository(info.id));
                continue;
            }
            Ok(record) => {
                let signer = record.signer.as_str();
                let trust = match (known.contains(signer), logged.contains(signer)) {
                    (true, _) => Signature::Known,
                    (false, true) => Signature::OwnerLog,
                    (false, false) => Signature::Unverified,
                };
                sets.entry(record.set.clone()).or_default().push(Checked { info: info.clone(), record, trust });
                continue;
            }
        };
        breaks.push(Break::Record { id: info.id, problem });
    }
    let mut good = Vec::new();
    for (set, mut chain) in sets {
        chain.sort_by_key(|checked| checked.record.sequence);
        let mut before: Option<&Checked> = None;
        for checked in &chain {
            let expected = before.map_or((1, None), |before| (before.record.sequence + 1, Some(before.info.id)));
            if (checked.record.sequence, checked.record.previous) != expected
                && !is_loss(&lost, &set, expected.0, &checked.record)
            {
                breaks.push(Break::Link { set: set.clone(), id: checked.info.id });
            }
            before = Some(checked);
        }
        // Of a copy, the newest may be one whose data was lost where it was copied from: a loss, and said there, but nobody's rule.
        let is_let_go = |newest: &&Checked| newest.info.forgotten.as_ref().is_some_and(|mark| !mark.is_not_copied());
        if let Some(newest) = chain.last().filter(is_let_go) {
            breaks.push(Break::Forgotten { set: set.clone(), id: newest.info.id });
        }
        good.extend(chain.into_iter().filter(|checked| checked.info.forgotten.is_none()));
    }
    (good, breaks)
}

/// Whether all snapshots of a set from the number `first` up to the one before `record` are known to be lost.
fn is_loss(lost: &[&Mark], set: &SetName, first: u64, record: &Record) -> bool {
    let numbers: HashSet<u64> = lost
        .iter()
        .filter(|mark| {
            mark.set.as_ref().is_none_or(|of| of == set) && (first..record.sequence).contains(&mark.sequence)
        })
        .map(|mark| mark.sequence)
        .collect();
    record.sequence.checked_sub(first) == Some(numbers.len() as u64)
        && lost.iter().any(|mark| record.previous == Some(mark.snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Alias, Changes, Fingerprint, Forgotten, Receipt, Stream, Totals};
    use crate::signer::SigningKey;
    use jiff::Timestamp;

    const REPOSITORY: RepositoryId = RepositoryId::from_random([1; 16]);

    fn snapshot(key: &SigningKey, sequence: u64, previous: Option<SnapshotId>) -> SnapshotInfo {
        let empty = Stream { length: 0, depth: 0, ids: Vec::new() };
        let record = Record {
            format: 1,
            repository: REPOSITORY,
            set: "docs".parse().unwrap(),
            roots: Vec::new(),
            sequence,
            previous,
            manifest: empty.clone(),
            refs: empty,
            totals: Totals::default(),
            changes: Changes::default(),
            source_time: Timestamp::UNIX_EPOCH,
            device: Alias::new("laptop"),
            signer: key.public(),
            tag: None,
        };
        let signed = key.sign_record(&record);
        let id = signer::snapshot_id(&signed);
        let from = Fingerprint::from_bytes([0; 32]);
        let receipt = Receipt { record: id, received_at: Timestamp::UNIX_EPOCH, from };
        SnapshotInfo { id, signed, receipt, forgotten: None }
    }

    fn chain(key: &SigningKey, length: u64) -> Vec<SnapshotInfo> {
        let mut all: Vec<SnapshotInfo> = Vec::new();
        for sequence in 1..=length {
            all.push(snapshot(key, sequence, all.last().map(|info| info.id)));
        }
        all
    }

    #[test]
    fn a_whole_chain_by_a_known_key_has_no_breaks() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let (good, breaks) = check(REPOSITORY, &[], &[key.public()], &chain(&key, 4), &[]);
        assert_eq!((good.len(), breaks), (4, vec![]));
        assert!(good.iter().all(|checked| checked.trust == Signature::Known));
        let (good, breaks) = check(REPOSITORY, &[], &[], &chain(&key, 4), &[]);
        assert!(breaks.is_empty() && good.iter().all(|checked| checked.trust == Signature::Unverified));
        // The holder's log is the holder's word, and shown as that.
        let (fingerprint, signer) = (Fingerprint::from_bytes([1; 32]), key.public());
        let create = OwnerEvent::Create { fingerprint, signer, alias: Alias::new("old"), at: Timestamp::UNIX_EPOCH };
        let (good, breaks) = check(REPOSITORY, &[create], &[], &chain(&key, 4), &[]);
        assert!(breaks.is_empty() && good.iter().all(|checked| checked.trust == Signature::OwnerLog));
    }

    #[test]
    fn forgotten_snapshots_hold_the_chain_together_and_are_not_offered() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut all = chain(&key, 4);
        let forget = |info: &mut SnapshotInfo| {
            let (record, rule, when) = (info.id, "last 1".to_owned(), Timestamp::UNIX_EPOCH);
            info.forgotten = Some(Forgotten { record, rule, when, until: when });
        };
        forget(&mut all[0]);
        forget(&mut all[2]);
        let (good, breaks) = check(REPOSITORY, &[], &[key.public()], &all, &[]);
        assert_eq!(breaks, []);
        assert_eq!(good.iter().map(|checked| checked.record.sequence).collect::<Vec<_>>(), [2, 4]);
        forget(&mut all[3]);
        assert!(matches!(check(REPOSITORY, &[], &[], &all, &[]).1[..], [Break::Forgotten { .. }]));
        // What a copy has of a snapshot that was damaged where it came from.
        all[3].forgotten.as_mut().unwrap().rule = Forgotten::NOT_COPIED.to_owned();
        let (good, breaks) = check(REPOSITORY, &[], &[], &all, &[]);
        assert_eq!((good.len(), breaks), (1, vec![]));
    }

    #[test]
    fn removing_replacing_or_forging_one_is_a_break() {
        let key = SigningKey::from_bytes(&[1; 32]);
        let whole = chain(&key, 4);
        let mut without = whole.clone();
        without.remove(1);
        assert!(matches!(check(REPOSITORY, &[], &[], &without, &[]).1[..], [Break::Link { .. }]));
        // A holder that says why is believed in what it says, not in more.
        let mark = |info: &SnapshotInfo, sequence| Mark {
            format: 1,
            snapshot: info.id,
            set: Some("docs".parse().unwrap()),
            sequence,
            found_at: Timestamp::UNIX_EPOCH,
            record_lost: true,
            manifest_hit: false,
            lost_chunks: 0,
            files: Vec::new(),
            more_files: 0,
            witnesses: Vec::new(),
            healed_at: None,
        };
        let breaks = |listed: &[SnapshotInfo], damaged: &[Mark]| check(REPOSITORY, &[], &[], listed, damaged).1;
        let (second, third) = (mark(&whole[1], 2), mark(&whole[2], 3));
        let one = breaks(&without, std::slice::from_ref(&second));
        assert!(matches!(one[..], [Break::Lost { sequence: 2, .. }]), "{one:?}");
        assert!(one[0].to_string().contains("(number 2 of set `docs`) is lost"), "{}", one[0]);
        let ends = [whole[0].clone(), whole[3].clone()];
        let both = breaks(&ends, &[second.clone(), third.clone()]);
        assert!(matches!(both[..], [Break::Lost { .. }, Break::Lost { .. }]), "{both:?}");
        for not_all in [&second, &third] {
            let cut = breaks(&ends, std::slice::from_ref(not_all));
            assert!(matches!(cut[..], [Break::Lost { .. }, Break::Link { .. }]), "{cut:?}");
        }
        let another = breaks(&without, &[Mark { snapshot: whole[3].id, ..second }]);
        assert!(matches!(another[..], [Break::Lost { .. }, Break::Link { .. }]), "{another:?}");
        let mut headless = whole.clone();
        headless.remove(0);
        assert!(matches!(check(REPOSITORY, &[], &[], &headless, &[]).1[..], [Break::Link { .. }]));
        let mut edited = whole.clone();
        edited[2].signed.record = edited[2].signed.record.replace("docs", "docz");
        assert!(matches!(check(REPOSITORY, &[], &[], &edited, &[]).1[0], Break::Record { .. }));
        let mut renamed = whole.clone();
        renamed[2].id = renamed[1].id;
        assert!(matches!(check(REPOSITORY, &[], &[], &renamed, &[]).1[0], Break::Record { .. }));
        let elsewhere = RepositoryId::from_random([2; 16]);
        assert_eq!(check(elsewhere, &[], &[], &whole, &[]).1.len(), 4);
    }
}
