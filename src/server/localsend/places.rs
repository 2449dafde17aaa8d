//! Places for lists that are read from apps: few in all, and one for each address, so that one stranger who dawdles leaves the others to
//! the rest. Nobody who waits for memory holds a place, and a list too long for what is free lets the shorter ones past.

use crate::server::api_error::ApiError;
use crate::server::limits::{LOCALSEND_READING, TRANSFER_WAIT};
use crate::server::localsend::list;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often who waits for memory looks for it. A queue would let the longest list in it hold up all that come behind.
const LOOK: Duration = Duration::from_millis(50);

/// What reading lists may take.
#[derive(Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    of_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
    /// Memory of all lists, from their reading to the end of their sessions.
    memory: Arc<Semaphore>,
}

/// The right to read one list; to be dropped when it was read.
#[derive(Debug)]
pub(crate) struct Place {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Default for Places {
    fn default() -> Self {
        let all = Arc::new(Semaphore::new(LOCALSEND_READING));
        Self { all, of_address: Mutex::default(), memory: list::memory_of_lists() }
    }
}

impl Places {
    /// A place for a list of so many bytes of this caller, and its memory. 503 when there is none for long.
    pub(crate) async fn take(
        &self,
        address: IpAddr,
        announced: Option<u64>,
    ) -> Result<(Place, OwnedSemaphorePermit), ApiError> {
        let own = self.of_address(address.to_canonical());
        let taking = async {
            let own = own.acquire_owned().await.ok()?;
            let memory = self.memory(announced).await;
            let all = self.all.clone().acquire_owned().await.ok()?;
            Some((Place { _own: own, _all: all }, memory))
        };
        let taken = tokio::time::timeout(TRANSFER_WAIT, taking).await;
        taken.ok().flatten().ok_or_else(|| ApiError::busy("too many lists of files at once"))
    }

    async fn memory(&self, announced: Option<u64>) -> OwnedSemaphorePermit {
        loop {
            match self.memory.clone().try_acquire_many_owned(list::units_for(announced)) {
                Ok(memory) => return memory,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn of_address(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut known = self.of_address.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that somebody holds or waits for are in other hands, too.
        known.retain(|_, place| Arc::strong_count(place) > 1);
        known.entry(address).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn address(number: u8) -> IpAddr {
        [192, 168, 1, number].into()
    }

    #[tokio::test]
    async fn one_address_has_one_place_and_leaves_the_others_to_the_rest() {
        let places = Places::default();
        let (held, _) = places.take(address(1), Some(100)).await.unwrap();
        let mut second = Box::pin(places.take(address(1), Some(100)));
        assert!((&mut second).now_or_never().is_none());
        let mut others = Vec::new();
        for number in 2..=LOCALSEND_READING as u8 {
            others.push(places.take(address(number), Some(100)).await.unwrap());
        }
        assert!(places.take(address(9), Some(100)).now_or_never().is_none(), "all are taken");
        drop(held);
        drop(others);
        drop(second.await.unwrap());
        drop(places.take(address(1), None).await.unwrap());
        assert_eq!(places.of_address.lock().unwrap().len(), 1, "who is gone is forgotten");
    }

    #[tokio::test]
    async fn who_waits_for_much_memory_holds_up_nobody_who_needs_little() {
        let places = Places::default();
        let (read, largest) = places.take(address(1), None).await.unwrap();
        drop(read);
        let mut waiting = Vec::new();
        for number in 2..10 {
            let mut taking = Box::pin(places.take(address(number), None));
            assert!((&mut taking).now_or_never().is_none());
            waiting.push(taking);
        }
        let small = places.take(address(10), Some(2_000)).now_or_never();
        assert!(small.is_some_and(|taken| taken.is_ok()));
        drop(largest);
        drop(waiting.pop().unwrap().await.unwrap());
    }
}
