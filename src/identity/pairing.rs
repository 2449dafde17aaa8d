//! The PIN exchange (`lan-backup/pair/1`), pure: no clock, no network, no counting of attempts (that is the server's).
//!
//! SPAKE2 turns six digits into a strong key K without letting anybody try digits offline. K alone would not show a man in
//! the middle who relays messages between two TLS connections, so everything is tied to the one connection it ran on:
//!
//! ```text
//! identities   SPAKE2's two names are the role and the SHA-256 of the certificate, as this side saw both
//! PRK          HKDF-Extract(salt = TLS exporter of this connection, ikm = K)
//! transcript   SHA-256 over version, roles, rights asked for, both messages, both fingerprints, both signing keys;
//!              each field after its length (4 bytes, little-endian)
//! S's proof    HMAC-SHA256(HKDF-Expand(PRK, "lan-backup/pair/1 typist"), transcript)
//! R's proof    HMAC-SHA256(HKDF-Expand(PRK, "lan-backup/pair/1 shower"), transcript)
//! ```
//!
//! The exporter alone does not cover the client's certificate; the transcript does. S (who types) proves first, so an
//! impostor in R's place learns nothing but one wrong guess; an impostor in S's place costs an attempt. Every failure is
//! the one [`Error::Pairing`].

use crate::identity::{Error, Result};
use crate::model::digest::{from_hex, to_hex};
use crate::model::{Fingerprint, Pin, Right, Rights};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity as SpakeIdentity, Password, Spake2};
use std::fmt;
use zeroize::Zeroizing;

/// Label of the TLS exporter (RFC 5705, no context, 32 bytes) that ties the exchange to its connection.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-lan-backup-pair-v1";

const VERSION: &[u8] = b"lan-backup/pair/1";
const TYPIST_ROLE: &[u8] = b"typist";
const SHOWER_ROLE: &[u8] = b"shower";
const TYPIST_PROOF: &[u8] = b"lan-backup/pair/1 typist";
const SHOWER_PROOF: &[u8] = b"lan-backup/pair/1 shower";

/// What both sides know of the connection before the first message; they must agree on all of it. `Debug` hides the
/// exporter.
#[derive(Clone, PartialEq, Eq)]
pub struct Transcript {
    /// The TLS exporter of this connection for [`EXPORTER_LABEL`].
    pub exporter: [u8; 32],
    /// The certificate of the side that types the PIN, as seen on this connection.
    pub typist: Fingerprint,
    /// The certificate of the side that shows the PIN, as seen on this connection.
    pub shower: Fingerprint,
    /// What the typist asks to be allowed.
    pub rights: Rights,
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { typist, shower, rights, .. } = self;
        write!(f, "Transcript({typist:?} types, {shower:?} shows, {rights})")
    }
}

impl Transcript {
    fn identities(&self) -> (SpakeIdentity, SpakeIdentity) {
        let name = |role: &[u8], of: &Fingerprint| SpakeIdentity::new(&[role, b" ", of.as_bytes()].concat());
        (name(TYPIST_ROLE, &self.typist), name(SHOWER_ROLE, &self.shower))
    }

    /// The hash that both proofs are made over.
    fn digest(&self, typist: Half<'_>, shower: Half<'_>) -> [u8; 32] {
        let names: Vec<&str> = Right::ALL.into_iter().filter(|r| self.rights.allow(*r)).map(Right::name).collect();
        let rights = names.join(",");
        let mut hash = Sha256::new();
        for field in [
            VERSION,
            TYPIST_ROLE,
            self.typist.as_bytes(),
            typist.message,
            typist.signing_key.as_bytes(),
            SHOWER_ROLE,
            self.shower.as_bytes(),
            shower.message,
            shower.signing_key.as_bytes(),
            rights.as_bytes(),
        ] {
            hash.update((field.len() as u32).to_le_bytes());
            hash.update(field);
        }
        hash.finalize().into()
    }

    fn proofs(&self, key: &[u8], typist: Half<'_>, shower: Half<'_>) -> Proofs {
        let digest = self.digest(typist, shower);
        let derived = Hkdf::<Sha256>::new(Some(&self.exporter), key);
        let proof = |purpose: &[u8]| {
            let mut key = Zeroizing::new([0; 32]);
            derived.expand(purpose, key.as_mut_slice()).expect("32 bytes are one block of HKDF-SHA256");
            let mac = Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("HMAC takes a key of any length");
            mac.chain_update(digest)
        };
        Proofs { typist: proof(TYPIST_PROOF), shower: proof(SHOWER_PROOF) }
    }
}

/// What one side puts into the exchange.
#[derive(Clone, Copy)]
struct Half<'a> {
    message: &'a [u8],
    signing_key: &'a str,
}

struct Proofs {
    typist: Hmac<Sha256>,
    shower: Hmac<Sha256>,
}

/// The compare takes the same time wherever the difference is.
fn check(expected: Hmac<Sha256>, proof: &[u8]) -> Result<()> {
    expected.verify_slice(proof).map_err(|_| Error::Pairing)
}

fn bytes(proof: Hmac<Sha256>) -> Vec<u8> {
    proof.finalize().into_bytes().to_vec()
}

/// A key in any other spelling would be another text in the transcript than in the trust store.
fn check_signing_key(key: &str) -> Result<()> {
    let canonical = from_hex::<32>(key).is_some_and(|raw| to_hex(&raw) == key);
    if canonical { Ok(()) } else { Err(Error::Pairing) }
}

/// The side that types the PIN (S), after its first message.
pub struct Typist {
    spake: Spake2<Ed25519Group>,
    transcript: Transcript,
    signing_key: String,
    message: Vec<u8>,
}

impl Typist {
    /// Begins: the message goes to the other side together with `own_signing_key` (public, hex).
    pub fn start(pin: &Pin, transcript: Transcript, own_signing_key: &str) -> (Self, Vec<u8>) {
        let (typist, shower) = transcript.identities();
        let (spake, message) = Spake2::start_a(&Password::new(pin.as_bytes()), &typist, &shower);
        let this = Self { spake, transcript, signing_key: own_signing_key.to_owned(), message: message.clone() };
        (this, message)
    }

    /// Takes the other side's answer; gives the proof to send, and what checks the other side's proof.
    ///
    /// # Errors
    /// [`Error::Pairing`] for an answer that nobody who follows the rules sends.
    pub fn prove(self, their_message: &[u8], their_signing_key: &str) -> Result<(Vec<u8>, Confirmation)> {
        check_signing_key(their_signing_key)?;
        let key = Zeroizing::new(self.spake.finish(their_message).map_err(|_| Error::Pairing)?);
        let typist = Half { message: &self.message, signing_key: &self.signing_key };
        let shower = Half { message: their_message, signing_key: their_signing_key };
        let proofs = self.transcript.proofs(&key, typist, shower);
        Ok((bytes(proofs.typist), Confirmation { expected: proofs.shower }))
    }
}

/// Waits for the proof of the side that shows the PIN.
pub struct Confirmation {
    expected: Hmac<Sha256>,
}

impl Confirmation {
    /// The other side knows the PIN and saw the same connection; only now may it be trusted.
    pub fn check(self, their_proof: &[u8]) -> Result<()> {
        check(self.expected, their_proof)
    }
}

/// The side that shows the PIN (R), after it answered.
pub struct Shower {
    proofs: Proofs,
}

impl Shower {
    /// Answers the other side's first message. The attempt must be counted before the answer leaves.
    #[expect(clippy::needless_pass_by_value, reason = "used up, as on the other side: one connection, one exchange")]
    pub fn answer(
        pin: &Pin,
        transcript: Transcript,
        own_signing_key: &str,
        their_message: &[u8],
        their_signing_key: &str,
    ) -> Result<(Self, Vec<u8>)> {
        check_signing_key(their_signing_key)?;
        let (typist, shower) = transcript.identities();
        let (spake, message) = Spake2::<Ed25519Group>::start_b(&Password::new(pin.as_bytes()), &typist, &shower);
        let key = Zeroizing::new(spake.finish(their_message).map_err(|_| Error::Pairing)?);
        let typist = Half { message: their_message, signing_key: their_signing_key };
        let shower = Half { message: &message, signing_key: own_signing_key };
        let proofs = transcript.proofs(&key, typist, shower);
        Ok((Self { proofs }, message))
    }

    /// Checks the other side's proof; only then gives this side's.
    pub fn check(self, their_proof: &[u8]) -> Result<Vec<u8>> {
        check(self.proofs.typist, their_proof)?;
        Ok(bytes(self.proofs.shower))
    }
}

macro_rules! shows_nothing {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}
shows_nothing!(Typist, Confirmation, Shower);

#[cfg(test)]
mod tests {
    use super::*;

    /// What one side believes.
    #[derive(Clone)]
    struct View {
        pin: Pin,
        transcript: Transcript,
        own_key: String,
        their_key: String,
    }

    fn views() -> (View, View) {
        let transcript = Transcript {
            exporter: [1; 32],
            typist: Fingerprint::from_bytes([2; 32]),
            shower: Fingerprint::from_bytes([3; 32]),
            rights: Rights::of_a_paired_device(),
        };
        let pin: Pin = "123456".parse().unwrap();
        let (typist_key, shower_key) = ("aa".repeat(32), "bb".repeat(32));
        let typist = View {
            pin: pin.clone(),
            transcript: transcript.clone(),
            own_key: typist_key.clone(),
            their_key: shower_key.clone(),
        };
        (typist, View { pin, transcript, own_key: shower_key, their_key: typist_key })
    }

    /// What each side said in the end; the shower's proof is checked even where the shower refused to give one.
    fn exchange(typist: &View, shower: &View) -> (Result<()>, Result<()>) {
        let (started, first) = Typist::start(&typist.pin, typist.transcript.clone(), &typist.own_key);
        let View { pin, transcript, own_key, their_key } = shower.clone();
        let (answered, second) = Shower::answer(&pin, transcript, &own_key, &first, &their_key).unwrap();
        let unchecked = bytes(answered.proofs.shower.clone());
        let (proof, confirmation) = started.prove(&second, &typist.their_key).unwrap();
        let shower_says = answered.check(&proof);
        let typist_says = confirmation.check(shower_says.as_ref().unwrap_or(&unchecked));
        (typist_says, shower_says.map(|_| ()))
    }

    fn fails_on_both_sides(what: &str, change: impl FnOnce(&mut View)) {
        let (typist, mut shower) = views();
        change(&mut shower);
        let (typist_says, shower_says) = exchange(&typist, &shower);
        assert!(matches!(typist_says, Err(Error::Pairing)), "{what}: the typist was fooled");
        assert!(matches!(shower_says, Err(Error::Pairing)), "{what}: the shower was fooled");
    }

    #[test]
    fn the_right_pin_on_the_same_connection_convinces_both() {
        let (typist, shower) = views();
        let (typist_says, shower_says) = exchange(&typist, &shower);
        typist_says.unwrap();
        shower_says.unwrap();
    }

    #[test]
    fn whatever_the_two_sides_see_differently_fails_on_both() {
        fails_on_both_sides("PIN", |view| view.pin = "123457".parse().unwrap());
        fails_on_both_sides("exporter", |view| view.transcript.exporter[31] ^= 1);
        fails_on_both_sides("typist", |view| view.transcript.typist = Fingerprint::from_bytes([9; 32]));
        fails_on_both_sides("shower", |view| view.transcript.shower = Fingerprint::from_bytes([9; 32]));
        fails_on_both_sides("more rights", |view| view.transcript.rights.grant(Right::RestoreOthers));
        fails_on_both_sides("fewer rights", |view| view.transcript.rights.revoke(Right::Backup));
        fails_on_both_sides("own key", |view| view.own_key = "cc".repeat(32));
        fails_on_both_sides("their key", |view| view.their_key = "cc".repeat(32));
        fails_on_both_sides("swapped keys", |view| std::mem::swap(&mut view.own_key, &mut view.their_key));
        fails_on_both_sides("swapped fingerprints", |view| {
            let Transcript { typist, shower, .. } = &mut view.transcript;
            std::mem::swap(typist, shower);
        });
    }

    #[test]
    fn reflected_swapped_and_broken_messages_are_refused() {
        let (typist, shower) = views();
        let start = || Typist::start(&typist.pin, typist.transcript.clone(), &typist.own_key);
        // Its own message back.
        let (started, first) = start();
        assert!(started.prove(&first, &typist.their_key).is_err());
        // Another typist's message in the place of the shower's.
        let (started, _) = start();
        assert!(started.prove(&start().1, &typist.their_key).is_err());
        // A shower's message in the place of a typist's.
        let answer = |message: &[u8]| {
            let View { pin, transcript, own_key, their_key } = shower.clone();
            Shower::answer(&pin, transcript, &own_key, message, &their_key)
        };
        let (_, second) = answer(&first).unwrap();
        assert!(answer(&second).is_err());
        for broken in [&b""[..], b"A", &[0x41; 32], &[0x41; 34], &[0xff; 33]] {
            assert!(answer(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn each_sides_proof_is_worthless_as_the_others() {
        let (typist, shower) = views();
        let (started, first) = Typist::start(&typist.pin, typist.transcript.clone(), &typist.own_key);
        let View { pin, transcript, own_key, their_key } = shower;
        let (answered, second) = Shower::answer(&pin, transcript, &own_key, &first, &their_key).unwrap();
        let (proof, confirmation) = started.prove(&second, &typist.their_key).unwrap();
        assert!(confirmation.check(&proof).is_err(), "the typist's own proof came back and was believed");
        let reply = bytes(answered.proofs.shower.clone());
        assert!(answered.check(&reply).is_err());
    }

    #[test]
    fn proofs_that_are_cut_empty_or_longer_are_refused() {
        let expected = Hmac::<Sha256>::new_from_slice(b"k").unwrap().chain_update(b"m");
        let good = bytes(expected.clone());
        check(expected.clone(), &good).unwrap();
        for bad in [&good[..31], &good[..0], &[good.as_slice(), b"x"].concat()] {
            assert!(check(expected.clone(), bad).is_err());
        }
    }

    #[test]
    fn a_signing_key_in_another_spelling_is_refused() {
        let (typist, _) = views();
        for key in ["", "zz", &"AA".repeat(32), &"aa".repeat(31)] {
            let (started, _) = Typist::start(&typist.pin, typist.transcript.clone(), &typist.own_key);
            assert!(started.prove(&[0x42; 33], key).is_err(), "{key}");
        }
    }

    #[test]
    fn the_derivation_is_what_the_header_says() {
        // The numbers were computed from the header of this file by another program.
        let (typist, _) = views();
        let s = Half { message: b"pA", signing_key: &typist.own_key };
        let r = Half { message: b"pB", signing_key: &typist.their_key };
        let proofs = typist.transcript.proofs(b"K", s, r);
        assert_eq!(to_hex(&bytes(proofs.typist)), "a27d296673f5b031b698e1a3c74da408187b2846e00438a3fb8f4c0b0f9b38a0");
        assert_eq!(to_hex(&bytes(proofs.shower)), "238aef721773726ce25eedaa50249ca53cad387c52b5e77895d85370543b04fa");
    }

    #[test]
    fn no_secret_is_formatted_for_debugging() {
        let (typist, shower) = views();
        let (started, first) = Typist::start(&typist.pin, typist.transcript.clone(), &typist.own_key);
        let View { pin, transcript, own_key, their_key } = shower;
        let (answered, second) = Shower::answer(&pin, transcript, &own_key, &first, &their_key).unwrap();
        assert_eq!(format!("{started:?} {answered:?}"), "Typist(…) Shower(…)");
        let (_, confirmation) = started.prove(&second, &typist.their_key).unwrap();
        assert_eq!(format!("{confirmation:?}"), "Confirmation(…)");
        assert!(!format!("{:?}", typist.transcript).contains("1, 1"));
    }
}
