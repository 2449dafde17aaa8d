//! The numbers that only the server keeps, each with its reason. `protocol.md` repeats the ones a caller can notice.

use std::time::Duration;

/// Bytes of a request's head: ours are under 1 KiB.
pub(crate) const MAX_HEAD_BYTES: usize = 16 << 10;
/// Connections in all: what a small machine serves without noticing. When all places are taken, the oldest connection of an
/// unpaired device makes room, so a flood of strangers never locks out a paired one.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// Connections of one address that has not shown a paired certificate: a browser's worth.
pub(crate) const MAX_UNPAIRED_PER_ADDRESS: usize = 8;
/// Connections of one paired device: half of all, so that no device locks out the others.
pub(crate) const MAX_CONNECTIONS_PER_DEVICE: usize = MAX_CONNECTIONS / 2;
/// Bytes of a `register`, `pair`, `prepare-download` or `cancel` body.
pub(crate) const MAX_SMALL_BODY_BYTES: usize = crate::protocol::pairing::MAX_PAIRING_BYTES;
/// Bytes of a `prepare-copy` body: an owner log of hundreds of events.
pub(crate) const MAX_COPY_BODY_BYTES: usize = 256 << 10;
/// Compressed bytes of a `prepare-upload` body: five million lines of 100 bytes that do not compress.
pub(crate) const MAX_PREPARE_BODY_BYTES: u64 = 512 << 20;
/// Plain bytes of a `prepare-upload` body, so that a small body cannot keep a core busy for hours.
pub(crate) const MAX_PREPARE_PLAIN_BYTES: u64 = 4 << 30;
/// The largest window of the zstd stream of `prepare-upload`: 8 MiB of memory per call.
pub(crate) const MAX_PREPARE_WINDOW_LOG: u32 = 23;
/// Sessions of one device: one per set that it backs up at once, and some restores.
pub(crate) const MAX_SESSIONS_PER_DEVICE: usize = 64;
/// Sessions in all: bounds the table.
pub(crate) const MAX_SESSIONS: usize = 1024;
/// Calls of one session under way at once; a source keeps to [`PARALLEL_CALLS`], so this is only met by a wrong one.
pub(crate) const MAX_CALLS_PER_SESSION: usize = 16;
/// What sources are told to keep to: enough to hide a round trip, few enough that each finishes.
pub(crate) const PARALLEL_CALLS: usize = 4;
/// Calls of all sessions of one device under way at once: its transfers, and questions beside them.
pub(crate) const MAX_CALLS_PER_DEVICE: usize = 24;
/// Uploads, manifests and downloads under way at once: bounds threads, and what each of them keeps beside its blocks.
pub(crate) const MAX_TRANSFERS: u32 = 32;
/// Those of one device: half of all, so that no device locks out the others; a source of four sets at once has them all.
pub(crate) const MAX_TRANSFERS_PER_DEVICE: u32 = MAX_TRANSFERS / 2;
/// What blocks and lists under way take of memory is counted in units of this many bytes.
pub(crate) const MEMORY_UNIT: u64 = 64 << 10;
/// Memory of all blocks and lists under way: with what the rest of the receiver takes, below 256 MiB whatever callers do.
pub(crate) const TRANSFER_MEMORY: u64 = 80 << 20;
/// That of one device: half of all, for the same reason as with places.
pub(crate) const TRANSFER_MEMORY_PER_DEVICE: u64 = TRANSFER_MEMORY / 2;
/// What reading a list of files takes: a zstd window, a line, and the entry that is made of it.
pub(crate) const LIST_MEMORY: u64 = 12 << 20;
/// What making a block ready for a download takes: the block, its plain bytes, and what is cut from it.
pub(crate) const BLOCK_MEMORY: u64 = 9 << 20;
/// Bytes of all records of one repository: as a list, what a device reads of another one at the most (64 MiB).
pub(crate) const MAX_RECORDS_BYTES: u64 = 40 << 20;
/// A transfer that finds all places taken waits so long for one, and as long for memory: with the grace of a body that is less than
/// the 45 s within which dribblers are gone.
pub(crate) const TRANSFER_WAIT: Duration = Duration::from_secs(10);
/// Pieces of a body between the network and the blocking side: 512 KiB, so that neither has to be woken for each of them.
pub(crate) const BODY_CHANNEL: usize = 32;
/// The largest of them: what TLS gives out at once. What comes larger is passed on in such pieces.
pub(crate) const BODY_PIECE: usize = 16 << 10;
/// Pieces between the store and the network in a download: two blocks, each with its header before it.
pub(crate) const BLOCK_CHANNEL: usize = 4;
/// A session without a call is forgotten after this: what arrived stays in the store.
pub(crate) const SESSION_IDLE: Duration = Duration::from_mins(10);
/// A waiting session (or pairing request) whose caller has not asked again for this long is gone: three long polls.
pub(crate) const WAITING_IDLE: Duration = Duration::from_secs(95);
/// A person has this long to answer.
pub(crate) const DECISION_LIMIT: Duration = Duration::from_mins(10);
/// How long "accept once", said while pairing, waits for the backup it was said for.
pub(crate) const ONCE_LIMIT: Duration = Duration::from_mins(10);
/// How long a restore may go on that a person allowed *once*: a terabyte over a slow line, and no second week.
pub(crate) const RESTORE_ONCE_LIMIT: Duration = Duration::from_hours(24);
/// The longest a `wait` waits, in seconds: below the time after which routers forget a connection.
pub(crate) const MAX_WAIT_SECONDS: u8 = 30;
/// Replies of the pairing exchange are sent this long after the whole request came, whatever became of it.
pub(crate) const PAIRING_REPLY_DELAY: Duration = Duration::from_millis(300);
/// LocalSend sessions of one sender: an app has one, and one more while the last files of the other run.
pub(crate) const LOCALSEND_SESSIONS_PER_SENDER: usize = 4;
/// LocalSend sessions in all: a household's phones at once. Their names are counted ([`LOCALSEND_LISTS_MEMORY`]).
pub(crate) const LOCALSEND_SESSIONS: usize = 16;
/// Files of one LocalSend session under way at once: apps send two, some four.
pub(crate) const LOCALSEND_PARALLEL: usize = 8;
/// Files received from LocalSend apps at once: apart from the transfers of paired devices, so that they never wait for these.
pub(crate) const LOCALSEND_TRANSFERS: usize = 16;
/// Lists of files read from LocalSend apps at once, each on a thread of its own.
pub(crate) const LOCALSEND_READING: usize = 4;
/// Memory of the lists of LocalSend apps, from their reading to the end of their sessions: one of the largest and many ordinary ones.
pub(crate) const LOCALSEND_LISTS_MEMORY: u64 = 96 << 20;
/// Offers of LocalSend apps compared at once with what is here: each reads the whole list of a snapshot, and may hash files.
pub(crate) const LOCALSEND_LOOKING: usize = 2;
/// LocalSend senders that wait while another one's question is open; beyond, apps hear "busy".
pub(crate) const LOCALSEND_WAITING: usize = 8;
/// After a no, the same sender hears it again for this long without anybody being asked.
pub(crate) const LOCALSEND_DECLINED: Duration = Duration::from_mins(1);
/// Messages of LocalSend senders whom nobody knows that are shown in [`LOCALSEND_MESSAGES_PER`], of all together: a person reads on.
pub(crate) const LOCALSEND_MESSAGES: usize = 5;
/// See [`LOCALSEND_MESSAGES`].
pub(crate) const LOCALSEND_MESSAGES_PER: Duration = Duration::from_mins(1);
/// While a LocalSend session runs, what came is made a snapshot this often: what a crash can cost.
pub(crate) const LOCALSEND_CHECKPOINT: Duration = Duration::from_mins(5);
/// Files and zips that one share gives at once: a browser takes six. Each holds two batches of 4 MiB at most, a zip a restore's 97 MiB.
pub(crate) const SHARE_TRANSFERS: usize = 8;
/// Pages of a share made at once, and lists made and on their way, which have places of their own: a list holds up to 50,000 names.
pub(crate) const SHARE_LISTS: usize = 2;
/// Zips that one share makes at once: each keeps the name of every file in it to its end.
pub(crate) const SHARE_ZIPS: usize = 2;
/// How often expired sessions and windows are looked for.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// What live requests get to finish in when the server stops.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Units of [`MEMORY_UNIT`] that hold so many bytes.
pub(crate) fn memory_units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MEMORY_UNIT)).unwrap_or(u32::MAX)
}

/// Time limits of one connection; a value, so that tests need not wait as long as strangers may dawdle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The TLS handshake.
    pub(crate) handshake: Duration,
    /// From the first byte of a request's head to its last.
    pub(crate) head: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// Between two requests while a person reads and types a PIN.
    pub(crate) idle_while_pairing: Duration,
    /// Waiting for a body that is forgiven.
    pub(crate) grace: Duration,
    /// Waiting for a peer to take its answer that is forgiven: it may have to write to a slow disk what it took.
    pub(crate) grace_of_answers: Duration,
    /// Beyond the grace, a body's bytes come (or are taken) at least this fast while we wait for them.
    pub(crate) bytes_per_second: u64,
    /// A whole list of a LocalSend app: the longest at 140 KiB/s.
    pub(crate) list: Duration,
    /// For a place, when a share has none free.
    pub(crate) place: Duration,
    /// From the end of a request of the pairing exchange to its answer.
    pub(crate) pairing_reply: Duration,
}

impl Pace {
    /// What `protocol.md` says.
    pub(crate) const STANDARD: Self = Self {
        handshake: Duration::from_secs(5),
        head: Duration::from_secs(10),
        idle: Duration::from_mins(1),
        idle_while_pairing: Duration::from_secs(330),
        grace: Duration::from_secs(20),
        grace_of_answers: Duration::from_secs(30),
        bytes_per_second: 16 << 10,
        list: Duration::from_mins(2),
        place: TRANSFER_WAIT,
        pairing_reply: PAIRING_REPLY_DELAY,
    };
}

/// How long a peer has let us wait beyond what its bytes are worth. It never has credit: who is quick first and dawdles then is
/// a dribbler like any other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debt(Duration);

impl Debt {
    /// How long the peer may still let us wait, when `grace` is forgiven.
    pub(crate) fn left(self, grace: Duration) -> Duration {
        grace.saturating_sub(self.0)
    }

    /// It let us wait.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.0 = self.0.saturating_add(time);
    }

    /// It moved bytes.
    pub(crate) fn moved(&mut self, bytes: u64, pace: &Pace) {
        let worth = Duration::from_millis(bytes.saturating_mul(1000) / pace.bytes_per_second.max(1));
        self.0 = self.0.saturating_sub(worth);
    }
}
