//! Pairing with a located device, when that has not been done.

use crate::client::{self, Paired, PinSource};
use crate::daemon::locate::Located;
use crate::daemon::{Context, Error, Result};
use crate::identity::Expect;
use crate::identity::trust::Trust;
use crate::model::Rights;
use crate::protocol::pairing::{PAIRING_VERSION, PairRequest, Purpose};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Pairs and remembers. What the other device may do here does not change: it asked for nothing.
///
/// # Errors
/// Declined, wrong PIN, nobody there.
pub async fn pair(
    context: &Context,
    located: &Located,
    purpose: Option<Purpose>,
    pin: &mut dyn PinSource,
) -> Result<Located> {
    let request = PairRequest {
        v: PAIRING_VERSION,
        alias: context.alias.clone(),
        rights: Rights::of_a_paired_device(),
        purpose,
        wait: 0,
    };
    let (address, paired) = at_any_address(context, located, request, pin).await?;
    let before = context.trust.find(&paired.fingerprint);
    let trust = Trust {
        fingerprint: paired.fingerprint,
        signing_key: paired.signing_key,
        alias: paired.alias.clone(),
        rights: before.as_ref().map_or_else(Rights::none, |trust| trust.rights.clone()),
        paired_at: context.clock.now(),
        sets: before.as_ref().map_or_else(BTreeSet::new, |trust| trust.sets.clone()),
        restore_from: before.map_or_else(BTreeSet::new, |trust| trust.restore_from),
        address: Some(address),
    };
    context.trust.insert(trust.clone())?;
    Ok(Located { alias: paired.alias, trust: Some(trust), ..located.clone() })
}

/// Tries the addresses in order, and all of them once more: a device that is busy with others answers a little later.
async fn at_any_address(
    context: &Context,
    located: &Located,
    request: PairRequest,
    pin: &mut dyn PinSource,
) -> Result<(SocketAddr, Paired)> {
    let mut last = Error::UnknownDevice { name: located.alias.to_string(), tried: String::new() };
    for address in located.addresses.iter().chain(&located.addresses) {
        let expect = Expect::Known(located.fingerprint);
        match client::pair(&context.identity, *address, expect, request.clone(), pin).await {
            Ok(paired) => return Ok((*address, paired)),
            // Nothing was asked yet, so nobody is asked twice.
            Err(error @ client::Error::Offline(_)) => last = error.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last)
}
