//! The stream under one connection: dies when told to, and does not wait for those who dawdle.
//!
//! hyper's own limit for request heads also counts the quiet time between two requests, and a person who types a PIN needs
//! minutes of that. So the stream knows what it waits for: a new request (long), the rest of a head (short), or a peer that
//! does not take its answer. How fast a request's body comes is for [`body`](crate::server::body) to watch, because only it
//! knows whether anybody is waiting for it.

use crate::server::limits::{Debt, Pace};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What the requests of a connection tell its stream.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    requests: AtomicUsize,
    begun: AtomicUsize,
    person: AtomicBool,
}

impl Activity {
    /// A request is under way until the value is dropped.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// Whether no request is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Acquire) == 0
    }

    /// From now on a person may be typing between two requests.
    pub(crate) fn expect_a_person(&self) {
        self.person.store(true, Ordering::Release);
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Request,
    Head,
    Nothing,
}

/// A stream with time limits and an end.
pub(crate) struct Guarded<S> {
    stream: S,
    pace: Pace,
    killed: Pin<Box<WaitForCancellationFutureOwned>>,
    activity: Arc<Activity>,
    waiting: Waiting,
    begun: usize,
    read_limit: Pin<Box<Sleep>>,
    writes: Writes,
}

/// How long the peer has kept us waiting for taking its answers.
struct Writes {
    limit: Pin<Box<Sleep>>,
    since: Option<Instant>,
    debt: Debt,
}

impl<S> Guarded<S> {
    /// Guards `stream`.
    pub(crate) fn new(stream: S, pace: Pace, kill: CancellationToken, activity: Arc<Activity>) -> Self {
        let later = || Box::pin(tokio::time::sleep(pace.idle));
        let writes = Writes { limit: later(), since: None, debt: Debt::default() };
        let killed = Box::pin(kill.cancelled_owned());
        Self { stream, pace, killed, activity, waiting: Waiting::Nothing, begun: 0, read_limit: later(), writes }
    }

    fn check_killed(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.killed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn wait_for(&mut self, what: Waiting) {
        if self.waiting != what {
            self.waiting = what;
            let limit = match what {
                Waiting::Head => self.pace.head,
                Waiting::Request if self.activity.person.load(Ordering::Acquire) => self.pace.idle_while_pairing,
                Waiting::Request | Waiting::Nothing => self.pace.idle,
            };
            self.read_limit.as_mut().reset(Instant::now() + limit);
        }
    }

    /// After a write that could not go on: has the peer kept us waiting too long?
    fn check_write<T>(
        &mut self,
        context: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
        bytes: u64,
    ) -> Poll<io::Result<T>> {
        let writes = &mut self.writes;
        if moved.is_ready() {
            if let Some(since) = writes.since.take() {
                writes.debt.waited(since.elapsed());
            }
            writes.debt.moved(bytes, &self.pace);
            return moved;
        }
        let since = *writes.since.get_or_insert_with(|| {
            let now = Instant::now();
            writes.limit.as_mut().reset(now + writes.debt.left(self.pace.grace_of_answers));
            now
        });
        if writes.limit.as_mut().poll(context).is_ready() {
            tracing::debug!(waited = ?since.elapsed(), "a peer does not take its answer");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_killed(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let begun = this.activity.begun.load(Ordering::Acquire);
        if this.begun != begun {
            // A request came meanwhile: what we waited for before is over.
            this.begun = begun;
            this.waiting = Waiting::Nothing;
        }
        if this.activity.requests.load(Ordering::Acquire) > 0 {
            return read;
        }
        if read.is_ready() {
            if buffer.filled().len() > before {
                this.wait_for(Waiting::Head);
            }
            return read;
        }
        if this.waiting == Waiting::Nothing {
            this.wait_for(Waiting::Request);
        }
        if this.read_limit.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_killed(context)?;
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        let count = if let Poll::Ready(Ok(count)) = &written { *count as u64 } else { 0 };
        this.check_write(context, written, count)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_killed(context)?;
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, buffers);
        let count = if let Poll::Ready(Ok(count)) = &written { *count as u64 } else { 0 };
        this.check_write(context, written, count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_killed(context)?;
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.check_write(context, flushed, 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_killed(context)?;
        let closed = Pin::new(&mut this.stream).poll_shutdown(context);
        this.check_write(context, closed, 0)
    }
}

impl<S> fmt::Debug for Guarded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({:?})", self.waiting)
    }
}
