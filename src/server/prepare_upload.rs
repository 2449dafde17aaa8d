//! `prepare-upload`: a backup begins, manifest first.
//!
//! The order of the checks is the order in which they cost: the list itself, whose repository it is, room, and only then a
//! person's time. A question is asked at most once for one idempotency key, and not at all for what was settled before.

use crate::identity::Trust;
use crate::model::RepositoryId;
use crate::protocol::session::PrepareUpload;
use crate::server::AcceptMode;
use crate::server::api_error::ApiError;
use crate::server::approval::Question;
use crate::server::body::{Paced, feed};
use crate::server::call::Call;
use crate::server::limits::{LIST_MEMORY, MAX_PREPARE_BODY_BYTES};
use crate::server::listing::not_usable;
use crate::server::manifest;
use crate::server::opening::{answer, ask, new_session, opened_or_not};
use crate::server::room;
use crate::server::sessions::{Expected, Phase, Prepared, Session, SessionKind};
use crate::server::state::{Shared, blocking};
use crate::store::Repository;
use axum::response::Response;
use std::sync::Arc;

/// `POST prepare-upload`.
pub(crate) async fn prepare_upload(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let trust = call.peer()?.clone();
    let place = shared.transfer(trust.fingerprint).await?;
    let body = Paced::new(call.into_body(), MAX_PREPARE_BODY_BYTES, shared.pace);
    let read = {
        let shared = shared.clone();
        move |incoming| {
            let _memory = shared.memory(trust.fingerprint, LIST_MEMORY)?;
            manifest::read(incoming)
        }
    };
    let (header, _) = feed(body, read).await?;
    drop(place);

    let known = blocking({
        let (shared, trust, header) = (shared.clone(), trust.clone(), header.clone());
        move || {
            let repository = repository_of(&shared, &trust, header.repository)?;
            room::check(&shared, repository.as_deref(), 0)?;
            let head =
                repository.as_ref().map(|repository| repository.head_to_follow(&header.set)).transpose()?.flatten();
            Ok((repository, head.is_none()))
        }
    });
    let (repository, first) = known.await?;
    let settled = shared.is_settled(&trust, &header.set);
    if !settled && shared.accept == AcceptMode::Never {
        return Err(ApiError::declined().hint("the other device accepts only what was accepted there before"));
    }
    let phase = match (settled, repository) {
        (false, _) => Phase::Waiting,
        (true, Some(repository)) => Phase::Open(repository.parameters().id),
        (true, None) => Phase::Open(create(&shared, &trust).await?),
    };
    let mut session = new_session(&shared, &trust, SessionKind::Backup, phase);
    session.set = Some(header.set.clone());
    session.key = Some(header.idempotency_key);
    let files = header.changes.new_files.saturating_add(header.changes.changed_files);
    session.expected = Expected { files, bytes: header.bytes_to_send };
    let prepared = shared.sessions().prepare(session.clone(), shared.clock.instant())?;
    if let Prepared::Existing(session) = prepared {
        return answer(shared, *session).await;
    }
    if phase == Phase::Waiting {
        question(&shared, &trust, &header, &session, first);
    } else {
        opened_or_not(&shared, &session);
    }
    answer(shared, session).await
}

/// The repository that the caller may write to; `None` when its own does not exist yet.
fn repository_of(
    shared: &Shared,
    trust: &Trust,
    wanted: Option<RepositoryId>,
) -> Result<Option<Arc<Repository>>, ApiError> {
    let Some(wanted) = wanted else { return Ok(shared.store()?.owned_by(&trust.fingerprint)) };
    // One answer for a repository that is not there and for somebody else's: ids tell nothing to those who guess them. Whose it
    // once was knows it anyway, and must not take it for lost.
    let was_own = |repository: &Arc<Repository>| {
        repository.owner_log().iter().any(|event| event.fingerprint() == trust.fingerprint)
    };
    // One that cannot be read for the moment is not gone: its owner must not begin another history.
    let found = shared.store()?.find_repository(&wanted).map_err(not_usable)?;
    match found.filter(was_own) {
        Some(copy) if copy.copied_from().is_some() => {
            Err(ApiError::not_allowed("this device keeps only a copy of that backup, which another device brings").hint(
                "to continue it here, its person lets this device take it over: `lan-backup restore DEVICE --of NAME --adopt`",
            ))
        }
        Some(repository) if repository.owner() == trust.fingerprint => Ok(Some(repository)),
        Some(_) => Err(ApiError::not_allowed("another device has taken this one's place and continues its backups")
            .hint("for a new backup of its own, unpair the other device here (`lan-backup unpair`) and send again")),
        None => Err(ApiError::not_found("the repository is not there")),
    }
}

/// Makes the caller's repository, unless a call beside this one just did.
async fn create(shared: &Arc<Shared>, trust: &Trust) -> Result<RepositoryId, ApiError> {
    let (shared, trust) = (shared.clone(), trust.clone());
    blocking(move || {
        let _one_at_a_time = shared.creating();
        let repository = match shared.store()?.owned_by(&trust.fingerprint) {
            Some(repository) => repository,
            None => shared.store()?.create_repository(trust.fingerprint, &trust.signing_key, trust.alias.clone())?,
        };
        Ok(repository.parameters().id)
    })
    .await
}

fn question(shared: &Arc<Shared>, trust: &Trust, header: &PrepareUpload, session: &Session, first: bool) {
    let question = Question::Backup {
        alias: trust.alias.clone(),
        code: trust.fingerprint.short_code(),
        fingerprint: trust.fingerprint,
        set: header.set.clone(),
        totals: header.totals,
        changes: header.changes,
        bytes_to_send: header.bytes_to_send,
        first,
    };
    let (yes_shared, trust, set, wanted) = (shared.clone(), trust.clone(), header.set.clone(), header.repository);
    ask(shared, session, question, move |decision| async move {
        if decision.is_lasting() {
            let (store, fingerprint) = (yes_shared.trust.clone(), trust.fingerprint);
            let remember = move || {
                store.update(&fingerprint, |trust| {
                    trust.sets.insert(set);
                })
            };
            blocking(move || remember().map_err(|error| ApiError::failed().caused_by(error))).await?;
        }
        match wanted {
            Some(repository) => Ok(repository),
            None => create(&yes_shared, &trust).await,
        }
    });
}
