//! The application's environment file: read as the application reads it, mended key by key, and its key proven.
//!
//! Values are looked at and never shown: whatever leaves this module names keys and lines alone.

mod key;
mod mend;
mod syntax;

use std::collections::BTreeSet;

pub(crate) use key::Key;
pub(crate) use mend::{Change, Extent, How};
use syntax::Block;

use crate::secret::Secret;

/// The application's key: nothing works without it.
pub(crate) const KEY: &str = "APP_KEY";

/// What an application usually needs; it may have it from elsewhere, or not need it.
const USUAL: [&str; 4] = ["APP_ENV", "DB_HOST", "DB_DATABASE", "DB_USERNAME"];

/// Words in the names of variables whose values are secrets.
const SECRET: [&str; 8] = ["KEY", "PASS", "PWD", "SECRET", "TOKEN", "DSN", "CREDENTIAL", "WEBHOOK"];

/// Shorter values are no secrets that could be told from other words.
const SHORTEST_SECRET: usize = 8;

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
        // Known from here on, so that no log line of the application shows it.
        for block in &blocks {
            match block.pair() {
                Some((name, value)) if is_secret(name, value) => learn(value),
                Some(_) => {}
                // The application's reader quotes what it cannot read.
                None => block.words().for_each(learn),
            }
        }
        Self { blocks }
    }

    /// Returns a value. Of several lines the last counts, as for the application.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.last(name).and_then(Block::pair).map(|(_, value)| value)
    }

    /// Says which lines cannot be read, and why, by line and key.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        self.blocks.iter().filter_map(Block::fault).collect()
    }

    /// Tells whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Tells whether a variable is there and not empty.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }

    /// Names what an application usually needs and is not there, or empty.
    pub(crate) fn gaps(&self) -> Vec<&'static str> {
        USUAL.into_iter().filter(|name| !self.has(name)).collect()
    }

    /// Says what is wrong with the form of the key; `None`: it has the right one, is not there, or comes from another variable.
    pub(crate) fn key_fault(&self) -> Option<String> {
        Key::read(self.key_text()?).err()
    }

    /// Returns the keys that values of the database may be encrypted with, the current one first; none where it has not the
    /// right form.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let Some(current) = self.key_text().and_then(|text| Key::read(text).ok()) else { return Vec::new() };
        // Since Laravel 11, a key that was replaced goes on opening what it closed.
        let previous = self.get("APP_PREVIOUS_KEYS").into_iter().flat_map(|keys| keys.split(','));
        std::iter::once(current).chain(previous.filter_map(|text| Key::read(text.trim()).ok())).collect()
    }

    fn key_text(&self) -> Option<&str> {
        self.get(KEY).filter(|text| !text.is_empty() && !text.contains("${"))
    }

    /// Says everything that keeps an application from starting with it, by line and key. `has_key`: it has its key from
    /// elsewhere.
    pub(crate) fn faults(&self, has_key: bool) -> Vec<String> {
        let mut faults = self.unreadable();
        if !has_key {
            faults.extend((!self.has(KEY)).then(|| format!("`{KEY}` is missing or empty")));
            faults.extend(self.key_fault().map(|why| format!("`{KEY}` is malformed: {why}")));
        }
        faults
    }

    /// Tells whether details of errors are shown to users.
    pub(crate) fn shows_errors(&self) -> bool {
        self.get("APP_DEBUG").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    fn last(&self, name: &str) -> Option<&Block> {
        self.blocks.iter().rev().find(|block| block.name() == Some(name))
    }

    fn names(&self) -> BTreeSet<&str> {
        self.blocks.iter().filter_map(Block::name).collect()
    }
}

fn is_secret(name: &str, value: &str) -> bool {
    let is_path = ["_FILE", "_PATH", "_DIR"].iter().any(|end| name.ends_with(end));
    let has_login = value.contains("://") && value.contains('@');
    has_login || !is_path && SECRET.iter().any(|word| name.contains(word))
}

/// Words of lower-case letters are left out: they are names of ours as well, which a journal must keep.
fn learn(value: &str) {
    let is_word = value.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '-' | '_' | '.'));
    if value.len() >= SHORTEST_SECRET && !is_word {
        drop(Secret::new(value.to_owned()));
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
        assert_eq!(Environment::read(all).gaps(), [""; 0]);
        let some = Environment::read("# DB_HOST=mysql\nAPP_KEY=\nAPP_ENV=production\nAPP_DEBUG=true");
        assert_eq!(some.gaps(), ["DB_HOST", "DB_DATABASE", "DB_USERNAME"]);
        assert_eq!(some.faults(false), ["`APP_KEY` is missing or empty"]);
        assert_eq!(some.faults(true), [""; 0], "it has its key from elsewhere");
        assert!(some.shows_errors());
    }

    #[test]
    fn of_several_lines_the_last_counts() {
        let twice = Environment::read("APP_KEY=\nDB_HOST=a\nAPP_KEY=0123456789abcdef\nDB_HOST=b\n");
        assert_eq!((twice.get("DB_HOST"), twice.keys().len()), (Some("b"), 1));
        assert_eq!(twice.faults(false), [""; 0]);
        assert!(!Environment::read("DB_HOST=a\nDB_HOST\n").has("DB_HOST"), "a name alone takes the value away");
    }

    #[test]
    fn a_key_that_was_replaced_still_counts_and_one_by_reference_is_not_judged() {
        let rotated = "APP_KEY=0123456789abcdef\nAPP_PREVIOUS_KEYS=fedcba9876543210,x\n";
        assert_eq!(Environment::read(rotated).keys().len(), 2);
        let referred = Environment::read("APP_KEY=${OTHER}\n");
        assert_eq!((referred.keys().len(), referred.faults(false).len()), (0, 0));
    }

    #[test]
    fn values_of_lines_that_cannot_be_read_are_secrets_too() {
        drop(Environment::read("DB_PASSWORD=Tr0ubad0ur and more\nDB_DATABASE=production\n"));
        assert!(!crate::secret::scrub("at [Tr0ubad0ur and more]").contains("Tr0ubad0ur"));
        assert_eq!(crate::secret::scrub("production"), "production", "a name of ours stays");
    }
}
