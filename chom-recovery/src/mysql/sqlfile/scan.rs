//! Finds the end of a statement, and the rows of an INSERT, without looking at anything else.

use super::{
    mode::{Charset, Tracker},
    splitter::LONGEST_DELIMITER,
    tokens::is_word,
};

/// Where an INSERT is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    /// It is another statement.
    None,
    /// In front of `VALUES`.
    Before,
    /// Between or in rows.
    Rows,
    /// Behind the last row.
    Tail,
}

pub(super) fn is_dash_comment(rest: &[u8]) -> bool {
    rest.starts_with(b"--") && rest.get(2).is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_control())
}

pub(super) fn is_conditional(rest: &[u8]) -> bool {
    rest.starts_with(b"/*!") || rest.starts_with(b"/*M!")
}

/// Tells whether a word belongs to a literal: a number, a constant, the sign of a text's character set or form.
fn is_of_literal(word: &[u8], next: Option<&u8>) -> bool {
    match word {
        [b'0'..=b'9' | b'_', ..] => true,
        [b'x' | b'X' | b'b' | b'B' | b'n' | b'N'] => next == Some(&b'\''),
        _ => [&b"NULL"[..], b"DEFAULT", b"TRUE", b"FALSE"].iter().any(|w| word.eq_ignore_ascii_case(w)),
    }
}

/// Why a scan stopped.
pub(super) enum Stop {
    More,
    Delimiter,
    Split,
}

/// What encloses the byte that a scan looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Quote(u8),
    Block,
    Line,
}

/// Progress within one statement. Positions count from its first byte.
pub(super) struct Scan {
    pub(super) at: usize,
    inside: Inside,
    /// Where a word that reached the end of what was read may go on: a long number in hexadecimal digits does.
    cut_word: Option<usize>,
    pub(super) values: Values,
    depth: u32,
    pub(super) rows: u64,
    /// Length of the text up to and with `VALUES`.
    pub(super) head: usize,
    pub(super) has_junk: bool,
    /// Whether anything but literals stands in the rows, or behind them.
    pub(super) has_expressions: bool,
}

impl Scan {
    pub(super) fn begin(bytes: &[u8], is_continued: bool) -> Self {
        let is_insert = [&b"INSERT"[..], b"REPLACE"].iter().any(|word| {
            bytes.len() > word.len() && bytes[..word.len()].eq_ignore_ascii_case(word) && !is_word(bytes[word.len()])
        });
        let values = match (is_continued, is_insert) {
            (true, _) => Values::Rows,
            (false, true) => Values::Before,
            (false, false) => Values::None,
        };
        Self {
            at: 0,
            inside: Inside::Nothing,
            cut_word: None,
            values,
            depth: 0,
            rows: 0,
            head: 0,
            has_junk: false,
            has_expressions: false,
        }
    }

    /// Names what is open, for a message.
    pub(super) fn open(&self) -> &'static str {
        match (self.inside, self.values) {
            (Inside::Quote(b'`'), _) => "a quoted name",
            (Inside::Quote(_), _) => "a quoted text",
            (Inside::Block, _) => "a comment",
            (_, Values::Rows | Values::Before) => "an INSERT",
            _ => "a statement",
        }
    }

    /// Goes on until `end`, the delimiter, or a place to split. Behind `end` stands enough to look ahead.
    pub(super) fn run(&mut self, bytes: &[u8], end: usize, delimiter: &[u8], tracker: &Tracker, split: usize) -> Stop {
        while self.at < end {
            match self.inside {
                Inside::Quote(quote) => {
                    self.quoted(bytes, end, quote, tracker);
                    continue;
                }
                Inside::Block => {
                    match memchr::memchr(b'*', &bytes[self.at..end]) {
                        None => self.at = end,
                        Some(n) if bytes.get(self.at + n + 1) == Some(&b'/') => {
                            self.at += n + 2;
                            self.inside = Inside::Nothing;
                        }
                        Some(n) => self.at += n + 1,
                    }
                    continue;
                }
                Inside::Line => {
                    match memchr::memchr(b'\n', &bytes[self.at..end]) {
                        None => self.at = end,
                        Some(n) => {
                            self.at += n + 1;
                            self.inside = Inside::Nothing;
                        }
                    }
                    continue;
                }
                Inside::Nothing => {}
            }
            let (b, rest) = (bytes[self.at], &bytes[self.at..]);
            if rest.starts_with(delimiter) {
                return Stop::Delimiter;
            }
            match b {
                b'\'' | b'"' | b'`' => {
                    self.misplaced();
                    self.inside = Inside::Quote(b);
                    self.at += 1;
                }
                b'#' => self.inside = Inside::Line,
                b'-' if is_dash_comment(rest) => self.inside = Inside::Line,
                b'/' if rest.starts_with(b"/*") && !is_conditional(rest) => {
                    self.inside = Inside::Block;
                    self.at += 2;
                }
                b'(' => {
                    match (self.values, self.depth) {
                        (Values::Rows, 0) => self.rows += 1,
                        (Values::Rows, _) => self.has_expressions = true,
                        _ => {}
                    }
                    self.depth += 1;
                    self.at += 1;
                }
                b')' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                b',' if self.values == Values::Rows && self.depth == 0 => {
                    if self.at >= split {
                        return Stop::Split;
                    }
                    self.at += 1;
                }
                _ if is_word(b) => self.word(rest, delimiter),
                _ => self.at += 1,
            }
        }
        Stop::More
    }

    fn quoted(&mut self, bytes: &[u8], end: usize, quote: u8, tracker: &Tracker) {
        let escapes = tracker.mode.escapes(quote);
        if tracker.charset == Charset::Plain {
            let rest = &bytes[self.at..end];
            let found = if escapes { memchr::memchr2(quote, b'\\', rest) } else { memchr::memchr(quote, rest) };
            match found {
                None => self.at = end,
                Some(n) if rest[n] == b'\\' => self.at += n + 2,
                Some(n) => {
                    self.at += n + 1;
                    self.inside = Inside::Nothing;
                }
            }
        } else {
            match bytes[self.at] {
                b if tracker.charset.is_lead(b) => self.at += 2,
                b'\\' if escapes => self.at += 2,
                b => {
                    if b == quote {
                        self.inside = Inside::Nothing;
                    }
                    self.at += 1;
                }
            }
        }
    }

    /// Passes over a word; `VALUES` in front of the rows, and what may stand behind them, are noted.
    fn word(&mut self, rest: &[u8], delimiter: &[u8]) {
        let mut length = rest.iter().take_while(|b| is_word(**b)).count();
        if is_word(delimiter[0]) {
            // `END$$`
            length = memchr::memmem::find(&rest[..length.saturating_add(LONGEST_DELIMITER).min(rest.len())], delimiter)
                .map_or(length, |at| at.min(length));
        }
        let word = &rest[..length];
        let goes_on = self.cut_word.take() == Some(self.at);
        if length == rest.len() {
            self.cut_word = Some(self.at + length);
        }
        if goes_on {
            // What it is was seen at its begin.
        } else if self.depth == 0 {
            match self.values {
                Values::Before if word.eq_ignore_ascii_case(b"VALUES") || word.eq_ignore_ascii_case(b"VALUE") => {
                    self.values = Values::Rows;
                    self.head = self.at + length;
                }
                Values::Rows if self.rows > 0 && [&b"ON"[..], b"AS"].iter().any(|w| word.eq_ignore_ascii_case(w)) => {
                    self.values = Values::Tail;
                    self.has_expressions = true;
                }
                _ => self.misplaced(),
            }
        } else if self.values == Values::Rows && !is_of_literal(word, rest.get(length)) {
            self.has_expressions = true;
        }
        self.at += length;
    }

    /// Between rows stand commas and nothing else: other text came from somewhere else.
    fn misplaced(&mut self) {
        self.has_junk |= self.values == Values::Rows && self.depth == 0;
    }
}
