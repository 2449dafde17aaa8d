//! Hears hello and answers it. Whatever arrives here may be forged: see `gate` for what is let through.

use crate::discovery::announcer::datagram;
use crate::discovery::asker::{Outcome, ask, conclude, ways_for};
use crate::discovery::gate::is_on_link;
use crate::discovery::links::Link;
use crate::discovery::state::{Sign, State};
use crate::model::{Device, Fingerprint};
use crate::protocol::Announcement;
use crate::protocol::announce::MAX_DATAGRAM_BYTES;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Pause after a socket failed, so that an interface that is going down does not keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
/// Failures in a row after which the socket is given up; it is opened anew when interfaces are looked at next.
const MAX_ERRORS: u32 = 5;

/// Hears datagrams on one link until it closes.
pub(crate) async fn listen(state: Arc<State>, link: Arc<Link>) {
    // One byte more than allowed tells what was cut off.
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES + 1];
    let mut errors = 0;
    loop {
        let received = tokio::select! {
            () = link.closed.cancelled() => return,
            received = link.socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, from)) => {
                errors = 0;
                hear(&state, &link, &buffer[..length], from);
            }
            Err(error) => {
                link.note_error(Some(format!("cannot hear: {error}")));
                errors += 1;
                if errors == MAX_ERRORS {
                    link.closed.cancel();
                    return;
                }
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Looks at one datagram.
pub(crate) fn hear(state: &Arc<State>, link: &Arc<Link>, bytes: &[u8], from: SocketAddr) {
    let own_machine = link.subnets.iter().any(|subnet| subnet.address == from.ip());
    if !state.gate().may_read(from.ip(), own_machine, state.now()) {
        state.tally().datagrams.too_many += 1;
        return;
    }
    let Some(said) = parse(bytes) else {
        state.tally().datagrams.malformed += 1;
        return;
    };
    let own_name = state.registry().is_own(&said);
    if own_name && said.instance() == state.options.announcement.instance() {
        link.count_echo();
        return;
    }
    if own_name {
        // A command beside a running `serve` says the same; a machine elsewhere that does is asked who it is.
        if state.could_be_copy(&said, from.ip()) && is_on_link(from.ip(), &link.subnets) && said.port != 0 {
            let mut address = from;
            address.set_port(said.port);
            answer(state, None, &said, address);
        }
        return;
    }
    link.count_heard();
    if !is_on_link(from.ip(), &link.subnets) {
        state.tally().datagrams.far += 1;
        return;
    }
    if let Ok(fingerprint) = said.fingerprint.parse() {
        state.note(&fingerprint, Sign::Heard);
    }
    // The address stays as heard, because an IPv6 one carries its interface.
    let mut address = from;
    address.set_port(said.port);
    if state.registry().claim(&said, address, state.now()) {
        state.changed();
    }
    if said.announce && state.options.answer {
        answer(state, Some(link), &said, address);
    }
}

/// What a datagram says; `None` when it is no announcement.
pub(crate) fn parse(bytes: &[u8]) -> Option<Announcement> {
    if bytes.len() > MAX_DATAGRAM_BYTES {
        return None;
    }
    let said: Announcement = serde_json::from_slice(bytes).ok()?;
    (said.port != 0 && !said.fingerprint.is_empty()).then_some(said)
}

/// The server was called by a device.
pub(crate) fn registered(state: &Arc<State>, said: &Announcement, from: SocketAddr, certificate: Option<Fingerprint>) {
    if said.port == 0 {
        return;
    }
    // A socket for both families shows IPv4 callers as mapped addresses.
    let mut address = from;
    address.set_ip(from.ip().to_canonical());
    address.set_port(said.port);
    if state.registry().is_own(said) && (certificate.is_none() || !state.could_be_copy(said, address.ip())) {
        return;
    }
    if certificate.is_some() {
        if let Outcome::Answered(Device { fingerprint: Some(fingerprint), .. }) =
            conclude(state, said, certificate, address, None)
        {
            state.note(&fingerprint, Sign::Called);
        }
        return;
    }
    if state.registry().claim(said, address, state.now()) {
        state.changed();
    }
    // Also a real connection must not make us call ports of whatever shares an address with it out there.
    let near = state.links().open().iter().any(|link| is_on_link(address.ip(), &link.subnets));
    if near && state.options.answer {
        answer(state, None, said, address);
    }
}

/// Calls back, or says it by datagram where that is not allowed now or does not work: who asks again within the 30 seconds
/// must still hear of us.
fn answer(state: &Arc<State>, link: Option<&Arc<Link>>, said: &Announcement, address: SocketAddr) {
    let now = state.now();
    let permit = Arc::clone(&state.connect_backs).try_acquire_owned().ok();
    let permit = permit.filter(|_| state.gate().may_call_back(address.ip(), now));
    let by_datagram = link.map(|link| (Arc::clone(link), datagram(&state.options.announcement, false)));
    let Some(permit) = permit else {
        if let Some((link, datagram)) = by_datagram {
            state.spawn(async move { link.answer(&datagram, now).await });
        }
        return;
    };
    state.tally().datagrams.called_back += 1;
    let claimed = said.fingerprint.parse().ok().filter(|_| said.protocol.eq_ignore_ascii_case("https"));
    let ways = ways_for(state, said);
    let task = {
        let state = Arc::clone(state);
        async move {
            let outcome = ask(&state, address, ways, claimed).await;
            drop(permit);
            if let (Outcome::Failed(_), Some((link, datagram))) = (outcome, by_datagram) {
                link.answer(&datagram, state.now()).await;
            }
        }
    };
    state.spawn(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_datagrams_are_not_announcements() {
        let deep = "[".repeat(1400);
        for hostile in [
            "",
            "null",
            "{}",
            "[]",
            &deep,
            "{\"alias\":\"a\"}",
            "{\"alias\":\"a\",\"fingerprint\":\"F\",\"port\":0}",
            "{\"alias\":\"a\",\"fingerprint\":\"F\",\"port\":65536}",
            "{\"alias\":\"a\",\"fingerprint\":\"F\",\"port\":-1}",
            "{\"alias\":7,\"fingerprint\":\"F\",\"port\":1}",
            "{\"alias\":\"a\",\"fingerprint\":\"F\",\"port\":1}x",
            "{\"alias\":\"a\",\"alias\":\"b\",\"fingerprint\":\"F\"}",
        ] {
            assert_eq!(parse(hostile.as_bytes()), None, "{hostile}");
        }
        assert_eq!(parse(&[0xff; 100]), None);
        let padded = |length: usize| {
            let mut text = b"{\"alias\":\"a\",\"fingerprint\":\"F\",\"port\":1}".to_vec();
            text.resize(length, b' ');
            parse(&text)
        };
        assert!(padded(MAX_DATAGRAM_BYTES).is_some() && padded(MAX_DATAGRAM_BYTES + 1).is_none());
    }

    #[test]
    fn a_hostile_alias_is_cleaned_when_it_is_read() {
        let said =
            parse(b"{\"alias\":\"a\\u001b[31m\\u202e\\n\",\"fingerprint\":\"F\",\"port\":1,\"new\":[1]}").unwrap();
        assert_eq!(said.alias.as_str(), "a[31m");
    }
}
