//! The bytes of a dump file, decompressed, and what they are as stored.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// Bytes of a file that tell what it is.
const MAGIC: usize = 8;

/// Compression of a file, told by its first bytes and not by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileCompression {
    /// None.
    None,
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
}

/// Size and hash of a file as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Counts and hashes what is read from a file.
#[derive(Clone)]
struct Meter {
    file: Arc<Mutex<(File, Sha256)>>,
    done: Arc<AtomicU64>,
}

impl Read for Meter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let n = file.0.read(buffer)?;
        file.1.update(&buffer[..n]);
        self.done.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// An open dump file: reads as its decompressed bytes.
pub struct Input {
    reader: Box<dyn Read + Send>,
    meter: Meter,
    compression: FileCompression,
    /// Bytes of the file when it was opened.
    length: u64,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Input {
    /// Opens a file. A blocking call, as all reading is.
    ///
    /// # Errors
    /// `NotFound` and others: the file cannot be opened. `Corrupt`: it is empty. `InvalidInput`: it is a folder.
    pub fn open(path: &Path) -> Result<Self> {
        let refused = |e: io::Error| Error::from(e).during(format!("cannot read `{}`", path.display()));
        let file = File::open(path).map_err(refused)?;
        let about = file.metadata().map_err(refused)?;
        if !about.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a file", path.display())));
        }
        let meter = Meter { file: Arc::new(Mutex::new((file, Sha256::new()))), done: Arc::default() };
        let mut reader = meter.clone();
        let mut magic = Vec::with_capacity(MAGIC);
        reader.by_ref().take(MAGIC as u64).read_to_end(&mut magic).map_err(refused)?;
        if magic.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, format!("`{}` is empty", path.display()))
                .hint("the program that wrote it failed: look at its log, and take another backup"));
        }
        let compression = match magic.as_slice() {
            [0x1f, 0x8b, ..] => FileCompression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => FileCompression::Zstd,
            _ => FileCompression::None,
        };
        let stored = BufReader::with_capacity(256 << 10, io::Cursor::new(magic).chain(reader));
        let reader: Box<dyn Read + Send> = match compression {
            FileCompression::None => Box::new(stored),
            FileCompression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(stored)),
            FileCompression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(stored).map_err(refused)?),
        };
        Ok(Self { reader, meter, compression, length: about.len() })
    }

    /// Returns the compression.
    pub fn compression(&self) -> FileCompression {
        self.compression
    }

    /// Returns the number of stored bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Tells whether the file is empty; an open one never is.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns a counter of the stored bytes that were read.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.meter.done)
    }

    /// Reads what is left of the file as stored, and tells what all of it is.
    ///
    /// # Errors
    /// Those of reading.
    pub fn into_stored(self) -> Result<Stored> {
        drop(self.reader);
        let mut meter = self.meter;
        io::copy(&mut meter, &mut io::sink())?;
        let bytes = meter.done.load(Ordering::Relaxed);
        let hash = meter.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1.clone().finalize();
        Ok(Stored { bytes, sha256: hex::encode(hash) })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}
