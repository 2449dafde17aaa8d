//! Restores of manifests that no source of ours would write. Whatever they say: no panic, nothing outside of the target, and no
//! bytes under a final name but those that the manifest gives it.

use crate::support::bench::{Restored, restore_with};
use crate::support::mutate::{Dice, mutate};
use crate::support::scratch::{long, scratch};
use crate::support::tree::{describe, noise};
use bytes::Bytes;
use lan_backup::codec::{Compression, Encoder, chunk_id};
use lan_backup::manifest::{self, StreamWriter};
use lan_backup::model::{ChunkId, ChunkerParameters, Content, EntryKind, Extent, SnapshotId, Stream};
use lan_backup::restore::select::Include;
use lan_backup::restore::{self, Conflict, PlanOptions};
use lan_backup::vault::{MemoryVault, Vault};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const ALL: [Conflict; 3] = [Conflict::KeepBoth, Conflict::Overwrite, Conflict::Skip];

/// A vault, a target, and what lies beside the target and must stay as it is.
struct Bench {
    base: tempfile::TempDir,
    vault: Arc<MemoryVault>,
    outside: BTreeMap<PathBuf, String>,
}

impl Bench {
    fn new() -> Self {
        let base = scratch();
        fs::create_dir(base.path().join("outside")).unwrap();
        fs::write(base.path().join("outside/secret"), b"secret").unwrap();
        let outside = describe(&base.path().join("outside"));
        Self { base, vault: Arc::new(MemoryVault::new()), outside }
    }

    fn out(&self) -> PathBuf {
        self.base.path().join("out")
    }

    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }

    async fn put(&self, bytes: &[u8]) -> ChunkId {
        let id = chunk_id(bytes);
        let block = Encoder::new(Compression::None).encode(&[(id, Bytes::copy_from_slice(bytes))]);
        self.vault.put(vec![block]).await.unwrap();
        id
    }

    async fn stream(&self, bytes: &[u8]) -> Stream {
        let mut chunks = Vec::new();
        let mut sink = |_, bytes: Bytes| {
            chunks.push(bytes);
            Ok::<_, std::convert::Infallible>(())
        };
        let mut writer = StreamWriter::new(&ChunkerParameters::STANDARD);
        writer.write(bytes, &mut sink).unwrap();
        let stream = writer.finish(&mut sink).unwrap();
        for chunk in &chunks {
            self.put(chunk).await;
        }
        stream
    }

    /// Restores a manifest of these bytes, and sees that nothing else was touched.
    async fn restore(&self, manifest: &[u8], conflict: Conflict) -> restore::Result<Restored> {
        let options = PlanOptions {
            snapshot: SnapshotId::from_bytes([0xab; 32]),
            manifest: self.stream(manifest).await,
            path: None,
            include: Include::default(),
            conflict,
            target: Some(self.out()),
            scratch: std::env::temp_dir(),
        };
        let restored = restore_with(&self.vault, options).await;
        let mut beside: Vec<_> = fs::read_dir(self.base.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        beside.retain(|name| name != "out");
        assert_eq!(beside, ["outside"]);
        assert_eq!(describe(&self.outside()), self.outside);
        restored
    }

    /// The names below the target.
    fn there(&self) -> Vec<String> {
        let mut names: Vec<_> = files(&self.out()).into_keys().collect();
        names.sort();
        names.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    fn clear(&self) {
        let _ = fs::remove_dir_all(self.out());
    }
}

/// Everything below `root` but folders, with the bytes of files.
fn files(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                queue.push(path);
            } else {
                // What a hole makes large is compared by its size alone.
                let small = metadata.is_file() && metadata.len() < 1 << 20;
                let bytes = small.then(|| fs::read(&path).unwrap());
                found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

fn folder(path: &str) -> String {
    format!("{{\"path\":\"{path}\",\"kind\":\"folder\"}}\n")
}

fn link(path: &str, target: &str) -> String {
    format!("{{\"path\":\"{path}\",\"kind\":\"link\",\"target\":\"{target}\"}}\n")
}

/// A file with what stands in `rest` besides path and kind.
fn file(path: &str, rest: &str) -> String {
    format!("{{\"path\":\"{path}\",\"kind\":\"file\",{rest}}}\n")
}

fn of(id: ChunkId, length: usize) -> String {
    format!("\"size\":{length},\"content\":[[\"{id}\",{length}]]")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_leave_the_target_and_lists_out_of_order_are_refused_whole() {
    let bench = Bench::new();
    let id = bench.put(b"evil").await;
    let evil = |path: &str| file(path, &of(id, 4));
    let absolute = bench.outside().join("x");
    let deep = vec!["d"; 129].join("/");
    for manifest in [
        evil("../evil"),
        evil(".."),
        evil("."),
        evil(""),
        evil("/evil"),
        evil(absolute.to_str().unwrap()),
        evil("a//b"),
        evil("a/"),
        evil("nul\\u0000"),
        evil(&"n".repeat(256)),
        folder("a") + &evil("a/../../evil"),
        "{\"pathBytes\":\"Li4vZXZpbA==\",\"kind\":\"folder\"}\n".to_owned(),
        evil(&deep),
        evil("a") + &evil("a"),
        evil("b") + &evil("a"),
        evil("a") + &evil("a/b"),
        evil("a") + &folder("a"),
        evil("nowhere/a"),
        link("a", "../outside") + &evil("a/b"),
        link("a", "../outside") + &folder("a/b") + &evil("a/b/c"),
        folder("a") + &link("a", "../outside") + &evil("a/b"),
        file("a", "\"size\":18446744073709551615,\"content\":[[null,18446744073709551615]]"),
        file("a", "\"size\":-1,\"content\":[]"),
    ] {
        for conflict in ALL {
            let refused = bench.restore(manifest.as_bytes(), conflict).await;
            assert!(matches!(refused, Err(restore::Error::Manifest(_))), "{manifest}");
            assert_eq!(bench.there(), [""; 0], "{manifest}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_parts_do_not_make_it_up_is_a_fault_and_leaves_nothing() {
    let bench = Bench::new();
    let id = bench.put(b"chunk").await;
    let nowhere = ChunkId::from_bytes([9; 32]);
    let half = bench.stream(&Extent::Chunk(id, 5).encode()[..39]).await;
    let one = bench.stream(&Extent::Chunk(id, 5).encode()).await;
    let endless = bench.stream(&Extent::Hole(0).encode().repeat(100_000)).await;
    let json = |stream: &Stream| serde_json::to_string(stream).unwrap();
    let deep = Stream { depth: 4, ..one.clone() };
    let lying = Stream { length: 80, ..one.clone() };
    for rest in [
        format!("\"size\":6,\"content\":[[\"{id}\",5]]"),
        format!("\"size\":4,\"content\":[[\"{id}\",5]]"),
        format!("\"size\":10,\"content\":[[\"{id}\",5],[\"{id}\",4]]"),
        format!("\"size\":5,\"content\":[[\"{id}\",5],[\"{id}\",0]]"),
        "\"size\":0,\"content\":[[null,0]]".to_owned(),
        format!("\"size\":4,\"content\":[[\"{id}\",4]]"),
        format!("\"size\":1048576,\"content\":[[\"{id}\",1048576]]"),
        format!("\"size\":9223372036854775807,\"content\":[[\"{id}\",9223372036854775807]]"),
        format!("\"size\":4,\"content\":[[null,18446744073709551615],[\"{id}\",5]]"),
        "\"size\":9223372036854775807,\"content\":[[null,9223372036854775806]]".to_owned(),
        format!("\"size\":5,\"content\":[[\"{nowhere}\",5]]"),
        "\"size\":5,\"content\":[]".to_owned(),
        "\"size\":5".to_owned(),
        format!("\"size\":5,\"contentList\":{}", json(&half)),
        format!("\"size\":6,\"contentList\":{}", json(&one)),
        format!("\"size\":5,\"contentList\":{}", json(&endless)),
        format!("\"size\":5,\"contentList\":{}", json(&deep)),
        format!("\"size\":5,\"contentList\":{}", json(&lying)),
        format!("\"size\":5,\"contentList\":{}", json(&Stream { depth: 200, ..one })),
    ] {
        let manifest = file("bad", &rest) + &file("good", &of(id, 5));
        for conflict in ALL {
            bench.clear();
            // Bytes that were there stay, even if the rest of the file looks the same.
            let mine = b"chunk".to_vec();
            fs::create_dir(bench.out()).unwrap();
            let in_the_way = conflict != Conflict::KeepBoth;
            if in_the_way {
                fs::write(bench.out().join("bad"), &mine).unwrap();
            }
            let restored = bench.restore(manifest.as_bytes(), conflict).await.unwrap();
            let expected = usize::from(conflict != Conflict::Skip);
            assert_eq!(restored.faults.len(), expected, "{rest}: {:?}", restored.faults);
            let there = files(&bench.out());
            assert_eq!(there.get(Path::new("good")), Some(&Some(b"chunk".to_vec())), "{rest}");
            assert_eq!(there.get(Path::new("bad")), in_the_way.then_some(&Some(mine)), "{rest}");
            assert_eq!(there.len(), 1 + usize::from(in_the_way), "{rest}: {there:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_names_never_gives_a_name_bytes_that_are_not_its_own() {
    let bench = Bench::new();
    let (one, two) = (bench.put(b"one").await, bench.put(b"two!").await);
    let lost = ChunkId::from_bytes([9; 32]);
    let group = |path: &str, id: ChunkId, length| file(path, &format!("\"linkGroup\":\"g\",{}", of(id, length)));
    let read = |name: &str| fs::read(bench.out().join(name)).ok();

    // Files that differ are no names of one file.
    bench.restore((group("a", one, 3) + &group("b", two, 4)).as_bytes(), Conflict::KeepBoth).await.unwrap();
    assert_eq!((read("a"), read("b")), (Some(b"one".to_vec()), Some(b"two!".to_vec())));

    // The first name cannot be had, and something else lies there.
    bench.clear();
    fs::create_dir(bench.out()).unwrap();
    fs::write(bench.out().join("a"), b"mine").unwrap();
    let manifest = group("a", lost, 3) + &group("b", lost, 3);
    let restored = bench.restore(manifest.as_bytes(), Conflict::Overwrite).await.unwrap();
    assert_eq!(restored.faults.len(), 2, "{:?}", restored.faults);
    assert_eq!((read("a"), read("b")), (Some(b"mine".to_vec()), None));

    // The first name is left alone; the second is not.
    let manifest = group("a", one, 3) + &group("b", one, 3) + &group("c", one, 3);
    let restored = bench.restore(manifest.as_bytes(), Conflict::Skip).await.unwrap();
    assert_eq!(restored.faults, []);
    assert_eq!(
        (read("a"), read("b"), read("c")),
        (Some(b"mine".to_vec()), Some(b"one".to_vec()), Some(b"one".to_vec()))
    );

    // A further name takes the place of what is there, when asked to.
    fs::remove_file(bench.out().join("c")).unwrap();
    fs::write(bench.out().join("c"), b"also mine").unwrap();
    let restored = bench.restore(manifest.as_bytes(), Conflict::Overwrite).await.unwrap();
    assert_eq!(restored.faults, []);
    let inode = |name: &str| fs::metadata(bench.out().join(name)).unwrap().ino();
    assert_eq!((inode("a"), inode("a")), (inode("b"), inode("c")));
    assert_eq!(read("c"), Some(b"one".to_vec()));
    assert_eq!(bench.there(), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn set_id_bits_are_left_off_with_an_owner_and_without() {
    for owner in ["", "\"uid\":0,\"gid\":0,"] {
        let bench = Bench::new();
        let id = bench.put(b"tool").await;
        let manifest = file("tool", &format!("{owner}\"mode\":4294967295,{}", of(id, 4)));
        bench.restore(manifest.as_bytes(), Conflict::KeepBoth).await.unwrap();
        assert_eq!(fs::metadata(bench.out().join("tool")).unwrap().permissions().mode() & 0o7777, 0o1777);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_target_is_never_walked_through() {
    for conflict in ALL {
        let bench = Bench::new();
        let id = bench.put(b"new").await;
        let new = |path: &str| file(path, &of(id, 3));
        let manifest = folder("tree")
            + &folder("tree/sub")
            + &new("tree/sub/secret")
            + &folder("tree/sub/x")
            + &new("tree/sub/x/y")
            + &new("tree/target")
            + &link("tree/z", "sub");
        fs::create_dir_all(bench.out().join("tree")).unwrap();
        symlink(bench.outside(), bench.out().join("tree/sub")).unwrap();
        symlink(bench.outside().join("secret"), bench.out().join("tree/target")).unwrap();
        let restored = bench.restore(manifest.as_bytes(), conflict).await.unwrap();
        assert_eq!(restored.faults, []);
        let expected: &[&str] = match conflict {
            Conflict::Skip => &["tree/sub", "tree/target", "tree/z"],
            Conflict::Overwrite => &["tree/sub/secret", "tree/sub/x/y", "tree/target", "tree/z"],
            Conflict::KeepBoth => &[
                "tree/sub",
                "tree/sub (restored abababab)/secret",
                "tree/sub (restored abababab)/x/y",
                "tree/target",
                "tree/target (restored abababab)",
                "tree/z",
            ],
        };
        assert_eq!(bench.there(), expected);
        let still = fs::symlink_metadata(bench.out().join("tree/target")).unwrap().is_symlink();
        assert_eq!(still, conflict != Conflict::Overwrite);
    }
}

/// The files that a manifest gives bytes to, as far as its lines can be read.
fn promised(manifest: &[u8], chunks: &HashMap<ChunkId, Vec<u8>>) -> HashMap<PathBuf, Vec<Vec<u8>>> {
    let mut promised: HashMap<PathBuf, Vec<Vec<u8>>> = HashMap::new();
    for entry in manifest.split(|b| *b == b'\n').filter_map(|line| manifest::decode(line).ok()) {
        let EntryKind::File { size, content: Some(Content::Inline(extents)), .. } = &entry.kind else { continue };
        let mut bytes = Vec::new();
        for extent in extents {
            match extent {
                Extent::Hole(length) if *length < 1 << 20 => bytes.resize(bytes.len() + *length as usize, 0),
                Extent::Chunk(id, length) if chunks.get(id).is_some_and(|chunk| chunk.len() as u64 == *length) => {
                    bytes.extend_from_slice(&chunks[id]);
                }
                _ => break,
            }
        }
        if bytes.len() as u64 == *size {
            let path = PathBuf::from(OsStr::from_bytes(entry.path.as_bytes()));
            promised.entry(path).or_default().push(bytes);
        }
    }
    promised
}

/// Set in the process of its own in which the mutations are restored, so that its memory is theirs alone.
const ALONE: &str = "LAN_BACKUP_TEST_ALONE";
/// What restoring any number of hostile manifests may take.
const PEAK: u64 = 256 << 20;

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
#[expect(clippy::print_stdout, reason = "what was skipped is said")]
fn mutations_of_a_good_manifest_do_no_harm() {
    if std::env::var_os(ALONE).is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(restore_mutations());
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else {
            println!("SKIPPED: this system does not tell the peak of a process's memory");
            return;
        };
        let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
        assert!(peak < PEAK, "{peak} bytes at the peak");
        return;
    }
    let name = "hostile_manifest::mutations_of_a_good_manifest_do_no_harm";
    let program = std::env::current_exe().unwrap();
    let ran = Command::new(program).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

async fn restore_mutations() {
    let bench = Bench::new();
    let mut chunks = HashMap::new();
    for number in 0..4_u64 {
        let bytes = noise(3 + 7 * number as usize, number);
        chunks.insert(bench.put(&bytes).await, bytes);
    }
    let ids: Vec<ChunkId> = chunks.keys().copied().collect();
    let whole = |i: usize| of(ids[i], chunks[&ids[i]].len());
    let both = format!(
        "\"size\":{},\"content\":[[\"{}\",{}],[null,7]]",
        chunks[&ids[3]].len() + 7,
        ids[3],
        chunks[&ids[3]].len()
    );
    let good = folder("t")
        + &file("t/a", &whole(0))
        + &folder("t/b")
        + &file("t/b/c", &both)
        + &link("t/b/d", "../../../outside")
        + &file("t/e", &format!("\"linkGroup\":\"g\",\"mode\":420,{}", whole(1)))
        + &file("t/f", &format!("\"linkGroup\":\"g\",\"mtime\":\"5.000000001\",{}", whole(1)))
        + &file("t/g", &format!("\"xattrs\":{{\"user.x\":\"AAEC\"}},{}", whole(2)));
    let mut dice = Dice::new(b"seed");
    let (mut tried, mut restored) = (0, 0);
    while tried < if long() { 10_000 } else { 1_000 } {
        let manifest = if tried == 0 { good.as_bytes().to_vec() } else { mutate(good.as_bytes(), &mut dice) };
        tried += 1;
        let conflict = ALL[dice.below(3)];
        // What was restored before is in the way of every other one.
        if dice.below(2) == 0 {
            bench.clear();
        }
        let before = files(&bench.out());
        let outcome = bench.restore(&manifest, conflict).await;
        bench.vault.lose(&chunk_id(&manifest));
        restored += u64::from(outcome.is_ok());
        let promised = promised(&manifest, &chunks);
        for (path, bytes) in files(&bench.out()) {
            let unmarked = PathBuf::from(path.to_string_lossy().replace(" (restored abababab)", ""));
            let right = |bytes: &Vec<u8>| {
                [&path, &unmarked].iter().any(|path| promised.get(*path).is_some_and(|all| all.contains(bytes)))
            };
            let fine = before.get(&path) == Some(&bytes) || bytes.as_ref().is_none_or(right);
            assert!(fine, "{path:?} of {}", String::from_utf8_lossy(&manifest));
        }
    }
    assert!(restored > tried / 50, "{restored} of {tried}");
}
