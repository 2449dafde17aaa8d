//! Reads the body of `prepare-upload`: a zstd stream of lines, of which never more than one is in memory.

use crate::model::Entry;
use crate::model::limits::{MAX_ENTRY_LINE_BYTES, MAX_MANIFEST_ENTRIES, MAX_SET_ROOTS};
use crate::protocol::session::PrepareUpload;
use crate::protocol::{API_VERSION, ErrorCode, FEATURES};
use crate::server::api_error::ApiError;
use crate::server::limits::{MAX_PREPARE_PLAIN_BYTES, MAX_PREPARE_WINDOW_LOG};
use http::StatusCode;
use std::io::{BufRead, BufReader, Read};

/// Reads and checks the whole of it; gives the header. Blocking.
pub(crate) fn read(body: impl Read) -> Result<PrepareUpload, ApiError> {
    let mut zstd = zstd::stream::read::Decoder::new(body).map_err(|error| ApiError::failed().caused_by(error))?;
    zstd.window_log_max(MAX_PREPARE_WINDOW_LOG).map_err(|error| ApiError::failed().caused_by(error))?;
    let mut lines = BufReader::new(zstd.take(MAX_PREPARE_PLAIN_BYTES));
    let mut line = Vec::new();
    if !next_line(&mut lines, &mut line)? {
        return Err(ApiError::bad_request("the body has no header line"));
    }
    let header: PrepareUpload = serde_json::from_slice(&line)
        .map_err(|error| ApiError::bad_request("the header line cannot be read").caused_by(error))?;
    check(&header)?;
    let mut entries = 0;
    let mut last = None;
    while next_line(&mut lines, &mut line)? {
        entries += 1;
        if entries > MAX_MANIFEST_ENTRIES {
            return Err(ApiError::too_large("the list has more than 5,000,000 entries"));
        }
        let entry: Entry = serde_json::from_slice(&line)
            .map_err(|error| ApiError::bad_request(format!("entry {entries} cannot be read")).caused_by(error))?;
        if last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(ApiError::bad_request(format!("entry {entries} is not in path order")));
        }
        last = Some(entry.path);
    }
    if lines.get_ref().limit() == 0 {
        return Err(ApiError::too_large("the list is larger than 4 GiB"));
    }
    Ok(header)
}

fn check(header: &PrepareUpload) -> Result<(), ApiError> {
    if header.api != API_VERSION {
        let message =
            format!("this device speaks version {API_VERSION} of the API, and the caller version {}", header.api);
        return Err(ApiError::bad_request(message).hint("update the older of the two"));
    }
    let unknown = header.required_features.iter().find(|feature| !FEATURES.contains(&feature.as_str()));
    if let Some(feature) = unknown {
        let shown: String = crate::model::text::clean(feature).chars().take(40).collect();
        let message = format!("this device does not know the feature `{shown}`");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownFeature, message));
    }
    if header.roots.is_empty() || header.roots.len() > MAX_SET_ROOTS {
        return Err(ApiError::bad_request(format!("a set has 1 to {MAX_SET_ROOTS} roots")));
    }
    Ok(())
}

/// The next line, without its end; `false` at the end of the stream.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, ApiError> {
    line.clear();
    let limit = MAX_ENTRY_LINE_BYTES as u64 + 1;
    lines
        .by_ref()
        .take(limit)
        .read_until(b'\n', line)
        .map_err(|error| ApiError::bad_request("the body is not a whole zstd stream").caused_by(error))?;
    if line.is_empty() {
        return Ok(false);
    }
    if line.pop() != Some(b'\n') {
        return Err(if line.len() as u64 + 1 >= limit {
            ApiError::too_large("a line is longer than 1 MiB")
        } else {
            ApiError::bad_request("the last line is cut short")
        });
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"api":1,"idempotencyKey":"00000000000000000000000000000001","set":"Documents","roots":[{"source":"/home/a/Documents","top":"Documents"}],"totals":{"entries":3,"files":2,"bytes":7},"changes":{"newFiles":2,"changedFiles":0,"deletedFiles":0},"bytesToSend":7}"#;

    fn body(lines: &[&str]) -> Vec<u8> {
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        zstd::stream::encode_all(text.as_bytes(), 1).unwrap()
    }

    #[test]
    fn a_list_in_path_order_is_read() {
        let file = |path: &str| format!(r#"{{"path":"{path}","kind":"file","size":3}}"#);
        let header = read(body(&[HEADER, &file("a/b"), &file("a.txt")]).as_slice()).unwrap();
        assert_eq!((header.set.as_str(), header.bytes_to_send), ("Documents", 7));
    }

    #[test]
    fn hostile_bodies_are_refused_without_keeping_them() {
        let file = |path: &str| format!(r#"{{"path":"{path}","kind":"file","size":3}}"#);
        let api = HEADER.replace(r#""api":1"#, r#""api":2"#);
        let feature = HEADER.replace(r#""api":1"#, r#""api":1,"requiredFeatures":["zstd","wings\u001b[31m"]"#);
        let no_roots = HEADER.replace(r#"[{"source":"/home/a/Documents","top":"Documents"}]"#, "[]");
        let set = HEADER.replace(r#""Documents","roots""#, r#""../x","roots""#);
        let long = format!(r#"{{"path":"a","kind":"file","size":3,"x":"{}"}}"#, "y".repeat(1 << 20));
        let mut cut = body(&[HEADER, &file("a")]);
        cut.truncate(cut.len() - 4);
        let table = [
            (body(&[]), ErrorCode::BadRequest),
            (b"not zstd".to_vec(), ErrorCode::BadRequest),
            (cut, ErrorCode::BadRequest),
            (body(&["{}"]), ErrorCode::BadRequest),
            (body(&[&api]), ErrorCode::BadRequest),
            (body(&[&feature]), ErrorCode::UnknownFeature),
            (body(&[&no_roots]), ErrorCode::BadRequest),
            (body(&[&set]), ErrorCode::BadRequest),
            (body(&[HEADER, &file("../a")]), ErrorCode::BadRequest),
            (body(&[HEADER, &file("/etc/passwd")]), ErrorCode::BadRequest),
            (body(&[HEADER, &file("b"), &file("a")]), ErrorCode::BadRequest),
            (body(&[HEADER, &file("a"), &file("a")]), ErrorCode::BadRequest),
            (body(&[HEADER, "", &file("a")]), ErrorCode::BadRequest),
            (body(&[HEADER, &long]), ErrorCode::TooLarge),
        ];
        for (n, (body, code)) in table.into_iter().enumerate() {
            assert_eq!(read(body.as_slice()).unwrap_err().code(), code, "case {n}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_refused_after_a_mebibyte() {
        let bomb = zstd::stream::encode_all(std::io::repeat(b'x').take(1 << 30), 1).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert_eq!(read(bomb.as_slice()).unwrap_err().code(), ErrorCode::TooLarge);
    }
}
