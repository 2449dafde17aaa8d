//! The real program as a child process: its lines as they come, its exit code in the end, and an end in any case.
//!
//! Nothing here waits without a limit, and only processes started here are ended, by their own id.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing in these tests takes that long, not even on a busy machine with a debug build.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The exit code of a process that was killed.
pub(crate) const KILLED: i32 = -9;

/// Looks again and again until there is something; panics after [`LIMIT`].
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lines of JSON on stdout.
#[derive(Debug, Default)]
struct Lines {
    state: Mutex<(Vec<Value>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn push(&self, line: Option<Value>) {
        let mut state = self.state.lock().unwrap();
        match line {
            Some(line) => state.0.push(line),
            None => state.1 = true,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// What `look` finds in the lines and whether they have ended; waited for.
    fn wait<T>(&self, mut look: impl FnMut(&[Value], bool) -> Option<T>) -> Option<T> {
        let end = Instant::now() + LIMIT;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = look(&state.0, state.1) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// A running program; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    lines: Arc<Lines>,
    seen: usize,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts `lan-backup` with these arguments, `stdin` fed from a text or closed.
    pub(crate) fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lan-backup"));
        command.args(arguments).env_remove("RUST_LOG").env_remove("LAN_BACKUP_HOME");
        Self::start_command(command)
    }

    /// Starts any command.
    pub(crate) fn start_command(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (lines, stderr) = (Arc::new(Lines::default()), Arc::new(Mutex::new(String::new())));
        let (stdout_pipe, stderr_pipe) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let reader = {
            let lines = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stdout_pipe).lines().map_while(Result::ok) {
                    // Without `--json` it is text.
                    lines.push(Some(serde_json::from_str(&line).unwrap_or(Value::String(line))));
                }
                lines.push(None);
            })
        };
        let errors = {
            let stderr = stderr.clone();
            std::thread::spawn(move || {
                let mut pipe = BufReader::new(stderr_pipe);
                let mut bytes = Vec::new();
                while pipe.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                    stderr.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes));
                    bytes.clear();
                }
            })
        };
        Self { child, lines, seen: 0, stderr, readers: vec![reader, errors] }
    }

    /// The next event of this name; those before it are passed over.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        let from = self.seen;
        let found = self.lines.wait(|lines, over| {
            let at = lines.iter().skip(from).position(|line| line["event"] == name);
            match at {
                Some(at) => Some(Some((from + at, lines[from + at].clone()))),
                None => over.then_some(None),
            }
        });
        let Some(Some((at, event))) = found else {
            panic!("no event `{name}`; lines: {:#?}\nstderr: {}", self.lines.state.lock().unwrap().0, self.talk());
        };
        self.seen = at + 1;
        event
    }

    /// Whether an event of this name came, so far.
    pub(crate) fn has_event(&self, name: &str) -> bool {
        self.lines.state.lock().unwrap().0.iter().any(|line| line["event"] == name)
    }

    /// What it said on stderr so far.
    pub(crate) fn talk(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ran {
        let over = self.lines.wait(|_, over| over.then_some(()));
        assert!(over.is_some(), "it does not come to an end; stderr: {}", self.talk());
        let status = self.child.wait().unwrap();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        let lines = std::mem::take(&mut self.lines.state.lock().unwrap().0);
        Ran { code: status.code().unwrap_or(KILLED), lines, stderr: self.talk() }
    }

    /// Kills it, as a crash would, and waits until it is gone.
    pub(crate) fn kill(self) -> Ran {
        self.signal(Signal::KILL);
        self.end()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code.
    pub(crate) code: i32,
    /// Its lines on stdout.
    pub(crate) lines: Vec<Value>,
    /// What it said.
    pub(crate) stderr: String,
}

impl Ran {
    /// The last line, of a command that ended with this exit code.
    #[track_caller]
    pub(crate) fn last(&self, code: i32) -> &Value {
        assert_eq!(self.code, code, "{self:#?}");
        self.lines.last().unwrap_or_else(|| panic!("it printed nothing: {self:#?}"))
    }

    /// The `finished` line of a command without faults.
    #[track_caller]
    pub(crate) fn done(&self) -> &Value {
        let last = self.last(0);
        assert_eq!((&last["event"], &last["faults"]), (&"finished".into(), &0.into()), "{self:#?}");
        last
    }

    /// All rows of a command that listed something.
    #[track_caller]
    pub(crate) fn rows(&self) -> &[Value] {
        assert_eq!(self.code, 0, "{self:#?}");
        &self.lines
    }

    /// A failure: the exit code, the code for programs, and both the sentence and the hint on stdout *and* stderr.
    #[track_caller]
    pub(crate) fn failed(&self, exit: i32, code: &str, sentence: &str, hint: &str) {
        let last = self.last(exit);
        assert_eq!((&last["event"], &last["code"]), (&"error".into(), &code.into()), "{self:#?}");
        let (message, said) = (last["message"].as_str().unwrap_or(""), last["hint"].as_str().unwrap_or(""));
        assert!(message.contains(sentence), "`{sentence}` is not in {self:#?}");
        let shown = self.stderr.split_once("error: ").is_some_and(|(_, rest)| rest.contains(sentence));
        assert!(shown, "no sentence on stderr: {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        if hint.is_empty() {
            return;
        }
        assert!(said.contains(hint), "`{hint}` is not the hint in {self:#?}");
        let shown = self.stderr.split_once("hint: ").is_some_and(|(_, rest)| rest.contains(hint));
        assert!(shown, "no hint on stderr: {self:#?}");
    }

    /// The last line is an event with these fields.
    #[track_caller]
    pub(crate) fn number(&self, field: &str) -> u64 {
        let last = self.lines.last().unwrap();
        last[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {self:#?}"))
    }
}

/// Writes a line into a pipe as soon as somebody reads it, from a thread of its own.
pub(crate) fn write_to_pipe(path: &std::path::Path, text: &str) -> JoinHandle<()> {
    let (path, text) = (path.to_owned(), text.to_owned());
    std::thread::spawn(move || {
        let mut pipe = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        pipe.write_all(text.as_bytes()).unwrap();
    })
}

/// Reads a whole text file, for assertions on what is kept.
pub(crate) fn read_text(path: &std::path::Path) -> String {
    let mut text = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}
