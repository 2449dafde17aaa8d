//! When to try again, how long to wait, and how much to send at once on a bad line. Pure rules, and one loop that keeps them.

use crate::client::error::{Error, Result};
use crate::model::limits::MAX_UPLOAD_BYTES;
use crate::platform::random;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Tries of one call. With the delays below they span about eight seconds: a router that restarts its radio, a receiver
/// that restarts.
pub(crate) const MAX_TRIES: u32 = 5;
const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Each delay is this many times the one before.
const GROWTH: u32 = 3;

/// How long to wait after the `failed`-th failed try (from 1); `None` when it was the last. `random` spreads the delay over
/// 75 to 125 %, so that ten laptops do not come back in the same instant.
pub(crate) fn delay(failed: u32, random: u32) -> Option<Duration> {
    if failed >= MAX_TRIES {
        return None;
    }
    let plain = FIRST_DELAY.saturating_mul(GROWTH.saturating_pow(failed.saturating_sub(1))).min(MAX_DELAY);
    Some(plain.mul_f64(0.75 + f64::from(random) / f64::from(u32::MAX) / 2.0))
}

/// Tries again while the error is transient; the call must be one that does no harm twice.
pub(crate) async fn retry<T, F: Future<Output = Result<T>>>(attempt: impl FnMut() -> F) -> Result<T> {
    retry_after(|failed| delay(failed, random::number()), attempt).await
}

async fn retry_after<T, F: Future<Output = Result<T>>>(
    delay: impl Fn(u32) -> Option<Duration>,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let mut failed = 0;
    loop {
        let error = match attempt().await {
            Err(error) if error.is_transient() => error,
            result => return result,
        };
        failed += 1;
        wait(delay(failed), error).await?;
    }
}

/// Waits after the `failed`-th failed try, or gives its error back when it was the last.
pub(crate) async fn wait_after(failed: u32, error: Error) -> Result<()> {
    wait(delay(failed, random::number()), error).await
}

async fn wait(delay: Option<Duration>, error: Error) -> Result<()> {
    let Some(delay) = delay else { return Err(error) };
    tracing::debug!(%error, ?delay, "trying again");
    tokio::time::sleep(delay).await;
    Ok(())
}

/// Bytes of one upload on the worst line; about a second of a poor radio link.
const MIN_UPLOAD_BYTES: u64 = 1 << 20;
/// Uploads in a row that must succeed before they grow again. On a line that breaks once in 20 MiB, growing after 8 sent 13 %
/// of 240 MiB again.
const GROW_AFTER: u64 = 32;

/// How much to put into one upload: all that is allowed, until uploads break; then less, because what had arrived of a broken
/// upload is sent again.
#[derive(Debug)]
pub(crate) struct UploadSize {
    max: u64,
    current: AtomicU64,
    good: AtomicU64,
}

impl UploadSize {
    /// Begins with what the receiver allows.
    pub(crate) fn new(max: u64) -> Self {
        let max = max.min(MAX_UPLOAD_BYTES);
        Self { max, current: AtomicU64::new(max), good: AtomicU64::new(0) }
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    pub(crate) fn current(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// An upload broke: a quarter from now on.
    pub(crate) fn broke(&self) {
        self.good.store(0, Ordering::Relaxed);
        self.current.store((self.current() / 4).max(MIN_UPLOAD_BYTES).min(self.max), Ordering::Relaxed);
    }

    /// An upload arrived: twice as much after enough of them.
    pub(crate) fn arrived(&self) {
        if self.current() < self.max && self.good.fetch_add(1, Ordering::Relaxed) + 1 >= GROW_AFTER {
            self.good.store(0, Ordering::Relaxed);
            self.current.store((self.current() * 2).min(self.max), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;
    use http::StatusCode;

    #[test]
    fn delays_grow_from_a_fifth_of_a_second_to_five_and_end() {
        let all: Vec<_> = (1..MAX_TRIES).map(|failed| delay(failed, u32::MAX / 2).unwrap().as_millis()).collect();
        assert_eq!(all, [200, 600, 1800, 5000]);
        assert_eq!(delay(MAX_TRIES, 0), None);
        assert_eq!(delay(1, 0), Some(Duration::from_millis(150)));
        assert_eq!(delay(1, u32::MAX), Some(Duration::from_millis(250)));
    }

    fn at_once(failed: u32) -> Option<Duration> {
        delay(failed, 0).map(|_| Duration::ZERO)
    }

    #[tokio::test]
    async fn only_transient_errors_are_tried_again_and_only_so_often() {
        let mut tries = 0;
        let result: Result<()> = retry_after(at_once, || {
            tries += 1;
            async { Err(Error::TimedOut("answer")) }
        })
        .await;
        assert!(matches!(result, Err(Error::TimedOut(_))));
        assert_eq!(tries, MAX_TRIES);
        tries = 0;
        let result: Result<()> = retry_after(at_once, || {
            tries += 1;
            async { Err(Error::from_answer(StatusCode::FORBIDDEN, b"")) }
        })
        .await;
        assert_eq!(result.unwrap_err().answer(), Some(ErrorCode::NotAllowed));
        assert_eq!(tries, 1);
    }

    #[tokio::test]
    async fn a_call_that_works_the_third_time_works() {
        let mut tries = 0;
        let result = retry_after(at_once, || {
            tries += 1;
            let answer = if tries < 3 { Err(Error::TimedOut("answer")) } else { Ok(tries) };
            async { answer }
        })
        .await;
        assert_eq!(result.unwrap(), 3);
    }

    #[test]
    fn uploads_shrink_when_they_break_and_grow_when_they_arrive() {
        let size = UploadSize::new(u64::MAX);
        assert_eq!(size.current(), MAX_UPLOAD_BYTES);
        for expected in [4 << 20, 1 << 20, 1 << 20] {
            size.broke();
            assert_eq!(size.current(), expected);
        }
        for _ in 0..GROW_AFTER * 4 {
            size.arrived();
        }
        assert_eq!(size.current(), MAX_UPLOAD_BYTES);
        let small = UploadSize::new(1000);
        small.broke();
        assert_eq!(small.current(), 1000);
    }
}
