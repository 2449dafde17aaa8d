//! `POST rotated`: a device that is known by a former certificate comes with a new one.
//!
//! The signing key that it proved when it was paired vouches for the new certificate; without that it is a stranger like any
//! other. Owner logs come first, then the trust store: a crash in between leaves the device known by its old name, and its next
//! call completes what was begun.

use crate::identity::rotation::is_proved;
use crate::identity::{Trust, TrustStore};
use crate::model::{Fingerprint, OwnerEvent};
use crate::protocol::ErrorCode;
use crate::protocol::rotation::{Former, MAX_FORMER, ROTATION_VERSION, Rotated, RotatedAnswer};
use crate::server::api_error::ApiError;
use crate::server::body::read_json;
use crate::server::call::{Call, json};
use crate::server::events::ServerEvent;
use crate::server::limits::MAX_SMALL_BODY_BYTES;
use crate::server::state::{Shared, blocking};
use crate::store::Store;
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use std::sync::Arc;

/// `POST rotated`.
pub(crate) async fn rotated(shared: Arc<Shared>, call: Call) -> Result<Response, ApiError> {
    let new = call.certificate()?;
    let connection = call.connection.clone();
    let said: Rotated = read_json(call.into_body(), MAX_SMALL_BODY_BYTES, shared.pace).await?;
    if said.v != ROTATION_VERSION {
        let message = "this device speaks version 1 of `rotated`";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownFeature, message));
    }
    if said.formerly.len() > MAX_FORMER {
        return Err(ApiError::bad_request("more former certificates than one call may name"));
    }
    let mut accepted = shared.trust.find(&new).is_some();
    if !accepted && let Some((trust, signature)) = known_before(&shared.trust, new, &said.formerly) {
        accepted = accept(&shared, trust, new, signature).await?;
        if accepted {
            connection.is_paired_now();
        }
    }
    let was = said.expected.and_then(|fingerprint| {
        let signature = shared.identity.proof_of_former(&fingerprint)?;
        Some(Former { fingerprint, signature })
    });
    Ok(json(StatusCode::OK, &RotatedAnswer { accepted, was }))
}

/// The paired device that proves to be the one behind `new`.
fn known_before(trust: &TrustStore, new: Fingerprint, formerly: &[Former]) -> Option<(Trust, String)> {
    formerly.iter().find_map(|former| {
        let trust = trust.find(&former.fingerprint)?;
        let proved = is_proved(&trust.signing_key, &former.fingerprint, &new, &former.signature);
        proved.then(|| (trust, former.signature.clone()))
    })
}

/// Whether it is paired with its new certificate afterwards: a person may have unpaired it meanwhile.
pub(crate) async fn accept(
    shared: &Arc<Shared>,
    trust: Trust,
    new: Fingerprint,
    signature: String,
) -> Result<bool, ApiError> {
    let (old, alias) = (trust.fingerprint, trust.alias.clone());
    let (store, trusted, at) = (shared.store().ok().cloned(), shared.trust.clone(), shared.clock.now());
    let still_paired = blocking(move || {
        if let Some(store) = store {
            hand_over(&store, &trust, new, &signature, at).map_err(|error| ApiError::failed().caused_by(error))?;
        }
        trusted.rotate(&old, new).map_err(|error| ApiError::failed().caused_by(error))
    });
    if !still_paired.await? {
        // Another call of the same device may have come first.
        return Ok(shared.trust.find(&new).is_some());
    }
    // What the old certificate has under way ends; whoever else may hold its key is out.
    shared.end_everything_of(old);
    tracing::warn!(%alias, was = %old.short_code(), is = %new.short_code(), "a paired device has a new certificate, signed with its old key");
    shared.events.send(ServerEvent::Rotated { was: old, fingerprint: new, alias });
    Ok(true)
}

/// The repositories of the old certificate belong to the new one, and the copies that the old one brought are the new one's to bring. A
/// copy's owner log is not touched: it is the log of where the copy comes from, and its bringer adds what that one says. Blocking.
///
/// # Errors
/// The store's.
pub fn hand_over(
    store: &Store,
    trust: &Trust,
    new: Fingerprint,
    signature: &str,
    at: Timestamp,
) -> crate::store::Result<()> {
    for repository in store.repositories() {
        match repository.copied_from() {
            Some(from) if from == trust.fingerprint => repository.is_copied_by_now(new)?,
            None if repository.owner() == trust.fingerprint => {
                let (signer, signature) = (trust.signing_key.clone(), signature.to_owned());
                repository.append_owner(OwnerEvent::Rotate { fingerprint: new, signer, signature, at })?;
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}
