//! `snapshots`: the backups that this device advertises to one peer.

use crate::identity::Trust;
use crate::model::{Right, SnapshotId};
use crate::protocol::listing::{Listing, RepositoryListing};
use crate::server::api_error::ApiError;
use crate::server::call::{Call, json, json_text};
use crate::server::limits::memory_units;
use crate::server::sessions::Use;
use crate::server::state::{CallUnderWay, LoneCall, Shared, blocking};
use crate::store::losses::MAX_ADVERTISED_NAMES;
use crate::store::{self, Repository};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use std::sync::Arc;

/// `GET snapshots`: with a session header, those of its repository; else of all that the caller may see.
pub(crate) async fn snapshots(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let device = call.peer()?.fingerprint;
    let seen = seen_by(&shared, call).await?;
    let listing = blocking(move || {
        let repositories = seen.repositories()?;
        let bytes = repositories.iter().map(|repository| repository.record_bytes()).sum::<Result<u64, _>>()?;
        // The records themselves, the marks of those that are damaged, and the text that is made of all that.
        let names = (MAX_ADVERTISED_NAMES * repositories.len()) as u64;
        let mut memory = shared.memory(device, bytes.saturating_mul(4).saturating_add(2 * names))?;
        let rows = repositories.iter().map(|repository| advertised(repository).map_err(ApiError::from));
        let listing = Listing { repositories: rows.collect::<Result<_, ApiError>>()? };
        let json = serde_json::to_vec(&listing).expect("messages have only string keys");
        memory.shrink(memory_units(json.len() as u64));
        Ok(memory.held_by(Bytes::from(json)))
    });
    Ok(json_text(listing.await?))
}

/// What is told of a repository to whoever may see it. Blocking.
pub fn advertised(repository: &Repository) -> store::Result<RepositoryListing> {
    Ok(RepositoryListing {
        repository: repository.parameters(),
        owner: repository.owner(),
        alias: repository.alias(),
        owner_log: repository.owner_log(),
        snapshots: repository.snapshots()?,
        damaged: repository.advertised_marks()?,
    })
}

/// `GET snapshots/{id}`.
pub(crate) async fn snapshot(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let unknown = || ApiError::not_found("there is no such snapshot here");
    let id: SnapshotId = call.last_path_part().parse().map_err(|_| unknown())?;
    let seen = seen_by(&shared, call).await?;
    let found = blocking(move || {
        for repository in seen.repositories()? {
            if let Some(info) = repository.snapshot(&id)? {
                return Ok(info);
            }
        }
        Err(unknown())
    });
    Ok(json(StatusCode::OK, &found.await?))
}

/// What a caller may see.
enum Seen {
    /// The repository of the session it names.
    Session(Box<CallUnderWay>),
    /// All that its trust lets it see.
    Allowed { shared: Arc<Shared>, trust: Box<Trust>, _call: LoneCall },
}

impl Seen {
    /// Blocking.
    fn repositories(&self) -> Result<Vec<Arc<Repository>>, ApiError> {
        match self {
            Self::Session(under_way) => Ok(vec![under_way.repository.clone()]),
            Self::Allowed { shared, trust, .. } => {
                let store = shared.store()?;
                // Who is told that its own is not there takes it for lost.
                store.find_owned(&trust.fingerprint).map_err(not_usable)?;
                let mut repositories = store.repositories();
                repositories.retain(|repository| may_see(trust, repository));
                if repositories.is_empty() {
                    for granted in &trust.restore_from {
                        store.find_repository(granted).map_err(not_usable)?;
                    }
                    if trust.rights.allow(Right::RestoreOthers) {
                        store.find_all().map_err(not_usable)?;
                    }
                }
                Ok(repositories)
            }
        }
    }
}

async fn seen_by(shared: &Arc<Shared>, call: Call) -> Result<Seen, ApiError> {
    let trust = call.peer()?.clone();
    let named = call.session_if_named()?;
    drop(call);
    if let Some(session) = named {
        let under_way = shared.begin_call(session, trust.fingerprint, Use::Read).await?;
        return Ok(Seen::Session(Box::new(under_way)));
    }
    let call = shared.begin_lone_call(trust.fingerprint)?;
    Ok(Seen::Allowed { shared: shared.clone(), trust: Box::new(trust), _call: call })
}

/// What is told of a repository that is here and cannot be used: it is damaged, or its disk does not let it be read for the moment.
/// Never that it is not there.
pub(crate) fn not_usable(error: store::Error) -> ApiError {
    if error.is_damage() || matches!(error, store::Error::NewerFormat { .. }) {
        return error.into();
    }
    ApiError::busy("the repository cannot be read at the moment")
        .hint("try again later; should it stay so, look at the disk of the receiving device, and at its log")
        .caused_by(error)
}

/// Its own, those that a person let it read, or all.
pub(crate) fn may_see(trust: &Trust, repository: &Repository) -> bool {
    (repository.owner() == trust.fingerprint && repository.copied_from().is_none())
        || trust.restore_from.contains(&repository.parameters().id)
        || trust.rights.allow(Right::RestoreOthers)
}
