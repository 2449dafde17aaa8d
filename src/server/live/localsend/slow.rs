//! Apps that take their time or bring less than they said: what becomes of them, of those beside them, and what the owner hears.

use super::*;
use crate::protocol::ErrorCode;
use crate::server::limits::{LOCALSEND_READING, Pace};
use std::net::Ipv4Addr;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A double of an app on a poor line: what it says goes out when the test lets it, piece by piece.
struct Slow {
    pieces: mpsc::Sender<Bytes>,
    answer: JoinHandle<hyper::Result<crate::server::live::Answer>>,
}

impl Slow {
    fn begin(mut caller: Caller, path: &str) -> Self {
        let (pieces, taken) = mpsc::channel::<Bytes>(1);
        let body = Body::from_stream(stream::unfold(taken, async |mut taken| {
            taken.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), taken))
        }));
        let request = request(Method::POST, path, None, body);
        Self { pieces, answer: tokio::spawn(async move { caller.try_send(request).await }) }
    }

    async fn say(&self, text: impl Into<Bytes>) {
        // Whoever is cut off has nobody to talk to.
        let _ = self.pieces.send(text.into()).await;
    }

    async fn end(self) -> crate::server::live::Answer {
        self.try_end().await.unwrap()
    }

    async fn try_end(self) -> hyper::Result<crate::server::live::Answer> {
        drop(self.pieces);
        tokio::time::timeout(LIMIT, self.answer).await.unwrap().unwrap()
    }
}

fn list(claimed: &str, name: &str) -> (Bytes, Bytes) {
    let text = json!({
        "files": { "x": { "fileName": name, "size": 8 } }, "info": { "alias": "Slow", "version": "2.1", "fingerprint": claimed },
    });
    let mut first = Bytes::from(text.to_string());
    let rest = first.split_off(first.len() / 2);
    (first, rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_app_arrives_and_one_address_that_dawdles_shuts_the_door_for_nobody_else() {
    let live = accepting();
    let from = async |last: u8| live.try_caller_from(None, Ipv4Addr::new(127, 0, 3, last)).await.unwrap();
    // More lists than may be read at once, each half said, all from one address.
    let mut slow = Vec::new();
    for number in 0..=LOCALSEND_READING {
        let one = Slow::begin(from(1).await, paths::LOCALSEND_PREPARE_UPLOAD);
        let (first, rest) = list(&format!("slow {number}"), "a.jpg");
        one.say(first).await;
        slow.push((one, rest));
    }
    // A phone of another address is not held up by them.
    let mut other = App { caller: from(2).await, alias: "Quick", claimed: "quick".to_owned(), chunked: true };
    assert_eq!(other.send(&[("b.jpg", b"bbb")]).await.len(), 1);
    // And each of them, honest after all, is served in its turn.
    let (one, rest) = slow.swap_remove(0);
    one.say(rest).await;
    let wanted: FilesWanted = one.end().await.ok().json();
    let path =
        format!("{}?sessionId={}&fileId=x&token={}", paths::LOCALSEND_UPLOAD, wanted.session_id, wanted.files["x"]);
    let file = Slow::begin(from(1).await, &path);
    for byte in b"all of i" {
        file.say(vec![*byte]).await;
    }
    file.end().await.ok();
    let repository = live.store.owned_by(&unverified("slow 0")).unwrap();
    assert_eq!(snapshot(&repository).await.1["a.jpg"].0, b"all of i");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_never_comes_to_its_end_is_given_up_however_it_moves() {
    let pace = Pace { list: Duration::from_millis(300), ..Pace::STANDARD };
    let live = Live::start_with(Setup { pace, ..setup(LocalSendMode::Accept, InboxKeep::Backup, None) });
    let mut heard = 0;
    for _ in 0..10 {
        let one = Slow::begin(live.try_caller(None).await.unwrap(), paths::LOCALSEND_PREPARE_UPLOAD);
        one.say(r#"{"info":{"alias":"P","version":"2.1"},"#).await;
        // It moves all the time, and says nothing.
        let talking = async {
            while !one.answer.is_finished() {
                one.say(" ").await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, talking).await.unwrap();
        // What was still on its way when the connection was closed may take the answer with it, but not each time.
        let Ok(answer) = one.try_end().await else { continue };
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(answer.json::<Trouble>().message.contains("too slowly"));
        heard += 1;
        break;
    }
    assert_eq!(heard, 1, "the app is never told why");
    assert_eq!(App::old(&live, "next").await.send(&[("x", b"x")]).await.len(), 1, "the place is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_hears_why_an_apps_files_were_not_taken_and_that_there_was_nothing_new() {
    let mut live = accepting();
    let phone = Device::new();
    let mut app = App::new(&live, &phone).await;
    let not_taken = |event| match event {
        ServerEvent::NotTaken { alias, fingerprint, file, code, reason } => {
            Some((alias.to_string(), fingerprint, file, code, reason))
        }
        _ => None,
    };
    let (id, of_five) = file("short.jpg", b"12345");
    let (more, of_six) = file("short too.jpg", b"123456");
    let wanted: FilesWanted = app.offer("", json!({ id.as_str(): of_five, more.as_str(): of_six })).await.ok().json();
    for id in [&id, &more, &id] {
        assert_eq!(app.upload(&wanted, id, b"1").await, StatusCode::INTERNAL_SERVER_ERROR);
    }
    let (alias, fingerprint, name, code, reason) = live.event(not_taken).await;
    assert_eq!((alias.as_str(), fingerprint), ("Pixel", phone.fingerprint()));
    assert_eq!((name.as_deref(), code), (Some("short.jpg"), ErrorCode::BadRequest));
    assert_eq!(reason, "1 of 5 bytes came");

    let files: [(&str, &[u8]); 3] = [("a", b"a"), ("b", b"b"), ("c", b"c")];
    app.send(&files).await;
    assert!(app.send(&files).await.is_empty());
    let mut again = 0;
    let nothing_new = live.event(|event| match event {
        ServerEvent::NotTaken { .. } => {
            again += 1;
            None
        }
        ServerEvent::NothingNew { session, files } => Some((session.alias.to_string(), files)),
        _ => None,
    });
    assert_eq!(nothing_new.await, ("Pixel".to_owned(), 3));
    assert_eq!(again, 0, "what is wrong in the same way is said once in a session");

    let full = Setup { reserve_bytes: u64::MAX / 2, ..setup(LocalSendMode::Accept, InboxKeep::Backup, None) };
    let mut live = Live::start_with(full);
    let mut app = App::new(&live, &phone).await;
    assert_eq!(app.offer("", json!({ "x": file("x", b"x").1 })).await.status, StatusCode::INTERNAL_SERVER_ERROR);
    let (_, _, name, code, reason) = live.event(not_taken).await;
    assert_eq!((name, code), (None, ErrorCode::Full), "{reason}");
}
