//! A backup to another device, from end to end: look, pair if needed, agree, send, remember.

use crate::backup::cache::Cache;
use crate::backup::filter::FilterOptions;
use crate::backup::heads::{self, Head};
use crate::backup::{self, Effort, Plan, Report, Roots, RunOptions, ScanOptions};
use crate::client::{self, Client, PinSource, RemoteVault};
use crate::daemon::keep_alive::KeepAlive;
use crate::daemon::locate::Located;
use crate::daemon::{Context, Error, Result, join, retrieve};
use crate::model::snapshot::Root;
use crate::model::{IdempotencyKey, OwnerEvent, RepositoryId, SetName, SnapshotId, SnapshotInfo};
use crate::monitor::{Fault, Monitor};
use crate::platform::lock::Lock;
use crate::platform::shutdown::Shutdown;
use crate::platform::{self, random};
use crate::protocol::listing::RepositoryListing;
use crate::protocol::pairing::Purpose;
use crate::protocol::session::{PrepareUpload, SessionAnswer};
use crate::protocol::{API_VERSION, ErrorCode};
use crate::signer;
use crate::vault::Vault;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Times that the list of files is sent before its loss is believed.
const MAX_TRIES: u32 = 4;
/// Pause between them.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked whether another backup of the same set has ended.
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// What to send.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// As a person named them.
    pub paths: Vec<PathBuf>,
    /// What the set is called; the only path's last component otherwise.
    pub set: Option<String>,
    /// What is left out.
    pub filter: FilterOptions,
    /// A label.
    pub tag: Option<String>,
    /// The set may have other roots than last time.
    pub change_roots: bool,
    /// How hard to compress.
    pub compression: Effort,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What the engine did.
    pub report: Report,
    /// Which set.
    pub set: SetName,
    /// What the other device calls itself.
    pub to: Located,
    /// Bytes of all bodies that went out and came in.
    pub wire_bytes: u64,
}

/// What is known before anything is asked or sent.
#[derive(Debug)]
pub struct Prepared {
    /// What would be sent.
    pub plan: Plan,
    /// Which set.
    pub set: SetName,
    repository: Option<RepositoryId>,
    remembered: Option<Head>,
}

/// Walks and compares with the last snapshot: the dry run, and the first half of a backup.
///
/// # Errors
/// Paths that cannot be backed up, or a set whose roots changed without being told so.
pub async fn prepare(
    context: &Context,
    located: &Located,
    options: &SendOptions,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<Prepared> {
    let roots = Roots::resolve(&options.paths)?;
    let set = set_name(&roots, options.set.as_deref())?;
    let heads = context.heads()?;
    let mut repository = None;
    let mut remembered = None;
    let mut parent = None;
    if located.trust.is_some() {
        repository = heads.repository_at(&located.fingerprint)?;
        if let Some(id) = repository {
            remembered = heads.load(id, &set)?;
        }
        parent = match (&repository, &remembered) {
            (Some(id), Some(head)) if cache(context, *id, &set)?.open(&head.snapshot)?.is_some() => Some(head.snapshot),
            _ => learn_parent(context, located, &set, monitor, &mut repository).await?,
        };
    }
    if let Some(head) = &remembered {
        check_roots(&set, &head.roots, &roots, options)?;
    }
    let cache = repository.map(|id| cache(context, id, &set)).transpose()?;
    let (filter, clock, scratch) = (options.filter.clone(), context.clock.clone(), context.home.cache().to_owned());
    let (monitor, shutdown) = (monitor.clone(), shutdown.clone());
    let scanning = tokio::task::spawn_blocking(move || {
        let options = ScanOptions { roots: &roots, filter: &filter, parent, cache: cache.as_ref(), scratch: &scratch };
        backup::scan(&options, &*clock, &*monitor, &shutdown)
    });
    let plan = scanning.await.unwrap_or(Err(backup::Error::Internal))?;
    Ok(Prepared { plan, set, repository, remembered })
}

/// Backs up. Pairs on the way if that has not been done, with one prompt for both.
///
/// # Errors
/// What stopped it; what has arrived stays there, so that running it again sends only the rest.
pub async fn send(
    context: &Context,
    located: Located,
    options: SendOptions,
    pin: &mut dyn PinSource,
    monitor: Arc<dyn Monitor>,
    shutdown: Shutdown,
) -> Result<Sent> {
    let mut located = located;
    if located.trust.is_some() && !located.client(context)?.is_paired().await? {
        monitor.notice(format!("{} does not know this device any more; pairing again", located.alias));
        located.trust = None;
    }
    let mut prepared = prepare(context, &located, &options, &monitor, &shutdown).await?;
    if located.trust.is_none() {
        located = pair_for(context, &located, &prepared, pin, &shutdown).await?;
        if has_backups_of_this_device(context, &located).await? {
            // It was paired before: what is there already is what the files are to be compared with.
            prepared = prepare(context, &located, &options, &monitor, &shutdown).await?;
        }
    }
    let client = located.client(context)?;
    let answer = match agree(&client, &prepared, &located, &monitor, &shutdown).await {
        // Paired in the other direction only: this device was never let in there. (Where it once was, the right was taken away on
        // purpose, and the refusal stands.)
        Err(Error::Client(error)) if is(&error, ErrorCode::NotAllowed) && prepared.repository.is_none() => {
            located = pair_for(context, &located, &prepared, pin, &shutdown).await?;
            agree(&client, &prepared, &located, &monitor, &shutdown).await?
        }
        Err(Error::Client(error)) if is(&error, ErrorCode::NotFound) && prepared.repository.is_some() => {
            monitor.fault(Fault {
                subject: format!("set {}", prepared.set),
                problem: "the receiver has lost all backups of this device that it had acknowledged; new ones begin"
                    .to_owned(),
            });
            context.heads()?.forget(&located.fingerprint)?;
            prepared = prepare(context, &located, &options, &monitor, &shutdown).await?;
            agree(&client, &prepared, &located, &monitor, &shutdown).await?
        }
        answer => answer?,
    };
    let answer = if bring_back(&client, &prepared, &answer, &monitor).await {
        // A session ends with its record.
        agree(&client, &prepared, &located, &monitor, &shutdown).await?
    } else {
        answer
    };
    let session = answer.session;
    let sending = carry_out(context, &client, &located, answer, prepared, &options, &monitor, &shutdown);
    let result = Box::pin(sending).await;
    if result.is_err() {
        // The other side would find out by itself in ten minutes; a word is kinder.
        let _ = client.cancel(session).await;
    }
    let (report, set) = result?;
    let wire_bytes = client.traffic().sent() + client.traffic().received();
    Ok(Sent { report, set, to: located, wire_bytes })
}

fn is(error: &client::Error, code: ErrorCode) -> bool {
    error.answer() == Some(code)
}

/// Pairs, and tells the other person at once what for.
async fn pair_for(
    context: &Context,
    located: &Located,
    prepared: &Prepared,
    pin: &mut dyn PinSource,
    shutdown: &Shutdown,
) -> Result<Located> {
    let totals = prepared.plan.totals;
    let purpose = Purpose { set: prepared.set.clone(), files: totals.files, bytes: totals.bytes };
    tokio::select! {
        paired = join::pair(context, located, Some(purpose), pin) => paired,
        () = shutdown.stopped() => Err(Error::Stopped),
    }
}

async fn has_backups_of_this_device(context: &Context, located: &Located) -> Result<bool> {
    let listing = located.client(context)?.listing(None).await?;
    let own = context.identity.fingerprint();
    Ok(listing.repositories.iter().any(|one| one.owner == own && !one.snapshots.is_empty()))
}

async fn agree(
    client: &Client,
    prepared: &Prepared,
    located: &Located,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<SessionAnswer> {
    let plan = &prepared.plan;
    let header = PrepareUpload {
        api: API_VERSION,
        required_features: Vec::new(),
        idempotency_key: IdempotencyKey::from_random(random::bytes()),
        repository: prepared.repository,
        set: prepared.set.clone(),
        roots: plan.roots.described(),
        parent: plan.parent,
        totals: plan.totals,
        changes: plan.changes,
        bytes_to_send: plan.bytes_to_read,
    };
    let asking = async {
        let mut tries = 0;
        loop {
            tries += 1;
            // A plan that cannot be read to its end fails in the engine, with the reason; here it only ends the list.
            let entries = plan.entries_to_read()?.map_while(std::result::Result::ok);
            match client.prepare_upload(&header, Box::new(entries)).await {
                // The key in the header keeps a request whose answer was lost from asking the person twice.
                Err(error) if error.is_transient() && tries < MAX_TRIES => {
                    tracing::debug!(%error, tries, "the list of files is sent again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer.map_err(Error::from),
            }
        }
    };
    let answer = tokio::select! {
        answer = asking => answer?,
        () = shutdown.stopped() => return Err(Error::Stopped),
    };
    retrieve::opened(client, answer, &located.alias, monitor, shutdown).await
}

#[expect(clippy::too_many_arguments, reason = "the second half of `send`, with all that the first has found out")]
async fn carry_out(
    context: &Context,
    client: &Client,
    located: &Located,
    answer: SessionAnswer,
    prepared: Prepared,
    options: &SendOptions,
    monitor: &Arc<dyn Monitor>,
    shutdown: &Shutdown,
) -> Result<(Report, SetName)> {
    let vault = Arc::new(RemoteVault::new(client.clone(), &answer)?);
    let repository = vault.parameters().id;
    let set = prepared.set.clone();
    let _alive = KeepAlive::start(client, answer.session);
    watch_head(client, &prepared, repository, answer.head.as_ref(), monitor).await?;
    if let Some(head) = &answer.head
        && let Ok(record) = signer::open_record(&head.signed)
    {
        check_roots(&set, &record.roots, &prepared.plan.roots, options)?;
    }
    let roots = prepared.plan.roots.described();
    let cache = cache(context, repository, &set)?;
    let _only = alone(&cache, monitor, shutdown).await?;
    let run = RunOptions {
        set: set.clone(),
        device: context.alias.clone(),
        tag: options.tag.clone(),
        signer: context.identity.signing_key().clone(),
        head: answer.head,
        cache: Some(cache),
        compression: options.compression,
    };
    let report =
        backup::run(vault, prepared.plan, run, context.clock.clone(), monitor.clone(), shutdown.clone()).await?;
    // The snapshot exists, whatever happens to what is remembered of it.
    let signed = Some(report.signed.clone());
    let head = Head { snapshot: report.snapshot, sequence: report.sequence, set: set.clone(), roots, signed };
    if let Err(error) = remember(context, located, repository, &head) {
        monitor.fault(Fault::new("what this device remembers of the backup", &error));
    }
    Ok((report, set))
}

/// Brings the receiver the record of the last backup again, when that is all that it has lost: its disk has damaged it, and what
/// the record needs is there still. Returns whether it did. Whatever keeps it from that, the alarm tells the rest.
async fn bring_back(client: &Client, prepared: &Prepared, answer: &SessionAnswer, monitor: &Arc<dyn Monitor>) -> bool {
    let Some(remembered) = &prepared.remembered else { return false };
    let Some(signed) = &remembered.signed else { return false };
    let head = answer.head.as_ref().map(|head| head.id);
    let follows = signer::open_record(signed).is_ok_and(|record| record.previous == head);
    if head == Some(remembered.snapshot) || !follows {
        return false;
    }
    let Ok(vault) = RemoteVault::new(client.clone(), answer) else { return false };
    match vault.commit(signed.clone()).await {
        Ok(_) => {
            let set = &remembered.set;
            monitor.notice(format!("the receiver had lost the record of the last backup of `{set}`; it has it again"));
            true
        }
        Err(error) => {
            tracing::warn!(%error, "the record of the last backup is not taken again");
            false
        }
    }
}

/// Waits until no other process of this device backs up the same set: two would throw away what the other remembers.
async fn alone(cache: &Cache, monitor: &Arc<dyn Monitor>, shutdown: &Shutdown) -> Result<Lock> {
    for attempt in 0_u64.. {
        if let Some(lock) = cache.lock()? {
            return Ok(lock);
        }
        if attempt == 0 {
            monitor.notice("another backup of this set is running; waiting for it".to_owned());
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_PAUSE) => {}
            () = shutdown.stopped() => break,
        }
    }
    Err(Error::Stopped)
}

fn remember(context: &Context, located: &Located, repository: RepositoryId, head: &Head) -> platform::Result<()> {
    let heads = context.heads()?;
    heads.save(repository, head)?;
    heads.save_repository_at(&located.fingerprint, repository)
}

/// Shouts when the receiver has lost or replaced what it had acknowledged. The backup goes on: a new snapshot is what helps most.
async fn watch_head(
    client: &Client,
    prepared: &Prepared,
    repository: RepositoryId,
    head: Option<&SnapshotInfo>,
    monitor: &Arc<dyn Monitor>,
) -> Result<()> {
    let Some(remembered) = &prepared.remembered else { return Ok(()) };
    if prepared.repository == Some(repository) && head.is_some_and(|head| head.id == remembered.snapshot) {
        return Ok(());
    }
    let listing = client.listing(None).await?;
    let listed = listing.repositories.into_iter().find(|one| Some(one.repository.id) == prepared.repository);
    let snapshots = listed.map(|one| one.snapshots).unwrap_or_default();
    if let Some(problem) = heads::check(remembered, &snapshots).alarm() {
        monitor.fault(Fault::alarm(problem));
    }
    Ok(())
}

/// The newest snapshot of the set as the receiver lists it, its manifest fetched, for a source that remembers nothing of it.
async fn learn_parent(
    context: &Context,
    located: &Located,
    set: &SetName,
    monitor: &Arc<dyn Monitor>,
    repository: &mut Option<RepositoryId>,
) -> Result<Option<SnapshotId>> {
    let client = located.client(context)?;
    let own = context.identity.fingerprint();
    let listing = match client.listing(None).await {
        // It may write but not look, or was never let in there; the receiver knows.
        Err(error) if is(&error, ErrorCode::NotAllowed) => return Ok(None),
        listing => listing?,
    };
    // Of several (this device has adopted one) the one that came last, as the receiver chooses, too.
    let since = |one: &RepositoryListing| one.owner_log.last().map(OwnerEvent::at);
    let own = listing.repositories.into_iter().filter(|one| one.owner == own).max_by_key(since);
    let Some(listed) = own else { return Ok(None) };
    *repository = Some(listed.repository.id);
    let of_set = |info: &&SnapshotInfo| signer::open_record(&info.signed).is_ok_and(|record| record.set == *set);
    let Some(head) = listed.snapshots.iter().rfind(of_set) else { return Ok(None) };
    let record = signer::open_record(&head.signed).map_err(|error| Error::Refused {
        code: "corrupt".to_owned(),
        message: format!("the newest snapshot there: {error}"),
        hint: None,
    })?;
    monitor.notice(
        "nothing is remembered of the last backup; every file is read, and only what is new is sent".to_owned(),
    );
    let fetching = async {
        let opened = retrieve::open_remote(context, located, None, false, monitor, &Shutdown::new()).await?;
        let fetched =
            cache(context, listed.repository.id, set)?.fetch(opened.vault.clone(), &head.id, &record.manifest).await;
        opened.close().await;
        fetched.map_err(Error::from)
    };
    match fetching.await {
        Ok(()) => Ok(Some(head.id)),
        // A damaged manifest, or a device that may write but not read, must not keep the next snapshot from being made.
        Err(error) => {
            monitor.notice(format!("the last snapshot cannot be compared with: {}", error.sentence()));
            Ok(None)
        }
    }
}

fn set_name(roots: &Roots, chosen: Option<&str>) -> Result<SetName> {
    let derived = roots.default_set_name();
    let text = chosen
        .map(str::to_owned)
        .or(derived)
        .ok_or_else(|| Error::usage("several paths need a name for the set", "give one with --set NAME"))?;
    text.parse()
        .map_err(|error: crate::model::ParseError| Error::usage(error.to_string(), "give another with --set NAME"))
}

fn check_roots(set: &SetName, before: &[Root], now: &Roots, options: &SendOptions) -> Result<()> {
    if options.change_roots || before.is_empty() || before == now.described() {
        return Ok(());
    }
    let list = |roots: &[Root]| roots.iter().map(|root| root.source.clone()).collect::<Vec<_>>().join(", ");
    let message = format!("set `{set}` was made of {}, and now of {}", list(before), list(&now.described()));
    Err(Error::usage(message, "give another name with --set, or say --change-roots if it is meant"))
}

fn cache(context: &Context, repository: RepositoryId, set: &SetName) -> Result<Cache> {
    Ok(Cache::new(&context.home.cache().join("sets"), repository, set)?)
}
