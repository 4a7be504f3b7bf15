//! Paths in journals: in hex, since a path need not be UTF-8, and since journals replace secrets that a path may hold by
//! chance: what is undone is found by its path.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::files::TreePath;

pub(super) fn serialize<S: Serializer>(path: &TreePath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(path.as_bytes()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TreePath, D::Error> {
    let bytes = hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
    // The root is empty, which no other path may be.
    if bytes.is_empty() {
        return Ok(TreePath::root());
    }
    TreePath::new(bytes).map_err(D::Error::custom)
}
