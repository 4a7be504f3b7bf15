//! Archives that the suite writes and reads back.

use bytes::Bytes;
use futures::stream;

use super::Fixture;
use crate::{
    backend::Place,
    stream::{ByteStream, collect},
};

/// An entry of an archive, as far as it has to survive.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) kind: u8,
    pub(super) mode: u32,
    pub(super) owner: (u64, u64),
    pub(super) link: Option<String>,
    pub(super) content: Vec<u8>,
}

pub(super) fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut found: Vec<Entry> = tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            let clean =
                |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_start_matches("./").trim_end_matches('/').to_owned();
            let kind = entry.header().entry_type();
            let link = entry.link_name_bytes().filter(|_| kind.is_symlink() || kind.is_hard_link());
            // Which of two names of one file is the link is the archiver's choice, and its mode is the file's.
            let is_second = kind.is_hard_link();
            Entry {
                path: clean(&entry.path_bytes()),
                kind: kind.as_byte(),
                mode: if is_second || kind.is_symlink() { 0 } else { entry.header().mode().unwrap() & 0o7777 },
                owner: if is_second { (0, 0) } else { (entry.header().uid().unwrap(), entry.header().gid().unwrap()) },
                link: link.map(|bytes| clean(&bytes)),
                content,
            }
        })
        .collect();
    // Of the two names of the one file, either may hold the content.
    let twins = found.iter().filter(|e| e.path.ends_with("twin-a") || e.path.ends_with("twin-b")).count();
    assert!(twins == 0 || twins == 2);
    if twins == 2 {
        assert_eq!(found.iter().filter(|e| e.kind == b'1').count(), 1, "the second name is a link to the first");
        found.retain(|e| !e.path.contains("twin-") || e.kind != b'1');
        for entry in found.iter_mut().filter(|e| e.path.contains("twin-")) {
            entry.path = "folder/twin".into();
        }
        found.push(Entry {
            path: "folder/twin".into(),
            kind: b'1',
            mode: 0,
            owner: (0, 0),
            link: None,
            content: vec![],
        });
    }
    found.sort();
    found
}

/// Folders, files, both kinds of links, odd owners and modes, a name longer than a header holds, and `bulk` bytes.
pub(super) fn sample_archive(bulk: usize) -> Vec<u8> {
    // Without root no other owner can be given; the implementation then keeps its own.
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_uid(999);
        header.set_gid(998);
        header.set_mtime(1_700_000_000);
        header
    };
    let folder = |builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32| {
        builder.append_data(&mut header(tar::EntryType::Directory, mode, 0), path, &[][..]).unwrap();
    };
    let file = |builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]| {
        builder.append_data(&mut header(tar::EntryType::Regular, mode, content.len()), path, content).unwrap();
    };
    folder(&mut builder, "./", 0o750);
    folder(&mut builder, "./folder/", 0o2771);
    file(&mut builder, "./folder/plain", 0o640, b"plain");
    file(&mut builder, "./folder/empty", 0o604, b"");
    file(&mut builder, "./folder/suid", 0o4755, b"suid");
    file(&mut builder, &format!("./{}", "long-".repeat(45)), 0o600, b"long name");
    file(&mut builder, "./n\u{e4}me with \u{1f600}", 0o600, b"name");
    file(&mut builder, "./bulk", 0o600, &pattern(bulk));
    file(&mut builder, "./folder/twin-a", 0o600, b"one file, two names");
    builder.append_link(&mut header(tar::EntryType::Link, 0o600, 0), "./folder/twin-b", "./folder/twin-a").unwrap();
    builder.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), "./link", "folder/plain").unwrap();
    builder.into_inner().unwrap()
}

pub(super) async fn put_file(f: &Fixture<'_>, volume: &str, name: &str, content: &[u8]) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    builder.append_data(&mut header, name, content).unwrap();
    let tar = builder.into_inner().unwrap();
    f.backend.write_archive(&Place::Volume(volume.into()), "", in_pieces(&tar)).await.unwrap();
}

pub(super) async fn get_file(f: &Fixture<'_>, volume: &str, name: &str) -> Vec<u8> {
    let tar = f.backend.read_archive(&Place::Volume(volume.into()), name).await.unwrap();
    entries(&collect(tar, 1 << 20).await.unwrap()).remove(0).content
}

/// Bytes without a period that a lost or doubled piece could hide behind.
pub(super) fn pattern(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..size)
        .map(|_| {
            // xorshift32, Marsaglia 2003.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .collect()
}

pub(super) fn in_pieces(bytes: &[u8]) -> ByteStream {
    let pieces: Vec<_> = bytes.chunks(60_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}
