//! JSON of signed objects: read with limits, each key once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor},
};

use crate::{
    catalog::{MANIFEST_LIMIT, READER},
    error::{Error, ErrorKind, Result},
};

/// Deepest nesting.
const DEPTH_LIMIT: usize = 16;

/// Reads JSON with limits, and tells a newer format from damage.
pub(super) fn decode<T: DeserializeOwned>(what: &str, payload: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Versions {
        min_reader: u32,
    }
    let bad = |e: serde_json::Error| Error::new(ErrorKind::Corrupt, format!("the {what} cannot be read")).caused_by(e);
    if payload.len() > MANIFEST_LIMIT || depth(payload) > DEPTH_LIMIT {
        return Err(Error::new(ErrorKind::Corrupt, format!("the {what} is larger or deeper than its format allows")));
    }
    let versions: Versions = serde_json::from_slice(payload).map_err(bad)?;
    if versions.min_reader > READER {
        return Err(Error::new(ErrorKind::Unsupported, format!("the {what} has a newer format"))
            .with("needs reader", versions.min_reader)
            .with("this is reader", READER)
            .hint("use a newer version of chom-recovery"));
    }
    serde_json::from_slice(payload).map_err(bad)
}

/// Deepest nesting of a JSON text.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Reads a map, and refuses a key that comes twice: readers would not agree on its value.
pub(super) fn map<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    struct Map<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = access.next_entry::<String, V>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("duplicate field `{}`", key.escape_debug())));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Map(PhantomData))
}

/// Reads a set, and refuses a value that comes twice.
pub(super) fn set<'de, D: Deserializer<'de>, V: Deserialize<'de> + Ord + fmt::Display>(
    deserializer: D,
) -> Result<BTreeSet<V>, D::Error> {
    struct Set<V>(PhantomData<V>);

    impl<'de, V: Deserialize<'de> + Ord + fmt::Display> Visitor<'de> for Set<V> {
        type Value = BTreeSet<V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a set")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut set = BTreeSet::new();
            while let Some(value) = access.next_element::<V>()? {
                if set.contains(&value) {
                    return Err(A::Error::custom(format!("`{value}` comes twice")));
                }
                set.insert(value);
            }
            Ok(set)
        }
    }
    deserializer.deserialize_seq(Set(PhantomData))
}
