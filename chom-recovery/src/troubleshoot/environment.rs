//! The application's `.env`, as far as its shape tells. Values are looked at and never shown.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::secret::Secret;

/// What Laravel does not start without.
const NEEDED: [&str; 5] = ["APP_KEY", "APP_ENV", "DB_HOST", "DB_DATABASE", "DB_USERNAME"];

/// Words in the names of variables whose values are secrets.
const SECRET: [&str; 5] = ["KEY", "PASSWORD", "SECRET", "TOKEN", "DSN"];

/// Names and values; it prints nothing.
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(super) fn read(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='));
        let read = |(name, value): (&str, &str)| {
            let (name, value) = (name.trim().to_owned(), unquoted(value.trim()).to_owned());
            // Known from here on, so that no log line of the application shows it. Not every value: some are names of ours.
            if SECRET.iter().any(|word| name.contains(word)) && !value.starts_with('/') {
                drop(Secret::new(value.clone()));
            }
            (name, value)
        };
        Self(pairs.map(read).collect())
    }

    /// Names what is needed and is not there, or empty.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        NEEDED.into_iter().filter(|name| self.0.get(*name).is_none_or(|value| value.is_empty())).collect()
    }

    /// Says what is wrong with the form of the key; `None`: it has the right one.
    pub(super) fn key_fault(&self) -> Option<String> {
        let key = self.0.get("APP_KEY").filter(|key| !key.is_empty())?;
        let Some(encoded) = key.strip_prefix("base64:") else {
            let length = key.len();
            return (!matches!(length, 16 | 32)).then(|| format!("it is {length} bytes long, neither 16 nor 32"));
        };
        match STANDARD.decode(encoded) {
            Ok(bytes) if matches!(bytes.len(), 16 | 32) => None,
            Ok(bytes) => Some(format!("it decodes to {} bytes, neither 16 nor 32", bytes.len())),
            Err(_) => Some("it is not base64".into()),
        }
    }

    /// Tells whether details of errors are shown to users.
    pub(super) fn shows_errors(&self) -> bool {
        self.0.get("APP_DEBUG").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
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
