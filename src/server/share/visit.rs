//! From a request to an answer: every request passes [`answer`], and what is not named here does not exist.

use crate::model::{Name, RelPath};
use crate::monitor::Fault;
use crate::protocol::{paths, percent};
use crate::server::body::read_whole;
use crate::server::connection::Connection;
use crate::server::limits::MAX_SMALL_BODY_BYTES;
use crate::server::localsend::pin::Verdict;
use crate::server::share::tree::{self, Kind};
use crate::server::share::{Share, ShareEvent, api, door, give, page};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, header};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// Nothing but our own style and our own form; no frame, no script, no word to others about where somebody came from.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(page::STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("it is plain ASCII")
});

/// One request of somebody at an address.
#[derive(Debug)]
pub(crate) struct Visit {
    /// From where.
    pub(crate) address: IpAddr,
    /// What is asked for.
    pub(crate) parts: Parts,
}

impl Visit {
    /// A parameter of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        field(self.parts.uri.query()?, name)
    }

    /// Nobody wants the bytes.
    pub(crate) fn wants_head_only(&self) -> bool {
        self.parts.method == Method::HEAD
    }
}

/// A field of a form or a query; the first of its name.
fn field(form: &str, name: &str) -> Option<String> {
    String::from_utf8(field_bytes(form, name)?).ok()
}

/// The same for a name, which need not be UTF-8.
fn field_bytes(form: &str, name: &str) -> Option<Vec<u8>> {
    let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    percent::decoded_field(value)
}

/// Answers, and says in the headers of each answer what a browser may do with it.
pub(crate) async fn answer(share: Arc<Share>, request: Request<Body>) -> Response {
    let mut response = match request.extensions().get::<Connection>().map(|connection| connection.address.ip()) {
        Some(address) => enter(&share, address, request).await,
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    for (name, value) in [
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn enter(share: &Arc<Share>, address: IpAddr, request: Request<Body>) -> Response {
    if !door::is_for_here(request.headers()) {
        return refusal(
            StatusCode::MISDIRECTED_REQUEST,
            "Open the address with numbers that is shown on the other screen",
        );
    }
    if share.closing.is_stopped() {
        return refusal(StatusCode::GONE, "This is not shared any more");
    }
    let (parts, body) = request.into_parts();
    let visit = Visit { address, parts };
    let reads = matches!(visit.parts.method, Method::GET | Method::HEAD);
    let writes = visit.parts.method == Method::POST;
    match visit.parts.uri.path() {
        "/" if reads => front(share, &visit),
        "/" if writes => typed(share, &visit, body).await,
        paths::LOCALSEND_INFO_V1 | paths::LOCALSEND_INFO_V2 if reads => api::info(share),
        paths::LOCALSEND_PREPARE_DOWNLOAD if writes => api::prepare_download(share, &visit).await,
        paths::LOCALSEND_DOWNLOAD if reads => api::download(share, &visit).await,
        path if reads && path.starts_with("/s/") => shelf(share, &visit).await,
        _ => refusal(StatusCode::NOT_FOUND, "There is no such page here"),
    }
}

/// The first page: the PIN, or what is shared at once where there is none.
fn front(share: &Share, visit: &Visit) -> Response {
    if share.door.has_pin() {
        return ask(share, visit, StatusCode::OK, None);
    }
    match share.door.enter(visit.address, None, share.clock.instant()) {
        Ok(token) => see_other(&page::address(&token, "browse", None)),
        Err(_) => ask(share, visit, StatusCode::OK, None),
    }
}

fn ask(share: &Share, visit: &Visit, status: StatusCode, problem: Option<&str>) -> Response {
    html(status, page::pin(share.alias.as_str(), &share.door.mark(visit.address), problem))
}

/// The form came back.
async fn typed(share: &Share, visit: &Visit, body: Body) -> Response {
    let form = match read_whole(body, MAX_SMALL_BODY_BYTES, share.pace).await {
        Ok(form) => String::from_utf8_lossy(&form).into_owned(),
        Err(error) => return error.into_response(),
    };
    // Not ours, or an old one of ours: nothing is counted.
    if field(&form, "mark").is_none_or(|mark| mark != share.door.mark(visit.address)) {
        return ask(share, visit, StatusCode::BAD_REQUEST, Some("Please type it again"));
    }
    match share.door.enter(visit.address, field(&form, "pin").as_deref(), share.clock.instant()) {
        Ok(token) => {
            share.tell(ShareEvent::Entered { address: visit.address });
            see_other(&page::address(&token, "browse", None))
        }
        Err(verdict) => {
            let (status, words) = refused(share, visit, verdict);
            ask(share, visit, status, Some(words))
        }
    }
}

/// What a wrong PIN gets to hear.
pub(crate) fn refused(share: &Share, visit: &Visit, verdict: Verdict) -> (StatusCode, &'static str) {
    match verdict {
        Verdict::Missing | Verdict::Right => {
            (StatusCode::UNAUTHORIZED, "Type the PIN that is shown on the other screen")
        }
        Verdict::Wrong => {
            share.tell(ShareEvent::WrongPin { address: visit.address });
            (StatusCode::UNAUTHORIZED, "That is not the PIN")
        }
        Verdict::TooMany => (StatusCode::TOO_MANY_REQUESTS, "Too many wrong PINs; wait ten minutes, or share it again"),
    }
}

/// `/s/TOKEN/WHAT/PATH`.
async fn shelf(share: &Arc<Share>, visit: &Visit) -> Response {
    let mut rest = visit.parts.uri.path().splitn(5, '/').skip(2);
    let (token, what, path) =
        (rest.next().unwrap_or_default(), rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
    if !share.door.knows(visit.address, token) {
        // Another address, or another run: the PIN opens it again.
        return see_other("/");
    }
    let path = match path.trim_end_matches('/') {
        "" => None,
        // A name that is none, or leads out, is not there.
        path => match percent::decoded(path).and_then(|bytes| RelPath::new(bytes).ok()) {
            None => return nothing(),
            path => path,
        },
    };
    match (what, path) {
        ("browse", folder) => browse(share, visit, token, folder).await,
        ("file", Some(path)) => give::file(share, visit, path).await,
        ("zip", folder) => give::zip(share, visit, folder).await,
        _ => nothing(),
    }
}

async fn browse(share: &Arc<Share>, visit: &Visit, token: &str, folder: Option<RelPath>) -> Response {
    if let Some(path) = &folder {
        match share.tree.look(path.clone()).await {
            Ok(Some(item)) if item.kind == Kind::Folder => {}
            Ok(_) => return nothing(),
            Err(error) => return trouble(share, Some(path), &error),
        }
    }
    let after = visit.parts.uri.query().and_then(|query| field_bytes(query, "after"));
    let after = after.and_then(|bytes| Name::new(bytes).ok());
    let is_continued = after.is_some();
    let below = folder.clone();
    let making = async move |share: Arc<Share>| share.tree.list(below, after, page::PAGE_ITEMS + 1).await;
    let Some((listed, _place)) = share.listed(&share.pages, making).await else { return busy() };
    match listed {
        Ok(items) => {
            let title = share.tree.title();
            let listing = page::Listing { token, title: &title, folder: folder.as_ref(), items: &items, is_continued };
            html(StatusCode::OK, listing.html())
        }
        Err(error) => trouble(share, folder.as_ref(), &error),
    }
}

/// Strangers hear that it cannot be read, the person who shares hears why.
pub(crate) fn trouble(share: &Share, path: Option<&RelPath>, error: &tree::Error) -> Response {
    if error.is_absence() {
        return nothing();
    }
    let subject = path.map_or_else(|| share.tree.title(), ToString::to_string);
    share.tell(ShareEvent::Fault(Fault::new(subject, error)));
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "This cannot be read; the other screen says why")
}

/// 404.
pub(crate) fn nothing() -> Response {
    refusal(StatusCode::NOT_FOUND, "This is not there")
}

/// 503: all places are taken.
pub(crate) fn busy() -> Response {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, "Too many at once; try again in a moment");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

/// A page that says why not.
pub(crate) fn refusal(status: StatusCode, message: &str) -> Response {
    html(status, page::refusal(message))
}

fn html(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

fn see_other(place: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}
