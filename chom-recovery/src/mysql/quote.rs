//! Quoting of names and values. Sessions run without `ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES`, so one form fits all.

use std::fmt::Write as _;

/// Quotes an identifier.
pub(super) fn ident(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Quotes `schema.name`.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// Quotes a text value.
pub(super) fn text(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\0' => quoted.push_str("\\0"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// Quotes an account.
pub(super) fn account(user: &str, host: &str) -> String {
    let mut quoted = text(user);
    let _ = write!(quoted, "@{}", text(host));
    quoted
}

/// Lists the server's own schemas for a `NOT IN (...)`.
pub(super) fn system_schemas() -> String {
    super::SYSTEM_SCHEMAS.map(text).join(",")
}

/// Finds `word` outside quotes, at or after byte `from`.
pub(super) fn find(statement: &[u8], word: &[u8], from: usize) -> Option<usize> {
    find_all(statement, word).find(|at| *at >= from)
}

/// Finds every place of `word` outside quotes.
pub(super) fn find_all<'a>(statement: &'a [u8], word: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let (mut quote, mut i) = (None, 0);
    std::iter::from_fn(move || {
        while i < statement.len() {
            let (at, b) = (i, statement[i]);
            i += 1;
            match quote {
                Some(q) if b == b'\\' && q != b'`' => i += 1,
                Some(q) if b == q => quote = None,
                None if matches!(b, b'\'' | b'"' | b'`') => quote = Some(b),
                None if statement[at..].starts_with(word) => return Some(at),
                _ => {}
            }
        }
        None
    })
}

/// Reads the quoted names of a statement, in order.
pub(super) fn names(statement: &str) -> Vec<String> {
    let (mut names, mut chars) = (Vec::new(), statement.chars().peekable());
    while let Some(c) = chars.next() {
        if !matches!(c, '\'' | '"' | '`') {
            continue;
        }
        let mut name = String::new();
        while let Some(n) = chars.next() {
            if n == c && chars.peek() == Some(&c) {
                chars.next();
            } else if n == c {
                break;
            }
            name.push(n);
        }
        names.push(name);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_inside_a_name_or_value_cannot_end_it() {
        assert_eq!(ident("a`b"), "`a``b`");
        assert_eq!(text(r"it's \ here"), r"'it''s \\ here'");
        assert_eq!(account("o'neil", "%"), "'o''neil'@'%'");
    }

    #[test]
    fn words_inside_quotes_are_not_found() {
        assert_eq!(find(b"a ' ON ' `x ON y` ON z", b" ON ", 0), Some(17));
        assert_eq!(find(b"'it\\' ON ' ON", b" ON", 0), Some(10));
        assert_eq!(names("GRANT PROXY ON ``@'%' TO `a``b`@`h`"), ["", "%", "a`b", "h"]);
    }
}
