//! The table of sessions: a pure state machine that takes the time as an argument.
//!
//! A session belongs to one certificate; for every other caller it does not exist, and the two cases are told apart nowhere.
//! It is *waiting* until a person has decided, then *open* or *declined*; an open backup becomes *finished* with its commit.
//! Finished and declined ones stay for a while, so that a caller whose answer was lost can ask again. A session is forgotten
//! when nobody used it for [`SESSION_IDLE`]; a call under way is use. The table is bounded per device and in all.

use crate::model::{Alias, Fingerprint, IdempotencyKey, RepositoryId, SessionId, SetName};
use crate::server::limits::{
    DECISION_LIMIT, MAX_CALLS_PER_DEVICE, MAX_CALLS_PER_SESSION, MAX_SESSIONS, MAX_SESSIONS_PER_DEVICE, SESSION_IDLE,
    WAITING_IDLE,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Instant;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// To this device.
    Backup,
    /// From this device.
    Restore,
    /// To this device: a copy of a repository that another device keeps.
    Copy,
    /// To this device, from a LocalSend app.
    Inbox,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A person has not answered.
    Waiting,
    /// In use, on this repository.
    Open(RepositoryId),
    /// The record is committed.
    Finished(RepositoryId),
    /// A person said no, or nobody answered in time.
    Declined,
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Its name on the wire.
    pub(crate) id: SessionId,
    /// Its name in events and logs: not a secret.
    pub(crate) number: u64,
    /// Whose it is.
    pub(crate) device: Fingerprint,
    /// What that device calls itself.
    pub(crate) alias: Alias,
    /// Which way.
    pub(crate) kind: SessionKind,
    /// The set of a backup.
    pub(crate) set: Option<SetName>,
    /// How far.
    pub(crate) phase: Phase,
    /// What the caller calls its request.
    pub(crate) key: Option<IdempotencyKey>,
    /// For people.
    pub(crate) started: Timestamp,
    /// Bytes that came (backup) or went (restore).
    pub(crate) bytes: u64,
    /// What a backup has announced to send.
    pub(crate) expected: Expected,
    /// When a person said *once* to it: then it needs no right of its device, for a while.
    pub(crate) once: Option<Instant>,
    created: Instant,
    last_used: Instant,
    calls: usize,
}

impl Session {
    /// A new session in `phase`, for no set and without a key.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own, and one place makes sessions")]
    pub(crate) fn new(
        id: SessionId,
        number: u64,
        device: Fingerprint,
        alias: Alias,
        kind: SessionKind,
        phase: Phase,
        started: Timestamp,
        now: Instant,
    ) -> Self {
        let (set, key, created, last_used) = (None, None, now, now);
        Self {
            id,
            number,
            device,
            alias,
            kind,
            set,
            phase,
            key,
            started,
            bytes: 0,
            expected: Expected::default(),
            once: None,
            created,
            last_used,
            calls: 0,
        }
    }

    /// The repository, once it may be used.
    pub(crate) fn repository(&self) -> Option<RepositoryId> {
        match self.phase {
            Phase::Open(id) | Phase::Finished(id) => Some(id),
            Phase::Waiting | Phase::Declined => None,
        }
    }

    /// What may be shown of it.
    pub(crate) fn summary(&self) -> SessionSummary {
        SessionSummary {
            number: self.number,
            fingerprint: self.device,
            alias: self.alias.clone(),
            kind: self.kind,
            set: self.set.clone(),
            waiting: self.phase == Phase::Waiting,
            bytes: self.bytes,
            expected: self.expected,
            started: self.started,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished(_) | Phase::Declined)
    }

    fn is_expired(&self, now: Instant) -> bool {
        let unused = now.saturating_duration_since(self.last_used);
        match self.phase {
            _ if self.calls > 0 => false,
            Phase::Waiting => unused > WAITING_IDLE,
            Phase::Open(_) | Phase::Finished(_) | Phase::Declined => unused > SESSION_IDLE,
        }
    }
}

/// What a backup has announced to send: the most that may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// New and changed files.
    pub files: u64,
    /// Their plain bytes; compression and what is held already make it less.
    pub bytes: u64,
}

/// A session as `status` and events show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionSummary {
    /// Names the session; not the secret id.
    pub number: u64,
    /// Whose it is.
    pub fingerprint: Fingerprint,
    /// What that device calls itself.
    pub alias: Alias,
    /// Which way the data goes.
    pub kind: SessionKind,
    /// The set of a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetName>,
    /// A person has not answered yet.
    pub waiting: bool,
    /// Bytes that came (backup) or went (restore) so far.
    pub bytes: u64,
    /// What a backup has announced; nothing for a restore.
    pub expected: Expected,
    /// Since when, by this device's clock.
    pub started: Timestamp,
}

/// Why the table says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such session, or it is somebody else's, or it is over.
    Gone,
    /// A person has not answered.
    NotDecided,
    /// A person said no.
    Declined,
    /// The table, or the device's share of it, is full.
    TooMany,
    /// Too many calls at once; later there will be room again.
    Busy,
    /// Not what this kind of session is for.
    WrongKind,
    /// The idempotency key was used for another request.
    KeyReused,
}

/// What became of [`Sessions::prepare`].
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    /// It is in the table.
    New,
    /// The same request came before; this is its session.
    Existing(Box<Session>),
}

/// What a call wants a session for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// To write chunks.
    Write,
    /// To read, in either kind.
    Read,
    /// To commit, perhaps again.
    Finish,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: HashMap<SessionId, Session>,
    // By device, not by session: a call goes on when its session is cancelled, and still counts.
    calls: HashMap<Fingerprint, usize>,
}

impl Sessions {
    /// Adds a session, unless the same request already has one.
    pub(crate) fn prepare(&mut self, session: Session, now: Instant) -> Result<Prepared, Refusal> {
        if let Some(key) = session.key {
            let known = |s: &&mut Session| s.device == session.device && s.key == Some(key);
            if let Some(existing) = self.table.values_mut().find(known) {
                if existing.kind != session.kind || existing.set != session.set {
                    return Err(Refusal::KeyReused);
                }
                existing.last_used = now;
                return Ok(Prepared::Existing(Box::new(existing.clone())));
            }
        }
        let of_device = self.table.values().filter(|s| s.device == session.device);
        if of_device.clone().count() >= MAX_SESSIONS_PER_DEVICE || self.table.len() >= MAX_SESSIONS {
            // Those that are over make room, oldest first; live ones never do.
            let oldest = if of_device.clone().count() >= MAX_SESSIONS_PER_DEVICE {
                of_device.filter(|s| s.is_over()).min_by_key(|s| s.last_used)
            } else {
                self.table.values().filter(|s| s.is_over()).min_by_key(|s| s.last_used)
            };
            let oldest = oldest.filter(|s| s.calls == 0).map(|s| s.id).ok_or(Refusal::TooMany)?;
            self.table.remove(&oldest);
        }
        self.table.insert(session.id, session);
        Ok(Prepared::New)
    }

    /// Looks at a session in any phase; looking keeps it alive.
    pub(crate) fn look(&mut self, id: SessionId, device: Fingerprint, now: Instant) -> Result<Session, Refusal> {
        let session = self.table.get_mut(&id).filter(|s| s.device == device).ok_or(Refusal::Gone)?;
        session.last_used = now;
        Ok(session.clone())
    }

    /// Begins a call; [`Sessions::end_call`] must follow. Gives the session and its repository.
    pub(crate) fn begin_call(
        &mut self,
        id: SessionId,
        device: Fingerprint,
        want: Use,
        now: Instant,
    ) -> Result<(Session, RepositoryId), Refusal> {
        let calls = self.calls.get(&device).copied().unwrap_or(0);
        let session = self.table.get_mut(&id).filter(|s| s.device == device).ok_or(Refusal::Gone)?;
        let repository = match (session.phase, want) {
            (Phase::Waiting, _) => return Err(Refusal::NotDecided),
            (Phase::Declined, _) => return Err(Refusal::Declined),
            (Phase::Open(repository), _) | (Phase::Finished(repository), Use::Finish) => repository,
            (Phase::Finished(_), Use::Read | Use::Write) => return Err(Refusal::Gone),
        };
        if session.kind == SessionKind::Restore && want != Use::Read {
            return Err(Refusal::WrongKind);
        }
        if session.calls >= MAX_CALLS_PER_SESSION || calls >= MAX_CALLS_PER_DEVICE {
            return Err(Refusal::Busy);
        }
        session.calls += 1;
        session.last_used = now;
        self.calls.insert(device, calls + 1);
        Ok((session.clone(), repository))
    }

    /// Begins a call that belongs to no session and counts for its device; [`Sessions::end_lone_call`] must follow.
    pub(crate) fn begin_lone_call(&mut self, device: Fingerprint) -> Result<(), Refusal> {
        let calls = self.calls.entry(device).or_default();
        if *calls >= MAX_CALLS_PER_DEVICE {
            return Err(Refusal::Busy);
        }
        *calls += 1;
        Ok(())
    }

    /// Calls of a device under way.
    #[cfg(test)]
    pub(crate) fn calls_of(&self, device: Fingerprint) -> usize {
        self.calls.get(&device).copied().unwrap_or(0)
    }

    /// Ends a call that belongs to no session.
    pub(crate) fn end_lone_call(&mut self, device: Fingerprint) {
        match self.calls.get_mut(&device) {
            Some(calls) if *calls > 1 => *calls -= 1,
            _ => drop(self.calls.remove(&device)),
        }
    }

    /// Ends a call of `device` that moved `bytes`.
    pub(crate) fn end_call(&mut self, id: SessionId, device: Fingerprint, bytes: u64, now: Instant) {
        self.end_lone_call(device);
        if let Some(session) = self.table.get_mut(&id) {
            session.calls = session.calls.saturating_sub(1);
            session.bytes += bytes;
            session.last_used = now;
        }
    }

    /// What a person (or a rule) decided about a waiting session: its repository, or `None` for no. Gives the session; `None`
    /// when it does not wait any more.
    pub(crate) fn decide(&mut self, id: SessionId, verdict: Option<RepositoryId>, now: Instant) -> Option<Session> {
        let session = self.table.get_mut(&id).filter(|s| s.phase == Phase::Waiting)?;
        session.phase = verdict.map_or(Phase::Declined, Phase::Open);
        session.last_used = now;
        Some(session.clone())
    }

    /// A person has said *once* to this session.
    pub(crate) fn allow_once(&mut self, id: SessionId, now: Instant) {
        if let Some(session) = self.table.get_mut(&id) {
            session.once = Some(now);
        }
    }

    /// The record of a session is committed. Gives the session the first time.
    pub(crate) fn finish(&mut self, id: SessionId) -> Option<Session> {
        let session = self.table.get_mut(&id)?;
        let Phase::Open(repository) = session.phase else { return None };
        session.phase = Phase::Finished(repository);
        Some(session.clone())
    }

    /// Ends a session of `device`.
    pub(crate) fn cancel(&mut self, id: SessionId, device: Fingerprint) -> Result<Session, Refusal> {
        self.table.get(&id).filter(|s| s.device == device).ok_or(Refusal::Gone)?;
        self.table.remove(&id).ok_or(Refusal::Gone)
    }

    /// Ends everything of a device.
    pub(crate) fn forget_device(&mut self, device: Fingerprint) -> Vec<Session> {
        self.take(|session| session.device == device)
    }

    /// Ends what nobody used. A waiting session that nobody decided in time is declined first, so that its caller learns it.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Session> {
        for session in self.table.values_mut() {
            let undecided = now.saturating_duration_since(session.created) > DECISION_LIMIT;
            if session.phase == Phase::Waiting && undecided {
                session.phase = Phase::Declined;
            }
        }
        self.take(|session| session.is_expired(now))
    }

    /// Whether a session still waits for its person.
    pub(crate) fn is_waiting(&self, id: SessionId) -> bool {
        self.table.get(&id).is_some_and(|session| session.phase == Phase::Waiting)
    }

    /// What is under way, oldest first.
    pub(crate) fn summaries(&self) -> Vec<SessionSummary> {
        let mut summaries: Vec<_> = self.table.values().filter(|s| !s.is_over()).map(Session::summary).collect();
        summaries.sort_by_key(|summary| summary.number);
        summaries
    }

    /// Calls under way.
    #[cfg(test)]
    pub(crate) fn calls(&self) -> usize {
        self.calls.values().sum()
    }

    fn take(&mut self, over: impl Fn(&Session) -> bool) -> Vec<Session> {
        let ids: Vec<_> = self.table.values().filter(|session| over(session)).map(|session| session.id).collect();
        ids.iter().filter_map(|id| self.table.remove(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LAPTOP: Fingerprint = Fingerprint::from_bytes([1; 32]);
    const PHONE: Fingerprint = Fingerprint::from_bytes([2; 32]);
    const REPOSITORY: RepositoryId = RepositoryId::from_random([9; 16]);

    fn id(n: u64) -> SessionId {
        SessionId::from_random(u128::from(n).to_le_bytes())
    }

    fn session(n: u64, device: Fingerprint, kind: SessionKind, phase: Phase, now: Instant) -> Session {
        let key = Some(IdempotencyKey::from_random(u128::from(n).to_le_bytes()));
        let set = (kind == SessionKind::Backup).then(|| "Documents".parse().unwrap());
        let alias = Alias::new("laptop");
        let session = Session::new(id(n), n, device, alias, kind, phase, Timestamp::UNIX_EPOCH, now);
        Session { set, key, ..session }
    }

    fn table_with(phase: Phase, kind: SessionKind, now: Instant) -> Sessions {
        let mut sessions = Sessions::default();
        sessions.prepare(session(1, LAPTOP, kind, phase, now), now).unwrap();
        sessions
    }

    #[test]
    fn each_phase_and_kind_allows_only_what_it_is_for() {
        let now = Instant::now();
        let open = Phase::Open(REPOSITORY);
        let finished = Phase::Finished(REPOSITORY);
        let (backup, restore) = (SessionKind::Backup, SessionKind::Restore);
        let table = [
            (Phase::Waiting, backup, Use::Write, Err(Refusal::NotDecided)),
            (Phase::Waiting, restore, Use::Read, Err(Refusal::NotDecided)),
            (Phase::Declined, backup, Use::Write, Err(Refusal::Declined)),
            (Phase::Declined, restore, Use::Read, Err(Refusal::Declined)),
            (open, backup, Use::Write, Ok(REPOSITORY)),
            (open, backup, Use::Read, Ok(REPOSITORY)),
            (open, backup, Use::Finish, Ok(REPOSITORY)),
            (open, restore, Use::Read, Ok(REPOSITORY)),
            (open, restore, Use::Write, Err(Refusal::WrongKind)),
            (open, restore, Use::Finish, Err(Refusal::WrongKind)),
            (finished, backup, Use::Finish, Ok(REPOSITORY)),
            (finished, backup, Use::Write, Err(Refusal::Gone)),
            (finished, backup, Use::Read, Err(Refusal::Gone)),
        ];
        for (phase, kind, want, expected) in table {
            let mut sessions = table_with(phase, kind, now);
            let answer = sessions.begin_call(id(1), LAPTOP, want, now).map(|(_, repository)| repository);
            assert_eq!(answer, expected, "{phase:?} {kind:?} {want:?}");
        }
    }

    #[test]
    fn a_session_does_not_exist_for_another_certificate() {
        let now = Instant::now();
        let mut sessions = table_with(Phase::Open(REPOSITORY), SessionKind::Backup, now);
        assert_eq!(sessions.look(id(1), PHONE, now).unwrap_err(), Refusal::Gone);
        assert_eq!(sessions.begin_call(id(1), PHONE, Use::Write, now).unwrap_err(), Refusal::Gone);
        assert_eq!(sessions.cancel(id(1), PHONE).unwrap_err(), Refusal::Gone);
        assert_eq!(sessions.look(id(2), LAPTOP, now).unwrap_err(), Refusal::Gone);
        assert!(sessions.look(id(1), LAPTOP, now).is_ok());
    }

    #[test]
    fn sessions_expire_when_idle_and_not_while_a_call_is_under_way() {
        let start = Instant::now();
        let minute = Duration::from_mins(1);
        let table = [
            (Phase::Open(REPOSITORY), 10, false),
            (Phase::Open(REPOSITORY), 11, true),
            (Phase::Finished(REPOSITORY), 11, true),
            (Phase::Declined, 9, false),
            (Phase::Declined, 11, true),
            (Phase::Waiting, 1, false),
            (Phase::Waiting, 3, true),
        ];
        for (phase, minutes, gone) in table {
            let mut sessions = table_with(phase, SessionKind::Backup, start);
            let later = start + minute * minutes;
            assert_eq!(sessions.expire(later).len(), usize::from(gone), "{phase:?} after {minutes} min");
        }
        let mut sessions = table_with(Phase::Open(REPOSITORY), SessionKind::Backup, start);
        sessions.begin_call(id(1), LAPTOP, Use::Write, start).unwrap();
        assert!(sessions.expire(start + minute * 60).is_empty());
        sessions.end_call(id(1), LAPTOP, 5, start + minute * 60);
        assert!(sessions.expire(start + minute * 70).is_empty());
        assert_eq!(sessions.expire(start + minute * 71)[0].bytes, 5);
    }

    #[test]
    fn a_question_that_nobody_answers_is_a_no_that_the_caller_still_learns() {
        let start = Instant::now();
        let mut sessions = table_with(Phase::Waiting, SessionKind::Backup, start);
        for minute in 1..=10 {
            sessions.look(id(1), LAPTOP, start + Duration::from_mins(minute)).unwrap();
        }
        let late = start + Duration::from_secs(601);
        assert!(sessions.expire(late).is_empty());
        assert_eq!(sessions.look(id(1), LAPTOP, late).unwrap().phase, Phase::Declined);
    }

    #[test]
    fn a_repeated_request_gets_the_same_session_and_a_reused_key_is_refused() {
        let now = Instant::now();
        let mut sessions = table_with(Phase::Waiting, SessionKind::Backup, now);
        let mut again = session(2, LAPTOP, SessionKind::Backup, Phase::Waiting, now);
        again.key = Some(IdempotencyKey::from_random(1_u128.to_le_bytes()));
        assert!(matches!(sessions.prepare(again.clone(), now), Ok(Prepared::Existing(s)) if s.id == id(1)));
        again.set = Some("Photos".parse().unwrap());
        assert_eq!(sessions.prepare(again.clone(), now).unwrap_err(), Refusal::KeyReused);
        again.device = PHONE;
        assert!(matches!(sessions.prepare(again, now), Ok(Prepared::New)), "keys of other devices do not matter");
    }

    #[test]
    fn a_decision_counts_once() {
        let now = Instant::now();
        let mut sessions = table_with(Phase::Waiting, SessionKind::Backup, now);
        assert_eq!(sessions.decide(id(1), Some(REPOSITORY), now).unwrap().phase, Phase::Open(REPOSITORY));
        assert!(sessions.decide(id(1), None, now).is_none());
        assert!(sessions.finish(id(1)).is_some());
        assert!(sessions.finish(id(1)).is_none(), "an event is sent once");
    }

    #[test]
    fn live_sessions_are_bounded_and_old_ones_make_room() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        let open = Phase::Open(REPOSITORY);
        for n in 0..MAX_SESSIONS_PER_DEVICE as u64 {
            sessions.prepare(session(n, LAPTOP, SessionKind::Restore, open, now), now).unwrap();
        }
        let more = || session(1000, LAPTOP, SessionKind::Restore, open, now);
        assert_eq!(sessions.prepare(more(), now).unwrap_err(), Refusal::TooMany);
        sessions.prepare(session(2000, PHONE, SessionKind::Restore, open, now), now).unwrap();
        let mut over = sessions.cancel(id(3), LAPTOP).unwrap();
        over.phase = Phase::Declined;
        sessions.prepare(over, now).unwrap();
        assert!(matches!(sessions.prepare(more(), now), Ok(Prepared::New)));
    }

    #[test]
    fn calls_of_one_session_and_of_one_device_are_bounded() {
        let now = Instant::now();
        let mut sessions = table_with(Phase::Open(REPOSITORY), SessionKind::Backup, now);
        for _ in 0..MAX_CALLS_PER_SESSION {
            sessions.begin_call(id(1), LAPTOP, Use::Write, now).unwrap();
        }
        assert_eq!(sessions.begin_call(id(1), LAPTOP, Use::Write, now).unwrap_err(), Refusal::Busy);
        sessions.end_call(id(1), LAPTOP, 0, now);
        assert!(sessions.begin_call(id(1), LAPTOP, Use::Write, now).is_ok());
        // Another session of the same device gets the device's rest, and no more.
        sessions.prepare(session(2, LAPTOP, SessionKind::Backup, Phase::Open(REPOSITORY), now), now).unwrap();
        for _ in MAX_CALLS_PER_SESSION..MAX_CALLS_PER_DEVICE {
            sessions.begin_call(id(2), LAPTOP, Use::Write, now).unwrap();
        }
        assert_eq!(sessions.begin_call(id(2), LAPTOP, Use::Write, now).unwrap_err(), Refusal::Busy);
        sessions.prepare(session(3, PHONE, SessionKind::Backup, Phase::Open(REPOSITORY), now), now).unwrap();
        assert!(sessions.begin_call(id(3), PHONE, Use::Write, now).is_ok(), "others are not touched by it");
        // Ending a session ends none of its calls: they count until they are over.
        sessions.cancel(id(1), LAPTOP).unwrap();
        assert_eq!(sessions.begin_call(id(2), LAPTOP, Use::Write, now).unwrap_err(), Refusal::Busy);
        sessions.end_call(id(1), LAPTOP, 0, now);
        assert!(sessions.begin_call(id(2), LAPTOP, Use::Write, now).is_ok());
        assert_eq!(sessions.calls(), MAX_CALLS_PER_DEVICE + 1);
    }
}
