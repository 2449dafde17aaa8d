//! Something of which there is only so much: places among the transfers, memory for blocks. One count for all, and a smaller one for
//! each device, so that no device takes everything.
//!
//! Who waits, waits for its device's share first and for the common one after, both in the order of asking: so a device that asks a
//! thousand times is in front of others with its share at the most.

use crate::model::Fingerprint;
use crate::server::api_error::ApiError;
use crate::server::limits::TRANSFER_WAIT;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A divisible thing, shared by devices.
#[derive(Debug)]
pub(crate) struct Shares {
    all: Arc<Semaphore>,
    /// The most that one device has.
    each: u32,
    devices: Mutex<HashMap<Fingerprint, Weak<Semaphore>>>,
}

/// Units that somebody has; free again when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Shares {
    /// So many units in all, and so many for one device.
    pub(crate) fn new(all: u32, each: u32) -> Self {
        Self { all: Arc::new(Semaphore::new(all as usize)), each: each.min(all), devices: Mutex::default() }
    }

    /// `count` units for a device, or its whole share when that is less. 503 when they are not free for long. Cancel-safe.
    pub(crate) async fn take(&self, device: Fingerprint, count: u32) -> Result<Share, ApiError> {
        let count = count.clamp(1, self.each);
        let own = self.of(device);
        let taking = async {
            let own = own.acquire_many_owned(count).await.ok()?;
            let all = self.all.clone().acquire_many_owned(count).await.ok()?;
            Some(Share { own, all })
        };
        let taken = tokio::time::timeout(TRANSFER_WAIT, taking).await.ok().flatten();
        taken.ok_or_else(|| ApiError::busy("too many transfers at once"))
    }

    /// The same for blocking code of a runtime.
    pub(crate) fn take_blocking(&self, device: Fingerprint, count: u32) -> Result<Share, ApiError> {
        Handle::current().block_on(self.take(device, count))
    }

    fn of(&self, device: Fingerprint) -> Arc<Semaphore> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = devices.get(&device).and_then(Weak::upgrade) {
            return own;
        }
        devices.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.each as usize));
        devices.insert(device, Arc::downgrade(&own));
        own
    }

    /// Units that are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self, of_all: u32) -> u32 {
        of_all - self.all.available_permits() as u32
    }
}

impl Share {
    /// Gives back all but `count` units.
    pub(crate) fn shrink(&mut self, count: u32) {
        for permit in [&mut self.own, &mut self.all] {
            let more = permit.num_permits().saturating_sub(count as usize);
            drop(permit.split(more));
        }
    }

    /// The bytes with their share: it is free when the last of them is dropped.
    pub(crate) fn held_by(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: self })
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const LAPTOP: Fingerprint = Fingerprint::from_bytes([1; 32]);
    const PHONE: Fingerprint = Fingerprint::from_bytes([2; 32]);

    /// Whether the units are there at once.
    fn at_once(shares: &Shares, device: Fingerprint, count: u32) -> Option<Share> {
        shares.take(device, count).now_or_never().map(Result::unwrap)
    }

    #[tokio::test]
    async fn one_device_takes_its_share_and_leaves_the_rest_to_others() {
        let shares = Shares::new(8, 4);
        let mut greedy: Vec<_> = (0..4).map(|_| at_once(&shares, LAPTOP, 1).unwrap()).collect();
        assert!(at_once(&shares, LAPTOP, 1).is_none());
        let other = at_once(&shares, PHONE, 4).unwrap();
        assert_eq!(shares.taken(8), 8);
        drop(greedy.pop());
        assert!(at_once(&shares, LAPTOP, 1).is_some());
        drop((greedy, other));
        assert_eq!(shares.taken(8), 0);
        assert!(at_once(&shares, LAPTOP, 1000).is_some(), "more than a share is a share, not a wait for ever");
    }

    #[tokio::test]
    async fn who_asks_a_thousand_times_is_not_in_front_of_others() {
        let shares = Shares::new(8, 4);
        let held = at_once(&shares, LAPTOP, 4).unwrap();
        let mut waiting: Vec<_> = (0..1000).map(|_| Box::pin(shares.take(LAPTOP, 4))).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        assert!(at_once(&shares, PHONE, 4).is_some());
        drop(held);
        assert!(waiting[0].as_mut().now_or_never().is_some(), "in the order of asking");
    }

    #[tokio::test]
    async fn what_turns_out_to_be_less_gives_the_rest_back() {
        let shares = Shares::new(8, 8);
        let mut share = shares.take(LAPTOP, 6).await.unwrap();
        share.shrink(2);
        assert_eq!(shares.taken(8), 2);
        share.shrink(5);
        assert_eq!(shares.taken(8), 2, "never grows");
    }
}
