//! The index of a component: its parts, one JSON object a line, in order of index.
//!
//! What is needed to verify and to copy a part without any key is always readable. Of an encrypted component, what the
//! parts hold (lengths, hashes and names) is sealed in one last line.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    catalog::{
        codec::{self, Measure},
        crypt::{Opener, Recipients},
        id::{BackupId, Hash, Name},
        json,
        layout::MAX_PART,
        manifest::ComponentRecord,
        repo::Cipher,
    },
    error::{Error, ErrorKind, Result},
};

/// Longest index, in bytes; read at once.
pub const INDEX_LIMIT: u64 = 256 << 20;

/// An object that holds a part: what can be said of it without any key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRecord {
    /// Number of the part; names its key, unless it lies elsewhere.
    pub index: u32,
    /// Bytes as stored.
    pub stored_len: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Hash,
    /// Where the part lies, if that is an earlier backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PartSource>,
}

/// Where a part lies that was not stored again: in the backup that it was stored for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartSource {
    /// Earlier backup of the same host and system.
    pub backup: BackupId,
    /// Component there.
    pub component: Name,
    /// Number there.
    pub index: u32,
}

/// A part, with all that its index says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRecord {
    /// Number of the part; names its key, unless it lies elsewhere.
    pub index: u32,
    /// Bytes as stored.
    pub stored_len: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Hash,
    /// Where the part lies, if that is an earlier backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<PartSource>,
    /// Bytes once decrypted and decompressed.
    pub plain_len: u64,
    /// BLAKE3 of the bytes once decrypted and decompressed.
    pub blake3: Hash,
    /// What the part is.
    pub meta: PartMeta,
}

/// The sealed half of a [`PartRecord`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainRecord {
    index: u32,
    plain_len: u64,
    blake3: Hash,
    meta: PartMeta,
}

/// The last line of the index of an encrypted component.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedLine {
    sealed: String,
}

/// What a part is. All of it is opaque to the catalogue; who dumps decides, and who loads reads it again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartMeta {
    /// Role of the part, for example `rows` or `ddl`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Number of the chunk within the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// Rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Hash over the rows that does not depend on their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_hash: Option<String>,
    /// Path that the part holds, or begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the part holds: files, keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Anything else, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::map")]
    pub notes: BTreeMap<String, String>,
}

impl PartRecord {
    pub(super) fn new(index: u32, measure: &Measure, source: Option<PartSource>, meta: PartMeta) -> Self {
        Self {
            index,
            stored_len: measure.stored_len,
            sha256: measure.sha256,
            source,
            plain_len: measure.plain_len,
            blake3: measure.blake3,
            meta,
        }
    }

    pub(super) fn measure(&self) -> Measure {
        Measure { stored_len: self.stored_len, sha256: self.sha256, plain_len: self.plain_len, blake3: self.blake3 }
    }

    /// Returns the half that is always readable.
    pub fn stored(&self) -> StoredRecord {
        let Self { index, stored_len, sha256, source, .. } = self.clone();
        StoredRecord { index, stored_len, sha256, source }
    }
}

/// Content of all parts: the same however they are compressed and encrypted.
pub(super) fn content_hash<'a>(parts: impl Iterator<Item = &'a PartRecord>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&part.blake3.0);
    }
    Hash(*hasher.finalize().as_bytes())
}

/// Sums over the parts of a component, for its record in the manifest.
pub(super) struct Sums {
    pub(super) stored_len: u64,
    pub(super) own_len: u64,
    pub(super) sources: BTreeSet<BackupId>,
}

impl Sums {
    pub(super) fn of<'a>(parts: impl Iterator<Item = &'a StoredRecord>) -> Self {
        let mut sums = Self { stored_len: 0, own_len: 0, sources: BTreeSet::new() };
        for part in parts {
            sums.stored_len = sums.stored_len.saturating_add(part.stored_len);
            match &part.source {
                Some(source) => _ = sums.sources.insert(source.backup),
                None => sums.own_len = sums.own_len.saturating_add(part.stored_len),
            }
        }
        sums
    }
}

fn lines<T: Serialize>(items: impl Iterator<Item = T>) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for item in items {
        serde_json::to_writer(&mut text, &item)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the index").caused_by(e))?;
        text.push(b'\n');
    }
    Ok(text)
}

pub(super) fn encode(parts: &[PartRecord], recipients: Option<&Recipients>) -> Result<Bytes> {
    let text = match recipients {
        None => lines(parts.iter())?,
        Some(recipients) => {
            let plain = lines(parts.iter().map(|part| {
                let PartRecord { index, plain_len, blake3, meta, .. } = part.clone();
                PlainRecord { index, plain_len, blake3, meta }
            }))?;
            check_limit(plain.len())?;
            let mut text = lines(parts.iter().map(PartRecord::stored))?;
            text.extend(lines(std::iter::once(SealedLine { sealed: codec::seal(&plain, recipients)? }))?);
            text
        }
    };
    check_limit(text.len())?;
    Ok(text.into())
}

fn check_limit(length: usize) -> Result<()> {
    if length as u64 <= INDEX_LIMIT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "the index would be longer than format 1 allows")
        .with("bytes", length)
        .with("limit", INDEX_LIMIT)
        .hint("use larger chunks"))
}

/// An index whose hash was verified.
pub(super) enum Index {
    /// Nothing of it is sealed.
    Open(Vec<PartRecord>),
    /// The rest is sealed.
    Sealed(Vec<StoredRecord>, String),
}

impl Index {
    /// Reads an index, and checks that it adds up to what the manifest says.
    pub(super) fn decode(text: &[u8], component: &ComponentRecord) -> Result<Self> {
        let index = match component.encryption {
            Cipher::None => Self::Open(parse(text, component)?),
            Cipher::Age => {
                let end = text.strip_suffix(b"\n").unwrap_or(text);
                let last = end.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
                let sealed: SealedLine = parse_line(&text[last..], component, "its last line")?;
                Self::Sealed(parse(&text[..last], component)?, sealed.sealed)
            }
        };
        let stored = index.stored();
        check_order(stored.iter().map(|p| p.index), component)?;
        let sums = Sums::of(stored.iter());
        let adds_up = stored.len() as u64 == component.parts
            && sums.stored_len == component.stored_len
            && sums.own_len == component.own_len
            && sums.sources == component.sources
            && stored.iter().filter_map(|p| p.source.as_ref()).all(|s| s.index <= MAX_PART);
        if adds_up { Ok(index) } else { Err(bad(component, "does not add up to what the manifest says")) }
    }

    /// Returns what can be read without any key.
    pub(super) fn stored(&self) -> Vec<StoredRecord> {
        match self {
            Self::Open(parts) => parts.iter().map(PartRecord::stored).collect(),
            Self::Sealed(parts, _) => parts.clone(),
        }
    }

    /// Returns everything; what is sealed is opened.
    pub(super) fn open(self, component: &ComponentRecord, opener: &Opener) -> Result<Vec<PartRecord>> {
        let parts = match self {
            Self::Open(parts) => parts,
            Self::Sealed(stored, sealed) => {
                let plain = codec::unseal(&sealed, opener, INDEX_LIMIT)
                    .map_err(|e| e.during(format!("the sealed part of the index of `{}`", component.name)))?;
                let plain: Vec<PlainRecord> = parse(&plain, component)?;
                if !plain.iter().map(|p| p.index).eq(stored.iter().map(|p| p.index)) {
                    return Err(bad(component, "seals other parts than it lists"));
                }
                stored.into_iter().zip(plain).map(|(stored, plain)| join(stored, plain)).collect()
            }
        };
        if parts.iter().map(|p| p.plain_len).fold(0, u64::saturating_add) != component.plain_len {
            return Err(bad(component, "does not add up to what the manifest says"));
        }
        Ok(parts)
    }
}

fn join(stored: StoredRecord, plain: PlainRecord) -> PartRecord {
    let StoredRecord { index, stored_len, sha256, source } = stored;
    let PlainRecord { plain_len, blake3, meta, .. } = plain;
    PartRecord { index, stored_len, sha256, source, plain_len, blake3, meta }
}

fn parse<T: DeserializeOwned>(text: &[u8], component: &ComponentRecord) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.split_inclusive(|b| *b == b'\n')) {
        if number > component.parts {
            return Err(bad(component, "lists more parts than the manifest says"));
        }
        all.push(parse_line(line, component, &format!("line {number}"))?);
    }
    Ok(all)
}

fn parse_line<T: DeserializeOwned>(line: &[u8], component: &ComponentRecord, which: &str) -> Result<T> {
    serde_json::from_slice(line).map_err(|e| bad(component, &format!("cannot be read: {which}")).caused_by(e))
}

fn check_order(indexes: impl Iterator<Item = u32>, component: &ComponentRecord) -> Result<()> {
    let mut next = 0;
    for index in indexes {
        if index < next || index > MAX_PART {
            return Err(bad(component, &format!("is out of order at part {index}")));
        }
        next = index + 1;
    }
    Ok(())
}

fn bad(component: &ComponentRecord, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the index of `{}` {why}", component.name))
}
