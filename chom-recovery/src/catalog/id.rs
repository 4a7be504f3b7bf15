//! Names and identities of what a repository holds.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::error::{Error, ErrorKind, Result};

macro_rules! text_form {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

fn refuse(text: &str, what: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(ErrorKind::InvalidInput, format!("`{}` is not {what}", shown.escape_debug()))
}

/// Identifies a backup: a ULID, so that the order of ids is the order of time.
///
/// # Source
/// <https://github.com/ulid/spec>: 48 bits of milliseconds since 1970, 80 random bits, Crockford's base 32.
///
/// # Examples
/// ```
/// let id: chom_recovery::catalog::BackupId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse()?;
/// assert_eq!(id.time().to_rfc3339(), "2016-07-30T23:54:10.259+00:00");
/// # Ok::<(), chom_recovery::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(Ulid);

text_form!(BackupId);

impl BackupId {
    /// Returns the time that the id was made at, by the clock of the host that made it.
    pub fn time(self) -> DateTime<Utc> {
        let milliseconds = i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX);
        DateTime::from_timestamp_millis(milliseconds).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // One spelling only: the id is also the name of a folder.
        Ulid::from_string(text)
            .ok()
            .filter(|id| id.to_string() == text)
            .map(Self)
            .ok_or_else(|| refuse(text, "a backup id"))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Makes ids that never go back, from a clock and a source of randomness.
#[derive(Clone)]
pub struct Ids {
    clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    random: Arc<dyn Fn() -> u128 + Send + Sync>,
    last: Arc<Mutex<Option<Ulid>>>,
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").finish_non_exhaustive()
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Utc::now, rand::random)
    }
}

impl Ids {
    /// Makes a source; of `random`, the lowest 80 bits are used.
    pub fn new(
        clock: impl Fn() -> DateTime<Utc> + Send + Sync + 'static,
        random: impl Fn() -> u128 + Send + Sync + 'static,
    ) -> Self {
        Self { clock: Arc::new(clock), random: Arc::new(random), last: Arc::default() }
    }

    /// Tells the time.
    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// Makes an id greater than every one made before and than `floor`, although the clock may have gone back.
    pub fn next(&self, floor: Option<BackupId>) -> BackupId {
        let milliseconds = u64::try_from(self.now().timestamp_millis()).unwrap_or(0);
        let fresh = Ulid::from_parts(milliseconds, (self.random)());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let above = last.max(floor.map(|f| f.0));
        let id = match above {
            // Overflow of the random part moves on to the next millisecond.
            Some(above) if fresh <= above => {
                above.increment().unwrap_or_else(|| Ulid::from_parts(above.timestamp_ms() + 1, 0))
            }
            _ => fresh,
        };
        *last = Some(id);
        BackupId(id)
    }
}

/// Identifies a host in the keys of its backups: 1 to 64 of `[a-z0-9-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

text_form!(HostId);

impl HostId {
    /// Derives the id from something that names a machine for good, such as `/etc/machine-id` or the Engine's own
    /// id; what it was made of cannot be read from it.
    ///
    /// # Source
    /// machine-id(5) asks that the machine id itself is not exposed, but hashed with an application's own key.
    pub fn derive(machine: &str) -> Self {
        let hash = blake3::derive_key("chom-recovery 2026 host id of a backup repository", machine.trim().as_bytes());
        Self(hex::encode(&hash[..8]))
    }

    /// Derives the id of this machine from `/etc/machine-id`.
    ///
    /// # Errors
    /// `Precondition`: the machine has none.
    pub fn of_this_machine() -> Result<Self> {
        const FILE: &str = "/etc/machine-id";
        let bad = || {
            Error::new(ErrorKind::Precondition, format!("`{FILE}` names no machine"))
                .hint("run `systemd-machine-id-setup`")
        };
        let text = std::fs::read_to_string(FILE).map_err(|e| bad().caused_by(e))?;
        let text = text.trim();
        if text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self::derive(text))
        } else {
            Err(bad())
        }
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ok = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok { Ok(Self(text.to_owned())) } else { Err(refuse(text, "a host id")) }
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identifies a repository: 128 random bits in hex, made once by `repo init`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryId(String);

text_form!(RepositoryId);

impl RepositoryId {
    pub(super) fn random() -> Self {
        Self(hex::encode(rand::random::<[u8; 16]>()))
    }
}

impl FromStr for RepositoryId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ok = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if ok { Ok(Self(text.to_owned())) } else { Err(refuse(text, "a repository id")) }
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a component or a tag: 1 to 64 of `[a-z0-9._-]`, not beginning with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

text_form!(Name);

impl Name {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ok = (1..=64).contains(&text.len())
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(refuse(text, "a name").hint("use 1 to 64 of a-z, 0-9, `.`, `_` and `-`, not beginning with `.`"))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hash of 256 bits, in lower-case hex as `sha256sum` and `b3sum` print it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(pub(super) [u8; 32]);

text_form!(Hash);

impl FromStr for Hash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        if is_lower && hex::decode_to_slice(text, &mut bytes).is_ok() {
            Ok(Self(bytes))
        } else {
            Err(refuse(text, "a hash in hex"))
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_although_the_clock_goes_back() {
        let times = Mutex::new(vec![1_000, 5_000, 5_000, 200_000]);
        let clock = move || {
            let mut times = times.lock().unwrap();
            let time = if times.len() > 1 { times.pop().unwrap() } else { times[0] };
            DateTime::from_timestamp_millis(time).unwrap()
        };
        let ids = Ids::new(clock, || u128::MAX);
        let made: Vec<_> = (0..20).map(|_| ids.next(None)).collect();
        assert!(made.windows(2).all(|w| w[0] < w[1]), "{made:?}");
        let floor: BackupId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
        assert!(ids.next(Some(floor)) > floor);
    }

    #[test]
    fn an_id_has_one_spelling() {
        for bad in ["01arz3ndektsv4rrffq69g5fav", "01ARZ3NDEKTSV4RRFFQ69G5FA", "O1ARZ3NDEKTSV4RRFFQ69G5FAV", "", "../x"]
        {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_id_is_the_same_every_time_and_tells_nothing() {
        let id = HostId::derive("4c6c2ff5bd0c4a02a2fb9b0a6c8c7e54\n");
        assert_eq!(id, HostId::derive("4c6c2ff5bd0c4a02a2fb9b0a6c8c7e54"));
        assert_eq!(id.as_str().len(), 16);
        assert!(!"4c6c2ff5bd0c4a02a2fb9b0a6c8c7e54".contains(id.as_str()));
    }

    #[test]
    fn names_lead_nowhere() {
        for bad in ["", ".", "..", ".x", "a/b", "A", "a b", "\u{e9}"] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(65).parse::<Name>().is_err());
        assert!("database".parse::<Name>().is_ok());
    }
}
