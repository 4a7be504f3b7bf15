//! Archives that chance made. `CHOM_FUZZ_SECONDS` makes the run longer; the seed of a failure is printed.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;

/// Headers worth mutating: one of everything, and ours and foreign ways to write them.
fn seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    one_of_everything(folder.path());
    let mut seeds: Vec<Vec<u8>> = pack_tree(folder.path()).into_iter().map(|(_, tar)| tar).collect();
    for format in ["gnu", "pax", "ustar", "v7"] {
        let output = std::process::Command::new("tar")
            .args([
                &format!("--format={format}"),
                "--exclude=nnn*",
                "--exclude=sparse",
                "--exclude=all-hole",
                "-cf",
                "-",
                "-C",
            ])
            .arg(folder.path())
            .arg(".")
            .output()
            .unwrap();
        seeds.push(output.stdout);
    }
    seeds
}

fn mutate(random: &mut StdRng, tar: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    for _ in 0..random.random_range(1..8) {
        if tar.len() < 512 {
            return;
        }
        let at = random.random_range(0..tar.len());
        match random.random_range(0..7) {
            0 => tar[at] ^= 1 << random.random_range(0..8),
            1 => tar[at] = random.random(),
            2 => tar.truncate(at),
            3 => {
                let block = at / 512 * 512;
                let other: Vec<u8> = seeds
                    .choose(random)
                    .unwrap()
                    .chunks(512)
                    .nth(random.random_range(0..4))
                    .unwrap_or(&[0; 512])
                    .to_vec();
                tar.splice(block..block, other);
            }
            4 => _ = tar.drain(at..(at + random.random_range(1..1024)).min(tar.len())),
            5 => {
                let digits =
                    [&b"../"[..], b"/", b"\0", b"99999999999", b"7777777", b"18446744073709551615", b"-1", b"x"];
                let word = *digits.choose(random).unwrap();
                let end = (at + word.len()).min(tar.len());
                tar[at..end].copy_from_slice(&word[..end - at]);
            }
            _ => {
                let types = *b"0123456789xgLKSDMNVAX\0";
                let block = at / 512 * 512;
                if block + 512 <= tar.len() {
                    tar[block + 156] = *types.choose(random).unwrap();
                }
            }
        }
        // Else nearly everything would end at a checksum.
        let block = at / 512 * 512;
        if random.random_bool(0.9) && block + 512 <= tar.len() && tar[block + 257..].starts_with(b"ustar") {
            let header: &mut [u8; 512] = (&mut tar[block..block + 512]).try_into().unwrap();
            let sum = super::super::tar::checksum(header);
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn whatever_comes_is_read_or_refused_and_stays_inside() {
    let seconds = std::env::var("CHOM_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let seed = std::env::var("CHOM_FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("CHOM_FUZZ_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let seeds = seeds();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    let (begun, mut read, mut refused) = (Instant::now(), 0_u64, 0_u64);
    while begun.elapsed() < Duration::from_secs(seconds) || read == 0 || refused == 0 {
        let mut tar = seeds.choose(&mut random).unwrap().clone();
        tar.truncate(64 << 10);
        mutate(&mut random, &mut tar, &seeds);
        for dialect in [Dialect::Ours, Dialect::Foreign] {
            let limits = Limits { entries: 1000, bytes: 1 << 20 };
            let pieces: Vec<Bytes> = tar.chunks(random.random_range(1..2000)).map(Bytes::copy_from_slice).collect();
            let mut reader = TarReader::new(pieces.into_iter(), dialect, limits);
            let (mut entries, mut bytes) = (0, 0);
            loop {
                match reader.next_entry() {
                    Ok(Some(entry)) => {
                        entries += 1;
                        bytes += match entry.kind {
                            Kind::File { size, .. } => size,
                            _ => 0,
                        };
                        assert!(entries <= limits.entries && bytes <= limits.bytes);
                        let mut again = Vec::new();
                        write_header(&entry, &mut again);
                        let mut rewritten =
                            TarReader::new(std::iter::once(Bytes::from(again)), Dialect::Ours, Limits::NONE);
                        assert_eq!(
                            rewritten.next_entry().unwrap().as_ref(),
                            Some(&entry),
                            "what is read can be written"
                        );
                    }
                    Ok(None) => break read += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                        break refused += 1;
                    }
                }
            }
        }
        let target = outside.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let unpacker = Unpacker::new(Root::open(&target).unwrap(), Policy { own_everything: true, keep_setid: false });
        let limits = Limits { entries: 1000, bytes: 1 << 20 };
        let again = || TarReader::new(std::iter::once(Bytes::from(tar.clone())), Dialect::Ours, limits);
        let _ = unpacker.make_folders(&mut again());
        let _ = unpacker.put_files(&mut again());
        let _ = unpacker.put_hard_links(&mut again());
        let _ = unpacker.put_symlinks(&mut again());
        std::fs::remove_dir_all(&target).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }
    assert_eq!(std::fs::read_to_string(outside.path().join("victim")).unwrap(), "untouched");
}
