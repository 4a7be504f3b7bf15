//! Parts as they are stored: compressed, hashed on both sides, checked while they are written and while they are
//! read, in constant memory.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{GzDecoder, GzEncoder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use crate::{
    catalog::id::Hash,
    error::{Error, ErrorKind, Result},
    store::pipe::{Input, Output},
};

/// Most bytes of a part as stored.
pub const PART_LIMIT: u64 = 256 << 20;
/// Bytes handed on at once.
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
}

impl Compression {
    /// Level used when none is asked for.
    pub fn default_level(self) -> i32 {
        match self {
            Self::Zstd => 3,
            Self::Gzip => 6,
        }
    }
}

/// Lengths and hashes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Bytes as stored.
    pub stored_len: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Hash,
    /// Bytes once decompressed.
    pub plain_len: u64,
    /// BLAKE3 of the bytes once decompressed.
    pub blake3: Hash,
}

enum Encoder<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Gzip(GzEncoder<W>),
}

impl<W: Write> Encoder<W> {
    fn new(compression: Compression, level: i32, out: W) -> io::Result<Self> {
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
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(e) => e.write_all(bytes),
            Self::Gzip(e) => e.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Zstd(e) => e.finish(),
            Self::Gzip(e) => e.finish(),
        }
    }
}

enum Decoder<W: Write> {
    Zstd(Box<ZstdFrame<W>>),
    Gzip(Box<GzDecoder<W>>),
}

impl<W: Write> Decoder<W> {
    fn new(compression: Compression, out: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => Self::Zstd(Box::new(ZstdFrame::new(out)?)),
            Compression::Gzip => Self::Gzip(Box::new(GzDecoder::new(out))),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Zstd(d) => d.write_all(bytes),
            Self::Gzip(d) => d.write_all(bytes),
        }
        .map_err(undecodable)
    }

    fn finish(self) -> Result<W> {
        match self {
            Self::Zstd(d) => d.finish(),
            Self::Gzip(d) => d.finish(),
        }
        .map_err(undecodable)
    }
}

/// Decodes exactly one Zstandard frame. The crate's own writer takes a cut frame for a whole one.
struct ZstdFrame<W> {
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

/// Hashes plain bytes, hands them on where somebody wants them, and stops at a limit.
struct Plain<'a> {
    hash: blake3::Hasher,
    length: u64,
    limit: u64,
    out: Option<&'a Output>,
}

impl<'a> Plain<'a> {
    fn new(limit: u64, out: Option<&'a Output>) -> Self {
        Self { hash: blake3::Hasher::new(), length: 0, limit, out }
    }

    fn hash(&self) -> Hash {
        Hash(*self.hash.finalize().as_bytes())
    }
}

impl Write for Plain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > self.limit {
            return Err(Error::new(ErrorKind::Corrupt, "the part holds more than its index says")
                .with("limit", self.limit)
                .into());
        }
        self.hash.update(bytes);
        if let Some(out) = self.out {
            out.send(Bytes::copy_from_slice(bytes))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes stored bytes: hashes them, decodes them again to see that they hold what was put in, and sends them on.
struct Stored<'a> {
    hash: Sha256,
    length: u64,
    pending: Vec<u8>,
    proof: Decoder<Plain<'static>>,
    out: &'a Output,
}

impl<'a> Stored<'a> {
    fn new(compression: Compression, out: &'a Output) -> io::Result<Self> {
        let proof = Decoder::new(compression, Plain::new(u64::MAX, None))?;
        Ok(Self { hash: Sha256::new(), length: 0, pending: Vec::with_capacity(PIECE), proof, out })
    }

    fn send(&mut self) -> Result<()> {
        self.hash.update(&self.pending);
        self.proof.write_all(&self.pending)?;
        self.out.send(Bytes::from(std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE))))
    }

    fn finish(mut self) -> Result<Measure> {
        self.send()?;
        let proof = self.proof.finish()?;
        Ok(Measure {
            stored_len: self.length,
            sha256: Hash(self.hash.finalize().into()),
            plain_len: proof.length,
            blake3: proof.hash(),
        })
    }
}

impl Write for Stored<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.length += bytes.len() as u64;
        if self.length > PART_LIMIT {
            return Err(Error::new(ErrorKind::InvalidInput, "a part would be longer than format 1 allows")
                .with("limit", PART_LIMIT)
                .hint("cut the data into smaller chunks")
                .into());
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses plain bytes. What comes out is decoded again on the way, so that bad memory does not make a backup that
/// nobody can read.
pub(super) fn encode(input: &mut Input, out: &Output, compression: Compression, level: i32) -> Result<Measure> {
    let mut plain = Plain::new(u64::MAX, None);
    let mut encoder = Encoder::new(compression, level, Stored::new(compression, out)?)?;
    while let Some(piece) = input.next()? {
        plain.write_all(&piece)?;
        encoder.write_all(&piece)?;
    }
    let measure = encoder.finish()?.finish()?;
    if measure.plain_len != plain.length || measure.blake3 != plain.hash() {
        return Err(Error::new(ErrorKind::Corrupt, "compressing the part gave bytes that do not decompress to it")
            .hint("suspect the memory of this machine"));
    }
    Ok(measure)
}

/// Passes on bytes that are compressed already, and measures them.
pub(super) fn pass(input: &mut Input, out: &Output, compression: Compression) -> Result<Measure> {
    let mut stored = Stored::new(compression, out)?;
    while let Some(piece) = input.next()? {
        stored.write_all(&piece)?;
    }
    stored.finish()
}

/// What becomes of the plain bytes of a part that is read.
#[derive(Clone, Copy)]
pub(super) enum Reading {
    /// Nothing is decoded: only the stored bytes are checked.
    Stored,
    /// Decoded and checked.
    Plain,
}

/// Reads a part, and fails in the end unless all that was promised of it holds.
pub(super) fn decode(
    input: &mut Input,
    out: Option<&Output>,
    compression: Compression,
    want: &Measure,
    reading: Reading,
) -> Result<()> {
    let mut sha256 = Sha256::new();
    let mut length = 0_u64;
    let mut decoder = match reading {
        Reading::Stored => None,
        Reading::Plain => Some(Decoder::new(compression, Plain::new(want.plain_len, out))?),
    };
    while let Some(piece) = input.next()? {
        length += piece.len() as u64;
        sha256.update(&piece);
        if let Some(decoder) = &mut decoder {
            decoder.write_all(&piece)?;
        }
    }
    if length != want.stored_len {
        return Err(differs("length as stored", want.stored_len, length));
    }
    let found = Hash(sha256.finalize().into());
    if found != want.sha256 {
        return Err(differs("SHA-256 as stored", want.sha256, found));
    }
    let Some(decoder) = decoder else { return Ok(()) };
    let plain = decoder.finish()?;
    if plain.length != want.plain_len {
        return Err(differs("length", want.plain_len, plain.length));
    }
    if plain.hash() != want.blake3 {
        return Err(differs("BLAKE3", want.blake3, plain.hash()));
    }
    Ok(())
}

/// Measures a part that nothing is known of yet.
pub(super) fn measure(input: &mut Input, compression: Compression) -> Result<Measure> {
    let mut sha256 = Sha256::new();
    let mut stored_len = 0_u64;
    let mut decoder = Decoder::new(compression, Plain::new(u64::MAX, None))?;
    while let Some(piece) = input.next()? {
        stored_len += piece.len() as u64;
        sha256.update(&piece);
        decoder.write_all(&piece)?;
    }
    let plain = decoder.finish()?;
    Ok(Measure { stored_len, sha256: Hash(sha256.finalize().into()), plain_len: plain.length, blake3: plain.hash() })
}

/// Hashes plain bytes.
pub(super) fn hash_plain(input: &mut Input) -> Result<(u64, Hash)> {
    let mut plain = Plain::new(u64::MAX, None);
    while let Some(piece) = input.next()? {
        plain.write_all(&piece)?;
    }
    Ok((plain.length, plain.hash()))
}

pub(super) fn sha256(bytes: &[u8]) -> Hash {
    Hash(Sha256::digest(bytes).into())
}

fn differs(what: &str, want: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the {what} of the part differs from its index"))
        .with("recorded", want)
        .with("found", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store::pipe, stream, stream::ByteStream};

    fn compress(compression: Compression, plain: &[u8]) -> Bytes {
        let mut encoder = Encoder::new(compression, compression.default_level(), Vec::new()).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    fn cut(all: &Bytes) -> ByteStream {
        let pieces: Vec<Result<Bytes>> = all.chunks(5).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        Box::pin(futures::stream::iter(pieces))
    }

    async fn try_measure(compression: Compression, stored: &Bytes) -> Result<Measure> {
        pipe::consume(cut(stored), move |input| measure(input, compression)).await
    }

    #[tokio::test]
    async fn a_cut_a_tail_and_another_format_are_never_whole_parts() {
        for (compression, other) in [(Compression::Zstd, Compression::Gzip), (Compression::Gzip, Compression::Zstd)] {
            let stored = compress(compression, b"1\tann\n2\tbob\n");
            assert_eq!(try_measure(compression, &stored).await.unwrap().plain_len, 12);
            for length in 0..stored.len() {
                let result = try_measure(compression, &stored.slice(..length)).await;
                assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt, "{compression:?} cut at {length}");
            }
            let longer = Bytes::from([&stored[..], b"x"].concat());
            assert_eq!(try_measure(compression, &longer).await.unwrap_err().kind(), ErrorKind::Corrupt);
            let twice = Bytes::from([&stored[..], &stored[..]].concat());
            assert_eq!(try_measure(compression, &twice).await.unwrap_err().kind(), ErrorKind::Corrupt);
            assert_eq!(try_measure(other, &stored).await.unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    /// A few kilobytes that would become 64 MiB.
    #[tokio::test]
    async fn a_bomb_gives_no_more_than_was_promised() {
        for compression in [Compression::Zstd, Compression::Gzip] {
            let bomb = compress(compression, &vec![0; 64 << 20]);
            let want = Measure { plain_len: 300_000, ..try_measure(compression, &bomb).await.unwrap() };
            let (plain, _) = pipe::transform(cut(&bomb), move |input, out| {
                decode(input, Some(out), compression, &want, Reading::Plain)
            });
            let mut given = 0;
            let result = futures::TryStreamExt::try_for_each(plain, |piece| {
                given += piece.len();
                std::future::ready(Ok(()))
            });
            assert_eq!(result.await.unwrap_err().kind(), ErrorKind::Corrupt);
            assert!(given <= 300_000, "{given}");
        }
    }

    #[tokio::test]
    async fn a_frame_that_wants_much_memory_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&vec![7; 1 << 20]).unwrap();
        let stored = Bytes::from(encoder.finish().unwrap());
        assert_eq!(try_measure(Compression::Zstd, &stored).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn what_is_encoded_is_measured_as_the_standard_tools_do() {
        let plain = Bytes::from_static(b"one part");
        let (stored, measure) = pipe::transform(cut(&plain), |input, out| encode(input, out, Compression::Zstd, 3));
        let stored = stream::collect(stored, 1000).await.unwrap();
        let measure = measure.await.unwrap();
        assert_eq!(zstd::decode_all(&stored[..]).unwrap(), plain);
        assert_eq!(measure.sha256, sha256(&stored));
        assert_eq!(measure.blake3.to_string(), blake3::hash(&plain).to_hex().to_string());
        assert_eq!((measure.stored_len, measure.plain_len), (stored.len() as u64, 8));
    }
}
