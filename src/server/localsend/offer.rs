//! What a LocalSend app offers, checked: names made clean and different from each other, hashes and times read, and what is held
//! already told apart from what must come.

use crate::manifest::EntryReader;
use crate::model::portable::portable_path;
use crate::model::{Content, ContentHash, Entry, EntryKind, FileTime, Fingerprint, RelPath, SnapshotInfo};
use crate::protocol::localsend::{FileOffer, MAX_FILES};
use crate::server::api_error::ApiError;
use crate::server::localsend::keeper::metadata;
use crate::server::localsend::saver::Saver;
use crate::server::localsend::sessions::Wanted;
use crate::signer;
use crate::store::{LocalVault, Repository};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use tokio::runtime::Handle;

/// A file id is a UUID in every app.
const MAX_ID_BYTES: usize = 256;

/// A checked offer: file ids with what they stand for, by path.
pub(crate) type Offer = Vec<(String, Wanted)>;

/// Checks one file of what is offered.
///
/// # Errors
/// 400 with the first thing that is wrong; a name that leads out of the inbox refuses all of it.
pub(crate) fn check(id: &str, file: FileOffer) -> Result<Wanted, ApiError> {
    if id.len() > MAX_ID_BYTES {
        return Err(ApiError::bad_request("a file id is longer than 256 bytes"));
    }
    let path = portable_path(&file.file_name).map_err(|error| ApiError::bad_request(error.to_string()))?;
    // No file system holds more, and sums of what is less do not overflow unseen.
    if file.size > i64::MAX as u64 {
        return Err(ApiError::bad_request(format!("`{path}` is larger than a file can be")));
    }
    let sha256 = match file.sha256.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => {
            let hash = text.parse::<ContentHash>();
            Some(hash.map_err(|_| ApiError::bad_request(format!("`{path}` has a hash that is none")))?)
        }
        None => None,
    };
    let modified = file.metadata.and_then(|times| times.modified);
    let mtime = modified.and_then(|text| text.parse::<Timestamp>().ok()).map(file_time);
    Ok(Wanted { path, size: file.size, sha256, mtime })
}

/// Files that were checked, in order and with names that differ.
///
/// # Errors
/// 400 when there is none, or when they lie in more folders than there may be files.
pub(crate) fn finish(files: Offer) -> Result<Offer, ApiError> {
    let mut offer = files;
    if offer.is_empty() || offer.len() > MAX_FILES {
        return Err(wrong_count());
    }
    offer.sort_by(|(_, one), (_, other)| one.path.cmp(&other.path));
    make_different(&mut offer)?;
    Ok(offer)
}

/// 400, for more files than an offer may have, or none.
pub(crate) fn wrong_count() -> ApiError {
    ApiError::bad_request(format!("an offer has 1 to {MAX_FILES} files"))
}

fn file_time(time: Timestamp) -> FileTime {
    let nanos = time.as_nanosecond();
    let billion = 1_000_000_000;
    FileTime::new(nanos.div_euclid(billion) as i64, nanos.rem_euclid(billion) as u32)
}

/// Gives files that would be one on some system (`a` and `A`, a file and a folder `a`) names that differ.
fn make_different(offer: &mut Offer) -> Result<(), ApiError> {
    // Names are known by a hash whose key nobody else knows: two that are one by chance cost a ` (2)`, and long names no memory.
    let hasher = RandomState::new();
    let key = |path: &RelPath| hasher.hash_one(String::from_utf8_lossy(path.as_bytes()).to_lowercase());
    let mut folders = HashSet::new();
    for (_, wanted) in offer.iter() {
        let mut above = wanted.path.parent();
        while let Some(folder) = above {
            above = folder.parent();
            if !folders.insert(key(&folder)) {
                break;
            }
            if folders.len() > MAX_FILES {
                return Err(ApiError::bad_request(format!("an offer has at most {MAX_FILES} folders")));
            }
        }
    }
    let mut taken = HashSet::new();
    // How often a name was taken, so that fifty thousand files of one name do not cost the square of it.
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    for (_, wanted) in offer {
        let first = key(&wanted.path);
        let mut path = wanted.path.clone();
        while folders.contains(&key(&path)) || !taken.insert(key(&path)) {
            let number = numbers.entry(first).or_insert(1);
            *number += 1;
            path = numbered(&wanted.path, *number);
        }
        wanted.path = path;
    }
    Ok(())
}

/// `a/photo (2).jpg`; the names were checked to have room for that.
fn numbered(path: &RelPath, number: u32) -> RelPath {
    let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
    let name = text.rfind('/').map_or(0, |slash| slash + 1);
    let dot = text[name..].rfind('.').filter(|dot| *dot > 0).map_or(text.len(), |dot| name + dot);
    RelPath::new(format!("{} ({number}){}", &text[..dot], &text[dot..])).unwrap_or_else(|_| path.clone())
}

/// What is offered, compared with what is here.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Must come.
    pub(crate) needed: Offer,
    /// Need not come, but for the next snapshot: content that is here under another name or with another time.
    pub(crate) linked: Vec<Entry>,
    /// Files that need not come.
    pub(crate) held: u64,
}

impl Sorted {
    /// Bytes that must come.
    pub(crate) fn bytes(&self) -> u64 {
        self.needed.iter().fold(0, |sum, (_, wanted)| sum.saturating_add(wanted.size))
    }
}

/// Where to look for what is held, and whether it may be left out of the answer at all.
pub(crate) struct Here<'a> {
    /// The sender's repository, when it is backed up and there is one.
    pub(crate) repository: Option<&'a Arc<Repository>>,
    /// Whose that is.
    pub(crate) owner: Fingerprint,
    /// The inbox folder, when it is saved.
    pub(crate) saver: Option<&'a Saver>,
    /// It is backed up.
    pub(crate) backs_up: bool,
    /// The sender's certificate was proved: only then something is left out.
    pub(crate) proved: bool,
}

/// Compares. Blocking; inside a runtime.
pub(crate) fn sort(offer: Offer, head: Option<&SnapshotInfo>, here: &Here<'_>) -> Result<Sorted, ApiError> {
    let mut offer = offer;
    let mut held: HashMap<usize, Option<Entry>> = HashMap::new();
    if let (Some(repository), Some(head)) = (here.repository, head) {
        held = held_in(&mut offer, repository, head, here.owner)?;
    }
    let mut sorted = Sorted::default();
    for (index, (id, wanted)) in offer.into_iter().enumerate() {
        let backed_up = held.remove(&index);
        let in_backup = !here.backs_up || backed_up.is_some();
        let in_folder = here.proved && in_backup && here.saver.is_none_or(|saver| saver.holds(&wanted));
        if in_folder {
            sorted.held += 1;
            sorted.linked.extend(backed_up.flatten());
        } else {
            sorted.needed.push((id, wanted));
        }
    }
    Ok(sorted)
}

/// The files (by their place in the offer) that the last snapshot holds, with an entry where the next one needs a new one. Files
/// whose names are taken by folders there, or the other way round, get others.
fn held_in(
    offer: &mut Offer,
    repository: &Arc<Repository>,
    head: &SnapshotInfo,
    owner: Fingerprint,
) -> Result<HashMap<usize, Option<Entry>>, ApiError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        ApiError::failed().hint("run `lan-backup verify` there").caused_by(error)
    };
    let handle = Handle::current();
    let record = signer::open_record(&head.signed).map_err(|error| failed(error.into()))?;
    let vault = Arc::new(LocalVault::new(Arc::clone(repository), owner));
    let mut reader = EntryReader::new(vault, &record.manifest).map_err(|error| failed(error.into()))?;
    let mut by_path: HashMap<RelPath, usize> = HashMap::new();
    let mut by_hash: HashMap<ContentHash, Vec<usize>> = HashMap::new();
    let mut folders: HashMap<RelPath, Vec<usize>> = HashMap::new();
    for (index, (_, wanted)) in offer.iter().enumerate() {
        by_path.insert(wanted.path.clone(), index);
        if let Some(sha256) = wanted.sha256 {
            by_hash.entry(sha256).or_default().push(index);
        }
        let mut above = wanted.path.parent();
        while let Some(folder) = above {
            above = folder.parent();
            folders.entry(folder).or_default().push(index);
        }
    }
    let (mut held, mut renamed) = (HashMap::new(), Vec::new());
    while let Some(entry) = handle.block_on(reader.next()).map_err(|error| failed(error.into()))? {
        if !entry.is_file() {
            renamed.extend(by_path.get(&entry.path).map(|index| (*index, entry.path.clone())));
            continue;
        }
        renamed.extend(folders.get(&entry.path).into_iter().flatten().map(|index| (*index, entry.path.clone())));
        let by_hash = entry.metadata.sha256.and_then(|sha256| by_hash.get(&sha256)).into_iter().flatten();
        for index in by_hash {
            let wanted = &offer[*index].1;
            if wanted.size == entry.size() {
                let same_place = wanted.path == entry.path;
                let new = linked(wanted, &entry);
                // Its own place is better than another: then nothing may have changed at all.
                if same_place || !held.contains_key(index) {
                    held.insert(*index, (!same_place || new != entry).then_some(new));
                }
            }
        }
        if let Some(index) = by_path.get(&entry.path) {
            let wanted = &offer[*index].1;
            let contradicted = wanted.sha256.is_some() && entry.metadata.sha256.is_some();
            let same = wanted.size == entry.size() && wanted.mtime.is_some() && wanted.mtime == entry.metadata.mtime;
            if same && !contradicted {
                held.insert(*index, None);
            }
        }
    }
    for (index, taken) in renamed {
        let wanted = &mut offer[index].1;
        let rest = wanted.path.strip_prefix(&taken);
        let beside = numbered(&taken, 2);
        wanted.path = match rest {
            Some(rest) => RelPath::new([beside.as_bytes(), b"/", rest.as_bytes()].concat()).unwrap_or(beside),
            None => beside,
        };
        held.remove(&index);
    }
    Ok(held)
}

/// The entry of a file whose content is here.
fn linked(wanted: &Wanted, there: &Entry) -> Entry {
    let content: Option<Content> = match &there.kind {
        EntryKind::File { content, .. } => content.clone(),
        EntryKind::Folder | EntryKind::Link { .. } => None,
    };
    let kind = EntryKind::File { size: wanted.size, content, link_group: None };
    let mut metadata = metadata(wanted, wanted.sha256);
    metadata.mtime = metadata.mtime.or(there.metadata.mtime);
    Entry { path: wanted.path.clone(), kind, metadata }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(names: &[&str]) -> Result<Vec<String>, ApiError> {
        let file = |name: &&str| {
            let text = format!(r#"{{"fileName":{name:?},"size":1}}"#);
            serde_json::from_str::<FileOffer>(&text).unwrap()
        };
        let check = |(n, name): (usize, &&str)| Ok((n.to_string(), check(&n.to_string(), file(name))?));
        let files = names.iter().enumerate().map(check).collect::<Result<_, ApiError>>()?;
        Ok(finish(files)?.into_iter().map(|(_, wanted)| wanted.path.to_string()).collect())
    }

    #[test]
    fn files_that_would_be_one_get_names_that_differ() {
        assert_eq!(offer(&["a.jpg", "A.jpg", "a.JPG"]).unwrap(), ["A.jpg", "a (2).JPG", "a (3).jpg"]);
        assert_eq!(offer(&["a", "a/b"]).unwrap(), ["a (2)", "a/b"]);
        assert_eq!(offer(&["x:1", "x?1", "x_1"]).unwrap(), ["x_1", "x_1 (2)", "x_1 (3)"]);
        let many = vec!["same.txt"; 5_000];
        let many: HashSet<String> = offer(&many).unwrap().into_iter().collect();
        assert_eq!(many.len(), 5_000);
    }

    #[test]
    fn a_name_that_leads_out_refuses_the_whole_offer_with_a_sentence() {
        for bad in ["../x", "/etc/passwd", "a\\b", "C:/x"] {
            assert_eq!(offer(&["fine.jpg", bad]).unwrap_err().status(), http::StatusCode::BAD_REQUEST, "{bad}");
        }
        assert!(offer(&[]).is_err());
    }

    #[test]
    fn files_in_more_folders_than_there_may_be_files_are_refused() {
        let deep = |n: usize| format!("{n}/{}x", "d/".repeat(29));
        let names: Vec<_> = (0..=MAX_FILES / 30).map(deep).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(offer(&names).is_err());
        assert!(offer(&names[1..]).is_ok());
    }

    #[test]
    fn times_with_any_offset_are_kept_to_the_nanosecond_and_others_are_none() {
        let at = |text: &str| text.parse::<Timestamp>().ok().map(file_time);
        assert_eq!(at("2000-01-01T01:00:00.123456789+01:00"), Some(FileTime::new(946_684_800, 123_456_789)));
        assert_eq!(at("1969-12-31T23:59:59.5Z"), Some(FileTime::new(-1, 500_000_000)));
        assert_eq!(at("yesterday"), None);
    }
}
