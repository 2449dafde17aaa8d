//! The door for stock LocalSend apps: a weak one, and so a small one.
//!
//! Rules that hold everywhere below:
//! - it only takes files, into the sender's own repository or the inbox folder; it lists, gives and triggers nothing;
//! - a person is asked each time, unless one said *always* to this certificate, or chose to accept everybody here;
//! - who sends is what the handshake proved; an app that shows no certificate is called unverified, has a repository of its own
//!   under another name than any certificate can have, and is never told what is held;
//! - its PIN is its own, wrong guesses are counted for each address and for all together ([`pin`]);
//! - a paired device is turned away: it has a better door;
//! - apps without TLS stay outside unless a person allows plain http, and then reach this door and no other;
//! - query strings, which hold PINs and tokens, are never logged;
//! - what came is durable before the last file of a session is answered, nothing partial has a final name, and what an app sends
//!   cannot take more room than quota and reserve leave.
//!
//! | file | what |
//! |---|---|
//! | [`prepare`] | `prepare-upload`: checks, the question, the answer |
//! | [`list`] | the list of files, read while it comes and counted |
//! | [`places`] | how many lists are read at once, and for whom |
//! | [`receive`] | `upload` and `cancel`, and what makes files durable |
//! | [`offer`] | names, hashes and times checked; what is held told apart |
//! | [`sessions`] | the table: pure |
//! | [`pin`] | the PIN and the count of wrong guesses: pure |
//! | [`keeper`] [`lane`] [`merge`] | files into chunks, packs and a snapshot |
//! | [`saver`] | plain files in the inbox folder |

pub(crate) mod keeper;
pub(crate) mod lane;
pub(crate) mod list;
pub(crate) mod merge;
pub(crate) mod offer;
pub mod pin;
pub(crate) mod places;
pub(crate) mod prepare;
pub(crate) mod receive;
pub(crate) mod saver;
pub(crate) mod sessions;

use crate::identity::PhoneBook;
use crate::model::{Fingerprint, InboxKeep, SessionId};
use crate::protocol::ErrorCode;
use crate::server::api_error::ApiError;
use crate::server::limits::{
    LOCALSEND_DECLINED, LOCALSEND_LOOKING, LOCALSEND_MESSAGES, LOCALSEND_MESSAGES_PER, LOCALSEND_TRANSFERS,
    LOCALSEND_WAITING,
};
use crate::server::localsend::keeper::Keeper;
use crate::server::localsend::pin::{Limiter, LocalSendPin};
use crate::server::localsend::places::Places;
use crate::server::localsend::saver::Saver;
use crate::server::localsend::sessions::{Sender, Sessions};
use crate::server::room::OnTheWay;
use http::StatusCode;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Before the claimed fingerprint is hashed: no certificate begins like this, so an unverified name is never a proved one.
const UNVERIFIED: &str = "lan-backup/unverified/1\n";

/// Whom the LocalSend door lets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalSendMode {
    /// Nobody.
    #[default]
    Off,
    /// Whom a person says yes to.
    Ask,
    /// Everybody who knows the PIN, or everybody when there is none.
    Accept,
}

/// How the LocalSend door stands.
#[derive(Clone, Debug, Default)]
pub struct LocalSendOptions {
    /// Whom it lets in.
    pub mode: LocalSendMode,
    /// What becomes of the files, unless a person chooses otherwise.
    pub keep: InboxKeep,
    /// What a sender must type.
    pub pin: Option<LocalSendPin>,
    /// Where plain files go.
    pub inbox: Option<PathBuf>,
    /// Apps without TLS are let in, too: on the same port, by these calls only.
    pub plain_http: bool,
    /// Who is not asked about.
    pub phones: Option<PhoneBook>,
}

/// What the handlers of this door share.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) options: LocalSendOptions,
    /// Lists of files being read, and their memory.
    pub(crate) places: Places,
    /// Offers being compared with what is here.
    pub(crate) looking: Arc<Semaphore>,
    /// Bytes on their way into the inbox folder.
    pub(crate) into_inbox: Arc<OnTheWay>,
    /// Files being received at once.
    pub(crate) transfers: Semaphore,
    /// Senders whose question is open or waits for another one's.
    pub(crate) waiting: Semaphore,
    /// Whose question is open.
    pub(crate) asking: Semaphore,
    sessions: Mutex<Sessions>,
    active: Mutex<HashMap<SessionId, Arc<Active>>>,
    limiter: Mutex<Limiter>,
    declined: Mutex<HashMap<Sender, Instant>>,
    messages: Mutex<VecDeque<Instant>>,
    pending: Mutex<HashMap<Sender, CancellationToken>>,
}

/// Where the files of one session go.
#[derive(Debug)]
pub(crate) struct Active {
    /// Into the store.
    pub(crate) keeper: Option<Arc<Keeper>>,
    /// Whose they are.
    pub(crate) owner: Fingerprint,
    /// Into the inbox folder.
    pub(crate) saver: Option<Arc<Saver>>,
    /// Why files were not taken, as far as that was told.
    pub(crate) told: Mutex<HashSet<ErrorCode>>,
    /// When what came was made durable last.
    pub(crate) checkpoint: Mutex<Instant>,
    /// What its list takes.
    pub(crate) _memory: OwnedSemaphorePermit,
}

impl Door {
    /// The door as it stands at the start.
    pub(crate) fn new(options: LocalSendOptions) -> Self {
        Self {
            options,
            places: Places::default(),
            into_inbox: Arc::default(),
            looking: Arc::new(Semaphore::new(LOCALSEND_LOOKING)),
            transfers: Semaphore::new(LOCALSEND_TRANSFERS),
            waiting: Semaphore::new(LOCALSEND_WAITING),
            asking: Semaphore::new(1),
            sessions: Mutex::default(),
            active: Mutex::default(),
            limiter: Mutex::default(),
            declined: Mutex::default(),
            messages: Mutex::default(),
            pending: Mutex::default(),
        }
    }

    /// The sessions; not to be held across an await.
    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The count of wrong PINs; not to be held across an await.
    pub(crate) fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files of a session go.
    pub(crate) fn active(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Active>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that wait for a person, with what withdraws them.
    pub(crate) fn pending(&self) -> MutexGuard<'_, HashMap<Sender, CancellationToken>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A person said no to this sender.
    pub(crate) fn decline(&self, sender: Sender, now: Instant) {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner).insert(sender, now);
    }

    /// Whether one more message of senders whom nobody knows is shown; counts it then.
    pub(crate) fn may_be_shown(&self, now: Instant) -> bool {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.retain(|at| now.saturating_duration_since(*at) < LOCALSEND_MESSAGES_PER);
        let room = messages.len() < LOCALSEND_MESSAGES;
        if room {
            messages.push_back(now);
        }
        room
    }

    /// Whether a person said no to this sender just now.
    pub(crate) fn was_declined(&self, sender: Sender, now: Instant) -> bool {
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        declined.retain(|_, at| now.saturating_duration_since(*at) <= LOCALSEND_DECLINED);
        declined.contains_key(&sender)
    }
}

/// Whose repository an app without a certificate writes to: made from what it claims to be, and no certificate's.
pub(crate) fn unverified(claimed: &str) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::new().chain_update(UNVERIFIED).chain_update(claimed).finalize().into())
}

/// Apps know few statuses, and show the message of a 500.
pub(crate) fn for_apps(error: ApiError) -> ApiError {
    match error.status().as_u16() {
        400 | 401 | 403 | 409 | 422 | 429 | 500 => error,
        _ => error.with_status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// 403, in the words of a door that is shut.
pub(crate) fn shut() -> ApiError {
    let message = "this device does not take files from LocalSend apps";
    ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Declined, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::localsend::{MAX_PREPARE_BYTES, MAX_TRIES};
    use crate::server::allowance::NEW_SENDERS_A_DAY;
    use crate::server::limits::{
        LOCALSEND_LISTS_MEMORY, LOCALSEND_PARALLEL, LOCALSEND_READING, LOCALSEND_SESSIONS,
        LOCALSEND_SESSIONS_PER_SENDER, Pace,
    };
    use crate::server::localsend::pin::{FORGIVEN_AFTER, TRIES_IN_ALL, TRIES_PER_ADDRESS};

    #[test]
    fn what_an_app_only_claims_to_be_is_never_a_certificates_name() {
        let claimed = "AB".repeat(32);
        assert_ne!(unverified(&claimed), claimed.parse().unwrap());
        assert_eq!(unverified(&claimed), unverified(&claimed));
        assert_ne!(unverified("a"), unverified("b"));
    }

    #[test]
    fn statuses_that_apps_do_not_know_become_a_500_with_the_same_sentence() {
        let full = for_apps(ApiError::full("no room"));
        assert_eq!(full.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(for_apps(ApiError::declined()).status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn the_numbers_of_the_document_are_the_codes() {
        let limits = include_str!("../../protocol.md");
        for text in [
            format!(
                "{} MiB, 50,000 files and folders; {LOCALSEND_READING} read at once, one of each address, for {} s; what all \
                 lists take until their sessions end: {} MiB",
                MAX_PREPARE_BYTES >> 20,
                Pace::STANDARD.list.as_secs(),
                LOCALSEND_LISTS_MEMORY >> 20
            ),
            format!(
                "{TRIES_PER_ADDRESS} wrong ones of one address, one forgiven in {} minutes; {TRIES_IN_ALL} of all \
                 addresses, one forgiven in a minute",
                FORGIVEN_AFTER.as_secs() / 60
            ),
            format!(
                "{LOCALSEND_WAITING}, one of each; one question open; a no holds for {} s",
                LOCALSEND_DECLINED.as_secs()
            ),
            format!("{LOCALSEND_MESSAGES} in {} s of all senders", LOCALSEND_MESSAGES_PER.as_secs()),
            format!("{LOCALSEND_SESSIONS_PER_SENDER} of one sender, {LOCALSEND_SESSIONS} in all"),
            format!("{NEW_SENDERS_A_DAY} in 24 hours get a repository"),
            format!(
                "{LOCALSEND_PARALLEL} of one session, {LOCALSEND_TRANSFERS} in all; a file may be begun {MAX_TRIES} times"
            ),
        ] {
            assert!(limits.contains(&text), "{text}");
        }
    }
}
