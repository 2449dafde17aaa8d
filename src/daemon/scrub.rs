//! The scrub beside a running `serve`: slow, in the pauses between sessions, and gone at once when `serve` ends.

use crate::platform::clock::Clock;
use crate::platform::shutdown::Shutdown;
use crate::store::scrubber::{News, Scrubber, Step};
use crate::store::{self, Store};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A machine that has just started has other things to do.
pub const START_DELAY: Duration = Duration::from_mins(1);
/// How much is read in a second unless the settings say otherwise: a tenth of what a slow disk does, 600 GiB a day.
pub const DEFAULT_MIB: u64 = 8;
/// While sessions are under way, it is looked again after this.
const SESSION_PAUSE: Duration = Duration::from_secs(10);
/// With nothing to do, or after a failure, it is looked again after this: a clock may be set, and backups come.
const IDLE_PAUSE: Duration = Duration::from_mins(10);
/// News that wait to be shown; the log has them, too.
const QUEUED_NEWS: usize = 256;

/// A running scrub.
#[derive(Debug)]
pub struct Scrub {
    shutdown: Shutdown,
    task: JoinHandle<()>,
    news: Option<mpsc::Receiver<News>>,
}

/// How to scrub.
pub struct ScrubOptions {
    /// What.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Bytes a second; with 0 nothing is read, and only the brake is looked at.
    pub rate: u64,
    /// How long to wait before it begins.
    pub delay: Duration,
    /// Whether sessions are under way.
    pub busy: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for ScrubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ScrubOptions({:?}, {} bytes/s)", self.store, self.rate)
    }
}

impl Scrub {
    /// Begins.
    pub fn start(options: ScrubOptions) -> Self {
        let shutdown = Shutdown::new();
        let (sender, news) = mpsc::channel(QUEUED_NEWS);
        let stopping = shutdown.clone();
        let task = tokio::spawn(async move {
            let scrubbing = run(options, sender, stopping.clone());
            scrubbing.await;
        });
        Self { shutdown, task, news: Some(news) }
    }

    /// What it finds, once.
    pub fn take_news(&mut self) -> Option<mpsc::Receiver<News>> {
        self.news.take()
    }

    /// Ends it and waits for that: a block's reading at the most.
    pub async fn stop(self) {
        self.shutdown.stop();
        // A panic of it is in the log.
        let _ = self.task.await;
    }
}

/// How long to wait after a step: as long as its bytes take at this rate, or until there is something to do.
fn pause(step: &Step, rate: u64, now: Timestamp) -> Duration {
    let reading = Duration::from_secs_f64(step.read as f64 / rate.max(1) as f64);
    match step.rest_until.map(|until| Duration::try_from(until.duration_since(now))) {
        Some(rest) => rest.unwrap_or_default().min(IDLE_PAUSE),
        None => reading,
    }
}

async fn run(options: ScrubOptions, news: mpsc::Sender<News>, shutdown: Shutdown) {
    let scrubber = Arc::new(Mutex::new(Scrubber::new(options.store.clone())));
    let mut wait = options.delay;
    let mut looked: Option<std::time::Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.stopped() => break,
        }
        if (options.busy)() {
            wait = SESSION_PAUSE;
            continue;
        }
        let (working, stopping, now) = (scrubber.clone(), shutdown.clone(), options.clock.now());
        let (reads, instant) = (options.rate > 0, options.clock.instant());
        let brake = looked.is_none_or(|at| instant.saturating_duration_since(at) >= IDLE_PAUSE);
        let step = tokio::task::spawn_blocking(move || {
            let mut scrubber = working.lock().unwrap_or_else(PoisonError::into_inner);
            if brake {
                let news = scrubber.look_at_brake(&stopping)?;
                // They go out with the step, or with the next one that does not fail.
                scrubber.keep(news);
            }
            if reads { scrubber.step(now, &stopping) } else { Ok(scrubber.rest()) }
        });
        looked = if brake { Some(instant) } else { looked };
        wait = match step.await {
            Ok(Ok(step)) => {
                let wait = pause(&step, options.rate, now);
                for one in step.news {
                    tell(&one);
                    // Nobody may be watching.
                    let _ = news.try_send(one);
                }
                wait
            }
            Ok(Err(store::Error::Stopped)) => break,
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the scrub cannot go on; it tries again later"
                );
                IDLE_PAUSE
            }
            Err(error) => {
                tracing::error!(%error, "the scrub ended");
                break;
            }
        };
    }
    let saving = tokio::task::spawn_blocking(move || scrubber.lock().unwrap_or_else(PoisonError::into_inner).save());
    if let Ok(Err(error)) = saving.await {
        tracing::warn!(error = &error as &dyn std::error::Error, "what the scrub has read is not written down");
    }
}

fn tell(news: &News) {
    match news {
        News::File { path, problem, fate } => tracing::error!(path, problem, ?fate, "the scrub found damage"),
        News::Damaged(hit) => tracing::error!(
            snapshot = %hit.snapshot, alias = %hit.alias, files = hit.files.len() as u64 + hit.more_files,
            "a snapshot has lost something"
        ),
        News::Frozen { alias, set, freeze } => {
            tracing::error!(%alias, %set, reason = %freeze, "nothing of this set is forgotten until a person has looked");
        }
        News::Healed { alias, mark } => tracing::info!(snapshot = %mark.snapshot, %alias, "a snapshot is whole again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_as_slow_as_the_rate_and_idling_is_not_endless() {
        let now = Timestamp::UNIX_EPOCH;
        let step = |read, rest_until| Step { read, news: Vec::new(), rest_until };
        assert_eq!(pause(&step(16 << 20, None), 8 << 20, now), Duration::from_secs(2));
        assert_eq!(pause(&step(0, None), 8 << 20, now), Duration::ZERO);
        let soon = now + jiff::SignedDuration::from_secs(5);
        assert_eq!(pause(&step(0, Some(soon)), 1, now), Duration::from_secs(5));
        assert_eq!(pause(&step(0, Some(Timestamp::MAX)), 1, now), IDLE_PAUSE);
    }
}
