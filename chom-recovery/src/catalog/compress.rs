//! Compression of parts: one frame each, whose end is noticed.

use std::io::{self, Write};

use flate2::write::{GzDecoder, GzEncoder};
use serde::{Deserialize, Serialize};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use crate::error::{Error, ErrorKind, Result};

/// Bytes that a decoder hands on at once.
const PIECE: usize = 128 << 10;
/// Decoders keep at most 8 MiB of history.
const WINDOW_LOG_MAX: u32 = 23;

/// How the bytes of a part are compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    #[default]
    /// One Zstandard frame with a checksum (RFC 8878).
    Zstd,
    /// One gzip member (RFC 1952).
    Gzip,
    /// Not at all: for what is compressed already.
    None,
}

impl Compression {
    /// Level used when none is asked for. Of Zstandard the first: level 3 takes half as much processor time again for 4 % fewer
    /// bytes (150 MB of TPC-H's `lineitem` by the program `zstd`: 0.94 and 1.36 s, 48.1 and 46.2 MB), and a dump on two
    /// cores is bound by them.
    pub fn default_level(self) -> i32 {
        match self {
            Self::Zstd => 1,
            Self::Gzip => 6,
            Self::None => 0,
        }
    }
}

pub(super) enum Encoder<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(GzEncoder<W>),
    None(W),
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(compression: Compression, level: i32, out: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.include_checksum(true)?;
                encoder.window_log(21)?;
                Self::Zstd(encoder)
            }
            Compression::Gzip => {
                Self::Gzip(GzEncoder::new(out, flate2::Compression::new(u32::try_from(level).unwrap_or(6).min(9))))
            }
            Compression::None => Self::None(out),
        })
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(e) => e.write_all(bytes),
            Self::Gzip(e) => e.write_all(bytes),
            Self::None(out) => out.write_all(bytes),
        }
    }

    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(e) => e.finish(),
            Self::Gzip(e) => e.finish(),
            Self::None(out) => Ok(out),
        }
    }
}

pub(super) enum Decoder<W: Write> {
    Zstd(Box<ZstdFrame<W>>),
    Gzip(Box<GzDecoder<W>>),
    None(W),
}

impl<W: Write> Decoder<W> {
    pub(super) fn new(compression: Compression, out: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => Self::Zstd(Box::new(ZstdFrame::new(out)?)),
            Compression::Gzip => Self::Gzip(Box::new(GzDecoder::new(out))),
            Compression::None => Self::None(out),
        })
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Zstd(d) => d.write_all(bytes),
            Self::Gzip(d) => d.write_all(bytes),
            Self::None(out) => out.write_all(bytes),
        }
        .map_err(undecodable)
    }

    pub(super) fn finish(self) -> Result<W> {
        match self {
            Self::Zstd(d) => d.finish(),
            Self::Gzip(d) => d.finish(),
            Self::None(out) => Ok(out),
        }
        .map_err(undecodable)
    }
}

/// Decodes exactly one Zstandard frame. The crate's own writer takes a cut frame for a whole one.
pub(super) struct ZstdFrame<W> {
    decoder: zstd::stream::raw::Decoder<'static>,
    buffer: Vec<u8>,
    is_complete: bool,
    out: W,
}

impl<W: Write> ZstdFrame<W> {
    fn new(out: W) -> io::Result<Self> {
        let mut decoder = zstd::stream::raw::Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Self { decoder, buffer: vec![0; PIECE], is_complete: false, out })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut input = InBuffer::around(bytes);
        let mut may_hold_more = false;
        while input.pos() < bytes.len() || may_hold_more {
            if self.is_complete {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of the frame"));
            }
            let mut output = OutBuffer::around(&mut self.buffer[..]);
            let hint = self.decoder.run(&mut input, &mut output)?;
            let length = output.pos();
            self.out.write_all(&self.buffer[..length])?;
            self.is_complete = hint == 0;
            may_hold_more = length == self.buffer.len() && !self.is_complete;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<W> {
        if self.is_complete {
            Ok(self.out)
        } else {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the frame is cut"))
        }
    }
}

/// An error of ours that passed through the decoder stays what it was; every other one is the data's fault.
fn undecodable(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(e) => Error::new(ErrorKind::Corrupt, "the part does not decompress").caused_by(e),
    }
}
