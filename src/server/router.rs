//! Every route on one page, each with what it needs: a route without a declared need cannot exist, because the router is made
//! from this table and from nothing else, and every request, known route or not, passes [`enter`].

use crate::identity::Trust;
use crate::model::Right;
use crate::protocol::{ErrorCode, paths};
use crate::server::api_error::ApiError;
use crate::server::call::Call;
use crate::server::connection::Connection;
use crate::server::state::Shared;
use crate::server::{
    cancel, chunks, finish, info, listing, localsend, missing, pair_routes, prepare_copy, prepare_download,
    prepare_upload, rotated, upload, waiting,
};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use futures_util::future::BoxFuture;
use http::{Request, StatusCode, header};
use std::sync::Arc;

/// What a caller must have proved to get to a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nobody,
    /// A certificate, anybody's.
    Certificate,
    /// To be paired.
    Paired,
    /// To be paired, with this right.
    Right(Right),
}

type Handler = fn(Arc<Shared>, Call) -> BoxFuture<'static, Result<Response, ApiError>>;

/// The methods that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Reads.
    Get,
    /// Does.
    Post,
}

/// One route.
pub(crate) struct Route {
    /// How.
    pub(crate) verb: Verb,
    /// Where; the literal part.
    pub(crate) path: &'static str,
    /// An id follows the path.
    pub(crate) with_id: bool,
    /// For whom.
    pub(crate) need: Need,
    handler: Handler,
}

macro_rules! route {
    ($verb:ident $path:ident, $need:expr, $($handler:ident)::+) => {
        route!($verb $path, false, $need, $($handler)::+)
    };
    ($verb:ident $path:ident / id, $need:expr, $($handler:ident)::+) => {
        route!($verb $path, true, $need, $($handler)::+)
    };
    ($verb:ident $path:ident, $with_id:literal, $need:expr, $($handler:ident)::+) => {
        Route {
            verb: Verb::$verb,
            path: paths::$path,
            with_id: $with_id,
            need: $need,
            handler: |shared, call| Box::pin($($handler)::+(shared, call)),
        }
    };
}

/// The table. The same, with words, stands in `protocol.md`.
pub(crate) const ROUTES: &[Route] = &[
    route!(Get INFO, Need::Nobody, info::info),
    route!(Get LOCALSEND_INFO_V2, Need::Nobody, info::info),
    route!(Get LOCALSEND_INFO_V1, Need::Nobody, info::info),
    route!(Post REGISTER, Need::Nobody, info::register),
    route!(Post LOCALSEND_REGISTER, Need::Nobody, info::register_localsend),
    route!(Post LOCALSEND_PREPARE_UPLOAD, Need::Nobody, localsend::prepare::prepare_upload),
    route!(Post LOCALSEND_UPLOAD, Need::Nobody, localsend::receive::upload),
    route!(Post LOCALSEND_CANCEL, Need::Nobody, localsend::receive::cancel),
    route!(Post PAIR_REQUEST, Need::Certificate, pair_routes::request),
    route!(Post PAIR_START, Need::Certificate, pair_routes::start),
    route!(Post PAIR_CONFIRM, Need::Certificate, pair_routes::confirm),
    route!(Post ROTATED, Need::Certificate, rotated::rotated),
    route!(Post PREPARE_UPLOAD, Need::Right(Right::Backup), prepare_upload::prepare_upload),
    route!(Post PREPARE_COPY, Need::Right(Right::Replicate), prepare_copy::prepare_copy),
    route!(Get SESSIONS / id, Need::Paired, waiting::session),
    route!(Post MISSING, Need::Right(Right::Backup), missing::missing),
    route!(Post UPLOAD, Need::Right(Right::Backup), upload::upload),
    route!(Post FINISH, Need::Right(Right::Backup), finish::finish),
    route!(Post CANCEL, Need::Paired, cancel::cancel),
    route!(Get SNAPSHOTS, Need::Right(Right::List), listing::snapshots),
    route!(Get SNAPSHOTS / id, Need::Right(Right::List), listing::snapshot),
    route!(Post PREPARE_DOWNLOAD, Need::Right(Right::Restore), prepare_download::prepare_download),
    route!(Post CHUNKS, Need::Right(Right::Restore), chunks::chunks),
];

/// The router made from [`ROUTES`].
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let shared = shared.clone();
        let filter = match route.verb {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
        };
        let path = if route.with_id { format!("{}/{{id}}", route.path) } else { route.path.to_owned() };
        let method: MethodRouter = on(filter, move |request: Request<Body>| async move {
            let answer = match enter(&shared, route.need, request) {
                Ok(call) => (route.handler)(shared, call).await,
                Err(refusal) => Err(refusal),
            };
            answer.unwrap_or_else(IntoResponse::into_response)
        });
        router = router.route(&path, method);
    }
    let unknown = |status: StatusCode| {
        let shared = shared.clone();
        move |request: Request<Body>| async move {
            let refused = enter(&shared, Need::Nobody, request).err();
            let error = ApiError::new(status, ErrorCode::NotFound, "there is no such call here");
            refused.unwrap_or(error).into_response()
        }
    };
    router.fallback(unknown(StatusCode::NOT_FOUND)).method_not_allowed_fallback(unknown(StatusCode::METHOD_NOT_ALLOWED))
}

/// Whether a page in a browser may have made this request. What a browser adds of fetch metadata it adds together (W3C Fetch Metadata,
/// section 4), so `Sec-Fetch-Mode` alone is the `fetch` of Node.js, which LocalSend apps are written with, too: on LocalSend's paths,
/// and only there, it is let through.
fn is_from_browser(request: &Request<Body>) -> bool {
    let by_app = request.uri().path().starts_with(paths::LOCALSEND_PREFIX);
    request.headers().keys().any(|name| match name.as_str() {
        "sec-fetch-mode" => !by_app,
        name => name == header::ORIGIN.as_str() || name.starts_with("sec-fetch-"),
    })
}

/// The one door: browsers are turned away, and the caller is looked up by the certificate that the handshake proved, for each
/// request anew, so that unpairing holds from the next one on.
fn enter(shared: &Shared, need: Need, request: Request<Body>) -> Result<Call, ApiError> {
    if is_from_browser(&request) {
        let message = "browsers are not served here";
        return Err(ApiError::new(StatusCode::FORBIDDEN, ErrorCode::BrowserRefused, message));
    }
    let Some(connection) = request.extensions().get::<Connection>().cloned() else {
        return Err(ApiError::failed());
    };
    if connection.is_plain && !request.uri().path().starts_with(paths::LOCALSEND_PREFIX) {
        let message = "without TLS only LocalSend's calls are answered";
        return Err(ApiError::not_allowed(message));
    }
    let trust: Option<Trust> = connection.fingerprint.and_then(|fingerprint| shared.trust.find(&fingerprint));
    match need {
        Need::Nobody => {}
        Need::Certificate if connection.fingerprint.is_some() => {}
        Need::Certificate => return Err(ApiError::not_paired().hint("show a client certificate")),
        Need::Paired => drop(trust.as_ref().ok_or_else(ApiError::not_paired)?),
        Need::Right(right) => {
            let trust = trust.as_ref().ok_or_else(ApiError::not_paired)?;
            if !trust.rights.allow(right) {
                let message = format!("this device may not {right} here");
                return Err(ApiError::not_allowed(message).hint("its person can grant it: `lan-backup trust`"));
            }
        }
    }
    Ok(Call::new(connection, request, trust))
}
