//! What a dump's own settings change in the way its text is read.

use std::collections::HashMap;

use super::statement::{Assignment, Settings, Source};

/// The parts of `sql_mode` that decide where a quoted text ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mode {
    /// A backslash is a character like any other.
    pub(super) no_backslash_escapes: bool,
    /// `"` quotes names.
    pub(super) ansi_quotes: bool,
}

impl Mode {
    /// Reads a list of modes. `ANSI` and the modes of other products stand for lists that hold `ANSI_QUOTES`.
    ///
    /// # Source
    /// MySQL 9 manual, "Server SQL Modes"; MariaDB documentation, "SQL_MODE".
    pub(super) fn parse(list: &[u8]) -> Self {
        let mut mode = Self::default();
        for word in list.split(|b| *b == b',') {
            let word = word.trim_ascii().to_ascii_uppercase();
            match word.as_slice() {
                b"NO_BACKSLASH_ESCAPES" => mode.no_backslash_escapes = true,
                b"ANSI_QUOTES" | b"ANSI" | b"DB2" | b"MAXDB" | b"MSSQL" | b"ORACLE" | b"POSTGRESQL" => {
                    mode.ansi_quotes = true;
                }
                _ => {}
            }
        }
        mode
    }

    /// Tells whether a backslash inside this quote takes the next byte with it.
    pub(super) fn escapes(self, quote: u8) -> bool {
        match quote {
            b'\'' => !self.no_backslash_escapes,
            b'"' => !self.no_backslash_escapes && !self.ansi_quotes,
            _ => false,
        }
    }
}

/// Character sets in which the second byte of a character may be a quote or a backslash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Charset {
    /// Every byte below 0x80 is a character of its own.
    #[default]
    Plain,
    Sjis,
    Gbk,
    Big5,
}

impl Charset {
    /// Chooses by the name that `SET NAMES` gives, of a character set or of one of its collations.
    pub(super) fn named(name: &[u8]) -> Self {
        let name = name.to_ascii_lowercase();
        let is = |set: &[u8]| name == set || (name.starts_with(set) && name.get(set.len()) == Some(&b'_'));
        if is(b"sjis") || is(b"cp932") {
            Self::Sjis
        } else if is(b"gbk") || is(b"gb18030") {
            Self::Gbk
        } else if is(b"big5") {
            Self::Big5
        } else {
            Self::Plain
        }
    }

    /// Tells whether this byte begins a character of two bytes. The four bytes of gb18030 are two such pairs.
    ///
    /// # Source
    /// Lead bytes of CP932, GBK, GB18030 and Big5, as in the servers' `strings/ctype-*.c`.
    pub(super) fn is_lead(self, byte: u8) -> bool {
        match self {
            Self::Plain => false,
            Self::Sjis => matches!(byte, 0x81..=0x9f | 0xe0..=0xfc),
            Self::Gbk => matches!(byte, 0x81..=0xfe),
            Self::Big5 => matches!(byte, 0xa1..=0xf9),
        }
    }
}

/// Follows `SET` statements.
#[derive(Debug, Clone, Default)]
pub(super) struct Tracker {
    pub(super) mode: Mode,
    pub(super) charset: Charset,
    modes: HashMap<String, Mode>,
    charsets: HashMap<String, Charset>,
}

impl Tracker {
    pub(super) fn apply(&mut self, settings: &Settings) {
        for Assignment { target, source } in &settings.assignments {
            let name = bare(target);
            match (name.as_str(), source) {
                ("sql_mode", Source::Text(list)) => self.mode = Mode::parse(list),
                ("sql_mode", Source::Variable(from)) => {
                    self.mode = self.modes.get(&from.to_ascii_lowercase()).copied().unwrap_or_default();
                }
                ("names" | "character_set_client", Source::Text(name)) => self.charset = Charset::named(name),
                ("character_set_client", Source::Variable(from)) => {
                    self.charset = self.charsets.get(&from.to_ascii_lowercase()).copied().unwrap_or_default();
                }
                (_, Source::Variable(from)) if is_user(target) => match bare(from).as_str() {
                    "sql_mode" => drop(self.modes.insert(target.to_ascii_lowercase(), self.mode)),
                    "character_set_client" => drop(self.charsets.insert(target.to_ascii_lowercase(), self.charset)),
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

/// `@name`, not `@@name`.
pub(super) fn is_user(name: &str) -> bool {
    name.starts_with('@') && !name.starts_with("@@")
}

/// Strips a system variable down to its name.
pub(super) fn bare(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if is_user(&name) {
        return name;
    }
    let name = name.trim_start_matches('@');
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_change_quoting_are_seen_in_lists_and_in_combinations() {
        assert_eq!(Mode::parse(b"NO_AUTO_VALUE_ON_ZERO"), Mode::default());
        assert!(Mode::parse(b"STRICT_TRANS_TABLES, no_backslash_escapes").no_backslash_escapes);
        assert!(Mode::parse(b"ANSI").ansi_quotes);
        assert!(!Mode { ansi_quotes: true, ..Mode::default() }.escapes(b'"'));
        assert!(!Mode::default().escapes(b'`'));
    }

    #[test]
    fn a_character_set_is_told_by_its_collations_too() {
        assert_eq!(Charset::named(b"GBK_chinese_ci"), Charset::Gbk);
        assert_eq!(Charset::named(b"cp932"), Charset::Sjis);
        assert_eq!(Charset::named(b"utf8mb4"), Charset::Plain);
        assert!(Charset::Sjis.is_lead(0x83) && !Charset::Sjis.is_lead(0xb1));
    }
}
