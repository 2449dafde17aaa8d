//! `GET sessions/{id}?wait=n`: what became of a session that waits for a person.

use crate::server::api_error::ApiError;
use crate::server::call::Call;
use crate::server::limits::MAX_WAIT_SECONDS;
use crate::server::opening::answer;
use crate::server::sessions::{Phase, Refusal};
use crate::server::state::Shared;
use axum::response::Response;
use std::sync::Arc;
use std::time::Duration;

/// `GET sessions/{id}`.
pub(crate) async fn session(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let device = call.peer()?.fingerprint;
    let id = call.last_path_part().parse().map_err(|_| ApiError::from(Refusal::Gone))?;
    let limit = Duration::from_secs(u64::from(call.wait_seconds()?.min(MAX_WAIT_SECONDS)));
    let look = || shared.sessions().look(id, device, shared.clock.instant());
    let decided = || Some(look()).filter(|found| !matches!(found, Ok(session) if session.phase == Phase::Waiting));
    let found = match shared.wait_for(limit, decided).await {
        Some(found) => found?,
        None => look()?,
    };
    answer(shared, found).await
}
