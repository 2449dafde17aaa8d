//! Lists that name the same chunk again and again: what looks at them holds what they name, not how often.

use crate::store_support::{Made, OWNER, files, new_repository, noise, put, source_key};
use lan_backup::codec;
use lan_backup::model::Stream;
use lan_backup::monitor::Silent;
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::prune::freezes::Look;
use lan_backup::store::verify::{Share, VerifyOptions, verify};
use std::fs;
use std::process::Command;

/// Set in the process of its own, so that its memory is its alone.
const ALONE: &str = "LAN_BACKUP_TEST_ALONE";
/// What all looks may take beside what the backups took: named once each, the ids would be some hundred bytes.
const MORE: u64 = 24 << 20;

fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn a_tiny_upload_that_names_a_chunk_millions_of_times_costs_no_memory() {
    if std::env::var_os(ALONE).is_some() {
        return look_at_repeats();
    }
    let name = "hostile_lists::a_tiny_upload_that_names_a_chunk_millions_of_times_costs_no_memory";
    let program = std::env::current_exe().unwrap();
    let ran = Command::new(program).args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

#[expect(clippy::print_stdout, reason = "what was skipped is said")]
fn look_at_repeats() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = new_repository(folder.path());
    let line = noise(1, 40);
    put(&repository, std::slice::from_ref(&line)).unwrap();
    let list: bytes::Bytes = codec::chunk_id(&line).as_bytes().repeat(65_536).into();
    let four: bytes::Bytes = codec::chunk_id(&list).as_bytes().repeat(4).into();
    put(&repository, &[list]).unwrap();
    put(&repository, std::slice::from_ref(&four)).unwrap();
    repository.sync().unwrap();
    let before: Vec<_> =
        files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/packs/")).collect();
    for number in 0..2 {
        let mut made = Made::new(&repository, "documents", vec![noise(10 + number, 500)]);
        made.put(&repository);
        made.record.manifest = Stream { length: 40 << 21, depth: 2, ids: vec![codec::chunk_id(&four); 8] };
        made.record.totals.files = 100;
        repository.commit(&source_key().sign_record(&made.record), OWNER).unwrap();
    }
    let Some(begin) = peak() else {
        println!("SKIPPED: this system does not tell the peak of a process's memory");
        return;
    };
    repository.freezes(Look::Measure, &|| false).unwrap();
    let look = || verify(&store, VerifyOptions { data: Share::None }, &Silent, &Shutdown::new()).unwrap();
    assert!(look().is_clean());
    // And when something is lacking, the names of files are looked for.
    let all = files(folder.path()).into_iter().filter(|path| path.to_string_lossy().contains("/packs/"));
    for pack in all.filter(|path| !before.contains(path)) {
        fs::remove_file(pack).unwrap();
    }
    drop((repository, store));
    let (store, _) = crate::store_support::open(folder.path());
    let found = verify(&store, VerifyOptions { data: Share::None }, &Silent, &Shutdown::new()).unwrap();
    assert_eq!(found.snapshots.len(), 2);
    let end = peak().unwrap();
    assert!(end < begin + MORE, "{} MiB before, {} MiB at the peak", begin >> 20, end >> 20);
}
