//! `share`: a listener of its own, plain http, for browsers and LocalSend apps, while one command runs.
//!
//! Rules that hold everywhere below:
//! - it gives what a person chose to share, and nothing else: no path leaves the top, no link is followed ([`tree`]);
//! - a PIN opens it ([`door`]), its guesses are counted, and what it gives is good for one address and one run;
//! - it takes nothing: no route writes anything, and bodies are a few hundred bytes;
//! - it has nothing to do with the device's own port: no certificate, no right, no repository can be reached from here;
//! - the limits of connections, heads and pace are those of the other doors;
//! - names are cleaned and escaped, nothing that is given is shown by the browser as a page, and pages have no scripts;
//! - what breaks off never looks whole ([`pipe`]).
//!
//! | file | what |
//! |---|---|
//! | [`tree`] | what is shared: the seam |
//! | [`folder`] [`snapshot`] | a plain folder; a snapshot, here or on another device |
//! | [`door`] | PIN, tokens, the host that was asked for |
//! | [`visit`] | from a request to an answer |
//! | [`give`] [`range`] [`pipe`] | files and zips |
//! | [`page`] | HTML |
//! | [`api`] | LocalSend's download calls |

pub(crate) mod api;
pub(crate) mod door;
pub mod folder;
pub(crate) mod give;
pub(crate) mod page;
pub mod pipe;
pub(crate) mod range;
pub mod snapshot;
pub mod tree;
pub(crate) mod visit;

#[cfg(test)]
mod tests;

use crate::model::Alias;
use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use crate::server::connection::{Acceptor, Speech};
use crate::server::connections::Connections;
use crate::server::limits::{MAX_HEAD_BYTES, Pace, SHARE_LISTS, SHARE_TRANSFERS, SHARE_ZIPS};
use crate::server::localsend::pin::LocalSendPin;
use crate::server::share::door::Door;
use crate::server::share::range::Parts;
use crate::server::share::tree::Tree;
use crate::server::{Error, Result};
use axum::Router;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// News that wait for the person who shares; beyond, they are dropped.
const EVENTS: usize = 64;

/// Files that visitors have a part of, remembered: more than anybody fetches at once.
const MAX_PARTS: usize = 1024;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShareEvent {
    /// Somebody knew the PIN.
    Entered {
        /// From where.
        address: IpAddr,
    },
    /// Somebody did not.
    WrongPin {
        /// From where.
        address: IpAddr,
    },
    /// A file or a zip was given to its end.
    Given {
        /// To whom.
        address: IpAddr,
        /// What, as it is; `None` for a zip of everything.
        path: Option<Vec<u8>>,
        /// Bytes.
        bytes: u64,
    },
    /// Something could not be given, or not to its end.
    Fault(Fault),
}

/// What the caller chooses.
#[derive(Debug)]
pub struct ShareOptions {
    /// What is shared.
    pub tree: Arc<dyn Tree>,
    /// What this device calls itself.
    pub alias: Alias,
    /// What opens it; without one, everybody who knows the address is in.
    pub pin: Option<LocalSendPin>,
    /// It ends by itself after so many whole downloads.
    pub downloads: Option<u64>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// What all visits share.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) alias: Alias,
    pub(crate) door: Door,
    pub(crate) pace: Pace,
    pub(crate) clock: Arc<dyn Clock>,
    /// Files and zips under way at once.
    pub(crate) transfers: Arc<Semaphore>,
    /// Pages being made at once.
    pub(crate) pages: Arc<Semaphore>,
    /// Lists being made or on their way at once: who takes his time with one keeps nobody from the pages.
    pub(crate) lists: Arc<Semaphore>,
    /// Zips being made at once.
    pub(crate) zips: Arc<Semaphore>,
    /// No new download; those under way go on.
    pub(crate) closing: Shutdown,
    /// Everything ends.
    pub(crate) ended: Shutdown,
    news: News,
    downloads: Option<u64>,
    given: AtomicU64,
    // What of files was given in parts, by visitor and file; the newest last.
    parts: Mutex<VecDeque<((IpAddr, blake3::Hash), Parts)>>,
}

impl Share {
    /// Tells the person who shares.
    pub(crate) fn tell(&self, event: ShareEvent) {
        self.news.tell(event);
    }

    /// Makes a page or a list with one of the few `places` for that, which goes along with it: it is free again when that is made and
    /// dropped, and not before, whoever hangs up meanwhile. `None` when none is free for long.
    pub(crate) async fn listed<T, F>(
        self: &Arc<Self>,
        places: &Arc<Semaphore>,
        make: impl FnOnce(Arc<Self>) -> F,
    ) -> Option<(T, OwnedSemaphorePermit)>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let place = tokio::time::timeout(self.pace.place, places.clone().acquire_owned()).await.ok()?.ok()?;
        let making = make(self.clone());
        tokio::spawn(async move { (making.await, place) }).await.ok()
    }

    /// This part of a file of this size was given. Parts count together, by visitor and file: once there is nothing between them, that is one
    /// download. The same bytes given twice are still half of a file. An empty file is none.
    pub(crate) fn given_of(&self, address: IpAddr, path: Vec<u8>, part: Range<u64>, size: u64) {
        if size == 0 {
            return self.tell(ShareEvent::Given { address, path: Some(path), bytes: 0 });
        }
        let is_whole = {
            let mut all = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (address.to_canonical(), blake3::hash(&path));
            let known = all.iter().position(|(of, _)| *of == key).and_then(|at| all.remove(at));
            let mut parts = known.map_or_else(Parts::default, |(_, parts)| parts);
            parts.add(part);
            let is_whole = parts.cover(size);
            if !is_whole {
                if all.len() >= MAX_PARTS {
                    all.pop_front();
                }
                all.push_back((key, parts));
            }
            is_whole
        };
        if is_whole {
            self.given(address, Some(path), size);
        }
    }

    /// A download was given to its end.
    pub(crate) fn given(&self, address: IpAddr, path: Option<Vec<u8>>, bytes: u64) {
        self.tell(ShareEvent::Given { address, path, bytes });
        let given = self.given.fetch_add(1, Ordering::AcqRel) + 1;
        if self.downloads.is_some_and(|most| given >= most) {
            self.closing.stop();
        }
    }
}

/// Where news go. As a monitor it passes on faults and nothing else.
#[derive(Clone, Debug)]
pub struct News(mpsc::Sender<ShareEvent>);

impl News {
    /// The two ends.
    pub fn channel() -> (Self, mpsc::Receiver<ShareEvent>) {
        let (sender, receiver) = mpsc::channel(EVENTS);
        (Self(sender), receiver)
    }

    fn tell(&self, event: ShareEvent) {
        // Nobody waits for a terminal.
        let _ = self.0.try_send(event);
    }
}

impl Monitor for News {
    fn phase(&self, _: Phase) {}
    fn total(&self, _: Counter, _: u64) {}
    fn count(&self, _: Counter, _: u64) {}
    fn fault(&self, fault: Fault) {
        self.tell(ShareEvent::Fault(fault));
    }
    fn notice(&self, _: String) {}
}

/// A running share.
#[derive(Debug)]
pub struct ShareHandle {
    port: u16,
    share: Arc<Share>,
    over: Shutdown,
}

impl ShareHandle {
    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets nobody begin a download any more; those under way go on to their end.
    pub fn close(&self) {
        self.share.closing.stop();
    }

    /// Returns when nobody can be given anything any more and the port is free again.
    pub async fn over(&self) {
        self.over.stopped().await;
    }
}

/// Shares on `listener` (inside a runtime) until [`ShareHandle::close`] and the end of what is under way then, or until `shutdown`, which ends
/// everything at once.
///
/// # Errors
/// [`Error::Listen`] when the socket cannot be used.
pub fn start(listener: TcpListener, options: ShareOptions, news: News, shutdown: Shutdown) -> Result<ShareHandle> {
    start_at(listener, options, news, shutdown, Pace::STANDARD)
}

fn start_at(
    listener: TcpListener,
    options: ShareOptions,
    news: News,
    shutdown: Shutdown,
    pace: Pace,
) -> Result<ShareHandle> {
    listener.set_nonblocking(true).map_err(Error::Listen)?;
    let port = listener.local_addr().map_err(Error::Listen)?.port();
    let (closing, over) = (Shutdown::new(), Shutdown::new());
    let share = Arc::new(Share {
        tree: options.tree,
        alias: options.alias,
        door: Door::new(options.pin),
        pace,
        clock: options.clock,
        transfers: Arc::new(Semaphore::new(SHARE_TRANSFERS)),
        pages: Arc::new(Semaphore::new(SHARE_LISTS)),
        lists: Arc::new(Semaphore::new(SHARE_LISTS)),
        zips: Arc::new(Semaphore::new(SHARE_ZIPS)),
        closing: closing.clone(),
        ended: shutdown.clone(),
        news,
        downloads: options.downloads,
        given: AtomicU64::new(0),
        parts: Mutex::default(),
    });
    let connections = Connections::default();
    let acceptor = Acceptor::new(Speech::Plain, None, connections.clone(), pace);
    let http = axum_server::Handle::<SocketAddr>::new();
    let server = axum_server::from_tcp(listener).map_err(Error::Listen)?;
    let mut server = server.acceptor(acceptor).http1_only().handle(http.clone());
    server.http_builder().http1().header_read_timeout(None).max_buf_size(MAX_HEAD_BYTES);
    let visits = {
        let share = share.clone();
        Router::new().fallback(move |request| visit::answer(share.clone(), request))
    };
    let serving = tokio::spawn(server.serve(visits.into_make_service()));
    tokio::spawn({
        let over = over.clone();
        async move {
            tokio::select! {
                () = closing.stopped() => http.graceful_shutdown(None),
                () = shutdown.stopped() => {}
            }
            let mut serving = serving;
            tokio::select! {
                ended = &mut serving => drop(ended),
                () = shutdown.stopped() => {
                    http.shutdown();
                    connections.kill_all();
                    drop(serving.await);
                }
            }
            over.stop();
        }
    });
    tracing::info!(port, "sharing");
    Ok(ShareHandle { port, share, over })
}
