//! `cancel`: ends a session. What arrived stays in the store for the next try.

use crate::server::api_error::ApiError;
use crate::server::body::read_whole;
use crate::server::call::{Call, json};
use crate::server::events::ServerEvent;
use crate::server::limits::MAX_SMALL_BODY_BYTES;
use crate::server::state::Shared;
use axum::response::Response;
use http::StatusCode;
use std::sync::Arc;

/// `POST cancel`.
pub(crate) async fn cancel(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let (id, device) = (call.session()?, call.peer()?.fingerprint);
    read_whole(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    let session = shared.sessions().cancel(id, device)?;
    shared.events.send(ServerEvent::SessionEnded(session.summary()));
    shared.wake();
    Ok(json(StatusCode::OK, &serde_json::json!({})))
}
