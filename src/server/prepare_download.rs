//! `prepare-download`: a restore begins.
//!
//! One's own repository opens at once. Another device's opens for who has the right or was granted it; else a person decides:
//! once, always, *this device replaces that one*, or no. Only a person's choice here ever makes a repository change its owner.

use crate::identity::Trust;
use crate::model::{Alias, OwnerEvent};
use crate::protocol::session::PrepareDownload;
use crate::server::AcceptMode;
use crate::server::api_error::ApiError;
use crate::server::approval::{Decision, Question};
use crate::server::body::read_json;
use crate::server::call::Call;
use crate::server::limits::MAX_SMALL_BODY_BYTES;
use crate::server::listing::{may_see, not_usable};
use crate::server::opening::{answer, ask, new_session, opened_or_not};
use crate::server::sessions::{Phase, Prepared, Session, SessionKind};
use crate::server::state::{Shared, blocking};
use crate::store::Repository;
use axum::response::Response;
use std::sync::Arc;

/// Repositories that an ambiguous name lists.
const MAX_NAMED: usize = 8;

/// `POST prepare-download`.
pub(crate) async fn prepare_download(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let trust = call.peer()?.clone();
    let request: PrepareDownload = read_json(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    let found = blocking({
        let (shared, trust, request) = (shared.clone(), trust.clone(), request.clone());
        move || {
            let repository = find(&shared, &trust, request.of.as_deref())?;
            let own = repository.owner() == trust.fingerprint && repository.copied_from().is_none();
            let ask_first = !own && (request.adopt || !may_see(&trust, &repository));
            Ok((ask_first.then(|| repository.alias()), repository))
        }
    });
    let (ask_about, repository) = found.await?;
    let ask_first = ask_about.is_some();
    if ask_first && shared.accept == AcceptMode::Never {
        return Err(
            ApiError::declined().hint("the other device asks nobody; grant the right there: `lan-backup trust`")
        );
    }
    let phase = if ask_first { Phase::Waiting } else { Phase::Open(repository.parameters().id) };
    let mut session = new_session(&shared, &trust, SessionKind::Restore, phase);
    session.key = request.idempotency_key;
    let prepared = shared.sessions().prepare(session.clone(), shared.clock.instant())?;
    if let Prepared::Existing(session) = prepared {
        return answer(shared, *session).await;
    }
    if let Some(of) = ask_about {
        question(&shared, &trust, &session, repository, of, request.adopt);
    } else {
        opened_or_not(&shared, &session);
    }
    answer(shared, session).await
}

/// The one repository that is meant. Blocking.
fn find(shared: &Shared, trust: &Trust, of: Option<&str>) -> Result<Arc<Repository>, ApiError> {
    let Some(text) = of else {
        let own = shared.store()?.find_owned(&trust.fingerprint).map_err(not_usable)?;
        return own.ok_or_else(|| ApiError::not_found("this device keeps no backup of the asking one"));
    };
    let mut found = shared.store()?.find_matching(text).map_err(not_usable)?;
    if found.len() > 1 {
        let rows = found.iter().take(MAX_NAMED).map(|repository| {
            let owner = repository.owner().short_code();
            format!("{} ({owner}, repository {})", repository.alias(), repository.parameters().id)
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        let more = if found.len() > MAX_NAMED { ", and more" } else { "" };
        return Err(ApiError::bad_request(format!("several backups go by that name: {rows}{more}"))
            .hint("name one by its repository id"));
    }
    found.pop().ok_or_else(|| ApiError::not_found("this device keeps no backup that goes by that name"))
}

fn question(
    shared: &Arc<Shared>,
    trust: &Trust,
    session: &Session,
    repository: Arc<Repository>,
    of: Alias,
    adopt: bool,
) {
    let id = repository.parameters().id;
    let question = Question::RestoreOthers {
        alias: trust.alias.clone(),
        code: trust.fingerprint.short_code(),
        fingerprint: trust.fingerprint,
        of,
        repository: id,
        adopt,
    };
    let (yes_shared, trust, asked) = (shared.clone(), trust.clone(), session);
    let session = session.id;
    ask(shared, asked, question, move |decision| async move {
        blocking(move || {
            let fingerprint = trust.fingerprint;
            match decision {
                Decision::Once | Decision::Backup | Decision::Save => {
                    yes_shared.sessions().allow_once(session, yes_shared.clock.instant());
                }
                Decision::Decline => {}
                Decision::Always => {
                    let grant = |trust: &mut Trust| {
                        trust.restore_from.insert(id);
                    };
                    let granted = yes_shared.trust.update(&fingerprint, grant);
                    granted.map_err(|error| ApiError::failed().caused_by(error))?;
                }
                Decision::Replaces => {
                    tracing::info!(device = %fingerprint.short_code(), repository = ?id, "repository adopted");
                    repository.append_owner(OwnerEvent::Adopt {
                        fingerprint,
                        signer: trust.signing_key.clone(),
                        alias: trust.alias.clone(),
                        at: yes_shared.clock.now(),
                    })?;
                }
            }
            Ok(id)
        })
        .await
    });
}
