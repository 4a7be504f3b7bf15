//! Archives as they are read: everything is checked, and what is not understood is refused.

use bytes::Bytes;

use super::{BLOCK, LONGEST_EXTENSION, checksum, field, padding};
use crate::{
    error::{Error, ErrorKind, Result},
    files::{
        entry::{Attributes, Entry, Kind, Time, TreePath, Xattr, check_target},
        sparse,
    },
    store::pipe::Input,
};

/// Where the bytes of an archive come from.
pub trait Pieces {
    /// Returns the next piece, or `None` after the last.
    fn next_piece(&mut self) -> Result<Option<Bytes>>;
}

impl Pieces for &mut Input {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        self.next()
    }
}

impl<I: Iterator<Item = Bytes>> Pieces for I {
    fn next_piece(&mut self) -> Result<Option<Bytes>> {
        Ok(self.next())
    }
}

/// Who wrote an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// This library: one way of writing, and an archive may lack its closing blocks, since others follow it.
    Ours,
    /// Docker, GNU tar, bsdtar and the like: long names of GNU tar, numbers in base 256 and `./` before names are
    /// understood too, and the closing blocks must be there.
    Foreign,
}

/// How much an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
}

impl Limits {
    /// Sets no limit, for archives whose length is limited otherwise.
    pub const NONE: Self = Self { entries: u64::MAX, bytes: u64::MAX };
}

fn corrupt(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the archive is refused: {why}"))
}

/// Reads an archive entry by entry, in constant memory.
///
/// Each entry is checked by itself: its kind, its path, its numbers. What entries have to do with each other (twice the
/// same path, a path below a link) is seen where they are put in place, by the filesystem, which forgets nothing.
#[derive(Debug)]
pub struct TarReader<P> {
    pieces: P,
    /// Rest of the piece that was read last.
    piece: Bytes,
    dialect: Dialect,
    limits: Limits,
    /// Data and padding of the current entry that were not read yet.
    data: u64,
    padding: usize,
    is_closed: bool,
}

/// What extended headers say of the next entry.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<Xattr>,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    is_pax: bool,
    is_gnu: bool,
}

impl<P: Pieces> TarReader<P> {
    /// Makes a reader at the beginning of an archive.
    pub fn new(pieces: P, dialect: Dialect, limits: Limits) -> Self {
        Self { pieces, piece: Bytes::new(), dialect, limits, data: 0, padding: 0, is_closed: false }
    }

    /// Returns the next entry, or `None` after the last. What was not read of the data before it is skipped.
    ///
    /// # Errors
    /// `Corrupt`: the archive breaks a rule, holds more than the limits, or was cut.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        while self.read_data()?.is_some() {}
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                if extended.is_pax || extended.is_gnu {
                    return Err(corrupt("an extended header is followed by nothing"));
                }
                return Ok(None);
            };
            match header[field::TYPE] {
                b'x' => {
                    if extended.is_pax || extended.is_gnu {
                        return Err(corrupt("an extended header describes another one"));
                    }
                    let records = self.extension(&header)?;
                    extended.read(&records, self.dialect)?;
                    extended.is_pax = true;
                }
                kind @ (b'L' | b'K') if self.dialect == Dialect::Foreign => {
                    if extended.is_pax {
                        return Err(corrupt("an extended header describes another one"));
                    }
                    let mut name = self.extension(&header)?;
                    if name.pop() != Some(0) || name.contains(&0) {
                        return Err(corrupt("a long name does not end as it must"));
                    }
                    let slot = if kind == b'L' { &mut extended.path } else { &mut extended.link };
                    if slot.replace(name).is_some() {
                        return Err(corrupt("a name is given twice"));
                    }
                    extended.is_gnu = true;
                }
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// Returns the next bytes of the current entry's data, or `None` after the last.
    pub fn read_data(&mut self) -> Result<Option<Bytes>> {
        if self.data == 0 {
            let padding = std::mem::take(&mut self.padding);
            if padding > 0 && self.take(padding)?.iter().any(|b| *b != 0) && self.dialect == Dialect::Ours {
                return Err(corrupt("something hides behind the data of an entry"));
            }
            return Ok(None);
        }
        self.fill()?;
        if self.piece.is_empty() {
            return Err(corrupt("it was cut"));
        }
        let length = self.piece.len().min(usize::try_from(self.data).unwrap_or(usize::MAX));
        self.data -= length as u64;
        Ok(Some(self.piece.split_to(length)))
    }

    fn fill(&mut self) -> Result<()> {
        while self.piece.is_empty() {
            match self.pieces.next_piece()? {
                Some(piece) => self.piece = piece,
                None => break,
            }
        }
        Ok(())
    }

    /// Returns exactly so many bytes.
    fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(BLOCK * 8));
        while bytes.len() < length {
            self.fill()?;
            if self.piece.is_empty() {
                return Err(corrupt("it was cut"));
            }
            let some = self.piece.split_to(self.piece.len().min(length - bytes.len()));
            bytes.extend_from_slice(&some);
        }
        Ok(bytes)
    }

    /// Returns the next header, checked as far as all headers are alike. `None`: the archive has ended well.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.is_closed {
            return Ok(None);
        }
        self.fill()?;
        if self.piece.is_empty() {
            return match self.dialect {
                Dialect::Ours => Ok(None),
                Dialect::Foreign => Err(corrupt("it ended without its closing blocks: it was cut")),
            };
        }
        let header = self.block()?;
        if header == [0; BLOCK] {
            if self.block()? != [0; BLOCK] {
                return Err(corrupt("an empty block stands where a header should"));
            }
            self.close()?;
            return Ok(None);
        }
        let sum = octal(&header[field::CHECKSUM]).ok_or_else(|| corrupt("a header has no checksum"))?;
        if sum != u64::from(checksum(&header)) {
            return Err(corrupt("a header's checksum is wrong"));
        }
        match &header[field::MAGIC] {
            b"ustar\x0000" => {}
            b"ustar  \0" if self.dialect == Dialect::Foreign => {}
            _ => return Err(corrupt("a header is of an unknown format")),
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let bytes = self.take(BLOCK)?;
        bytes.try_into().map_err(|_| corrupt("it was cut"))
    }

    /// Reads to the end: what follows the closing blocks may only pad.
    fn close(&mut self) -> Result<()> {
        self.is_closed = true;
        loop {
            self.fill()?;
            if self.piece.is_empty() {
                return Ok(());
            }
            if self.dialect == Dialect::Ours || self.piece.iter().any(|b| *b != 0) {
                return Err(corrupt("something follows its end"));
            }
            self.piece.clear();
        }
    }

    /// Reads the content of an extended header.
    fn extension(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u8>> {
        let length = number(&header[field::SIZE], self.dialect).ok_or_else(|| corrupt("a header has no size"))?;
        if length == 0 || length > LONGEST_EXTENSION {
            return Err(corrupt("an extended header is empty or too long"));
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let content = self.take(length)?;
        if self.take(padding(length as u64))?.iter().any(|b| *b != 0) && self.dialect == Dialect::Ours {
            return Err(corrupt("something hides behind an extended header"));
        }
        Ok(content)
    }

    fn entry(&mut self, header: &[u8; BLOCK], extended: Extended) -> Result<Entry> {
        let own_size = number(&header[field::SIZE], self.dialect).ok_or_else(|| corrupt("an entry has no size"))?;
        // The field may be empty where the number does not fit; two numbers that differ are a trap for readers.
        let stored = match extended.size {
            Some(size) if own_size != 0 && own_size != size => {
                return Err(corrupt("an entry has two sizes"));
            }
            Some(size) => size,
            None => own_size,
        };
        let path = self.path_of(header, &extended)?;
        let link = extended.link.clone().unwrap_or_else(|| text(&header[field::LINK]).to_vec());
        let type_flag = header[field::TYPE];
        let is_file = matches!(type_flag, b'0' | 0 | b'7');
        if !is_file && stored != 0 {
            return Err(corrupt(format!("{path:?} is no file and has data")));
        }
        if path.is_root() && type_flag != b'5' {
            return Err(corrupt("the root is no folder"));
        }
        let attributes = self.attributes_of(header, &extended, &path)?;
        self.count(&path)?;
        let kind = match type_flag {
            b'0' => self.file(&extended, stored, &path)?,
            0 | b'7' if self.dialect == Dialect::Foreign => self.file(&extended, stored, &path)?,
            b'5' => Kind::Folder,
            b'1' => Kind::HardLink { target: TreePath::new(self.relative(&link).to_vec())? },
            b'2' => {
                check_target(&path, &link)?;
                Kind::Symlink { target: link }
            }
            b'6' => Kind::Fifo,
            b'3' | b'4' => return Err(corrupt(format!("{path:?} is a device"))),
            other => {
                return Err(corrupt(format!(
                    "{path:?} is of type `{}`, which nobody needs",
                    char::from(other).escape_debug()
                )));
            }
        };
        if extended.sparse_major.is_some() && !matches!(kind, Kind::File { .. }) {
            return Err(corrupt(format!("{path:?} is no file and has holes")));
        }
        Ok(Entry { path, kind, attributes })
    }

    fn count(&mut self, path: &TreePath) -> Result<()> {
        self.limits.entries =
            self.limits.entries.checked_sub(1).ok_or_else(|| corrupt(format!("{path:?} is one entry too many")))?;
        Ok(())
    }

    /// Begins the data of a file, after its map where it has holes.
    fn file(&mut self, extended: &Extended, stored: u64, path: &TreePath) -> Result<Kind> {
        let size = extended.sparse_size.unwrap_or(stored);
        self.limits.bytes =
            self.limits.bytes.checked_sub(size).ok_or_else(|| corrupt(format!("{path:?} is larger than promised")))?;
        if i64::try_from(size).is_err() || i64::try_from(stored).is_err() {
            return Err(corrupt(format!("{path:?} has an impossible size")));
        }
        let (mut data, mut extents) = (stored, None);
        if extended.is_sparse()? {
            let mut decoder = sparse::Decoder::default();
            loop {
                data = data.checked_sub(BLOCK as u64).ok_or_else(|| corrupt("the map of a file with holes is cut"))?;
                if decoder.push(&self.block()?)? {
                    break;
                }
            }
            let found = decoder.finish(size)?;
            if found.iter().map(|e| e.length).sum::<u64>() != data {
                return Err(corrupt(format!("the map of {path:?} does not fit its data")));
            }
            extents = Some(found);
        }
        self.data = data;
        self.padding = padding(stored);
        Ok(Kind::File { size, extents })
    }

    /// Takes off what other archivers put before a path.
    fn relative<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        match path.strip_prefix(b"./") {
            Some(rest) if self.dialect == Dialect::Foreign && !rest.is_empty() => rest,
            _ => path,
        }
    }

    fn path_of(&self, header: &[u8; BLOCK], extended: &Extended) -> Result<TreePath> {
        let raw = if let Some(path) = extended.sparse_name.as_ref().or(extended.path.as_ref()) {
            path.clone()
        } else {
            let prefix = text(&header[field::PREFIX]);
            let name = text(&header[field::NAME]);
            // Old GNU headers keep other things there.
            if prefix.is_empty() || header[field::MAGIC] == *b"ustar  \0" {
                name.to_vec()
            } else if self.dialect == Dialect::Foreign {
                [prefix, b"/", name].concat()
            } else {
                return Err(corrupt("a name is cut in two"));
            }
        };
        let is_folder = header[field::TYPE] == b'5';
        if is_folder && matches!(&raw[..], b"./" | b".") {
            return Ok(TreePath::root());
        }
        let path = self.relative(&raw);
        let path = if is_folder { path.strip_suffix(b"/").unwrap_or(path) } else { path };
        TreePath::new(path).map_err(|e| corrupt(e.message()))
    }

    fn attributes_of(&self, header: &[u8; BLOCK], extended: &Extended, path: &TreePath) -> Result<Attributes> {
        let field = |range| number(&header[range], self.dialect);
        let bad = |what: &str| corrupt(format!("{path:?} has no usable {what}"));
        let id = |extended: Option<u64>, own: Option<u64>, what| {
            // All ones stands for "no change" in calls of the system.
            extended.or(own).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX).ok_or_else(|| bad(what))
        };
        let mode = field(field::MODE).and_then(|m| u32::try_from(m).ok());
        let mode = match self.dialect {
            Dialect::Ours => mode.filter(|m| *m <= 0o7777),
            // Some archivers keep the type of the file in the bits above.
            Dialect::Foreign => mode.map(|m| m & 0o7777),
        };
        let modified = if let Some(time) = extended.mtime {
            time
        } else {
            let seconds = field(field::MTIME).and_then(|s| i64::try_from(s).ok()).ok_or_else(|| bad("time"))?;
            Time { seconds, nanoseconds: 0 }
        };
        let mut xattrs = extended.xattrs.clone();
        xattrs.sort();
        Ok(Attributes {
            uid: id(extended.uid, field(field::UID), "owner")?,
            gid: id(extended.gid, field(field::GID), "group")?,
            mode: mode.ok_or_else(|| bad("mode"))?,
            modified,
            xattrs,
        })
    }
}

impl Extended {
    /// Reads `length key=value\n` records. The length decides, since a value may hold anything.
    fn read(&mut self, mut records: &[u8], dialect: Dialect) -> Result<()> {
        let mut keys = std::collections::BTreeSet::new();
        while !records.is_empty() {
            let (record, rest) = split_record(records).ok_or_else(|| corrupt("an extended header is malformed"))?;
            records = rest;
            let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0);
            let equals = equals.ok_or_else(|| corrupt("an extended header is malformed"))?;
            let key = std::str::from_utf8(&record[..equals]).map_err(|_| corrupt("a key is no text"))?;
            if !keys.insert(key) {
                return Err(corrupt(format!("`{}` is said twice of one entry", key.escape_debug())));
            }
            self.apply(key, &record[equals + 1..], dialect)?;
        }
        Ok(())
    }

    fn apply(&mut self, key: &str, value: &[u8], dialect: Dialect) -> Result<()> {
        let bad = || corrupt(format!("`{}` of an entry cannot be read", key.escape_debug()));
        let number = || decimal(value).ok_or_else(bad);
        let name = || if value.is_empty() { Err(bad()) } else { Ok(value.to_vec()) };
        match key {
            "path" => self.path = Some(name()?),
            "linkpath" => self.link = Some(name()?),
            "size" => self.size = Some(number()?),
            "uid" => self.uid = Some(number()?),
            "gid" => self.gid = Some(number()?),
            "mtime" => self.mtime = Some(time(value).ok_or_else(bad)?),
            "GNU.sparse.major" => self.sparse_major = Some(number()?),
            "GNU.sparse.minor" => self.sparse_minor = Some(number()?),
            "GNU.sparse.name" => self.sparse_name = Some(name()?),
            "GNU.sparse.realsize" => self.sparse_size = Some(number()?),
            _ => {
                if let Some(xattr) = key.strip_prefix("SCHILY.xattr.") {
                    if Xattr::is_kept(xattr) {
                        self.xattrs.push(Xattr { name: xattr.to_owned(), value: value.to_vec() });
                        return Ok(());
                    }
                    if dialect == Dialect::Foreign {
                        return Ok(());
                    }
                }
                // What says nothing about where or what an entry is may be left unread.
                let is_harmless = matches!(key, "atime" | "ctime" | "comment" | "uname" | "gname" | "hdrcharset")
                    || key.starts_with("LIBARCHIVE.")
                    || key.starts_with("SCHILY.acl.")
                    || matches!(key, "SCHILY.dev" | "SCHILY.ino" | "SCHILY.nlink" | "SCHILY.fflags");
                if dialect == Dialect::Ours || !is_harmless {
                    return Err(corrupt(format!("nobody knows what `{}` means", key.escape_debug())));
                }
            }
        }
        Ok(())
    }

    fn is_sparse(&self) -> Result<bool> {
        let all = (self.sparse_major, self.sparse_minor, self.sparse_name.is_some(), self.sparse_size.is_some());
        match all {
            (None, None, false, false) => Ok(false),
            (Some(1), Some(0), true, true) => Ok(true),
            _ => Err(corrupt("a file has holes in an unknown format")),
        }
    }
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = records.iter().take(8).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&records[..blank])?).ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &records[length..]))
}

/// Reads digits, and nothing but digits.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads seconds with decimals.
fn time(text: &[u8]) -> Option<Time> {
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let mut digits = [b'0'; 9];
    if !fraction.iter().all(u8::is_ascii_digit) || fraction.len() > 32 {
        return None;
    }
    let kept = fraction.len().min(9);
    digits[..kept].copy_from_slice(&fraction[..kept]);
    let nanoseconds = u32::try_from(decimal(&digits)?).ok()?;
    Some(match (is_negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Bytes of a field up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn number(field: &[u8], dialect: Dialect) -> Option<u64> {
    if dialect == Dialect::Foreign && field[0] & 0x80 != 0 {
        // Base 256, most significant byte first; the first bit only says so. Negative numbers are not wanted.
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |sum, byte| {
            sum.checked_mul(256).and_then(|sum| sum.checked_add(u64::from(*byte)))
        });
    }
    octal(field)
}

/// Reads octal digits between blanks and NULs. An empty field is zero.
fn octal(field: &[u8]) -> Option<u64> {
    let field = field.trim_ascii_start();
    let end = field.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(field.len());
    if field[end..].iter().any(|b| !matches!(b, 0 | b' ')) {
        return None;
    }
    field[..end].iter().try_fold(0_u64, |sum, digit| {
        matches!(digit, b'0'..=b'7').then_some(())?;
        sum.checked_mul(8)?.checked_add(u64::from(digit - b'0'))
    })
}
