//! Prune as real processes do it: beside everything else, and dying in the middle. Nine days go by from one to the next.

use crate::support::aging::age;
use crate::support::dice::Dice;
use crate::support::figures::figure;
use crate::support::lan::{Lan, Node, bytes_below};
use crate::support::program::{KILLED, Ran, until};
use crate::support::scratch::long;
use crate::support::tree::{assert_same, assert_same_inside, noise};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const PRUNE: [&str; 5] = ["prune", "--keep-last", "1", "--trash-days", "1"];
/// Files of the set, of which about half change from one time to the next: less than what would look like an attack.
const FILES: u64 = 24;
/// Bytes of one of the four files of which a restore is killed.
const LARGE: usize = 8 << 20;

/// Some files get other content, which they may have had before.
fn change(docs: &Path, dice: &mut Dice) {
    for _ in 0..16 {
        let file = docs.join(format!("file {}", dice.below(FILES)));
        fs::write(file, noise(20_000, dice.below(60))).unwrap();
    }
}

fn fill(docs: &Path) {
    for number in 0..FILES {
        fs::write(docs.join(format!("file {number}")), noise(20_000, number)).unwrap();
    }
}

/// Packs that a prune has thrown away or deleted.
fn freed_by(ran: &Ran) -> u64 {
    let pruned = ran.lines.iter().find(|line| line["event"] == "pruned");
    let packs = |what: &str| pruned.map_or(0, |event| event[what]["packs"].as_u64().unwrap());
    packs("thrownAway") + packs("deleted")
}

fn assert_kept(nas: &Node, docs: &Path, to: &Path) {
    let found = nas.run(&["verify", "--data"]);
    assert_eq!(found.last(0)["clean"], true, "{found:#?}");
    nas.run(&["restore", "local", "--to", to.to_str().unwrap()]).done();
    assert_same(docs, &to.join("docs"));
    fs::remove_dir_all(to).unwrap();
}

#[test]
fn serve_backup_restore_verify_and_prune_side_by_side_lose_nothing() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    let (mut dice, mut freed, rounds) = (Dice::new(1), 0, if long() { 30 } else { 6 });
    fill(&docs);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    for round in 0..rounds {
        change(&docs, &mut dice);
        let to = lan.path(&format!("to {round}"));
        let sending = laptop.start(&["send", "nas", docs.to_str().unwrap()]);
        let restoring = nas.start(&["restore", "local", "--to", to.to_str().unwrap()]);
        let verifying = nas.start(&["verify", "--data"]);
        let pruning = nas.start(&PRUNE);
        let verified = verifying.end();
        assert_eq!(verified.last(0)["clean"], true, "round {round}: {verified:#?}");
        restoring.end().done();
        let pruned = pruning.end();
        assert_eq!(pruned.code, 0, "round {round}: {pruned:#?}");
        freed += freed_by(&pruned);
        sending.end().done();
        age(&nas.store(), 9);
    }
    assert!(freed > 0, "nothing was ever thrown away");
    assert_kept(&nas, &docs, &lan.path("to"));
    figure(&format!("row 15: {rounds} rounds of processes side by side, {freed} packs thrown away or deleted"));
}

#[test]
fn a_prune_that_is_killed_at_any_moment_loses_nothing_and_the_next_one_goes_on() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    let (mut dice, points) = (Dice::new(2), if long() { 66 } else { 6 });
    let (mut killed, mut freed, mut longest) = (0, 0, Duration::from_millis(50));
    fill(&docs);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    for point in 0..10 * points {
        // On a busy machine the first ones may all be too late to kill anything.
        if point >= points && killed > 0 {
            break;
        }
        change(&docs, &mut dice);
        laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
        age(&nas.store(), 9);
        let pruning = nas.start(&PRUNE);
        // There is no other way to be there at any moment than to wait for it.
        std::thread::sleep(longest.mul_f64(dice.below(1000) as f64 / 1000.0));
        killed += u64::from(pruning.kill().code == KILLED);
        if dice.below(3) == 0 {
            nas.crash();
            nas.serve(&["--accept", "paired"]);
        }
        let found = nas.run(&["verify"]);
        assert_eq!(found.last(0)["clean"], true, "point {point}: {found:#?}");
        let began = Instant::now();
        let pruned = nas.run(&PRUNE);
        longest = longest.max(began.elapsed());
        assert_eq!(pruned.code, 0, "point {point}: {pruned:#?}");
        freed += freed_by(&pruned);
    }
    assert!(killed > 0 && freed > 0, "{killed} killed, {freed} packs thrown away");
    assert_kept(&nas, &docs, &lan.path("to"));
    figure(&format!(
        "row 2: {killed} prunes killed at {points} points on their way, {freed} packs thrown away or deleted by the ones after, nothing lost"
    ));
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_wrong_and_the_next_one_goes_on() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    for number in 0..4 {
        fs::write(docs.join(format!("large {number}")), noise(LARGE, number)).unwrap();
    }
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    let (mut dice, mut killed) = (Dice::new(3), 0);
    for point in 0..if long() { 66 } else { 3 } {
        if point % 20 == 19 {
            // What was killed leaves a session behind, for ten minutes; a device may have so many at once.
            nas.crash();
            nas.serve(&["--accept", "paired"]);
        }
        let to = lan.path(&format!("to {point}"));
        let restore = ["restore", "nas", "latest:docs", "--to", to.to_str().unwrap()];
        let restoring = laptop.start(&restore);
        let some = dice.below(4 * LARGE as u64);
        until("some of it", || (restoring.has_event("finished") || bytes_below(&to) >= some).then_some(()));
        killed += u64::from(restoring.kill().code == KILLED);
        let there = fs::read_dir(&to).map(|entries| entries.map(|entry| entry.unwrap()).collect());
        for entry in there.unwrap_or_else(|_| Vec::new()) {
            let (name, bytes) = (entry.file_name(), fs::read(entry.path()).unwrap());
            let hidden = name.to_string_lossy().starts_with('.');
            assert!(hidden || bytes == fs::read(docs.join(&name)).unwrap(), "{} is not whole", name.display());
        }
        laptop.run(&restore).done();
        // Nothing of the first try lies beside them.
        assert_same_inside(&docs, &to);
        fs::remove_dir_all(&to).unwrap();
    }
    assert!(killed > 0, "none was killed on its way");
    figure(&format!("row 2: {killed} restores killed on their way, nothing wrong left"));
}

#[test]
fn what_looks_like_an_attack_is_said_by_prune_status_and_retention_until_it_is_released() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    fill(&docs);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    for number in 0..FILES {
        fs::write(docs.join(format!("file {number}")), noise(20_000, 1000 + number)).unwrap();
    }
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    age(&nas.store(), 9);
    let frozen = |ran: &Ran, field: &str, name: &str| {
        let found = ran.lines.iter().find(|line| line[field] == name);
        found.map(|line| (line["set"].clone(), line["reason"].clone(), line["hint"].clone()))
    };
    let hint = "if that was meant, `lan-backup prune --release docs`; if not, restore the one before it, which is kept";
    let expected = Some(("docs".into(), "bytes-rewritten".into(), hint.into()));
    let pruned = nas.run(&PRUNE);
    assert_eq!(frozen(&pruned, "event", "frozen"), expected, "{pruned:#?}");
    assert!(pruned.stderr.contains("has rewritten 100 % of the bytes"), "{pruned:#?}");
    assert_eq!(frozen(&nas.run(&["status"]), "kind", "frozen"), expected);
    assert_eq!(frozen(&nas.run(&["retention", "--keep-last", "1"]), "event", "frozen"), expected);
    assert_eq!(nas.snapshots(None).len(), 2);
    assert_eq!(nas.run(&["prune", "--release", "docs"]).code, 0);
    assert_eq!(frozen(&nas.run(&["status"]), "kind", "frozen"), None);
    assert_eq!(nas.run(&PRUNE).code, 0);
    assert_eq!(nas.snapshots(None).len(), 1);
}

#[test]
fn the_trash_is_looked_at_and_what_lies_there_and_is_needed_is_put_back() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[]);
    fill(&docs);
    laptop.run(&["send", "nas", docs.to_str().unwrap()]).done();
    nas.stop();
    // As if a prune of another program had thrown it away.
    let pack =
        crate::store_support::files(&nas.store()).into_iter().find(|path| path.to_string_lossy().contains("/packs/"));
    let pack = pack.unwrap();
    let trash = pack.ancestors().nth(3).unwrap().join("trash");
    fs::create_dir_all(&trash).unwrap();
    let trashed = trash.join(format!("001790000000-{}", pack.file_name().unwrap().to_str().unwrap()));
    fs::rename(&pack, &trashed).unwrap();
    let notes = |ran: &Ran| {
        let notes = ran.lines.iter().filter(|line| line["event"] == "note");
        notes.map(|line| line["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("\n")
    };
    let found = nas.run(&["verify"]);
    assert!(found.code == 1 && notes(&found).contains("`lan-backup repair` puts it back"), "{found:#?}");
    assert_eq!(nas.run(&["repair"]).last(0)["whole"], true);
    assert!(pack.exists() && !trashed.exists());
    assert_kept(&nas, &docs, &lan.path("to"));

    // What nobody needs, and is damaged, costs nothing and is named.
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let other = trash.join(format!("001790000000-{}", "ab".repeat(32)));
    fs::write(&other, &bytes).unwrap();
    let found = nas.run(&["verify"]);
    assert!(found.code == 0 && notes(&found).contains("nothing that is kept needs it"), "{found:#?}");
    fs::rename(&other, &trashed).unwrap();
    assert!(!notes(&nas.run(&["verify"])).contains("is damaged"), "its content is read with --data only");
    let found = nas.run(&["verify", "--data"]);
    assert!(found.code == 0 && notes(&found).contains("nothing that is kept needs it"), "{found:#?}");
}
