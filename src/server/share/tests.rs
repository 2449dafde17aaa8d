//! A share over real sockets: what it gives, what it must not, and how it ends.

use super::*;
use crate::model::limits::MAX_PATH_DEPTH;
use crate::model::{Name, RelPath};
use crate::platform::clock::SystemClock;
use crate::server::share::folder::FolderTree;
use crate::server::share::pipe::Pipe;
use crate::server::share::tree::{Held, Item, Kind, Result as TreeResult};
use futures_util::future::BoxFuture;
use std::io;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

/// Nothing on the loopback interface takes longer, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(30);

/// A share that runs for one test.
struct Running {
    handle: ShareHandle,
    events: mpsc::Receiver<ShareEvent>,
    shutdown: Shutdown,
}

/// An answer, whole or not.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    is_whole: bool,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn start_with(tree: Arc<dyn Tree>, pin: Option<&str>, downloads: Option<u64>) -> Running {
    start_paced(tree, pin, downloads, Pace::STANDARD)
}

fn start_paced(tree: Arc<dyn Tree>, pin: Option<&str>, downloads: Option<u64>, pace: Pace) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (news, events) = News::channel();
    let shutdown = Shutdown::new();
    let options = ShareOptions {
        tree,
        alias: Alias::new("<nas>"),
        pin: pin.map(LocalSendPin::of),
        downloads,
        clock: Arc::new(SystemClock),
    };
    let handle = start_at(listener, options, news, shutdown.clone(), pace).unwrap();
    Running { handle, events, shutdown }
}

fn folder(path: &Path) -> Arc<dyn Tree> {
    Arc::new(FolderTree::open(path, Arc::new(News::channel().0)).unwrap())
}

impl Running {
    /// A request on a connection of its own, from one of this machine's loopback addresses.
    async fn ask_from(&self, from: u8, request: &str) -> Answer {
        let asking = async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((Ipv4Addr::new(127, 0, 0, from), 0).into()).unwrap();
            let mut stream = socket.connect((Ipv4Addr::LOCALHOST, self.handle.port()).into()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut bytes = Vec::new();
            // A connection that is reset is an answer that broke off.
            let _ = stream.read_to_end(&mut bytes).await;
            bytes
        };
        parsed(&tokio::time::timeout(LIMIT, asking).await.unwrap())
    }

    async fn get_with(&self, path: &str, header: &str) -> Answer {
        let port = self.handle.port();
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{header}\r\n");
        self.ask_from(1, &request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.get_with(path, "").await
    }

    async fn post_from(&self, from: u8, path: &str, header: &str, body: &str) -> Answer {
        let (port, length) = (self.handle.port(), body.len());
        let head = format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{header}");
        self.ask_from(from, &format!("{head}content-length: {length}\r\n\r\n{body}")).await
    }

    /// The token that the caller gets without a PIN.
    async fn token(&self) -> String {
        let there = self.get("/").await.header("location").unwrap().to_owned();
        there.split('/').nth(2).unwrap().to_owned()
    }

    async fn event(&mut self) -> ShareEvent {
        tokio::time::timeout(LIMIT, self.events.recv()).await.unwrap().unwrap()
    }
}

fn parsed(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len().saturating_sub(4));
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let mut rest = bytes.get(end + 4..).unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let (mut body, mut is_whole) = (Vec::new(), false);
    if head.contains("transfer-encoding: chunked") {
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            if size == 0 {
                is_whole = true;
                break;
            }
            let Some(piece) = rest.get(end + 2..end + 2 + size) else { break };
            body.extend_from_slice(piece);
            rest = rest.get(end + 4 + size..).unwrap_or_default();
        }
    } else {
        body = rest.to_vec();
        is_whole = length == Some(body.len());
    }
    Answer { status, head, body, is_whole }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_link_and_no_dots_lead_out_of_what_is_shared() {
    let place = tempfile::tempdir().unwrap();
    let (shared, outside) = (place.path().join("shared"), place.path().join("outside"));
    std::fs::create_dir_all(shared.join("sub")).unwrap();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("secret"), "the secret").unwrap();
    std::fs::write(shared.join("sub/open"), "the open one").unwrap();
    symlink(&outside, shared.join("door")).unwrap();
    symlink("../outside/secret", shared.join("file")).unwrap();
    symlink("../../outside", shared.join("sub/door")).unwrap();
    let running = start_with(folder(&shared), None, None);
    let token = running.token().await;
    assert_eq!(running.get(&format!("/s/{token}/file/sub/open")).await.text(), "the open one");
    for what in ["file", "browse", "zip"] {
        for path in [
            "door",
            "door/",
            "door/secret",
            "file",
            "sub/door/secret",
            "../outside/secret",
            "%2e%2e/outside/secret",
            "sub/..%2f..%2foutside/secret",
            "sub/../../outside/secret",
            "..",
            "/etc/passwd",
            "%00",
            "%zz",
        ] {
            let answer = running.get(&format!("/s/{token}/{what}/{path}")).await;
            assert_eq!(answer.status, 404, "{what} {path}");
        }
    }
    let zip = running.get(&format!("/s/{token}/zip/")).await;
    assert!(zip.is_whole && !zip.text().contains("the secret"), "links go as links");
    let page = running.get(&format!("/s/{token}/browse/")).await.text();
    assert!(page.contains("door <small>(a link)") && !page.contains("file/door"), "{page}");
    let listed = running.post_from(1, "/api/localsend/v2/prepare-download", "", "").await.text();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<_> = listed["files"].as_object().unwrap().values().map(|file| file["fileName"].clone()).collect();
    assert_eq!(names, ["sub/open"]);
    for (path, status) in [("sub/open", 200), ("door/secret", 404), ("../outside/secret", 404), ("file", 404)] {
        let id = crate::model::digest::to_hex(path.as_bytes());
        let there = format!("/api/localsend/v2/download?sessionId={token}&fileId={id}");
        assert_eq!(running.get(&there).await.status, status, "{path}");
    }
    // One file that is shared opens nothing beside it.
    let running = start_with(folder(&shared.join("sub/open")), None, None);
    let token = running.token().await;
    assert_eq!(running.get(&format!("/s/{token}/file/open")).await.text(), "the open one");
    std::fs::write(shared.join("sub/beside"), "b").unwrap();
    assert_eq!(running.get(&format!("/s/{token}/file/beside")).await.status, 404);
    assert!(!running.get(&format!("/s/{token}/browse/")).await.text().contains("beside"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_opens_it_at_one_address_and_wrong_ones_are_few() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), "the file").unwrap();
    let mut running = start_with(folder(place.path()), Some("123456"), None);
    let first = running.get("/").await;
    assert!(first.status == 200 && first.text().contains("&lt;nas&gt;") && !first.text().contains("the file"));
    let page = first.text();
    let mark = page.split("value=\"").nth(1).unwrap().split('"').next().unwrap();
    // A page of somebody else's does not know the mark, and costs the person no guess.
    for _ in 0..10 {
        assert_eq!(running.post_from(1, "/", "origin: http://evil\r\n", "pin=000000&mark=x").await.status, 400);
        assert_eq!(running.post_from(1, "/", "", "pin=123456").await.status, 400);
        let api = running.post_from(1, "/api/localsend/v2/prepare-download?pin=1", "origin: null\r\n", "").await;
        assert_eq!(api.status, 403);
        assert_eq!(running.post_from(1, "/api/localsend/v2/prepare-download", "", "").await.status, 401);
    }
    assert_eq!(running.post_from(1, "/", "", &format!("mark={mark}&pin=000000")).await.status, 401);
    assert_eq!(running.event().await, ShareEvent::WrongPin { address: Ipv4Addr::LOCALHOST.into() });
    let entered = running.post_from(1, "/", "", &format!("mark={mark}&pin=123+456")).await;
    assert_eq!(entered.status, 303);
    let there = entered.header("location").unwrap().to_owned();
    let token = there.split('/').nth(2).unwrap().to_owned();
    assert!(running.get(&there).await.text().contains("file/a"));
    // From another address the same link leads to the PIN.
    let port = running.handle.port();
    let request = format!("GET {there} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    let elsewhere = running.ask_from(2, &request).await;
    assert_eq!((elsewhere.status, elsewhere.header("location")), (303, Some("/")));
    let id = crate::model::digest::to_hex(b"a");
    let download = format!("/api/localsend/v2/download?sessionId={token}&fileId={id}");
    assert_eq!(running.get(&download).await.text(), "the file");
    let request = format!("GET {download} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
    assert_eq!(running.ask_from(2, &request).await.status, 403);
    // Three guesses, by whichever way, and then not even the right one.
    let guess = async |pin: &str| {
        let path = format!("/api/localsend/v2/prepare-download?pin={pin}");
        running.post_from(3, &path, "", "").await.status
    };
    assert_eq!((guess("1").await, guess("2").await, guess("3").await, guess("123456").await), (401, 401, 401, 429));
    // A name that points here is not this place, whatever is asked for.
    let request = format!("GET {there} HTTP/1.1\r\nhost: evil.example:{port}\r\nconnection: close\r\n\r\n");
    assert_eq!(running.ask_from(1, &request).await.status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_a_browser_may_not_do_with_it() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("page.html"), "<script>alert(1)</script>").unwrap();
    let running = start_with(folder(place.path()), None, None);
    let token = running.token().await;
    for path in ["/", "/nowhere", &format!("/s/{token}/browse/"), &format!("/s/{token}/file/page.html")] {
        let answer = running.get(path).await;
        assert!(
            answer.header("content-security-policy").unwrap().starts_with("default-src 'none'; style-src 'sha256-")
        );
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    let file = running.get(&format!("/s/{token}/file/page.html")).await;
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert!(file.header("content-disposition").unwrap().starts_with("attachment;"));
    for (method, path) in [("PUT", "/"), ("DELETE", "/s/x/file/page.html"), ("POST", "/s/x/file/page.html")] {
        let port = running.handle.port();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n");
        assert_eq!(running.ask_from(1, &request).await.status, 404, "{method} {path}");
    }
    assert_eq!(running.get("/api/lan-backup/v1/info").await.status, 404, "the device's own calls are not here");
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_given_to_the_byte() {
    let place = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    std::fs::write(place.path().join("a"), &bytes).unwrap();
    let mut running = start_with(folder(place.path()), None, None);
    let there = format!("/s/{}/file/a", running.token().await);
    let whole = running.get(&there).await;
    assert!(whole.status == 200 && whole.body == bytes && whole.is_whole);
    let given = ShareEvent::Given { address: Ipv4Addr::LOCALHOST.into(), path: Some(b"a".to_vec()), bytes: 1_000_000 };
    assert_eq!(running.event().await, given);
    let tag = whole.header("etag").unwrap().to_owned();
    let part = running.get_with(&there, "range: bytes=300000-699999\r\n").await;
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 300000-699999/1000000")));
    assert!(part.body == bytes[300_000..700_000]);
    let rest = running.get_with(&there, &format!("range: bytes=999990-\r\nif-range: {tag}\r\n")).await;
    assert!(rest.status == 206 && rest.body == bytes[999_990..]);
    assert_eq!(running.get_with(&there, "range: bytes=1000000-\r\n").await.status, 416);
    // Another file is there now: a beginning of the old one is not made longer with it.
    std::fs::write(place.path().join("a"), "other").unwrap();
    let changed = running.get_with(&there, &format!("range: bytes=2-\r\nif-range: {tag}\r\n")).await;
    assert_eq!((changed.status, changed.text()), (200, "other".to_owned()));
}

/// A tree whose only file and whose zip cannot be read to their end.
#[derive(Debug)]
struct Broken;

impl Tree for Broken {
    fn title(&self) -> String {
        "broken".to_owned()
    }

    fn look(&self, path: RelPath) -> BoxFuture<'_, TreeResult<Option<Item>>> {
        Box::pin(async move { Ok(Some(Item { path, kind: Kind::File(1 << 20), mtime: None, sha256: None })) })
    }

    fn list(&self, _: Option<RelPath>, _: Option<Name>, _: usize) -> BoxFuture<'_, TreeResult<Vec<Item>>> {
        Box::pin(async { Err(io::Error::other("no disk").into()) })
    }

    fn files(&self, _: usize) -> BoxFuture<'_, TreeResult<Option<Vec<Item>>>> {
        Box::pin(async { Ok(None) })
    }

    fn open(&self, _: RelPath) -> BoxFuture<'_, TreeResult<Option<Held>>> {
        Box::pin(async {
            let read = |_, sink: mpsc::Sender<bytes::Bytes>| -> BoxFuture<'static, TreeResult<()>> {
                Box::pin(async move {
                    let _ = sink.send(vec![1; 1000].into()).await;
                    Err(io::Error::other("no disk").into())
                })
            };
            Ok(Some(Held { size: 1 << 20, tag: "\"a\"".to_owned(), read: Box::new(read) }))
        })
    }

    fn zip(&self, _: Option<RelPath>, mut pipe: Pipe, _: Shutdown) -> BoxFuture<'_, TreeResult<()>> {
        Box::pin(async move {
            let written = tokio::task::spawn_blocking(move || pipe.write_all(&vec![1; 100_000])).await;
            written.unwrap()?;
            Err(io::Error::other("no disk").into())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_to_its_end_never_looks_whole_and_is_told() {
    let mut running = start_with(Arc::new(Broken), None, None);
    let token = running.token().await;
    for what in ["file/a", "zip/"] {
        let answer = running.get(&format!("/s/{token}/{what}")).await;
        assert!(answer.status == 200 && !answer.is_whole, "{what}");
        assert!(
            matches!(running.event().await, ShareEvent::Fault(fault) if fault.problem.contains("no disk")),
            "{what}"
        );
    }
    let page = running.get(&format!("/s/{token}/browse/")).await;
    assert!(page.status == 500 && !page.text().contains("no disk"), "strangers do not hear why");
    assert_eq!(running.post_from(1, "/api/localsend/v2/prepare-download", "", "").await.status, 500, "too many files");
    drop(running);
    // The control: the same zip from a tree that can be read is whole.
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), vec![1; 100_000]).unwrap();
    let running = start_with(folder(place.path()), None, None);
    let token = running.token().await;
    assert!(running.get(&format!("/s/{token}/zip/")).await.is_whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zip_that_would_lack_what_lies_too_deep_breaks_off_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    let deep = |levels: usize| place.path().join("d/".repeat(levels));
    std::fs::create_dir_all(deep(MAX_PATH_DEPTH - 1)).unwrap();
    std::fs::write(deep(MAX_PATH_DEPTH - 1).join("f"), "deep").unwrap();
    let mut running = start_with(folder(place.path()), None, None);
    let zip = format!("/s/{}/zip/", running.token().await);
    assert!(running.get(&zip).await.is_whole);
    assert!(matches!(running.event().await, ShareEvent::Given { .. }));
    std::fs::create_dir(deep(MAX_PATH_DEPTH)).unwrap();
    std::fs::write(deep(MAX_PATH_DEPTH).join("f"), "too deep").unwrap();
    assert!(!running.get(&zip).await.is_whole);
    assert!(matches!(running.event().await, ShareEvent::Fault(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_so_many_downloads_or_when_it_is_stopped_nobody_gets_anything() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a"), vec![7; 5 << 20]).unwrap();
    std::fs::write(place.path().join("empty"), "").unwrap();
    let running = start_with(folder(place.path()), None, Some(2));
    let token = running.token().await;
    let there = format!("/s/{token}/file/a");
    for _ in 0..2 {
        assert_eq!(
            running.get_with(&there, "range: bytes=0-9\r\n").await.body.len(),
            10,
            "a part is no whole download"
        );
        assert_eq!(running.get_with(&there, "range: bytes=-1\r\n").await.body.len(), 1, "nor is the last byte");
        assert!(running.get(&format!("/s/{token}/file/empty")).await.is_whole, "nor is nothing");
    }
    for _ in 0..4 {
        let most = running.get_with(&there, &format!("range: bytes=0-{}\r\n", 3 << 20)).await;
        assert_eq!(most.body.len(), (3 << 20) + 1, "three fifths twice are not one download");
    }
    let all_but_one = format!("range: bytes=0-{}\r\n", (5 << 20) - 2);
    assert_eq!(running.get_with(&there, &all_but_one).await.body.len(), (5 << 20) - 1, "with the rest that is one");
    assert_eq!(running.get(&there).await.body.len(), 5 << 20, "the last one comes to its end");
    tokio::time::timeout(LIMIT, running.handle.over()).await.unwrap();
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, running.handle.port())).is_ok(), "the port is free again");

    let running = start_with(folder(place.path()), None, None);
    let mut idle = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, running.handle.port())).await.unwrap();
    assert_eq!(running.get("/").await.status, 303);
    running.shutdown.stop();
    tokio::time::timeout(LIMIT, running.handle.over()).await.unwrap();
    let mut byte = [0];
    let ended = tokio::time::timeout(LIMIT, idle.read(&mut byte)).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "an open connection is ended, too");
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, running.handle.port())).is_ok());
}

/// A folder whose list is not made before the gate opens.
#[derive(Debug)]
struct Slow {
    gate: Arc<std::sync::RwLock<()>>,
    begun: Arc<AtomicU64>,
    at_once: Arc<Mutex<(usize, usize)>>,
}

impl Tree for Slow {
    fn title(&self) -> String {
        "slow".to_owned()
    }

    fn look(&self, _: RelPath) -> BoxFuture<'_, TreeResult<Option<Item>>> {
        Box::pin(async { Ok(None) })
    }

    fn list(&self, _: Option<RelPath>, _: Option<Name>, _: usize) -> BoxFuture<'_, TreeResult<Vec<Item>>> {
        let (gate, at_once) = (self.gate.clone(), self.at_once.clone());
        self.begun.fetch_add(1, Ordering::AcqRel);
        let work = move || {
            {
                let mut at_once = at_once.lock().unwrap();
                at_once.0 += 1;
                at_once.1 = at_once.1.max(at_once.0);
            }
            drop(gate.read());
            at_once.lock().unwrap().0 -= 1;
        };
        Box::pin(async {
            tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?;
            Ok(Vec::new())
        })
    }

    fn files(&self, _: usize) -> BoxFuture<'_, TreeResult<Option<Vec<Item>>>> {
        Box::pin(async {
            let name = |n: usize| RelPath::new(format!("{n:0200}")).unwrap();
            let item = |n| Item { path: name(n), kind: Kind::File(1), mtime: None, sha256: None };
            Ok(Some((0..20_000).map(item).collect()))
        })
    }

    fn open(&self, _: RelPath) -> BoxFuture<'_, TreeResult<Option<Held>>> {
        Box::pin(async { Ok(None) })
    }

    fn zip(&self, _: Option<RelPath>, pipe: Pipe, _: Shutdown) -> BoxFuture<'_, TreeResult<()>> {
        let gate = self.gate.clone();
        Box::pin(async {
            let work = move || {
                drop(gate.read());
                drop(pipe);
            };
            Ok(tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?)
        })
    }
}

impl Running {
    /// Sends a request and reads nothing of the answer.
    async fn begin(&self, method: &str, path: &str) -> tokio::net::TcpStream {
        let port = self.handle.port();
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn until(&self, true_now: impl Fn() -> bool) {
        let looking = async {
            while !true_now() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, looking).await.expect("it becomes true");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_frees_no_place_before_the_work_ends_or_the_answer_is_taken() {
    let (gate, begun, at_once) = (Arc::default(), Arc::<AtomicU64>::default(), Arc::default());
    let slow = Slow { gate: Arc::clone(&gate), begun: begun.clone(), at_once: Arc::clone(&at_once) };
    let running = start_with(Arc::new(slow), None, None);
    let token = running.token().await;
    let share = running.handle.share.clone();
    // The guard is held on a thread of its own, and not across an await.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let holder = std::thread::spawn(move || {
        let _closed = gate.write();
        let _ = ready.send(());
        let _ = held.recv();
    });
    is_ready.recv().unwrap();
    for n in 0..6 {
        let stream = running.begin("GET", &format!("/s/{token}/browse/")).await;
        // The first ones begin; of those that come when they have hung up none does.
        let waited = running.until(|| begun.load(Ordering::Acquire) > n);
        let _ = tokio::time::timeout(Duration::from_millis(if n < SHARE_LISTS as u64 { 30_000 } else { 100 }), waited)
            .await;
        drop(stream);
    }
    assert_eq!(begun.load(Ordering::Acquire), SHARE_LISTS as u64);
    let zips: Vec<_> = {
        let mut zips = Vec::new();
        for _ in 0..SHARE_ZIPS {
            zips.push(running.begin("GET", &format!("/s/{token}/zip/")).await);
        }
        zips
    };
    running.until(|| share.zips.available_permits() == 0).await;
    assert_eq!(running.get(&format!("/s/{token}/zip/")).await.status, 503, "one more zip than are made at once");
    drop(zips);
    drop(release);
    holder.join().unwrap();
    running.until(|| share.zips.available_permits() == SHARE_ZIPS).await;
    assert_eq!(running.get(&format!("/s/{token}/browse/")).await.status, 200);
    assert!(at_once.lock().unwrap().1 <= SHARE_LISTS);
    // A long list keeps its place until it is taken, or nobody is there to take it.
    running.until(|| share.lists.available_permits() == SHARE_LISTS).await;
    let mut slow = running.begin("POST", "/api/localsend/v2/prepare-download").await;
    let mut byte = [0];
    slow.read_exact(&mut byte).await.unwrap();
    assert_eq!(share.lists.available_permits(), SHARE_LISTS - 1);
    drop(slow);
    running.until(|| share.lists.available_permits() == SHARE_LISTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_list_to_its_end_keeps_nobody_from_the_pages_and_lists_are_not_waited_for_without_end() {
    let slow = Slow { gate: Arc::default(), begun: Arc::default(), at_once: Arc::default() };
    let pace = Pace { place: Duration::from_millis(100), ..Pace::STANDARD };
    let running = start_paced(Arc::new(slow), None, None, pace);
    let token = running.token().await;
    let share = running.handle.share.clone();
    let mut takers = Vec::new();
    for _ in 0..SHARE_LISTS {
        let mut taker = running.begin("POST", "/api/localsend/v2/prepare-download").await;
        taker.read_exact(&mut [0]).await.unwrap();
        takers.push(taker);
    }
    assert_eq!(share.lists.available_permits(), 0);
    assert_eq!(running.get(&format!("/s/{token}/browse/")).await.status, 200, "pages have places of their own");
    assert_eq!(running.post_from(1, "/api/localsend/v2/prepare-download", "", "").await.status, 503);
    drop(takers);
    running.until(|| share.lists.available_permits() == SHARE_LISTS).await;
    assert_eq!(running.post_from(1, "/api/localsend/v2/prepare-download", "", "").await.status, 200);
    // The same for pages, while one is made that does not end.
    let _held: Vec<_> = (0..SHARE_LISTS).map(|_| share.pages.clone().try_acquire_owned().unwrap()).collect();
    assert_eq!(running.get(&format!("/s/{token}/browse/")).await.status, 503);
}
