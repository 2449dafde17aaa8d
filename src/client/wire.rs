//! HTTP on one connection that the caller made: for pairing, which must not change connections, and for `register` without
//! TLS, which some LocalSend devices speak. Everything else goes through the pool of a [`Client`](crate::client::Client).

use crate::client::error::{BoxError, Connecting, Error, Result};
use crate::protocol::Announcement;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// HTTP/1.1 wants a host; devices have none.
const HOST: &str = "device.lan-backup.invalid";
/// A body and an answer of `register`, in bytes.
const MAX_REGISTER_BYTES: usize = 8 << 10;
/// From connecting to the end of the answer: a scan asks hundreds of addresses.
const REGISTER_TIME: Duration = Duration::from_secs(5);

/// One connection; closed when dropped.
pub(crate) struct Wire {
    sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

impl Wire {
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
        Ok(Self { sender, _connection: AbortOnDropHandle::new(connection) })
    }

    /// Posts JSON and reads JSON of at most `most` bytes, within `limit`.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
        most: usize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).expect("messages have only string keys");
        let request = Request::post(path)
            .header(header::HOST, HOST)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Error::Failed("the request cannot be made", error.into()))?;
        let asking = async {
            self.sender.ready().await.map_err(broken)?;
            let answer = self.sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), most).collect().await.map_err(broken)?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(Error::from_answer(status, &body)) }
        };
        let body = timeout(limit, asking).await.map_err(|_| Error::TimedOut("answer"))??;
        serde_json::from_slice(&body).map_err(|error| Error::NotUnderstood(format!("what cannot be read: {error}")))
    }
}

fn broken(error: impl Into<BoxError>) -> Error {
    Error::from_connection(error, Connecting::No)
}

/// `register` without TLS, at LocalSend's path. Nobody has proved anything by answering; nothing but discovery may use this.
pub async fn register_in_the_clear(address: SocketAddr, path: &str, own: &Announcement) -> Result<Announcement> {
    let asking = async {
        let stream = TcpStream::connect(address).await.map_err(|error| Error::Offline(error.into()))?;
        Wire::over(stream).await?.post(path, own, REGISTER_TIME, MAX_REGISTER_BYTES).await
    };
    timeout(REGISTER_TIME, asking).await.unwrap_or(Err(Error::TimedOut("say who it is")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::test_server::dead_address;
    use crate::model::Fingerprint;
    use crate::protocol::paths::LOCALSEND_REGISTER;
    use axum::routing::post;
    use axum::{Json, Router};

    #[tokio::test]
    async fn a_device_without_tls_can_be_found_and_a_chatty_one_is_cut_off() {
        let about = |alias: &str| {
            let fingerprint = Fingerprint::from_bytes([1; 32]);
            Announcement::of_this_device(alias.to_owned().into(), fingerprint, 1, false)
        };
        let phone = about("phone");
        let routes = Router::new()
            .route(LOCALSEND_REGISTER, post(async move || Json(phone.clone())))
            .route("/chatty", post(async || vec![b' '; MAX_REGISTER_BYTES + 1]));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _server = AbortOnDropHandle::new(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
        let found = register_in_the_clear(address, LOCALSEND_REGISTER, &about("nas")).await.unwrap();
        assert_eq!(found.alias.as_str(), "phone");
        assert!(register_in_the_clear(address, "/chatty", &about("nas")).await.is_err());
        let nobody = register_in_the_clear(dead_address().await, LOCALSEND_REGISTER, &about("nas")).await;
        assert!(matches!(nobody, Err(Error::Offline(_))));
    }
}
