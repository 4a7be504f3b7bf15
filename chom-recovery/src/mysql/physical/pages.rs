//! Checksums of InnoDB's pages, computed without a server.
//!
//! A tablespace says in its first page how large its pages are and how they are summed up:
//!
//! | form | sum | over | kept at |
//! |---|---|---|---|
//! | MySQL, and MariaDB's `crc32` | CRC-32C of two ranges, combined by XOR | bytes 4 to 26, and 38 to 8 before the end | 0, and 8 before the end |
//! | MariaDB's `full_crc32` | CRC-32C | all but the last 4 bytes | the last 4 bytes |
//! | `ROW_FORMAT=COMPRESSED` | CRC-32C of three ranges, combined by XOR | bytes 4 to 16, 24 to 26, and 34 to the end | 0 |
//!
//! Pages that a server wrote long ago may carry the sum `innodb`, or the word that stands for no sum. A page of zeros was
//! never written. Of pages that were compressed or encrypted as a whole the sum is not known here: they are counted.
//!
//! # Source
//! MySQL 9 source: `storage/innobase/include/fil0types.h` and `fsp0types.h` (places and flags), `buf/checksum.cc` and
//! `page/zipdecompress.cc` (`buf_calc_page_crc32`, `buf_calc_page_new_checksum`, `page_zip_calc_checksum`). MariaDB 10.11
//! source: `storage/innobase/include/fil0fil.h`, `fsp0types.h` and `buf/buf0buf.cc` (`full_crc32`). MariaDB knowledge base,
//! "InnoDB Page Checksums".

use std::io::{self, Read};

/// Bytes of the header, which the sums of MySQL's form leave out but for a range.
const HEADER: usize = 38;
/// Bytes of the trailer: a sum, and the low half of the page's log sequence number.
const TRAILER: usize = 8;
/// Where the flags of the tablespace are in its first page.
const FLAGS: usize = 54;
/// Marks `full_crc32` among them: as a size of compressed pages, what MySQL has there, it would be too large.
const FULL_CRC32: u32 = 1 << 4;
/// Which compression the pages of a tablespace of that form may have; 0: none.
const COMPRESSION: u32 = 7 << 5;
/// Kept in the place of a sum where none was wanted.
const NO_SUM: u32 = 0xDEAD_BEEF;
/// First page of a tablespace.
const TYPE_FIRST: u16 = 8;
/// Smallest and largest page, in bytes.
const SIZES: std::ops::RangeInclusive<usize> = 1024..=65536;
/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// Which server wrote the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Whether it is MariaDB: both use the same bytes for other things.
    pub is_mariadb: bool,
    /// `innodb_page_size`, in bytes.
    pub page_size: usize,
}

/// How the pages of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Bytes of a page in the file.
    size: usize,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Full { is_compressed: bool },
    Zipped,
}

/// What the pages of files were found to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageReport {
    /// Pages whose sum is right.
    pub good: u64,
    /// Pages that were never written.
    pub empty: u64,
    /// Pages of which the sum is not known here: compressed or encrypted as a whole, or written without one.
    pub unchecked: u64,
    /// The first damaged page: its number in the file, and what is wrong.
    pub damaged: Option<(u64, String)>,
}

impl PageReport {
    /// Adds what was found in another file.
    pub fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.empty += other.empty;
        self.unchecked += other.unchecked;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Empty,
    Unchecked,
    Bad(String),
}

/// Checks every page of a file of InnoDB's, up to the first that is damaged. Memory does not grow with the file.
///
/// # Errors
/// The file cannot be read. Damage is a result.
pub fn check_file(mut file: impl Read, dialect: Dialect) -> io::Result<PageReport> {
    let mut report = PageReport::default();
    let mut block = vec![0; BLOCK];
    let mut layout: Option<Layout> = None;
    let mut number = 0;
    loop {
        let filled = fill(&mut file, &mut block)?;
        if filled == 0 {
            return Ok(report);
        }
        let layout = *layout.get_or_insert_with(|| Layout::of(&block[..filled], dialect));
        for page in block[..filled].chunks(layout.size) {
            let verdict = if page.len() == layout.size {
                layout.check(page, number, dialect)
            } else {
                Verdict::Bad("the file ends within it".into())
            };
            match verdict {
                Verdict::Good => report.good += 1,
                Verdict::Empty => report.empty += 1,
                Verdict::Unchecked => report.unchecked += 1,
                Verdict::Bad(why) => {
                    report.damaged = Some((number, why));
                    return Ok(report);
                }
            }
            number += 1;
        }
    }
}

/// Fills a buffer as far as the file reaches.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl Layout {
    /// Reads it from the first page. A file that goes on with the pages of another, such as `ibdata2`, is laid out as the
    /// server's own pages are.
    fn of(block: &[u8], dialect: Dialect) -> Self {
        let size_of = |shift: u32| 512_usize.checked_shl(shift).filter(|size| SIZES.contains(size));
        let own = Self { size: dialect.page_size, form: Form::Plain };
        if block.len() < FLAGS + 4 {
            return own;
        }
        let flags = u32_at(block, FLAGS);
        // `full_crc32` may carry a mark of compression in the type, but never on the first page.
        if u16_at(block, 24) != TYPE_FIRST {
            return Self { form: own.form_of_later(block), ..own };
        }
        if dialect.is_mariadb && flags & FULL_CRC32 != 0 {
            return size_of(flags & 0xf)
                .map_or(own, |size| Self { size, form: Form::Full { is_compressed: flags & COMPRESSION != 0 } });
        }
        match (size_of(flags >> 1 & 0xf), size_of(flags >> 6 & 0xf)) {
            (Some(size), _) if flags >> 1 & 0xf != 0 => Self { size, form: Form::Zipped },
            (_, Some(size)) if flags >> 6 & 0xf != 0 => Self { size, form: Form::Plain },
            _ => own,
        }
    }

    /// A later file of the system tablespace has no flags: the sum itself tells.
    fn form_of_later(self, block: &[u8]) -> Form {
        let page = block.get(..self.size).unwrap_or(block);
        let is_full = page.len() > TRAILER && full_sum(page) == u32_at(page, page.len() - 4);
        if is_full && !is_empty(page) { Form::Full { is_compressed: false } } else { Form::Plain }
    }

    fn check(self, page: &[u8], number: u64, dialect: Dialect) -> Verdict {
        if is_empty(page) {
            return Verdict::Empty;
        }
        let is_whole_page_coded = match (self.form, dialect.is_mariadb) {
            // The highest bit marks a compressed page, whose sum is where its data ends. An encrypted one is summed up as it
            // lies in the file.
            (Form::Full { is_compressed }, _) => is_compressed && u16_at(page, 24) & 0x8000 != 0,
            // FIL_PAGE_COMPRESSED, _ENCRYPTED, _COMPRESSED_AND_ENCRYPTED, _ENCRYPTED_RTREE.
            (_, false) => matches!(u16_at(page, 24), 14..=17),
            // FIL_PAGE_PAGE_COMPRESSED and its encrypted form; else the version of the key that a page is encrypted with,
            // where the first page of the system tablespace has something else.
            (_, true) => matches!(u16_at(page, 24), 34354 | 37401) || (number > 0 && u32_at(page, 26) != 0),
        };
        if is_whole_page_coded {
            return Verdict::Unchecked;
        }
        match self.form {
            Form::Full { .. } => self.check_full(page),
            Form::Zipped => check_zipped(page),
            Form::Plain => self.check_plain(page),
        }
    }

    fn check_full(self, page: &[u8]) -> Verdict {
        let end = self.size;
        let (kept, sum) = (u32_at(page, end - 4), full_sum(page));
        if kept != sum {
            return Verdict::Bad(differs(kept, sum));
        }
        sequence(page, u32_at(page, end - TRAILER))
    }

    fn check_plain(self, page: &[u8]) -> Verdict {
        let end = self.size - TRAILER;
        let (first, last) = (u32_at(page, 0), u32_at(page, end));
        if first == NO_SUM && last == NO_SUM {
            return Verdict::Unchecked;
        }
        let sum = crc32c::crc32c(&page[4..26]) ^ crc32c::crc32c(&page[HEADER..end]);
        let is_crc = first == sum && last == sum;
        let is_old = || first == fold(&page[4..26]).wrapping_add(fold(&page[HEADER..end]));
        if is_crc || is_old() { sequence(page, u32_at(page, end + 4)) } else { Verdict::Bad(differs(first, sum)) }
    }
}

/// A page that was torn has two ends of different writes.
fn sequence(page: &[u8], at_end: u32) -> Verdict {
    let at_begin = u32_at(page, 20);
    if at_begin == at_end {
        return Verdict::Good;
    }
    Verdict::Bad(format!("its ends are of different writes: log sequence numbers {at_begin:08x} and {at_end:08x}"))
}

fn check_zipped(page: &[u8]) -> Verdict {
    let kept = u32_at(page, 0);
    if kept == NO_SUM {
        return Verdict::Unchecked;
    }
    let sum = crc32c::crc32c(&page[4..16]) ^ crc32c::crc32c(&page[24..26]) ^ crc32c::crc32c(&page[34..]);
    if kept == sum { Verdict::Good } else { Verdict::Bad(differs(kept, sum)) }
}

fn full_sum(page: &[u8]) -> u32 {
    crc32c::crc32c(&page[..page.len() - 4])
}

/// The sum `innodb`, of which the low 32 bits count.
fn fold(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0_u32, |fold, byte| {
        let byte = u32::from(*byte);
        (((fold ^ byte ^ 0x6294_6A4F) << 8).wrapping_add(fold) ^ 0x573E_D587).wrapping_add(byte)
    })
}

fn differs(kept: u32, sum: u32) -> String {
    format!("its checksum is {sum:08x}, and it says {kept:08x}")
}

fn is_empty(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MYSQL: Dialect = Dialect { is_mariadb: false, page_size: 16384 };
    const MARIADB: Dialect = Dialect { is_mariadb: true, page_size: 16384 };

    fn put(page: &mut [u8], at: usize, value: u32) {
        page[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// A page as a server writes it: `full` marks MariaDB's form.
    fn page(number: u32, size: usize, flags: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..size).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        page[24..26].copy_from_slice(&(if number == 0 { TYPE_FIRST } else { 17855 }).to_be_bytes());
        put(&mut page, 4, number);
        put(&mut page, 26, 0);
        put(&mut page, 20, 77);
        if number == 0 {
            put(&mut page, FLAGS, flags);
        }
        if flags & FULL_CRC32 != 0 {
            put(&mut page, size - 8, 77);
            let sum = full_sum(&page);
            put(&mut page, size - 4, sum);
        } else if flags >> 1 & 0xf != 0 {
            let sum = crc32c::crc32c(&page[4..16]) ^ crc32c::crc32c(&page[24..26]) ^ crc32c::crc32c(&page[34..]);
            put(&mut page, 0, sum);
        } else {
            put(&mut page, size - 4, 77);
            let sum = crc32c::crc32c(&page[4..26]) ^ crc32c::crc32c(&page[HEADER..size - 8]);
            put(&mut page, 0, sum);
            put(&mut page, size - 8, sum);
        }
        page
    }

    fn file(size: usize, flags: u32) -> Vec<u8> {
        let pages = [page(0, size, flags), page(1, size, flags), vec![0; size], page(3, size, flags)];
        pages.concat()
    }

    #[test]
    fn every_form_is_known_by_its_flags_and_each_flipped_bit_is_found() {
        for (dialect, size, flags) in [
            (MYSQL, 16384, 0x4021),
            (MYSQL, 4096, 3 << 6),
            (MYSQL, 8192, 4 << 1),
            (MARIADB, 16384, FULL_CRC32 | 5),
            (MARIADB, 65536, FULL_CRC32 | 7),
            (MARIADB, 1024, 1 << 1),
        ] {
            let file = file(size, flags);
            let report = check_file(&*file, dialect).unwrap();
            assert_eq!(report, PageReport { good: 3, empty: 1, unchecked: 0, damaged: None }, "{size} {flags:x}");
            for at in [size + 4, size + 100, 2 * size - 9] {
                let mut bad = file.clone();
                bad[at] ^= 4;
                let damaged = check_file(&*bad, dialect).unwrap().damaged.expect("damage is found");
                assert_eq!(damaged.0, 1, "{size} {flags:x} {at}");
            }
            let damaged = check_file(&file[..file.len() - 5], dialect).unwrap().damaged.unwrap();
            assert_eq!(damaged, (3, "the file ends within it".to_owned()));
        }
    }

    #[test]
    fn a_torn_page_is_damaged_even_where_its_sum_was_made_again() {
        let mut file = file(16384, FULL_CRC32 | 5);
        let end = 2 * 16384;
        put(&mut file, end - 8, 78);
        let sum = full_sum(&file[16384..end]);
        put(&mut file, end - 4, sum);
        let (number, why) = check_file(&*file, MARIADB).unwrap().damaged.unwrap();
        assert!(number == 1 && why.contains("different writes"), "{why}");
    }

    #[test]
    fn pages_that_are_coded_as_a_whole_are_counted_and_not_believed_to_be_good() {
        for (dialect, flags, kind) in [
            (MYSQL, 0x4021, 14_u16),
            (MYSQL, 0x4021, 15),
            (MARIADB, 0, 34354),
            (MARIADB, FULL_CRC32 | 5 | 1 << 5, 0x8001),
        ] {
            let mut file = file(16384, flags);
            file[16384 + 24..16384 + 26].copy_from_slice(&kind.to_be_bytes());
            let report = check_file(&*file, dialect).unwrap();
            assert_eq!((report.good, report.unchecked, report.damaged), (2, 1, None), "{kind}");
        }
    }

    #[test]
    fn garbage_does_not_pass_for_compressed() {
        let mut file = file(16384, FULL_CRC32 | 5);
        file[16384 + 24..16384 + 26].copy_from_slice(&0xffff_u16.to_be_bytes());
        assert_eq!(check_file(&*file, MARIADB).unwrap().damaged.unwrap().0, 1);
    }

    #[test]
    fn the_sums_of_old_servers_are_known() {
        let mut file = file(16384, 0);
        let range = 16384..2 * 16384;
        let sum =
            fold(&file[range.start + 4..range.start + 26]).wrapping_add(fold(&file[range.start + 38..range.end - 8]));
        put(&mut file, range.start, sum);
        put(&mut file, range.end - 8, 5);
        put(&mut file, 3 * 16384, NO_SUM);
        put(&mut file, 4 * 16384 - 8, NO_SUM);
        let report = check_file(&*file, MYSQL).unwrap();
        assert_eq!((report.good, report.unchecked, report.damaged), (2, 1, None));
    }
}
