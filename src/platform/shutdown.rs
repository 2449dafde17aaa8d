//! The one stop signal: long tasks carry it, whoever started a task awaits its end.

use std::sync::Arc;
use tokio::sync::watch;

/// Tells tasks to stop. Cheap to clone; all clones belong together.
#[derive(Clone, Debug)]
pub struct Shutdown {
    sender: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A signal that has not been given yet.
    pub fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(false)) }
    }

    /// Gives the signal; giving it again changes nothing.
    pub fn stop(&self) {
        self.sender.send_replace(true);
    }

    /// Whether it was given; for blocking code between two pieces of work.
    pub fn is_stopped(&self) -> bool {
        *self.sender.borrow()
    }

    /// Returns once the signal was given. Cancel-safe.
    pub async fn stopped(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_hears_it_before_and_after() {
        let shutdown = Shutdown::new();
        let early = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.stopped().await }
        });
        assert!(!shutdown.is_stopped());
        shutdown.clone().stop();
        early.await.unwrap();
        shutdown.stopped().await;
        assert!(shutdown.is_stopped());
    }
}
