//! Reading objects, a piece at a time.

use std::{
    fs::File,
    io::{self, Read, Seek},
    ops::Range,
};

use bytes::{Bytes, BytesMut};

use super::failed;
use crate::{
    error::{Error, ErrorKind, Result},
    store::Key,
};

/// Largest piece, in bytes.
pub(super) const PIECE: usize = 256 << 10;

/// An object that is being read.
pub(super) struct Reading {
    file: File,
    key: Key,
    left: u64,
}

impl Reading {
    /// Begins at the begin of `range`, which lies within the object.
    pub(super) fn begin(mut file: File, key: Key, range: &Range<u64>) -> Result<Self> {
        file.seek(io::SeekFrom::Start(range.start)).map_err(|e| failed("read", &key, e))?;
        Ok(Self { file, key, left: range.end - range.start })
    }

    /// Tells whether everything was read.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Reads the next piece; `None` at the end.
    pub(super) fn piece(&mut self) -> Result<Option<Bytes>> {
        while self.left > 0 {
            let mut piece = BytesMut::zeroed(usize::try_from(self.left).unwrap_or(PIECE).min(PIECE));
            match self.file.read(&mut piece) {
                Ok(0) => {
                    return Err(Error::new(ErrorKind::Corrupt, format!("object `{}` ended early", self.key))
                        .with("missing bytes", self.left));
                }
                Ok(got) => {
                    piece.truncate(got);
                    self.left -= got as u64;
                    return Ok(Some(piece.freeze()));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &self.key, e)),
            }
        }
        Ok(None)
    }
}
