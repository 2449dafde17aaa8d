//! Everything that reads bytes from outside, each as a function that takes any bytes whatever: for `fuzz/`, which mutates them for
//! hours, and for `tests/it/fuzzing.rs`, which does so for seconds. Not an interface: hidden, and free to change.
//!
//! A target ends without a panic whatever it is given, and panics itself when what was let through breaks a rule: what is read
//! can be written and read again, text is clean, paths stay inside, no proof but the right one is taken.

mod localsend;

use crate::client::blocks::BlockReader;
use crate::codec::{Compression, Decoder, Encoder, chunk_id};
use crate::discovery::{Selector, listener};
use crate::identity::pairing::{Shower, Transcript, Typist};
use crate::manifest;
use crate::model::text::{clean, is_printable};
use crate::model::{
    Alias, Block, Changes, Content, Entry, Extent, Fingerprint, IdempotencyKey, Pin, Record, RelPath, RepositoryId,
    Rights, SessionId, SetName, ShortCode, SignedRecord, Stream, Totals,
};
use crate::platform;
use crate::platform::disk::ReadAt;
use crate::protocol::listing::Listing;
use crate::protocol::pairing::{PairConfirm, PairConfirmed, PairRequest, PairStart, PairStarted, PairState};
use crate::protocol::rotation::{Rotated, RotatedAnswer};
use crate::protocol::session::{
    Finish, Finished, PrepareCopy, PrepareDownload, PrepareUpload, SessionAnswer, Uploaded,
};
use crate::protocol::{Announcement, ErrorBody};
use crate::server;
use crate::signer::{self, Purpose, SigningKey};
use crate::store::layout::PACK_MAGIC;
use crate::store::pack::{self, PackedBlock, Trailer};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io;

/// One parser under attack.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// What it reads when all is well: where mutations begin.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Panics when a rule is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "datagram", seeds: announcements, run: datagram },
    Target { name: "json_bodies", seeds: bodies, run: json_bodies },
    Target { name: "localsend", seeds: localsend::offers, run: localsend::read },
    Target { name: "names", seeds: words, run: names },
    Target { name: "upload_list", seeds: lists, run: upload_list },
    Target { name: "manifest", seeds: manifests, run: manifest_lines },
    Target { name: "blocks", seeds: block_bytes, run: blocks },
    Target { name: "pack", seeds: packs, run: packed },
    Target { name: "record", seeds: records, run: record },
    Target { name: "pairing", seeds: exchanges, run: pairing },
];

/// Runs the target of this name.
///
/// # Panics
/// When a rule is broken, or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("the targets in `fuzz/` are those listed here").run)(bytes);
}

/// What was read can be written, and reads as the same again.
pub(crate) fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_vec(value).expect("messages have only string keys");
    let read = serde_json::from_slice::<T>(&json);
    assert_eq!(read.as_ref().ok(), Some(value), "{read:?}");
}

pub(crate) fn shown(text: &str) {
    assert!(text.chars().all(is_printable), "{text:?} reaches a terminal");
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have only string keys")
}

fn print() -> Fingerprint {
    Fingerprint::from_bytes([0xab; 32])
}

fn announcements() -> Vec<Vec<u8>> {
    let ours = Announcement::of_this_device(Alias::new("nas"), print(), 53317, false);
    let theirs = br#"{"alias":"Nice Orange","version":"2.1","deviceModel":"Samsung","deviceType":"mobile","fingerprint":"aa","port":53317,"protocol":"https","download":true,"announce":true}"#;
    vec![json(&ours), theirs.to_vec()]
}

fn datagram(bytes: &[u8]) {
    if let Some(said) = listener::parse(bytes) {
        shown(said.alias.as_str());
        assert!(said.port != 0 && bytes.len() <= crate::protocol::announce::MAX_DATAGRAM_BYTES);
        again(&said);
    }
}

fn bodies() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"v":1,"alias":"laptop","rights":["backup","list","restore"],"purpose":{"set":"Documents","files":3,"bytes":7},"wait":30}"#,
        r#"{"code":"K7QM-2XRT","state":"open","expiresIn":300,"attemptsLeft":3}"#,
        r#"{"v":1,"message":"AAAA","signingKey":"ab","rights":["backup"]}"#,
        r#"{"message":"AAAA","signingKey":"ab"}"#,
        r#"{"proof":"AAAA"}"#,
        r#"{"v":1,"formerly":[{"fingerprint":"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB","signature":"ef"}]}"#,
        r#"{"accepted":true,"was":{"fingerprint":"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB","signature":"ef"}}"#,
        r#"{"of":"laptop","adopt":false,"idempotencyKey":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}"#,
        r#"{"session":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","state":"open","api":1,"features":["zstd","lz4"],"limits":{"maxUploadBytes":16777216,"maxIds":4096,"parallelCalls":4},"repository":{"id":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","chunker":{"min":65536,"average":262144,"max":2097152,"seed":0}}}"#,
        r#"{"repository":{"id":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","chunker":{"min":65536,"average":262144,"max":2097152,"seed":0}},"ownerLog":[{"event":"create","fingerprint":"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB","signer":"ef","alias":"laptop","at":"2026-01-02T03:04:05Z"}]}"#,
        r#"{"record":"{}","signature":"ef","withoutData":true}"#,
        r#"{"chunks":3}"#,
        r#"{"snapshot":"abababababababababababababababababababababababababababababababab","receivedAt":"2026-01-02T03:04:05Z"}"#,
        r#"{"repositories":[{"repository":{"id":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd","chunker":{"min":65536,"average":262144,"max":2097152,"seed":0}},"owner":"ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB","alias":"laptop","ownerLog":[],"snapshots":[]}]}"#,
        r#"{"code":"not-paired","message":"this device is not paired here","hint":"pair"}"#,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).chain(announcements()).chain(lists()).collect()
}

fn json_bodies(bytes: &[u8]) {
    fn body<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
        let value = serde_json::from_slice::<T>(bytes).ok()?;
        again(&value);
        Some(value)
    }
    if let Some(request) = body::<PairRequest>(bytes) {
        shown(request.alias.as_str());
        shown(request.purpose.as_ref().map_or("", |purpose| purpose.set.as_str()));
    }
    if let Some(confirmed) = body::<PairConfirmed>(bytes) {
        shown(confirmed.alias.as_str());
    }
    if let Some(header) = body::<PrepareUpload>(bytes) {
        shown(header.set.as_str());
    }
    body::<PairState>(bytes);
    body::<PairStart>(bytes);
    body::<PairStarted>(bytes);
    body::<PairConfirm>(bytes);
    body::<Rotated>(bytes);
    body::<RotatedAnswer>(bytes);
    body::<PrepareDownload>(bytes);
    body::<PrepareCopy>(bytes);
    body::<Finish>(bytes);
    body::<SessionAnswer>(bytes);
    body::<Uploaded>(bytes);
    body::<Finished>(bytes);
    body::<Listing>(bytes);
    body::<SignedRecord>(bytes);
    if let Some(error) = body::<ErrorBody>(bytes) {
        // What a server says is cleaned where it is shown.
        shown(&clean(&error.message));
    }
}

fn words() -> Vec<Vec<u8>> {
    let texts =
        ["laptop", "Documents", "a/b/c.txt", "192.168.1.7:53317", "[fe80::1%eth0]:53317", "K7QM-2XRT", "123456"];
    let ids = ["AB".repeat(32), "cd".repeat(16)];
    texts.iter().map(|text| text.as_bytes().to_vec()).chain(ids.into_iter().map(String::into_bytes)).collect()
}

pub(crate) fn names(bytes: &[u8]) {
    if let Ok(path) = RelPath::new(bytes) {
        let parts: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').collect();
        assert!(!parts.iter().any(|part| part.is_empty() || *part == b"." || *part == b".." || part.contains(&0)));
        assert!(parts.iter().all(|part| part.len() <= 255) && parts.len() <= 128);
    }
    let text = String::from_utf8_lossy(bytes);
    shown(&clean(&text));
    let alias = Alias::new(&text);
    shown(alias.as_str());
    assert!((1..=64).contains(&alias.as_str().chars().count()), "{alias:?}");
    if let Ok(set) = text.parse::<SetName>() {
        shown(set.as_str());
        assert_eq!(set.as_str(), text);
    }
    if let Ok(fingerprint) = text.parse::<Fingerprint>() {
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    }
    let _ = text.parse::<ShortCode>().map(|code| assert_eq!(code.to_string().parse(), Ok(code)));
    let _ = text.parse::<SessionId>().map(|id| assert_eq!(id.to_string().parse(), Ok(id)));
    let _ = text.parse::<Pin>().map(|pin| assert_eq!(pin.digits().len(), 6));
    let _ = text.parse::<Selector>();
}

fn lists() -> Vec<Vec<u8>> {
    let header = br#"{"api":1,"idempotencyKey":"00000000000000000000000000000001","set":"Documents","roots":[{"source":"/home/a/Documents","top":"Documents"}],"totals":{"entries":3,"files":2,"bytes":7},"changes":{"newFiles":2,"changedFiles":0,"deletedFiles":0},"bytesToSend":7}"#;
    let entries =
        b"\n{\"path\":\"Documents\",\"kind\":\"folder\"}\n{\"path\":\"Documents/a\",\"kind\":\"file\",\"size\":3}\n";
    vec![header.to_vec(), [&header[..], entries].concat()]
}

fn upload_list(bytes: &[u8]) {
    // As it is, and as what a zstd stream unpacks to: mutated zstd rarely gets past its own checks.
    let _ = server::manifest::read(bytes);
    let packed = zstd::stream::encode_all(bytes, 1).expect("memory does not fail to be read");
    if let Ok(header) = server::manifest::read(packed.as_slice()) {
        shown(header.set.as_str());
        assert!((1..=crate::model::limits::MAX_SET_ROOTS).contains(&header.roots.len()));
    }
}

fn manifests() -> Vec<Vec<u8>> {
    let id = chunk_id(b"content");
    let lines = format!(
        "{{\"path\":\"d\",\"kind\":\"folder\",\"mode\":493,\"mtime\":\"5.000000001\"}}\n\
         {{\"path\":\"d/a\",\"kind\":\"file\",\"size\":14,\"content\":[[\"{id}\",7],[null,7]],\"linkGroup\":\"g\"}}\n\
         {{\"pathBytes\":\"ZC//\",\"kind\":\"link\",\"target\":\"../a\",\"xattrs\":{{\"user.x\":\"AAEC\"}}}}\n"
    );
    let extents = [Extent::Chunk(id, 7).encode(), Extent::Hole(9).encode()].concat();
    vec![lines.into_bytes(), extents]
}

fn manifest_lines(bytes: &[u8]) {
    for line in bytes.split(|byte| *byte == b'\n') {
        let Ok(entry) = manifest::decode(line) else { continue };
        names(entry.path.as_bytes());
        let mut written = manifest::encode(&entry);
        if written.last() == Some(&b'\n') {
            written.pop();
        }
        assert_eq!(manifest::decode(&written).as_ref(), Ok(&entry));
        if let Some(Content::Inline(extents)) = content(&entry) {
            for extent in extents {
                assert_eq!(Extent::decode(&extent.encode()), *extent);
            }
        }
    }
    let (extents, _) = bytes.as_chunks::<{ Extent::ENCODED_LENGTH }>();
    for extent in extents {
        let read = Extent::decode(extent);
        assert_eq!(Extent::decode(&read.encode()), read);
    }
}

fn content(entry: &Entry) -> Option<&Content> {
    match &entry.kind {
        crate::model::EntryKind::File { content, .. } => content.as_ref(),
        crate::model::EntryKind::Folder | crate::model::EntryKind::Link { .. } => None,
    }
}

fn block(texts: &[&'static [u8]], compression: Compression) -> Block {
    let chunks: Vec<_> = texts.iter().map(|text| (chunk_id(text), Bytes::from_static(text))).collect();
    Encoder::new(compression).encode(&chunks)
}

fn block_bytes() -> Vec<Vec<u8>> {
    let encode = |compression: Compression| {
        let mut bytes = Vec::new();
        for block in [block(&[b"first", b"second"], compression), block(&[&[7; 500]], compression)] {
            block.header.encode(&mut bytes);
            bytes.extend_from_slice(&block.stored);
        }
        bytes
    };
    vec![encode(Compression::None), encode(Compression::default())]
}

fn blocks(bytes: &[u8]) {
    // What the client reads, in two pieces, and what the server reads: the same blocks.
    let (mut reader, mut read) = (BlockReader::default(), Vec::new());
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    'pieces: for piece in [head, tail] {
        reader.push(piece);
        loop {
            match reader.next_block() {
                Ok(Some(block)) => read.push(block),
                Ok(None) => break,
                Err(_) => break 'pieces,
            }
        }
    }
    let (mut rest, mut uploaded) = (bytes, Vec::new());
    while let Ok(Some(block)) = server::upload::next_block(&mut rest) {
        uploaded.push(block);
    }
    let same = |a: &Block, b: &Block| a.header == b.header && a.stored == b.stored;
    assert!(read.len() == uploaded.len() && read.iter().zip(&uploaded).all(|(a, b)| same(a, b)));
    let mut decoder = Decoder::new();
    for block in &read {
        if let Ok(plain) = decoder.decode(block) {
            let mut rest = plain;
            for chunk in &block.header.chunks {
                let part = rest.split_to(chunk.length as usize);
                assert_eq!(chunk_id(&part), chunk.id, "a chunk that is not what it is called");
            }
            assert!(rest.is_empty());
        }
    }
}

/// A pack in memory.
#[derive(Debug)]
struct InMemory(Vec<u8>);

impl ReadAt for InMemory {
    fn length(&self) -> platform::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, length: usize) -> platform::Result<Vec<u8>> {
        let end =
            || platform::Error { action: "read", path: "memory".into(), source: io::ErrorKind::UnexpectedEof.into() };
        let begin = usize::try_from(offset).map_err(|_| end())?;
        let range = begin..begin.checked_add(length).ok_or_else(end)?;
        self.0.get(range).map(<[u8]>::to_vec).ok_or_else(end)
    }
}

fn packs() -> Vec<Vec<u8>> {
    let mut bytes = PACK_MAGIC.to_vec();
    let mut blocks = Vec::new();
    for block in [block(&[b"first", b"second"], Compression::None), block(&[b"third"], Compression::None)] {
        blocks.push(PackedBlock { offset: bytes.len() as u64, header: block.header.clone() });
        block.header.encode(&mut bytes);
        bytes.extend_from_slice(&block.stored);
    }
    let (end, _) = Trailer { blocks }.finish();
    vec![[bytes, end].concat()]
}

fn packed(bytes: &[u8]) {
    if let Ok((trailer, id, length)) = pack::verify(&InMemory(bytes.to_vec())) {
        let (end, written) = trailer.finish();
        assert!(written == id && bytes.ends_with(&end) && length == bytes.len() as u64);
    }
    // The trailer alone with the end that it asks for: its hash would hide it from every mutation.
    if let Some((end, trailer)) = bytes.split_first_chunk::<8>()
        && let Ok(read) = Trailer::decode(trailer, u64::from_le_bytes(*end))
    {
        assert_eq!(read.encode(), trailer);
    }
    if let Some(at) = bytes.len().checked_sub(pack_end()) {
        let end = at as u64 + (bytes.len() - at) as u64 - 44;
        let _ = Trailer::decode(&bytes[at..bytes.len() - 44], end);
    }
}

/// Bytes of trailer and footer in the seed.
fn pack_end() -> usize {
    let blocks = [block(&[b"first", b"second"], Compression::None), block(&[b"third"], Compression::None)];
    let blocks = blocks.map(|block| PackedBlock { offset: 0, header: block.header }).to_vec();
    Trailer { blocks }.finish().0.len()
}

fn records() -> Vec<Vec<u8>> {
    let stream = Stream { length: 7, depth: 0, ids: vec![chunk_id(b"content")] };
    let record = Record {
        format: 1,
        repository: RepositoryId::from_random([1; 16]),
        set: "Documents".parse().expect("a name"),
        roots: Vec::new(),
        sequence: 1,
        previous: None,
        manifest: stream.clone(),
        refs: stream,
        totals: Totals::default(),
        changes: Changes::default(),
        source_time: jiff::Timestamp::UNIX_EPOCH,
        device: Alias::new("laptop"),
        signer: key().public(),
        tag: Some("a tag".to_owned()),
    };
    vec![json(&record)]
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn record(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Signed by whoever wrote it: a hostile source signs what it likes.
    let signature = key().sign(Purpose::Record, bytes);
    let signed = SignedRecord { record: text.to_owned(), signature };
    if let Ok(record) = signer::open_record(&signed) {
        assert_eq!(record.signer, key().public(), "signed by somebody else");
        shown(record.set.as_str());
        shown(record.device.as_str());
        again(&record);
    }
    let unsigned = SignedRecord { record: text.to_owned(), signature: "00".repeat(64) };
    assert!(signer::open_record(&unsigned).is_err());
}

fn exchanges() -> Vec<Vec<u8>> {
    let (_, message) = Typist::start(&pin(), transcript(), &key().public());
    vec![message, vec![0; 32], IdempotencyKey::from_random([1; 16]).to_string().into_bytes()]
}

fn pin() -> Pin {
    "123456".parse().expect("six digits")
}

fn transcript() -> Transcript {
    let (typist, rights) = (Fingerprint::from_bytes([1; 32]), Rights::of_a_paired_device());
    Transcript { exporter: [7; 32], typist, shower: print(), rights }
}

fn pairing(bytes: &[u8]) {
    let own = key().public();
    // Whatever comes as a message, no bytes that an attacker can know are a proof.
    if let Ok((shower, _)) = Shower::answer(&pin(), transcript(), &own, bytes, &own) {
        assert!(shower.check(bytes).is_err(), "a proof out of nothing");
    }
    let (typist, message) = Typist::start(&pin(), transcript(), &own);
    if let Ok((proof, confirmation)) = typist.prove(bytes, &own) {
        let reflected = if bytes == message { &message } else { &proof };
        assert!(confirmation.check(reflected).is_err(), "a proof taken back");
    }
    let (typist, _) = Typist::start(&pin(), transcript(), &own);
    assert!(typist.prove(&message, &String::from_utf8_lossy(bytes)).is_err() || bytes == own.as_bytes());
}
