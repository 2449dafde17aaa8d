//! Many manifests of one repository side by side, path by path. What they share is read once, or not at all.
//!
//! Manifests are cut by content, so those of two snapshots consist of the same chunks but for the places where they differ.
//! Manifests that stand at the same place of the same chunk form a *group*: it is read and parsed once for all of them. Where
//! their next chunks differ a group is divided, and groups that come to the same place again become one. So the work is that of
//! the distinct chunks: for two hundred snapshots of a million files hardly more than for one.

use crate::manifest::leaves::Leaves;
use crate::manifest::stream_reader::fetch;
use crate::manifest::{Error, Result, decode};
use crate::model::limits::MAX_ENTRY_LINE_BYTES;
use crate::model::{ChunkId, Entry, RelPath, Stream};
use crate::vault::Vault;
use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Chunks of all manifests together, four bytes each: 64 MiB.
const MAX_PLACES: usize = 16 << 20;
/// Chunks fetched in one call.
const FETCH_CHUNKS: usize = 8;
/// Chunks kept beside those that groups stand in, because they were fetched ahead: about 16 MiB of a cut manifest.
const KEPT_CHUNKS: usize = 64;

/// What is done about entries that all manifests have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// They are given like all others.
    Given,
    /// They are passed over, and chunks that hold nothing else are not even fetched.
    Skipped,
}

/// Reads manifests side by side.
#[derive(Debug)]
pub struct Merge<V> {
    vault: Arc<V>,
    shared: Shared,
    // Every chunk once, and for each manifest the numbers of its chunks.
    ids: Vec<ChunkId>,
    lists: Vec<Vec<u32>>,
    groups: Vec<Group>,
    // The oldest first.
    kept: VecDeque<(u32, Bytes)>,
    lost: Vec<(usize, String)>,
}

/// A path, and what the manifests say about it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which.
    pub path: RelPath,
    /// What is said, each once.
    pub versions: Vec<Version>,
}

/// One of the things that manifests say about a path.
#[derive(Clone, Debug)]
pub struct Version {
    line: Bytes,
    /// The manifests that say so, by their place in the list, ascending.
    pub manifests: Vec<usize>,
}

impl Version {
    /// The entry.
    ///
    /// # Errors
    /// [`Error::Middle`] when the line is not one.
    pub fn entry(&self) -> Result<Entry> {
        decode(&self.line).map_err(Error::Middle)
    }
}

/// Manifests that stand at the same place of the same chunk.
#[derive(Debug)]
struct Group {
    /// Each with the place in its list of the chunk after this one.
    members: Vec<(u32, u32)>,
    /// The chunk, and where in it the next line begins.
    leaf: Option<u32>,
    bytes: Bytes,
    at: usize,
    /// The line that they stand at, and its path; none before the first.
    line: Bytes,
    path: Option<RelPath>,
}

impl<V: Vault> Merge<V> {
    /// Begins to read.
    ///
    /// # Errors
    /// The vault's; [`Error::TooLong`] when the lists do not fit into memory.
    pub async fn new(vault: Arc<V>, manifests: &[Stream], shared: Shared) -> Result<Self> {
        let mut numbers: HashMap<ChunkId, u32> = HashMap::new();
        let mut ids = Vec::new();
        let mut lists: Vec<Vec<u32>> = Vec::with_capacity(manifests.len());
        let mut places = 0;
        let mut lost = Vec::new();
        for (number, manifest) in manifests.iter().enumerate() {
            let leaves = match Leaves::load(vault.clone(), manifest).await {
                Err(error) if is_damage(&error) => {
                    lost.push((number, error.to_string()));
                    Leaves::default()
                }
                other => other?.ok_or(Error::TooLong)?,
            };
            places += leaves.ids().len();
            if places > MAX_PLACES {
                return Err(Error::TooLong);
            }
            let number = |id: &ChunkId| {
                *numbers.entry(*id).or_insert_with(|| {
                    ids.push(*id);
                    ids.len() as u32 - 1
                })
            };
            lists.push(leaves.ids().iter().map(number).collect());
        }
        let members = (0..lists.len() as u32).map(|manifest| (manifest, 0)).collect();
        let begin = Group { members, leaf: None, bytes: Bytes::new(), at: 0, line: Bytes::new(), path: None };
        let mut merge = Self { vault, shared, ids, lists, groups: Vec::new(), kept: VecDeque::new(), lost };
        merge.advance(begin).await?;
        Ok(merge)
    }

    /// The next path that is wanted; `None` after the last. Memory: the chunks that groups stand in, and a few more.
    ///
    /// # Errors
    /// The vault's, or what is wrong with a line or its place.
    pub async fn next(&mut self, wants: impl Fn(&RelPath) -> bool) -> Result<Option<Step>> {
        loop {
            let first = self.groups.iter().filter_map(|group| group.path.as_ref()).min();
            let Some(path) = first.cloned() else { return Ok(None) };
            let at_path = |group: &mut Group| group.path.as_ref() == Some(&path);
            let mut here: Vec<Group> = self.groups.extract_if(.., at_path).collect();
            let shared = here.len() == 1 && self.shared == Shared::Skipped && self.is_whole(&here[0]);
            let versions = if !shared && wants(&path) { versions(&here) } else { Vec::new() };
            unite(&mut here);
            for group in here {
                self.advance(group).await?;
            }
            let in_all = versions.len() == 1 && versions[0].manifests.len() == self.lists.len();
            let passed_over = in_all && self.shared == Shared::Skipped;
            if !versions.is_empty() && !passed_over {
                return Ok(Some(Step { path, versions }));
            }
        }
    }

    /// The manifests that cannot be read to their end, each with the reason: their chunks are damaged or gone. What they say
    /// from there on is not given; the others go on.
    pub fn lost(&self) -> &[(usize, String)] {
        &self.lost
    }

    fn is_whole(&self, group: &Group) -> bool {
        group.members.len() == self.lists.len()
    }

    /// Takes a group to its next line; it may have to be divided on the way.
    async fn advance(&mut self, group: Group) -> Result<()> {
        let last = group.path.clone();
        // Each with the beginning of a line whose end lies in a later chunk.
        let mut on_the_way = vec![(group, BytesMut::new())];
        while let Some((mut group, mut begun)) = on_the_way.pop() {
            if self.shared == Shared::Skipped && self.is_whole(&group) {
                self.skip(&mut group, &mut begun).await?;
            }
            let rest = group.bytes.slice(group.at..);
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                group.at += end + 1;
                group.line = rest.slice(..end);
                if !begun.is_empty() {
                    begun.extend_from_slice(&group.line);
                    group.line = begun.freeze();
                }
                let path = Entry::path_of(&group.line).map_err(Error::Middle)?;
                if last.as_ref().is_some_and(|last| *last >= path) {
                    return Err(Error::Order(path));
                }
                group.path = Some(path);
                self.groups.push(group);
                continue;
            }
            begun.extend_from_slice(&rest);
            if begun.len() > MAX_ENTRY_LINE_BYTES {
                return Err(Error::Middle("it is longer than 1 MiB".to_owned()));
            }
            let mut ways: BTreeMap<Option<u32>, Vec<(u32, u32)>> = BTreeMap::new();
            for (manifest, place) in group.members {
                let next = self.lists[manifest as usize].get(place as usize).copied();
                ways.entry(next).or_default().push((manifest, place + 1));
            }
            for (leaf, members) in ways {
                let Some(number) = leaf else {
                    if begun.is_empty() {
                        continue;
                    }
                    return Err(Error::Middle("it does not end".to_owned()));
                };
                let bytes = match self.leaf(number, members[0]).await {
                    Err(error) if is_damage(&error) => {
                        let reason = error.to_string();
                        self.lost.extend(members.iter().map(|(manifest, _)| (*manifest as usize, reason.clone())));
                        continue;
                    }
                    other => other?,
                };
                let group = Group { members, leaf, bytes, at: 0, line: Bytes::new(), path: None };
                on_the_way.push((group, begun.clone()));
            }
        }
        Ok(())
    }

    /// Goes to the end of what all manifests have in common: the rest of this chunk, and the chunks after it that are the same in
    /// all. Of those only the last is fetched, for the line that ends beyond it.
    async fn skip(&mut self, group: &mut Group, begun: &mut BytesMut) -> Result<()> {
        let past_line = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
        if let Some(end) = past_line(&group.bytes[group.at..]) {
            begun.clear();
            group.at += end;
        }
        let next = |(manifest, place): (u32, u32), ahead: usize| {
            self.lists[manifest as usize].get(place as usize + ahead).copied()
        };
        let first = group.members[0];
        let mut common = 0;
        while let Some(leaf) = next(first, common)
            && group.members.iter().all(|member| next(*member, common) == Some(leaf))
        {
            common += 1;
        }
        if common == 0 {
            return Ok(());
        }
        let places: Vec<u32> = (0..common).filter_map(|ahead| next(first, ahead)).collect();
        let mut tail: Vec<Bytes> = Vec::new();
        let mut complete = false;
        for leaf in places.into_iter().rev() {
            let bytes = self.leaf(leaf, (0, u32::MAX)).await?;
            let end = past_line(&bytes);
            tail.push(bytes.slice(end.unwrap_or(0)..));
            if tail.iter().map(Bytes::len).sum::<usize>() > MAX_ENTRY_LINE_BYTES {
                return Err(Error::Middle("it is longer than 1 MiB".to_owned()));
            }
            if end.is_some() {
                complete = true;
                break;
            }
        }
        if complete {
            begun.clear();
        } else {
            begun.extend_from_slice(&group.bytes[group.at..]);
        }
        tail.iter().rev().for_each(|bytes| begun.extend_from_slice(bytes));
        for (_, place) in &mut group.members {
            *place += common as u32;
        }
        (group.leaf, group.bytes, group.at) = (None, Bytes::new(), 0);
        Ok(())
    }

    /// The bytes of a chunk; the next ones of `member` are fetched with it.
    async fn leaf(&mut self, number: u32, member: (u32, u32)) -> Result<Bytes> {
        if let Some(bytes) = self.at_hand(number) {
            return Ok(bytes);
        }
        let mut wanted = vec![number];
        if self.shared == Shared::Given {
            let (manifest, place) = member;
            let ahead = self.lists[manifest as usize].get(place as usize..).unwrap_or_default();
            for next in ahead.iter().take(FETCH_CHUNKS - 1) {
                if self.at_hand(*next).is_none() && !wanted.contains(next) {
                    wanted.push(*next);
                }
            }
        }
        let ids = |wanted: &[u32]| wanted.iter().map(|number| self.ids[*number as usize]).collect();
        let fetched = match fetch(&*self.vault, ids(&wanted)).await {
            // It may be one of those that only come later.
            Err(error) if is_damage(&error) && wanted.len() > 1 => {
                wanted.truncate(1);
                fetch(&*self.vault, ids(&wanted)).await?
            }
            other => other?,
        };
        let first = fetched.first().cloned().ok_or(Error::Form)?;
        self.kept.extend(wanted.into_iter().zip(fetched));
        let surplus = self.kept.len().saturating_sub(KEPT_CHUNKS);
        self.kept.drain(..surplus);
        Ok(first)
    }

    fn at_hand(&self, number: u32) -> Option<Bytes> {
        let kept = self.kept.iter().rfind(|(kept, _)| *kept == number).map(|(_, bytes)| bytes);
        let held = || self.groups.iter().find(|group| group.leaf == Some(number)).map(|group| &group.bytes);
        kept.or_else(held).cloned()
    }
}

/// Whether something that is kept is damaged or gone, as opposed to nobody being there.
fn is_damage(error: &Error) -> bool {
    use crate::vault::Error as Kind;
    matches!(error, Error::Damaged(_) | Error::Vault(Kind::NotFound(_) | Kind::Corrupt(_) | Kind::Missing(_)))
}

/// What these groups, all at the same path, say about it.
fn versions(here: &[Group]) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    for group in here {
        let manifests = group.members.iter().map(|(manifest, _)| *manifest as usize);
        match versions.iter_mut().find(|version| version.line == group.line) {
            Some(version) => version.manifests.extend(manifests),
            None => versions.push(Version { line: group.line.clone(), manifests: manifests.collect() }),
        }
    }
    for version in &mut versions {
        version.manifests.sort_unstable();
    }
    versions.sort_by(|a, b| a.manifests.cmp(&b.manifests));
    versions
}

/// Makes one of groups that go on at the same place.
fn unite(here: &mut Vec<Group>) {
    let mut at = 1;
    while at < here.len() {
        let same = |other: &Group| other.leaf.is_some() && other.leaf == here[at].leaf && other.at == here[at].at;
        if let Some(into) = here[..at].iter().position(same) {
            let group = here.remove(at);
            here[into].members.extend(group.members);
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Compression, Encoder, chunk_id};
    use crate::manifest::{EntryReader, StreamWriter};
    use crate::model::ChunkerParameters;
    use crate::vault::MemoryVault;
    use std::collections::BTreeSet;

    type Tree = BTreeMap<String, String>;

    async fn write(vault: &MemoryVault, tree: &Tree) -> Stream {
        let small: ChunkerParameters =
            serde_json::from_str(r#"{"min":4096,"average":8192,"max":16384,"seed":0}"#).unwrap();
        let mut chunks = Vec::new();
        let mut sink = |id, bytes| {
            chunks.push((id, bytes));
            Ok::<_, std::convert::Infallible>(())
        };
        let mut writer = StreamWriter::new(&small);
        for (path, target) in tree {
            let line = format!("{{\"path\":\"{path}\",\"kind\":\"link\",\"target\":\"{target}\"}}\n");
            writer.write(line.as_bytes(), &mut sink).unwrap();
        }
        let stream = writer.finish(&mut sink).unwrap();
        for chunk in chunks {
            vault.put(vec![Encoder::new(Compression::default()).encode(&[chunk])]).await.unwrap();
        }
        stream
    }

    /// 2,000 paths in twelve states, each with a few edits; now and then a line that is longer than a chunk.
    fn history(seed: u8) -> Vec<Tree> {
        let random = |a: usize, b: usize| {
            let hash = chunk_id(&[&[seed][..], &a.to_le_bytes(), &b.to_le_bytes()].concat());
            u32::from_le_bytes(*hash.as_bytes().first_chunk().unwrap()) as usize
        };
        let mut tree: Tree = (0..2000).map(|n| (format!("p{n:04}"), format!("t{}", random(n, 0)))).collect();
        let mut states = Vec::new();
        for state in 1..=12 {
            // One state in four is like the one before.
            for edit in 0..if state % 4 == 0 { 0 } else { 6 } {
                let path = format!("p{:04}", random(state, edit) % 2100);
                match random(edit, state) % 4 {
                    0 => drop(tree.remove(&path)),
                    1 => drop(tree.insert(format!("{path}x"), "new".repeat(1 + random(edit, state) % 9000))),
                    _ => drop(tree.insert(path, format!("v{state}"))),
                }
            }
            states.push(tree.clone());
        }
        states
    }

    fn expected(states: &[Tree]) -> BTreeMap<String, BTreeSet<(Vec<usize>, String)>> {
        let mut all: BTreeMap<String, BTreeMap<String, Vec<usize>>> = BTreeMap::new();
        for (number, state) in states.iter().enumerate() {
            for (path, target) in state {
                all.entry(path.clone()).or_default().entry(target.clone()).or_default().push(number);
            }
        }
        let turned = |versions: BTreeMap<String, Vec<usize>>| versions.into_iter().map(|(t, n)| (n, t)).collect();
        all.into_iter().map(|(path, versions)| (path, turned(versions))).collect()
    }

    async fn merged(
        vault: &Arc<MemoryVault>,
        streams: &[Stream],
        shared: Shared,
    ) -> BTreeMap<String, BTreeSet<(Vec<usize>, String)>> {
        let mut merge = Merge::new(vault.clone(), streams, shared).await.unwrap();
        let mut all: BTreeMap<String, BTreeSet<(Vec<usize>, String)>> = BTreeMap::new();
        let mut last = None;
        while let Some(step) = merge.next(|_| true).await.unwrap() {
            assert!(last.as_ref().is_none_or(|last| *last < step.path), "in order, each once");
            for version in &step.versions {
                let crate::model::EntryKind::Link { target } = version.entry().unwrap().kind else { panic!() };
                let target = String::from_utf8(target).unwrap();
                all.entry(step.path.to_string()).or_default().insert((version.manifests.clone(), target));
            }
            last = Some(step.path);
        }
        all
    }

    #[tokio::test]
    async fn every_path_comes_once_with_every_version_and_the_manifests_it_is_in() {
        for seed in 0..2 {
            let states = history(seed);
            let vault = Arc::new(MemoryVault::new());
            let mut streams = Vec::new();
            for state in &states {
                streams.push(write(&vault, state).await);
            }
            assert_eq!(merged(&vault, &streams, Shared::Given).await, expected(&states), "seed {seed}");
            let mut differences = expected(&states);
            differences.retain(|_, versions| versions.len() > 1 || versions.first().unwrap().0.len() < states.len());
            assert_eq!(merged(&vault, &streams, Shared::Skipped).await, differences, "seed {seed}");
            for pair in [[0, 11], [3, 2], [5, 5]] {
                let states = pair.map(|n| states[n].clone());
                let streams = pair.map(|n| streams[n].clone());
                let mut differences = expected(&states);
                differences.retain(|_, versions| versions.first().unwrap().0.len() < 2);
                assert_eq!(merged(&vault, &streams, Shared::Skipped).await, differences, "seed {seed}, {pair:?}");
            }
        }
    }

    #[tokio::test]
    async fn shared_chunks_are_read_once_or_not_at_all() {
        let states = history(9);
        let vault = Arc::new(MemoryVault::new());
        let mut streams = Vec::new();
        for state in &states {
            streams.push(write(&vault, state).await);
        }
        let distinct = vault.chunk_ids().len() as u64;
        let mut reader = EntryReader::new(vault.clone(), &streams[0]).unwrap();
        while reader.next().await.unwrap().is_some() {}
        let one = vault.chunks_got();
        merged(&vault, &streams, Shared::Given).await;
        let all = vault.chunks_got() - one;
        assert!(all <= distinct + distinct / 4, "{all} reads for {distinct} chunks in twelve manifests");
        let before = vault.chunks_got();
        let same = [streams[2].clone(), streams[3].clone()];
        assert!(merged(&vault, &same, Shared::Skipped).await.is_empty());
        assert!(vault.chunks_got() - before <= 2 + u64::from(same[0].depth) * 4, "equal manifests are not read");
    }

    #[tokio::test]
    async fn a_damaged_chunk_loses_the_manifests_that_need_it_and_no_others() {
        let states = history(3);
        let vault = Arc::new(MemoryVault::new());
        let (one, other) = (write(&vault, &states[0]).await, write(&vault, &states[11]).await);
        let of = async |stream: &Stream| Leaves::load(vault.clone(), stream).await.unwrap().unwrap().ids().to_vec();
        let (own, others) = (of(&one).await, of(&other).await);
        let lost = own.iter().rfind(|id| !others.contains(id)).unwrap();
        vault.corrupt(lost, b"rot");
        let mut merge = Merge::new(vault.clone(), &[one, other], Shared::Given).await.unwrap();
        let (mut in_one, mut in_other) = (0, 0);
        while let Some(step) = merge.next(|_| true).await.unwrap() {
            in_one += step.versions.iter().filter(|version| version.manifests.contains(&0)).count();
            in_other += step.versions.iter().filter(|version| version.manifests.contains(&1)).count();
        }
        assert_eq!(merge.lost().iter().map(|(manifest, _)| *manifest).collect::<Vec<_>>(), [0]);
        assert!(in_one < states[0].len());
        assert_eq!(in_other, states[11].len());
    }

    #[tokio::test]
    async fn no_manifest_and_empty_ones_are_merged_too() {
        let vault = Arc::new(MemoryVault::new());
        assert!(merged(&vault, &[], Shared::Given).await.is_empty());
        let empty = write(&vault, &Tree::new()).await;
        let one = write(&vault, &[("a".to_owned(), "b".to_owned())].into()).await;
        let both = merged(&vault, &[empty, one], Shared::Skipped).await;
        assert_eq!(both, [("a".to_owned(), [(vec![1], "b".to_owned())].into())].into());
    }

    #[tokio::test]
    async fn unsorted_manifests_and_cut_lines_are_refused() {
        let vault = Arc::new(MemoryVault::new());
        for text in ["{\"path\":\"b\"}\n{\"path\":\"a\"}\n", "{\"path\":\"b\"}", "nonsense\n"] {
            let chunk = (chunk_id(text.as_bytes()), Bytes::from_static(text.as_bytes()));
            let stream = Stream { length: text.len() as u64, depth: 0, ids: vec![chunk.0] };
            vault.put(vec![Encoder::new(Compression::default()).encode(&[chunk])]).await.unwrap();
            let read = async {
                let mut merge = Merge::new(vault.clone(), &[stream], Shared::Given).await?;
                while merge.next(|_| false).await?.is_some() {}
                Ok::<_, Error>(())
            };
            assert!(matches!(read.await, Err(Error::Order(_) | Error::Middle(_))), "{text}");
        }
    }
}
