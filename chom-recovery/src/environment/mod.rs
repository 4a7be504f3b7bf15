//! The application's environment file: read as the application reads it, mended key by key, and its key proven.
//!
//! Values are looked at and never shown: whatever leaves this module names keys and lines alone.

mod key;
mod mend;
mod syntax;

use std::collections::BTreeSet;

pub(crate) use key::Key;
pub(crate) use mend::{Change, Extent};
use syntax::Block;

use crate::secret::Secret;

/// What Laravel does not start without.
const NEEDED: [&str; 5] = ["APP_KEY", "APP_ENV", "DB_HOST", "DB_DATABASE", "DB_USERNAME"];

/// Words in the names of variables whose values are secrets.
const SECRET: [&str; 5] = ["KEY", "PASSWORD", "SECRET", "TOKEN", "DSN"];

/// Longest file that is read, in bytes.
pub(crate) const LONGEST: usize = 256 << 10;

/// An environment file; it prints nothing.
pub(crate) struct Environment {
    blocks: Vec<Block>,
}

impl Environment {
    /// Reads a file. What cannot be read of it is a fault, not an error.
    pub(crate) fn read(text: &str) -> Self {
        let blocks = syntax::blocks(text);
        // Known from here on, so that no log line of the application shows it. Not every value: some are names of ours.
        for (name, value) in blocks.iter().filter_map(Block::pair) {
            if SECRET.iter().any(|word| name.contains(word)) && !value.starts_with('/') {
                drop(Secret::new(value.to_owned()));
            }
        }
        Self { blocks }
    }

    /// Returns a value. Of two lines the first counts, as for the application.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.blocks.iter().filter_map(Block::pair).find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Says which lines cannot be read, and why, by line and key.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        self.blocks.iter().filter_map(Block::fault).collect()
    }

    /// Names what is needed and is not there, or empty.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        NEEDED.into_iter().filter(|name| self.get(name).is_none_or(str::is_empty)).collect()
    }

    /// Says what is wrong with the form of the key; `None`: it has the right one, or is not there.
    pub(crate) fn key_fault(&self) -> Option<String> {
        Key::read(self.get("APP_KEY").filter(|key| !key.is_empty())?).err()
    }

    /// Returns the key that values of the database are encrypted with, where it has the right form.
    pub(crate) fn key(&self) -> Option<Key> {
        Key::read(self.get("APP_KEY")?).ok()
    }

    /// Says everything that keeps an application from starting with it, by line and key.
    pub(crate) fn faults(&self) -> Vec<String> {
        let missing = self.missing().into_iter().map(|name| format!("`{name}` is missing or empty"));
        let malformed = self.key_fault().map(|why| format!("`APP_KEY` is malformed: {why}"));
        self.unreadable().into_iter().chain(missing).chain(malformed).collect()
    }

    /// Tells whether details of errors are shown to users.
    pub(crate) fn shows_errors(&self) -> bool {
        self.get("APP_DEBUG").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn names(&self) -> BTreeSet<&str> {
        self.blocks.iter().filter_map(Block::pair).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn the_form_of_the_key_is_judged_and_never_shown() {
        let fault = |key: &str| Environment::read(&format!("APP_KEY={key}\n")).key_fault();
        let good = format!("base64:{}", STANDARD.encode([7_u8; 32]));
        assert_eq!(fault(&good), None);
        assert_eq!(fault(&format!("\"{good}\"")), None);
        assert_eq!(fault("0123456789abcdef0123456789abcdef"), None);
        for bad in ["base64:***", "base64:c2hvcnQ=", "too-short"] {
            let why = fault(bad).unwrap();
            assert!(!why.contains(bad.trim_start_matches("base64:")), "{why}");
        }
        assert_eq!(fault(""), None, "a key that is not there is missing, not malformed");
    }

    #[test]
    fn what_is_needed_and_not_there_is_named() {
        let all = "APP_KEY=k\nAPP_ENV=production\nDB_HOST=mysql\nDB_DATABASE=shop\nexport DB_USERNAME='shop'\n";
        assert_eq!(Environment::read(all).missing(), [""; 0]);
        let some = Environment::read("# DB_HOST=mysql\nAPP_KEY=\nAPP_ENV=production\nAPP_DEBUG=true");
        assert_eq!(some.missing(), ["APP_KEY", "DB_HOST", "DB_DATABASE", "DB_USERNAME"]);
        assert!(some.shows_errors());
    }
}
