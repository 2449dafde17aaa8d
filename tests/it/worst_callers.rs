//! Paired devices that take all they are given and let nothing go, against the real program: uploads that stop before their last byte,
//! answers that nobody reads, lists with the largest window, packs of nothing but tiny chunks. Beside them strangers at LocalSend's door
//! with lists of half a million files. What the receiver holds stays bounded, and it serves the next one as if nothing had been.

use crate::crowd::{MIB, client, header, peak, receiver};
use crate::support::figures::figure;
use crate::support::lan::{Lan, Node};
use crate::support::scratch::long;
use crate::support::stranger::{Line, Stranger};
use crate::support::tree::noise;
use bytes::Bytes;
use lan_backup::client::{Client, RemoteVault};
use lan_backup::codec::{self, Compression, Encoder};
use lan_backup::identity::Identity;
use lan_backup::model::limits::{MAX_BLOCK_PLAIN_BYTES, MAX_UPLOAD_CHUNKS};
use lan_backup::model::snapshot::Root;
use lan_backup::model::{Block, ChunkId, SessionId, Totals};
use lan_backup::protocol::localsend::MAX_PREPARE_BYTES;
use lan_backup::protocol::paths;
use lan_backup::vault::Vault;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::Duration;

/// What the receiver may take, all together.
const MOST: u64 = 256 * MIB;
/// Calls of each kind that each device begins: together far more than it has places.
const OF_EACH_KIND: usize = 12;
/// Strangers with a long list for LocalSend's door.
const STRANGERS: u8 = 6;
/// Who is made to wait for so long is not let go on.
const STUCK: Duration = Duration::from_secs(5);

fn block(seed: u64, length: usize) -> Block {
    let bytes = Bytes::from(noise(length, seed));
    Encoder::new(Compression::None).encode(&[(codec::chunk_id(&bytes), bytes)])
}

fn encode(blocks: &[Block]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in blocks {
        block.header.encode(&mut bytes);
        bytes.extend_from_slice(&block.stored);
    }
    bytes
}

/// One upload of as many chunks as there may be, of eight bytes each.
fn crumbs(seed: u64) -> Vec<u8> {
    let chunk = |n: u64| Bytes::copy_from_slice(&(seed << 32 | n).to_le_bytes());
    let chunks: Vec<_> = (0..MAX_UPLOAD_CHUNKS as u64).map(chunk).map(|b| (codec::chunk_id(&b), b)).collect();
    let blocks: Vec<_> = chunks.chunks(4096).map(|part| Encoder::new(Compression::None).encode(part)).collect();
    encode(&blocks)
}

/// A list whose stream asks for the largest window, without its end.
fn endless_list() -> Vec<u8> {
    let mut zstd = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(23).unwrap();
    serde_json::to_writer(&mut zstd, &header("list", roots(), Totals::default())).unwrap();
    for n in 0..100_000 {
        let name = blake3::hash(&[n as u8]).to_hex();
        write!(zstd, "\n{{\"path\":\"a/{n:08}-{name}-{name}\",\"kind\":\"file\",\"size\":1}}").unwrap();
    }
    zstd.flush().unwrap();
    zstd.get_ref().clone()
}

/// What a stranger offers: as many tiny files as go into the largest body that is read.
fn crumbs_of_files() -> Vec<u8> {
    let mut body = br#"{"info":{"alias":"x","version":"2.1"},"files":{"#.to_vec();
    for n in 0.. {
        if body.len() + 40 > MAX_PREPARE_BYTES {
            break;
        }
        write!(body, r#""{n}":{{"fileName":"x","size":1}},"#).unwrap();
    }
    body.truncate(body.len() - 1);
    body.extend(b"}}");
    body
}

/// They come from addresses of their own, all at once, and hear whatever they hear.
fn strangers_offer_files(nas: &Node) {
    let (to, body) = (nas.address().parse().unwrap(), crumbs_of_files());
    std::thread::scope(|scope| {
        for n in 0..STRANGERS {
            let body = &body;
            scope.spawn(move || {
                let from = Ipv4Addr::new(127, 0, 1, n + 1);
                let status = Stranger::new().post(from, to, paths::LOCALSEND_PREPARE_UPLOAD, body);
                assert!(!matches!(status, Ok(200)), "so many files are never taken");
            });
        }
    });
}

fn roots() -> Vec<Root> {
    vec![Root { source: "/a".to_owned(), top: "a".to_owned() }]
}

/// A session for a backup.
async fn open(client: Client) -> RemoteVault {
    let header = header("a", roots(), Totals::default());
    let answer = client.prepare_upload(&header, Box::new(std::iter::empty())).await.unwrap();
    RemoteVault::new(client, &answer).unwrap()
}

/// Sends the head of a call and what comes of its body, and leaves it at that.
fn begin(line: &mut Line, path: &str, session: SessionId, length: usize, body: &[u8]) -> io::Result<()> {
    line.sock.set_write_timeout(Some(STUCK))?;
    write!(
        line,
        "POST {path} HTTP/1.1\r\nhost: x\r\nlan-backup-session: {session}\r\ncontent-length: {length}\r\n\r\n"
    )?;
    line.write_all(body)?;
    line.flush()
}

type Call<'a> = Box<dyn FnOnce(&mut Line) -> io::Result<()> + Send + 'a>;

/// One device does all of it at once; gives the lines, which stay open.
fn do_the_worst(device: &Stranger, nas: &Node, session: SessionId, ids: &[ChunkId], seed: u64) -> Vec<Line> {
    let to = nas.address().parse().unwrap();
    let held = encode(&[block(seed, MAX_BLOCK_PLAIN_BYTES as usize)]);
    let list = endless_list();
    let asked: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    let (done, lines) = mpsc::channel();
    std::thread::scope(|scope| {
        for n in 0..OF_EACH_KIND as u64 {
            let (held, list, asked) = (&held, &list, &asked);
            let calls: [Call<'_>; 4] = [
                Box::new(|line| begin(line, paths::UPLOAD, session, held.len(), &held[..held.len() - 1])),
                Box::new(|line| begin(line, paths::CHUNKS, session, asked.len(), asked)),
                Box::new(|line| begin(line, paths::PREPARE_UPLOAD, session, list.len() + 1, list)),
                Box::new(move |line| {
                    let crumbs = crumbs(seed * 1000 + n);
                    begin(line, paths::UPLOAD, session, crumbs.len(), &crumbs)
                }),
            ];
            for call in calls {
                let done = done.clone();
                scope.spawn(move || {
                    // One of them may be turned away, or be stuck: it holds what it has been given.
                    if let Ok(mut line) = device.call(Ipv4Addr::LOCALHOST, to) {
                        let _ = call(&mut line);
                        let _ = done.send(line);
                    }
                });
            }
        }
    });
    drop(done);
    lines.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_do_their_worst_at_once_leave_the_receiver_within_its_memory() {
    let rounds = if long() { 4 } else { 1 };
    // Whether all of them hold something at the same moment is up to the machine; it has to come to that once.
    let attack = |before: u64, most: u64| most > before + 48 * MIB;
    let lan = Lan::new();
    let bad = [Stranger::new(), Stranger::new()];
    let honest = Identity::load_or_generate(&lan.path("honest")).unwrap();
    let devices = [bad[0].identity.clone(), bad[1].identity.clone(), honest.clone()];
    let (mut nas, identity) = receiver(&lan, &devices);
    let mut sessions = Vec::new();
    let blocks: Vec<_> = (0..12).map(|n| block(n, MAX_BLOCK_PLAIN_BYTES as usize)).collect();
    let ids: Vec<_> = blocks.iter().map(|block| block.header.chunks[0].id).collect();
    for device in &bad {
        let vault = open(client(&device.identity, &nas, &identity)).await;
        vault.put(blocks.clone()).await.unwrap();
        sessions.push(vault.session());
    }
    let before = peak(&nas);
    for round in 0..10 {
        if round >= rounds && attack(before, peak(&nas)) {
            break;
        }
        let lines: Vec<_> = std::thread::scope(|scope| {
            let (nas, ids) = (&nas, &ids);
            scope.spawn(|| strangers_offer_files(nas));
            let workers: Vec<_> = bad
                .iter()
                .zip(&sessions)
                .enumerate()
                .map(|(n, (device, session))| {
                    let seed = 100 * (round + 1) + n as u64;
                    scope.spawn(move || do_the_worst(device, nas, *session, ids, seed))
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert!(lines.len() > 32, "{} lines", lines.len());
    }
    let most = peak(&nas);
    figure(&format!("worst callers: peak {} MiB, {} MiB before", most / MIB, before / MIB));
    assert!(attack(before, most), "it was no attack: {} MiB before, {} MiB at the peak", before / MIB, most / MIB);
    assert!(most < MOST, "{} MiB", most / MIB);
    // They have hung up, and everything is there for the next one.
    let vault = open(client(&honest, &nas, &identity)).await;
    vault.put(blocks.clone()).await.unwrap();
    let back = vault.get(ids.clone()).await.unwrap();
    assert_eq!(back.iter().map(|block| block.header.chunks[0].id).collect::<std::collections::HashSet<_>>().len(), 12);
    nas.stop();
}
