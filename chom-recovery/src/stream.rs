//! Byte streams, the form in which all data moves.

use std::pin::Pin;

use bytes::Bytes;
use futures::{Stream, StreamExt};

use crate::error::{Error, ErrorKind, Result};

/// A stream of bytes in pieces of the producer's choice. It has ended well only when the consumer has also found
/// the length, hash or trailer that it expects: the end of a stream proves nothing.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// Makes a stream of one piece.
pub fn once(bytes: impl Into<Bytes>) -> ByteStream {
    let bytes = bytes.into();
    Box::pin(futures::stream::once(async move { Ok(bytes) }))
}

/// Reads a whole stream into memory.
///
/// # Errors
/// `Corrupt` when it holds more than `limit` bytes; the stream's own errors.
pub async fn collect(mut stream: ByteStream, limit: usize) -> Result<Bytes> {
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        if all.len() + piece.len() > limit {
            return Err(Error::new(ErrorKind::Corrupt, format!("more than {limit} bytes where fewer are allowed")));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}
