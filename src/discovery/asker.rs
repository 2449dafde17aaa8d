//! Calls `register` of one address and checks who answers: the only place where a claim becomes a proof.

use crate::discovery::state::{Sign, State};
use crate::discovery::{Route, Scheme};
use crate::model::{Device, Fingerprint};
use crate::protocol::Announcement;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest time for one call, handshake included; a small computer needs 300 ms when it is busy.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// One way of calling.
pub(crate) type Way = (Scheme, Route);

/// How a lan-backup device is called; a paired one never in another way, whatever is announced about it.
pub(crate) const NATIVE: &[Way] = &[(Scheme::Https, Route::Native)];
/// How an address is called when nobody knows who is there, the best way first.
pub(crate) const ANYBODY: &[Way] =
    &[(Scheme::Https, Route::Native), (Scheme::Https, Route::LocalSend), (Scheme::Http, Route::LocalSend)];
const LOCALSEND: &[Way] = &[(Scheme::Https, Route::LocalSend)];
const LOCALSEND_PLAIN: &[Way] = &[(Scheme::Http, Route::LocalSend)];

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This device answered.
    Answered(Device),
    /// This device itself answered.
    Own,
    /// Whoever answered is not who it says, or not who it was announced to be.
    Mismatched,
    /// Nobody answered, or not in our language.
    Failed(String),
}

/// How to call the device that said this.
pub(crate) fn ways_for(state: &State, said: &Announcement) -> &'static [Way] {
    let https = said.protocol.eq_ignore_ascii_case("https");
    let paired = said.fingerprint.parse().is_ok_and(|fingerprint| state.registry().is_known(&fingerprint));
    match (paired || (https && said.lan_backup.is_some()), https) {
        (true, _) => NATIVE,
        (false, true) => LOCALSEND,
        (false, false) => LOCALSEND_PLAIN,
    }
}

/// Calls `address`, one way after the other until one works, and records who answers. `claimed` is who was announced to
/// be there.
pub(crate) async fn ask(state: &State, address: SocketAddr, ways: &[Way], claimed: Option<Fingerprint>) -> Outcome {
    let mut reason = String::new();
    for (scheme, route) in ways {
        let body = Announcement { announce: false, ..state.options.announcement.clone() };
        match tokio::time::timeout(CALL_LIMIT, state.caller.register(address, *scheme, *route, body)).await {
            Ok(Ok(answer)) => {
                let outcome = conclude(state, &answer.announcement, answer.certificate, address, claimed);
                if let Outcome::Answered(Device { fingerprint: Some(fingerprint), .. }) = &outcome {
                    state.note(fingerprint, Sign::Reached);
                }
                return outcome;
            }
            Ok(Err(failure)) => reason = failure.sentence,
            Err(_) => {
                // Whoever is silent in one language is so in the others.
                reason = format!("no answer within {} s", CALL_LIMIT.as_secs());
                break;
            }
        }
    }
    tracing::debug!(%address, reason, "device does not answer");
    state.failed(address, &reason);
    Outcome::Failed(reason)
}

/// Records a proof, or that there is none.
pub(crate) fn conclude(
    state: &State,
    said: &Announcement,
    certificate: Option<Fingerprint>,
    address: SocketAddr,
    claimed: Option<Fingerprint>,
) -> Outcome {
    let own = state.options.announcement.fingerprint.parse().ok();
    if certificate.is_some() && certificate == own && state.could_be_copy(said, address.ip()) {
        state.note_copy(address);
    }
    let outcome = {
        let mut registry = state.registry();
        let proved = registry.prove(said, certificate, address, state.now());
        let is_claimed = |device: &Device| claimed.is_none() || device.fingerprint == claimed;
        match proved {
            Ok(Some(device)) if is_claimed(&device) => Outcome::Answered(device),
            Ok(None) if claimed.is_none() || claimed == own => Outcome::Own,
            Ok(_) | Err(_) => {
                if let Some(claimed) = &claimed {
                    registry.deny(claimed, address);
                }
                Outcome::Mismatched
            }
        }
    };
    if outcome == Outcome::Mismatched {
        tracing::warn!(%address, "the certificate is not the one that was announced");
        state.tally().mismatched += 1;
    }
    state.changed();
    outcome
}
