//! What can stand in the way outside of the program: devices that are off, ports that are taken, files that are damaged or odd.

use crate::support::lan::Lan;
use crate::support::program::read_text;
use serde_json::json;
use std::fs;
use std::net::TcpListener;

#[test]
fn a_device_that_is_off_or_unknown_is_said_to_be() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1")]);
    let docs = docs.to_str().unwrap();
    nas.stop();
    let off = laptop.run(&["send", &nas.address(), docs]);
    off.failed(1, "offline", "cannot be reached", "is it switched on");
    // By name it is looked for, in vain.
    let running = laptop.start(&["send", "nas", docs]);
    let unknown = laptop.run(&["restore", "nosuch", "--to", lan.path("to").to_str().unwrap()]);
    unknown.failed(1, "unknown-device", "there is no device `nosuch` here", "start `lan-backup serve` there");
    running.end().failed(1, "unknown-device", "there is no device `nas` here", "start `lan-backup serve` there");
    assert!(!lan.path("to").exists());
}

#[test]
fn a_port_that_is_taken_is_an_error_only_when_somebody_insists_on_it() {
    let lan = Lan::new();
    let mut nas = lan.device("nas");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = nas.run(&["serve", "--port", &port]);
    ran.failed(1, "port-taken", &format!("port {port} is in use"), "`--port 0` takes a free port");

    // The usual port: somebody on this machine has it, or this test takes it.
    let _usual = TcpListener::bind("127.0.0.1:53317");
    let mut serve = nas.start(&["serve"]);
    let listening = serve.event("listening");
    assert_ne!(listening["port"], 53317);
    serve.signal(rustix::process::Signal::INT);
    let ran = serve.end();
    assert_eq!(ran.last(0)["event"], "stopped");
    assert!(ran.stderr.contains("the usual port is taken"), "{ran:#?}");

    nas.serve(&[]);
    let second = nas.run(&["serve", "--port", "0"]);
    second.failed(2, "usage", "runs with this home already", "another --home");
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_nothing_is_touched() {
    let lan = Lan::new();
    let mut nas = lan.device("nas");
    nas.serve(&[]);
    nas.stop();
    let file = nas.store().join("store.json");
    let old = read_text(&file);
    let (content, _) = old.trim_end().rsplit_once('\n').unwrap();
    let newer = content.replacen("\"format\": 1", "\"format\": 2", 1);
    assert_ne!(newer, content, "{content}");
    // As `docs/store-format.md` says: the BLAKE3 of all bytes before the last line.
    let sealed = format!("{newer}\n\"blake3:{}\"\n", blake3::hash(format!("{newer}\n").as_bytes()).to_hex());
    fs::write(&file, &sealed).unwrap();
    let commands: [&[&str]; 4] =
        [&["serve", "--port", "0"], &["status"], &["snapshots"], &["restore", "local", "--to", "nowhere"]];
    for command in commands {
        let ran = nas.run(command);
        ran.failed(1, "newer-format", "has format 2, and this version knows format 1", "install the newer lan-backup");
    }
    assert_eq!(read_text(&file), sealed);
    // A seal that does not fit is another matter than a newer format.
    fs::write(&file, old.replacen("\"format\": 1", "\"format\": 0", 1)).unwrap();
    nas.run(&["serve", "--port", "0"]).failed(1, "store", "damaged", "this disk may be failing");
    fs::write(&file, &old).unwrap();
    nas.serve(&[]);
}

#[test]
fn a_damaged_identity_is_never_replaced_and_the_message_says_what_deleting_it_costs() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let file = laptop.home.join("identity.pem");
    let whole = fs::read(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"" as &[u8], b"not a certificate"] {
        fs::write(&file, damaged).unwrap();
        let ran = laptop.run(&["snapshots", "nas"]);
        ran.failed(1, "identity", "identity.pem` is damaged", "delete it: ");
        assert!(ran.stderr.contains("pair"), "it does not say that all pairings are lost: {ran:#?}");
        assert_eq!(fs::read(&file).unwrap(), damaged);
    }
    fs::write(&file, &whole).unwrap();
    assert!(laptop.run(&["snapshots", "nas"]).rows().is_empty());
    drop(nas);
}

#[test]
fn what_cannot_be_backed_up_is_a_fault_with_a_name_and_the_rest_is_safe() {
    let lan = Lan::new();
    let (nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"1"), ("z", b"2")]);
    // Deeper than any restore would go.
    let deep: String = "d/".repeat(140);
    fs::create_dir_all(docs.join(&deep)).unwrap();
    fs::write(docs.join(&deep).join("leaf"), b"3").unwrap();
    std::os::unix::net::UnixListener::bind(docs.join("socket")).unwrap();
    let ran = laptop.run(&["send", "nas", docs.to_str().unwrap()]);
    let finished = ran.last(3);
    assert_eq!((&finished["event"], &finished["files"]), (&json!("finished"), &json!(2)));
    assert!(ran.number("faults") >= 1, "{ran:#?}");
    let fault = ran.lines.iter().find(|line| line["event"] == "fault").unwrap();
    assert!(fault["subject"].as_str().unwrap().contains("d/d/d"), "{fault}");
    assert!(ran.stderr.contains("warning: ") && ran.stderr.contains("could not be backed up"), "{ran:#?}");
    assert!(ran.stderr.len() < 4000, "one line for one thing: {ran:#?}");
    assert_eq!(nas.snapshots(None).len(), 1);
    let to = lan.path("to");
    assert_eq!(laptop.run(&["restore", "nas", "--to", to.to_str().unwrap()]).done()["files"], 2);
    assert_eq!(fs::read(to.join("docs/z")).unwrap(), b"2");
}

#[test]
fn settings_that_cannot_be_understood_are_named_with_their_line() {
    let lan = Lan::new();
    let nas = lan.device("nas");
    fs::write(nas.home.join("settings.toml"), "reserve_gib = 1\nalais = \"x\"\n").unwrap();
    nas.run(&["status"]).failed(1, "config", "alais", "");
}

#[test]
fn a_folder_that_is_no_store_stays_as_it_is_and_the_store_in_it_is_named() {
    let lan = Lan::new();
    let nas = lan.device("nas");
    let folder = lan.folder("pictures", &[("a.jpg", b"a")]);
    let path = folder.to_str().unwrap();
    for command in [
        &["snapshots", "--store", path][..],
        &["ls", "local", "--store", path],
        &["find", "a", "local", "--store", path],
        &["diff", "local", "--store", path],
        &["status", "--store", path],
        &["stats", "--store", path],
        &["verify", "--store", path],
        &["repair", "--store", path],
        &["prune", "--store", path],
        &["retention", "--store", path],
        &["undelete", "--store", path],
        &["restore", "local", "--to", "/nonexistent", "--store", path],
    ] {
        nas.run(command).failed(2, "usage", "is no store", "--store DIR");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing was made in it");
    fs::create_dir_all(folder.join("store/repositories")).unwrap();
    nas.run(&["verify", "--store", path]).failed(2, "usage", "is no store", "pictures/store");
}

#[test]
fn a_repository_that_cannot_be_read_for_the_moment_is_not_taken_for_gone() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"one")]);
    let send = ["send", "nas", docs.to_str().unwrap()];
    laptop.run(&send).done();
    nas.stop();
    let configs = crate::store_support::files(&nas.store()).into_iter().filter(|path| path.ends_with("config.json"));
    let config = configs.into_iter().next().unwrap();
    let aside = config.with_extension("aside");
    fs::rename(&config, &aside).unwrap();
    // What a disk that fails for a while looks like: it is there, and cannot be read.
    fs::create_dir(&config).unwrap();
    nas.serve(&["--accept", "paired"]);
    let ran = laptop.run(&send);
    ran.failed(1, "busy", "cannot be read at the moment", "try again later");
    assert!(!ran.stderr.contains("ALARM"), "{ran:#?}");
    fs::remove_dir(&config).unwrap();
    fs::rename(&aside, &config).unwrap();
    laptop.run(&send).done();
    assert_eq!(nas.snapshots(None).len(), 2);
}

#[test]
fn a_repository_of_which_a_file_is_damaged_is_not_taken_for_gone() {
    let lan = Lan::new();
    let (mut nas, laptop) = lan.paired();
    let docs = lan.folder("docs", &[("a", b"one")]);
    let send = ["send", "nas", docs.to_str().unwrap()];
    laptop.run(&send).done();
    nas.stop();
    let configs = crate::store_support::files(&nas.store()).into_iter().filter(|path| path.ends_with("config.json"));
    let config = configs.into_iter().next().unwrap();
    let whole = fs::read(&config).unwrap();
    fs::write(&config, &whole[..60]).unwrap();
    nas.serve(&["--accept", "paired"]);
    let ran = laptop.run(&send);
    ran.failed(1, "corrupt", "a file of it is damaged", "lan-backup repair");
    assert!(!ran.stderr.contains("ALARM"), "{ran:#?}");
    // One flipped bit costs nothing, and nobody has to do anything.
    let mut flipped = whole.clone();
    flipped[40] ^= 4;
    fs::write(&config, flipped).unwrap();
    laptop.run(&send).done();
    assert_eq!((nas.snapshots(None).len(), fs::read(&config).unwrap()), (2, whole));
}
