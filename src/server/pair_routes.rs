//! `pair/request`, `pair/start`, `pair/confirm`: the words of pairing; its rules are in
//! [`pairing`](crate::server::pairing), its arithmetic in [`identity::pairing`](crate::identity::pairing).
//!
//! From the moment an attempt is counted every failure is the same answer, at the same time after the request came: what was
//! wrong is nobody's business.

use crate::identity::Trust;
use crate::identity::pairing::{Shower, Transcript};
use crate::model::Fingerprint;
use crate::protocol::ErrorCode;
use crate::protocol::pairing::{
    PAIRING_VERSION, PairConfirm, PairConfirmed, PairRequest, PairStart, PairStarted, PairState, WindowState,
};
use crate::server::api_error::ApiError;
use crate::server::approval::Decision;
use crate::server::body::read_json;
use crate::server::call::{Call, json};
use crate::server::events::ServerEvent;
use crate::server::limits::{MAX_SMALL_BODY_BYTES, MAX_WAIT_SECONDS};
use crate::server::pairing::{Accepted, Asker, Closed, OpenedBy, Standing};
use crate::server::state::{Exchange, Shared, blocking};
use crate::server::windows;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// `POST pair/request`.
pub(crate) async fn request(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let fingerprint = call.certificate()?;
    let connection = call.connection.clone();
    let request: PairRequest = read_json(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    if request.v != PAIRING_VERSION {
        return Err(unknown_version());
    }
    let asker = Asker {
        fingerprint,
        alias: request.alias,
        address: connection.address,
        rights: request.rights,
        purpose: request.purpose,
    };
    shared.look_for_impostors(&asker.alias, fingerprint, asker.address);
    let ask = || shared.pairing().request(asker.clone(), shared.clock.instant());
    let mut standing = ask();
    windows::advance(&shared);
    if standing == Standing::Waiting {
        let limit = Duration::from_secs(u64::from(request.wait.min(MAX_WAIT_SECONDS)));
        let decided = shared.wait_for(limit, || Some(ask()).filter(|standing| *standing != Standing::Waiting)).await;
        standing = decided.unwrap_or(standing);
    }
    let mut answer =
        PairState { code: fingerprint.short_code(), state: WindowState::Waiting, expires_in: 0, attempts_left: 0 };
    match standing {
        Standing::Waiting => {}
        Standing::Declined => answer.state = WindowState::Declined,
        Standing::Open => {
            connection.expect_a_person();
            let left = shared.pairing().window_left(fingerprint, shared.clock.instant());
            if let Some((expires_in, attempts_left)) = left {
                answer = PairState { state: WindowState::Open, expires_in, attempts_left, ..answer };
            }
        }
        Standing::Exhausted => {
            let code = fingerprint.short_code();
            return Err(ApiError::too_many("no more pairing windows open by themselves here today")
                .hint(format!("on the other device, run `lan-backup pin --for {code}`")));
        }
    }
    Ok(json(StatusCode::OK, &answer))
}

/// `POST pair/start`.
pub(crate) async fn start(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let fingerprint = call.certificate()?;
    let connection = call.connection.clone();
    let start: PairStart = read_json(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    // From the whole request on: a body that dribbles must not use up the delay that hides how long the answer took.
    let reply_at = Instant::now() + shared.pace.pairing_reply;
    if start.v != PAIRING_VERSION {
        return Err(unknown_version());
    }
    let Some(exporter) = connection.exporter else {
        return Err(ApiError::bad_request("pairing needs TLS 1.3"));
    };
    // The attempt is counted here: whatever the caller does next, or does not do, it has cost one.
    let begun = shared.pairing().begin_exchange(fingerprint, shared.clock.instant());
    let Some((pin, asker)) = begun else { return Err(busy()) };
    on_time(reply_at, async {
        let message = STANDARD.decode(&start.message).map_err(|_| ApiError::pairing_failed())?;
        if start.rights != asker.rights {
            return Err(ApiError::pairing_failed());
        }
        let shower = shared.identity.fingerprint();
        let transcript = Transcript { exporter, typist: fingerprint, shower, rights: asker.rights };
        let own_key = shared.identity.signing_key().public();
        let answered = Shower::answer(&pin, transcript, &own_key, &message, &start.signing_key);
        let (shower, message) = answered.map_err(|_| ApiError::pairing_failed())?;
        let exchange = Exchange { shower, signing_key: start.signing_key };
        shared.pairing().keep_exchange(fingerprint, connection.id, exchange, shared.clock.instant());
        let started = PairStarted { message: STANDARD.encode(message), signing_key: own_key };
        Ok(json(StatusCode::OK, &started))
    })
    .await
}

/// `POST pair/confirm`.
pub(crate) async fn confirm(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let fingerprint = call.certificate()?;
    let connection = call.connection.clone();
    let confirm: PairConfirm = read_json(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    let reply_at = Instant::now() + shared.pace.pairing_reply;
    on_time(reply_at, async {
        let exchange = shared.pairing().take_exchange(fingerprint, connection.id, shared.clock.instant());
        let checked = exchange.and_then(|Exchange { shower, signing_key }| {
            let proof = STANDARD.decode(&confirm.proof).ok()?;
            Some((shower.check(&proof).ok()?, signing_key))
        });
        let proved = checked.and_then(|checked| Some((checked, shared.pairing().proved(fingerprint)?)));
        let Some(((proof, signing_key), accepted)) = proved else {
            tracing::info!(device = %fingerprint.short_code(), "a pairing attempt failed");
            windows::advance(&shared);
            return Err(ApiError::pairing_failed());
        };
        let (alias, rights) = (shared.alias.clone(), accepted.granted.clone());
        trust(&shared, fingerprint, signing_key, accepted).await?;
        connection.is_paired_now();
        windows::advance(&shared);
        let fingerprint = shared.identity.fingerprint();
        Ok(json(StatusCode::OK, &PairConfirmed { proof: STANDARD.encode(proof), alias, rights, fingerprint }))
    })
    .await
}

/// What the person accepted holds from now on, for the fingerprint that proved the PIN and for no other.
async fn trust(
    shared: &Arc<Shared>,
    fingerprint: Fingerprint,
    signing_key: String,
    accepted: Accepted,
) -> Result<(), ApiError> {
    let Accepted { asker, granted, by } = accepted;
    let set = asker.purpose.as_ref().map(|purpose| purpose.set.clone());
    // Pairing again keeps what a person settled before.
    let before = shared.trust.find(&fingerprint);
    let mut trust = Trust {
        fingerprint,
        signing_key,
        alias: asker.alias.clone(),
        rights: granted,
        paired_at: shared.clock.now(),
        sets: before.as_ref().map(|trust| trust.sets.clone()).unwrap_or_default(),
        restore_from: before.map(|trust| trust.restore_from).unwrap_or_default(),
        address: None,
    };
    match (set, by) {
        (Some(set), OpenedBy::Answer(Decision::Once | Decision::Backup | Decision::Save)) => {
            shared.accept_once(fingerprint, set);
        }
        // Whoever lets a device in by hand means what it came for; with `--accept never` nothing else could settle it.
        (Some(set), OpenedBy::Answer(_) | OpenedBy::Command) => {
            trust.sets.insert(set);
        }
        (_, OpenedBy::Itself) | (None, _) => {}
    }
    let (alias, rights) = (trust.alias.clone(), trust.rights.clone());
    let store = shared.trust.clone();
    let inserted = blocking(move || store.insert(trust).map_err(|error| ApiError::failed().caused_by(error))).await;
    windows::gone(shared, &Closed { asker, paired: inserted.is_ok() });
    inserted?;
    tracing::info!(device = %fingerprint.short_code(), %alias, %rights, "paired");
    shared.events.send(ServerEvent::Paired { fingerprint, alias, rights });
    Ok(())
}

/// Gives the answer of `work` at a fixed time.
async fn on_time<T>(reply_at: Instant, work: impl Future<Output = T>) -> T {
    let answer = work.await;
    tokio::time::sleep_until(reply_at).await;
    answer
}

fn busy() -> ApiError {
    let message = "no pairing window is open for this device now";
    ApiError::new(StatusCode::CONFLICT, ErrorCode::PairingBusy, message)
}

fn unknown_version() -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownFeature, "this device speaks version 1 of pairing")
}
