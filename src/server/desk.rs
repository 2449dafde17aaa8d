//! The desk: where questions lie until somebody answers them, from the terminal, the control socket or both.
//!
//! Whoever answers first wins. The desk is bounded: with [`MAX_OPEN_QUESTIONS`] lying there a new one is declined, because a
//! person who has not answered thirty-two questions will not answer the next one either.

use crate::server::approval::{ApprovalRequest, Approver, Decision, Question};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Questions that may lie open at once.
pub const MAX_OPEN_QUESTIONS: usize = 32;

/// A question that waits for an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenQuestion {
    /// Names it in [`Desk::answer`].
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub question: Question,
}

/// Keeps open questions, oldest first.
#[derive(Debug)]
pub struct Desk {
    open: Mutex<Vec<ApprovalRequest>>,
    arrivals: watch::Sender<u64>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { open: Mutex::default(), arrivals: watch::Sender::new(0) }
    }
}

impl Desk {
    /// An empty desk.
    pub fn new() -> Self {
        Self::default()
    }

    /// The open questions, oldest first; withdrawn ones are gone.
    pub fn list(&self) -> Vec<OpenQuestion> {
        let row = |request: &ApprovalRequest| OpenQuestion { id: request.id, question: request.question.clone() };
        self.open().iter().map(row).collect()
    }

    /// Whether a question still waits; a terminal that is asking puts its prompt away when it does not.
    pub fn is_open(&self, id: u64) -> bool {
        self.open().iter().any(|request| request.id == id)
    }

    /// Answers a question. `false` when it is gone: withdrawn, or answered by somebody else.
    pub fn answer(&self, id: u64, decision: Decision) -> bool {
        let request = {
            let mut open = self.open();
            let Some(at) = open.iter().position(|request| request.id == id) else { return false };
            open.remove(at)
        };
        request.answer(decision)
    }

    /// The oldest open question with a higher id than `after` (0 for any), waited for. Cancel-safe.
    pub async fn next(&self, after: u64) -> OpenQuestion {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            arrivals.borrow_and_update();
            if let Some(found) = self.list().into_iter().find(|open| open.id > after) {
                return found;
            }
            if arrivals.changed().await.is_err() {
                // The sender lives in `self`; this cannot happen while we are borrowed.
                std::future::pending::<()>().await;
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<ApprovalRequest>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|request| !request.is_withdrawn());
        open
    }
}

impl Approver for Desk {
    fn ask(&self, request: ApprovalRequest) {
        {
            let mut open = self.open();
            if open.len() >= MAX_OPEN_QUESTIONS {
                tracing::warn!(question = request.id, "too many open questions, declined");
                return;
            }
            open.push(request);
        }
        self.arrivals.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Alias, Changes, Fingerprint, Totals};

    fn question(n: u8) -> Question {
        let fingerprint = Fingerprint::from_bytes([n; 32]);
        Question::Backup {
            alias: Alias::new("laptop"),
            code: fingerprint.short_code(),
            fingerprint,
            set: "Documents".parse().unwrap(),
            totals: Totals::default(),
            changes: Changes::default(),
            bytes_to_send: 7,
            first: true,
        }
    }

    #[test]
    fn the_first_answer_wins_and_later_ones_change_nothing() {
        let desk = Desk::new();
        let (request, mut answer) = ApprovalRequest::new(1, question(1));
        desk.ask(request);
        assert_eq!(desk.list(), [OpenQuestion { id: 1, question: question(1) }]);
        assert!(desk.answer(1, Decision::Always));
        assert!(!desk.answer(1, Decision::Decline));
        assert_eq!(answer.try_recv(), Ok(Decision::Always));
        assert!(desk.list().is_empty());
    }

    #[test]
    fn withdrawn_questions_vanish_and_cannot_be_answered() {
        let desk = Desk::new();
        let (request, answer) = ApprovalRequest::new(1, question(1));
        desk.ask(request);
        drop(answer);
        assert!(!desk.is_open(1));
        assert!(!desk.answer(1, Decision::Once));
    }

    #[test]
    fn a_full_desk_declines_what_comes_next() {
        let desk = Desk::new();
        let mut answers = Vec::new();
        for id in 1..=MAX_OPEN_QUESTIONS as u64 {
            let (request, answer) = ApprovalRequest::new(id, question(1));
            desk.ask(request);
            answers.push(answer);
        }
        let (request, mut refused) = ApprovalRequest::new(99, question(2));
        desk.ask(request);
        assert!(matches!(refused.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Closed)));
        assert_eq!(desk.list().len(), MAX_OPEN_QUESTIONS);
    }

    #[tokio::test]
    async fn next_waits_for_a_question_it_has_not_given_yet() {
        let desk = std::sync::Arc::new(Desk::new());
        let (first, _answer1) = ApprovalRequest::new(1, question(1));
        desk.ask(first);
        assert_eq!(desk.next(0).await.id, 1);
        let waiting = tokio::spawn({
            let desk = desk.clone();
            async move { desk.next(1).await.id }
        });
        let (second, _answer2) = ApprovalRequest::new(2, question(2));
        desk.ask(second);
        assert_eq!(waiting.await.unwrap(), 2);
    }

    #[test]
    fn questions_survive_json() {
        let open = OpenQuestion { id: 3, question: question(1) };
        let json = serde_json::to_string(&open).unwrap();
        assert!(json.contains(r#""question":"backup""#) && json.contains(r#""bytesToSend":7"#), "{json}");
        assert_eq!(serde_json::from_str::<OpenQuestion>(&json).unwrap(), open);
    }
}
