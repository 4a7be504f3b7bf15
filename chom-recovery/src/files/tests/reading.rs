//! Files that do not hold still, and files that cannot be read.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn plan(root: &Root) -> Vec<walk::Planned> {
    let mut planned = Vec::new();
    walk::walk(root, &Rules::none(), &mut |job| {
        if let Job::Files { files, .. } = job {
            planned.extend(files);
        }
        Ok(())
    })
    .unwrap();
    planned
}

fn pack(root: &Root, planned: &[walk::Planned]) -> (pack::Packed, Vec<u8>) {
    let mut tar = Vec::new();
    let packed = pack::pack_files(root, planned, &mut |piece| {
        tar.extend_from_slice(&piece);
        Ok(())
    })
    .unwrap();
    (packed, tar)
}

fn names(tar: &[u8]) -> Vec<String> {
    let mut reader = reader(tar, Dialect::Ours);
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(entry.path.display().into_owned());
    }
    names
}

#[test]
fn what_vanished_is_told_and_left_out() {
    let source = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(source.path().join(name), name).unwrap();
    }
    let root = Root::open(source.path()).unwrap();
    let planned = plan(&root);
    std::fs::remove_file(source.path().join("b")).unwrap();
    std::fs::remove_file(source.path().join("c")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", source.path().join("c")).unwrap();
    let (packed, tar) = pack(&root, &planned);
    assert_eq!(names(&tar), ["a"]);
    assert_eq!((packed.troubles.vanished, packed.troubles.unreadable), (2, 0));
    assert!(!packed.is_as_walked);
}

#[test]
fn a_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("a"), "a").unwrap();
    let root = Root::open(source.path()).unwrap();
    let planned = plan(&root);
    std::fs::remove_file(source.path().join("a")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, source.path().join("a"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (packed, tar) = pack(&root, &planned);
    assert!(tar.is_empty());
    assert_eq!(packed.troubles.vanished, 1);
}

#[test]
fn a_file_that_grew_or_shrank_since_is_read_as_it_is_now() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("grows"), "1").unwrap();
    std::fs::write(source.path().join("shrinks"), vec![1; 2000]).unwrap();
    let root = Root::open(source.path()).unwrap();
    let planned = plan(&root);
    std::fs::write(source.path().join("grows"), vec![2; 3000]).unwrap();
    std::fs::write(source.path().join("shrinks"), "3").unwrap();
    let (packed, tar) = pack(&root, &planned);
    assert!(packed.troubles.list.is_empty() && !packed.is_as_walked, "{packed:?}");
    let mut reader = reader(&tar, Dialect::Ours);
    let first = reader.next_entry().unwrap().unwrap();
    assert_eq!(first.kind, Kind::File { size: 3000, extents: None });
}

/// A log that is written to all the time: the archive stays in step, and says so.
#[test]
fn a_file_that_never_rests_keeps_the_archive_in_step() {
    let source = tempfile::tempdir().unwrap();
    let log = source.path().join("laravel.log");
    std::fs::write(&log, vec![b'x'; 300_000]).unwrap();
    std::fs::write(source.path().join("z"), "after").unwrap();
    let root = Root::open(source.path()).unwrap();
    let planned = plan(&root);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
            let mut length = 300_000;
            while !is_over.load(Ordering::Relaxed) {
                length = if length > 100_000 { length - 50_000 } else { 400_000 };
                file.set_len(length).unwrap();
            }
        });
        for _ in 0..200 {
            let (packed, tar) = pack(&root, &planned);
            assert_eq!(names(&tar), ["laravel.log", "z"]);
            assert_eq!(packed.troubles.unreadable, 0);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_large_file_cut_while_it_is_read_is_filled_up_and_told() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("large");
    std::fs::write(&path, vec![5; 40 << 20]).unwrap();
    let root = Root::open(source.path()).unwrap();
    let (mut tar, mut troubles) = (Vec::new(), walk::Troubles::default());
    walk::walk(&root, &Rules::none(), &mut |job| {
        if let Job::Piece { file, range, .. } = job {
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
            let packed = pack::pack_piece(&file, range, &mut |piece| {
                tar.extend_from_slice(&piece);
                Ok(())
            })?;
            troubles.merge(packed.troubles);
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(names(&tar), ["large"]);
    assert_eq!(troubles.changed, 1);
}

#[test]
fn sockets_are_left_out_and_listed() {
    let source = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.path().join("php.sock")).unwrap();
    let walked = walk::walk(&Root::open(source.path()).unwrap(), &Rules::none(), &mut |_| Ok(())).unwrap();
    assert_eq!(walked.troubles.skipped, 1);
    assert_eq!(walked.troubles.list[0].path, "php.sock");
    assert!(walked.troubles.is_complete());
}

/// Root may read everything, so what cannot be read takes a filesystem that fails, or another user.
#[test]
fn what_cannot_be_read_makes_a_tree_incomplete() {
    let mut troubles = walk::Troubles::default();
    troubles.failed(&TreePath::new("uploads/x.jpg").unwrap(), rustix::io::Errno::IO);
    troubles.failed(&TreePath::new("gone").unwrap(), rustix::io::Errno::NOENT);
    assert_eq!((troubles.unreadable, troubles.vanished), (1, 1));
    let error = pack::demand_complete(&troubles).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incomplete);
    assert!(error.to_string().contains("uploads/x.jpg"), "{error}");
}

#[test]
fn links_to_a_file_that_vanished_are_not_left_dangling() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("a"), "content").unwrap();
    std::fs::hard_link(source.path().join("a"), source.path().join("b")).unwrap();
    let root = Root::open(source.path()).unwrap();
    let walked = walk::walk(&root, &Rules::none(), &mut |_| Ok(())).unwrap();
    let mut out = Vec::new();
    let (entries, orphans) = pack::pack_links(&walked.links, &[TreePath::new("a").unwrap()], &mut out);
    assert_eq!((entries, orphans.len()), (0, 1));
    let planned = pack::plan_orphans(&root, orphans, &mut walk::Troubles::default());
    assert_eq!(names(&pack(&root, &planned).1), ["b"]);
}
