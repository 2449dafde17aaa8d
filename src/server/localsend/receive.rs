//! `upload` and `cancel`: files arrive, and what arrived is made durable.
//!
//! A file is chunked, saved and hashed while it streams in; only when its length and its hash are right does anything refer to it. The
//! answer to the file that settles its session waits until all files are durable. A session that ends in another way (cancelled,
//! forgotten, the server stops) keeps what had arrived whole.

use crate::model::{ContentHash, Fingerprint, RelPath, SessionId};
use crate::protocol::ErrorCode;
use crate::server::api_error::ApiError;
use crate::server::body::{Paced, feed};
use crate::server::call::Call;
use crate::server::events::ServerEvent;
use crate::server::limits::{LOCALSEND_CHECKPOINT, TRANSFER_WAIT};
use crate::server::localsend::keeper::Keeper;
use crate::server::localsend::merge::inbox_set;
use crate::server::localsend::prepare::{done, sender_of};
use crate::server::localsend::sessions::{Outcome, Progress, Refusal, Wanted};
use crate::server::localsend::{Active, for_apps};
use crate::server::room::{self, Claim};
use crate::server::sessions::SessionSummary;
use crate::server::state::{Shared, blocking};
use axum::response::Response;
use http::StatusCode;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::sync::{Arc, PoisonError};

/// Bytes read from a body at a time.
const PIECE: usize = 256 << 10;

/// `POST upload`.
pub(crate) async fn upload(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    take(shared, call).await.map_err(for_apps)
}

async fn take(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let query = call.query()?;
    let parameter = |name: &str| {
        query.get(name).map(String::as_str).ok_or_else(|| ApiError::bad_request(format!("`{name}` is missing")))
    };
    let (session, file, token) = (parameter("sessionId")?, parameter("fileId")?.to_owned(), parameter("token")?);
    let invalid = || {
        ApiError::new(StatusCode::FORBIDDEN, ErrorCode::SessionGone, "no such transfer, or this file is here already")
    };
    let (id, token): (SessionId, SessionId) =
        (session.parse().map_err(|_| invalid())?, token.parse().map_err(|_| invalid())?);
    let door = &shared.localsend;
    let begun = door.sessions().begin(id, sender_of(&call), &file, token, shared.clock.instant());
    let wanted = begun.map_err(|refusal| match refusal {
        Refusal::Invalid => invalid(),
        Refusal::Busy => ApiError::busy("too many files at once"),
    })?;
    let mut under_way = UnderWay { shared: shared.clone(), id, file, outcome: Outcome::Failed, bytes: 0, ended: false };
    let active = door.active().get(&id).cloned().ok_or_else(invalid)?;
    let waiting = tokio::time::timeout(TRANSFER_WAIT, door.transfers.acquire()).await;
    let _permit = waiting.ok().and_then(Result::ok).ok_or_else(|| ApiError::busy("too many files at once"))?;
    let body = Paced::new(call.into_body(), wanted.size, shared.pace);
    let path = wanted.path.clone();
    let receiving = {
        let (shared, active) = (shared.clone(), active.clone());
        feed(body, move |incoming| {
            let mut claims = claim(&shared, &active, wanted.size)?;
            receive(incoming, &wanted, &active, &mut claims)
        })
        .await
    };
    let corrupt = || ApiError::corrupt("what came does not match the file's hash");
    match &receiving {
        Err(error) => tell(&shared, id, &active, &path, error),
        Ok((Outcome::WrongHash, _)) => tell(&shared, id, &active, &path, &corrupt()),
        Ok(_) => {}
    }
    let (outcome, bytes) = receiving?;
    (under_way.outcome, under_way.bytes) = (outcome, bytes);
    let number = door.sessions().summary(id).map_or(0, |summary| summary.number);
    shared.events.progress(ServerEvent::Moved { number, bytes });
    match under_way.end() {
        Progress::Settled => settle(shared.clone(), id, false).await?,
        Progress::More => checkpoint(&shared, id, &active),
        Progress::Gone => return Err(invalid()),
    }
    match outcome {
        Outcome::Kept => Ok(done()),
        Outcome::WrongHash => Err(corrupt()),
        Outcome::Failed => Err(ApiError::failed()),
    }
}

/// Tells the person here why a file was not taken; once of each kind in a session, as a full disk concerns every file.
fn tell(shared: &Shared, id: SessionId, active: &Active, path: &RelPath, error: &ApiError) {
    let is_new = active.told.lock().unwrap_or_else(PoisonError::into_inner).insert(error.code());
    let Some(summary) = shared.localsend.sessions().summary(id).filter(|_| is_new) else { return };
    let (code, reason) = (error.code(), error.message().to_owned());
    let (alias, fingerprint, file) = (summary.alias, summary.fingerprint, Some(path.to_string()));
    shared.events.send(ServerEvent::NotTaken { alias, fingerprint, file, code, reason });
}

/// Room for one file wherever it goes, beside all that is on its way there: each of many files would find room for itself.
fn claim(shared: &Arc<Shared>, active: &Active, size: u64) -> Result<Vec<Claim>, ApiError> {
    let mut claims = Vec::new();
    if let Some(keeper) = &active.keeper {
        claims.push(room::claim(shared, &keeper.repository, keeper.owner, size)?);
    }
    if let Some(saver) = &active.saver {
        let free = saver.free_bytes().map_err(|error| ApiError::failed().caused_by(error))?;
        let of = &shared.localsend.into_inbox;
        claims.push(room::claim_on_disk(of, free, shared.reserve_bytes, active.owner, size)?);
    }
    Ok(claims)
}

/// One file, as it streams in. Blocking.
fn receive(
    mut incoming: impl Read,
    wanted: &Wanted,
    active: &Active,
    claims: &mut [Claim],
) -> Result<Outcome, ApiError> {
    let failed = |error| ApiError::from(crate::store::Error::Platform(error));
    let mut intake = active.keeper.as_ref().map(Keeper::begin);
    let mut saving = active.saver.as_ref().map(|saver| saver.begin(&wanted.path)).transpose().map_err(failed)?;
    let mut hasher = wanted.sha256.map(|expected| (expected, Sha256::new()));
    let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(wanted.size).unwrap_or(PIECE)));
    let mut length = 0_u64;
    loop {
        // What TLS gives out comes 16 KiB at a time; each write costs as much as several of those.
        piece.clear();
        let read = incoming.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let count = read.map_err(|error| ApiError::bad_request("the file was cut off").caused_by(error))?;
        if count == 0 {
            break;
        }
        length += count as u64;
        if let Some((_, hasher)) = &mut hasher {
            hasher.update(&piece);
        }
        intake.as_mut().map_or(Ok(()), |intake| intake.write(&piece))?;
        saving.as_mut().map_or(Ok(()), |saving| saving.write(&piece)).map_err(failed)?;
        for claim in &mut *claims {
            claim.arrived(count as u64);
        }
    }
    if length != wanted.size {
        let message = format!("{length} of {} bytes came", wanted.size);
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::BadRequest, message));
    }
    let found = hasher.map(|(expected, hasher)| (expected, ContentHash::from_bytes(hasher.finalize().into())));
    if found.is_some_and(|(expected, found)| expected != found) {
        return Ok(Outcome::WrongHash);
    }
    if let (Some(saving), Some(saver)) = (saving, &active.saver) {
        saver.finish(saving, wanted.mtime).map_err(failed)?;
    }
    if let Some(intake) = intake {
        intake.finish(wanted, wanted.sha256)?;
    }
    Ok(Outcome::Kept)
}

/// A file that was begun; whatever happens to its request, it ends.
struct UnderWay {
    shared: Arc<Shared>,
    id: SessionId,
    file: String,
    outcome: Outcome,
    bytes: u64,
    ended: bool,
}

impl UnderWay {
    fn end(mut self) -> Progress {
        self.end_once()
    }

    fn end_once(&mut self) -> Progress {
        self.ended = true;
        let now = self.shared.clock.instant();
        self.shared.localsend.sessions().end(self.id, &self.file, self.outcome, self.bytes, now)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.ended && self.end_once() == Progress::Settled {
            tokio::spawn(settle(self.shared.clone(), self.id, false));
        }
    }
}

/// A long session makes a snapshot once in a while.
fn checkpoint(shared: &Arc<Shared>, id: SessionId, active: &Active) {
    let now = shared.clock.instant();
    let mut last = active.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
    if now.saturating_duration_since(*last) >= LOCALSEND_CHECKPOINT {
        *last = now;
        tokio::spawn(settle(shared.clone(), id, false));
    }
}

/// Makes durable what came, and ends the session when all of it has come.
pub(crate) async fn settle(shared: Arc<Shared>, id: SessionId, in_any_case: bool) -> Result<(), ApiError> {
    // A task of its own: it goes on when the app that waits for it goes away.
    let settling = tokio::spawn(async move {
        let door = &shared.localsend;
        let Some(active) = door.active().get(&id).cloned() else { return Ok(()) };
        let summary = door.sessions().summary(id);
        make_durable(&shared, &active, summary, in_any_case).await?;
        if let Some(session) = door.sessions().remove_complete(id) {
            door.active().remove(&id);
            shared.events.send(ServerEvent::SessionEnded(session.summary()));
        }
        Ok(())
    });
    settling.await.map_err(|error| ApiError::failed().caused_by(error))?
}

async fn make_durable(
    shared: &Arc<Shared>,
    active: &Arc<Active>,
    summary: Option<SessionSummary>,
    in_any_case: bool,
) -> Result<(), ApiError> {
    let work = {
        let active = active.clone();
        move || {
            // Both are tried, whatever becomes of the first.
            let saved = active.saver.as_ref().map(|saver| saver.settle());
            let committed = active.keeper.as_ref().map(|keeper| keeper.commit(in_any_case)).transpose();
            saved.transpose().map_err(|error| ApiError::from(crate::store::Error::Platform(error)))?;
            committed
        }
    };
    let committed = blocking(work).await;
    let Some(session) = summary else { return committed.map(drop) };
    if let Some(saver) = &active.saver {
        let saved = saver.take_saved();
        if saved.files + saved.known > 0 {
            let (folder, session) = (saver.path().to_owned(), session.clone());
            let (files, bytes, known, renamed) = (saved.files, saved.bytes, saved.known, saved.renamed);
            shared.events.send(ServerEvent::Saved { session, folder, files, bytes, known, renamed });
        }
    }
    match committed {
        Ok(Some(Some(info))) => {
            tracing::info!(session = session.number, snapshot = %info.id, "LocalSend files committed");
            shared.events.send(ServerEvent::Committed { session, set: inbox_set(), snapshot: info.id });
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => {
            shared.events.send(ServerEvent::NotKept { session });
            Err(error)
        }
    }
}

/// `POST cancel`: always a success, so that it tells nothing.
pub(crate) async fn cancel(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let sender = sender_of(&call);
    let query = call.query().unwrap_or_default();
    let named = query.get("sessionId").and_then(|text| text.parse::<SessionId>().ok());
    match named {
        None => {
            if let Some(token) = shared.localsend.pending().get(&sender) {
                token.cancel();
            }
        }
        Some(id) => {
            let cancelled = shared.localsend.sessions().cancel(id, sender);
            if let Some(session) = cancelled {
                end(&shared, id, &session.summary()).await;
            }
        }
    }
    if let Some(text) = query.get("sessionId") {
        // Perhaps it is the receiver of what this device sends.
        let (address, certificate): (_, Option<Fingerprint>) = (call.connection.address, call.connection.fingerprint);
        shared.events.progress(ServerEvent::CancelHeard { session: text.clone(), from: address, certificate });
    }
    Ok(done())
}

/// Keeps what had arrived of a session that is gone from the table.
async fn end(shared: &Arc<Shared>, id: SessionId, summary: &SessionSummary) {
    let active = shared.localsend.active().remove(&id);
    if let Some(active) = active {
        let kept = make_durable(shared, &active, Some(summary.clone()), false).await;
        if let Err(error) = kept {
            tracing::error!(session = summary.number, ?error, "what had arrived could not be kept");
        }
    }
    shared.events.send(ServerEvent::SessionEnded(summary.clone()));
}

/// Ends sessions that nobody used for long.
pub(crate) fn expire(shared: &Arc<Shared>) {
    let expired = shared.localsend.sessions().expire(shared.clock.instant());
    for (id, session) in expired {
        let shared = shared.clone();
        tokio::spawn(async move { end(&shared, id, &session.summary()).await });
    }
}

/// Ends all sessions, before the server stops.
pub(crate) async fn close(shared: &Arc<Shared>) {
    let all = shared.localsend.sessions().drain();
    for (id, session) in all {
        end(shared, id, &session.summary()).await;
    }
}
