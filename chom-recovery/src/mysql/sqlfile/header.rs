//! What the comments of a dump say about where it comes from.

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::mysql::Flavour;

/// Comments of a dump. Everything in it is the word of whoever wrote the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Program and version that dumped.
    pub tool: Option<String>,
    /// Version of the server as it wrote it, for example `10.11.6-MariaDB-log`.
    pub server_version: Option<String>,
    /// Host that was dumped.
    pub host: Option<String>,
    /// Schema that was dumped, the first where there were several.
    pub database: Option<String>,
    /// Whether MariaDB's sandbox line is there.
    pub has_sandbox: bool,
}

impl Header {
    /// Tells the family of the dumped server, from its version, or from what only one family writes.
    pub fn flavour(&self) -> Option<Flavour> {
        let is_maria = |text: &Option<String>| text.as_ref().map(|t| t.to_ascii_lowercase().contains("mariadb"));
        match (is_maria(&self.server_version), self.has_sandbox) {
            (Some(true), _) | (None, true) => Some(Flavour::Mariadb),
            (Some(false), _) => Some(Flavour::Mysql),
            (None, false) => match is_maria(&self.tool) {
                Some(true) => Some(Flavour::Mariadb),
                Some(false) => Some(Flavour::Mysql),
                None => None,
            },
        }
    }

    /// Reads a comment; the trailer gives its time, where it has one.
    #[expect(clippy::option_option, reason = "a trailer, and whether it has a time")]
    pub(super) fn comment(&mut self, raw: &[u8]) -> Option<Option<NaiveDateTime>> {
        let text = String::from_utf8_lossy(&raw[..raw.len().min(1024)]);
        let text = text.trim();
        let line = text.strip_prefix("--")?.trim();
        if let Some(rest) = line.strip_prefix("Dump completed") {
            let time = rest.trim().strip_prefix("on").map(str::trim);
            // The hour may be padded by a blank.
            return Some(time.and_then(|t| NaiveDateTime::parse_from_str(t, "%Y-%m-%d %k:%M:%S").ok()));
        }
        let first = |slot: &mut Option<String>, value: &str| {
            let value = value.trim();
            if slot.is_none() && !value.is_empty() {
                *slot = Some(value.chars().take(200).collect());
            }
        };
        if line.starts_with("MySQL dump") || line.starts_with("MariaDB dump") {
            first(&mut self.tool, line);
        } else if let Some(version) = line.strip_prefix("Server version") {
            first(&mut self.server_version, version);
        } else if let Some(rest) = line.strip_prefix("Host:") {
            let (host, database) = rest.split_once("Database:").unwrap_or((rest, ""));
            first(&mut self.host, host);
            first(&mut self.database, database);
        }
        None
    }

    /// Reads the coordinates of `CHANGE MASTER TO` and `CHANGE REPLICATION SOURCE TO`.
    #[expect(clippy::unused_self, reason = "it reads the header of the file as well")]
    pub(super) fn position(&self, statement: &[u8], position: &mut Option<(String, u64)>) {
        let text = String::from_utf8_lossy(&statement[..statement.len().min(2000)]).into_owned();
        let after = |names: [&str; 2]| {
            names
                .iter()
                .find_map(|name| text.find(name).map(|at| text[at + name.len()..].trim_start_matches([' ', '='])))
        };
        let file = after(["SOURCE_LOG_FILE", "MASTER_LOG_FILE"]).and_then(|t| t.split('\'').nth(1));
        let offset = after(["SOURCE_LOG_POS", "MASTER_LOG_POS"])
            .map(|t| t.chars().take_while(char::is_ascii_digit).collect::<String>())
            .and_then(|digits| digits.parse().ok());
        if let (Some(file), Some(offset)) = (file, offset) {
            *position = Some((file.to_owned(), offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_of_all_makers_are_read() {
        let read = |lines: &[&str]| {
            let mut header = Header::default();
            for line in lines {
                assert_eq!(header.comment(line.as_bytes()), None);
            }
            header
        };
        let mysql = read(&[
            "-- MySQL dump 10.13  Distrib 9.7.0, for Linux (x86_64)\n",
            "-- Host: localhost    Database: chom\n",
            "-- Server version\t9.7.0\r\n",
        ]);
        assert_eq!((mysql.flavour(), mysql.database.as_deref()), (Some(Flavour::Mysql), Some("chom")));
        let maria = read(&[
            "-- MariaDB dump 10.19-11.8.3-MariaDB, for debian-linux-gnu (x86_64)\n",
            "-- Host: localhost    Database: \n",
            "-- Server version\t11.8.3-MariaDB-0+deb13u1 from Debian\n",
        ]);
        assert_eq!((maria.flavour(), maria.database), (Some(Flavour::Mariadb), None));
        // The client of one with the server of the other.
        let mixed = read(&["-- MariaDB dump 10.19-11.8.3-MariaDB, for x\n", "-- Server version\t8.0.36\n"]);
        assert_eq!(mixed.flavour(), Some(Flavour::Mysql));
        assert_eq!(Header::default().flavour(), None);
    }

    #[test]
    fn the_trailer_tells_when_it_ended_with_or_without_a_time() {
        let time = |text: &str| Header::default().comment(text.as_bytes());
        let at = |h| chrono::NaiveDate::from_ymd_opt(2026, 1, 2).and_then(|d| d.and_hms_opt(h, 0, 9));
        assert_eq!(time("-- Dump completed on 2026-01-02  2:00:09\n"), Some(at(2)));
        assert_eq!(time("-- Dump completed on 2026-01-02 12:00:09"), Some(at(12)));
        assert_eq!(time("-- Dump completed\r\n"), Some(None));
        assert_eq!(time("-- Dumping data for table `Dump completed`"), None);
    }

    #[test]
    fn the_position_of_either_form_is_read() {
        for text in [
            "CHANGE MASTER TO MASTER_LOG_FILE='binlog.000003', MASTER_LOG_POS=157",
            "CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE='binlog.000003', SOURCE_LOG_POS=157",
        ] {
            let mut found = None;
            Header::default().position(text.as_bytes(), &mut found);
            assert_eq!(found, Some(("binlog.000003".to_owned(), 157)));
        }
    }
}
