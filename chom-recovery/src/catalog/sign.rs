//! Signed objects: one header line, then the payload as it is.
//!
//! The line is `<kind> 1 <public key, hex> <signature, base64>`. What is signed is the line's first three words, a
//! line end, and the payload; so a signature counts for one kind of object only. Signatures are Ed25519 (RFC 8032),
//! verified strictly, and before a single byte of the payload is interpreted.

use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions},
    io::{ErrorKind as Io, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use ed25519_dalek::{
    Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes, spki::der::pem::LineEnding},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    system::SystemId,
};

/// First word of a manifest.
pub(super) const MANIFEST: &str = "chom-recovery-manifest";
/// First word of a verification record.
pub(super) const VERIFICATION: &str = "chom-recovery-verification";
/// First word of a record that holds a backup or releases it.
pub(super) const HOLD: &str = "chom-recovery-hold";
/// First word of a tombstone.
pub(super) const TOMBSTONE: &str = "chom-recovery-tombstone";
/// First word of a record of who can read.
pub(super) const RECIPIENTS: &str = "chom-recovery-recipients";
/// More than the longest header line.
const HEADER_LIMIT: usize = 256;

/// A public key whose signature may count: 32 bytes, in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SignerId([u8; 32]);

impl FromStr for SignerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        verifying_key(text).map(|key| Self(key.to_bytes()))
    }
}

/// Reads a public key. One of low order is none: signatures that it takes for good are easily made.
fn public_key(bytes: &[u8; 32]) -> Option<VerifyingKey> {
    VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak())
}

fn verifying_key(text: &str) -> Result<VerifyingKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok().and_then(|()| public_key(&bytes)).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("`{}` is not an Ed25519 public key", text.escape_debug()))
            .hint("copy the 64 hex digits that `chom-recovery repo init` printed")
    })
}

impl TryFrom<String> for SignerId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<SignerId> for String {
    fn from(id: SignerId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SignerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The private key of a host: signs the manifests of its backups.
#[derive(Clone)]
pub struct Signer(SigningKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.id())
    }
}

impl Signer {
    /// Makes a signer from the 32 bytes of a private key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Names the file of a system's key below a state directory.
    pub fn path(state_dir: &Path, system: &SystemId) -> PathBuf {
        state_dir.join("keys").join(format!("{system}.pem"))
    }

    /// Loads the key of a system, and makes it where there is none: PKCS #8 in PEM, mode 0600.
    pub fn load_or_create(state_dir: &Path, system: &SystemId) -> Result<Self> {
        match Self::load(state_dir, system) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        let path = Self::path(state_dir, system);
        let fail = |e: std::io::Error| Error::from(e).during(format!("cannot write key `{}`", path.display()));
        let folder = state_dir.join("keys");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(fail)?;
        let key = SigningKey::from_bytes(&rand::random());
        // Version 1 of the form, without the public half, is what every OpenSSL reads.
        let pem = KeypairBytes { secret_key: key.to_bytes(), public_key: None }
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the signing key").caused_by(e))?;
        let temporary = folder.join(format!(".{}.{}", system, hex::encode(rand::random::<[u8; 8]>())));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()?;
            // A link replaces nothing: two that begin at once end up with one key.
            std::fs::hard_link(&temporary, &path)?;
            File::open(&folder)?.sync_all()?;
            File::open(state_dir)?.sync_all()
        };
        let written = write();
        let _ = std::fs::remove_file(&temporary);
        match written {
            Err(e) if e.kind() != Io::AlreadyExists => Err(fail(e)),
            _ => Self::load(state_dir, system),
        }
    }

    /// Loads the key of a system.
    ///
    /// # Errors
    /// `NotFound`: there is none. `Precondition`: others can read it. `Corrupt`: it is not a private key.
    pub fn load(state_dir: &Path, system: &SystemId) -> Result<Self> {
        let path = Self::path(state_dir, system);
        let fail = |e: std::io::Error| {
            Error::from(e)
                .during(format!("cannot read signing key `{}`", path.display()))
                .hint("`chom-recovery repo init` makes it; a new host needs a key of its own")
        };
        let mode = std::fs::metadata(&path).map_err(fail)?.mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("signing key `{}` can be read by others", path.display()),
            )
            .with("mode", format!("{:o}", mode & 0o777))
            .hint(format!("chmod 600 {}", path.display())));
        }
        let pem = zeroize::Zeroizing::new(std::fs::read_to_string(&path).map_err(fail)?);
        SigningKey::from_pkcs8_pem(&pem).map(Self).map_err(|_| {
            Error::new(ErrorKind::Corrupt, format!("`{}` is not an Ed25519 key in PKCS #8", path.display()))
        })
    }

    /// Returns the public half.
    pub fn id(&self) -> SignerId {
        SignerId(self.0.verifying_key().to_bytes())
    }

    /// Puts a signed header line before a payload.
    pub(super) fn seal(&self, kind: &str, payload: &[u8]) -> Bytes {
        let id = self.id();
        let signature = self.0.sign(&message(kind, &id, payload));
        let mut object = header(kind, &id, &signature).into_bytes();
        object.extend_from_slice(payload);
        object.into()
    }
}

fn message(kind: &str, id: &SignerId, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("{kind} 1 {id}\n").into_bytes();
    message.extend_from_slice(payload);
    message
}

fn header(kind: &str, id: &SignerId, signature: &Signature) -> String {
    format!("{kind} 1 {id} {}\n", STANDARD.encode(signature.to_bytes()))
}

/// The public keys that the configuration pins, ready for use: making one ready costs a fifth of a verification.
#[derive(Debug, Clone, Default)]
pub struct TrustedSigners(Vec<VerifyingKey>);

impl TrustedSigners {
    /// Reads public keys in hex, as the configuration holds them.
    ///
    /// # Errors
    /// `InvalidInput`: one of them is not a public key.
    pub fn parse(keys: &[String]) -> Result<Self> {
        keys.iter().map(|k| verifying_key(k)).collect::<Result<_>>().map(Self)
    }

    /// Tells whether a key is pinned.
    pub fn contains(&self, id: &SignerId) -> bool {
        self.key(id).is_some()
    }

    fn key(&self, id: &SignerId) -> Option<&VerifyingKey> {
        self.0.iter().find(|key| key.as_bytes() == &id.0)
    }

    /// Tells whether no key is pinned.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks a signed object and returns its payload.
    ///
    /// # Errors
    /// `Corrupt`: damaged or forged. `Denied`: signed by a key that is not pinned. `Unsupported`: a newer form.
    pub(super) fn open(&self, kind: &str, object: &Bytes) -> Result<(SignerId, Bytes)> {
        let bad = |why: &str| Error::new(ErrorKind::Corrupt, format!("not a signed {kind}: {why}"));
        let end =
            object.iter().take(HEADER_LIMIT).position(|b| *b == b'\n').ok_or_else(|| bad("it has no header line"))?;
        let line = std::str::from_utf8(&object[..end]).map_err(|_| bad("its header is not text"))?;
        let words: Vec<_> = line.split(' ').collect();
        let [found, version, id, signature] = words[..] else { return Err(bad("its header has not four words")) };
        if found != kind {
            return Err(bad("its header names another kind of object"));
        }
        if version != "1" {
            return Err(bad("its header has an unknown version"));
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(id, &mut bytes).map_err(|_| bad("its header holds no public key"))?;
        let id = SignerId(bytes);
        let signature = STANDARD
            .decode(signature)
            .ok()
            .and_then(|s| Signature::from_slice(&s).ok())
            .ok_or_else(|| bad("its header holds no signature"))?;
        let payload = object.slice(end + 1..);
        // One spelling of each header: no byte of an object may change without notice.
        if header(kind, &id, &signature).as_bytes() != &object[..=end] {
            return Err(bad("its header is spelled in another way"));
        }
        let Some(key) = self.key(&id) else {
            public_key(&id.0).ok_or_else(|| bad("its header holds no public key"))?;
            return Err(Error::new(ErrorKind::Denied, format!("the {kind} is signed by a key that is not trusted"))
                .with("key", id)
                .hint(
                    "if the key is that of one of your hosts (compare it with `repo init`'s output there), \
                     add it to `repository.signers`",
                ));
        };
        // What `verify_strict` checks beyond this is that the key is not weak, which was done once, and the form of a point
        // that only the owner of the key can have chosen; it costs a tenth more.
        key.verify(&message(kind, &id, &payload), &signature).map_err(|_| bad("the signature does not match"))?;
        Ok((id, payload))
    }
}

impl From<SignerId> for TrustedSigners {
    fn from(id: SignerId) -> Self {
        Self(public_key(&id.0).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn system() -> SystemId {
        "chom".to_owned().try_into().unwrap()
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        let signer = Signer::from_seed(&[7; 32]);
        let trusted = TrustedSigners::from(signer.id());
        let object = signer.seal(MANIFEST, b"{\"a\":1}");
        assert_eq!(trusted.open(MANIFEST, &object).unwrap(), (signer.id(), Bytes::from_static(b"{\"a\":1}")));
        for at in 0..object.len() {
            for bit in 0..8 {
                let mut changed = object.to_vec();
                changed[at] ^= 1 << bit;
                assert!(trusted.open(MANIFEST, &changed.into()).is_err(), "byte {at} bit {bit}");
            }
            assert!(trusted.open(MANIFEST, &object.slice(..at)).is_err(), "cut at {at}");
        }
    }

    /// The neutral point, in its encoding of RFC 8032: with it as the key, the neutral point and 0 sign every message.
    #[test]
    fn a_key_that_anybody_can_sign_for_is_none() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let refused = TrustedSigners::parse(&[hex::encode(neutral)]).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(TrustedSigners::from(SignerId(neutral)).is_empty());
    }

    #[test]
    fn a_signature_counts_for_one_kind_of_object() {
        let signer = Signer::from_seed(&[7; 32]);
        let trusted = TrustedSigners::from(signer.id());
        let record = signer.seal(VERIFICATION, b"{}");
        assert_eq!(trusted.open(MANIFEST, &record).unwrap_err().kind(), ErrorKind::Corrupt);
        let text = String::from_utf8(record.to_vec()).unwrap();
        let renamed = text.replace(VERIFICATION, MANIFEST);
        assert_eq!(trusted.open(MANIFEST, &renamed.into()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_stranger_is_refused_with_the_way_to_trust_them() {
        let trusted = TrustedSigners::from(Signer::from_seed(&[7; 32]).id());
        let error = trusted.open(MANIFEST, &Signer::from_seed(&[8; 32]).seal(MANIFEST, b"{}")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.hint_text().unwrap().contains("repository.signers"));
    }

    #[test]
    fn the_key_is_made_once_and_for_its_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Signer::load(state.path(), &system()).unwrap_err().kind(), ErrorKind::NotFound);
        let made = Signer::load_or_create(state.path(), &system()).unwrap().id();
        assert_eq!(Signer::load_or_create(state.path(), &system()).unwrap().id(), made);
        let path = Signer::path(state.path(), &system());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Signer::load(state.path(), &system()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.hint_text().unwrap().starts_with("chmod 600"));
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let signer = Signer::from_seed(&[7; 32]);
        assert!(!format!("{signer:?}").contains(&hex::encode([7_u8; 32])));
    }
}
