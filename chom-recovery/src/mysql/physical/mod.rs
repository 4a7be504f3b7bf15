//! Copies of a running server's data directory: what can be copied, how a server makes the copy, and whether its pages are
//! sound.
//!
//! MySQL copies itself, by its plugin `clone`: [`clone_to`]. For MariaDB, `mariadb-backup` does it, which is a program beside
//! the server: who runs it is not this module's affair. Either way the copy holds no binary logs, and none of the files by
//! which a server knows itself (`auto.cnf`): a server that starts on it is a new one with the same rows. That is meant: two
//! servers of one identity would give two transactions the same GTID.

mod clone;
pub mod pages;
mod settings;

use serde::{Deserialize, Serialize};

pub use clone::{Cloned, clone_to, end_clones, server_time};
pub use settings::{Settings, dialect, require_copyable, require_same, settings};

use super::{
    Server,
    baseline::Census,
    check::CheckReport,
    dump::{instance, objects},
    info::{Flavour, Version},
};
use crate::error::{Error, ErrorKind, Result};

/// Table → number that InnoDB gave its rows, which a copy of its files has as well.
pub type Identities = std::collections::BTreeMap<String, u64>;

/// What a server on a copy must equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyBaseline {
    /// Family of the copied server.
    pub flavour: Flavour,
    /// Its version.
    pub version: Version,
    /// Settings that the files depend on.
    pub settings: Settings,
    /// Definitions of everything, accounts among them.
    pub census: Census,
    /// Which rows each table has; `None` where the account may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identities: Option<Identities>,
}

/// What was found equal, and sound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyVerdict {
    /// Definitions compared.
    pub definitions: usize,
    /// What `CHECK TABLE` said.
    pub check: CheckReport,
}

impl CopyBaseline {
    /// Reads it from a server.
    ///
    /// # Errors
    /// Those of reading definitions.
    pub async fn of(server: &Server) -> Result<Self> {
        let info = server.info();
        Ok(Self {
            flavour: info.flavour,
            version: info.version,
            settings: settings(server).await?,
            census: objects::collect(server).await?.census(),
            identities: instance::identities(server).await?.map(own),
        })
    }

    /// Tables, as schema and name.
    pub fn tables(&self) -> impl Iterator<Item = (&str, &str)> {
        let tables = self.census.get("table");
        tables.into_iter().flat_map(|tables| tables.keys()).filter_map(|name| name.split_once('.'))
    }

    /// Makes sure that nothing was made, changed or exchanged between two looks.
    ///
    /// # Errors
    /// `Conflict`: something was; up to five things are named.
    pub fn require_unchanged(&self, after: &Self) -> Result<()> {
        let changed = self.differences(after);
        if changed.is_empty() {
            return Ok(());
        }
        let shown = shown(&changed);
        Err(Error::new(ErrorKind::Conflict, format!("definitions changed while the data files were copied: {shown}"))
            .with("changed", changed.len())
            .hint("run the backup again, not at the time of a deployment"))
    }

    /// Names what is not the same in both.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let empty = std::collections::BTreeMap::new();
        let kinds: std::collections::BTreeSet<_> = self.census.keys().chain(other.census.keys()).collect();
        for kind in kinds {
            let (a, b) = (self.census.get(kind).unwrap_or(&empty), other.census.get(kind).unwrap_or(&empty));
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            differences.extend(names.into_iter().filter(|n| a.get(*n) != b.get(*n)).map(|n| format!("{kind} `{n}`")));
        }
        if let (Some(a), Some(b)) = (&self.identities, &other.identities) {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            differences
                .extend(names.into_iter().filter(|n| a.get(*n) != b.get(*n)).map(|n| format!("the rows of `{n}`")));
        }
        differences
    }

    /// Proves that a server on a copy has what was copied, and that every table can be read to its end.
    ///
    /// # Errors
    /// `Corrupt`: something differs, or a table is damaged. `Precondition`: the server reads the files in another way.
    /// `Timeout`: not all tables were checked within `cap`.
    pub async fn verify(&self, server: &Server, cap: std::time::Duration) -> Result<CopyVerdict> {
        let found = Self::of(server).await?;
        require_same(&self.settings, &found.settings)?;
        let differences = self.differences(&found);
        if !differences.is_empty() {
            let what = format!("the server does not hold what was copied: {}", shown(&differences));
            return Err(Error::new(ErrorKind::Corrupt, what).with("differences", differences.len()));
        }
        let check = server.check_tables(cap).await?;
        if let Some(first) = check.corrupt.first() {
            let what = format!("table `{}` of the copy is damaged: {}", first.table, first.message);
            return Err(Error::new(ErrorKind::Corrupt, what).with("damaged tables", check.corrupt.len()));
        }
        if check.seconds >= cap.as_secs_f64() && !check.unchecked.is_empty() {
            let what = format!("{} tables of the copy could not be checked in time", check.unchecked.len());
            return Err(Error::new(ErrorKind::Timeout, what));
        }
        Ok(CopyVerdict { definitions: self.census.values().map(std::collections::BTreeMap::len).sum(), check })
    }
}

/// Tables of InnoDB's own and of the server come and go as it likes.
fn own(identities: instance::Identities) -> Identities {
    let is_own = |name: &str| {
        let schema = name.split_once('/').map(|(schema, _)| schema);
        schema.is_some_and(|schema| !super::SYSTEM_SCHEMAS.contains(&schema))
    };
    identities.into_iter().filter(|(name, _)| is_own(name)).collect()
}

fn shown(names: &[String]) -> String {
    names.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
}
