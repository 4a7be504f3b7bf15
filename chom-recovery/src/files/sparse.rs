//! Files with holes.
//!
//! They are stored as GNU tar does it (format 1.0 for PAX): a map of the stretches with data, as decimal numbers, a
//! line each, padded to a block, and then only these stretches. Every tar of the field reads it.
//!
//! # Source
//! GNU tar manual, appendix D.4, "PAX Format, Version 1.0".

use std::os::fd::AsFd;

use rustix::{fs::SeekFrom, io::Errno};

use super::{entry::Extent, tar::BLOCK};
use crate::error::{Error, ErrorKind, Result};

/// Most stretches of one file. A file that has more is stored without holes.
const MOST_EXTENTS: usize = 64 << 10;

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the map of a file with holes {why}"))
}

/// Asks the filesystem where a file has data. `None`: everywhere, or in too many places.
pub(super) fn find(file: impl AsFd, size: u64) -> rustix::io::Result<Option<Vec<Extent>>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(begin) => begin.min(size),
            Err(Errno::NXIO) => break,
            // A filesystem that does not know.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(begin))?.min(size);
        if begin == 0 && end == size {
            return Ok(None);
        }
        if end > begin {
            extents.push(Extent { offset: begin, length: end - begin });
        }
        if extents.len() > MOST_EXTENTS {
            return Ok(None);
        }
        at = end;
    }
    Ok(Some(extents))
}

/// Writes the map, padded to a block.
pub(super) fn encode(extents: &[Extent], size: u64) -> Vec<u8> {
    use std::io::Write;
    let mut map = Vec::new();
    // A hole at the end is told by an empty stretch there.
    let end = extents.last().is_none_or(|e| e.offset + e.length < size);
    let count = extents.len() + usize::from(end);
    let _ = writeln!(map, "{count}");
    for extent in extents {
        let _ = writeln!(map, "{}\n{}", extent.offset, extent.length);
    }
    if end {
        let _ = writeln!(map, "{size}\n0");
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads a map as its blocks come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    line: String,
    numbers: Vec<u64>,
    wanted: Option<usize>,
}

impl Decoder {
    /// Takes a block. Returns the numbers once all of them came.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<bool> {
        for byte in block {
            if self.is_complete() {
                if *byte != 0 {
                    return Err(corrupt("is longer than it says"));
                }
                continue;
            }
            match byte {
                b'0'..=b'9' if self.line.len() < 20 => self.line.push(char::from(*byte)),
                b'\n' => {
                    let number: u64 = self.line.parse().map_err(|_| corrupt("holds no number"))?;
                    self.line.clear();
                    match self.wanted {
                        None => {
                            let count = usize::try_from(number).ok().filter(|n| *n <= MOST_EXTENTS + 1);
                            self.wanted = Some(count.ok_or_else(|| corrupt("is too long"))? * 2);
                        }
                        Some(_) => self.numbers.push(number),
                    }
                }
                _ => return Err(corrupt("holds no number")),
            }
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.wanted.is_some_and(|wanted| self.numbers.len() == wanted)
    }

    /// Checks the map: in order, apart, within the file.
    pub(super) fn finish(self, size: u64) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::with_capacity(self.numbers.len() / 2);
        let mut end = 0_u64;
        for pair in self.numbers.chunks_exact(2) {
            let extent = Extent { offset: pair[0], length: pair[1] };
            let next = extent.offset.checked_add(extent.length).filter(|next| *next <= size);
            let next = next.ok_or_else(|| corrupt("leads beyond the end of the file"))?;
            if extent.offset < end {
                return Err(corrupt("is out of order"));
            }
            end = next;
            if extent.length > 0 {
                extents.push(extent);
            }
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_read_as_it_was_written() {
        let extents = vec![Extent { offset: 4096, length: 512 }, Extent { offset: 1 << 40, length: 1 }];
        for size in [(1 << 40) + 1, 1 << 41] {
            let map = encode(&extents, size);
            let mut decoder = Decoder::default();
            let blocks: Vec<bool> = map.chunks(BLOCK).map(|b| decoder.push(b).unwrap()).collect();
            assert_eq!(blocks.last(), Some(&true));
            assert_eq!(decoder.finish(size).unwrap(), extents);
        }
        assert!(encode(&[], 7).starts_with(b"1\n7\n0\n"));
    }

    #[test]
    fn maps_that_lie_are_refused() {
        for bad in ["1\n0\n9\n", "2\n4\n1\n0\n1\n", "1\n18446744073709551615\n2\n", "x", "1\n-1\n2\n", "99999999\n"] {
            let mut block = bad.as_bytes().to_vec();
            block.resize(BLOCK, 0);
            let mut decoder = Decoder::default();
            let read = decoder.push(&block).and_then(|_| decoder.finish(8));
            assert_eq!(read.unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
