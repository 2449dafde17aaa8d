//! The store as the engines see it.

use crate::store_support::{Made, OWNER, block, new_repository, noise};
use lan_backup::codec::{self, Decoder};
use lan_backup::store::LocalVault;
use lan_backup::vault::{Error, Vault};

#[tokio::test]
async fn what_is_put_through_the_vault_is_committed_and_got_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let vault = LocalVault::new(repository, OWNER);
    let files: Vec<_> = (0..50).map(|n| noise(n, 2000)).collect();
    let made = Made::new(vault.repository(), "documents", files.clone());
    assert_eq!(vault.parameters(), vault.repository().parameters());
    let ids: Vec<_> = files.iter().map(|bytes| codec::chunk_id(bytes)).collect();
    assert_eq!(vault.missing(ids.clone()).await.unwrap(), ids);

    let first = block(&files[..30]);
    let sent = first.encoded_length();
    assert_eq!(vault.put(vec![first]).await.unwrap(), sent);
    assert_eq!(vault.missing(ids.clone()).await.unwrap(), ids[30..]);
    vault.put(vec![block(&made.streams)]).await.unwrap();
    match vault.commit(made.signed()).await {
        Err(Error::Missing(missing)) => assert_eq!(missing.len(), 20),
        other => panic!("{other:?}"),
    }
    assert!(matches!(vault.get(ids.clone()).await, Err(Error::NotFound(_))));
    vault.put(vec![block(&files[30..])]).await.unwrap();
    let id = vault.commit(made.signed()).await.unwrap();
    assert_eq!(vault.snapshots().await.unwrap().iter().map(|info| info.id).collect::<Vec<_>>(), [id]);

    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for block in vault.get(ids.clone()).await.unwrap() {
        decoder.decode(&block).unwrap();
        found.extend(block.header.chunks.iter().map(|chunk| chunk.id));
    }
    assert!(ids.iter().all(|id| found.contains(id)));
}

#[tokio::test]
async fn a_false_block_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, repository) = new_repository(folder.path());
    let vault = LocalVault::new(repository, OWNER);
    let (good, mut bad) = (block(&[noise(1, 100)]), block(&[noise(2, 100)]));
    bad.header.stored_hash = codec::stored_hash(b"other");
    assert!(matches!(vault.put(vec![good, bad]).await, Err(Error::Refused(_))));
    let ids: Vec<_> = [1, 2].map(|n| codec::chunk_id(&noise(n, 100))).into();
    assert_eq!(vault.missing(ids.clone()).await.unwrap(), ids);
}
