//! Where the application notes who did what.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// A table of the application's own in which it notes who did what. `diagnose` asks it who removed things, where rows are
/// missing.
///
/// # Examples
/// ```
/// let audit: chom_recovery::system::AuditTable = toml::from_str("table = \"shop.audit_log\"\nwho = \"actor\"").unwrap();
/// assert_eq!((audit.who.as_str(), audit.time.as_str()), ("actor", "created_at"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditTable {
    /// The table, as `schema.table`.
    pub table: String,
    /// Column with the time, in UTC.
    #[serde(default = "created_at")]
    pub time: String,
    /// Column that tells who did it.
    #[serde(default = "user_id")]
    pub who: String,
    /// Column that tells what was done.
    #[serde(default = "action")]
    pub what: String,
    /// Words of which that column holds one where something was removed, whatever their case.
    #[serde(default = "removals")]
    pub removals: Vec<String>,
}

fn created_at() -> String {
    "created_at".into()
}

fn user_id() -> String {
    "user_id".into()
}

fn action() -> String {
    "action".into()
}

fn removals() -> Vec<String> {
    ["delete", "destroy", "purge", "remove", "truncate"].map(str::to_owned).into()
}

impl AuditTable {
    pub(super) fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(ErrorKind::InvalidInput, format!("configuration: {what}")));
        let names: Vec<&str> = self.table.split('.').collect();
        if names.len() != 2 || names.iter().any(|name| name.is_empty()) {
            return bad(format!("`application.audit.table` = `{}` is not `schema.table`", self.table));
        }
        if self.removals.is_empty() || self.removals.iter().any(|word| word.trim().is_empty()) {
            return bad("`application.audit.removals` needs words, none of them empty".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_a_schema_and_no_words_are_refused() {
        let audit = |text: &str| toml::from_str::<AuditTable>(text).unwrap().check();
        audit("table = \"shop.audit_log\"").unwrap();
        for text in ["table = \"audit_log\"", "table = \"shop.\"", "table = \"shop.audit_log\"\nremovals = []"] {
            assert_eq!(audit(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
