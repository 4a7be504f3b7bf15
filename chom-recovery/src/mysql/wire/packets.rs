//! Packets on a TCP connection.

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::error::{Error, ErrorKind, Result};

use super::unexpected;

/// Three bytes of length, one of the packet's number.
const HEADER: usize = 4;
/// A packet of this length goes on in the next one.
const LONGEST: usize = 0xff_ffff;
/// What is received at once, in bytes: enough that a call of the kernel costs little beside the rows.
const RECEIVED: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Packets {
    stream: TcpStream,
    received: BytesMut,
    /// Number of the next packet, of either side.
    number: u8,
}

impl Packets {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, received: BytesMut::with_capacity(RECEIVED), number: 0 }
    }

    /// Begins a new exchange with a packet.
    pub(super) async fn command(&mut self, payload: &[u8]) -> Result<()> {
        self.number = 0;
        self.send(payload).await
    }

    /// Sends a packet, as the next of the exchange.
    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<()> {
        let mut out = Vec::with_capacity(payload.len() + HEADER);
        let mut left = payload;
        loop {
            let (piece, rest) = left.split_at(left.len().min(LONGEST));
            let length = u32::try_from(piece.len()).unwrap_or_default().to_le_bytes();
            out.extend_from_slice(&[length[0], length[1], length[2], self.number]);
            out.extend_from_slice(piece);
            self.number = self.number.wrapping_add(1);
            left = rest;
            if piece.len() < LONGEST {
                break;
            }
        }
        self.stream.write_all(&out).await.map_err(lost)
    }

    /// Takes the next packet if it was received already, and is no part of a longer one.
    pub(super) fn buffered(&mut self) -> Option<Result<Bytes>> {
        let length = self.length()?;
        (length < LONGEST && self.received.len() >= HEADER + length).then(|| self.take(length))
    }

    /// Receives the next packet.
    pub(super) async fn next(&mut self) -> Result<Bytes> {
        let first = self.piece().await?;
        if first.len() < LONGEST {
            return Ok(first);
        }
        let mut whole = BytesMut::from(first);
        loop {
            let piece = self.piece().await?;
            whole.extend_from_slice(&piece);
            if piece.len() < LONGEST {
                return Ok(whole.freeze());
            }
        }
    }

    async fn piece(&mut self) -> Result<Bytes> {
        loop {
            let wanted = match self.length() {
                Some(length) if self.received.len() >= HEADER + length => return self.take(length),
                Some(length) => HEADER + length - self.received.len(),
                None => HEADER,
            };
            self.received.reserve(wanted.max(RECEIVED));
            if self.stream.read_buf(&mut self.received).await.map_err(lost)? == 0 {
                return Err(Error::new(ErrorKind::Unreachable, "the database server closed the connection"));
            }
        }
    }

    /// Length of the next packet, once its header was received.
    fn length(&self) -> Option<usize> {
        let header = self.received.first_chunk::<HEADER>()?;
        Some(usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16)
    }

    fn take(&mut self, length: usize) -> Result<Bytes> {
        if self.received[3] != self.number {
            return Err(unexpected("packets out of order"));
        }
        self.number = self.number.wrapping_add(1);
        self.received.advance(HEADER);
        Ok(self.received.split_to(length).freeze())
    }
}

fn lost(error: std::io::Error) -> Error {
    let error = Error::from(error);
    let error = if error.kind() == ErrorKind::Failed { error.of_kind(ErrorKind::Unreachable) } else { error };
    error.during("connection to the database server")
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Packets, Packets) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (here, there) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Packets::new(here.unwrap()), Packets::new(there.unwrap().0))
    }

    #[tokio::test]
    async fn packets_of_every_length_arrive_whole_and_in_order() {
        let (mut here, mut there) = pair().await;
        let lengths = [0, 1, 250, 70_000, LONGEST - 1, LONGEST, LONGEST + 1, 2 * LONGEST, 3];
        let sending = tokio::spawn(async move {
            for (nth, length) in lengths.into_iter().enumerate() {
                here.send(&vec![u8::try_from(nth).unwrap(); length]).await.unwrap();
            }
        });
        for (nth, length) in lengths.into_iter().enumerate() {
            let packet = there.next().await.unwrap();
            assert_eq!(packet.len(), length);
            assert!(packet.iter().all(|b| usize::from(*b) == nth));
        }
        sending.await.unwrap();
        assert_eq!(there.next().await.unwrap_err().kind(), ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_packet_out_of_order_is_no_row() {
        let (mut here, mut there) = pair().await;
        here.number = 3;
        here.send(b"x").await.unwrap();
        assert_eq!(there.next().await.unwrap_err().kind(), ErrorKind::Failed);
    }
}
