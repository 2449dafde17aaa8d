//! Chunks that occur again and again, as equal blocks of a disk image do. What was wanted before is kept once it has been fetched again,
//! and is fetched no more while it is among the last [`KEPT_BYTES`] of those. A snapshot in which nothing repeats itself costs a table of
//! 256 KiB and no copy; what occurs just twice, or what repeats itself at the distance of more than is kept, is fetched each time.

use crate::model::ChunkId;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};

/// Ids that are remembered to have been wanted: a newer one takes the place of an older one, so that it is about the last so many.
const SEEN: usize = 64 << 10;
/// Bytes that are kept.
const KEPT_BYTES: usize = 32 << 20;
/// What a chunk that is kept costs beside its bytes.
const OVERHEAD: usize = 300;

/// What was wanted lately, and the bytes of what was wanted more than once.
#[derive(Debug)]
pub(crate) struct Repeats {
    // A part of an id each, in the place that another part of it names: two ids are taken for one in four billion cases, and then one
    // is kept in vain.
    seen: Vec<u32>,
    kept: HashMap<ChunkId, (Bytes, u64)>,
    // The kept ones by when they were last wanted.
    order: BTreeMap<u64, ChunkId>,
    now: u64,
    bytes: usize,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { seen: vec![0; SEEN], kept: HashMap::new(), order: BTreeMap::new(), now: 0, bytes: 0 }
    }
}

/// What is known of a chunk that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// It was not wanted lately.
    New,
    /// It was, and is worth keeping once it has been fetched again.
    Again,
    /// Its bytes are here.
    Kept(Bytes),
}

impl Repeats {
    /// A chunk is wanted.
    pub(crate) fn want(&mut self, id: &ChunkId) -> Wanted {
        self.now += 1;
        if let Some((bytes, last)) = self.kept.get_mut(id) {
            self.order.remove(last);
            *last = self.now;
            self.order.insert(self.now, *id);
            return Wanted::Kept(bytes.clone());
        }
        let part = u64::from_le_bytes(id.as_bytes().first_chunk().copied().unwrap_or_default());
        let (place, tag) = (part as usize % SEEN, (part >> 32) as u32);
        if std::mem::replace(&mut self.seen[place], tag) == tag { Wanted::Again } else { Wanted::New }
    }

    /// The checked bytes of a chunk that was wanted [again](Wanted::Again). They are copied: a slice would hold all that came with them.
    pub(crate) fn keep(&mut self, id: ChunkId, bytes: &[u8]) {
        let cost = bytes.len() + OVERHEAD;
        if cost > KEPT_BYTES || self.kept.contains_key(&id) {
            return;
        }
        self.bytes += cost;
        while self.bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((bytes, _)) = self.kept.remove(&oldest) {
                self.bytes -= bytes.len() + OVERHEAD;
            }
        }
        self.now += 1;
        self.order.insert(self.now, id);
        self.kept.insert(id, (Bytes::copy_from_slice(bytes), self.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::chunk_id;

    fn chunk(n: u32, length: usize) -> (ChunkId, Vec<u8>) {
        let bytes: Vec<u8> = n.to_le_bytes().into_iter().cycle().take(length).collect();
        (chunk_id(&bytes), bytes)
    }

    #[test]
    fn what_is_wanted_a_third_time_is_at_hand() {
        let mut repeats = Repeats::default();
        let (id, bytes) = chunk(7, 300);
        assert_eq!(repeats.want(&id), Wanted::New);
        assert_eq!(repeats.want(&chunk(8, 300).0), Wanted::New);
        assert_eq!(repeats.want(&id), Wanted::Again);
        repeats.keep(id, &bytes);
        assert_eq!(repeats.want(&id), Wanted::Kept(Bytes::from(bytes)));
    }

    #[test]
    fn what_was_not_wanted_for_longest_makes_room() {
        let mut repeats = Repeats::default();
        let length = 1 << 20;
        let count = (KEPT_BYTES / (length + OVERHEAD)) as u32;
        for n in 0..=count {
            let (id, bytes) = chunk(n, length);
            repeats.keep(id, &bytes);
            // A file that is always there.
            assert!(matches!(repeats.want(&chunk(0, length).0), Wanted::Kept(_)));
            assert!(repeats.bytes <= KEPT_BYTES && repeats.order.len() == repeats.kept.len());
        }
        assert!(!matches!(repeats.want(&chunk(1, length).0), Wanted::Kept(_)));
        assert!((2..=count).all(|n| matches!(repeats.want(&chunk(n, length).0), Wanted::Kept(_))));
        let (id, _) = chunk(1000, 1);
        repeats.keep(id, &vec![0; KEPT_BYTES]);
        assert!(repeats.kept.len() == count as usize, "what fits nowhere drives nothing out");
    }
}
