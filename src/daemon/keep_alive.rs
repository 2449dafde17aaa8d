//! Keeps a session from expiring while this device works on something else for long: comparing a hundred gigabytes that are there
//! already, or reading a file of nothing but zeros.

use crate::client::Client;
use crate::model::SessionId;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Several times within the ten minutes after which the other side gives an idle session up.
const INTERVAL: Duration = Duration::from_mins(2);

/// Speaks up now and then, until it is dropped.
#[derive(Debug)]
pub struct KeepAlive {
    _task: AbortOnDropHandle<()>,
}

impl KeepAlive {
    /// Begins. Must be called in a runtime.
    pub fn start(client: &Client, session: SessionId) -> Self {
        let client = client.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                // Whether the session is gone shows in the next call that matters.
                if let Err(error) = client.wait(session, || {}).await {
                    tracing::debug!(%error, "the session does not answer");
                }
            }
        });
        Self { _task: AbortOnDropHandle::new(task) }
    }
}
