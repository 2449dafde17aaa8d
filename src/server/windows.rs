//! Moves the pairing machine: asks the person, opens windows, shows and removes PINs.
//!
//! The rules are in [`pairing`](crate::server::pairing); here are only their effects. [`advance`] is called after every change
//! and by the sweeper once a second, and does whatever is due.

use crate::model::{Pin, ShortCode};
use crate::platform::random;
use crate::server::Error;
use crate::server::approval::{Decision, Question};
use crate::server::events::{PinShown, ServerEvent};
use crate::server::impostors::namesake;
use crate::server::limits::DECISION_LIMIT;
use crate::server::pairing::{Asker, Closed, Next, OpenedBy, WINDOW_LIFE};
use crate::server::state::Shared;
use std::sync::Arc;
use std::time::Duration;

/// After a failure to count a window on disk, nothing opens by itself for this long.
const COUNT_FAILED: Duration = Duration::from_mins(1);

/// Does whatever is due.
pub(crate) fn advance(shared: &Arc<Shared>) {
    let now = shared.clock.instant();
    let (closed, next) = {
        let mut pairing = shared.pairing();
        (pairing.expire(now), pairing.next(now))
    };
    if let Some(closed) = closed {
        gone(shared, &closed);
    }
    match next {
        Some(Next::Ask(asker)) => drop(tokio::spawn(ask(shared.clone(), asker))),
        Some(Next::OpenItself(asker)) => drop(tokio::spawn(open_itself(shared.clone(), asker))),
        None => {}
    }
    shared.wake();
}

/// Opens a window because a person says so.
pub(crate) fn open_by_person(shared: &Arc<Shared>, code: Option<&ShortCode>) -> Result<PinShown, Error> {
    let pin = fresh_pin();
    let opened = shared.pairing().open_by_person(code, pin.clone(), shared.clock.instant());
    let (asker, closed) = opened.ok_or(Error::NobodyAsks { code: code.copied() })?;
    if let Some(closed) = closed {
        gone(shared, &closed);
    }
    let shown = show(shared, &asker, pin);
    shared.wake();
    Ok(shown)
}

async fn ask(shared: Arc<Shared>, asker: Asker) {
    let fingerprint = asker.fingerprint;
    let answer = shared.ask(Question::Pair {
        alias: asker.alias.clone(),
        code: fingerprint.short_code(),
        fingerprint,
        address: asker.address,
        rights: asker.rights.clone(),
        purpose: asker.purpose.clone(),
        namesake: namesake(&shared.trust, &asker.alias, fingerprint).map(|paired| paired.short_code()),
    });
    let withdrawn = shared.wait_for(DECISION_LIMIT, || (!shared.pairing().is_asked_about(fingerprint)).then_some(()));
    let decision = tokio::select! {
        decision = answer => decision.unwrap_or(Decision::Decline),
        withdrawn = withdrawn => {
            if withdrawn.is_some() {
                return advance(&shared);
            }
            Decision::Decline
        }
    };
    let pin = fresh_pin();
    if shared.pairing().answered(fingerprint, decision, pin.clone(), shared.clock.instant()) {
        show(&shared, &asker, pin);
    }
    advance(&shared);
}

async fn open_itself(shared: Arc<Shared>, asker: Asker) {
    let taken = tokio::task::spawn_blocking({
        let shared = shared.clone();
        move || shared.allowance.take(shared.clock.now())
    });
    let now = shared.clock.instant();
    match taken.await {
        Ok(Ok(Ok(()))) => {
            let pin = fresh_pin();
            if shared.pairing().open(asker.fingerprint, OpenedBy::Itself, pin.clone(), now) {
                show(&shared, &asker, pin);
            }
        }
        Ok(Ok(Err(wait))) => {
            tracing::warn!("no more pairing windows open by themselves today");
            shared.pairing().exhausted(now + Duration::try_from(wait).unwrap_or(COUNT_FAILED));
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "pairing windows cannot be counted");
            shared.pairing().exhausted(now + COUNT_FAILED);
        }
        Err(error) => {
            tracing::error!(%error, "pairing windows cannot be counted");
            shared.pairing().exhausted(now + COUNT_FAILED);
        }
    }
    advance(&shared);
}

fn show(shared: &Shared, asker: &Asker, pin: Pin) -> PinShown {
    let shown = PinShown {
        pin,
        code: asker.fingerprint.short_code(),
        alias: asker.alias.clone(),
        fingerprint: asker.fingerprint,
        expires_in: WINDOW_LIFE.as_secs() as u32,
    };
    tracing::info!(device = %shown.code, "pairing window open");
    shared.events.send(ServerEvent::PinShown(shown.clone()));
    shown
}

/// Tells that a PIN is worthless now.
pub(crate) fn gone(shared: &Shared, closed: &Closed) {
    let Closed { asker, paired } = closed;
    tracing::info!(device = %asker.fingerprint.short_code(), paired, "pairing window closed");
    shared.events.send(ServerEvent::PinGone { fingerprint: asker.fingerprint, paired: *paired });
}

fn fresh_pin() -> Pin {
    Pin::from_uniform(random::number)
}
