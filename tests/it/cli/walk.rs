//! The walk that everybody takes: pair on the way, back up, change something, back up again, look, get it back.

use crate::support::lan::{Lan, give_pin};
use crate::support::program::{Program, until, write_to_pipe};
use crate::support::tree::{assert_same, assert_same_inside, noise, odd_tree};
use lan_backup::config::Home;
use lan_backup::identity::PhoneBook;
use lan_backup::identity::phones::Phone;
use lan_backup::model::{Alias, Fingerprint, InboxKeep};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn one_prompt_pairs_and_backs_up_and_everything_comes_back_identical() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    let tree = lan.folder("tree", &[]);
    odd_tree(&tree);
    nas.serve(&["--accept", "ask"]);

    // By name: both find each other over multicast on loopback.
    let (sending, pin) = laptop.start_with_pin_file(&["send", "nas", tree.to_str().unwrap()]);
    let question = nas.question();
    assert_eq!(question["question"], "pair");
    assert_eq!((&question["alias"], &question["purpose"]["set"]), (&json!("laptop"), &json!("tree")));
    nas.answer(&question, "always");
    give_pin(&pin, nas.event("pin")["pin"].as_str().unwrap());
    let first = sending.end();
    let finished = first.done();
    assert_eq!((&finished["set"], &finished["changedFiles"]), (&json!("tree"), &json!(0)));
    assert_eq!(finished["files"], finished["newFiles"]);
    assert!(first.stderr.contains("lan-backup restore nas"), "the way back is not shown: {}", first.stderr);
    assert_eq!(nas.event("committed")["snapshot"], finished["snapshot"]);
    assert!(nas.run(&["pending"]).rows().is_empty(), "one prompt, not two");

    fs::write(tree.join("text"), b"changed").unwrap();
    fs::write(tree.join("new"), noise(10_000, 7)).unwrap();
    fs::remove_file(tree.join("zeros")).unwrap();
    let planned = laptop.run(&["send", "nas", tree.to_str().unwrap(), "--dry-run"]);
    assert_eq!(planned.last(0)["event"], "planned");
    assert_eq!(planned.number("bytesToRead"), 10_007, "what has not changed is not read again: {planned:#?}");
    assert_eq!(laptop.snapshots(Some("nas")).len(), 1, "a dry run sends nothing");

    let second = laptop.run(&["send", "nas", tree.to_str().unwrap(), "--tag", "after the change"]);
    let finished = second.done();
    let counts = ["newFiles", "changedFiles", "deletedFiles"].map(|field| second.number(field));
    assert_eq!(counts, [1, 1, 1], "{second:#?}");
    assert!(second.number("uploadedBytes") < 100_000, "{second:#?}");
    assert!(nas.run(&["pending"]).rows().is_empty(), "`always` asks no more");

    let rows = laptop.snapshots(Some("nas"));
    let brief = |row: &serde_json::Value| (row["sequence"].clone(), row["verified"].clone(), row["device"].clone());
    assert_eq!(rows.iter().map(brief).collect::<Vec<_>>(), [1, 2].map(|n| (json!(n), json!(true), json!("laptop"))));
    assert_eq!((&rows[1]["snapshot"], &rows[1]["tag"]), (&finished["snapshot"], &json!("after the change")));
    let listed = laptop.run(&["ls", "nas", "latest:tree/links"]);
    let paths: Vec<_> = listed.rows().iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        ["dangling", "first", "raw", "relative", "second", "up"].map(|name| format!("tree/links/{name}"))
    );
    let trusted = nas.run(&["trust"]);
    assert_eq!((&trusted.rows()[0]["alias"], &trusted.rows()[0]["sets"]), (&json!("laptop"), &json!(["tree"])));
    let status = nas.run(&["status"]);
    let kinds: Vec<_> = status.rows().iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["device", "paired", "store", "health", "repository", "set"]);
    assert_eq!((&status.lines[0]["serving"], &status.lines[5]["snapshots"]), (&json!(true), &json!(2)));

    let to = lan.path("elsewhere");
    let restored = laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]);
    assert_eq!(restored.done()["snapshot"], finished["snapshot"]);
    assert_eq!(restored.number("files"), second.number("files"));
    assert_same(&tree, &to.join("tree"));
}

#[test]
fn the_pin_comes_through_a_pipe_as_well_as_from_a_file_that_appears() {
    let lan = Lan::new();
    let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
    nas.serve(&["--accept", "paired"]);
    let pipe = lan.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let pairing = laptop.start(&["pair", &nas.address(), "--pin-file", pipe.to_str().unwrap()]);
    let pin = nas.event("pin");
    assert_eq!(pin["peer"]["alias"], "laptop");
    let writer = write_to_pipe(&pipe, &format!("{}\n", pin["pin"].as_str().unwrap()));
    let paired = pairing.end();
    writer.join().unwrap();
    assert_eq!((&paired.last(0)["event"], &paired.last(0)["alias"]), (&json!("paired"), &json!("nas")));
    assert_eq!(nas.event("paired")["alias"], "laptop");
    // A set that is new is no question with `--accept paired`.
    let sent = laptop.run(&["send", "nas", lan.folder("docs", &[("a", b"1")]).to_str().unwrap()]);
    assert_eq!(sent.done()["files"], 1);
}

/// What the comparison with other programs runs; people copy such lines into their scripts.
const SCRIPT: &str = r#"
DEV=127.0.0.1:$PORT; L="$BIN --home $WORK/laptop --json"
case $1 in
  setup) $BIN --home $WORK/nas --json serve --bind 127.0.0.1 --port $PORT --store $REPO/store --accept paired >$WORK/serve.json 2>$WORK/serve.err &
    echo $! >> $WORK/pids; until grep -q '"listening"' $WORK/serve.json; do sleep .1; done
    (until grep -q '"event":"pin"' $WORK/serve.json; do sleep .1; done; sed -n 's/.*"pin":"\([0-9]*\)".*/\1/p' $WORK/serve.json | head -1) | $L pair $DEV --pin-file - ;;
  full|noop|mut) $L send $DEV $SRC --set bench ;;
  restore) $L restore $DEV latest:$(basename $SRC) --to $DST ;;
esac
"#;

/// The server that the script leaves behind, by the file in which the script wrote its id; it ends with the test.
struct Left(PathBuf);

impl Drop for Left {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.0).ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
    }
}

#[test]
fn a_plain_shell_script_serves_pairs_sends_and_restores() {
    let lan = Lan::new();
    let source = lan.folder("source", &[("a", b"one"), ("b/c", &noise(300_000, 3))]);
    let (work, repo) = (lan.folder("work", &[]), lan.folder("repo", &[]));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let step = |name: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh", name]).envs([
            ("BIN", env!("CARGO_BIN_EXE_lan-backup")),
            ("WORK", work.to_str().unwrap()),
            ("REPO", repo.to_str().unwrap()),
            ("SRC", source.to_str().unwrap()),
            ("DST", lan.path("target").to_str().unwrap()),
        ]);
        command.env("PORT", free.to_string()).env("LAN_BACKUP_MULTICAST_PORT", lan.multicast_port().to_string());
        Program::start_command(command).end()
    };
    let _left = Left(work.join("pids"));
    assert_eq!(step("setup").last(0)["event"], "paired");
    assert_eq!(step("full").done()["newFiles"], 2);
    let again = step("noop");
    assert_eq!((again.done()["newFiles"].as_u64(), again.done()["changedFiles"].as_u64()), (Some(0), Some(0)));
    fs::write(source.join("a"), b"two").unwrap();
    assert_eq!(step("mut").done()["changedFiles"], 1);
    assert_eq!(step("restore").done()["files"], 2);
    assert_same_inside(&source, &lan.path("target"));
}

#[test]
fn a_device_finds_the_other_by_name_and_says_that_it_is_paired() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let row = until("nas on the network", || {
        let devices = laptop.run(&["devices", "--wait", "1"]);
        devices.rows().iter().find(|row| row["alias"] == "nas").cloned()
    });
    assert_eq!((&row["paired"], &row["fingerprint"]), (&json!(true), &json!(nas.fingerprint())));
}

#[test]
fn the_list_of_devices_says_who_only_has_the_name_of_a_paired_one() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let mut impostor = lan.device("impostor");
    fs::write(impostor.home.join("alias"), "nas").unwrap();
    "nas".clone_into(&mut impostor.alias);
    impostor.serve(&[]);
    let (ran, other) = until("both on the network", || {
        let devices = laptop.run(&["devices", "--wait", "1"]);
        let other = devices.rows().iter().find(|row| row["alias"] == "nas" && row["paired"] == false).cloned();
        let is_there = devices.rows().iter().any(|row| row["paired"] == true);
        other.filter(|_| is_there).map(|other| (devices, other))
    });
    assert_eq!(other["namesakeOf"], json!(nas.fingerprint()));
    let paired = ran.rows().iter().find(|row| row["paired"] == true).unwrap();
    assert!(paired["namesakeOf"].is_null(), "the paired one is nobody's namesake");
    assert!(ran.rows().iter().any(|row| row["event"] == "alarm"), "{ran:#?}");
    let code = other["code"].as_str().unwrap();
    assert!(ran.stderr.contains(&format!("calls itself nas and has the code {code}")), "{ran:#?}");
}

#[test]
fn a_phone_that_was_welcome_always_is_asked_about_again_when_a_person_says_so() {
    let lan = Lan::new();
    let device = lan.device("nas");
    let home = Home::at(&device.home);
    home.create().unwrap();
    let phones = PhoneBook::new(home.phones());
    let fingerprint = Fingerprint::from_bytes([7; 32]);
    let (alias, since) = (Alias::new("Pixel"), jiff::Timestamp::UNIX_EPOCH);
    phones.insert(Phone { fingerprint, alias, keep: InboxKeep::Backup, since }).unwrap();
    let listed = device.run(&["trust"]);
    assert_eq!((&listed.rows()[0]["alias"], &listed.rows()[0]["inbox"]), (&json!("Pixel"), &json!("backup")));
    assert_eq!(device.run(&["unpair", "pixel"]).last(0)["event"], "forgotten");
    assert!(phones.list().is_empty());
    assert!(device.run(&["trust"]).rows().is_empty());
    device.run(&["unpair", "pixel"]).failed(2, "usage", "no device `pixel` is paired", "lists those that are");
}
