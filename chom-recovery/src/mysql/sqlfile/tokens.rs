//! The words, names, texts and signs of a statement.

use super::mode::Mode;

/// A lexical unit. Comments are left out, conditional ones are opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Name(String),
    Text(Vec<u8>),
    Variable(String),
    Symbol(u8),
}

/// Reads the tokens of a statement.
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    mode: Mode,
}

/// Tells whether a byte belongs to a word.
pub(super) fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$') || b >= 0x80
}

fn owned(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8], mode: Mode) -> Self {
        Self { text, at: 0, mode }
    }

    fn rest(&self) -> &[u8] {
        &self.text[self.at.min(self.text.len())..]
    }

    fn skip_past(&mut self, end: &[u8]) {
        let found = self.rest().windows(end.len()).position(|w| w == end);
        self.at = found.map_or(self.text.len(), |p| self.at + p + end.len());
    }

    fn quoted(&mut self, quote: u8) -> Vec<u8> {
        self.at += 1;
        let mut value = Vec::new();
        while let Some(&b) = self.text.get(self.at) {
            self.at += 1;
            if b == b'\\' && self.mode.escapes(quote) {
                value.extend(self.text.get(self.at));
                self.at += 1;
            } else if b != quote {
                value.push(b);
            } else if self.text.get(self.at) == Some(&quote) {
                value.push(b);
                self.at += 1;
            } else {
                break;
            }
        }
        value
    }

    fn run(&mut self, from: usize, more: impl Fn(u8) -> bool) -> String {
        while self.text.get(self.at).is_some_and(|b| more(*b)) {
            self.at += 1;
        }
        owned(&self.text[from..self.at])
    }
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        loop {
            let rest = self.rest();
            let (first, from) = (*rest.first()?, self.at);
            match first {
                _ if first.is_ascii_whitespace() => self.at += 1,
                b'#' => self.skip_past(b"\n"),
                b'-' if rest.starts_with(b"--") && rest.get(2).is_none_or(u8::is_ascii_whitespace) => {
                    self.skip_past(b"\n");
                }
                b'/' if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") => {
                    self.at += if rest[2] == b'!' { 3 } else { 4 };
                    let digits = self.at;
                    self.run(digits, |b| b.is_ascii_digit());
                }
                b'/' if rest.starts_with(b"/*") => self.skip_past(b"*/"),
                b'*' if rest.starts_with(b"*/") => self.at += 2,
                b'`' => {
                    let name = self.quoted(b'`');
                    return Some(Token::Name(owned(&name)));
                }
                b'"' if self.mode.ansi_quotes => {
                    let name = self.quoted(b'"');
                    return Some(Token::Name(owned(&name)));
                }
                b'\'' | b'"' => return Some(Token::Text(self.quoted(first))),
                b'@' if rest.get(1).is_some_and(|b| is_word(*b) || *b == b'@') => {
                    self.at += 1;
                    return Some(Token::Variable(self.run(from, |b| is_word(b) || matches!(b, b'@' | b'.'))));
                }
                _ if is_word(first) => return Some(Token::Word(self.run(from, is_word))),
                other => {
                    self.at += 1;
                    return Some(Token::Symbol(other));
                }
            }
        }
    }
}
