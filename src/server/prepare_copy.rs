//! `prepare-copy`: another device brings a copy of a repository that it keeps, or brings the copy that it brought up to date.
//!
//! A person here has granted it the right to, so nobody is asked. What comes is marked as that device's copy: it never becomes a
//! repository that its owner writes to here, nor one that this device keeps itself (see `store/copies.rs`).

use crate::protocol::session::PrepareCopy;
use crate::server::api_error::ApiError;
use crate::server::body::read_json;
use crate::server::call::Call;
use crate::server::limits::MAX_COPY_BODY_BYTES;
use crate::server::opening::{answer, new_session, opened_or_not};
use crate::server::room;
use crate::server::sessions::{Phase, Prepared, SessionKind};
use crate::server::state::{Shared, blocking};
use crate::store;
use axum::response::Response;
use std::sync::Arc;

/// `POST prepare-copy`.
pub(crate) async fn prepare_copy(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let trust = call.peer()?.clone();
    let request: PrepareCopy = read_json(call.into_body(), MAX_COPY_BODY_BYTES, shared.pace).await?;
    if request.owner_log.is_empty() {
        return Err(ApiError::bad_request("a repository without an owner log is nobody's"));
    }
    let opened = blocking({
        let shared = shared.clone();
        let device = trust.fingerprint;
        move || {
            room::check(&shared, None, 0)?;
            let _one_at_a_time = shared.creating();
            match shared.store()?.open_copy(request.repository, &request.owner_log, Some(device)) {
                Ok(repository) => Ok(repository.id()),
                Err(store::Error::Refused(why)) => Err(ApiError::not_allowed(why)),
                Err(store::Error::OwnerEvent(why)) => Err(ApiError::not_allowed(why)
                    .hint("the two copies went different ways; their snapshots can be restored from each of them")),
                Err(error) => Err(error.into()),
            }
        }
    });
    let session = new_session(&shared, &trust, SessionKind::Copy, Phase::Open(opened.await?));
    let prepared = shared.sessions().prepare(session.clone(), shared.clock.instant())?;
    if let Prepared::Existing(session) = prepared {
        return answer(shared, *session).await;
    }
    opened_or_not(&shared, &session);
    answer(shared, session).await
}
