//! The socket by which commands speak to a running `serve`: one line of JSON there, one line back. A Unix socket that only this
//! user can reach: its folder is private, and the caller's user id is checked besides.

use crate::config::Home;
use crate::daemon::neighbours::{self, Neighbours};
use crate::daemon::{Context, Error, Result};
use crate::discovery::DiscoveryHandle;
use crate::model::{Fingerprint, ShortCode};
use crate::platform::{Context as _, fs};
use crate::protocol::ErrorCode;
use crate::server::{Decision, Desk, OpenQuestion, ServerHandle, SessionSummary};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The longest request: far more than any there is.
const MAX_REQUEST_BYTES: u64 = 64 << 10;
/// The longest answer: hundreds of devices and questions.
const MAX_ANSWER_BYTES: u64 = 4 << 20;
/// A caller that says nothing, or a `serve` that does not answer, is given up after this.
const LIMIT: Duration = Duration::from_secs(40);
/// Longest path of a socket that every Unix takes.
const MAX_SOCKET_PATH: usize = 100;
/// Longest wait for devices, in seconds.
const MAX_WAIT: u64 = 30;

/// What a command asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Request {
    /// Who is on the network: announce, wait, list.
    Devices {
        /// Seconds.
        wait: u64,
    },
    /// Open a pairing window.
    Pin {
        /// For the device with this code; for the one that waits longest otherwise.
        code: Option<ShortCode>,
    },
    /// What waits for an answer.
    Pending,
    /// Answer it.
    Answer {
        /// Which question.
        id: u64,
        /// How.
        decision: Decision,
    },
    /// Forget a device and end its connections.
    Unpair {
        /// Which.
        fingerprint: Fingerprint,
    },
    /// How the server is.
    Status,
}

/// What a running `serve` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Answer {
    /// To `devices`.
    Devices(Neighbours),
    /// To `pin`.
    Pin {
        /// The digits.
        pin: String,
        /// For whom.
        code: ShortCode,
        /// What it calls itself.
        alias: String,
        /// Seconds it stays good.
        expires_in: u32,
    },
    /// To `pending`.
    Pending {
        /// Oldest first.
        questions: Vec<OpenQuestion>,
    },
    /// To `answer` and `unpair`: whether there was anything to do.
    Done {
        /// It was done.
        done: bool,
    },
    /// To `status`.
    Status {
        /// Where it listens.
        port: u16,
        /// Where it keeps what it receives.
        store: PathBuf,
        /// What is under way.
        sessions: Vec<SessionSummary>,
        /// How many questions wait.
        questions: usize,
    },
    /// No.
    Error {
        /// For programs.
        code: String,
        /// For people.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// What the answers are made of.
#[derive(Clone, Debug)]
pub struct Answers {
    /// This device.
    pub context: Context,
    /// Where received backups are kept.
    pub store: PathBuf,
    /// The server.
    pub server: ServerHandle,
    /// Discovery.
    pub discovery: DiscoveryHandle,
    /// Open questions.
    pub desk: Arc<Desk>,
}

/// The listening end.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl ControlSocket {
    /// Listens. The caller holds the lock of the home, so a socket that is there is a dead process's and is removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(home: &Home, answers: Answers) -> Result<Self> {
        let path = socket_path(home)?;
        fs::remove_file(&path)?;
        let listener = UnixListener::bind(&path).context("listen on", &path)?;
        let task = tokio::spawn(async move {
            let mut callers = tokio::task::JoinSet::new();
            loop {
                while callers.try_join_next().is_some() {}
                match listener.accept().await {
                    Ok((stream, _)) if is_this_user(&stream) => {
                        callers.spawn(serve(stream, answers.clone()));
                    }
                    Ok(_) => tracing::warn!("another user knocked at the control socket"),
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot accept");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
        });
        Ok(Self { path, task })
    }

    /// Stops listening.
    pub fn close(&self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// The home's own place for the socket, or a short one where that path is longer than sockets allow.
fn socket_path(home: &Home) -> Result<PathBuf> {
    let path = home.control_socket();
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return Ok(path);
    }
    let user = rustix::process::geteuid().as_raw();
    let folder = Path::new("/tmp").join(format!("lan-backup-{user}"));
    fs::create_private_dir_all(&folder)?;
    let metadata = fs::metadata(&folder)?;
    if !metadata.is_dir() || metadata.uid() != user || metadata.mode() & 0o077 != 0 {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, "somebody else's folder is in the way");
        return Err(source).context("use", folder).map_err(Error::from);
    }
    let hash = blake3::hash(crate::platform::attributes::bytes_of(&path)).to_hex();
    Ok(folder.join(format!("{}.sock", &hash[..16])))
}

fn is_this_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn serve(stream: UnixStream, answers: Answers) {
    let exchange = async {
        let (reader, mut writer) = stream.into_split();
        let mut line = String::new();
        BufReader::new(reader).take(MAX_REQUEST_BYTES).read_line(&mut line).await?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => answers.answer(request).await,
            Err(error) => refusal(ErrorCode::BadRequest.name(), error.to_string(), None),
        };
        let mut line = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        line.push(b'\n');
        writer.write_all(&line).await
    };
    match tokio::time::timeout(LIMIT, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a command went away"),
        Err(_) => tracing::debug!("a command said nothing"),
    }
}

fn refusal(code: &str, message: String, hint: Option<String>) -> Answer {
    Answer::Error { code: code.to_owned(), message, hint }
}

impl Answers {
    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Devices { wait } => {
                let wait = Duration::from_secs(wait.min(MAX_WAIT));
                Answer::Devices(neighbours::look_around(&self.context, &self.discovery, wait).await)
            }
            Request::Pin { code } => match self.server.open_window(code.as_ref()) {
                Ok(shown) => Answer::Pin {
                    pin: shown.pin.digits(),
                    code: shown.code,
                    alias: shown.alias.to_string(),
                    expires_in: shown.expires_in,
                },
                Err(error) => refusal("nobody-asks", error.to_string(), error.hint()),
            },
            Request::Pending => Answer::Pending { questions: self.desk.list() },
            Request::Answer { id, decision } => Answer::Done { done: self.desk.answer(id, decision) },
            Request::Unpair { fingerprint } => {
                let server = self.server.clone();
                match tokio::task::spawn_blocking(move || server.unpair(&fingerprint)).await {
                    Ok(Ok(done)) => Answer::Done { done },
                    Ok(Err(error)) => refusal("failed", error.to_string(), error.hint()),
                    Err(error) => refusal("failed", error.to_string(), None),
                }
            }
            Request::Status => Answer::Status {
                port: self.server.port(),
                store: self.store.clone(),
                sessions: self.server.sessions(),
                questions: self.desk.list().len(),
            },
        }
    }
}

/// Asks the running `serve` of a home.
///
/// # Errors
/// [`Error::NotRunning`]; [`Error::Refused`] when it says no.
pub async fn ask(home: &Home, request: &Request) -> Result<Answer> {
    let path = socket_path(home)?;
    let Ok(stream) = UnixStream::connect(&path).await else { return Err(Error::NotRunning) };
    let exchange = async {
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(reader).take(MAX_ANSWER_BYTES).read_line(&mut answer).await?;
        serde_json::from_str(&answer).map_err(io::Error::other)
    };
    let limited = tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match limited.context("ask the running `serve` at", path)? {
        Answer::Error { code, message, hint } => Err(Error::Refused { code, message, hint }),
        answer => Ok(answer),
    }
}
