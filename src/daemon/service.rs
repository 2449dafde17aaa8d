//! Server and discovery under one shutdown: the long-lived kind behind `serve`, and the short-lived kind that a command opens
//! so that others can answer it.

use crate::config::{Accept, LocalSend};
use crate::daemon::control::{self, ControlSocket};
use crate::daemon::scrub::{self, Scrub, ScrubOptions};
use crate::daemon::{Context, Error, Result, hand_over};
use crate::discovery::https_caller::HttpsCaller;
use crate::discovery::{self, DiscoveryHandle, DiscoveryOptions};
use crate::identity::PhoneBook;
use crate::model::InboxKeep;
use crate::model::limits::DEFAULT_PORT;
use crate::platform;
use crate::platform::lock::{Holders, Lock};
use crate::platform::shutdown::Shutdown;
use crate::protocol::Announcement;
use crate::server::{
    self, AcceptMode, Desk, LocalSendMode, LocalSendOptions, LocalSendPin, ServerEvent, ServerHandle, ServerOptions,
};
use crate::store::layout::{REPOSITORIES, STORE_FILE};
use crate::store::scrubber::News;
use crate::store::{RecoveryReport, Store};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// News waiting for whoever shows them; the server drops progress when half of it is full.
const QUEUED_EVENTS: usize = 1024;
/// What stays free on the disk unless the settings say otherwise: a system whose disk is quite full stops working.
const DEFAULT_RESERVE_GIB: u64 = 1;

/// How to take part.
#[derive(Debug)]
pub struct NeighbourhoodOptions {
    /// The store to serve; without one only `info`, `register` and pairing are answered.
    pub store: Option<Store>,
    /// Where to listen; `None` for the usual port, or a free one when it is taken.
    pub port: Option<u16>,
    /// Who is let in.
    pub accept: AcceptMode,
    /// Where questions go.
    pub desk: Arc<Desk>,
    /// It lasts only while one command runs.
    pub transient: bool,
    /// Files from LocalSend apps.
    pub localsend: LocalSendOptions,
}

impl NeighbourhoodOptions {
    /// For one command: be found, find, and let nobody in.
    pub fn transient() -> Self {
        Self {
            store: None,
            port: Some(0),
            accept: AcceptMode::Never,
            desk: Arc::new(Desk::new()),
            transient: true,
            localsend: LocalSendOptions::default(),
        }
    }
}

/// Server and discovery of this device while it takes part.
#[derive(Debug)]
pub struct Neighbourhood {
    server: ServerHandle,
    discovery: DiscoveryHandle,
    shutdown: Shutdown,
    events: Option<mpsc::Receiver<ServerEvent>>,
    /// The usual port was taken.
    pub moved: bool,
}

impl Neighbourhood {
    /// Listens, announces, listens to announcements.
    ///
    /// # Errors
    /// The port is taken, or `bind` is not an address of this machine.
    pub async fn open(context: &Context, options: NeighbourhoodOptions) -> Result<Self> {
        let (listener, moved) = listen(context.bind, options.port)?;
        let shutdown = Shutdown::new();
        let (event_sender, server_events) = mpsc::channel(QUEUED_EVENTS);
        let gib = |n: u64| n << 30;
        let server = server::start(
            listener,
            ServerOptions {
                identity: context.identity.clone(),
                trust: context.trust.clone(),
                store: options.store,
                alias: context.alias.clone(),
                transient: options.transient,
                accept: options.accept,
                approver: options.desk,
                clock: context.clock.clone(),
                events: event_sender,
                state_folder: context.home.state(),
                quota: context.settings.quota_gib.map(gib),
                reserve_bytes: gib(context.settings.reserve_gib.unwrap_or(DEFAULT_RESERVE_GIB)),
                localsend: options.localsend,
            },
            shutdown.clone(),
        )
        .await?;
        let fingerprint = context.identity.fingerprint();
        let announcement =
            Announcement::of_this_device(context.alias.clone(), fingerprint, server.port(), options.transient)
                .by_instance(context.identity.instance());
        let known = context.trust.list().into_iter().map(|t| (t.fingerprint, t.alias, t.address)).collect();
        let discovery = discovery::start(
            DiscoveryOptions {
                bind: context.bind,
                multicast_port: context.multicast_port,
                known,
                ..DiscoveryOptions::new(announcement)
            },
            Arc::new(HttpsCaller::new(context.identity.clone())),
            shutdown.clone(),
        )?;
        let (face_sender, events) = mpsc::channel(QUEUED_EVENTS);
        tokio::spawn(pass_on(server_events, discovery.clone(), context.clone(), face_sender));
        Ok(Self { server, discovery, shutdown, events: Some(events), moved })
    }

    /// Who else is here.
    pub fn discovery(&self) -> &DiscoveryHandle {
        &self.discovery
    }

    /// The server.
    pub fn server(&self) -> &ServerHandle {
        &self.server
    }

    /// The server's news, once; `Heard` is not among them.
    pub fn take_events(&mut self) -> Option<mpsc::Receiver<ServerEvent>> {
        self.events.take()
    }

    /// Ends both and waits for it.
    pub async fn close(&self) {
        self.shutdown.stop();
        self.server.stopped().await;
        self.discovery.stopped().await;
    }
}

/// Gives discovery what concerns it, and whoever shows things the rest.
async fn pass_on(
    mut events: mpsc::Receiver<ServerEvent>,
    discovery: DiscoveryHandle,
    context: Context,
    face: mpsc::Sender<ServerEvent>,
) {
    while let Some(event) = events.recv().await {
        match &event {
            ServerEvent::Heard { announcement, from, certificate } => {
                discovery.heard(announcement, *from, *certificate);
                continue;
            }
            ServerEvent::Paired { fingerprint, alias, .. } => {
                let address = context.trust.find(fingerprint).and_then(|trust| trust.address);
                discovery.know(*fingerprint, alias.clone(), address);
            }
            ServerEvent::Unpaired { fingerprint } => discovery.unknow(fingerprint),
            ServerEvent::Rotated { was, fingerprint, alias } => {
                let address = context.trust.find(fingerprint).and_then(|trust| trust.address);
                discovery.unknow(was);
                discovery.know(*fingerprint, alias.clone(), address);
            }
            _ => {}
        }
        // Nobody may be watching (a short-lived listener), and nobody is waited for.
        let _ = face.try_send(event);
    }
}

/// What `serve` is told.
#[derive(Debug)]
pub struct ServeOptions {
    /// Where to keep what is received.
    pub store: Option<PathBuf>,
    /// Where to listen.
    pub port: Option<u16>,
    /// Who is let in.
    pub accept: Option<Accept>,
    /// Files from LocalSend apps.
    pub localsend: InboxOptions,
}

/// What `serve` is told about LocalSend apps; what it is not told stands in the settings.
#[derive(Debug, Default)]
pub struct InboxOptions {
    /// Who may send.
    pub mode: Option<LocalSend>,
    /// What becomes of the files.
    pub keep: Option<InboxKeep>,
    /// A file with the PIN.
    pub pin_file: Option<PathBuf>,
    /// Apps without TLS may send, too.
    pub plain_http: bool,
    /// Where plain files go; naming it means that they are saved, too.
    pub inbox: Option<PathBuf>,
}

impl InboxOptions {
    /// The door is shut.
    pub fn off() -> Self {
        Self { mode: Some(LocalSend::Off), ..Self::default() }
    }

    /// Together with the settings.
    fn resolve(self, context: &Context) -> Result<LocalSendOptions> {
        let settings = &context.settings;
        let mode = match self.mode.or(settings.localsend).unwrap_or(LocalSend::Ask) {
            LocalSend::Ask => LocalSendMode::Ask,
            LocalSend::Accept => LocalSendMode::Accept,
            LocalSend::Off => LocalSendMode::Off,
        };
        let usual = if self.inbox.is_some() || settings.inbox.is_some() { InboxKeep::Both } else { InboxKeep::Backup };
        let keep = self.keep.or(settings.localsend_keep).unwrap_or(usual);
        let pin_file = self.pin_file.or_else(|| settings.localsend_pin_file.clone());
        let pin = pin_file.map(|path| LocalSendPin::read(&path)).transpose().map_err(|problem| {
            Error::usage(problem, "write a PIN of its own, never the one of pairing, into the first line of that file")
        })?;
        let inbox = self.inbox.or_else(|| settings.inbox.clone()).unwrap_or_else(|| context.home.inbox());
        if mode != LocalSendMode::Off && keep.saves() {
            platform::fs::create_dir_all(&inbox)?;
            server::sweep_inbox(&inbox, &*context.clock);
        }
        let phones = Some(PhoneBook::new(context.home.phones()));
        let plain_http = self.plain_http || settings.localsend_http.unwrap_or(false);
        Ok(LocalSendOptions { mode, keep, pin, inbox: Some(inbox), plain_http, phones })
    }
}

/// Where the store of this device lies for a command: the one that was named, else that of a running `serve`, else the usual one.
///
/// # Errors
/// There is none, or the folder holds something else; commands that only look make none.
pub async fn store_to_open(context: &Context, chosen: Option<PathBuf>) -> Result<PathBuf> {
    let folder = match (chosen, control::ask(&context.home, &control::Request::Status).await) {
        (Some(folder), _) => folder,
        (None, Ok(control::Answer::Status { store, .. })) => store,
        (None, _) => context.store_folder(None),
    };
    if platform::fs::metadata_if_there(&folder)?.is_none() {
        let message = format!("nothing is kept in `{}`", folder.display());
        return Err(Error::usage(
            message,
            "`--store DIR` names another place; `lan-backup serve` begins to keep backups",
        ));
    }
    if !is_store(&folder)? {
        let message = format!("`{}` is no store: there is no `{STORE_FILE}` in it", folder.display());
        let below = folder.join("store");
        let hint = if is_store(&below)? {
            format!("`--store {}` is one", below.display())
        } else {
            "`--store DIR` names the folder that holds one; `lan-backup serve --store DIR` and `lan-backup copy … DIR` make one"
                .to_owned()
        };
        return Err(Error::usage(message, hint));
    }
    Ok(folder)
}

/// Whether backups are kept in a folder. A store that has lost its `store.json` is one: opening it makes another.
pub(crate) fn is_store(folder: &Path) -> Result<bool> {
    let there = |name: &str| Ok::<_, Error>(platform::fs::metadata_if_there(&folder.join(name))?.is_some());
    Ok(there(STORE_FILE)? || there(REPOSITORIES)?)
}

/// Opens the store of this device for a command.
///
/// # Errors
/// As [`store_to_open`], and the store's.
pub async fn open_store(context: &Context, chosen: Option<PathBuf>) -> Result<(Store, RecoveryReport)> {
    let folder = store_to_open(context, chosen).await?;
    open_folder(context, folder).await
}

async fn open_folder(context: &Context, folder: PathBuf) -> Result<(Store, RecoveryReport)> {
    let context = context.clone();
    let work = move || {
        let signer = context.identity.signing_key().clone();
        let opened = Store::open_or_create(&folder, context.clock.clone(), signer)?;
        hand_over::catch_up(&context, &opened.0);
        Ok(opened)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}

/// A running `serve`.
#[derive(Debug)]
pub struct Service {
    /// Server and discovery.
    pub neighbourhood: Neighbourhood,
    /// What is kept.
    pub store: Store,
    /// What opening the store found.
    pub recovery: RecoveryReport,
    /// Where questions lie.
    pub desk: Arc<Desk>,
    scrub: Scrub,
    control: ControlSocket,
    _only: Lock,
}

impl Service {
    /// Opens the store, takes part, and answers commands of this user.
    ///
    /// # Errors
    /// Another `serve` runs with this home, the port is taken, or the store cannot be opened.
    pub async fn start(context: &Context, options: ServeOptions) -> Result<Self> {
        let lock = context.home.control_socket().with_extension("lock");
        let only = Lock::try_exclusive(&lock)?.ok_or_else(|| {
            let hint = "stop that one first, or give this one another --home";
            let message = format!("a `lan-backup serve` runs with this home already: {}", Holders::of(&lock));
            Error::usage(message, hint)
        })?;
        let folder = context.store_folder(options.store);
        let (store, recovery) = open_folder(context, folder).await?;
        let accept = match options.accept.or(context.settings.accept).unwrap_or(Accept::Ask) {
            Accept::Ask => AcceptMode::Ask,
            Accept::Paired => AcceptMode::Paired,
            Accept::Never => AcceptMode::Never,
        };
        let localsend = options.localsend.resolve(context)?;
        let desk = Arc::new(Desk::new());
        let neighbourhood = Neighbourhood::open(
            context,
            NeighbourhoodOptions {
                store: Some(store.clone()),
                port: options.port.or(context.settings.port),
                accept,
                desk: desk.clone(),
                transient: false,
                localsend,
            },
        )
        .await?;
        let answers = control::Answers {
            context: context.clone(),
            store: platform::fs::canonicalize(store.folder())?,
            server: neighbourhood.server().clone(),
            discovery: neighbourhood.discovery().clone(),
            desk: desk.clone(),
        };
        let control = ControlSocket::open(&context.home, answers)?;
        let server = neighbourhood.server().clone();
        let scrub = Scrub::start(ScrubOptions {
            store: store.clone(),
            clock: context.clock.clone(),
            rate: context.settings.scrub_mib.unwrap_or(scrub::DEFAULT_MIB) << 20,
            delay: scrub::START_DELAY,
            busy: Box::new(move || server.sessions().iter().any(|session| !session.waiting)),
        });
        Ok(Self { neighbourhood, store, recovery, desk, scrub, control, _only: only })
    }

    /// What the scrub finds, once.
    pub fn take_scrub_news(&mut self) -> Option<mpsc::Receiver<News>> {
        self.scrub.take_news()
    }

    /// Ends everything: no new calls, those under way get a few seconds.
    pub async fn stop(self) {
        self.control.close();
        tokio::join!(self.neighbourhood.close(), self.scrub.stop());
    }
}

fn listen(bind: Option<IpAddr>, port: Option<u16>) -> Result<(TcpListener, bool)> {
    let wanted = port.unwrap_or(DEFAULT_PORT);
    match open_listener(bind, wanted) {
        Ok(listener) => Ok((listener, false)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match port {
            // Nobody insisted: a LocalSend app on this machine has the usual one.
            None => Ok((open_listener(bind, 0).map_err(server::Error::Listen)?, true)),
            Some(port) => Err(Error::PortTaken { port }),
        },
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let bind = bind.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            Err(discovery::Error::NoSuchAddress(bind).into())
        }
        Err(error) => Err(server::Error::Listen(error).into()),
    }
}

/// Listens on the address that this device is bound to, or on all.
///
/// # Errors
/// The system's.
pub fn open_listener(bind: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match bind {
        Some(address) => TcpListener::bind(SocketAddr::new(address, port)),
        // One socket for both families, and IPv4 alone where the system has no IPv6.
        None => TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            _ => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        }),
    }
}
