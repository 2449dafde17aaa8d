//! Says hello: three datagrams on every interface, because multicast over radio is lost often and never sent again.

use crate::discovery::state::State;
use crate::protocol::Announcement;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pauses before the datagrams of a burst, as LocalSend has them: at +0.1, +0.6 and +2.6 seconds.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];
/// Longest wait for a datagram to go out on all interfaces.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(2);

/// Bursts asked for, and datagrams that went out.
#[derive(Debug, Default)]
pub(crate) struct Bursts {
    wanted: watch::Sender<u64>,
    sent: watch::Sender<u64>,
}

impl Bursts {
    pub(crate) fn request(&self) {
        self.wanted.send_modify(|count| *count += 1);
    }
}

/// Asks for a burst and waits for its first datagram.
pub(crate) async fn announce(state: &State) {
    let mut sent = state.bursts.sent.subscribe();
    state.bursts.request();
    tokio::select! {
        () = state.shutdown.stopped() => {}
        () = tokio::time::sleep(ANNOUNCE_LIMIT) => {}
        _ = sent.changed() => {}
    }
}

/// Sends the bursts that are asked for. A request during a burst starts it over, but only after a datagram went out, so
/// asking very often still announces.
pub(crate) async fn run(state: Arc<State>) {
    let mut wanted = state.bursts.wanted.subscribe();
    wanted.mark_changed();
    loop {
        if wanted.changed().await.is_err() {
            return;
        }
        'burst: loop {
            for (number, pause) in PAUSES.into_iter().enumerate() {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    changed = wanted.changed(), if number > 0 => match changed {
                        Ok(()) => continue 'burst,
                        Err(_) => return,
                    },
                }
                if number == 0 {
                    wanted.mark_unchanged();
                }
                send(&state).await;
            }
            break;
        }
    }
}

async fn send(state: &State) {
    let datagram = datagram(&state.options.announcement, true);
    let links = state.links().open();
    futures_util::future::join_all(links.iter().map(|link| link.send(&datagram))).await;
    state.bursts.sent.send_modify(|count| *count += 1);
}

/// The bytes of an announcement; `asks` for an answer, or is one.
pub(crate) fn datagram(announcement: &Announcement, asks: bool) -> Vec<u8> {
    let said = Announcement { announce: asks, ..announcement.clone() };
    serde_json::to_vec(&said).expect("an announcement has only text, numbers and lists")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Alias, Fingerprint};
    use crate::protocol::announce::MAX_DATAGRAM_BYTES;

    #[test]
    fn the_longest_announcement_fits_a_datagram_and_localsend_reads_it() {
        for alias in ["\u{1f389}".repeat(64), "\"\\".repeat(32)] {
            let own =
                Announcement::of_this_device(Alias::new(&alias), Fingerprint::from_bytes([0xff; 32]), 53317, true);
            let bytes = datagram(&own, true);
            assert!(bytes.len() <= MAX_DATAGRAM_BYTES, "{}", bytes.len());
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            for field in
                ["alias", "version", "deviceModel", "deviceType", "fingerprint", "port", "protocol", "announce"]
            {
                assert!(!value[field].is_null(), "{field}");
            }
            assert_eq!(value["announce"], true);
        }
    }
}
