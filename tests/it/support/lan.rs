//! Devices of one test: homes in a scratch folder, a multicast port of their own, everything on 127.0.0.1.

use crate::support::program::{Program, Ran, until};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A network of its own: nobody else on this machine hears it.
#[derive(Debug)]
pub(crate) struct Lan {
    base: tempfile::TempDir,
    multicast_port: u16,
}

/// One device: a home, and perhaps a running `serve`.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) home: PathBuf,
    pub(crate) alias: String,
    multicast_port: u16,
    pub(crate) serve: Option<Program>,
    /// Where `serve` listens.
    pub(crate) port: u16,
    /// What is logged, as `RUST_LOG` has it; usually what is without.
    pub(crate) log: Option<String>,
}

impl Lan {
    pub(crate) fn new() -> Self {
        let multicast_port = 20_000 + u16::try_from(getrandom::u32().unwrap() % 40_000).unwrap();
        Self { base: tempfile::tempdir().unwrap(), multicast_port }
    }

    pub(crate) fn multicast_port(&self) -> u16 {
        self.multicast_port
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A folder with these files in it.
    pub(crate) fn folder(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        for (path, content) in files {
            fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            fs::write(folder.join(path), content).unwrap();
        }
        folder
    }

    /// A device with a name, new or with what lies in its home already.
    pub(crate) fn device(&self, alias: &str) -> Node {
        let home = self.path(&format!("home-{alias}"));
        fs::create_dir_all(&home).unwrap();
        if !home.join("alias").exists() {
            fs::write(home.join("alias"), alias).unwrap();
        }
        Node { home, alias: alias.to_owned(), multicast_port: self.multicast_port, serve: None, port: 0, log: None }
    }

    /// `nas`, serving with `--accept paired`, and `laptop`, paired with it. Pairing takes seconds, so it is done once (by the
    /// program itself) and the homes are copied.
    pub(crate) fn paired(&self) -> (Node, Node) {
        static ONCE: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
        let files = ONCE.get_or_init(|| {
            let lan = Lan::new();
            let (mut nas, laptop) = (lan.device("nas"), lan.device("laptop"));
            nas.serve(&["--accept", "paired"]);
            laptop.pair(&mut nas).last(0);
            nas.stop();
            files_below(lan.base.path())
        });
        for (path, content) in files {
            let path = self.base.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let (mut nas, laptop) = (self.device("nas"), self.device("laptop"));
        nas.serve(&["--accept", "paired"]);
        (nas, laptop)
    }
}

impl Node {
    fn arguments<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Vec<OsString> {
        let port = self.multicast_port.to_string();
        let first = ["--json", "--bind", "127.0.0.1", "--multicast-port", &port, "--home"].map(OsString::from);
        let rest = arguments.iter().map(|argument| argument.as_ref().to_owned());
        first.into_iter().chain([self.home.clone().into()]).chain(rest).collect()
    }

    /// Starts a command on this device.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Program {
        Program::start_command(self.command(self.arguments(arguments)))
    }

    fn command(&self, arguments: Vec<OsString>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lan-backup"));
        command.args(arguments).env_remove("RUST_LOG").env_remove("LAN_BACKUP_HOME");
        if let Some(log) = &self.log {
            command.env("RUST_LOG", log);
        }
        command
    }

    /// Starts a command as people do, without `--json`.
    pub(crate) fn plain<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Program {
        let mut arguments = self.arguments(arguments);
        arguments.remove(0);
        Program::start_command(self.command(arguments))
    }

    /// Runs a command with `--json` to its end, its lines as the text that they were printed as.
    pub(crate) fn run_raw<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        let output = self.command(self.arguments(arguments)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let lines = text(&output.stdout).split('\n').map(|line| Value::String(line.to_owned())).collect();
        Ran { code: output.status.code().unwrap_or(-1), lines, stderr: text(&output.stderr) }
    }

    /// Starts `serve` as people do, and waits until it says where it listens.
    pub(crate) fn serve_plain(&mut self, arguments: &[&str]) {
        let serve = self.plain(&[&["serve", "--port", "0"], arguments].concat());
        let address = until("the address", || {
            let talk = serve.talk();
            let at = talk.find("127.0.0.1:")? + "127.0.0.1:".len();
            let digits: String = talk[at..].chars().take_while(char::is_ascii_digit).collect();
            talk[at + digits.len()..].contains('\n').then(|| digits.parse::<u16>().ok())?
        });
        self.port = address;
        self.serve = Some(serve);
    }

    /// Ends what [`Node::serve_plain`] has started.
    pub(crate) fn stop_plain(&mut self) -> Ran {
        let serve = self.serve.take().unwrap();
        serve.signal(rustix::process::Signal::INT);
        serve.end()
    }

    /// Runs a command on this device to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        self.start(arguments).end()
    }

    /// Starts `serve` on a free port, or again on the port it had, and waits until it listens.
    pub(crate) fn serve(&mut self, arguments: &[&str]) {
        assert!(self.serve.is_none(), "{} serves already", self.alias);
        let port = self.port.to_string();
        let mut serve = self.start(&[&["serve", "--port", &port], arguments].concat());
        let listening = serve.event("listening");
        assert_eq!(listening["alias"], self.alias.as_str());
        self.port = u16::try_from(listening["port"].as_u64().unwrap()).unwrap();
        self.serve = Some(serve);
    }

    /// Ends `serve` as a person would.
    pub(crate) fn stop(&mut self) -> Ran {
        let serve = self.serve.take().unwrap();
        serve.signal(rustix::process::Signal::INT);
        let ran = serve.end();
        assert_eq!(ran.last(0)["event"], "stopped");
        ran
    }

    /// Ends `serve` as a power cut would.
    pub(crate) fn crash(&mut self) {
        self.serve.take().unwrap().kill();
    }

    /// The next event of its `serve`.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        self.serve.as_mut().unwrap().event(name)
    }

    /// How others call its `serve`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it keeps what it receives.
    pub(crate) fn store(&self) -> PathBuf {
        self.home.join("store")
    }

    /// Bytes in the packs it keeps, those of drafts too.
    pub(crate) fn stored_bytes(&self) -> u64 {
        bytes_below(&self.store())
    }

    /// The full fingerprint.
    pub(crate) fn fingerprint(&self) -> String {
        self.run(&["status"]).rows()[0]["fingerprint"].as_str().unwrap().to_owned()
    }

    /// Pairs with `nas`, which asks nobody.
    pub(crate) fn pair(&self, nas: &mut Node) -> Ran {
        self.run_with_pin(nas, &["pair", &nas.address()])
    }

    /// Runs a command that needs a PIN: `nas` shows it, and it gets into a file that was not there before.
    pub(crate) fn run_with_pin<S: AsRef<OsStr>>(&self, nas: &mut Node, arguments: &[S]) -> Ran {
        let (running, file) = self.start_with_pin_file(arguments);
        give_pin(&file, nas.event("pin")["pin"].as_str().unwrap());
        running.end()
    }

    /// Starts a command that will look for a PIN in a file that is not there yet.
    pub(crate) fn start_with_pin_file<S: AsRef<OsStr>>(&self, arguments: &[S]) -> (Program, PathBuf) {
        let file = self.home.join(format!("pin-{:x}", getrandom::u64().unwrap()));
        let mut arguments: Vec<OsString> = arguments.iter().map(|a| a.as_ref().to_owned()).collect();
        arguments.extend(["--pin-file".into(), file.clone().into()]);
        (self.start(&arguments), file)
    }

    /// The next question at this device, waited for.
    pub(crate) fn question(&self) -> Value {
        until("a question", || self.run(&["pending"]).rows().first().cloned())
    }

    /// Answers a question.
    pub(crate) fn answer(&self, question: &Value, word: &str) {
        let id = question["id"].to_string();
        assert_eq!(self.run(&["pending", &id, word]).last(0)["event"], "answered");
    }

    /// The snapshots this device lists, of `device` or its own.
    pub(crate) fn snapshots(&self, device: Option<&str>) -> Vec<Value> {
        let arguments: Vec<&str> = ["snapshots"].into_iter().chain(device).collect();
        self.run(&arguments).rows().to_vec()
    }
}

/// A PIN file appears whole, as it would from a careful script.
pub(crate) fn give_pin(file: &Path, pin: &str) {
    let draft = file.with_extension("draft");
    fs::write(&draft, format!("{pin}\n")).unwrap();
    fs::rename(draft, file).unwrap();
}

/// All regular files below a folder, by their path in it, with their content.
fn files_below(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut queue = vec![folder.to_owned()];
    while let Some(path) = queue.pop() {
        for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                queue.push(path);
            } else if kind.is_file() {
                files.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(path).unwrap()));
            }
        }
    }
    files
}

/// Copies a folder with everything in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg("--").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// The sizes of all files below a folder; 0 when it is not there. Files may come and go meanwhile.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}
