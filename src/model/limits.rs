//! Numbers that both ends must agree on, each with its reason. Limits that only one side keeps stand beside their user.

/// TCP and UDP port of LocalSend, and so ours.
pub const DEFAULT_PORT: u16 = 53317;

/// A file name component; what ext4, APFS, NTFS and Btrfs hold at the most.
pub const MAX_NAME_BYTES: usize = 255;
/// Nesting of folders; deep enough for every tree seen, shallow enough that no recursion or path hurts.
pub const MAX_PATH_DEPTH: usize = 128;
/// A set name, in bytes: it is shown in one line.
pub const MAX_SET_NAME_BYTES: usize = 100;
/// An alias, in characters: it is shown in one line beside other things.
pub const MAX_ALIAS_CHARS: usize = 64;

/// Chunks in one block; bounds the header at 144 KiB.
pub const MAX_BLOCK_CHUNKS: usize = 4096;
/// Plain bytes of one block: an open block below 1 MiB plus one chunk of at most 2 MiB fits.
pub const MAX_BLOCK_PLAIN_BYTES: u32 = 4 << 20;
/// An open block is closed at this many plain bytes: text compresses 2.84x so, against 1.95x in pieces of 16 KiB.
pub const BLOCK_TARGET_BYTES: u32 = 1 << 20;
/// One upload, and so one pack: large enough that an fsync is cheap beside it, small enough to be sent again.
pub const MAX_UPLOAD_BYTES: u64 = 16 << 20;
/// Chunks in one upload: what is known of each is in memory at both ends until the pack is durable. 45 MiB of files of a usual size
/// have fewer.
pub const MAX_UPLOAD_CHUNKS: usize = 8192;
/// Ids in one `missing` request: 128 KiB of body.
pub const MAX_MISSING_IDS: usize = 4096;
/// Ids in one `chunks` request.
pub const MAX_FETCH_IDS: usize = 4096;
/// Plain bytes that a restore asks for in one `chunks` request.
pub const FETCH_TARGET_BYTES: u64 = 8 << 20;

/// Ids that stand in a [`Stream`](crate::model::Stream) itself before a level of lists is put between.
pub const MAX_STREAM_IDS: usize = 64;
/// As many stand in a record that this version writes: records are kept for ever and listed together, and so have under 2 KiB.
pub const RECORD_STREAM_IDS: usize = 8;
/// Levels of lists: two levels of 256 KiB lists reach 2 PiB.
pub const MAX_STREAM_DEPTH: u8 = 4;
/// Extents that stand in the manifest line itself; beyond, they go to a list of their own.
pub const MAX_INLINE_EXTENTS: usize = 1024;
/// One line of the manifest: 1,024 extents and 64 KiB of extended attributes fit several times.
pub const MAX_ENTRY_LINE_BYTES: usize = 1 << 20;
/// Extended attributes of one entry, names and values together; larger ones are left out with a fault.
pub const MAX_XATTR_BYTES: usize = 256 << 10;
/// Entries of one snapshot.
pub const MAX_MANIFEST_ENTRIES: u64 = 5_000_000;
/// A signed record with its receipt.
pub const MAX_RECORD_BYTES: usize = 256 << 10;
/// Roots of a set.
pub const MAX_SET_ROOTS: usize = 256;
