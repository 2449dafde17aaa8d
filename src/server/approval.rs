//! Questions to a person: requests that carry their own reply.
//!
//! The server asks and goes on; who answers, and when, is the approver's business: a terminal, the control socket, a script in
//! a test. A request that is dropped unanswered is declined. A question whose cause went away (the device left, the window was
//! opened another way) is withdrawn, and answering it then changes nothing.

use crate::model::{Alias, Changes, Fingerprint, InboxKeep, RepositoryId, Rights, SetName, ShortCode, Totals};
use crate::protocol::pairing::Purpose;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot;

impl Decision {
    /// Whether it holds for the next time, too.
    pub fn is_lasting(self) -> bool {
        matches!(self, Self::Always | Self::Replaces)
    }
}

/// Gets questions answered.
pub trait Approver: Send + Sync + fmt::Debug {
    /// Takes a question. Returns at once; the answer goes through the request.
    fn ask(&self, request: ApprovalRequest);
}

/// What a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "question", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Question {
    /// May this device be paired?
    Pair {
        /// What it calls itself.
        alias: Alias,
        /// Shown on both screens.
        code: ShortCode,
        /// Its certificate.
        fingerprint: Fingerprint,
        /// Where it called from.
        address: SocketAddr,
        /// What it would be allowed.
        rights: Rights,
        /// What it wants to back up right after.
        purpose: Option<Purpose>,
        /// The code of another device, paired already, that has the same name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namesake: Option<ShortCode>,
    },
    /// May this paired device back up this set?
    Backup {
        /// What it calls itself.
        alias: Alias,
        /// The short code of its certificate.
        code: ShortCode,
        /// Its certificate.
        fingerprint: Fingerprint,
        /// Which set.
        set: SetName,
        /// What the snapshot will hold.
        totals: Totals,
        /// Compared with the snapshot before.
        changes: Changes,
        /// At most so many bytes arrive.
        bytes_to_send: u64,
        /// There is no snapshot of this set yet.
        first: bool,
    },
    /// May this paired device read another device's repository?
    RestoreOthers {
        /// What it calls itself.
        alias: Alias,
        /// The short code of its certificate.
        code: ShortCode,
        /// Its certificate.
        fingerprint: Fingerprint,
        /// Whose backup.
        of: Alias,
        /// Which repository.
        repository: RepositoryId,
        /// The asking device says that it takes the other one's place.
        adopt: bool,
    },
    /// May this LocalSend app send files?
    #[serde(rename = "localsend")]
    LocalSend {
        /// What it calls itself.
        alias: Alias,
        /// The short code of its certificate; of what it claims, when it is not verified.
        code: ShortCode,
        /// Its certificate, or what stands for it.
        fingerprint: Fingerprint,
        /// Where it called from.
        address: SocketAddr,
        /// It showed a certificate and proved that it is its own. Nobody has vouched for it.
        verified: bool,
        /// How many files.
        files: u64,
        /// How many bytes.
        bytes: u64,
        /// The first few names, cleaned.
        names: Vec<String>,
        /// What a plain yes does with them.
        keep: InboxKeep,
    },
}

impl Question {
    /// The certificate of the device that is asked about.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Pair { fingerprint, .. }
            | Self::Backup { fingerprint, .. }
            | Self::RestoreOthers { fingerprint, .. }
            | Self::LocalSend { fingerprint, .. } => *fingerprint,
        }
    }
}

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// Yes, this time.
    Once,
    /// Yes, and do not ask again.
    Always,
    /// Yes, and the asking device takes the place of the one whose backup it is. To any other question the same as `Always`.
    Replaces,
    /// Yes, this time, and the files of a LocalSend app are backed up only. To any other question the same as `Once`.
    Backup,
    /// Yes, this time, and the files of a LocalSend app become plain files only. To any other question the same as `Once`.
    Save,
    /// No.
    Decline,
}

/// A question with its reply.
#[derive(Debug)]
pub struct ApprovalRequest {
    /// Names it in lists; never used twice by one server.
    pub id: u64,
    /// What is asked.
    pub question: Question,
    reply: oneshot::Sender<Decision>,
}

impl ApprovalRequest {
    /// A question and the place where its answer arrives; an error there means declined.
    pub(crate) fn new(id: u64, question: Question) -> (Self, oneshot::Receiver<Decision>) {
        let (reply, answer) = oneshot::channel();
        (Self { id, question, reply }, answer)
    }

    /// Answers. `false` when the question was withdrawn meanwhile.
    pub fn answer(self, decision: Decision) -> bool {
        self.reply.send(decision).is_ok()
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_withdrawn(&self) -> bool {
        self.reply.is_closed()
    }

    /// Returns once nobody waits for the answer any more. Cancel-safe.
    pub async fn withdrawn(&mut self) {
        self.reply.closed().await;
    }
}

/// Answers at once from a list, then declines; keeps what it was asked. For tests and for `--yes`.
#[derive(Debug, Default)]
pub struct Scripted {
    decisions: Mutex<VecDeque<Decision>>,
    always: Option<Decision>,
    asked: Mutex<Vec<Question>>,
}

impl Scripted {
    /// Gives these answers, then declines.
    pub fn new(decisions: impl IntoIterator<Item = Decision>) -> Self {
        Self { decisions: Mutex::new(decisions.into_iter().collect()), ..Self::default() }
    }

    /// Gives the same answer to everything.
    pub fn always(decision: Decision) -> Self {
        Self { always: Some(decision), ..Self::default() }
    }

    /// The questions so far.
    pub fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Approver for Scripted {
    fn ask(&self, request: ApprovalRequest) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.question.clone());
        let listed = self.decisions.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        request.answer(listed.or(self.always).unwrap_or(Decision::Decline));
    }
}
