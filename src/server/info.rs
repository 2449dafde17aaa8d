//! `info` and `register`: who is here, for LocalSend apps and for our own kind.

use crate::protocol::Announcement;
use crate::protocol::ErrorCode;
use crate::server::api_error::ApiError;
use crate::server::body::read_json;
use crate::server::call::{Call, json};
use crate::server::events::ServerEvent;
use crate::server::limits::MAX_SMALL_BODY_BYTES;
use crate::server::state::Shared;
use axum::response::Response;
use http::StatusCode;
use std::sync::Arc;

/// `GET info`, in three places.
pub(crate) async fn info(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    Ok(json(StatusCode::OK, &said_to(&shared, &call)))
}

/// What this device says about itself; who calls without TLS is told to go on so, or would come back by a way it does not know.
fn said_to(shared: &Shared, call: &Call) -> Announcement {
    let mut said = shared.announcement();
    if call.connection.is_plain {
        "http".clone_into(&mut said.protocol);
    }
    said
}

/// `POST register`: a claim that contradicts the handshake is refused aloud.
pub(crate) async fn register(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    if !heard(&shared, call).await? {
        let message = "the fingerprint in the body is not that of the certificate";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message));
    }
    Ok(json(StatusCode::OK, &shared.announcement()))
}

/// LocalSend's `register`: the same, but its apps expect a 200 in any case.
pub(crate) async fn register_localsend(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let said = said_to(&shared, &call);
    heard(&shared, call).await?;
    Ok(json(StatusCode::OK, &said))
}

/// Passes an announcement on unless the handshake contradicts it.
async fn heard(shared: &Shared, call: Call) -> Result<bool, ApiError> {
    let from = call.connection.address;
    let proved = call.connection.fingerprint;
    let announcement: Announcement = read_json(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    let contradicted = proved.is_some_and(|proved| announcement.fingerprint.parse() != Ok(proved));
    if !contradicted {
        if let Some(fingerprint) = proved {
            shared.look_for_impostors(&announcement.alias, fingerprint, from);
        }
        shared.events.progress(ServerEvent::Heard { announcement, from, certificate: proved });
    }
    Ok(!contradicted)
}
