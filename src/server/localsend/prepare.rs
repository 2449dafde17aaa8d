//! `prepare-upload`: a LocalSend app offers files.
//!
//! In the order of what it costs: is the door open, is it the right one, the PIN, the list, room, and only then a person's time. One
//! question of this door is open at a time, a few senders wait behind it, the others hear "busy". What is held is left out of the
//! answer after the yes, and only for a certificate that was proved.

use crate::identity::Phone;
use crate::model::{Alias, Fingerprint, InboxKeep, SessionId};
use crate::platform::random;
use crate::protocol::Announcement;
use crate::protocol::ErrorCode;
use crate::protocol::localsend::{FilesWanted, MAX_PREPARE_BYTES};
use crate::server::allowance::NEW_SENDERS_A_DAY;
use crate::server::api_error::ApiError;
use crate::server::approval::{Decision, Question};
use crate::server::body::{Paced, feed};
use crate::server::call::{Call, json};
use crate::server::events::ServerEvent;
use crate::server::limits::{DECISION_LIMIT, TRANSFER_WAIT};
use crate::server::localsend::keeper::Keeper;
use crate::server::localsend::list::{self, What};
use crate::server::localsend::merge::inbox_set;
use crate::server::localsend::offer::{self, Here, Offer, Sorted};
use crate::server::localsend::pin::Verdict;
use crate::server::localsend::receive::settle;
use crate::server::localsend::saver::Saver;
use crate::server::localsend::sessions::{Sender, Session};
use crate::server::localsend::{Active, LocalSendMode, for_apps, shut, unverified};
use crate::server::room;
use crate::server::state::{Shared, blocking};
use crate::store::Repository;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// File names that a question shows.
const SAMPLE: usize = 5;
/// Characters of an alias that leave room for the word *unverified*.
const ALIAS_CHARS: usize = 48;

/// Who sends, in every way that matters here.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) sender: Sender,
    pub(crate) owner: Fingerprint,
    pub(crate) alias: Alias,
    pub(crate) proved: bool,
    pub(crate) address: SocketAddr,
    /// A person said yes, now or for always, or it knew the PIN.
    pub(crate) vouched: bool,
}

/// `POST prepare-upload`.
pub(crate) async fn prepare_upload(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    prepare(shared, call).await.map_err(for_apps)
}

async fn prepare(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let door = &shared.localsend;
    if door.options.mode == LocalSendMode::Off {
        return Err(shut());
    }
    shared.store().map_err(|_| shut())?;
    if call.peer().is_ok() {
        let message = "the two devices are paired, so files go by a safer way: `lan-backup send` on the other one";
        return Err(ApiError::not_allowed(message));
    }
    let (sender, address) = (sender_of(&call), call.connection.address);
    let phone = match (sender, &door.options.phones) {
        (Sender::Proved(fingerprint), Some(phones)) => {
            let phones = phones.clone();
            blocking(move || Ok(phones.find(&fingerprint))).await?
        }
        _ => None,
    };
    if phone.is_none() {
        check_pin(&shared, &call)?;
    }
    let (place, memory) = door.places.take(address.ip(), call.announced_length()).await?;
    let body = Paced::new(call.into_body(), MAX_PREPARE_BYTES as u64, shared.pace);
    // The memory goes along: a sender that hangs up, or is given up, frees it when the work is over, and not before.
    let reading = feed(body, move |incoming| Ok((list::read(incoming)?, memory)));
    let read = tokio::time::timeout(shared.pace.list, reading).await;
    let slow = |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BadRequest, "the list came too slowly");
    let ((listed, mut memory), _) = read.map_err(slow)??;
    let mut who = who(sender, address, &listed.info)?;
    who.vouched = phone.is_some() || door.options.mode != LocalSendMode::Accept || door.options.pin.is_some();
    drop(place);
    let offer = match listed.what {
        What::Files(offer) => offer,
        What::Message(text) => {
            // A person who said no is not spoken to, and nobody whom no one knows fills the screen.
            let now = shared.clock.instant();
            if phone.is_none() && door.was_declined(who.sender, now) {
                return Err(ApiError::declined());
            }
            if phone.is_none() && door.options.pin.is_none() && !door.may_be_shown(now) {
                return Err(ApiError::too_many("too many messages at once; try again in a minute"));
            }
            shared.events.progress(ServerEvent::Message { alias: who.alias, fingerprint: who.owner, text });
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    };
    list::shrink(&mut memory, &offer);
    let known = phone.is_some();
    let keep = match (phone, door.options.mode) {
        (Some(phone), _) => phone.keep,
        (None, LocalSendMode::Accept) => door.options.keep,
        (None, _) => decide(&shared, &who, &offer).await?,
    };
    let opened = open(&shared, who.clone(), offer, keep, memory).await;
    if let Err(error) = &opened
        && (known || door.may_be_shown(shared.clock.instant()))
    {
        let (code, reason) = (error.code(), error.message().to_owned());
        let (alias, fingerprint) = (who.alias, who.owner);
        shared.events.progress(ServerEvent::NotTaken { alias, fingerprint, file: None, code, reason });
    }
    opened
}

/// Who the handshake says is calling.
pub(crate) fn sender_of(call: &Call) -> Sender {
    let address = call.connection.address.ip().to_canonical();
    call.connection.fingerprint.map_or(Sender::Address(address), Sender::Proved)
}

fn check_pin(shared: &Shared, call: &Call) -> Result<(), ApiError> {
    let door = &shared.localsend;
    let Some(pin) = &door.options.pin else { return Ok(()) };
    let query = call.query()?;
    let address = call.connection.address.ip().to_canonical();
    let guess = query.get("pin").map(String::as_str);
    let wrong = |message: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::WrongPin, message));
    match door.limiter().check(pin, guess, address, shared.clock.instant()) {
        Verdict::Right => Ok(()),
        Verdict::Missing => wrong("this device asks for a PIN"),
        Verdict::Wrong => {
            tracing::warn!(%address, "a wrong LocalSend PIN");
            wrong("that is not the PIN")
        }
        Verdict::TooMany => Err(ApiError::too_many("too many wrong PINs; try again in some minutes")),
    }
}

fn who(sender: Sender, address: SocketAddr, info: &Announcement) -> Result<Who, ApiError> {
    let (claimed, alias) = (info.fingerprint.as_str(), &info.alias);
    match sender {
        Sender::Proved(owner) => {
            if !claimed.is_empty() && claimed.parse() != Ok(owner) {
                return Err(ApiError::bad_request("the fingerprint in the body is not that of the certificate"));
            }
            Ok(Who { sender, owner, alias: alias.clone(), proved: true, address, vouched: false })
        }
        Sender::Address(_) => {
            let short: String = alias.as_str().chars().take(ALIAS_CHARS).collect();
            let alias = Alias::new(&format!("{short} (unverified)"));
            Ok(Who { sender, owner: unverified(claimed), alias, proved: false, address, vouched: false })
        }
    }
}

/// Asks the person. A sender that goes away, or cancels, withdraws the question.
async fn decide(shared: &Arc<Shared>, who: &Who, offer: &Offer) -> Result<InboxKeep, ApiError> {
    let door = &shared.localsend;
    if door.was_declined(who.sender, shared.clock.instant()) {
        return Err(ApiError::declined());
    }
    let busy = || ApiError::new(StatusCode::CONFLICT, ErrorCode::NotDecided, "another device's question is open");
    let _waiting = door.waiting.try_acquire().map_err(|_| busy())?;
    let pending = Pending::begin(shared, who.sender).ok_or_else(busy)?;
    let deciding = async {
        let _turn = door.asking.acquire().await.map_err(|_| busy())?;
        // Fifty thousand files on a full disk are not worth a person's time.
        let bytes = offer.iter().fold(0_u64, |sum, (_, wanted)| sum.saturating_add(wanted.size));
        let answer = shared.ask(Question::LocalSend {
            alias: who.alias.clone(),
            code: who.owner.short_code(),
            fingerprint: who.owner,
            address: who.address,
            verified: who.proved,
            files: offer.len() as u64,
            bytes,
            names: offer.iter().take(SAMPLE).map(|(_, wanted)| wanted.path.to_string()).collect(),
            keep: door.options.keep,
        });
        Ok::<_, ApiError>(
            tokio::time::timeout(DECISION_LIMIT, answer).await.ok().and_then(Result::ok).unwrap_or(Decision::Decline),
        )
    };
    let decision = tokio::select! {
        decision = deciding => decision?,
        () = pending.token.cancelled() => return Err(ApiError::declined()),
        () = shared.shutdown.stopped() => return Err(ApiError::busy("this device is stopping")),
    };
    match decision {
        Decision::Decline => {
            door.decline(who.sender, shared.clock.instant());
            Err(ApiError::declined())
        }
        Decision::Backup => Ok(InboxKeep::Backup),
        Decision::Save => Ok(InboxKeep::Save),
        Decision::Once => Ok(door.options.keep),
        Decision::Always | Decision::Replaces => {
            if let (true, Some(phones)) = (who.proved, door.options.phones.clone()) {
                let (fingerprint, alias) = (who.owner, who.alias.clone());
                let phone = Phone { fingerprint, alias, keep: door.options.keep, since: shared.clock.now() };
                blocking(move || phones.insert(phone).map_err(|error| ApiError::failed().caused_by(error))).await?;
            }
            Ok(door.options.keep)
        }
    }
}

/// A sender's place among those who wait for a person; one each.
struct Pending<'a> {
    shared: &'a Shared,
    sender: Sender,
    token: CancellationToken,
}

impl<'a> Pending<'a> {
    fn begin(shared: &'a Shared, sender: Sender) -> Option<Self> {
        let token = CancellationToken::new();
        let mut pending = shared.localsend.pending();
        if pending.contains_key(&sender) {
            return None;
        }
        pending.insert(sender, token.clone());
        Some(Self { shared, sender, token })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.shared.localsend.pending().remove(&self.sender);
    }
}

/// The yes: makes room and a session, and says what shall come.
async fn open(
    shared: &Arc<Shared>,
    who: Who,
    offer: Offer,
    keep: InboxKeep,
    memory: OwnedSemaphorePermit,
) -> Result<Response, ApiError> {
    let looking = tokio::time::timeout(TRANSFER_WAIT, shared.localsend.looking.clone().acquire_owned()).await;
    let place = looking.ok().and_then(Result::ok).ok_or_else(|| ApiError::busy("too many phones at once"))?;
    let here = {
        let (shared, who) = (shared.clone(), who.clone());
        blocking(move || {
            // It is free when the work ends, not when the sender hangs up.
            let _place = place;
            look(&shared, &who, offer, keep, memory)
        })
    };
    let (sorted, active) = here.await?;
    let (number, now) = (shared.next_number(), shared.clock.instant());
    let token = || SessionId::from_random(random::bytes());
    let (held, id) = (sorted.held, token());
    let nothing_to_come = sorted.needed.is_empty();
    let session =
        Session::new(number, who.sender, who.alias.clone(), who.owner, sorted.needed, token, shared.clock.now(), now);
    let wanted = FilesWanted {
        session_id: id.to_string(),
        files: session.tokens().map(|(id, token)| (id.clone(), token.to_string())).collect(),
    };
    let summary = session.summary();
    let nothing_new = nothing_to_come.then(|| ServerEvent::NothingNew { session: summary.clone(), files: held });
    let (device, files) = (who.owner.short_code(), summary.expected.files);
    tracing::info!(session = number, %device, files, held, proved = who.proved, "LocalSend session");
    if !shared.localsend.sessions().open(id, session) {
        return Err(ApiError::too_many("too many transfers at once"));
    }
    shared.localsend.active().insert(id, Arc::new(active));
    shared.events.send(ServerEvent::SessionOpened(summary));
    if let Some(event) = nothing_new {
        shared.events.send(event);
    }
    if nothing_to_come {
        settle(shared.clone(), id, true).await?;
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(json(StatusCode::OK, &wanted))
}

/// What is here of it, whether there is room for the rest, and where it goes. Blocking.
fn look(
    shared: &Arc<Shared>,
    who: &Who,
    offer: Offer,
    keep: InboxKeep,
    memory: OwnedSemaphorePermit,
) -> Result<(Sorted, Active), ApiError> {
    let repository = if keep.backs_up() { Some(repository_of(shared, who)?) } else { None };
    let saver = match (&shared.localsend.options.inbox, keep.saves()) {
        (Some(path), true) => Some(Saver::open(path).map_err(|error| ApiError::failed().caused_by(error))?),
        (None, true) => return Err(ApiError::failed().hint("no inbox folder is set there")),
        (_, false) => None,
    };
    let head = repository.as_ref().map(|repository| repository.head_to_follow(&inbox_set())).transpose()?.flatten();
    let here = Here {
        repository: repository.as_ref(),
        owner: who.owner,
        saver: saver.as_ref(),
        backs_up: keep.backs_up(),
        proved: who.proved,
    };
    let mut sorted = offer::sort(offer, head.as_ref(), &here)?;
    if let Some(repository) = &repository {
        room::check(shared, Some(repository), sorted.bytes())?;
    }
    if let Some(saver) = &saver {
        let free = saver.free_bytes().map_err(|error| ApiError::failed().caused_by(error))?;
        if free < shared.reserve_bytes.saturating_add(sorted.bytes()) {
            return Err(ApiError::full("the receiving device has too little free space for all of these files"));
        }
    }
    let keeper = repository.map(|repository| {
        let key = shared.identity.signing_key().clone();
        let keeper = Keeper::new(repository, key, who.alias.clone(), who.owner, shared.clock.clone());
        sorted.linked.drain(..).for_each(|entry| keeper.add(entry));
        Arc::new(keeper)
    });
    let checkpoint = Mutex::new(shared.clock.instant());
    let owner = who.owner;
    let (saver, told) = (saver.map(Arc::new), Mutex::default());
    let active = Active { keeper, owner, saver, told, checkpoint, _memory: memory };
    Ok((sorted, active))
}

/// The sender's own repository, whose records this device signs; made on first use. Blocking.
fn repository_of(shared: &Shared, who: &Who) -> Result<Arc<Repository>, ApiError> {
    let own_key = shared.identity.signing_key().public();
    let _one_at_a_time = shared.creating();
    let store = shared.store()?;
    if !who.vouched && store.owned_by(&who.owner).is_none() {
        let taken = shared.new_senders.take(shared.clock.now());
        if taken.map_err(|error| ApiError::failed().caused_by(error))?.is_err() {
            tracing::warn!("no more new LocalSend senders today, as nobody vouches for them");
            let message = format!(
                "this device has taken files from {NEW_SENDERS_A_DAY} new senders today, and takes more tomorrow, or when its person is asked"
            );
            return Err(ApiError::too_many(message));
        }
    }
    let repository = store.create_repository(who.owner, &own_key, who.alias.clone())?;
    if repository.signers().contains(&own_key) {
        return Ok(repository);
    }
    if !repository.is_signed_by_receiver() {
        let message = "this device was paired here, and its backups are its own to sign; pair it again";
        return Err(ApiError::not_allowed(message));
    }
    // The store has outlived this device's signing key: the new one continues.
    repository.append_owner(crate::model::OwnerEvent::Adopt {
        fingerprint: who.owner,
        signer: own_key,
        alias: who.alias.clone(),
        at: shared.clock.now(),
    })?;
    Ok(repository)
}

/// An empty answer that is a success.
pub(crate) fn done() -> Response {
    (StatusCode::OK, Body::empty()).into_response()
}
