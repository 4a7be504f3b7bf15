//! Headers as they are written.

use std::io::Write;

use super::{BLOCK, checksum, field};
use crate::files::{
    entry::{Entry, Kind, Time},
    sparse,
};

/// What closes an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// Greatest number that fits seven octal digits.
const MOST_SEVEN: u64 = 0o7_777_777;
/// Greatest number that fits eleven octal digits.
const MOST_ELEVEN: u64 = 0o77_777_777_777;

/// Bytes that follow `length` bytes of data up to the next block.
pub fn padding(length: u64) -> usize {
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK - over }
}

/// Bytes that an entry takes in an archive: headers, map, data and padding.
pub fn entry_len(entry: &Entry) -> u64 {
    let mut headers = Vec::new();
    write_header(entry, &mut headers);
    let data = entry.kind.data_len();
    headers.len() as u64 + data + padding(data) as u64
}

/// Writes everything of an entry that comes before its data. The data of a file with holes is that of its extents, one
/// after the other.
pub fn write_header(entry: &Entry, out: &mut Vec<u8>) {
    let Entry { path, kind, attributes } = entry;
    let mut pax = Pax(Vec::new());
    let mut name = if path.is_root() { b"./".to_vec() } else { path.as_bytes().to_vec() };
    if matches!(kind, Kind::Folder) && !path.is_root() {
        name.push(b'/');
    }
    let (type_flag, link): (u8, &[u8]) = match kind {
        Kind::File { .. } => (b'0', b""),
        Kind::Folder => (b'5', b""),
        Kind::HardLink { target } => (b'1', target.as_bytes()),
        Kind::Symlink { target } => (b'2', target),
        Kind::Fifo => (b'6', b""),
    };

    let mut map = Vec::new();
    if let Kind::File { size, extents: Some(extents) } = kind {
        pax.record("GNU.sparse.major", b"1");
        pax.record("GNU.sparse.minor", b"0");
        pax.record("GNU.sparse.name", &name);
        pax.record("GNU.sparse.realsize", size.to_string().as_bytes());
        map = sparse::encode(extents, *size);
        // What a reader that knows nothing of holes makes of it must not pass for the file itself.
        name = [&b"GNUSparseFile.0/"[..], path.split().map_or(&b""[..], |(_, name)| name)].concat();
        name.truncate(100);
    } else if !fits(&name) {
        pax.record("path", &name);
    }
    if !fits(link) {
        pax.record("linkpath", link);
    }
    let stored = map.len() as u64 + kind.data_len();
    pax.number("size", stored, MOST_ELEVEN);
    pax.number("uid", attributes.uid.into(), MOST_SEVEN);
    pax.number("gid", attributes.gid.into(), MOST_SEVEN);
    let modified = attributes.modified;
    let whole = u64::try_from(modified.seconds).ok().filter(|s| *s <= MOST_ELEVEN && modified.nanoseconds == 0);
    if whole.is_none() {
        pax.record("mtime", decimal(modified).as_bytes());
    }
    for xattr in &attributes.xattrs {
        pax.record(&format!("SCHILY.xattr.{}", xattr.name), &xattr.value);
    }

    if !pax.0.is_empty() {
        let mut header = Header::new(b"PaxHeaders/x", b'x');
        header.octal(field::SIZE, pax.0.len() as u64);
        header.octal(field::MODE, 0o644);
        header.finish(out);
        out.extend_from_slice(&pax.0);
        out.resize(out.len() + padding(pax.0.len() as u64), 0);
    }
    let mut header = Header::new(&name, type_flag);
    header.bytes(field::LINK, link);
    header.octal(field::MODE, attributes.mode.into());
    header.octal(field::UID, if u64::from(attributes.uid) > MOST_SEVEN { 0 } else { attributes.uid.into() });
    header.octal(field::GID, if u64::from(attributes.gid) > MOST_SEVEN { 0 } else { attributes.gid.into() });
    header.octal(field::SIZE, if stored > MOST_ELEVEN { 0 } else { stored });
    header.octal(field::MTIME, u64::try_from(modified.seconds).unwrap_or(0).min(MOST_ELEVEN));
    header.finish(out);
    out.extend_from_slice(&map);
}

/// Names of other bytes than these are read differently under different locales.
fn fits(name: &[u8]) -> bool {
    name.len() <= 100 && name.is_ascii()
}

/// Writes a time as seconds with as many decimals as it needs.
fn decimal(time: Time) -> String {
    // The fraction of a time before 1970 counts back from the next second.
    let (sign, seconds, nanoseconds) = if time.seconds < 0 && time.nanoseconds > 0 {
        ("-", -(time.seconds + 1), 1_000_000_000 - time.nanoseconds)
    } else if time.seconds < 0 {
        ("-", -time.seconds, 0)
    } else {
        ("", time.seconds, time.nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

struct Pax(Vec<u8>);

impl Pax {
    fn record(&mut self, key: &str, value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        let _ = write!(self.0, "{length} {key}=");
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// Writes a number that does not fit its field.
    fn number(&mut self, key: &str, value: u64, most: u64) {
        if value > most {
            self.record(key, value.to_string().as_bytes());
        }
    }
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(name: &[u8], type_flag: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.bytes(field::NAME, name);
        header.0[field::TYPE] = type_flag;
        header.0[field::MAGIC].copy_from_slice(b"ustar\x0000");
        for range in [field::UID, field::GID, field::MTIME] {
            header.octal(range, 0);
        }
        header
    }

    /// Writes as many bytes as fit.
    fn bytes(&mut self, range: std::ops::Range<usize>, bytes: &[u8]) {
        let length = bytes.len().min(range.len());
        self.0[range.start..range.start + length].copy_from_slice(&bytes[..length]);
    }

    /// Writes a number as octal digits and a NUL.
    fn octal(&mut self, range: std::ops::Range<usize>, mut value: u64) {
        for at in (range.start..range.end - 1).rev() {
            self.0[at] = b'0' + u8::try_from(value & 7).unwrap_or(0);
            value >>= 3;
        }
    }

    fn finish(mut self, out: &mut Vec<u8>) {
        let sum = checksum(&self.0);
        let digits = format!("{sum:06o}\0 ");
        self.0[field::CHECKSUM].copy_from_slice(digits.as_bytes());
        out.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_on_both_sides_of_1970() {
        let at = |seconds, nanoseconds| decimal(Time { seconds, nanoseconds });
        assert_eq!(at(1, 500_000_000), "1.5");
        assert_eq!(at(-1, 500_000_000), "-0.5");
        assert_eq!(at(-2, 0), "-2");
        assert_eq!(at(-2, 999_999_999), "-1.000000001");
        assert_eq!(at(1_700_000_000, 1), "1700000000.000000001");
    }

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [1, 5, 88, 89, 90, 91, 988, 989, 990, 9_990] {
            let mut pax = Pax(Vec::new());
            pax.record("path", &vec![b'x'; length]);
            let text = String::from_utf8(pax.0.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), pax.0.len(), "{length}");
        }
    }
}
