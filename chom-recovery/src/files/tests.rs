//! Trees packed, archives read that mean harm, and what other archivers make of ours.

use std::{
    collections::BTreeMap,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
};

use bytes::Bytes;

use super::{
    pack,
    tar::{Dialect, END, Limits, TarReader, padding, write_header},
    unpack::{Policy, Unpacker},
    walk::{self, Job, Role},
    *,
};
use crate::error::{Error, ErrorKind, Result};

mod corpus;
mod fuzz;
mod others;
mod reading;

/// One entry of a tree, as the filesystem tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fact {
    kind: u32,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    content: String,
    /// First path with the same inode, for files with several names.
    same_as: Option<Vec<u8>>,
}

/// Looks at a tree through the standard library alone.
fn look(root: &Path) -> BTreeMap<Vec<u8>, Fact> {
    fn visit(root: &Path, at: &Path, facts: &mut BTreeMap<Vec<u8>, Fact>, inodes: &mut BTreeMap<u64, Vec<u8>>) {
        let metadata = std::fs::symlink_metadata(at).unwrap();
        let path = at.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let content = if metadata.is_file() {
            blake3::hash(&std::fs::read(at).unwrap()).to_string()
        } else if metadata.is_symlink() {
            std::fs::read_link(at).unwrap().display().to_string()
        } else {
            String::new()
        };
        let same_as = (metadata.is_file() && metadata.nlink() > 1)
            .then(|| inodes.entry(metadata.ino()).or_insert_with(|| path.clone()).clone());
        let fact = Fact {
            kind: metadata.mode() & 0o170_000,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            content,
            same_as,
        };
        facts.insert(path, fact);
        if metadata.is_dir() {
            let mut children: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
            children.sort();
            children.iter().for_each(|child| visit(root, child, facts, inodes));
        }
    }
    let mut facts = BTreeMap::new();
    visit(root, root, &mut facts, &mut BTreeMap::new());
    facts
}

/// Compares trees, and names what differs.
fn assert_same(want: &BTreeMap<Vec<u8>, Fact>, found: &BTreeMap<Vec<u8>, Fact>) {
    let paths: std::collections::BTreeSet<_> = want.keys().chain(found.keys()).collect();
    for path in paths {
        assert_eq!(want.get(path), found.get(path), "{}", String::from_utf8_lossy(path));
    }
}

/// Makes one of everything that a tree can hold.
fn one_of_everything(root: &Path) {
    use std::os::unix::fs::symlink;
    let write = |name: &[u8], content: &[u8]| {
        let path = root.join(Path::new(std::ffi::OsStr::from_bytes(name)));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    };
    write(b"plain", b"hello\n");
    write(b"empty", b"");
    write(b"block", &[7; 512]);
    write(b"folder/inner/file", &[1; 3000]);
    write("umlaut-\u{e4}\u{f6}\u{fc}".as_bytes(), b"unicode");
    write(b"line\nbreak and 'quotes\" \\ %s", b"odd");
    write(b"not-utf8-\xff\xfe", b"raw bytes");
    write(&[b'n'; 255], b"long name");
    let deep = [vec![b'd'; 90], vec![b'e'; 90], vec![b'f'; 90], b"file".to_vec()].join(&b'/');
    write(&deep, b"long path");
    write(b" leading blank", b"blank");
    write(b"-rf", b"dash");
    let script = write(b"script.sh", b"#!/bin/sh\n");
    std::fs::set_permissions(script, PermissionsExt::from_mode(0o755)).unwrap();
    let secret = write(b".env", b"APP_KEY=x\n");
    std::fs::set_permissions(secret, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::create_dir(root.join("empty-folder")).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("second name")).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("folder/third name")).unwrap();
    symlink("plain", root.join("link")).unwrap();
    symlink("/var/www/html/storage/app/public", root.join("absolute")).unwrap();
    symlink("../../elsewhere", root.join("folder/upwards")).unwrap();
    symlink("x".repeat(300), root.join("long-target")).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(10 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[9; 5000], 1 << 20).unwrap();
    std::fs::File::create(root.join("all-hole")).unwrap().set_len(1 << 20).unwrap();
    for (name, seconds, nanoseconds) in
        [("plain", 1_700_000_000, 123_456_789), ("empty", -86_400, 0), ("block", 0, 0), ("folder", 86_400, 1)]
    {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("block"), Some(33), Some(33)).unwrap();
        std::os::unix::fs::chown(root.join("empty"), Some(4_000_000_000), Some(70_000)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(82), Some(82)).unwrap();
    }
    std::fs::set_permissions(root.join("empty-folder"), PermissionsExt::from_mode(0o2775)).unwrap();
    std::fs::set_permissions(root.join("folder"), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o751)).unwrap();
}

/// The parts of a tree, by role, in order; those of a file cut over several are together.
fn pack_tree(path: &Path) -> Vec<(Role, Vec<u8>)> {
    let root = Root::open(path).unwrap();
    let (mut parts, mut folders): (Vec<(Role, Vec<u8>)>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut collected = |job| {
        let mut bytes = Vec::new();
        let mut send = |piece: Bytes| {
            bytes.extend_from_slice(&piece);
            Ok(())
        };
        match job {
            Job::Files { files, .. } => {
                assert!(pack::pack_files(&root, &files, &mut send)?.troubles.list.is_empty());
                parts.push((Role::Files, bytes));
            }
            Job::Piece { file, range, .. } => {
                let is_first = range.start == 0;
                pack::pack_piece(&file, range, &mut send)?;
                if is_first {
                    parts.push((Role::Files, bytes));
                } else {
                    parts.last_mut().unwrap().1.extend(bytes);
                }
            }
            Job::Headers { role: Role::Folders, tar, .. } => folders.push(tar),
            Job::Headers { role, tar, .. } => parts.push((role, tar)),
        }
        Ok(())
    };
    let walked = walk::walk(&root, &Rules::none(), &mut collected).unwrap();
    assert!(walked.troubles.is_complete(), "{:?}", walked.troubles);
    let mut links = Vec::new();
    pack::pack_links(&walked.links, &[], &mut links);
    parts.sort_by_key(|(role, _)| *role);
    let at = parts.partition_point(|(role, _)| *role < Role::Symlinks);
    parts.insert(at, (Role::HardLinks, links));
    folders.last_mut().unwrap().extend_from_slice(&END);
    parts.extend(folders.into_iter().map(|tar| (Role::Folders, tar)));
    parts
}

fn reader(tar: &[u8], dialect: Dialect) -> TarReader<std::vec::IntoIter<Bytes>> {
    // Pieces of an awkward size: nothing may hang on where they end.
    let pieces: Vec<Bytes> = tar.chunks(700).map(Bytes::copy_from_slice).collect();
    TarReader::new(pieces.into_iter(), dialect, Limits::NONE)
}

fn unpack_tree(parts: &[(Role, Vec<u8>)], target: &Path, policy: Policy) -> Result<()> {
    let unpacker = Unpacker::new(Root::open(target)?, policy);
    let of = |role: Role| parts.iter().filter(move |(r, _)| *r == role).map(|(_, tar)| tar);
    for tar in of(Role::Folders) {
        unpacker.make_folders(&mut reader(tar, Dialect::Ours))?;
    }
    for tar in of(Role::Files) {
        unpacker.put_files(&mut reader(tar, Dialect::Ours))?;
    }
    for tar in of(Role::HardLinks) {
        unpacker.put_hard_links(&mut reader(tar, Dialect::Ours))?;
    }
    for tar in of(Role::Symlinks) {
        unpacker.put_symlinks(&mut reader(tar, Dialect::Ours))?;
    }
    for tar in of(Role::Folders).rev() {
        unpacker.finish_folders(&mut reader(tar, Dialect::Ours))?;
    }
    unpacker.sync()
}

fn policy() -> Policy {
    Policy { own_everything: !rustix::process::geteuid().is_root(), keep_setid: false }
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    one_of_everything(source.path());
    let parts = pack_tree(source.path());
    unpack_tree(&parts, target.path(), policy()).unwrap();
    assert_same(&look(source.path()), &look(target.path()));
    let allocated = std::fs::metadata(target.path().join("sparse")).unwrap().blocks() * 512;
    assert!(allocated < 1 << 20, "the holes are gone: {allocated} bytes");
    assert_eq!(parts, pack_tree(target.path()), "packed again, the same tree gives the same bytes");
}

#[test]
fn a_change_somewhere_leaves_the_parts_elsewhere_as_they_were() {
    let source = tempfile::tempdir().unwrap();
    for folder in 0..60 {
        let folder = source.path().join(format!("folder-{folder:02}"));
        std::fs::create_dir(&folder).unwrap();
        for file in 0..4 {
            std::fs::File::create(folder.join(format!("file-{file}"))).unwrap().set_len(1 << 20).unwrap();
        }
    }
    let fingerprints = || {
        let mut found = Vec::new();
        walk::walk(&Root::open(source.path()).unwrap(), &Rules::none(), &mut |job| {
            if let Job::Files { fingerprint, .. } = job {
                found.push(fingerprint);
            }
            Ok(())
        })
        .unwrap();
        found
    };
    let before = fingerprints();
    assert!(before.len() > 5, "{}", before.len());
    std::fs::write(source.path().join("folder-00/new"), "new").unwrap();
    let after = fingerprints();
    let kept = after.iter().filter(|f| before.contains(f)).count();
    assert!(kept + 2 >= before.len() && kept < before.len(), "{kept} of {}", before.len());
}
