//! The calls to a stock LocalSend app: offer files, send them, cancel.
//!
//! As an app does it, and stricter: the certificate is compared in the handshake, nothing is followed, and what comes back is bounded.
//! The PIN stands in the query, because LocalSend wants it there; it is never logged.

use crate::client::exchange::{Call, Payload};
use crate::client::{Client, Error, Result};
use crate::model::Fingerprint;
use crate::protocol::localsend::{FilesWanted, MAX_PREPARE_BYTES, PrepareFiles};
use crate::protocol::{paths, percent};
use bytes::Bytes;
use http::{Method, StatusCode};
use std::time::Duration;
use tokio::sync::mpsc;

/// A person has to look up and touch a screen: longer than any app waits itself.
const PERSON: Duration = Duration::from_mins(11);
/// The longest PIN, id or token that is sent.
const MAX_PARAMETER_CHARS: usize = 512;

/// What became of an offer.
#[derive(Clone, Debug)]
pub enum Offered {
    /// These files shall come.
    Wanted(FilesWanted),
    /// Nothing need come.
    Nothing,
    /// A PIN is asked for, or the one given is wrong.
    PinWanted,
}

impl Client {
    /// Who answers at the device's address, as the handshake proves it. Asks the native `info`, which every server can refuse.
    pub async fn certificate(&self) -> Result<Option<Fingerprint>> {
        let call = self.localsend_call("say who it is", Method::GET, paths::INFO.to_owned());
        self.send_for_certificate(&call).await
    }

    /// Offers files, and waits for the person there.
    ///
    /// # Errors
    /// [`Error::Answer`] after a no (403), when it is busy (409), after too many wrong PINs (429), or when it fails (500).
    pub async fn offer_files(&self, offer: &PrepareFiles, pin: Option<&str>) -> Result<Offered> {
        let query = pin.map(|pin| format!("?pin={}", encoded(pin))).unwrap_or_default();
        let path = format!("{}{query}", paths::LOCALSEND_PREPARE_UPLOAD);
        let mut call = self.localsend_call("answer to the offer", Method::POST, path);
        call.answer = PERSON;
        let body = Bytes::from(serde_json::to_vec(offer).expect("messages have only string keys"));
        match self.send(&call, || Payload::Json(body.clone())).await {
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => Ok(Offered::Nothing),
            Ok(answer) => Ok(Offered::Wanted(answer.json(MAX_PREPARE_BYTES).await?)),
            Err(Error::Answer { status: StatusCode::UNAUTHORIZED, .. }) => Ok(Offered::PinWanted),
            Err(error) => Err(error),
        }
    }

    /// Sends one file, as its bytes come out of `pieces`. A channel that ends early makes a short file, which the app refuses.
    pub async fn send_file(&self, wanted: &FilesWanted, id: &str, pieces: mpsc::Receiver<Bytes>) -> Result<()> {
        let token = wanted.files.get(id).map(String::as_str).unwrap_or_default();
        let (session, file, token) = (encoded(&wanted.session_id), encoded(id), encoded(token));
        let path = format!("{}?sessionId={session}&fileId={file}&token={token}", paths::LOCALSEND_UPLOAD);
        let mut call = self.localsend_call("take a file", Method::POST, path);
        call.answer = self.inner.patience.commit;
        let answer = self.send_once(&call, Payload::Stream(pieces)).await?;
        if answer.status() == StatusCode::OK {
            return Ok(());
        }
        Err(Error::NotUnderstood(format!("{} to a file", answer.status())))
    }

    /// Ends a session, or, without one, withdraws the offer.
    pub async fn cancel_files(&self, session: Option<&str>) -> Result<()> {
        let query = session.map(|session| format!("?sessionId={}", encoded(session))).unwrap_or_default();
        let path = format!("{}{query}", paths::LOCALSEND_CANCEL);
        let call = self.localsend_call("end the session", Method::POST, path);
        self.send_again(&call, || Payload::Nothing).await.map(drop)
    }

    fn localsend_call(&self, what: &'static str, method: Method, path: String) -> Call {
        Call { what, method, path, session: None, answer: self.inner.patience.answer }
    }
}

/// For a query; what a peer gave us to send back is not passed on without a bound.
fn encoded(text: &str) -> String {
    percent::encoded(text.chars().take(MAX_PARAMETER_CHARS).collect::<String>().as_bytes())
}
