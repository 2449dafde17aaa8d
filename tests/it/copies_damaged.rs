//! A copy of a snapshot of which something is lost where it comes from: kept, marked, and made good when what is lost comes.

use crate::store_support::{Made, OWNER, assert_whole, new_repository, noise, open, put};
use lan_backup::codec::chunk_id;
use lan_backup::model::{ChunkId, Fingerprint};
use lan_backup::platform::shutdown::Shutdown;
use lan_backup::store::Error;
use std::collections::HashSet;

#[test]
fn only_what_is_lost_at_the_source_may_be_missing_and_a_later_copy_makes_it_good() {
    let (folder, copied) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_source, source) = new_repository(folder.path());
    let (lost, other) = (noise(1, 5000), noise(2, 5000));
    let made = Made::new(&source, "documents", vec![noise(3, 5000), lost.clone(), other.clone()]);
    let bringer = Fingerprint::from_bytes([7; 32]);
    let (store, _) = open(copied.path());
    let copy = store.open_copy(source.parameters(), &source.owner_log(), None).unwrap();
    put(&copy, &[noise(3, 5000)]).unwrap();
    let ids = |chunks: &[&bytes::Bytes]| chunks.iter().map(|bytes| chunk_id(bytes)).collect::<HashSet<ChunkId>>();
    let commit = |lost: &HashSet<ChunkId>| copy.commit_damaged(&made.signed(), bringer, lost);
    // Its lists are not there, or something else than what is lost: then it is not a copy of it.
    assert!(matches!(commit(&ids(&[&lost, &other])), Err(Error::Missing(_))));
    put(&copy, &made.streams).unwrap();
    assert!(matches!(commit(&ids(&[&lost])), Err(Error::Missing(more)) if more == [chunk_id(&other)]));
    assert!(copy.snapshots().unwrap().is_empty() && copy.advertised_marks().unwrap().is_empty());

    put(&copy, &[other]).unwrap();
    commit(&ids(&[&lost])).unwrap();
    let marks = || open(copied.path()).0.repository(&copy.id()).unwrap().advertised_marks().unwrap();
    assert_eq!((copy.snapshots().unwrap()[0].id, marks()[0].lost_chunks), (made.id(), 1));
    copy.name_losses(&Shutdown::new()).unwrap();
    assert_eq!(marks().len(), 1, "a look finds the same");
    // Nothing has come: it stays so. Then it comes.
    commit(&ids(&[&lost])).unwrap();
    assert_eq!(marks().len(), 1);
    put(&copy, &[lost]).unwrap();
    commit(&HashSet::new()).unwrap();
    assert!(marks().is_empty());
    assert_whole(&copy, &made);

    // One that was kept as a record only, and can be had in part now.
    let next = Made::new(&copy, "documents", vec![noise(4, 5000), noise(5, 5000)]);
    copy.commit_without_data(&next.signed(), OWNER).unwrap();
    put(&copy, &next.streams).unwrap();
    put(&copy, &[noise(4, 5000)]).unwrap();
    copy.commit_damaged(&next.signed(), bringer, &ids(&[&noise(5, 5000)])).unwrap();
    assert!(copy.snapshot(&next.id()).unwrap().unwrap().forgotten.is_none());
    assert_eq!(marks().len(), 1);
}
