//! Without TLS: nobody gets in unless a person allowed it, and then to LocalSend's calls and nothing else.

use super::{Device, LIMIT, Live, Setup};
use crate::model::InboxKeep;
use crate::protocol::localsend::FilesWanted;
use crate::protocol::{Announcement, paths};
use crate::server::localsend::unverified;
use crate::server::router::ROUTES;
use crate::server::{LocalSendMode, LocalSendOptions};
use serde_json::json;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn start(mode: LocalSendMode, plain_http: bool) -> Live {
    let localsend = LocalSendOptions { mode, keep: InboxKeep::Backup, plain_http, ..LocalSendOptions::default() };
    Live::start_with(Setup { localsend, ..Setup::default() })
}

/// One request without TLS; status and body, or nothing when the connection just ends.
async fn ask(live: &Live, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let asking = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, live.handle.port())).await.unwrap();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}", body.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = tokio::time::timeout(LIMIT, asking).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_localsends_calls_are_answered_when_a_person_allowed_it_and_no_others() {
    for shut in [start(LocalSendMode::Accept, false), start(LocalSendMode::Off, true)] {
        for route in [paths::LOCALSEND_INFO_V2, paths::INFO] {
            assert_eq!(ask(&shut, "GET", route, "").await, None, "TLS only");
        }
    }
    let live = start(LocalSendMode::Accept, true);
    let (status, said) = ask(&live, "GET", paths::LOCALSEND_INFO_V2, "").await.unwrap();
    let said: Announcement = serde_json::from_str(&said).unwrap();
    assert_eq!((status, said.protocol.as_str()), (200, "http"));
    for route in ROUTES.iter().filter(|route| !route.path.starts_with("/api/localsend/")) {
        for method in ["GET", "POST"] {
            assert_eq!(ask(&live, method, route.path, "{}").await.unwrap().0, 403, "{method} {}", route.path);
        }
    }
    // On the same port with TLS all is as ever.
    let mut caller = live.caller(&Device::new()).await;
    assert_eq!(caller.get(paths::INFO).await.ok().json::<Announcement>().protocol, "https");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_without_tls_is_kept_as_unverified_whatever_it_claims() {
    let live = start(LocalSendMode::Accept, true);
    let honest = Device::new().fingerprint();
    let offer = json!({
        "info": { "alias": "Phone", "version": "2.1", "deviceModel": "x", "fingerprint": honest.to_string() },
        "files": { "a": { "id": "a", "fileName": "a.txt", "size": 5, "fileType": "text/plain" } },
    });
    let (status, wanted) = ask(&live, "POST", paths::LOCALSEND_PREPARE_UPLOAD, &offer.to_string()).await.unwrap();
    assert_eq!(status, 200, "{wanted}");
    let wanted: FilesWanted = serde_json::from_str(&wanted).unwrap();
    let (session, token) = (&wanted.session_id, &wanted.files["a"]);
    let path = format!("{}?sessionId={session}&fileId=a&token={token}", paths::LOCALSEND_UPLOAD);
    assert_eq!(ask(&live, "POST", &path, "hello").await.unwrap().0, 200);
    assert!(live.store.owned_by(&honest).is_none(), "not its repository");
    let repository = live.store.owned_by(&unverified(&honest.to_string())).unwrap();
    assert!(repository.head(&"inbox".parse().unwrap()).unwrap().is_some());
}
