//! What a server says about itself.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// Family of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    /// MySQL.
    Mysql,
    /// MariaDB.
    Mariadb,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mysql => "MySQL",
            Self::Mariadb => "MariaDB",
        })
    }
}

/// Version of a server: three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u16, pub u16, pub u16);

impl Version {
    /// Reads the leading `major.minor.patch` of a version text.
    ///
    /// # Errors
    /// `Unsupported`: the text does not begin with three numbers.
    pub fn parse(text: &str) -> Result<Self> {
        // MariaDB 10 puts this in front for old replicas.
        let text = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u16>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(a)), Some(Ok(b)), Some(Ok(c))) => Ok(Self(a, b, c)),
            _ => {
                Err(Error::new(ErrorKind::Unsupported, format!("`{text}` is not a server version that is understood")))
            }
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A place in the binary log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Binary log file.
    pub file: String,
    /// Byte offset in it.
    pub offset: u64,
    /// GTID set executed up to here; absent when the server keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gtid: Option<String>,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.offset)
    }
}

/// Identity and settings of a server, read once at connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "they are the server's own switches")]
pub struct ServerInfo {
    /// MySQL or MariaDB.
    pub flavour: Flavour,
    /// Version as numbers.
    pub version: Version,
    /// Version as the server writes it.
    pub version_text: String,
    /// Identity of the data directory; not every MariaDB has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_uuid: Option<String>,
    /// Seconds since the server started.
    pub uptime_seconds: u64,
    /// Data directory, as the server sees it.
    pub data_dir: String,
    /// Whether changes are written to a binary log.
    pub log_bin: bool,
    /// `ROW`, `STATEMENT` or `MIXED`.
    pub binlog_format: String,
    /// GTIDs executed so far; empty when the server keeps none.
    pub gtid: String,
    /// `lower_case_table_names`: 0 keeps the case of names.
    pub lower_case_table_names: u8,
    /// Longest packet, in bytes.
    pub max_allowed_packet: u64,
    /// Whether writes of ordinary accounts are refused.
    pub read_only: bool,
    /// `innodb_flush_log_at_trx_commit`; 1 is durable.
    pub flush_log_at_commit: String,
    /// `sync_binlog`; 1 is durable.
    pub sync_binlog: String,
    /// Whether InnoDB's doublewrite buffer protects pages.
    pub doublewrite: bool,
    /// Whether the event scheduler runs.
    pub event_scheduler: bool,
}

impl ServerInfo {
    pub(super) fn from_variables(variables: &BTreeMap<String, String>, uptime_seconds: u64) -> Result<Self> {
        let text = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let on = |name: &str| matches!(text(name).as_str(), "ON" | "1" | "DETECT_AND_RECOVER" | "DETECT_ONLY" | "fast");
        let version_text = text("version");
        let flavour = if version_text.contains("MariaDB") || text("version_comment").contains("MariaDB") {
            Flavour::Mariadb
        } else {
            Flavour::Mysql
        };
        let gtid = match flavour {
            Flavour::Mysql => text("gtid_executed"),
            Flavour::Mariadb => text("gtid_binlog_pos"),
        };
        Ok(Self {
            flavour,
            version: Version::parse(&version_text)?,
            version_text,
            server_uuid: ["server_uuid", "server_uid"].iter().map(|n| text(n)).find(|v| !v.is_empty()),
            uptime_seconds,
            data_dir: text("datadir"),
            log_bin: on("log_bin"),
            binlog_format: text("binlog_format"),
            gtid: gtid.replace(char::is_whitespace, ""),
            lower_case_table_names: text("lower_case_table_names").parse().unwrap_or(0),
            max_allowed_packet: text("max_allowed_packet").parse().unwrap_or(0),
            read_only: on("read_only"),
            flush_log_at_commit: text("innodb_flush_log_at_trx_commit"),
            sync_binlog: text("sync_binlog"),
            doublewrite: on("innodb_doublewrite"),
            event_scheduler: on("event_scheduler"),
        })
    }

    /// Names what this server gives up in durability; empty when a commit survives a power cut.
    pub fn durability_gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        if self.flush_log_at_commit != "1" {
            gaps.push(format!("innodb_flush_log_at_trx_commit is {}, not 1", self.flush_log_at_commit));
        }
        if !self.doublewrite {
            gaps.push("innodb_doublewrite is off".into());
        }
        if self.log_bin && self.sync_binlog != "1" {
            gaps.push(format!("sync_binlog is {}, not 1", self.sync_binlog));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_flavours_are_read_and_ordered() {
        assert_eq!(Version::parse("9.7.4-2").unwrap(), Version(9, 7, 4));
        assert_eq!(Version::parse("11.8.3-MariaDB-0+deb13u1 from Debian").unwrap(), Version(11, 8, 3));
        assert_eq!(Version::parse("5.5.5-10.11.14-MariaDB").unwrap(), Version(10, 11, 14));
        assert!(Version(10, 6, 1) < Version(10, 11, 0));
        assert_eq!(Version::parse("banana").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_server_that_may_lose_commits_says_why() {
        let variables = [("version", "9.7.4"), ("innodb_flush_log_at_trx_commit", "2"), ("innodb_doublewrite", "ON")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let info = ServerInfo::from_variables(&variables, 1).unwrap();
        assert_eq!(info.durability_gaps(), ["innodb_flush_log_at_trx_commit is 2, not 1"]);
    }
}
