//! Request bodies: bounded, paced, and handed to blocking code without ever being whole in memory.
//!
//! [`Paced`] gives up on a peer that lets us wait: the time spent waiting for it, less what its bytes would take at the lowest
//! speed, may be the grace at any moment. [`Incoming`] is the blocking end of a bounded channel; it tells a body that ended from one that
//! was cut off, so nothing half is ever taken for whole.

use crate::protocol::ErrorCode;
use crate::server::api_error::ApiError;
use crate::server::limits::{BODY_CHANNEL, BODY_PIECE, Debt, Pace};
use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::io::{self, Read};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A body whose sender must keep a pace.
pub(crate) struct Paced {
    body: Body,
    pace: Pace,
    debt: Debt,
    received: u64,
    limit: u64,
}

impl Paced {
    /// At most `limit` bytes of `body`.
    pub(crate) fn new(body: Body, limit: u64, pace: Pace) -> Self {
        Self { body, pace, debt: Debt::default(), received: 0, limit }
    }

    /// The next piece; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let began = Instant::now();
            let frame = tokio::time::timeout(self.debt.left(self.pace.grace), self.body.frame()).await;
            self.debt.waited(began.elapsed());
            let Ok(frame) = frame else {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    ErrorCode::BadRequest,
                    "the body came too slowly",
                ));
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| ApiError::bad_request("the body was cut off").caused_by(error))?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.received += bytes.len() as u64;
            self.debt.moved(bytes.len() as u64, &self.pace);
            if self.received > self.limit {
                return Err(ApiError::too_large(format!("the body is larger than {} bytes", self.limit)));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Reads on to the end, so that the sender gets to see an early answer instead of a broken connection.
    async fn drain(&mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}

/// The whole of a small body.
pub(crate) async fn read_whole(body: Body, limit: usize, pace: Pace) -> Result<Bytes, ApiError> {
    let mut paced = Paced::new(body, limit as u64, pace);
    let mut whole = BytesMut::new();
    while let Some(bytes) = paced.next().await? {
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

/// The whole of a small JSON body. Its own text never comes back in the error, because it may hold secrets.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Body, limit: usize, pace: Pace) -> Result<T, ApiError> {
    let whole = read_whole(body, limit, pace).await?;
    serde_json::from_slice(&whole)
        .map_err(|error| ApiError::bad_request("the body is not the JSON that this call takes").caused_by(error))
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// The blocking end of a body.
pub(crate) struct Incoming {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the body was cut off")),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Runs `work` on the blocking side while `body` streams to it; gives what it returns and the bytes that came. When the body
/// fails, `work` sees a read error, and the body's error is the answer.
pub(crate) async fn feed<T: Send + 'static>(
    mut body: Paced,
    work: impl FnOnce(Incoming) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, u64), ApiError> {
    let (sender, pieces) = mpsc::channel(BODY_CHANNEL);
    let working = tokio::task::spawn_blocking(move || work(Incoming { pieces, current: Bytes::new(), ended: false }));
    let mut failed = None;
    loop {
        match body.next().await {
            Ok(Some(bytes)) => {
                if !pass_on(&sender, bytes).await {
                    body.drain().await;
                    break;
                }
            }
            Ok(None) => {
                let _ = sender.send(Piece::End).await;
                break;
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let done = working.await.map_err(|error| ApiError::failed().caused_by(error))?;
    match failed {
        Some(error) => Err(error),
        None => Ok((done?, body.received())),
    }
}

/// `false` when nobody takes them any more.
async fn pass_on(sender: &mpsc::Sender<Piece>, mut bytes: Bytes) -> bool {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(BODY_PIECE));
        if sender.send(Piece::Bytes(piece)).await.is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use std::time::Duration;

    fn body_of(pieces: Vec<Result<&'static [u8], io::Error>>) -> Body {
        Body::from_stream(stream::iter(pieces.into_iter().map(|piece| piece.map(Bytes::from_static))))
    }

    #[tokio::test]
    async fn a_body_arrives_whole_on_the_blocking_side() {
        let body = Paced::new(body_of(vec![Ok(b"ab"), Ok(b""), Ok(b"cde")]), 5, Pace::STANDARD);
        let read = |mut incoming: Incoming| {
            let mut all = Vec::new();
            incoming.read_to_end(&mut all).unwrap();
            Ok(all)
        };
        assert_eq!(feed(body, read).await.unwrap(), (b"abcde".to_vec(), 5));
    }

    /// However much comes at once, what waits is bounded: a piece that is larger than others counts as several.
    #[tokio::test]
    async fn what_comes_in_one_piece_waits_in_many() {
        let (sender, mut pieces) = mpsc::channel(BODY_CHANNEL);
        let large = Bytes::from(vec![7; (BODY_CHANNEL + 1) * BODY_PIECE]);
        let mut passing = std::pin::pin!(pass_on(&sender, large));
        assert!(
            tokio::time::timeout(Duration::from_millis(1), &mut passing).await.is_err(),
            "more than there is room for"
        );
        assert!(matches!(pieces.try_recv(), Ok(Piece::Bytes(piece)) if piece.len() == BODY_PIECE));
        assert!(passing.await);
        drop(pieces);
        assert!(!pass_on(&sender, Bytes::from_static(b"x")).await);
    }

    #[tokio::test]
    async fn a_body_that_is_cut_off_is_an_error_on_both_sides() {
        let pieces = vec![Ok(&b"ab"[..]), Err(io::ErrorKind::ConnectionReset.into())];
        let body = Paced::new(body_of(pieces), 5, Pace::STANDARD);
        let (report, seen) = std::sync::mpsc::channel();
        let read = move |mut incoming: Incoming| {
            report.send(incoming.read_to_end(&mut Vec::new()).map_err(|e| e.kind())).unwrap();
            Ok(())
        };
        assert_eq!(feed(body, read).await.unwrap_err().code(), ErrorCode::BadRequest);
        assert_eq!(seen.recv().unwrap(), Err(io::ErrorKind::ConnectionAborted));
    }

    #[tokio::test]
    async fn a_body_larger_than_its_limit_is_refused() {
        assert_eq!(read_whole(Body::from("12345"), 5, Pace::STANDARD).await.unwrap(), "12345");
        let error = read_whole(Body::from("123456"), 5, Pace::STANDARD).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::TooLarge);
    }

    #[tokio::test]
    async fn an_early_answer_waits_for_the_rest_of_the_body() {
        let body = Paced::new(body_of((0..100).map(|_| Ok(&b"x"[..])).collect()), 100, Pace::STANDARD);
        let refuse = |_: Incoming| Err::<(), _>(ApiError::bad_request("no"));
        assert_eq!(feed(body, refuse).await.unwrap_err().code(), ErrorCode::BadRequest);
    }

    #[tokio::test]
    async fn a_sender_that_lets_us_wait_is_given_up_after_the_grace() {
        let pace = Pace { grace: Duration::from_millis(50), ..Pace::STANDARD };
        let silent = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"x"))]).chain(stream::pending());
        let error = read_whole(Body::from_stream(silent), 1 << 30, pace).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn what_came_buys_back_what_was_waited_for_and_nothing_in_advance() {
        let (pace, second) = (Pace::STANDARD, Duration::from_secs(1));
        let mut debt = Debt::default();
        debt.moved(16 << 20, &pace);
        assert_eq!(debt.left(pace.grace), pace.grace, "quick at first is no licence to dawdle");
        debt.waited(second * 15);
        debt.moved(10 * pace.bytes_per_second, &pace);
        assert_eq!(debt.left(pace.grace) + second * 5, pace.grace);
        debt.waited(second * 16);
        assert_eq!(debt.left(pace.grace), Duration::ZERO);
        debt.moved(u64::MAX, &pace);
        debt.waited(Duration::MAX);
        assert_eq!(debt.left(pace.grace), Duration::ZERO, "no size is too large to reckon with");
    }
}
