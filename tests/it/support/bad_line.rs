//! A line between two devices as radio makes it: far away, narrow, and with troubles. A proxy in front of a receiver.

use crate::support::dice::Dice;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// One way; a round trip is twice that.
const DELAY: Duration = Duration::from_millis(50);
/// On the way at once in each connection and direction: some 10 MB/s at this delay.
const IN_FLIGHT: usize = 512 << 10;
const PIECE: usize = 16 << 10;
/// Of a hundred MiB that pass, in how many something happens.
const TROUBLES_IN_A_HUNDRED: u64 = 5;
/// How long nothing moves when a line recovers by itself.
const STALL: Duration = Duration::from_secs(3);

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It is cut; what was on its way is lost.
    Reset,
    /// It goes on after a while.
    Stall,
    /// It never goes on, and says nothing.
    Silence,
}

/// The line.
pub(crate) struct BadLine {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    dice: Mutex<Dice>,
    passed: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    troubles: AtomicU64,
}

impl BadLine {
    /// A line to `target`. The same seed brings the same troubles, MiB by MiB.
    pub(crate) async fn to(target: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let zero = || AtomicU64::new(0);
        let dice = Mutex::new(Dice::new(seed));
        let shared = Arc::new(Shared { dice, passed: zero(), up: zero(), down: zero(), troubles: zero() });
        let lines = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let shared = Arc::clone(&lines);
                tokio::spawn(async move {
                    if let Ok(far) = TcpStream::connect(target).await {
                        shared.carry(near, far).await;
                    }
                });
            }
        });
        Self { address, shared, accepting }
    }

    /// Bytes that the caller has sent, those that were lost included.
    pub(crate) fn up(&self) -> u64 {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// Bytes that the receiver has sent.
    pub(crate) fn down(&self) -> u64 {
        self.shared.down.load(Ordering::Relaxed)
    }

    /// How often something happened.
    pub(crate) fn troubles(&self) -> u64 {
        self.shared.troubles.load(Ordering::Relaxed)
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// One connection, to its end or its accident.
    async fn carry(&self, near: TcpStream, far: TcpStream) {
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let cut = CancellationToken::new();
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        let both = async {
            tokio::join!(
                self.pump(near_read, far_write, &self.up, &cut),
                self.pump(far_read, near_write, &self.down, &cut)
            )
        };
        tokio::select! {
            _ = both => {}
            () = cut.cancelled() => {}
        }
    }

    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        count: &AtomicU64,
        cut: &CancellationToken,
    ) {
        let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(IN_FLIGHT / PIECE);
        let read = async move {
            loop {
                let mut piece = vec![0; PIECE];
                let Ok(length @ 1..) = from.read(&mut piece).await else { return };
                piece.truncate(length);
                count.fetch_add(length as u64, Ordering::Relaxed);
                match self.next_trouble(length as u64) {
                    None => {}
                    Some(Trouble::Reset) => return cut.cancel(),
                    Some(Trouble::Stall) => sleep(STALL).await,
                    Some(Trouble::Silence) => std::future::pending().await,
                }
                if sender.send((Instant::now() + DELAY, piece)).await.is_err() {
                    return;
                }
            }
        };
        let write = async {
            while let Some((due, piece)) = receiver.recv().await {
                sleep_until(due).await;
                if to.write_all(&piece).await.is_err() {
                    return cut.cancel();
                }
            }
            let _ = to.shutdown().await;
        };
        tokio::join!(read, write);
    }

    /// Rolls the dice for each MiB that begins.
    fn next_trouble(&self, length: u64) -> Option<Trouble> {
        let before = self.passed.fetch_add(length, Ordering::Relaxed);
        if before >> 20 == (before + length) >> 20 {
            return None;
        }
        let mut dice = self.dice.lock().unwrap();
        let happens = dice.below(100) < TROUBLES_IN_A_HUNDRED;
        let which = [Trouble::Reset, Trouble::Reset, Trouble::Stall, Trouble::Silence][dice.below(4) as usize];
        if happens {
            self.troubles.fetch_add(1, Ordering::Relaxed);
        }
        happens.then_some(which)
    }
}
