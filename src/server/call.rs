//! One request with what was proved about its sender: the only thing a handler gets, and its only way to learn who calls.

use crate::identity::Trust;
use crate::model::{Fingerprint, SessionId};
use crate::protocol::paths::SESSION_HEADER;
use crate::server::api_error::ApiError;
use crate::server::connection::Connection;
use axum::body::Body;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode, header};
use serde::Serialize;
use std::collections::HashMap;

/// A request and its sender.
#[derive(Debug)]
pub(crate) struct Call {
    /// What the handshake proved.
    pub(crate) connection: Connection,
    parts: Parts,
    body: Body,
    trust: Option<Trust>,
}

impl Call {
    /// Only the router makes calls, after it has checked what the route needs.
    pub(crate) fn new(connection: Connection, request: Request<Body>, trust: Option<Trust>) -> Self {
        let (parts, body) = request.into_parts();
        Self { connection, parts, body, trust }
    }

    /// The certificate that the caller showed.
    pub(crate) fn certificate(&self) -> Result<Fingerprint, ApiError> {
        self.connection.fingerprint.ok_or_else(ApiError::not_paired)
    }

    /// The paired device that calls.
    pub(crate) fn peer(&self) -> Result<&Trust, ApiError> {
        self.trust.as_ref().ok_or_else(ApiError::not_paired)
    }

    /// The session that the header names, if it names one.
    pub(crate) fn session_if_named(&self) -> Result<Option<SessionId>, ApiError> {
        let Some(value) = self.parts.headers.get(SESSION_HEADER) else { return Ok(None) };
        let id = value.to_str().ok().and_then(|text| text.parse().ok());
        id.map(Some).ok_or_else(|| ApiError::bad_request("the session header is not 32 hex digits"))
    }

    /// The session that the header names.
    pub(crate) fn session(&self) -> Result<SessionId, ApiError> {
        let session = self.session_if_named()?;
        session.ok_or_else(|| ApiError::bad_request("this call needs a session header"))
    }

    /// The last part of the path, for routes that end in an id.
    pub(crate) fn last_path_part(&self) -> &str {
        self.parts.uri.path().rsplit('/').next().unwrap_or_default()
    }

    /// The seconds in `?wait=`, 0 without.
    pub(crate) fn wait_seconds(&self) -> Result<u8, ApiError> {
        let Some(query) = self.parts.uri.query() else { return Ok(0) };
        let Some(value) = query.split('&').find_map(|pair| pair.strip_prefix("wait=")) else { return Ok(0) };
        let seconds: u64 = value.parse().map_err(|_| ApiError::bad_request("`wait` is not a number of seconds"))?;
        Ok(u8::try_from(seconds).unwrap_or(u8::MAX))
    }

    /// The parameters of the query, decoded. They hold PINs and tokens: never to be shown or logged.
    pub(crate) fn query(&self) -> Result<HashMap<String, String>, ApiError> {
        let query = Query::<HashMap<String, String>>::try_from_uri(&self.parts.uri);
        Ok(query.map_err(|_| ApiError::bad_request("the query cannot be read"))?.0)
    }

    /// How long the body says it is.
    pub(crate) fn announced_length(&self) -> Option<u64> {
        self.parts.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The body; the rest is gone.
    pub(crate) fn into_body(self) -> Body {
        self.body
    }
}

/// An answer with a JSON body.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let json = serde_json::to_vec(value).expect("messages have only string keys");
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// A success whose JSON is written already.
pub(crate) fn json_text(json: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// An answer of plain bytes.
pub(crate) fn octets(body: impl Into<Body>) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/octet-stream")], body.into()).into_response()
}
