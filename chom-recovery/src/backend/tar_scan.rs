//! Follows a tar stream from header to header, without keeping any of it.
//!
//! The Engine ends an archive that it could not finish like a finished one, only without the two empty blocks that
//! close a tar; and it does not apply the owner and mode of the folder that an archive is unpacked in. Both need a
//! look at the headers.
//!
//! # Source
//! POSIX.1-2017 `pax`, ustar and extended headers; GNU tar manual, "Basic Tar Format".

use crate::error::{Error, ErrorKind, Result};

const BLOCK: usize = 512;
/// Extended headers hold names and numbers; a longer one is not from a sane archiver.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Attributes of a folder entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FolderEntry {
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mode: u32,
    pub(crate) mtime: u64,
}

/// Where in an archive the stream is.
#[derive(Debug, Default)]
pub(crate) struct TarScan {
    header: Vec<u8>,
    /// Bytes of content and padding that are still to come.
    skip: u64,
    /// The extended header that is being read: its bytes, and how many are missing.
    extension: Option<(Vec<u8>, u64)>,
    /// What extended headers say about the next entry.
    next: Extended,
    empty_blocks: u8,
    root: Option<FolderEntry>,
}

#[derive(Debug, Default)]
struct Extended {
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    path: Option<Vec<u8>>,
}

impl TarScan {
    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// `Corrupt`: these are not bytes of a tar.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.empty_blocks >= 2 {
                // Whatever pads the last record.
                return Ok(());
            }
            if self.skip > 0 {
                let taken = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                let (content, rest) = bytes.split_at(taken);
                if let Some((buffer, missing)) = self.extension.as_mut() {
                    let wanted = content.len().min(usize::try_from(*missing).unwrap_or(usize::MAX));
                    buffer.extend_from_slice(&content[..wanted]);
                    *missing -= wanted as u64;
                }
                self.skip -= taken as u64;
                bytes = rest;
                if self.skip == 0
                    && let Some((buffer, _)) = self.extension.take()
                {
                    self.next.read(&buffer);
                }
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK - self.header.len()));
            self.header.extend_from_slice(part);
            bytes = rest;
            if self.header.len() == BLOCK {
                let header = std::mem::take(&mut self.header);
                self.header(&header)?;
            }
        }
        Ok(())
    }

    fn header(&mut self, header: &[u8]) -> Result<()> {
        if header.iter().all(|b| *b == 0) {
            self.empty_blocks += 1;
            return Ok(());
        }
        self.empty_blocks = 0;
        let header = tar::Header::from_byte_slice(header);
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("the archive is broken: {what}"));
        let sum: u32 = header
            .as_bytes()
            .iter()
            .enumerate()
            .map(|(i, b)| {
                // The checksum counts its own field as blanks.
                if (148..156).contains(&i) { u32::from(b' ') } else { u32::from(*b) }
            })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(corrupt("a header's checksum is wrong"));
        }
        let kind = header.entry_type();
        let own_size = header.entry_size().map_err(|_| corrupt("an entry has no size"))?;
        let padded =
            |size: u64| size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| corrupt("an entry is too big"));
        if kind.is_pax_local_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_global_extensions()
        {
            if own_size > LONGEST_EXTENSION {
                return Err(corrupt("an extended header is too long"));
            }
            self.skip = padded(own_size)?;
            if kind.is_pax_local_extensions() && self.skip > 0 {
                self.extension = Some((Vec::new(), own_size));
            } else if kind.is_gnu_longname() {
                // A long name is not that of the root.
                self.next.path = Some(Vec::new());
            }
            return Ok(());
        }
        let next = std::mem::take(&mut self.next);
        let path = next.path.unwrap_or_else(|| header.path_bytes().into_owned());
        if kind.is_dir() && matches!(&path[..], b"." | b"./") {
            self.root = Some(FolderEntry {
                uid: next.uid.or_else(|| header.uid().ok()).ok_or_else(|| corrupt("the root has no owner"))?,
                gid: next.gid.or_else(|| header.gid().ok()).ok_or_else(|| corrupt("the root has no group"))?,
                mode: header.mode().map_err(|_| corrupt("the root has no mode"))? & 0o7777,
                mtime: header.mtime().unwrap_or(0),
            });
        }
        // Links and folders have no content, whatever their size field says.
        let has_content = !(kind.is_hard_link()
            || kind.is_symlink()
            || kind.is_dir()
            || kind.is_fifo()
            || kind.is_character_special()
            || kind.is_block_special());
        self.skip = if has_content { padded(next.size.unwrap_or(own_size))? } else { 0 };
        Ok(())
    }

    /// Tells whether the closing blocks were seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.empty_blocks >= 2
    }

    /// Checks the end of the stream.
    ///
    /// # Errors
    /// `Corrupt`: the archive was not closed.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.is_complete() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "the archive ended without its closing blocks: it was cut"))
    }

    /// Attributes of the folder that the archive is the content of, when the archive names it (`./`).
    pub(crate) fn root(&self) -> Option<FolderEntry> {
        self.root
    }
}

impl Extended {
    /// Reads `length key=value\n` records. The length decides, since a value may hold line ends.
    fn read(&mut self, mut records: &[u8]) {
        while let Some((record, rest)) = split_record(records) {
            records = rest;
            let Some(equals) = record.iter().position(|b| *b == b'=') else { return };
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            match key {
                b"size" => self.size = number(),
                b"uid" => self.uid = number(),
                b"gid" => self.gid = number(),
                b"path" => self.path = Some(value.to_vec()),
                _ => {}
            }
        }
    }
}

fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = records.iter().position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &records[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_uid(999);
        header.set_gid(998);
        header.set_mode(0o750);
        builder.append_data(&mut header, "./", &[][..]).unwrap();
        let long = format!("{}/file", "folder".repeat(30));
        let mut header = tar::Header::new_gnu();
        header.set_size(1300);
        header.set_mode(0o600);
        builder.append_data(&mut header, long, &[7; 1300][..]).unwrap();
        builder.append_pax_extensions([("size", &b"700"[..]), ("comment", b"x")]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("big").unwrap();
        header.set_size(700);
        header.set_cksum();
        builder.append(&header, &[1; 700][..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_whole_archive_is_complete_however_it_is_cut_into_pieces() {
        let tar = archive();
        for piece in [1, 7, 512, 1000, tar.len()] {
            let mut scan = TarScan::default();
            tar.chunks(piece).for_each(|chunk| scan.push(chunk).unwrap());
            scan.finish().unwrap();
            assert_eq!(scan.root(), Some(FolderEntry { uid: 999, gid: 998, mode: 0o750, mtime: 0 }));
        }
    }

    #[test]
    fn an_archive_cut_anywhere_before_its_closing_blocks_is_not_complete() {
        let tar = archive();
        for cut in 0..tar.len() - 512 {
            let mut scan = TarScan::default();
            scan.push(&tar[..cut]).unwrap();
            assert_eq!(scan.finish().unwrap_err().kind(), ErrorKind::Corrupt, "cut at {cut}");
        }
    }

    #[test]
    fn a_name_with_a_line_end_cannot_pose_as_a_record() {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", &b"x\n11 size=99\n"[..])]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("x").unwrap();
        header.set_size(3);
        header.set_cksum();
        builder.append(&header, &b"abc"[..]).unwrap();
        let mut scan = TarScan::default();
        scan.push(&builder.into_inner().unwrap()).unwrap();
        scan.finish().unwrap();
    }

    #[test]
    fn an_error_message_in_the_place_of_an_entry_is_not_a_tar() {
        let mut scan = TarScan::default();
        let mut bytes = br#"{"message":"file vanished"}"#.to_vec();
        bytes.resize(512, b' ');
        assert_eq!(scan.push(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
