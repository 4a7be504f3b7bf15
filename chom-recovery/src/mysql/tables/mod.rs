//! Single tables of a backup, or of another program's dump, on a running server: made beside, compared, and exchanged with what is there.
//!
//! Everything lies in schemas of the run's own until it is exchanged: `chom_new_…` for what is being restored,
//! `chom_kept_…` for what production had, `chom_undone_…` for what a rollback took out again. One `RENAME TABLE` moves all
//! tables of a run at once.
//!
//! What servers do on a rename, tried on MySQL 9.7, MariaDB 10.11 and 11.8: foreign keys of other tables follow the table
//! that they referred to to its new name, `foreign_key_checks` or not; a table with triggers is not moved to another
//! schema (error 1435); a foreign key is not replaced by one of its name in one statement (error 1826). MySQL renames
//! under `LOCK TABLES`, so that nobody writes between the statements of an exchange; MariaDB refuses that (error 1192).

mod definition;
mod dump;
mod kept;
mod load;
mod look;
mod offer;
mod orphans;
mod swap;

use serde::{Deserialize, Serialize};

pub(in crate::mysql) use definition::Definition;
pub(crate) use dump::{DumpFile, DumpTables, fill_from_dump};
pub(crate) use kept::OwnSchema;
pub use load::Checked;
pub(in crate::mysql) use load::count_rows;
pub(crate) use load::{LocalInfile, Restore, refused_infile};
pub(crate) use offer::Holding;
pub use {
    definition::{ForeignKey, TableName},
    look::{Asked, Look},
    orphans::Orphans,
    swap::Place,
};

use super::{baseline::RowHash, objects::Trigger};

/// What the names of a run's own schemas begin with.
const OWN: [&str; 3] = ["chom_new_", "chom_kept_", "chom_undone_"];

/// Tells whether a schema belongs to a restore of single tables: what it holds is no part of production.
pub fn is_own(schema: &str) -> bool {
    let is_id = |rest: &str| rest.len() >= 26 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    OWN.iter().any(|prefix| schema.strip_prefix(prefix).is_some_and(is_id))
}

/// One table on its way into production: all that its exchange and the undoing of it need to know. Kept in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Its name in the backup.
    pub source: TableName,
    /// Its name in production.
    pub target: TableName,
    /// Where it is made and compared.
    pub fresh: TableName,
    /// Where what production has now is kept.
    pub kept: TableName,
    /// Where a rollback puts what was restored, with the rows that were written since.
    pub undone: TableName,
    /// What production has under the name now; `None`: nothing.
    pub present: Option<Present>,
    /// Rows that it must hold.
    pub rows: u64,
    /// Their bytes in the backup, uncompressed, as far as it is known.
    pub bytes: u64,
    /// Hash of them; `None`: a dump of another program, which promises none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_hash: Option<RowHash>,
    /// Next AUTO_INCREMENT value of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_id: Option<u64>,
    /// Hash of its definition, without name and foreign keys; `None`: a dump of another series of server, which writes
    /// definitions otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
    /// Triggers that the table in production must have: those it has now, of the backup where there is no table now.
    pub triggers: Vec<Trigger>,
    /// Its foreign keys in the backup; a copy under another name gets none.
    pub keys: Vec<ForeignKey>,
    /// Foreign keys of the table in production now.
    pub old_keys: Vec<ForeignKey>,
    /// Foreign keys of other tables that refer to it, and whose tables are not restored with it.
    pub children: Vec<ChildKey>,
}

impl Placed {
    /// Tells whether it comes under another name than it had.
    pub fn is_copy(&self) -> bool {
        self.source != self.target
    }
}

/// A table in production that is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Present {
    /// Rows, as the server estimates them: a damaged table must not be read through.
    pub rows: u64,
    /// Bytes of data and indexes, estimated.
    pub bytes: u64,
    /// When rows were last written, in UTC, as far as the server knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<String>,
}

/// A foreign key of another table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildKey {
    /// Table that has it.
    pub table: TableName,
    /// The key.
    pub key: ForeignKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_schemas_with_the_id_of_a_run_are_our_own() {
        for own in ["chom_new_01jdq0000000000000000000ab", "chom_kept_01JDQ0000000000000000000AB_2"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["chom", "chom_new_", "chom_kept_orders", "x_chom_new_01jdq0000000000000000000ab"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
