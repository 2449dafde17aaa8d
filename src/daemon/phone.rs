//! Files to a stock LocalSend app, from end to end: look, offer, ask for the PIN, send two at a time.
//!
//! Only for devices that are not paired: a paired one that announces itself as LocalSend only is never called this way, because
//! whoever makes it look so would get the files by a weaker door. What LocalSend cannot carry (links, empty folders, devices) is named.

#[cfg(test)]
mod apps;
mod outgoing;
mod trouble;

use crate::backup::filter::FilterOptions;
use crate::client::{self, Client, Offered};
use crate::daemon::phone::outgoing::{Outgoing, choose, collect, file_type, pack, read};
use crate::daemon::phone::trouble::{is_refusal, may_pass};
use crate::daemon::service::{Neighbourhood, NeighbourhoodOptions};
use crate::daemon::{Context, Error, Result};
use crate::identity::Expect;
use crate::model::{Alias, Fingerprint};
use crate::monitor::{Counter, Fault, Monitor, Phase};
use crate::platform::Context as _;
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use crate::protocol::localsend::{FileOffer, FileTimes, FilesWanted, PrepareFiles};
use crate::restore::select::Include;
use crate::server::ServerEvent;
use crate::server::share::tree::Tree;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

pub use outgoing::Packing;
pub use trouble::Trouble;

/// Files under way at once, as apps have it.
const PARALLEL: usize = 2;
/// Tries of one file.
const MAX_TRIES: u32 = 3;
/// Pause between them.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Times that a person may type the PIN.
const MAX_PINS: u32 = 3;
/// Files refused one after the other, after which the session is taken to be over: one more than are under way at once. Some apps refuse a
/// single file, and the others shall arrive.
const MAX_REFUSALS: u64 = PARALLEL as u64 + 1;
/// Pieces waiting for the connection.
const PIECES: usize = 4;

/// A LocalSend app that answered just now.
#[derive(Clone, Debug)]
pub struct Phone {
    /// Who it is; pinned in every handshake. `None` in the clear, where nobody can tell.
    pub fingerprint: Option<Fingerprint>,
    /// What it calls itself.
    pub alias: Alias,
    /// Where it answers.
    pub addresses: Vec<SocketAddr>,
}

/// Gives the PIN that a phone shows.
pub trait PhonePin: Send {
    /// Asks for it; `again` when the last one was wrong.
    fn pin(&mut self, again: bool) -> BoxFuture<'_, Result<String>>;
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Files that are there now because of this call.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that the other side did not want: it has them, or its person left them out.
    pub not_wanted: u64,
    /// Files that did not arrive; each was named.
    pub failed: u64,
}

/// Sends what is below `paths`, file by file or packed.
///
/// # Errors
/// A no, a PIN that was not given, or what stopped it. Files that could not be sent are faults.
#[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
pub async fn deliver(
    context: &Context,
    phone: &Phone,
    paths: &[PathBuf],
    filter: &FilterOptions,
    packing: Packing,
    pin: &mut dyn PhonePin,
    monitor: Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<Delivered> {
    refuse_paired(context, phone)?;
    // Holds the zip until it was sent.
    let scratch = tempfile::tempdir_in(context.home.cache());
    let scratch = scratch.context("create a folder in", context.home.cache())?;
    let files = {
        let (paths, filter, monitor) = (paths.to_vec(), filter.clone(), monitor.clone());
        let (folder, clock, stop) = (scratch.path().to_owned(), context.clock.clone(), shutdown.clone());
        tokio::task::spawn_blocking(move || match packing {
            Packing::Files => collect(&paths, &filter, &*clock, &*monitor),
            Packing::Zip => pack(&paths, &filter, &folder, &*clock, &monitor, &stop).map(|zip| vec![zip]),
        })
    };
    let files = files.await.map_err(|_| Error::Stopped)??;
    hand_over(context, phone, files, pin, monitor, shutdown).await
}

/// Sends files of a snapshot, as they come out of it: nothing is written here.
///
/// # Errors
/// As [`deliver`], and the vault's.
pub async fn deliver_from(
    context: &Context,
    phone: &Phone,
    tree: Arc<dyn Tree>,
    include: &Include,
    pin: &mut dyn PhonePin,
    monitor: Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<Delivered> {
    refuse_paired(context, phone)?;
    let files = choose(&tree, include, &*monitor).await?;
    hand_over(context, phone, files, pin, monitor, shutdown).await
}

fn refuse_paired(context: &Context, phone: &Phone) -> Result<()> {
    match phone.fingerprint.and_then(|fingerprint| context.trust.find(&fingerprint)) {
        Some(_) => Err(Error::PairedAsLocalSend(phone.alias.to_string())),
        None => Ok(()),
    }
}

async fn hand_over(
    context: &Context,
    phone: &Phone,
    files: Vec<Outgoing>,
    pin: &mut dyn PhonePin,
    monitor: Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<Delivered> {
    let addresses = phone.addresses.clone();
    let client = if let Some(fingerprint) = phone.fingerprint {
        Client::new(&context.identity, addresses, Expect::Known(fingerprint))?
    } else {
        monitor.notice(
            "what is sent is not encrypted, and nobody can tell who gets it: whoever is on this network can read it"
                .to_owned(),
        );
        Client::in_the_clear(&context.identity, addresses)?
    };
    // So that its person can cancel: apps post that to the sender.
    let mut neighbourhood = Neighbourhood::open(context, NeighbourhoodOptions::transient()).await.ok();
    let port = neighbourhood.as_ref().map_or(0, |here| here.server().port());
    let events = neighbourhood.as_mut().and_then(Neighbourhood::take_events);
    let sending = send(context, &client, phone, files, port, events, pin, &monitor, shutdown);
    let result = sending.await;
    if let Some(neighbourhood) = neighbourhood {
        neighbourhood.close().await;
    }
    result
}

#[expect(clippy::too_many_arguments, reason = "each is a part of its own")]
async fn send(
    context: &Context,
    client: &Client,
    phone: &Phone,
    files: Vec<Outgoing>,
    port: u16,
    events: Option<mpsc::Receiver<ServerEvent>>,
    pin: &mut dyn PhonePin,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<Delivered> {
    let offer = offer(context, port, &files);
    let what = if files.len() == 1 { "1 file".to_owned() } else { format!("{} files", files.len()) };
    monitor.notice(format!("waiting for the person at {} to accept {what}", phone.alias));
    let wanted = tokio::select! {
        wanted = agree(client, &offer, pin) => wanted?,
        () = shutdown.stopped() => {
            let _ = client.cancel_files(None).await;
            return Err(Error::Stopped);
        }
    };
    let Some(wanted) = wanted else {
        return Ok(Delivered { not_wanted: files.len() as u64, ..Delivered::default() });
    };
    let mut work: Vec<(String, Outgoing)> = offer
        .files
        .keys()
        .zip(files)
        .filter(|(id, _)| wanted.files.contains_key(*id))
        .map(|(id, file)| (id.clone(), file))
        .collect();
    work.reverse();
    let not_wanted = (offer.files.len() - work.len()) as u64;
    monitor.phase(Phase::Send);
    monitor.total(Counter::Bytes, work.iter().map(|(_, file)| file.size).sum());
    monitor.total(Counter::Entries, work.len() as u64);
    let sending = send_all(client, Arc::new(wanted.clone()), work, monitor);
    let cancelled = cancelled_there(events, wanted.session_id.clone(), phone.fingerprint);
    tokio::select! {
        delivered = sending => Ok(Delivered { not_wanted, ..delivered? }),
        () = cancelled => Err(Error::CancelledThere(phone.alias.to_string())),
        () = shutdown.stopped() => {
            let _ = client.cancel_files(Some(&wanted.session_id)).await;
            Err(Error::Stopped)
        }
    }
}

/// Offers until the PIN is right; `None` when nothing need be sent.
async fn agree(client: &Client, offer: &PrepareFiles, source: &mut dyn PhonePin) -> Result<Option<FilesWanted>> {
    let mut pin = None;
    for again in 0..=MAX_PINS {
        match client.offer_files(offer, pin.as_deref()).await.map_err(Trouble::of_offer)? {
            Offered::Wanted(wanted) => return Ok(Some(wanted)),
            Offered::Nothing => return Ok(None),
            Offered::PinWanted if again == MAX_PINS => break,
            Offered::PinWanted => pin = Some(source.pin(again > 0).await?),
        }
    }
    Err(Trouble::WrongPin.into())
}

/// Sends until all was tried, or until the app has refused so many one after the other that its session must be over.
async fn send_all(
    client: &Client,
    wanted: Arc<FilesWanted>,
    work: Vec<(String, Outgoing)>,
    monitor: &Arc<dyn Monitor>,
) -> Result<Delivered> {
    let all = work.len() as u64;
    let work = Arc::new(Mutex::new(work));
    let counts = Arc::new(Counts::default());
    let mut lanes = JoinSet::new();
    for _ in 0..PARALLEL {
        let (client, wanted, work, monitor) = (client.clone(), wanted.clone(), work.clone(), monitor.clone());
        let counts = counts.clone();
        lanes.spawn(async move {
            loop {
                if counts.in_a_row.load(Ordering::Relaxed) >= MAX_REFUSALS {
                    return;
                }
                let next = work.lock().await.pop();
                let Some((id, file)) = next else { return };
                match send_one(&client, &wanted, &id, &file, &monitor).await {
                    Ok(()) => {
                        counts.files.fetch_add(1, Ordering::Relaxed);
                        counts.bytes.fetch_add(file.size, Ordering::Relaxed);
                        counts.in_a_row.store(0, Ordering::Relaxed);
                    }
                    Err(error) => {
                        counts.failed.fetch_add(1, Ordering::Relaxed);
                        if is_refusal(&error) {
                            counts.refused.fetch_add(1, Ordering::Relaxed);
                            counts.in_a_row.fetch_add(1, Ordering::Relaxed);
                        }
                        monitor.fault(Fault::new(file.subject(), &error));
                    }
                }
                monitor.count(Counter::Entries, 1);
                monitor.count(Counter::Files, 1);
            }
        });
    }
    while lanes.join_next().await.is_some() {}
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (files, failed) = (read(&counts.files), read(&counts.failed));
    // All were refused, or the last ones and then no more were tried.
    if read(&counts.refused) == all && all > 0 || read(&counts.in_a_row) >= MAX_REFUSALS {
        return Err(Trouble::Ended { arrived: files, wanted: all }.into());
    }
    Ok(Delivered { files, bytes: read(&counts.bytes), not_wanted: 0, failed })
}

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    in_a_row: AtomicU64,
}

async fn send_one(
    client: &Client,
    wanted: &FilesWanted,
    id: &str,
    file: &Outgoing,
    monitor: &Arc<dyn Monitor>,
) -> client::Result<()> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (sender, pieces) = mpsc::channel(PIECES);
        let reading = tokio::spawn(read(file.clone(), sender, monitor.clone()));
        let sent = client.send_file(wanted, id, pieces).await;
        if let Ok(Err(error)) = reading.await {
            return Err(client::Error::Failed("the file could not be read", error));
        }
        match sent {
            Err(error) if tries < MAX_TRIES && may_pass(&error) => {
                tokio::time::sleep(RETRY_PAUSE * tries).await;
            }
            other => return other,
        }
    }
}

/// Returns when the person there cancelled: the certificate and the session's name are right.
async fn cancelled_there(events: Option<mpsc::Receiver<ServerEvent>>, name: String, by: Option<Fingerprint>) {
    if let Some(mut events) = events {
        while let Some(event) = events.recv().await {
            // In the clear nobody proves anything: there the session's name, which nobody can guess, has to do.
            if let ServerEvent::CancelHeard { session, certificate, .. } = event
                && session == name
                && (by.is_none() || certificate == by)
            {
                return;
            }
        }
    }
    std::future::pending::<()>().await;
}

fn offer(context: &Context, port: u16, files: &[Outgoing]) -> PrepareFiles {
    let info = Announcement::of_this_device(context.alias.clone(), context.identity.fingerprint(), port, true);
    let file = |(number, file): (usize, &Outgoing)| {
        // In the order of the files, so that they can be put together again.
        let id = format!("{number:08}");
        let modified = file.modified.and_then(|time| Timestamp::from_nanosecond(time.as_nanos()).ok());
        let modified = modified.map(|time| time.to_string());
        let offer = FileOffer {
            id: id.clone(),
            file_name: file.name.clone(),
            size: file.size,
            file_type: file_type(&file.name).to_owned(),
            // Only where it is known already. Hashing first would read every file once more, those too that the other side has.
            sha256: file.sha256.clone(),
            preview: None,
            metadata: Some(FileTimes { modified, accessed: None }),
        };
        (id, offer)
    };
    let files: BTreeMap<_, _> = files.iter().enumerate().map(file).collect();
    PrepareFiles { info, files }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::filter::FilterOptions;
    use crate::client::test_server::TestServer;
    use crate::config::Home;
    use crate::daemon::locate::{Chooser, locate_any};
    use crate::identity::trust::Trust;
    use crate::model::{Device, Rights};
    use crate::monitor::recording::RecordingMonitor;
    use crate::platform::attributes;
    use crate::protocol::paths;
    use crate::server::share::folder::FolderTree;
    use axum::extract::{Query, State};
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use bytes::Bytes;
    use futures_util::FutureExt;
    use std::collections::HashMap;
    use std::net::{IpAddr, Ipv4Addr};
    use std::path::Path;
    use std::sync::Mutex as StdMutex;

    /// A double of an app that receives: asks for a PIN, leaves `left.txt` out, takes a wrong hash for one first try, refuses another.
    #[derive(Debug, Default)]
    struct App {
        offer: StdMutex<Option<PrepareFiles>>,
        files: StdMutex<HashMap<String, Vec<u8>>>,
        tries: StdMutex<HashMap<String, u32>>,
        calls: AtomicU64,
        // Told when `hold.bin` has come, which is never answered.
        held: tokio::sync::Notify,
    }

    type Shared = State<Arc<App>>;
    type Parameters = Query<HashMap<String, String>>;

    async fn prepare(State(app): Shared, Query(query): Parameters, Json(offer): Json<PrepareFiles>) -> Response {
        app.calls.fetch_add(1, Ordering::Relaxed);
        if query.get("pin").is_none_or(|pin| pin != "47&11") {
            return (StatusCode::UNAUTHORIZED, Json(serde_json::json!({ "message": "PIN" }))).into_response();
        }
        let wanted = offer.files.iter().filter(|(_, file)| !file.file_name.ends_with("left.txt"));
        let files = wanted.map(|(id, _)| (id.clone(), format!("token {id}"))).collect();
        *app.offer.lock().unwrap() = Some(offer);
        Json(FilesWanted { session_id: "a session".into(), files }).into_response()
    }

    async fn upload(State(app): Shared, Query(query): Parameters, body: Bytes) -> StatusCode {
        app.calls.fetch_add(1, Ordering::Relaxed);
        let id = query["fileId"].clone();
        assert_eq!(
            (query["token"].as_str(), query["sessionId"].as_str()),
            (format!("token {id}").as_str(), "a session")
        );
        let name = app.offer.lock().unwrap().as_ref().unwrap().files[&id].file_name.clone();
        let tries = {
            let mut tries = app.tries.lock().unwrap();
            *tries.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1)
        };
        match name.as_str() {
            "folder/again.bin" if tries < 3 => StatusCode::UNPROCESSABLE_ENTITY,
            "folder/never.bin" => StatusCode::FORBIDDEN,
            "folder/hold.bin" => {
                app.held.notify_one();
                std::future::pending().await
            }
            _ => {
                app.files.lock().unwrap().insert(name, body.to_vec());
                StatusCode::OK
            }
        }
    }

    async fn start() -> (TestServer, Arc<App>) {
        let app = Arc::new(App::default());
        let touched = |State(app): Shared| async move {
            app.calls.fetch_add(1, Ordering::Relaxed);
            StatusCode::NOT_FOUND
        };
        let router = Router::new()
            .route(paths::LOCALSEND_PREPARE_UPLOAD, post(prepare))
            .route(paths::LOCALSEND_UPLOAD, post(upload))
            .route(paths::LOCALSEND_REGISTER, post(touched))
            .route(paths::LOCALSEND_INFO_V2, get(touched))
            .with_state(app.clone());
        (TestServer::start(router).await, app)
    }

    fn context(folder: &Path) -> Context {
        let loopback = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Context::open(Home::at(folder), Some("laptop"), loopback, 53_999).unwrap()
    }

    fn phone(server: &TestServer) -> Phone {
        let (fingerprint, addresses) = (server.identity.fingerprint(), vec![server.address]);
        Phone { fingerprint: Some(fingerprint), alias: Alias::new("Pixel"), addresses }
    }

    struct Pins(Vec<&'static str>);

    impl PhonePin for Pins {
        fn pin(&mut self, _: bool) -> BoxFuture<'_, Result<String>> {
            let pin = self.0.pop().map(str::to_owned);
            Box::pin(async move { pin.ok_or(Error::Stopped) })
        }
    }

    impl Chooser for Pins {
        fn choose(&mut self, _: &str, _: &[Device]) -> Option<usize> {
            None
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_arrives_with_its_names_and_times_and_what_did_not_is_named() {
        let (server, app) = start().await;
        let home = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("folder");
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        let large: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
        for (name, bytes) in [
            ("deep/large.bin", large.as_slice()),
            ("again.bin", b"again"),
            ("never.bin", b"never"),
            ("left.txt", b"left"),
            ("empty", b""),
        ] {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        std::os::unix::fs::symlink("again.bin", folder.join("link")).unwrap();
        let monitor = Arc::new(RecordingMonitor::default());
        let (mut pins, device) = (Pins(vec!["47&11", "0000"]), phone(&server));
        let (context, folders) = (context(home.path()), [folder.clone()]);
        let filter = FilterOptions::default();
        let shutdown = Shutdown::new();
        let sending =
            deliver(&context, &device, &folders, &filter, Packing::Files, &mut pins, monitor.clone(), &shutdown);
        let delivered = sending.await.unwrap();
        let bytes = large.len() as u64 + 5;
        assert_eq!(delivered, Delivered { files: 3, bytes, not_wanted: 1, failed: 1 });
        let files = app.files.lock().unwrap();
        assert_eq!(files["folder/deep/large.bin"], large);
        assert_eq!((files["folder/again.bin"].as_slice(), files["folder/empty"].len()), (&b"again"[..], 0));
        assert_eq!(app.tries.lock().unwrap()["folder/never.bin"], 1, "a no is not asked again");
        let faults: Vec<_> = monitor.faults().into_iter().map(|fault| fault.subject).collect();
        assert!(faults.iter().any(|path| path.ends_with("never.bin")), "{faults:?}");
        assert!(faults.iter().any(|path| path.ends_with("link")), "{faults:?}");
        let offer = app.offer.lock().unwrap().take().unwrap();
        assert_eq!(offer.info.fingerprint, context.identity.fingerprint().to_string());
        let again = offer.files.values().find(|file| file.file_name == "folder/again.bin").unwrap();
        let modified = again.metadata.as_ref().unwrap().modified.clone().unwrap().parse::<Timestamp>().unwrap();
        let there = attributes::modified(&std::fs::metadata(folder.join("again.bin")).unwrap());
        assert_eq!(modified.as_nanosecond(), there.as_nanos());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_arrives_as_one_zip_when_asked_for() {
        let (server, app) = start().await;
        let (home, tree) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = tree.path().join("folder");
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        std::fs::write(folder.join("deep/a"), vec![7; 300_000]).unwrap();
        std::fs::write(folder.join("b\\c"), "a name that LocalSend refuses").unwrap();
        let monitor = Arc::new(RecordingMonitor::default());
        let (mut pins, device, shutdown) = (Pins(vec!["47&11"]), phone(&server), Shutdown::new());
        let (context, folders, filter) = (context(home.path()), [folder], FilterOptions::default());
        let sending =
            deliver(&context, &device, &folders, &filter, Packing::Zip, &mut pins, monitor.clone(), &shutdown);
        assert_eq!(sending.await.unwrap().files, 1);
        assert_eq!(monitor.faults(), []);
        let bytes = app.files.lock().unwrap()["folder.zip"].clone();
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut zip.by_name("folder/deep/a").unwrap(), &mut content).unwrap();
        assert!(content == vec![7; 300_000] && zip.len() == 2);
        let left: Vec<_> = std::fs::read_dir(context.home.cache()).unwrap().collect();
        assert!(left.is_empty(), "the zip is gone: {left:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_tree_holds_goes_to_a_phone_and_only_what_was_asked_for() {
        let (server, app) = start().await;
        let (home, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(place.path().join("folder")).unwrap();
        for (name, bytes) in [("folder/a.jpg", "one"), ("folder/b.txt", "two"), ("folder/empty.jpg", "")] {
            std::fs::write(place.path().join(name), bytes).unwrap();
        }
        let monitor: Arc<dyn Monitor> = Arc::new(RecordingMonitor::default());
        let tree: Arc<dyn Tree> = Arc::new(FolderTree::open(place.path(), monitor.clone()).unwrap());
        let (mut pins, device, shutdown) = (Pins(vec!["47&11"]), phone(&server), Shutdown::new());
        let (context, include) = (context(home.path()), Include::new(&["*.jpg".to_owned()]).unwrap());
        let sending = deliver_from(&context, &device, tree.clone(), &include, &mut pins, monitor.clone(), &shutdown);
        assert_eq!(sending.await.unwrap(), Delivered { files: 2, bytes: 3, not_wanted: 0, failed: 0 });
        let files = app.files.lock().unwrap().clone();
        assert_eq!((files.len(), files["folder/a.jpg"].as_slice()), (2, &b"one"[..]));
        let nothing = Include::new(&["*.png".to_owned()]).unwrap();
        let sending = deliver_from(&context, &device, tree, &nothing, &mut pins, monitor, &shutdown);
        assert!(matches!(sending.await, Err(Error::Restore(_))), "and to nothing there is a sentence");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_person_at_the_phone_can_cancel_and_nobody_else() {
        let (server, app) = start().await;
        let (home, other, tree) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = tree.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hold.bin"), "x").unwrap();
        let monitor: Arc<dyn Monitor> = Arc::new(RecordingMonitor::default());
        let (mut pins, device, shutdown) = (Pins(vec!["47&11"]), phone(&server), Shutdown::new());
        let (context, folders, filter) = (context(home.path()), [folder], FilterOptions::default());
        let sending = deliver(&context, &device, &folders, &filter, Packing::Files, &mut pins, monitor, &shutdown);
        let stranger = crate::identity::Identity::load_or_generate(other.path()).unwrap();
        let cancelling = async {
            app.held.notified().await;
            let port = app.offer.lock().unwrap().as_ref().unwrap().info.port;
            let cancel = async |identity: &crate::identity::Identity, session: &str| {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                let client = Client::new(identity, vec![address], Expect::FirstUse).unwrap();
                client.cancel_files(Some(session)).await.unwrap();
            };
            // Another certificate, and another session's name, end nothing.
            cancel(&stranger, "a session").await;
            cancel(&server.identity, "another").await;
            assert!(app.held.notified().now_or_never().is_none());
            cancel(&server.identity, "a session").await;
        };
        let (sent, ()) = tokio::join!(sending, cancelling);
        assert!(matches!(sent, Err(Error::CancelledThere(_))), "{sent:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_paired_device_that_shows_itself_as_localsend_is_never_called_so() {
        let (server, app) = start().await;
        let home = tempfile::tempdir().unwrap();
        let context = context(home.path());
        std::fs::write(home.path().join("file"), "x").unwrap();
        let trust = Trust {
            fingerprint: server.identity.fingerprint(),
            signing_key: "ab".repeat(32),
            alias: Alias::new("nas"),
            rights: Rights::of_a_paired_device(),
            paired_at: Timestamp::UNIX_EPOCH,
            sets: std::collections::BTreeSet::new(),
            restore_from: std::collections::BTreeSet::new(),
            address: None,
        };
        let refused = async |trust: Trust| {
            context.trust.insert(trust.clone()).unwrap();
            let by_address = locate_any(&context, &server.address.to_string(), &mut Pins(Vec::new())).await;
            context.trust.remove(&trust.fingerprint).unwrap();
            assert!(matches!(by_address, Err(Error::PairedAsLocalSend(_))), "{by_address:?}");
        };
        // By its certificate, and by the address where a paired one is known to be.
        refused(trust.clone()).await;
        let elsewhere = Fingerprint::from_bytes([7; 32]);
        refused(Trust { fingerprint: elsewhere, address: Some(server.address), ..trust.clone() }).await;
        context.trust.insert(trust).unwrap();
        let (filter, shutdown) = (FilterOptions::default(), Shutdown::new());
        let monitor: Arc<dyn Monitor> = Arc::new(RecordingMonitor::default());
        let (mut pins, paths, device) = (Pins(vec!["47&11"]), [home.path().join("file")], phone(&server));
        let sending =
            deliver(&context, &device, &paths, &filter, Packing::Files, &mut pins, monitor.clone(), &shutdown);
        assert!(matches!(sending.await, Err(Error::PairedAsLocalSend(_))));
        assert_eq!(app.calls.load(Ordering::Relaxed), 0, "no call of LocalSend's was made");
        // The control: the same device, not paired, is called.
        context.trust.remove(&server.identity.fingerprint()).unwrap();
        let sending = deliver(&context, &device, &paths, &filter, Packing::Files, &mut pins, monitor, &shutdown);
        assert_eq!(sending.await.unwrap().files, 1);
        assert!(app.calls.load(Ordering::Relaxed) > 0);
    }
}
