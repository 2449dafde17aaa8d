//! What the server tells whoever started it: bounded, and never waited for.
//!
//! When the listener is slow, progress is dropped first, long before the channel is full; what happens once (a PIN to show, a
//! commit) is dropped only when there is no place at all, and then the log says so.

use crate::model::{Alias, Fingerprint, Pin, Rights, SetName, ShortCode, SnapshotId};
use crate::protocol::{Announcement, ErrorCode};
use crate::server::sessions::SessionSummary;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// A PIN that a person must read now, and for whom. `Debug` hides the PIN.
#[derive(Clone, Debug)]
pub struct PinShown {
    /// The digits.
    pub pin: Pin,
    /// The short code that both screens show.
    pub code: ShortCode,
    /// What the asking device calls itself.
    pub alias: Alias,
    /// Its certificate.
    pub fingerprint: Fingerprint,
    /// Seconds that the window stays open.
    pub expires_in: u32,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum ServerEvent {
    /// A device said who it is, over `register`.
    Heard {
        /// What it said.
        announcement: Announcement,
        /// Where the connection came from; its own port stands in the announcement.
        from: SocketAddr,
        /// Who called, as the handshake proved it; `None` when it came without a certificate.
        certificate: Option<Fingerprint>,
    },
    /// Show this PIN.
    PinShown(PinShown),
    /// Put the PIN away.
    PinGone {
        /// Whose window it was.
        fingerprint: Fingerprint,
        /// It was used; otherwise it expired, was guessed at too often, or had to make room.
        paired: bool,
    },
    /// A device proved the PIN and is trusted from now on.
    Paired {
        /// Which device.
        fingerprint: Fingerprint,
        /// What it calls itself.
        alias: Alias,
        /// What it may do here.
        rights: Rights,
    },
    /// A device is trusted no longer.
    Unpaired {
        /// Which device.
        fingerprint: Fingerprint,
    },
    /// A paired device has a new certificate, signed with its old key.
    Rotated {
        /// Who it was.
        was: Fingerprint,
        /// Who it is.
        fingerprint: Fingerprint,
        /// What it calls itself.
        alias: Alias,
    },
    /// A device that is not paired carries the name of a paired one.
    Impostor {
        /// The name.
        alias: Alias,
        /// Who has it, as the handshake proved.
        fingerprint: Fingerprint,
        /// The paired device of that name.
        paired: Fingerprint,
        /// Where it called from.
        from: SocketAddr,
    },
    /// A session may be used.
    SessionOpened(SessionSummary),
    /// Bytes of a session arrived or left.
    Moved {
        /// [`SessionSummary::number`].
        number: u64,
        /// How many just now.
        bytes: u64,
    },
    /// A snapshot exists.
    Committed {
        /// The session that brought it.
        session: SessionSummary,
        /// The set.
        set: SetName,
        /// Which snapshot.
        snapshot: SnapshotId,
    },
    /// A LocalSend app sent a text and no file.
    Message {
        /// What it calls itself.
        alias: Alias,
        /// Its certificate, or what stands for it.
        fingerprint: Fingerprint,
        /// The text, cleaned and cut.
        text: String,
    },
    /// Files of a LocalSend app lie in the inbox folder.
    Saved {
        /// The session that brought them.
        session: SessionSummary,
        /// Where.
        folder: PathBuf,
        /// New files.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Were there already.
        known: u64,
        /// Got another name, because theirs was taken by another file.
        renamed: u64,
    },
    /// Files of a LocalSend app came whole and could not be made durable; the app was told, and the log says why.
    NotKept {
        /// The session that brought them.
        session: SessionSummary,
    },
    /// A LocalSend app was refused a file, or all that it offered, and not by a person; it was told.
    NotTaken {
        /// What it calls itself.
        alias: Alias,
        /// Its certificate, or what stands for it.
        fingerprint: Fingerprint,
        /// Which file, when it is about one; others of its session that fail in the same way are not told.
        file: Option<String>,
        /// The kind of trouble.
        code: ErrorCode,
        /// The sentence that the app got.
        reason: String,
    },
    /// A LocalSend app offered only what is here.
    NothingNew {
        /// The session, which ends at once.
        session: SessionSummary,
        /// How many files.
        files: u64,
    },
    /// Somebody cancelled a session that is none of this server's: perhaps the receiver of what this device sends.
    CancelHeard {
        /// The session's name, as that device knows it.
        session: String,
        /// Where the call came from.
        from: SocketAddr,
        /// Who called, as the handshake proved it.
        certificate: Option<Fingerprint>,
    },
    /// A session is over: finished, cancelled, declined, expired or unpaired.
    SessionEnded(SessionSummary),
}

/// Sends events.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<ServerEvent>,
}

impl Events {
    /// Sends to whoever started the server.
    pub(crate) fn new(sender: mpsc::Sender<ServerEvent>) -> Self {
        Self { sender }
    }

    /// Sends what happens once.
    pub(crate) fn send(&self, event: ServerEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.sender.try_send(event) {
            tracing::warn!(?event, "nobody takes the server's events, one was dropped");
        }
    }

    /// Sends what is out of date in a moment anyway, while there is room to spare.
    pub(crate) fn progress(&self, event: ServerEvent) {
        if self.sender.capacity() > self.sender.max_capacity() / 2 {
            let _ = self.sender.try_send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_dropped_while_there_is_still_room_for_what_happens_once() {
        let (sender, mut receiver) = mpsc::channel(8);
        let events = Events::new(sender);
        for _ in 0..100 {
            events.progress(ServerEvent::Moved { number: 1, bytes: 1 });
        }
        let fingerprint = Fingerprint::from_bytes([1; 32]);
        events.send(ServerEvent::Unpaired { fingerprint });
        let mut moved = 0;
        while let Ok(event) = receiver.try_recv() {
            match event {
                ServerEvent::Moved { .. } => moved += 1,
                other => assert!(matches!(other, ServerEvent::Unpaired { .. })),
            }
        }
        assert_eq!(moved, 4);
    }

    #[test]
    fn a_pin_is_never_formatted() {
        let shown = PinShown {
            pin: "123456".parse().unwrap(),
            code: Fingerprint::from_bytes([1; 32]).short_code(),
            alias: Alias::new("laptop"),
            fingerprint: Fingerprint::from_bytes([1; 32]),
            expires_in: 300,
        };
        assert!(!format!("{:?}", ServerEvent::PinShown(shown)).contains("123456"));
    }
}
