//! The index of a component: its parts, one JSON object a line, in order of index.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{codec::Measure, id::Hash, layout::MAX_PART, manifest::ComponentRecord},
    error::{Error, ErrorKind, Result},
};

/// Longest index, in bytes; read at once.
pub const INDEX_LIMIT: u64 = 256 << 20;

/// A part, as the index lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartRecord {
    /// Number of the part; names its key.
    pub index: u32,
    /// Bytes as stored.
    pub stored_len: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Hash,
    /// Bytes once decompressed.
    pub plain_len: u64,
    /// BLAKE3 of the bytes once decompressed.
    pub blake3: Hash,
    /// What the part is.
    pub meta: PartMeta,
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
    /// Anything else, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

impl PartRecord {
    pub(super) fn new(index: u32, measure: &Measure, meta: PartMeta) -> Self {
        Self {
            index,
            stored_len: measure.stored_len,
            sha256: measure.sha256,
            plain_len: measure.plain_len,
            blake3: measure.blake3,
            meta,
        }
    }

    pub(super) fn measure(&self) -> Measure {
        Measure { stored_len: self.stored_len, sha256: self.sha256, plain_len: self.plain_len, blake3: self.blake3 }
    }
}

/// Content of all parts, independent of how it was compressed.
pub(super) fn content_hash<'a>(parts: impl Iterator<Item = &'a PartRecord>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&part.blake3.0);
    }
    Hash(*hasher.finalize().as_bytes())
}

pub(super) fn encode<'a>(parts: impl Iterator<Item = &'a PartRecord>) -> Result<Bytes> {
    let mut text = Vec::new();
    for part in parts {
        serde_json::to_writer(&mut text, part)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the index").caused_by(e))?;
        text.push(b'\n');
    }
    if text.len() as u64 > INDEX_LIMIT {
        return Err(Error::new(ErrorKind::Unsupported, "the index would be longer than format 1 allows")
            .with("bytes", text.len())
            .with("limit", INDEX_LIMIT)
            .hint("use larger chunks"));
    }
    Ok(text.into())
}

/// Reads an index whose hash was verified, and checks that it adds up to what the manifest says.
pub(super) fn decode(text: &[u8], component: &ComponentRecord) -> Result<Vec<PartRecord>> {
    let bad = |why: String| Error::new(ErrorKind::Corrupt, format!("the index of `{}` {why}", component.name));
    let mut parts: Vec<PartRecord> = Vec::new();
    for (number, line) in text.split_inclusive(|b| *b == b'\n').enumerate() {
        let part: PartRecord = serde_json::from_slice(line)
            .map_err(|e| bad(format!("cannot be read: line {}", number + 1)).caused_by(e))?;
        if part.index > MAX_PART || parts.last().is_some_and(|last| last.index >= part.index) {
            return Err(bad(format!("is out of order: line {}", number + 1)));
        }
        parts.push(part);
    }
    let sum = |of: fn(&PartRecord) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
    let adds_up = parts.len() as u64 == component.parts
        && sum(|p| p.stored_len) == component.stored_len
        && sum(|p| p.plain_len) == component.plain_len
        && content_hash(parts.iter()) == component.blake3;
    if adds_up { Ok(parts) } else { Err(bad("does not add up to what the manifest says".into())) }
}
