//! Routes and headers.

/// `GET`: who are you.
pub const INFO: &str = "/api/lan-backup/v1/info";
/// `POST`: two-way discovery.
pub const REGISTER: &str = "/api/lan-backup/v1/register";
/// `POST`: ask to be paired.
pub const PAIR_REQUEST: &str = "/api/lan-backup/v1/pair/request";
/// `POST`: first message of the key exchange.
pub const PAIR_START: &str = "/api/lan-backup/v1/pair/start";
/// `POST`: proof of the PIN.
pub const PAIR_CONFIRM: &str = "/api/lan-backup/v1/pair/confirm";
/// `POST`: who the caller was, and who this device was.
pub const ROTATED: &str = "/api/lan-backup/v1/rotated";
/// `POST`: open a backup session, manifest first.
pub const PREPARE_UPLOAD: &str = "/api/lan-backup/v1/prepare-upload";
/// `POST`: open a session that brings a copy of a repository.
pub const PREPARE_COPY: &str = "/api/lan-backup/v1/prepare-copy";
/// `GET /{id}?wait=SECONDS`: what became of a session that waits for a person.
pub const SESSIONS: &str = "/api/lan-backup/v1/sessions";
/// `POST`: which of these chunks do you lack.
pub const MISSING: &str = "/api/lan-backup/v1/missing";
/// `POST`: a batch of blocks.
pub const UPLOAD: &str = "/api/lan-backup/v1/upload";
/// `POST`: commit the record.
pub const FINISH: &str = "/api/lan-backup/v1/finish";
/// `POST`: end the session.
pub const CANCEL: &str = "/api/lan-backup/v1/cancel";
/// `GET`: what is advertised to the caller.
pub const SNAPSHOTS: &str = "/api/lan-backup/v1/snapshots";
/// `POST`: open a restore session.
pub const PREPARE_DOWNLOAD: &str = "/api/lan-backup/v1/prepare-download";
/// `POST`: fetch chunks.
pub const CHUNKS: &str = "/api/lan-backup/v1/chunks";

/// What all of LocalSend's calls begin with.
pub const LOCALSEND_PREFIX: &str = "/api/localsend/";
/// LocalSend's `register`; answered the same way, so that a scan finds both kinds of device.
pub const LOCALSEND_REGISTER: &str = "/api/localsend/v2/register";
/// LocalSend's `info`, version 2.
pub const LOCALSEND_INFO_V2: &str = "/api/localsend/v2/info";
/// LocalSend's `info`, version 1; apps from 1.18 ask it.
pub const LOCALSEND_INFO_V1: &str = "/api/localsend/v1/info";

/// `POST`: LocalSend's list of files.
pub const LOCALSEND_PREPARE_UPLOAD: &str = "/api/localsend/v2/prepare-upload";
/// `POST`: one file of a LocalSend session.
pub const LOCALSEND_UPLOAD: &str = "/api/localsend/v2/upload";
/// `POST`: end a LocalSend session.
pub const LOCALSEND_CANCEL: &str = "/api/localsend/v2/cancel";

/// `POST`: what a share gives, on its own listener only.
pub const LOCALSEND_PREPARE_DOWNLOAD: &str = "/api/localsend/v2/prepare-download";
/// `GET`: one file of a share.
pub const LOCALSEND_DOWNLOAD: &str = "/api/localsend/v2/download";

/// Names the session in every call that needs one. A header, because query strings end up in logs.
pub const SESSION_HEADER: &str = "lan-backup-session";
