//! Reads what nobody wrote: the readers of manifests, indexes and records, given mutations of good ones.
//!
//! A few thousand rounds run with the other tests; `CHOM_MUTATIONS=1000000` runs more. The corpus below `corpus/` holds
//! inputs that once were, or could have been, a problem; each of them is tried as it is, and mutated.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    crypt::Opener,
    index::Index,
    layout::{Belongs, belongs},
    *,
};

/// Numbers that look random and are the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*, https://doi.org/10.18637/jss.v008.i14
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

/// What turns one JSON text into another that a reader might fall for.
const PIECES: [&str; 22] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "null",
    "-1",
    "0",
    "18446744073709551615",
    "1e309",
    "99999999999999999999",
    "\\u0000",
    "../",
    "\"a\":1,",
    "\"index\":0,",
    "\n",
    "\"source\":{",
    "\"sealed\":\"\"",
    "[[[[[[[[[[[[[[[[[[[[",
    "\u{feff}",
];

fn mutate(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut text = text.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(text.len() + 1);
        match random.below(7) {
            0 if at < text.len() => text[at] ^= 1 << random.below(8),
            1 => text.truncate(at),
            2 => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
            3 => {
                let end = (at + random.below(40)).min(text.len());
                text.drain(at..end);
            }
            4 => {
                // Something twice: a key, a line, a number.
                let end = (at + random.below(60)).min(text.len());
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy);
            }
            5 => {
                let digits: Vec<_> = (0..text.len()).filter(|i| text[*i].is_ascii_digit()).collect();
                if let Some(i) = digits.get(random.below(digits.len())) {
                    text[*i] = b'0' + u8::try_from(random.below(10)).unwrap();
                }
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                let end = (at + piece.len()).min(text.len());
                text.splice(at..end, piece.bytes());
            }
        }
    }
    text
}

fn rounds() -> u64 {
    std::env::var("CHOM_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000)
}

/// Tries `read` on each of `seeds` and on mutations of them. It says whether it accepted.
fn try_all(what: &str, seeds: &[Vec<u8>], mut read: impl FnMut(&[u8]) -> bool) {
    let mut accepted = 0_u64;
    let mut random = Random(0x5eed);
    let mut attempt = |text: &[u8]| {
        let read = catch_unwind(AssertUnwindSafe(|| read(text)));
        let shown = || format!("{what}: panicked on {:?}", String::from_utf8_lossy(text));
        accepted += u64::from(read.unwrap_or_else(|_| panic!("{}", shown())));
    };
    for seed in seeds {
        attempt(seed);
    }
    for round in 0..rounds() {
        let seed = &seeds[usize::try_from(round).unwrap() % seeds.len()];
        attempt(&mutate(seed, &mut random));
    }
    // Were nothing accepted, the mutations would try nothing but the first check.
    assert!(accepted > 0, "{what}: nothing was accepted");
}

fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog/tests/corpus").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

async fn payload(world: &World, key: &Key) -> Vec<u8> {
    let object = world.object(key).await;
    let start = object.iter().position(|b| *b == b'\n').unwrap() + 1;
    object[start..].to_vec()
}

/// A backup that has everything, in both worlds.
async fn furnished(world: &World) -> BackupInfo {
    let first = world.backup(&["1\tann\n", "2\tbob\n"]).await;
    world.pass(1);
    let reader = BackupReader::open(&world.repository, first.place.clone()).await.unwrap();
    let part = reader.component("database").await.unwrap().parts()[0].clone();
    let mut writer = world.begin().await;
    let component = writer.component(database()).unwrap();
    component.reuse_part(0, first.id(), &part).await.unwrap();
    let notes = [("k".to_owned(), "v".to_owned())].into();
    component.put(1, PartMeta { notes, ..rows(1) }, stream::once("2\tbea\n")).await.unwrap();
    let mut facts = world.facts();
    facts.tags = ["nightly".parse().unwrap()].into();
    facts.notes.insert("k".into(), "v".into());
    facts.warnings.push("w".into());
    facts.baselines.objects.insert("views".into(), 1);
    writer.finish(facts).await.unwrap()
}

/// F61: whatever is signed, a manifest is read as what it says or refused, and leads nowhere but into its repository.
#[tokio::test]
async fn mutated_manifests_are_refused_or_mean_what_they_say() {
    for world in [World::new().await, World::encrypted().await] {
        let info = furnished(&world).await;
        let mut seeds = corpus("manifest");
        seeds.push(payload(&world, &info.place.manifest()).await);
        let opener = Opener::Identities(world.repository.identities().clone());
        let prefix = format!("{}/{}/b/", info.place.host, info.place.system);
        try_all("manifest", &seeds, |text| {
            let Ok(manifest) = Manifest::decode(text, &info.place) else { return false };
            // Read again from what it is written as: nothing was lost, nothing was added.
            let again = Manifest::decode(&manifest.encode().unwrap(), &info.place).unwrap();
            assert_eq!(again, manifest);
            for component in &manifest.components {
                let keys = [info.place.index(&component.name), info.place.part(&component.name, MAX_PART)];
                assert!(keys.iter().all(|k| k.as_str().starts_with(&prefix)));
                assert!(component.sources.iter().all(|s| *s < manifest.id));
            }
            let _ = manifest.private(&opener);
            true
        });
    }
}

#[tokio::test]
async fn mutated_indexes_are_refused_or_mean_what_they_say() {
    for world in [World::new().await, World::encrypted().await] {
        let info = furnished(&world).await;
        let reader = BackupReader::open(&world.repository, info.place.clone()).await.unwrap();
        let record = reader.manifest().components[0].clone();
        let mut seeds = corpus("index");
        seeds.push(world.object(&info.place.index(&record.name)).await.to_vec());
        let opener = Opener::Identities(world.repository.identities().clone());
        let prefix = format!("{}/{}/b/", info.place.host, info.place.system);
        try_all("index", &seeds, |text| {
            let Ok(index) = Index::decode(text, &record) else { return false };
            let stored = index.stored();
            assert_eq!(stored.len() as u64, record.parts);
            assert_eq!(stored.iter().map(|p| p.stored_len).sum::<u64>(), record.stored_len);
            for part in &stored {
                let key = reader::key(&info.place, &record.name, part);
                assert!(key.as_str().starts_with(&prefix));
                assert!(matches!(belongs(&key), Belongs::Backup(place, _) if place.id <= info.id()));
            }
            if let Ok(parts) = index.open(&record, &opener) {
                assert_eq!(parts.iter().map(PartRecord::stored).collect::<Vec<_>>(), stored);
                assert_eq!(parts.iter().map(|p| p.plain_len).sum::<u64>(), record.plain_len);
            }
            true
        });
    }
}

/// Signed objects, damaged anywhere, are never taken for good ones.
#[tokio::test]
async fn mutated_signed_objects_are_refused() {
    let world = World::new().await;
    let info = furnished(&world).await;
    let good = world.object(&info.place.manifest()).await.to_vec();
    let trusted = world.repository.trusted();
    try_all("signed object", std::slice::from_ref(&good), |text| {
        let is_accepted = trusted.open(sign::MANIFEST, &Bytes::copy_from_slice(text)).is_ok();
        assert_eq!(is_accepted, text == good);
        is_accepted
    });
}

/// An age file is decrypted to what was sealed, or not at all: never to a part of it, never in another order.
#[test]
fn mutated_age_files_give_all_or_nothing() {
    let plain = noise(300, 1);
    let opener = Opener::Identities(identities(OPERATOR));
    let sealed = codec::seal(&plain, &recipients(&[OPERATOR, ESCROW])).unwrap();
    let stored = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, sealed).unwrap();
    try_all("age file", &[stored], |bytes| {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        match codec::unseal(&text, &opener, 10_000) {
            Ok(read) => {
                assert_eq!(read, plain);
                true
            }
            Err(_) => false,
        }
    });
}
