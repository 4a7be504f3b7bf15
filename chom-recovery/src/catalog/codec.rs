//! Parts as they are stored: compressed, sealed, hashed on both sides, checked while they are written and while they
//! are read, in constant memory.

use std::{
    io::{self, Read, Write},
    sync::mpsc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    catalog::{
        compress::{Compression, Decoder, Encoder},
        crypt::{self, Opener, Recipients, undecryptable},
        id::Hash,
    },
    error::{Error, ErrorKind, Result},
    store::pipe::{Input, Output},
};

/// Most bytes of a part as stored.
pub const PART_LIMIT: u64 = 256 << 20;
/// Bytes handed on at once.
const PIECE: usize = 128 << 10;
/// Pieces that may wait for their proof.
const QUEUE: usize = 4;

/// Lengths and hashes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Bytes as stored.
    pub stored_len: u64,
    /// SHA-256 of the bytes as stored.
    pub sha256: Hash,
    /// Bytes once decrypted and decompressed.
    pub plain_len: u64,
    /// BLAKE3 of the bytes once decrypted and decompressed.
    pub blake3: Hash,
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

/// The way of stored bytes to the proof: only [`Piece::End`] is an end, so that a writer that failed proves nothing.
enum Piece {
    Data(Bytes),
    End,
}

/// Takes stored bytes: hashes them and sends them on, to the store and to the proof.
struct Stored<'a> {
    hash: Sha256,
    length: u64,
    pending: Vec<u8>,
    proof: mpsc::SyncSender<Piece>,
    out: &'a Output,
}

impl<'a> Stored<'a> {
    fn new(proof: mpsc::SyncSender<Piece>, out: &'a Output) -> Self {
        Self { hash: Sha256::new(), length: 0, pending: Vec::with_capacity(PIECE), proof, out }
    }

    fn send(&mut self) -> Result<()> {
        self.hash.update(&self.pending);
        let piece = Bytes::from(std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE)));
        self.prove(Piece::Data(piece.clone()))?;
        self.out.send(piece)
    }

    fn prove(&self, piece: Piece) -> Result<()> {
        self.proof.send(piece).map_err(|_| Error::new(ErrorKind::Cancelled, "the proof of a part ended early"))
    }

    fn finish(mut self) -> Result<(u64, Hash)> {
        self.send()?;
        self.prove(Piece::End)?;
        Ok((self.length, Hash(self.hash.finalize().into())))
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

/// Seals what is written to it, where there is anybody to seal it for.
enum Sealer<W: Write> {
    Open(W),
    Age(age::stream::StreamWriter<W>),
}

impl<W: Write> Sealer<W> {
    fn new(encryptor: Option<age::Encryptor>, out: W) -> io::Result<Self> {
        Ok(match encryptor {
            None => Self::Open(out),
            Some(encryptor) => Self::Age(encryptor.wrap_output(out)?),
        })
    }

    /// Without this an age file has no end, and nobody opens it.
    fn finish(self) -> io::Result<W> {
        match self {
            Self::Open(out) => Ok(out),
            Self::Age(writer) => writer.finish(),
        }
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Open(out) => out.write(bytes),
            Self::Age(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Open(out) => out.flush(),
            Self::Age(writer) => writer.flush(),
        }
    }
}

/// Reads a queue of pieces, or any other source of them.
struct Pieces<F> {
    next: F,
    rest: Bytes,
    /// Said once; whoever reads may ask again.
    is_over: bool,
}

impl<F: FnMut() -> Result<Option<Bytes>>> Pieces<F> {
    fn new(next: F) -> Self {
        Self { next, rest: Bytes::new(), is_over: false }
    }
}

impl<F: FnMut() -> Result<Option<Bytes>>> Read for Pieces<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.is_over {
            match (self.next)()? {
                Some(piece) => self.rest = piece,
                None => self.is_over = true,
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Undoes everything that was done to plain bytes.
fn unpack<W: Write>(input: impl Read, compression: Compression, opener: Option<&Opener>, out: W) -> Result<W> {
    fn pump<W: Write>(mut input: impl Read, mut decoder: Decoder<W>) -> Result<W> {
        let mut buffer = vec![0; PIECE];
        loop {
            match input.read(&mut buffer).map_err(undecryptable)? {
                0 => return decoder.finish(),
                length => decoder.write_all(&buffer[..length])?,
            }
        }
    }
    let decoder = Decoder::new(compression, out)?;
    match opener {
        None => pump(input, decoder),
        Some(opener) => pump(crypt::open(input, opener)?, decoder),
    }
}

/// Stores bytes as one part, and proves on the way that what is stored gives them back: all of it is decrypted and
/// decompressed again, so that bad memory does not make a backup that nobody can read.
///
/// `level` is that of the compression; `None`: the bytes are compressed already.
pub(super) fn encode(
    input: &mut Input,
    out: &Output,
    compression: Compression,
    level: Option<i32>,
    recipients: Option<&Recipients>,
) -> Result<Measure> {
    encode_through(input, out, (compression, level, recipients), |stored| stored, Stored::finish)
}

/// Does that, with something between the last stage and what is stored: memory that fails, in a test.
fn encode_through<'a, W: Write>(
    input: &mut Input,
    out: &'a Output,
    (compression, level, recipients): (Compression, Option<i32>, Option<&Recipients>),
    between: impl FnOnce(Stored<'a>) -> W,
    finish: impl FnOnce(W) -> Result<(u64, Hash)>,
) -> Result<Measure> {
    let (encryptor, opener) = recipients.map(crypt::lock).transpose()?.unzip();
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    let next = move || match receiver.recv() {
        Ok(Piece::Data(piece)) => Ok(Some(piece)),
        Ok(Piece::End) => Ok(None),
        Err(_) => Err(Error::new(ErrorKind::Cancelled, "the writer of a part ended early")),
    };
    std::thread::scope(|scope| {
        let proof = scope.spawn(move || {
            let plain = unpack(Pieces::new(next), compression, opener.as_ref(), Plain::new(u64::MAX, None))?;
            Ok((plain.length, plain.hash()))
        });
        let sealer = Sealer::new(encryptor, between(Stored::new(sender, out)));
        let written = write(input, sealer, compression, level, finish);
        let proven =
            proof.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Failed, "the proof of a part panicked")));
        let (proven, (given, stored_len, sha256)) = match (proven, written) {
            // Each side ends when the other one does; the first one to fail knows why.
            (Err(e), _) if e.kind() != ErrorKind::Cancelled => return Err(e),
            (_, Err(e)) | (Err(e), _) => return Err(e),
            (Ok(proven), Ok(written)) => (proven, written),
        };
        if given.is_some_and(|given| given != proven) {
            return Err(Error::new(ErrorKind::Corrupt, "storing the part gave bytes that do not decode to it")
                .hint("suspect the memory of this machine"));
        }
        Ok(Measure { stored_len, sha256, plain_len: proven.0, blake3: proven.1 })
    })
}

/// Returns what was put in, where that is known, and what came out.
type Written = (Option<(u64, Hash)>, u64, Hash);

fn write<W: Write>(
    input: &mut Input,
    sealer: io::Result<Sealer<W>>,
    compression: Compression,
    level: Option<i32>,
    finish: impl FnOnce(W) -> Result<(u64, Hash)>,
) -> Result<Written> {
    let mut sealer = sealer?;
    let mut given = None;
    if let Some(level) = level {
        let mut plain = Plain::new(u64::MAX, None);
        let mut encoder = Encoder::new(compression, level, sealer)?;
        while let Some(piece) = input.next()? {
            plain.write_all(&piece)?;
            encoder.write_all(&piece)?;
        }
        sealer = encoder.finish()?;
        given = Some((plain.length, plain.hash()));
    } else {
        while let Some(piece) = input.next()? {
            sealer.write_all(&piece)?;
        }
    }
    let (length, hash) = finish(sealer.finish()?)?;
    Ok((given, length, hash))
}

/// Checks bytes as they are stored, and hands them on where somebody wants them.
pub(super) fn check(input: &mut Input, out: Option<&Output>, want_len: u64, want: Hash) -> Result<()> {
    let mut sha256 = Sha256::new();
    let mut length = 0;
    while let Some(piece) = input.next()? {
        length += piece.len() as u64;
        sha256.update(&piece);
        if let Some(out) = out {
            out.send(piece)?;
        }
    }
    check_stored((want_len, want), (length, Hash(sha256.finalize().into())))
}

fn check_stored(want: (u64, Hash), found: (u64, Hash)) -> Result<()> {
    if found.0 != want.0 {
        return Err(differs("length as stored", want.0, found.0));
    }
    if found.1 != want.1 {
        return Err(differs("SHA-256 as stored", want.1, found.1));
    }
    Ok(())
}

/// Reads a part, and fails in the end unless all that was promised of it holds.
pub(super) fn decode(
    input: &mut Input,
    out: Option<&Output>,
    compression: Compression,
    opener: Option<&Opener>,
    want: &Measure,
) -> Result<()> {
    let (plain, stored) = unpack_measured(input, compression, opener, Plain::new(want.plain_len, out))?;
    check_stored((want.stored_len, want.sha256), stored)?;
    if plain.length != want.plain_len {
        return Err(differs("length", want.plain_len, plain.length));
    }
    if plain.hash() != want.blake3 {
        return Err(differs("BLAKE3", want.blake3, plain.hash()));
    }
    Ok(())
}

/// Measures a part that nothing is known of yet.
pub(super) fn measure(input: &mut Input, compression: Compression, opener: Option<&Opener>) -> Result<Measure> {
    let (plain, (stored_len, sha256)) = unpack_measured(input, compression, opener, Plain::new(u64::MAX, None))?;
    Ok(Measure { stored_len, sha256, plain_len: plain.length, blake3: plain.hash() })
}

fn unpack_measured<W: Write>(
    input: &mut Input,
    compression: Compression,
    opener: Option<&Opener>,
    out: W,
) -> Result<(W, (u64, Hash))> {
    let mut sha256 = Sha256::new();
    let mut length = 0;
    let stored = Pieces::new(|| {
        let piece = input.next()?;
        if let Some(piece) = &piece {
            length += piece.len() as u64;
            sha256.update(piece);
        }
        Ok(piece)
    });
    let out = unpack(stored, compression, opener, out)?;
    Ok((out, (length, Hash(sha256.finalize().into()))))
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

/// Seals a text for the recipients, as base64 of an age file of one Zstandard frame, and opens it again as a proof.
pub(super) fn seal(plain: &[u8], recipients: &Recipients) -> Result<String> {
    let (encryptor, opener) = crypt::lock(recipients)?;
    let mut encoder =
        Encoder::new(Compression::Zstd, Compression::Zstd.default_level(), encryptor.wrap_output(Vec::new())?)?;
    encoder.write_all(plain)?;
    let sealed = STANDARD.encode(encoder.finish()?.finish()?);
    if unseal(&sealed, &opener, plain.len() as u64)? == plain {
        Ok(sealed)
    } else {
        Err(Error::new(ErrorKind::Corrupt, "sealing a text gave bytes that do not decode to it")
            .hint("suspect the memory of this machine"))
    }
}

/// Opens what [`seal`] made; more than `limit` plain bytes are refused.
pub(super) fn unseal(sealed: &str, opener: &Opener, limit: u64) -> Result<Vec<u8>> {
    let bad = |e: base64::DecodeError| Error::new(ErrorKind::Corrupt, "it is not base64").caused_by(e);
    let stored = STANDARD.decode(sealed).map_err(bad)?;
    let capped = unpack(&stored[..], Compression::Zstd, Some(opener), Capped { all: Vec::new(), limit })?;
    Ok(capped.all)
}

/// Keeps what is written to it, up to a limit.
struct Capped {
    all: Vec<u8>,
    limit: u64,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.all.len() + bytes.len()) as u64 > self.limit {
            return Err(Error::new(ErrorKind::Corrupt, "it holds more than its format allows").into());
        }
        self.all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn differs(what: &str, want: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the {what} of the part differs from its index"))
        .with("recorded", want)
        .with("found", found)
}

#[cfg(test)]
mod tests;
