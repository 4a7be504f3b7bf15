//! Encryption: who can read what a backup holds, and how it is sealed for them.
//!
//! The form is age, version 1 (<https://age-encryption.org/v1>) with X25519 recipients. A host that makes backups
//! holds public keys only; identities, their secret halves, are needed to restore.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    io::{self, BufReader, Cursor, Read},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use age::{DecryptError, EncryptError, secrecy::ExposeSecret};
use age_core::format::{FileKey, Stanza};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, ErrorRecord, Result},
    secret::{Secret, SecretSource},
};

/// Fewest recipients of an encrypted repository: one for daily use, and an escrow that is kept offline.
pub const MIN_RECIPIENTS: usize = 2;
/// Most recipients.
pub const MAX_RECIPIENTS: usize = 16;
/// Longest header of an age file that is parsed.
const HEADER_LIMIT: usize = 64 << 10;
/// Longest text of a recipient: what post-quantum ones need.
const RECIPIENT_LIMIT: usize = 4096;
const SECRET_PREFIX: &str = "AGE-SECRET-KEY-1";

/// Who can read: an age recipient, the public half of an identity, for example `age1…` as `age-keygen` prints it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(String);

impl Recipient {
    /// Returns the recipient as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Result<age::x25519::Recipient> {
        self.0.parse().map_err(|why: &str| {
            Error::new(ErrorKind::InvalidInput, format!("`{}` is not an X25519 recipient of age: {why}", self.0))
                .hint("`age-keygen -y IDENTITY-FILE` prints the right line")
        })
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |shown: &str| {
            Error::new(ErrorKind::InvalidInput, format!("{shown} is not a recipient of age"))
                .hint("a recipient begins with `age1`; `age-keygen -y IDENTITY-FILE` prints it")
        };
        if text.to_ascii_uppercase().contains("SECRET-KEY") {
            return Err(bad("an identity, which is secret,"));
        }
        let is_good = text.len() <= RECIPIENT_LIMIT
            && text.strip_prefix("age1").is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            });
        let shown: String = text.chars().take(80).collect();
        if is_good { Ok(Self(text.to_owned())) } else { Err(bad(&format!("`{}`", shown.escape_debug()))) }
    }
}

impl TryFrom<String> for Recipient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.0
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The recipients of a repository: at least [`MIN_RECIPIENTS`], each of which can read everything alone.
#[derive(Debug, Clone)]
pub struct Recipients {
    all: Arc<[Recipient]>,
    keys: Arc<[age::x25519::Recipient]>,
}

impl PartialEq for Recipients {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Recipients {}

impl Recipients {
    /// Makes a set of recipients; order does not count.
    ///
    /// # Errors
    /// `InvalidInput`: fewer than [`MIN_RECIPIENTS`] different ones, more than [`MAX_RECIPIENTS`], or one that this
    /// version cannot encrypt to.
    pub fn new(recipients: impl IntoIterator<Item = Recipient>) -> Result<Self> {
        let all: BTreeSet<_> = recipients.into_iter().collect();
        if all.len() < MIN_RECIPIENTS {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("an encrypted repository has at least {MIN_RECIPIENTS} recipients; there are {}", all.len()),
            )
            .hint(
                "make a second key with `age-keygen` and keep it offline: who loses the only key loses every backup",
            ));
        }
        if all.len() > MAX_RECIPIENTS {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("an encrypted repository has at most {MAX_RECIPIENTS} recipients; there are {}", all.len()),
            ));
        }
        let keys = all.iter().map(Recipient::key).collect::<Result<_>>()?;
        Ok(Self { all: all.into_iter().collect(), keys })
    }

    /// Reads recipients, as the configuration holds them.
    ///
    /// # Errors
    /// As [`Recipients::new`].
    pub fn parse(recipients: &[String]) -> Result<Self> {
        Self::new(recipients.iter().map(|r| r.parse()).collect::<Result<Vec<_>>>()?)
    }

    /// Returns them, in order.
    pub fn as_slice(&self) -> &[Recipient] {
        &self.all
    }

    /// Tells whether these are the same, in whatever order.
    pub(super) fn are(&self, others: &[Recipient]) -> bool {
        self.all.iter().collect::<BTreeSet<_>>() == others.iter().collect()
    }
}

/// The secret keys that this process may read with.
#[derive(Clone, Default)]
pub struct Identities {
    keys: Arc<[age::x25519::Identity]>,
    /// Why a configured one is not here.
    missing: Option<Arc<ErrorRecord>>,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identities").field(&self.recipients()).finish()
    }
}

impl Identities {
    /// Reads an identity file as `age-keygen` writes it: one identity a line, empty lines and `#` aside.
    ///
    /// # Errors
    /// `InvalidInput`: it holds none, or something else. `Unsupported`: it is protected by a passphrase.
    pub fn parse(file: &Secret) -> Result<Self> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(file.expose().lines()) {
            let line = line.trim();
            if line.starts_with("age-encryption.org/") || line.starts_with("-----BEGIN AGE") {
                return Err(Error::new(ErrorKind::Unsupported, "the identity file is protected by a passphrase")
                    .hint("name a command that decrypts it: `identity = { command = [\"age\", \"-d\", \"FILE\"] }`"));
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // Each line is a secret of its own: it must not be shown apart from the others either.
            let line = Secret::new(line);
            let key = line.expose().parse().map_err(|_| {
                Error::new(ErrorKind::InvalidInput, format!("line {number} of the identity file is not an identity"))
                    .hint(format!("an identity begins with `{SECRET_PREFIX}`; `age-keygen` makes one"))
            })?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "the identity file holds no identity")
                .hint("`age-keygen` makes one"));
        }
        Ok(Self { keys: keys.into(), missing: None })
    }

    /// Reads one source.
    ///
    /// # Errors
    /// As [`Identities::parse`]; `Precondition`: it cannot be read.
    pub async fn read(source: &SecretSource) -> Result<Self> {
        Self::parse(&source.resolve().await?).map_err(|e| e.with("identity", source))
    }

    /// Reads every source. One that cannot be read is remembered: it is an error once something has to be opened
    /// that the others do not open.
    pub async fn resolve(sources: &[SecretSource]) -> Self {
        let (mut keys, mut missing) = (Vec::new(), None);
        for source in sources {
            match Self::read(source).await {
                Ok(found) => keys.extend(found.keys.iter().cloned()),
                Err(e) => missing = Some(Arc::new(e.to_record())),
            }
        }
        Self { keys: keys.into(), missing }
    }

    /// Returns the public halves.
    pub fn recipients(&self) -> Vec<Recipient> {
        self.keys.iter().map(|k| Recipient(k.to_public().to_string())).collect()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks that one of these opens what was sealed for `recipients`.
    ///
    /// # Errors
    /// `Precondition`: there is no identity at all. `Authentication`: none of them is a recipient's.
    pub(super) fn check(&self, what: &str, recipients: &[Recipient]) -> Result<()> {
        let own = self.recipients();
        if own.iter().any(|r| recipients.contains(r)) {
            return Ok(());
        }
        let list = |all: &[Recipient]| all.iter().map(Recipient::as_str).collect::<Vec<_>>().join(", ");
        let error = match (&self.missing, own.is_empty()) {
            (Some(why), _) => Error::new(
                ErrorKind::Precondition,
                format!("{what} is encrypted, and a configured identity cannot be read: {}", why.message),
            ),
            (None, true) => {
                Error::new(ErrorKind::Precondition, format!("{what} is encrypted, and no identity is given"))
            }
            (None, false) => {
                Error::new(ErrorKind::Authentication, format!("none of the identities given opens {what}"))
                    .with("these open", list(&own))
            }
        };
        Err(error.with("can be opened by the identity of", list(recipients)).hint(
            "name the file of one of these identities: `--identity FILE`, or `repository.identity` in the configuration",
        ))
    }
}

/// What opens an age file.
#[derive(Clone)]
pub(super) enum Opener {
    Identities(Identities),
    Witness(Arc<Witness>),
}

impl age::Identity for Opener {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.unwrap_stanzas(std::slice::from_ref(stanza))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        match self {
            Self::Identities(identities) => identities.keys.iter().find_map(|key| key.unwrap_stanzas(stanzas)),
            Self::Witness(witness) => witness.unwrap_stanzas(stanzas),
        }
    }
}

/// Remembers the key of one age file while it is written, so that it can be decrypted again on the spot by a host that
/// holds no identity. It adds nothing to the file: the recipients are the only ones who can open it later.
#[derive(Default)]
pub(super) struct Witness {
    key: Mutex<Option<Zeroizing<[u8; 16]>>>,
    recipients: usize,
}

impl Witness {
    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, DecryptError>> {
        // Each recipient has a stanza; age adds one of noise.
        if stanzas.iter().filter(|s| s.tag == "X25519").count() != self.recipients {
            return Some(Err(DecryptError::InvalidHeader));
        }
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        key.as_ref().map(|key| Ok(FileKey::init_with_mut(|copy| copy.copy_from_slice(&key[..]))))
    }
}

impl age::Recipient for Witness {
    fn wrap_file_key(&self, key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let mut copy = Zeroizing::new([0; 16]);
        copy.copy_from_slice(key.expose_secret());
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        Ok((Vec::new(), HashSet::new()))
    }
}

/// Begins an age file; what is returned with it decrypts this file only.
pub(super) fn lock(recipients: &Recipients) -> Result<(age::Encryptor, Opener)> {
    let witness = Arc::new(Witness { recipients: recipients.keys.len(), ..Witness::default() });
    let all = recipients.keys.iter().map(|r| r as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(all.chain(std::iter::once(&*witness as &dyn age::Recipient)))
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot encrypt to the recipients").caused_by(e.to_string()))?;
    Ok((encryptor, Opener::Witness(witness)))
}

/// Opens an age file: what comes out is authentic, piece by piece, and an early end is an error.
///
/// # Errors
/// `Corrupt`: damaged, or not for this opener; whether an identity fits is checked by [`Identities::check`] before.
pub(super) fn open<R: Read>(input: R, opener: &Opener) -> Result<impl Read + use<R>> {
    let input = BufReader::with_capacity(HEADER_LIMIT, bound_header(input)?);
    age::Decryptor::new_buffered(input)
        .and_then(|file| file.decrypt(std::iter::once(opener as &dyn age::Identity)))
        .map_err(|e| match e {
            DecryptError::Io(e) => undecryptable(e),
            other => Error::new(ErrorKind::Corrupt, "it does not decrypt").caused_by(other.to_string()),
        })
}

/// An error of ours that passed through the decryption stays what it was; every other one is the data's fault.
pub(super) fn undecryptable(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(e) => Error::new(ErrorKind::Corrupt, "it does not decrypt").caused_by(e),
    }
}

/// Reads ahead to the end of the header, which is parsed before anything of the file is verified: a long one would
/// cost memory and time.
fn bound_header<R: Read>(mut input: R) -> Result<io::Chain<Cursor<Vec<u8>>, R>> {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|w| w == b"\n---") {
        if head.len() > HEADER_LIMIT {
            return Err(Error::new(ErrorKind::Corrupt, "it does not decrypt: its header is longer than age's are"));
        }
        match input.read(&mut piece).map_err(undecryptable)? {
            0 => break,
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(Cursor::new(head).chain(input))
}

/// Proves that an identity opens what is sealed for these recipients, by sealing and opening something.
///
/// # Errors
/// `Authentication`: it is none of theirs. `Corrupt`: what came back is not what was sealed.
pub(super) fn prove(recipients: &Recipients, identities: &Identities) -> Result<()> {
    identities.check("the proof", recipients.as_slice())?;
    let plain: [u8; 32] = rand::random();
    let mut sealed = Vec::new();
    let (encryptor, _) = lock(recipients)?;
    let mut writer = encryptor.wrap_output(&mut sealed)?;
    io::Write::write_all(&mut writer, &plain)?;
    writer.finish()?;
    let mut read = Vec::new();
    open(&sealed[..], &Opener::Identities(identities.clone()))?.read_to_end(&mut read).map_err(undecryptable)?;
    if read == plain {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::Corrupt, "the identity does not open what was sealed for it")
            .hint("suspect the memory of this machine"))
    }
}
