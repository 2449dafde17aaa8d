//! `snapshots`: the backups that this device advertises to one peer.

use crate::identity::Trust;
use crate::model::{Right, SnapshotId};
use crate::protocol::listing::{Listing, RepositoryListing};
use crate::server::api_error::ApiError;
use crate::server::call::{Call, json};
use crate::server::sessions::Use;
use crate::server::state::{Shared, blocking};
use crate::store::Repository;
use axum::response::Response;
use http::StatusCode;
use std::sync::Arc;

/// `GET snapshots`: with a session header, those of its repository; else of all that the caller may see.
pub(crate) async fn snapshots(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let (repositories, _under_way) = seen_by(&shared, &call)?;
    let listing = blocking(move || {
        let rows = repositories.iter().map(|repository| {
            Ok(RepositoryListing {
                repository: repository.parameters(),
                owner: repository.owner(),
                alias: repository.alias(),
                owner_log: repository.owner_log(),
                snapshots: repository.snapshots()?,
            })
        });
        Ok(Listing { repositories: rows.collect::<Result<_, ApiError>>()? })
    });
    Ok(json(StatusCode::OK, &listing.await?))
}

/// `GET snapshots/{id}`.
pub(crate) async fn snapshot(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let unknown = || ApiError::not_found("there is no such snapshot here");
    let id: SnapshotId = call.last_path_part().parse().map_err(|_| unknown())?;
    let (repositories, _under_way) = seen_by(&shared, &call)?;
    let found = blocking(move || {
        for repository in repositories {
            if let Some(info) = repository.snapshot(&id)? {
                return Ok(info);
            }
        }
        Err(unknown())
    });
    Ok(json(StatusCode::OK, &found.await?))
}

type Seen = (Vec<Arc<Repository>>, Option<crate::server::state::CallUnderWay>);

fn seen_by(shared: &Arc<Shared>, call: &Call) -> Result<Seen, ApiError> {
    let trust = call.peer()?;
    if let Some(session) = call.session_if_named()? {
        let under_way = shared.begin_call(session, trust.fingerprint, Use::Read)?;
        return Ok((vec![under_way.repository()?], Some(under_way)));
    }
    let mut repositories = shared.store()?.repositories();
    repositories.retain(|repository| may_see(trust, repository));
    Ok((repositories, None))
}

/// Its own, those that a person let it read, or all.
pub(crate) fn may_see(trust: &Trust, repository: &Repository) -> bool {
    repository.owner() == trust.fingerprint
        || trust.restore_from.contains(&repository.parameters().id)
        || trust.rights.allow(Right::RestoreOthers)
}
