//! Splits the text of a dump into pieces, each byte of which is handed out exactly once.

use std::{io::Read, sync::Arc};

use super::{
    mode::Tracker,
    noise,
    scan::{Scan, Stop, Values, is_conditional, is_dash_comment},
    statement::{Insert, Kind, Name, classify, insert_columns},
};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{quote, tables::TableName},
};

/// Bytes read at a time.
const READ: usize = 256 << 10;
/// Bytes that are looked ahead; no delimiter, keyword or comment sign is longer.
const AHEAD: usize = 64;
/// Longest delimiter.
pub(super) const LONGEST_DELIMITER: usize = 16;

/// How much of a dump is held at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest single row, and longest statement that is not an INSERT, in bytes. A longer one is an error.
    pub longest: usize,
    /// An INSERT that is longer is handed out in several pieces, cut between two rows.
    pub split: usize,
}

impl Limits {
    /// Longest packet that a server takes, and so the longest row that a dump can bring back, in bytes.
    ///
    /// # Source
    /// `max_allowed_packet` in the manuals of MySQL and MariaDB.
    pub const PACKET: usize = 1 << 30;
}

impl Default for Limits {
    fn default() -> Self {
        Self { longest: 256 << 20, split: 2 << 20 }
    }
}

/// A stretch of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its first byte in the decompressed file.
    pub offset: u64,
    /// Its first line, from 1.
    pub line: u64,
    /// What it is.
    pub token: Token,
    raw: Vec<u8>,
    /// Bytes at the end of `raw` that only end it.
    ending: usize,
    /// `INSERT INTO … VALUES` of the statement that it goes on with.
    head: Option<Arc<[u8]>>,
    /// Bytes in front of the rows of an INSERT.
    rows_from: usize,
}

/// What a piece is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Blanks, and the byte order mark.
    Blank,
    /// A comment between statements.
    Comment,
    /// A `DELIMITER` command.
    Delimiter,
    /// MariaDB's sign that a client should run no commands of its own.
    Sandbox,
    /// A line of another program's messages.
    Noise {
        /// Whether it tells of an error; else it is a warning.
        is_error: bool,
    },
    /// A statement, or some rows of one.
    Statement(Kind),
    /// Text that the end of the file cut off; what was open.
    Unfinished(&'static str),
}

impl Piece {
    /// Returns the bytes of the file; those of all pieces together are the file.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the text without what only ends it.
    pub fn text(&self) -> &[u8] {
        &self.raw[..self.raw.len() - self.ending]
    }

    /// Returns `INSERT INTO … VALUES` and the rows behind it; both are empty for another statement.
    pub(super) fn insert(&self) -> (&[u8], &[u8]) {
        let text = self.text();
        match (&self.head, self.rows_from) {
            (Some(head), _) => (head, text),
            (None, 0) => (&[], &[]),
            (None, from) => text.split_at(from.min(text.len())),
        }
    }

    /// Turns rows of a table into the same rows for another table; of the statement itself only the names of columns
    /// are kept. `None`: it is no INSERT, or names its columns in a way that no dump does.
    pub(super) fn redirected(self, to: &TableName) -> Option<Self> {
        let Token::Statement(Kind::Insert(insert)) = &self.token else { return None };
        let (head, rows) = self.insert();
        let columns: Vec<_> = insert_columns(head)?.iter().map(|name| quote::ident(name)).collect();
        let list = if columns.is_empty() { String::new() } else { format!("({}) ", columns.join(",")) };
        let head = format!("INSERT INTO {} {list}VALUES", to.quoted());
        let table = Name { schema: Some(to.schema.clone()), name: to.name.clone() };
        let insert = Insert { table, is_lenient: false, ..insert.clone() };
        Some(Self {
            token: Token::Statement(Kind::Insert(insert)),
            raw: rows.to_vec(),
            ending: 0,
            head: Some(head.into_bytes().into()),
            rows_from: 0,
            ..self
        })
    }

    /// Turns a statement into another one at the same place.
    pub(super) fn replaced(self, kind: Kind, sql: Vec<u8>) -> Self {
        Self { token: Token::Statement(kind), raw: sql, ending: 0, head: None, rows_from: 0, ..self }
    }

    /// Returns the statement to run: rows that go on with an INSERT get its beginning again.
    pub fn into_sql(self) -> Vec<u8> {
        let end = self.raw.len() - self.ending;
        if let Some(head) = self.head {
            [&head[..], b" ", &self.raw[..end]].concat()
        } else {
            let mut sql = self.raw;
            sql.truncate(end);
            sql
        }
    }
}

/// Splits a stream of decompressed bytes.
///
/// Memory: the longest row or statement, at most [`Limits::longest`], and some buffers.
pub struct Splitter<R> {
    input: R,
    limits: Limits,
    buffer: Vec<u8>,
    /// Where a read puts its bytes.
    arriving: Vec<u8>,
    /// First byte that was not handed out yet.
    start: usize,
    ended: bool,
    /// Bytes of the file in front of the buffer.
    before: u64,
    line: u64,
    delimiter: Vec<u8>,
    tracker: Tracker,
    /// `INSERT INTO … VALUES` of the statement that is handed out in pieces.
    continued: Option<Arc<[u8]>>,
}

impl<R> std::fmt::Debug for Splitter<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Splitter").field("line", &self.line).finish_non_exhaustive()
    }
}

impl<R: Read> Splitter<R> {
    /// Begins at the first byte of a dump.
    pub fn new(input: R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            buffer: Vec::new(),
            arriving: vec![0; READ],
            start: 0,
            ended: false,
            before: 0,
            line: 1,
            delimiter: b";".to_vec(),
            tracker: Tracker::default(),
            continued: None,
        }
    }

    /// Returns the first byte that was not handed out yet.
    pub fn offset(&self) -> u64 {
        self.before + self.start as u64
    }

    /// Returns the next piece; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt`: the file cannot be read or decompressed to its end. `Unsupported`: a row or statement is longer than
    /// the limit, or an INSERT cannot be split. The place is named.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        self.compact();
        self.ahead(AHEAD)?;
        let rest = &self.buffer[self.start..];
        let Some(&first) = rest.first() else {
            // Rows were announced by the comma behind the last piece.
            return Ok(self.continued.take().map(|_| self.cut(0, 0, Token::Unfinished("an INSERT"))));
        };
        if self.continued.is_some() {
            return self.statement().map(Some);
        }
        if self.offset() == 0 && rest.starts_with(b"\xef\xbb\xbf") {
            return Ok(Some(self.cut(3, 0, Token::Blank)));
        }
        if first.is_ascii_whitespace() {
            let length = rest.iter().take_while(|b| b.is_ascii_whitespace()).count();
            return Ok(Some(self.cut(length, 0, Token::Blank)));
        }
        if rest.starts_with(&self.delimiter) {
            let length = self.delimiter.len();
            return Ok(Some(self.cut(length, length, Token::Statement(Kind::Empty))));
        }
        if first == b'#' || is_dash_comment(rest) {
            let length = self.line_end()?;
            return Ok(Some(self.cut(length, 0, Token::Comment)));
        }
        if rest.starts_with(b"/*") {
            if is_sandbox(rest) {
                return self.block_comment(Token::Sandbox).map(Some);
            }
            if !is_conditional(rest) {
                return self.block_comment(Token::Comment).map(Some);
            }
        }
        if rest.len() > 9 && rest[..9].eq_ignore_ascii_case(b"DELIMITER") && matches!(rest[9], b' ' | b'\t') {
            return self.delimiter_command().map(Some);
        }
        if let Some(is_error) = noise::judge(rest) {
            let length = self.line_end()?;
            return Ok(Some(self.cut(length, 0, Token::Noise { is_error })));
        }
        self.statement().map(Some)
    }

    /// Hands out `length` bytes, of which the last `ending` only end the piece.
    fn cut(&mut self, length: usize, ending: usize, token: Token) -> Piece {
        let raw = self.buffer[self.start..self.start + length].to_vec();
        let (offset, line) = (self.offset(), self.line);
        self.start += length;
        self.line += memchr::memchr_iter(b'\n', &raw).count() as u64;
        Piece { offset, line, token, raw, ending, head: None, rows_from: 0 }
    }

    fn compact(&mut self) {
        if self.start > READ {
            self.buffer.drain(..self.start);
            self.before += self.start as u64;
            self.start = 0;
        }
    }

    /// Sees to it that so many bytes behind `start` are there, unless the file ends.
    fn ahead(&mut self, wanted: usize) -> Result<()> {
        while !self.ended && self.buffer.len() - self.start < wanted {
            self.fill()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        match self.input.read(&mut self.arriving) {
            Ok(n) => {
                self.ended = n == 0;
                self.buffer.extend_from_slice(&self.arriving[..n]);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let at = self.before + self.buffer.len() as u64;
                return Err(Error::new(ErrorKind::Corrupt, format!("the file cannot be read past byte {at}: {e}"))
                    .caused_by(e)
                    .hint("take another backup: what follows this byte is lost"));
            }
        }
        Ok(())
    }

    fn too_long(&self, what: &str) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "{what} at byte {} (line {}) is longer than {} MiB",
                self.offset(),
                self.line,
                self.limits.longest >> 20
            ),
        )
        .hint("raise the longest statement (`legacy.longest_statement`, at most 1 GiB), or the file is damaged there")
    }

    /// Length up to and with the next line feed.
    fn line_end(&mut self) -> Result<usize> {
        let mut from = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.start + from..]) {
                return Ok(from + at + 1);
            }
            from = self.buffer.len() - self.start;
            if self.ended {
                return Ok(from);
            }
            if from > self.limits.longest {
                return Err(self.too_long("the line"));
            }
            self.fill()?;
        }
    }

    fn block_comment(&mut self, token: Token) -> Result<Piece> {
        let mut from = 2;
        loop {
            let bytes = &self.buffer[self.start..];
            if let Some(at) = bytes.get(from..).and_then(|b| memchr::memmem::find(b, b"*/")) {
                return Ok(self.cut(from + at + 2, 0, token));
            }
            if self.ended {
                let length = bytes.len();
                return Ok(self.cut(length, 0, Token::Unfinished("a comment")));
            }
            if bytes.len() > self.limits.longest {
                return Err(self.too_long("the comment"));
            }
            from = bytes.len().saturating_sub(1).max(2);
            self.fill()?;
        }
    }

    fn delimiter_command(&mut self) -> Result<Piece> {
        let length = self.line_end()?;
        let line = &self.buffer[self.start..self.start + length];
        let delimiter = line[9..].trim_ascii().to_vec();
        if delimiter.is_empty()
            || delimiter.len() > LONGEST_DELIMITER
            || delimiter.iter().any(|b| b"\\'\"`".contains(b))
        {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("byte {} (line {}) sets no delimiter that is understood", self.offset(), self.line),
            )
            .with("delimiter", delimiter.escape_ascii()));
        }
        self.delimiter = delimiter;
        Ok(self.cut(length, 0, Token::Delimiter))
    }

    /// Reads a statement to its delimiter, or as many rows of it as fit into one piece.
    fn statement(&mut self) -> Result<Piece> {
        let mut scan = Scan::begin(&self.buffer[self.start..], self.continued.is_some());
        loop {
            let length = self.buffer.len() - self.start;
            if scan.at + AHEAD > length && !self.ended {
                // The rest of what is there may decide nothing: a quote behind it may.
                if length > self.limits.longest {
                    let what = if scan.values == Values::Rows { "a row" } else { "the statement" };
                    return Err(self.too_long(what));
                }
                self.fill()?;
                continue;
            }
            let end = if self.ended { length } else { length - AHEAD + 1 };
            let bytes = &self.buffer[self.start..];
            match scan.run(bytes, end, &self.delimiter, &self.tracker, self.limits.split) {
                Stop::More => {
                    if self.ended {
                        let token = Token::Unfinished(scan.open());
                        self.continued = None;
                        return Ok(self.cut(length, 0, token));
                    }
                }
                Stop::Delimiter => return self.finish(&scan),
                Stop::Split => return self.split(&scan),
            }
        }
    }

    /// Hands out the rows so far; `scan` stands on the comma behind them.
    fn split(&mut self, scan: &Scan) -> Result<Piece> {
        let kind = self.kind(scan, scan.at);
        let head = match self.continued.take() {
            Some(head) => head,
            None => Arc::from(&self.buffer[self.start..self.start + scan.head]),
        };
        let is_first = scan.head > 0;
        let mut piece = self.cut(scan.at + 1, 1, Token::Statement(kind));
        if is_first {
            piece.rows_from = scan.head;
        } else {
            piece.head = Some(Arc::clone(&head));
        }
        self.continued = Some(head);
        Ok(piece)
    }

    /// Hands out a statement; `scan` stands on its delimiter.
    fn finish(&mut self, scan: &Scan) -> Result<Piece> {
        let kind = self.kind(scan, scan.at);
        let continued = self.continued.take();
        let ending = self.delimiter.len();
        if continued.is_some() && scan.values == Values::Tail {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the INSERT that ends behind byte {} has a clause behind its rows", self.offset()),
            )
            .with("line", self.line)
            .hint("only a shorter statement of this kind can be read: it cannot be run in parts"));
        }
        if let Kind::Set(settings) = &kind {
            self.tracker.apply(settings);
        }
        let mut piece = self.cut(scan.at + ending, ending, Token::Statement(kind));
        piece.rows_from = if continued.is_none() && scan.values == Values::Rows { scan.head } else { 0 };
        piece.head = continued;
        Ok(piece)
    }

    fn kind(&self, scan: &Scan, end: usize) -> Kind {
        let text = match &self.continued {
            Some(head) => &head[..],
            None => &self.buffer[self.start..self.start + end],
        };
        // Rows are not looked at: what the statement is about stands in front of them.
        let looked_at = if scan.values == Values::None { text } else { &text[..text.len().min(LOOK)] };
        let rows =
            (scan.values != Values::None && scan.values != Values::Before && !scan.has_junk).then_some(scan.rows);
        classify(looked_at, self.tracker.mode, rows, scan.has_expressions)
    }
}

/// Bytes of an INSERT in which its table is named, and some columns.
const LOOK: usize = 16 << 10;

/// `/*M!999999\- enable the sandbox mode */`, in its first versions without the `M`.
///
/// # Source
/// MariaDB MDEV-21178; MariaDB documentation, "mariadb-dump".
fn is_sandbox(rest: &[u8]) -> bool {
    let inner = rest.strip_prefix(b"/*M!").or_else(|| rest.strip_prefix(b"/*!")).unwrap_or_default();
    let digits = inner.iter().take_while(|b| b.is_ascii_digit()).count();
    digits > 0 && inner[digits..].starts_with(b"\\-")
}
