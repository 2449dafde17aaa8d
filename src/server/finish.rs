//! `finish`: the commit point. Answered only after the snapshot and everything it needs survive a power cut.

use crate::model::SnapshotInfo;
use crate::model::limits::MAX_RECORD_BYTES;
use crate::protocol::session::{Finish, Finished};
use crate::server::api_error::ApiError;
use crate::server::body::read_json;
use crate::server::call::{Call, json};
use crate::server::events::ServerEvent;
use crate::server::limits::MAX_RECORDS_BYTES;
use crate::server::room;
use crate::server::sessions::{SessionKind, Use};
use crate::server::state::{Shared, blocking};
use crate::signer;
use crate::store;
use axum::response::Response;
use http::StatusCode;
use std::sync::Arc;

/// `POST finish`. Sent again after a lost answer, it gives the same answer.
pub(crate) async fn finish(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let from = call.peer()?.fingerprint;
    let under_way = shared.begin_call(call.session()?, from, Use::Finish).await?;
    let repository = under_way.repository.clone();
    let body: Finish = read_json(call.into_body(), MAX_RECORD_BYTES, shared.pace).await?;
    let Finish { signed, without_data } = body;
    let set = under_way.session().set.clone();
    let is_copy = under_way.session().kind == SessionKind::Copy;
    let committing = shared.clone();
    let committed = blocking(move || {
        let unreadable = |error| ApiError::corrupt("the record or its signature is not valid").caused_by(error);
        let record = signer::open_record(&signed).map_err(unreadable)?;
        // A copy has snapshots of all sets.
        if !is_copy && (without_data || Some(&record.set) != set.as_ref()) {
            return Err(ApiError::bad_request("the record is for another set than the session"));
        }
        let id = signer::snapshot_id(&signed);
        // One whose answer was lost is there, and takes no more room.
        if repository.snapshot(&id)?.is_none() {
            let bytes = signed.record.len() as u64;
            room::check(&committing, Some(&repository), bytes)?;
            if repository.record_bytes()?.saturating_add(bytes) > MAX_RECORDS_BYTES {
                return Err(ApiError::full("the list of this device's snapshots is as long as another device can read")
                    .hint("no space helps: forgotten snapshots stay in that list. Back up into another store: `lan-backup serve --store DIR` there"));
            }
        }
        let committed =
            if without_data { repository.commit_without_data(&signed, from) } else { repository.commit(&signed, from) };
        match committed {
            Ok(info) => Ok((info, record.set)),
            // Ours already: the answer to the first try was lost.
            Err(store::Error::Stale(Some(head))) if head.id == id => Ok((*head, record.set)),
            Err(error) => Err(error.into()),
        }
    });
    let (info, set) = committed.await?;
    let SnapshotInfo { id: snapshot, receipt, .. } = info;
    // A session that brings a copy goes on.
    let first_time = if is_copy { None } else { shared.sessions().finish(under_way.session().id) };
    if let Some(session) = first_time {
        let session = session.summary();
        tracing::info!(session = session.number, %set, %snapshot, bytes = session.bytes, "snapshot committed");
        shared.events.send(ServerEvent::Committed { session: session.clone(), set, snapshot });
        shared.events.send(ServerEvent::SessionEnded(session));
    }
    Ok(json(StatusCode::OK, &Finished { snapshot, received_at: receipt.received_at }))
}
