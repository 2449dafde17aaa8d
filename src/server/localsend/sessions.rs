//! The table of LocalSend sessions: a pure state machine that takes the time as an argument.
//!
//! A session belongs to who proved to be its sender: the certificate of the connection, or, from apps that show none, the
//! address. A file is *waiting*, *running*, *kept* or *failed*; a running one cannot be begun again, a kept one neither, and a
//! failed one (hash wrong, connection broken) as long as it has tries left. When nothing is waiting or running any more the
//! session is *settled*: what came is made durable. It is gone when every file was kept, was cancelled, or when nobody used it for
//! [`SESSION_IDLE`](crate::server::limits::SESSION_IDLE).

use crate::model::{Alias, ContentHash, FileTime, Fingerprint, RelPath, SessionId};
use crate::protocol::localsend::MAX_TRIES;
use crate::server::limits::{LOCALSEND_PARALLEL, LOCALSEND_SESSIONS, LOCALSEND_SESSIONS_PER_SENDER, SESSION_IDLE};
use crate::server::sessions::{Expected, SessionKind, SessionSummary};
use jiff::Timestamp;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Who sends, as far as that is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// The handshake showed this certificate.
    Proved(Fingerprint),
    /// No certificate; only the address binds the calls together.
    Address(IpAddr),
}

/// One file that shall come.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Where it goes, made clean.
    pub(crate) path: RelPath,
    /// Its length.
    pub(crate) size: u64,
    /// Its hash, if the sender gave one.
    pub(crate) sha256: Option<ContentHash>,
    /// Its time, if the sender gave one.
    pub(crate) mtime: Option<FileTime>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Waiting,
    Running,
    Kept,
    Failed,
}

#[derive(Clone, Debug)]
struct File {
    wanted: Wanted,
    token: SessionId,
    status: Status,
    tries: u8,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is here, whole.
    Kept,
    /// It was not what its hash says: expected again while there are tries.
    WrongHash,
    /// It did not come whole, or could not be kept.
    Failed,
}

/// Why a file cannot be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such session of this sender, no such file, another token, or it is here already.
    Invalid,
    /// More at once than any app sends.
    Busy,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its name in events and logs: not a secret.
    pub(crate) number: u64,
    /// Whose it is.
    pub(crate) sender: Sender,
    /// What that device calls itself.
    pub(crate) alias: Alias,
    /// The fingerprint that is shown: proved, or derived from what was claimed.
    pub(crate) fingerprint: Fingerprint,
    files: HashMap<String, File>,
    started: Timestamp,
    last_used: Instant,
    expected: Expected,
    bytes: u64,
}

impl Session {
    /// A session for these files; each gets its token.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own, and one place makes sessions")]
    pub(crate) fn new(
        number: u64,
        sender: Sender,
        alias: Alias,
        fingerprint: Fingerprint,
        wanted: Vec<(String, Wanted)>,
        mut token: impl FnMut() -> SessionId,
        started: Timestamp,
        now: Instant,
    ) -> Self {
        let bytes = wanted.iter().fold(0_u64, |sum, (_, file)| sum.saturating_add(file.size));
        let expected = Expected { files: wanted.len() as u64, bytes };
        let mut file = |wanted| File { wanted, token: token(), status: Status::Waiting, tries: 0 };
        let files = wanted.into_iter().map(|(id, wanted)| (id, file(wanted))).collect();
        Self { number, sender, alias, fingerprint, files, started, last_used: now, expected, bytes: 0 }
    }

    /// The tokens by file id.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = (&String, SessionId)> {
        self.files.iter().map(|(id, file)| (id, file.token))
    }

    /// What may be shown of it.
    pub(crate) fn summary(&self) -> SessionSummary {
        SessionSummary {
            number: self.number,
            fingerprint: self.fingerprint,
            alias: self.alias.clone(),
            kind: SessionKind::Inbox,
            set: None,
            waiting: false,
            bytes: self.bytes,
            expected: self.expected,
            started: self.started,
        }
    }

    fn running(&self) -> usize {
        self.files.values().filter(|file| file.status == Status::Running).count()
    }

    fn is_settled(&self) -> bool {
        !self.files.values().any(|file| matches!(file.status, Status::Waiting | Status::Running))
    }

    fn is_complete(&self) -> bool {
        self.files.values().all(|file| file.status == Status::Kept)
    }
}

/// How far a session is after a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More is expected.
    More,
    /// Nothing is waiting or running: what came is to be made durable now.
    Settled,
    /// The session was ended meanwhile.
    Gone,
}

/// All LocalSend sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: HashMap<SessionId, Session>,
}

impl Sessions {
    /// Adds a session. `false` when the table, or the sender's share of it, is full.
    pub(crate) fn open(&mut self, id: SessionId, session: Session) -> bool {
        let own = self.table.values().filter(|other| other.sender == session.sender).count();
        if self.table.len() >= LOCALSEND_SESSIONS || own >= LOCALSEND_SESSIONS_PER_SENDER {
            return false;
        }
        self.table.insert(id, session);
        true
    }

    /// Begins a file; [`Sessions::end`] must follow.
    pub(crate) fn begin(
        &mut self,
        id: SessionId,
        sender: Sender,
        file: &str,
        token: SessionId,
        now: Instant,
    ) -> Result<Wanted, Refusal> {
        let session = self.table.get_mut(&id).filter(|session| session.sender == sender).ok_or(Refusal::Invalid)?;
        let running = session.running();
        let file = session.files.get_mut(file).filter(|file| file.token == token).ok_or(Refusal::Invalid)?;
        if matches!(file.status, Status::Running | Status::Kept) || file.tries >= MAX_TRIES {
            return Err(Refusal::Invalid);
        }
        if running >= LOCALSEND_PARALLEL {
            return Err(Refusal::Busy);
        }
        file.status = Status::Running;
        file.tries += 1;
        session.last_used = now;
        Ok(file.wanted.clone())
    }

    /// Ends a file that was begun, of which `bytes` came.
    pub(crate) fn end(&mut self, id: SessionId, file: &str, outcome: Outcome, bytes: u64, now: Instant) -> Progress {
        let Some(session) = self.table.get_mut(&id) else { return Progress::Gone };
        session.last_used = now;
        session.bytes += bytes;
        if let Some(file) = session.files.get_mut(file) {
            file.status = match outcome {
                Outcome::Kept => Status::Kept,
                Outcome::WrongHash if file.tries < MAX_TRIES => Status::Waiting,
                Outcome::WrongHash | Outcome::Failed => Status::Failed,
            };
        }
        if session.is_settled() { Progress::Settled } else { Progress::More }
    }

    /// What may be shown of one.
    pub(crate) fn summary(&self, id: SessionId) -> Option<SessionSummary> {
        self.table.get(&id).map(Session::summary)
    }

    /// Removes a session that has nothing left to come; gives it then.
    pub(crate) fn remove_complete(&mut self, id: SessionId) -> Option<Session> {
        self.table.get(&id).filter(|session| session.is_complete())?;
        self.table.remove(&id)
    }

    /// Ends a session of `sender`.
    pub(crate) fn cancel(&mut self, id: SessionId, sender: Sender) -> Option<Session> {
        self.table.get(&id).filter(|session| session.sender == sender)?;
        self.table.remove(&id)
    }

    /// Ends what nobody used for long; a file under way is use.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(SessionId, Session)> {
        let idle = |session: &Session| {
            session.running() == 0 && now.saturating_duration_since(session.last_used) > SESSION_IDLE
        };
        let ids: Vec<_> = self.table.iter().filter(|(_, session)| idle(session)).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.table.remove(&id).map(|session| (id, session))).collect()
    }

    /// Ends everything.
    pub(crate) fn drain(&mut self) -> Vec<(SessionId, Session)> {
        self.table.drain().collect()
    }

    /// What is under way, oldest first.
    pub(crate) fn summaries(&self) -> Vec<SessionSummary> {
        let mut summaries: Vec<_> = self.table.values().map(Session::summary).collect();
        summaries.sort_by_key(|summary| summary.number);
        summaries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PHONE: Sender = Sender::Proved(Fingerprint::from_bytes([1; 32]));
    const OTHER: Sender = Sender::Proved(Fingerprint::from_bytes([2; 32]));

    fn id(n: u8) -> SessionId {
        SessionId::from_random([n; 16])
    }

    fn session(sender: Sender, files: &[&str], now: Instant) -> Session {
        let wanted = |name: &&str| {
            let path = RelPath::new(name.as_bytes()).unwrap();
            ((*name).to_owned(), Wanted { path, size: 3, sha256: None, mtime: None })
        };
        let fingerprint = Fingerprint::from_bytes([1; 32]);
        let files = files.iter().map(wanted).collect();
        Session::new(1, sender, Alias::new("p"), fingerprint, files, || id(9), Timestamp::UNIX_EPOCH, now)
    }

    fn with(files: &[&str], now: Instant) -> Sessions {
        let mut sessions = Sessions::default();
        assert!(sessions.open(id(1), session(PHONE, files, now)));
        sessions
    }

    #[test]
    fn a_file_comes_once_and_the_last_one_settles_the_session() {
        let now = Instant::now();
        let mut sessions = with(&["a", "b"], now);
        assert_eq!(sessions.begin(id(1), PHONE, "a", id(9), now).unwrap().size, 3);
        assert_eq!(sessions.begin(id(1), PHONE, "a", id(9), now).unwrap_err(), Refusal::Invalid, "it is running");
        assert_eq!(sessions.end(id(1), "a", Outcome::Kept, 3, now), Progress::More);
        assert_eq!(sessions.begin(id(1), PHONE, "a", id(9), now).unwrap_err(), Refusal::Invalid, "it is here");
        assert!(sessions.remove_complete(id(1)).is_none());
        sessions.begin(id(1), PHONE, "b", id(9), now).unwrap();
        assert_eq!(sessions.end(id(1), "b", Outcome::Kept, 3, now), Progress::Settled);
        assert_eq!(sessions.remove_complete(id(1)).unwrap().summary().bytes, 6);
        assert_eq!(sessions.begin(id(1), PHONE, "b", id(9), now).unwrap_err(), Refusal::Invalid);
    }

    #[test]
    fn only_the_sender_with_the_right_token_gets_anywhere() {
        let now = Instant::now();
        let mut sessions = with(&["a"], now);
        let address = Sender::Address([10, 0, 0, 1].into());
        for (session, sender, file, token) in [
            (id(2), PHONE, "a", id(9)),
            (id(1), OTHER, "a", id(9)),
            (id(1), address, "a", id(9)),
            (id(1), PHONE, "x", id(9)),
            (id(1), PHONE, "a", id(8)),
        ] {
            assert_eq!(sessions.begin(session, sender, file, token, now).unwrap_err(), Refusal::Invalid);
        }
        assert!(sessions.cancel(id(1), OTHER).is_none() && sessions.cancel(id(1), PHONE).is_some());
        assert_eq!(sessions.end(id(1), "a", Outcome::Kept, 3, now), Progress::Gone);
    }

    #[test]
    fn a_wrong_hash_may_be_mended_twice_and_a_broken_file_be_sent_again() {
        let now = Instant::now();
        let mut sessions = with(&["a"], now);
        for expected in [Progress::More, Progress::More, Progress::Settled] {
            sessions.begin(id(1), PHONE, "a", id(9), now).unwrap();
            assert_eq!(sessions.end(id(1), "a", Outcome::WrongHash, 3, now), expected);
        }
        assert_eq!(sessions.begin(id(1), PHONE, "a", id(9), now).unwrap_err(), Refusal::Invalid);
        let mut sessions = with(&["a"], now);
        sessions.begin(id(1), PHONE, "a", id(9), now).unwrap();
        assert_eq!(sessions.end(id(1), "a", Outcome::Failed, 1, now), Progress::Settled, "what came is made durable");
        assert!(sessions.remove_complete(id(1)).is_none(), "and it may be sent again");
        sessions.begin(id(1), PHONE, "a", id(9), now).unwrap();
        assert_eq!(sessions.end(id(1), "a", Outcome::Kept, 3, now), Progress::Settled);
        assert!(sessions.remove_complete(id(1)).is_some());
    }

    #[test]
    fn the_table_is_bounded_for_each_sender_and_in_all_and_idle_sessions_go() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        for n in 0..LOCALSEND_SESSIONS_PER_SENDER as u8 {
            assert!(sessions.open(id(n), session(PHONE, &["a"], now)));
        }
        assert!(!sessions.open(id(100), session(PHONE, &["a"], now)));
        for n in 0..(LOCALSEND_SESSIONS - LOCALSEND_SESSIONS_PER_SENDER) as u8 {
            assert!(sessions.open(id(50 + n), session(Sender::Address([10, 0, 0, n].into()), &["a"], now)));
        }
        assert!(!sessions.open(id(200), session(OTHER, &["a"], now)));
        sessions.begin(id(0), PHONE, "a", id(9), now).unwrap();
        let later = now + SESSION_IDLE + Duration::from_secs(1);
        assert_eq!(sessions.expire(later).len(), LOCALSEND_SESSIONS - 1, "a file under way is use");
        assert_eq!(sessions.end(id(0), "a", Outcome::Failed, 0, later), Progress::Settled);
        assert_eq!(sessions.expire(later + SESSION_IDLE).len(), 0);
        assert_eq!(sessions.expire(later + SESSION_IDLE + Duration::from_secs(1)).len(), 1);
    }

    #[test]
    fn more_at_once_than_any_app_sends_is_refused_for_the_moment() {
        let now = Instant::now();
        let names: Vec<String> = (0..=LOCALSEND_PARALLEL).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut sessions = with(&names, now);
        for name in &names[..LOCALSEND_PARALLEL] {
            sessions.begin(id(1), PHONE, name, id(9), now).unwrap();
        }
        let last = names[LOCALSEND_PARALLEL];
        assert_eq!(sessions.begin(id(1), PHONE, last, id(9), now).unwrap_err(), Refusal::Busy);
        sessions.end(id(1), names[0], Outcome::Kept, 3, now);
        sessions.begin(id(1), PHONE, last, id(9), now).unwrap();
    }
}
