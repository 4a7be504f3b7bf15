//! What is cut, moved, too long or changed on the way.

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
    pipe::consume(cut(stored), move |input| measure(input, compression, None)).await
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
        let (plain, _) =
            pipe::transform(cut(&bomb), move |input, out| decode(input, Some(out), compression, None, &want));
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
    let (stored, measure) =
        pipe::transform(cut(&plain), |input, out| encode(input, out, Compression::Zstd, Some(3), None));
    let stored = stream::collect(stored, 1000).await.unwrap();
    let measure = measure.await.unwrap();
    assert_eq!(zstd::decode_all(&stored[..]).unwrap(), plain);
    assert_eq!(measure.sha256, sha256(&stored));
    assert_eq!(measure.blake3.to_string(), blake3::hash(&plain).to_hex().to_string());
    assert_eq!((measure.stored_len, measure.plain_len), (stored.len() as u64, 8));
}

fn sealed(plain: &[u8]) -> (Vec<u8>, Opener) {
    let pair = ["operator", "escrow"].map(|_| age::x25519::Identity::generate());
    let recipients = Recipients::new(pair.iter().map(|i| i.to_public().to_string().parse().unwrap())).unwrap();
    let (encryptor, _) = crypt::lock(&recipients).unwrap();
    let mut writer = encryptor.wrap_output(Vec::new()).unwrap();
    writer.write_all(plain).unwrap();
    let text = age::secrecy::ExposeSecret::expose_secret(&pair[0].to_string()).to_owned();
    let identities = crypt::Identities::parse(&crate::secret::Secret::new(text)).unwrap();
    (writer.finish().unwrap(), Opener::Identities(identities))
}

/// The stream of age itself, without the hash over it: a cut, another order, a piece too many.
#[tokio::test]
async fn an_age_file_that_lost_or_moved_a_piece_is_never_whole() {
    const CHUNK: usize = (64 << 10) + 16;
    let plain: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (stored, opener) = sealed(&plain);
    // A header and a nonce, then chunks; the last one is shorter.
    let body = stored.len() - (3 * CHUNK + (200_000 - 3 * (64 << 10)) + 16);
    let chunk = |i: usize| body + i * CHUNK..(body + (i + 1) * CHUNK).min(stored.len());
    let read = |bytes: Vec<u8>, opener: &Opener| {
        let opener = opener.clone();
        let body = cut_at(&bytes.into(), 50_000);
        pipe::consume(body, move |input| measure(input, Compression::None, Some(&opener)))
    };
    let whole = read(stored.clone(), &opener).await.unwrap();
    assert_eq!((whole.plain_len, whole.stored_len), (200_000, stored.len() as u64));
    let mut swapped = stored.clone();
    swapped[chunk(0)].copy_from_slice(&stored[chunk(1)]);
    swapped[chunk(1)].copy_from_slice(&stored[chunk(0)]);
    let mut damaged: Vec<_> = (0..=3).map(|i| stored[..chunk(i).start].to_vec()).collect();
    damaged.extend((0..3).map(|i| stored[..chunk(i).end - 1].to_vec()));
    damaged.push(swapped);
    damaged.push([&stored[..chunk(1).start], &stored[chunk(2).start..]].concat());
    damaged.push([&stored[..chunk(1).end], &stored[chunk(1).start..]].concat());
    damaged.push([&stored[..], &b"x"[..]].concat());
    damaged.push([&stored[..], &stored[chunk(3)]].concat());
    damaged.push([&stored[..], &stored[..]].concat());
    damaged.push(Vec::new());
    for (number, bytes) in damaged.into_iter().enumerate() {
        let error = read(bytes, &opener).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{number}: {error}");
    }
    let (_, other) = sealed(b"");
    assert_eq!(read(stored, &other).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

fn cut_at(all: &Bytes, size: usize) -> ByteStream {
    let pieces: Vec<Result<Bytes>> = all.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Box::pin(futures::stream::iter(pieces))
}

/// A header of a hundred megabytes would be parsed before anything is verified.
#[tokio::test]
async fn a_header_without_end_is_refused_early() {
    let (_, opener) = sealed(b"");
    let line = Bytes::from("-> X25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAAA\n".repeat(1000));
    let pulled = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = pulled.clone();
    let begin = futures::stream::once(async { Ok(Bytes::from_static(b"age-encryption.org/v1\n")) });
    let rest = futures::stream::repeat_with(move || {
        counter.fetch_add(line.len(), std::sync::atomic::Ordering::SeqCst);
        Ok(line.clone())
    });
    let rest = futures::StreamExt::take(rest, 2_000);
    let body: ByteStream = Box::pin(futures::StreamExt::chain(begin, rest));
    let result = pipe::consume(body, move |input| measure(input, Compression::Zstd, Some(&opener))).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(pulled.load(std::sync::atomic::Ordering::SeqCst) < 1 << 20);
}

/// F24: memory that fails between compressing and storing. The proof reads what goes to the store.
#[test]
fn what_is_sealed_and_changed_in_memory_is_noticed_by_the_proof() {
    let recipients = [1, 2].map(|_| age::x25519::Identity::generate().to_public().to_string().parse().unwrap());
    let (encryptor, witness) = crypt::lock(&Recipients::new(recipients).unwrap()).unwrap();
    let mut encoder = Encoder::new(Compression::Zstd, 3, encryptor.wrap_output(Vec::new()).unwrap()).unwrap();
    encoder.write_all(b"one part").unwrap();
    let stored = encoder.finish().unwrap().finish().unwrap();
    let prove = |bytes: &[u8]| unpack(bytes, Compression::Zstd, Some(&witness), Plain::new(u64::MAX, None));
    assert_eq!(prove(&stored).unwrap().length, 8);
    for at in 0..stored.len() {
        let mut changed = stored.clone();
        changed[at] ^= 1;
        assert!(prove(&changed).is_err(), "byte {at} of {}", stored.len());
    }
}

/// Memory in which one bit of what the encoder writes falls over.
struct BadMemory<W> {
    written: usize,
    flip: usize,
    out: W,
}

impl<W: Write> Write for BadMemory<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = self.flip.checked_sub(self.written).and_then(|at| bytes.get_mut(at)) {
            *byte ^= 1 << (self.flip % 8);
        }
        self.out.write_all(&bytes)?;
        self.written += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// F24: what memory did to a part before it is stored is noticed before it is stored.
#[tokio::test]
async fn a_bit_that_falls_over_while_a_part_is_made_stops_the_part() {
    let plain = Bytes::from((0..200).flat_map(|i| format!("{i}\tann\n").into_bytes()).collect::<Vec<_>>());
    for compression in [Compression::Zstd, Compression::Gzip] {
        let length = compress(compression, &plain).len();
        let mut noticed = 0;
        for flip in 0..length {
            let (stored, measure) = pipe::transform(cut(&plain), move |input, out| {
                let memory = |out| BadMemory { written: 0, flip, out };
                let how = (compression, Some(compression.default_level()), None);
                encode_through(input, out, how, memory, |memory| memory.out.finish())
            });
            match stream::collect(stored, 1 << 20).await {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{compression:?} at {flip}: {error}");
                    assert!(measure.await.is_err(), "{compression:?} at {flip}: a part was recorded");
                    noticed += 1;
                }
                // A bit that says nothing of the content, as those of gzip's time: the part is as good.
                Ok(stored) => {
                    let measure = measure.await.unwrap();
                    assert_eq!(try_measure(compression, &stored).await.unwrap(), measure);
                    assert_eq!(measure.blake3.to_string(), blake3::hash(&plain).to_hex().to_string());
                }
            }
        }
        assert!(noticed * 10 >= length * 9, "{compression:?}: {noticed} of {length}");
    }
}
