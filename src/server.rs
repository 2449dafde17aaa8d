//! The receiving side: HTTPS for paired devices, a small door for strangers who want to pair, and LocalSend's `info` and
//! `register` so that everybody finds everybody.
//!
//! Rules that hold everywhere below:
//! - who calls is what the handshake proved ([`connection`]), never what a body says;
//! - every request passes one table ([`router`]) that says what it needs, and the caller's rights are looked up each time;
//! - whatever a peer sends is bounded and paced ([`limits`], [`body`], [`stream`]);
//! - disk and hashing run on the blocking side and meet the network in bounded channels ([`body`], [`chunks`]);
//! - nothing here prompts or prints: questions go to an [`approval::Approver`], news to [`events`].
//!
//! | file | what |
//! |---|---|
//! | [`connection`] [`connections`] [`stream`] | from a TCP connection to a proved caller |
//! | [`router`] [`call`] [`api_error`] [`body`] [`limits`] | from a request to a handler, and back |
//! | [`state`] [`shares`] [`events`] [`approval`] [`desk`] | what handlers share; what devices share; people |
//! | [`pairing`] [`allowance`] [`windows`] [`pair_routes`] | PIN windows: rules, count, effects, words |
//! | [`sessions`] [`opening`] [`waiting`] [`cancel`] | sessions: rules, questions, long polls, their end |
//! | [`prepare_upload`] [`manifest`] [`room`] [`missing`] [`upload`] [`finish`] | a backup, in the order of its calls |
//! | [`listing`] [`prepare_download`] [`chunks`] | a restore |
//! | [`prepare_copy`] | a copy of a repository comes |
//! | [`localsend`] | files from stock LocalSend apps |
//! | [`share`] | a listener of its own for browsers, while `share` runs |
//! | [`info`] | who is here |
//! | [`rotated`] [`impostors`] | who was known by another certificate, and who only has a known name |

pub mod approval;
pub mod desk;
pub mod events;
pub mod localsend;
pub mod sessions;
pub mod share;

mod allowance;
mod api_error;
mod body;
mod call;
mod cancel;
mod chunks;
mod connection;
mod connections;
mod finish;
mod impostors;
mod info;
mod limits;
pub mod listing;
pub(crate) mod manifest;
mod missing;
mod opening;
mod pair_routes;
mod pairing;
mod prepare_copy;
mod prepare_download;
mod prepare_upload;
mod room;
mod rotated;
mod router;
mod shares;
mod state;
mod stream;
pub(crate) mod upload;
mod waiting;
mod windows;

#[cfg(test)]
mod document;
#[cfg(test)]
mod live;

use crate::identity::{self, Identity, TrustStore};
use crate::model::{Alias, Fingerprint, ShortCode};
use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use crate::server::connection::{Acceptor, Speech};
use crate::server::limits::{MAX_HEAD_BYTES, Pace, SHUTDOWN_GRACE, SWEEP_INTERVAL};
use crate::server::state::Shared;
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

pub use approval::{ApprovalRequest, Approver, Decision, Question, Scripted};
pub use desk::{Desk, OpenQuestion};
pub use events::{PinShown, ServerEvent};
pub use localsend::pin::LocalSendPin;
pub use localsend::{LocalSendMode, LocalSendOptions};
pub use rotated::hand_over;
pub use sessions::{Expected, SessionKind, SessionSummary};

/// What went wrong with the server itself; what goes wrong with a request is the caller's to hear.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket cannot be used.
    #[error("the server cannot listen")]
    Listen(#[source] io::Error),
    /// Nobody with that code (or nobody at all) has asked to be paired lately.
    #[error("no device {}asked to be paired in the last ten minutes", code.map(|c| format!("with the code {c} ")).unwrap_or_default())]
    NobodyAsks {
        /// The code that was asked for.
        code: Option<ShortCode>,
    },
    /// The trust store failed.
    #[error("the paired devices cannot be changed")]
    Trust(#[source] identity::Error),
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NobodyAsks { .. } => {
                Some("start `lan-backup pair` on the other device first; it shows its code".to_owned())
            }
            Self::Trust(error) => error.hint(),
            Self::Listen(_) => None,
        }
    }
}

/// What [`Error`] is for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who is let in without a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceptMode {
    /// A person is asked about each new device, and about each set that was not accepted for always.
    #[default]
    Ask,
    /// Whoever types the PIN is in, and may back up any set. Others' backups are still asked about.
    Paired,
    /// Only what was settled before; a person may still open a window with `pin`.
    Never,
}

/// What the caller chooses.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Who this device is.
    pub identity: Identity,
    /// Whom it trusts.
    pub trust: TrustStore,
    /// Where it keeps what it receives. Without one (a listener that lasts for one command) it only says who it is and pairs.
    pub store: Option<Store>,
    /// What it calls itself.
    pub alias: Alias,
    /// It listens only while one command runs.
    pub transient: bool,
    /// Who is let in without a question.
    pub accept: AcceptMode,
    /// Who answers questions.
    pub approver: Arc<dyn Approver>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Takes the news. When it is slow, progress is dropped; the server never waits for it.
    pub events: mpsc::Sender<ServerEvent>,
    /// Where the day's count of pairing windows is kept.
    pub state_folder: PathBuf,
    /// Bytes that each device may have stored here.
    pub quota: Option<u64>,
    /// Bytes that stay free on the disk.
    pub reserve_bytes: u64,
    /// Files from LocalSend apps.
    pub localsend: LocalSendOptions,
}

/// Deletes what a process that died has left half-written in the inbox folder.
pub fn sweep_inbox(folder: &Path, clock: &dyn Clock) {
    let now = crate::model::FileTime::new(clock.now().as_second(), 0);
    localsend::saver::sweep(folder, now);
}

/// Serves on `listener` until `shutdown`. Returns at once; the handle tells when it is over.
///
/// # Errors
/// [`Error::Listen`] when the socket cannot be used.
#[expect(clippy::unused_async, reason = "must be called inside a runtime, and says so")]
pub async fn start(listener: TcpListener, options: ServerOptions, shutdown: Shutdown) -> Result<ServerHandle> {
    serve(listener, options, shutdown, Pace::STANDARD)
}

fn serve(listener: TcpListener, options: ServerOptions, shutdown: Shutdown, pace: Pace) -> Result<ServerHandle> {
    listener.set_nonblocking(true).map_err(Error::Listen)?;
    let port = listener.local_addr().map_err(Error::Listen)?.port();
    let shared = Arc::new(Shared::new(options, port, pace, shutdown.clone()));
    let config = shared.identity.server_config();
    let trust = Some(shared.trust.clone());
    let localsend = &shared.localsend.options;
    let is_plain_allowed = localsend.plain_http && localsend.mode != LocalSendMode::Off;
    let speech = if is_plain_allowed { Speech::Either(config) } else { Speech::Tls(config) };
    let acceptor = Acceptor::new(speech, trust, shared.connections.clone(), pace);
    let http = axum_server::Handle::<SocketAddr>::new();
    let server = axum_server::from_tcp(listener).map_err(Error::Listen)?;
    let mut server = server.acceptor(acceptor).http1_only().handle(http.clone());
    // The time limit of heads is kept by `stream`, which tells a slow head from a quiet connection.
    server.http_builder().http1().header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    let serving = tokio::spawn(server.serve(router::router(&shared).into_make_service()));
    let ended = Shutdown::new();
    tokio::spawn(sweep(shared.clone(), ended.clone()));
    tokio::spawn({
        let (shared, ended) = (shared.clone(), ended.clone());
        async move {
            shutdown.stopped().await;
            http.graceful_shutdown(Some(SHUTDOWN_GRACE));
            match serving.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the server ended with an error"),
                Err(error) => tracing::error!(%error, "the server ended with an error"),
            }
            shared.connections.kill_all();
            localsend::receive::close(&shared).await;
            ended.stop();
        }
    });
    tracing::info!(port, "listening");
    Ok(ServerHandle { shared, ended })
}

/// Looks once in a while for what has expired.
async fn sweep(shared: Arc<Shared>, ended: Shutdown) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = ended.stopped() => return,
        }
        let expired = shared.sessions().expire(shared.clock.instant());
        for session in expired {
            shared.events.send(ServerEvent::SessionEnded(session.summary()));
        }
        localsend::receive::expire(&shared);
        windows::advance(&shared);
        end_the_unpaired(&shared);
    }
}

/// Another process may have unpaired a device: every request is checked anyway, but what is under way must end, too.
fn end_the_unpaired(shared: &Shared) {
    for device in shared.connections.paired_devices() {
        if shared.trust.find(&device).is_none() {
            shared.end_everything_of(device);
        }
    }
}

/// A running server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    shared: Arc<Shared>,
    ended: Shutdown,
}

impl ServerHandle {
    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.shared.port
    }

    /// Returns when the server has ended, within a few seconds of its shutdown.
    pub async fn stopped(&self) {
        self.ended.stopped().await;
    }

    /// Opens a pairing window, whoever else asks: for the device with this code that asked in the last ten minutes, or, without
    /// a code, for the one that waits longest. The PIN comes as an event, too.
    ///
    /// # Errors
    /// [`Error::NobodyAsks`].
    pub fn open_window(&self, code: Option<&ShortCode>) -> Result<PinShown> {
        windows::open_by_person(&self.shared, code)
    }

    /// Forgets a device and ends its live connections at once. `false` when it was not paired. Blocking for a moment: the
    /// change is saved durably.
    pub fn unpair(&self, fingerprint: &Fingerprint) -> Result<bool> {
        let removed = self.shared.trust.remove(fingerprint).map_err(Error::Trust)?;
        // Even when another process was faster: the connections are ours to end.
        self.shared.end_everything_of(*fingerprint);
        if removed.is_some() {
            tracing::info!(device = %fingerprint.short_code(), "unpaired");
            self.shared.events.send(ServerEvent::Unpaired { fingerprint: *fingerprint });
        }
        Ok(removed.is_some())
    }

    /// What is under way, oldest first.
    pub fn sessions(&self) -> Vec<SessionSummary> {
        let mut all = self.shared.sessions().summaries();
        all.extend(self.shared.localsend.sessions().summaries());
        all.sort_by_key(|summary| summary.number);
        all
    }
}
