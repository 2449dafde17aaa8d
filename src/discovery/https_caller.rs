//! Calls devices that nobody knows yet: any self-signed certificate will do, because the point is to learn whose it is.
//!
//! Plain HTTP, which a few old LocalSend apps speak, is not called: such a device cannot be told from anybody else.

use crate::client::{self, Client, Patience};
use crate::discovery::{Answer, CallFailure, Caller, Route, Scheme, Stage};
use crate::identity::{Expect, Identity};
use crate::protocol::{Announcement, paths};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

/// For each step of a call; discovery gives up on the whole of it sooner.
const STEP_LIMIT: Duration = Duration::from_secs(3);

/// The [`Caller`] of the running program.
#[derive(Clone, Debug)]
pub struct HttpsCaller {
    identity: Identity,
}

impl HttpsCaller {
    /// Calls with this device's certificate.
    pub fn new(identity: Identity) -> Self {
        Self { identity }
    }
}

impl Caller for HttpsCaller {
    fn register(
        &self,
        address: SocketAddr,
        scheme: Scheme,
        route: Route,
        body: Announcement,
    ) -> BoxFuture<'static, Result<Answer, CallFailure>> {
        let identity = self.identity.clone();
        async move {
            let path = match (scheme, route) {
                (Scheme::Http, _) => {
                    let sentence =
                        format!("it speaks no HTTPS; `lan-backup send http://{address} PATH` sends to it in the clear");
                    return Err(CallFailure { stage: Stage::Connecting, sentence });
                }
                (Scheme::Https, Route::Native) => paths::REGISTER,
                (Scheme::Https, Route::LocalSend) => paths::LOCALSEND_REGISTER,
            };
            let patience = Patience {
                connect: STEP_LIMIT,
                send: STEP_LIMIT,
                answer: STEP_LIMIT,
                piece: STEP_LIMIT,
                whole: STEP_LIMIT,
                ..Patience::default()
            };
            let client = Client::with_patience(&identity, vec![address], Expect::FirstUse, patience);
            let client = client.map_err(|error| failure(&error))?;
            let (announcement, certificate) = client.register_at(path, &body).await.map_err(|error| failure(&error))?;
            Ok(Answer { announcement, certificate })
        }
        .boxed()
    }
}

fn failure(error: &client::Error) -> CallFailure {
    let stage = match error {
        client::Error::Answer { .. } | client::Error::NotUnderstood(_) => Stage::Answered,
        client::Error::TimedOut(_) | client::Error::Broken(_) => Stage::Waiting,
        _ => Stage::Connecting,
    };
    CallFailure { stage, sentence: in_one_line(error) }
}

/// The error and what is behind it.
fn in_one_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::test_server::{TestServer, dead_address, identity};
    use crate::model::Alias;
    use axum::routing::post;
    use axum::{Json, Router};

    #[tokio::test]
    async fn what_the_handshake_has_shown_comes_with_the_answer() {
        let said = Announcement::of_this_device(Alias::new("nas"), identity().fingerprint(), 1, false);
        let answer = said.clone();
        let routes = Router::new().route(paths::REGISTER, post(async move |Json(_): Json<Announcement>| Json(answer)));
        let server = TestServer::start(routes).await;
        let caller = HttpsCaller::new(identity());
        let call = |address, scheme, route| caller.register(address, scheme, route, said.clone());
        let answer = call(server.address, Scheme::Https, Route::Native).await.unwrap();
        assert_eq!(answer.certificate, Some(server.identity.fingerprint()));
        assert_eq!(answer.announcement, said, "and what it says is passed on even where it lies");
        let error = call(server.address, Scheme::Https, Route::LocalSend).await.unwrap_err();
        assert_eq!(error.stage, Stage::Answered, "no such route: {error:?}");
        assert!(call(server.address, Scheme::Http, Route::LocalSend).await.is_err());
        let error = call(dead_address().await, Scheme::Https, Route::Native).await.unwrap_err();
        assert!(error.stage == Stage::Connecting && error.sentence.to_lowercase().contains("refused"), "{error:?}");
    }
}
