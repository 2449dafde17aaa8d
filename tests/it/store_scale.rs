//! A large store: a million chunks in packs of the usual number, two hundred snapshots of a hundred thousand files. Opening it, listing
//! its snapshots and looking into one folder must not depend on all of that; what looks at everything takes seconds.
//!
//! The usual form is a fiftieth of it and holds what is read; with `LAN_BACKUP_LONG=1` it is the whole, and prints how long the
//! program takes and how much memory:
//!
//! ```text
//! LAN_BACKUP_LONG=1 cargo test --release --test it a_large_store -- --nocapture
//! ```

use crate::store_support::{OWNER, block, clock, new_repository, source_key};
use crate::support::figures::figure;
use crate::support::program::Program;
use crate::support::scratch::{long, scratch};
use bytes::Bytes;
use lan_backup::codec::chunk_id;
use lan_backup::manifest::StreamWriter;
use lan_backup::model::snapshot::Root;
use lan_backup::model::{Alias, Changes, ChunkId, ChunkerParameters, Receipt, Record, Stream, Totals};
use lan_backup::platform::clock::Clock;
use lan_backup::signer::{self, SigningKey};
use lan_backup::store::layout;
use lan_backup::store::{LocalVault, Repository};
use lan_backup::vault::Vault;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Chunks of 256 KiB in a pack of 16 MiB.
const CHUNKS_PER_PACK: u64 = 64;
const CHUNKS_PER_FILE: u64 = 10;
const FILES_PER_FOLDER: u64 = 100;

struct Scale {
    chunks: u64,
    snapshots: u64,
}

impl Scale {
    fn files(&self) -> u64 {
        self.chunks / CHUNKS_PER_FILE
    }
}

fn content(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// Puts the chunks of all files, pack by pack.
fn put_files(repository: &Repository, scale: &Scale) -> Vec<ChunkId> {
    let numbers: Vec<u64> = (0..scale.chunks).collect();
    for pack in numbers.chunks(CHUNKS_PER_PACK as usize) {
        let chunks: Vec<Bytes> = pack.iter().map(|number| content(*number)).collect();
        let mut writer = repository.begin_pack().unwrap();
        for chunks in chunks.chunks(4) {
            writer.append(&block(chunks)).unwrap();
        }
        writer.finish().unwrap();
    }
    numbers.into_iter().map(|number| chunk_id(&content(number))).collect()
}

fn line(number: u64, ids: &[ChunkId]) -> String {
    let content: Vec<String> = ids.iter().map(|id| format!("[\"{id}\",8]")).collect();
    let (folder, size) = (number / FILES_PER_FOLDER, 8 * CHUNKS_PER_FILE);
    format!(
        "{{\"path\":\"home/d{folder:05}/f{number:07}\",\"kind\":\"file\",\"size\":{size},\"mode\":420,\"tag\":\"000\",\"content\":[{}]}}\n",
        content.join(",")
    )
}

/// The list of the first snapshot, and where in it each line begins.
fn manifest(ids: &[ChunkId]) -> (Vec<u8>, Vec<usize>) {
    let mut text = b"{\"path\":\"home\",\"kind\":\"folder\"}\n".to_vec();
    let mut lines = Vec::new();
    for (number, ids) in ids.chunks(CHUNKS_PER_FILE as usize).enumerate() {
        let number = number as u64;
        if number.is_multiple_of(FILES_PER_FOLDER) {
            let folder = number / FILES_PER_FOLDER;
            text.extend_from_slice(format!("{{\"path\":\"home/d{folder:05}\",\"kind\":\"folder\"}}\n").as_bytes());
        }
        lines.push(text.len());
        text.extend_from_slice(line(number, ids).as_bytes());
    }
    (text, lines)
}

/// Cuts a stream and puts what of it is new.
fn put_stream(repository: &Repository, bytes: &[u8], there: &mut HashSet<ChunkId>, own: &mut Vec<ChunkId>) -> Stream {
    let mut new = Vec::new();
    let mut sink = |id, bytes| {
        own.push(id);
        if there.insert(id) {
            new.push(bytes);
        }
        Ok::<_, std::convert::Infallible>(())
    };
    let mut writer = StreamWriter::of_record(&ChunkerParameters::STANDARD);
    writer.write(bytes, &mut sink).unwrap();
    let stream = writer.finish(&mut sink).unwrap();
    for chunks in new.chunks(16) {
        let mut writer = repository.begin_pack().unwrap();
        for chunk in chunks {
            writer.append(&block(std::slice::from_ref(chunk))).unwrap();
        }
        writer.finish().unwrap();
    }
    stream
}

/// Writes a record as the store does; a commit would look up every ref of every snapshot, which is not what is measured here.
fn put_record(folder: &Path, record: &Record, key: &SigningKey, at: jiff::Timestamp) -> lan_backup::model::SnapshotId {
    let signed = key.sign_record(record);
    let id = signer::snapshot_id(&signed);
    let receipt = serde_json::to_string(&Receipt { record: id, received_at: at, from: OWNER }).unwrap();
    let content = format!("{}\n{}\n{receipt}", signed.record, signed.signature);
    let seal = blake3::hash(format!("{content}\n").as_bytes()).to_hex();
    let path = folder.join(layout::record(&record.set, record.sequence, &id).as_str());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{content}\n\"blake3:{seal}\"\n")).unwrap();
    id
}

fn build(store: &Path, scale: &Scale) {
    let (_store, repository) = new_repository(store);
    let ids = put_files(&repository, scale);
    let (mut text, lines) = manifest(&ids);
    let refs_of_files: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    let folder = store.join("repositories").join(repository.id().to_string());
    let (mut there, mut previous) = (HashSet::new(), None);
    for sequence in 1..=scale.snapshots {
        // A hundred files are touched each time.
        for edit in 0..100.min(scale.files()) {
            let file = (sequence * 7919 + edit * 104_729) % scale.files();
            let begin = lines[file as usize];
            let tag = text[begin..].windows(7).position(|window| window == b"\"tag\":\"").unwrap() + begin + 7;
            text[tag..tag + 3].copy_from_slice(format!("{:03}", sequence % 1000).as_bytes());
        }
        let mut own = Vec::new();
        let manifest = put_stream(&repository, &text, &mut there, &mut own);
        let mut refs = refs_of_files.clone();
        refs.extend(own.iter().flat_map(|id| *id.as_bytes()));
        let refs = put_stream(&repository, &refs, &mut there, &mut Vec::new());
        let files = scale.files();
        let record = Record {
            format: 1,
            repository: repository.id(),
            set: "home".parse().unwrap(),
            roots: vec![Root { source: "/home".to_owned(), top: "home".to_owned() }],
            sequence,
            previous,
            manifest,
            refs,
            totals: Totals { entries: files, files, bytes: files * 80 },
            changes: Changes::default(),
            source_time: jiff::Timestamp::UNIX_EPOCH,
            device: Alias::new("laptop"),
            signer: source_key().public(),
            tag: None,
        };
        let at = clock().now() + jiff::SignedDuration::from_hours(sequence as i64);
        previous = Some(put_record(&folder, &record, &source_key(), at));
    }
    repository.sync().unwrap();
}

/// Runs the program on the store; how long it took goes to the terminal.
fn timed(home: &Path, store: &Path, arguments: &[&str]) -> Vec<serde_json::Value> {
    let (home, store) = (home.to_str().unwrap(), store.to_str().unwrap());
    let began = Instant::now();
    let ran = Program::start([&["--json", "--home", home], arguments, &["--store", store]].concat()).end();
    figure(&format!("{:>8.3} s  {}", began.elapsed().as_secs_f64(), arguments.join(" ")));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.lines
}

/// The most memory this process has had so far, in MiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_is_opened_listed_and_looked_into_quickly() {
    let scale =
        if long() { Scale { chunks: 1_000_000, snapshots: 200 } } else { Scale { chunks: 20_000, snapshots: 8 } };
    let base = scratch();
    let (home, store) = (base.path().join("home"), base.path().join("store"));
    let began = Instant::now();
    build(&store, &scale);
    figure(&format!("{:>8.3} s  to build it; peak {} MiB", began.elapsed().as_secs_f64(), peak_memory()));
    // The first opening after the index has been written by another process, and the usual ones.
    for _ in 0..2 {
        let rows = timed(&home, &store, &["snapshots"]);
        assert_eq!(rows.len() as u64, scale.snapshots);
    }
    let middle = scale.files() / FILES_PER_FOLDER / 2;
    let folder = format!("latest:home/d{middle:05}");
    assert_eq!(timed(&home, &store, &["ls", "local", &folder]).len() as u64, FILES_PER_FOLDER);
    assert_eq!(timed(&home, &store, &["ls", "local"]).len(), 1);
    assert_eq!(timed(&home, &store, &["ls", "local", "latest:home"]).len() as u64, scale.files() / FILES_PER_FOLDER);
    assert_eq!(timed(&home, &store, &["diff", "local", "--set", "home"]).last().unwrap()["event"], "finished");
    // A hundred files all over the list in each of two hundred snapshots: nearly every chunk of every list is another one.
    if !long() {
        let wanted = format!("home/d{middle:05}/f{:07}", middle * FILES_PER_FOLDER);
        assert!(!timed(&home, &store, &["find", &wanted, "local"]).is_empty());
    }
    timed(&home, &store, &["status"]);
    let rows = timed(&home, &store, &["stats"]);
    assert_eq!(rows.last().unwrap()["kept"]["snapshots"], scale.snapshots);
    assert!(rows.last().unwrap()["kept"]["chunks"].as_u64().unwrap() > scale.chunks);
    let plan = timed(&home, &store, &["prune", "--dry-run", "--keep-last", "20"]);
    let plan = plan.iter().find(|row| row["event"] == "plan").unwrap();
    assert_eq!(plan["forget"].as_array().unwrap().len() as u64, scale.snapshots.saturating_sub(20));
    assert_eq!(timed(&home, &store, &["verify"]).last().unwrap()["clean"], true);

    // What is read of the store to look into one folder.
    let (opened, report) = crate::store_support::open(&store);
    assert!(report.is_harmless(), "{report}");
    let repository = opened.repositories().pop().unwrap();
    let vault = Arc::new(LocalVault::new(repository.clone(), OWNER));
    let newest = vault.snapshots().await.unwrap().pop().unwrap();
    let record = signer::open_record(&newest.signed).unwrap();
    let path = lan_backup::model::RelPath::new(format!("home/d{middle:05}").into_bytes()).unwrap();
    let mut reader = lan_backup::manifest::EntryReader::starting_at(vault, &record.manifest, &path).unwrap();
    assert_eq!(reader.next().await.unwrap().unwrap().path, path);
    figure(&format!("peak {} MiB of the test itself", peak_memory()));
}
