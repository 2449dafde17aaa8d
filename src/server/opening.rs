//! Sessions from "a person is asked" to "open": shared by backups and restores.

use crate::identity::Trust;
use crate::model::RepositoryId;
use crate::protocol::session::{SessionAnswer, SessionState};
use crate::protocol::{API_VERSION, FEATURES};
use crate::server::api_error::ApiError;
use crate::server::approval::{Decision, Question};
use crate::server::call::json;
use crate::server::events::ServerEvent;
use crate::server::limits::DECISION_LIMIT;
use crate::server::sessions::{Phase, Session, SessionKind};
use crate::server::state::{Shared, blocking};
use axum::response::Response;
use http::StatusCode;
use std::future::Future;
use std::sync::Arc;

/// What the caller of a session hears now: 200 when it is open, 202 while a person is asked, 403 after a no.
pub(crate) async fn answer(shared: Arc<Shared>, session: Session) -> Result<Response, ApiError> {
    let (status, state, repository) = match session.phase {
        Phase::Waiting => (StatusCode::ACCEPTED, SessionState::Waiting, None),
        Phase::Open(id) | Phase::Finished(id) => (StatusCode::OK, SessionState::Open, Some(id)),
        Phase::Declined => return Err(ApiError::declined()),
    };
    let mut answer = SessionAnswer {
        session: session.id,
        state,
        api: API_VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        limits: Shared::session_limits(),
        repository: None,
        head: None,
    };
    if let Some(id) = repository {
        let set = session.set.clone();
        let (parameters, head) = blocking(move || {
            let repository = shared.store()?.repository(&id);
            let repository = repository.ok_or_else(|| ApiError::not_found("the repository is not there any more"))?;
            let head = set.map(|set| repository.head_to_follow(&set)).transpose()?.flatten();
            Ok((repository.parameters(), head))
        })
        .await?;
        (answer.repository, answer.head) = (Some(parameters), head);
    }
    Ok(json(status, &answer))
}

/// Asks the person about a waiting session; `yes` does what a yes needs and gives the repository.
pub(crate) fn ask<F>(
    shared: &Arc<Shared>,
    session: &Session,
    question: Question,
    yes: impl FnOnce(Decision) -> F + Send + 'static,
) where
    F: Future<Output = Result<RepositoryId, ApiError>> + Send + 'static,
{
    let answer = shared.ask(question);
    let (shared, id) = (shared.clone(), session.id);
    tokio::spawn(async move {
        let withdrawn = shared.wait_for(DECISION_LIMIT, || (!shared.sessions().is_waiting(id)).then_some(()));
        let decision = tokio::select! {
            decision = answer => decision.unwrap_or(Decision::Decline),
            _ = withdrawn => Decision::Decline,
        };
        let verdict = match decision {
            Decision::Decline => None,
            yes_somehow => match yes(yes_somehow).await {
                Ok(repository) => Some(repository),
                Err(error) => {
                    // The caller is told no; the log says why.
                    tracing::error!(?error, "an accepted session could not be opened");
                    None
                }
            },
        };
        let decided = shared.sessions().decide(id, verdict, shared.clock.instant());
        if let Some(session) = decided {
            opened_or_not(&shared, &session);
        }
        shared.wake();
    });
}

/// Tells what became of a session that was decided.
pub(crate) fn opened_or_not(shared: &Shared, session: &Session) {
    let summary = session.summary();
    if session.repository().is_some() {
        tracing::info!(session = summary.number, device = %summary.fingerprint.short_code(), kind = ?summary.kind, "session open");
        shared.events.send(ServerEvent::SessionOpened(summary));
    } else {
        shared.events.send(ServerEvent::SessionEnded(summary));
    }
}

/// A new session of this device.
pub(crate) fn new_session(shared: &Shared, trust: &Trust, kind: SessionKind, phase: Phase) -> Session {
    let id = crate::model::SessionId::from_random(crate::platform::random::bytes());
    let (number, started, now) = (shared.next_number(), shared.clock.now(), shared.clock.instant());
    Session::new(id, number, trust.fingerprint, trust.alias.clone(), kind, phase, started, now)
}
