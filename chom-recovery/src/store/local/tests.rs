use std::{
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

use futures::TryStreamExt;

use super::{read::PIECE, *};
use crate::{stream, testing::store as conformance};

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn files(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found.sort();
    found
}

/// A filesystem of its own, in memory. `None`, with a word on the terminal, where it cannot be mounted.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "chom-test"])
            .arg(folder.path())
            .output()
            .is_ok_and(|o| o.status.success());
        if !mounted {
            eprintln!("SKIPPED: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise_of_a_store() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(&LocalStore::open(folder.path()).unwrap()).await;
    assert!(files(folder.path()).iter().all(|f| !f.starts_with(TEMPORARY)), "{:?}", files(folder.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_no_space_and_leaves_nothing_behind() {
    let Some(mount) = Mount::new("size=1m") else { return };
    let store = LocalStore::open(mount.0.path()).unwrap();
    conformance::full_store_is_left_as_it_was(&store, 3 << 20).await;
    assert_eq!(files(mount.0.path()), ["large", "small"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_inodes_left_is_no_space_too() {
    let Some(mount) = Mount::new("size=1m,nr_inodes=6") else { return };
    let store = LocalStore::open(mount.0.path()).unwrap();
    let mut last = Ok(());
    for i in 0..8 {
        last = store.put_new(&key(&format!("a/{i}")), stream::once("x")).await.map(|_| ());
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last.unwrap_err().kind(), ErrorKind::NoSpace);
    assert!(store.now().await.is_ok(), "a full store can still be read from");
}

#[tokio::test]
async fn a_store_that_cannot_be_written_to_can_be_read() {
    let Some(mount) = Mount::new("size=1m") else { return };
    let store = LocalStore::open(mount.0.path()).unwrap();
    store.put_new(&key("a/b"), stream::once("x")).await.unwrap();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0.path()).status().unwrap();
    assert!(remounted.success());
    assert!(store.now().await.is_ok());
    assert_eq!(stream::collect(store.get(&key("a/b"), None).await.unwrap(), 9).await.unwrap(), "x");
    let error = store.put_new(&key("a/c"), stream::once("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
}

#[tokio::test]
async fn files_and_folders_are_for_their_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("store");
    let store = LocalStore::create(&root).unwrap();
    store.put_new(&key("a/b"), stream::once("x")).await.unwrap();
    let mode = |p: &str| std::fs::metadata(root.join(p)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("a"), mode("a/b")), (0o700, 0o700, 0o600));
}

#[tokio::test]
async fn leftovers_are_invisible_and_swept_by_age() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    store.put_new(&key("a/b"), stream::once("x")).await.unwrap();
    let old = folder.path().join("a/.tmp-01ARZ3NDEKTSV4RRFFQ69G5FAV-c");
    let young = folder.path().join("a/.tmp-01ARZ3NDEKTSV4RRFFQ69G5FAW-d");
    std::fs::write(&young, "cut").unwrap();
    let file = File::create(&old).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_hours(25)).unwrap();
    let listed: Vec<_> = store.list("").await.unwrap().try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(store.sweep_leftovers(Duration::from_hours(24)).await.unwrap(), 1);
    assert!(!old.exists() && young.exists());
}

#[tokio::test]
async fn deleting_the_last_object_takes_its_folders_away() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    store.put_new(&key("a/b/c"), stream::once("x")).await.unwrap();
    store.put_new(&key("a/d"), stream::once("x")).await.unwrap();
    store.delete(&key("a/b/c")).await.unwrap();
    assert!(!folder.path().join("a/b").exists() && folder.path().join("a/d").exists());
    store.put_new(&key("a/b/c"), stream::once("y")).await.unwrap();
}

#[tokio::test]
async fn symbolic_links_are_not_followed_and_not_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), "secret").unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    symlink(outside.path(), folder.path().join("dir")).unwrap();
    symlink(outside.path().join("x"), folder.path().join("link")).unwrap();
    assert_eq!(store.put_new(&key("dir/y"), stream::once("x")).await.unwrap_err().kind(), ErrorKind::Precondition);
    assert_eq!(store.get(&key("link"), None).await.err().unwrap().kind(), ErrorKind::Precondition);
    assert_eq!(store.put_new(&key("link"), stream::once("x")).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(files(outside.path()), ["x"]);
    let items: Vec<_> = futures::StreamExt::collect::<Vec<_>>(store.list("").await.unwrap()).await;
    assert_eq!(items.iter().filter(|i| i.is_err()).count(), 2, "{items:?}");
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    store.put_new(&key("a"), stream::once(vec![7; 8 * PIECE])).await.unwrap();
    let mut body = store.get(&key("a"), None).await.unwrap();
    assert!(body.try_next().await.unwrap().is_some());
    std::fs::OpenOptions::new().write(true).open(folder.path().join("a")).unwrap().set_len(PIECE as u64).unwrap();
    let error = stream::collect(body, 64 * PIECE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_swap_one_lease_never_both_win() {
    let folder = tempfile::tempdir().unwrap();
    // Separate handles: what two processes have.
    let stores: Vec<_> = (0..4).map(|_| LocalStore::open(folder.path()).unwrap()).collect();
    for _ in 0..20 {
        let present = stores[0].stat(&key("lease/prune")).await.unwrap().map(|i| i.version);
        let lease = key("lease/prune");
        let swaps = stores.iter().map(|s| s.compare_and_swap(&lease, present.as_ref(), "same".into()));
        let won = futures::future::join_all(swaps).await.into_iter().flatten().count();
        assert_eq!(won, 1);
    }
}

/// Not a test by itself: the process that [`a_writer_that_is_killed_leaves_whole_objects_only`] kills.
#[tokio::test(flavor = "multi_thread")]
async fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os("CHOM_TEST_WRITER_FOLDER") else { return };
    let store = LocalStore::open(Path::new(&folder)).unwrap();
    for i in 0_u32.. {
        let piece = Bytes::from(i.to_le_bytes().repeat(10_000));
        let body = futures::stream::iter(std::iter::repeat_n(piece, 25).map(Ok));
        store.put_new(&key(&format!("{}/{i}", i % 7)), Box::pin(body)).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_that_is_killed_leaves_whole_objects_only() {
    for wanted in [1, 5, 12, 23] {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::local::tests::writes_until_it_is_killed"])
            .env("CHOM_TEST_WRITER_FOLDER", folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let listed = || async { store.list("").await.unwrap().try_collect::<Vec<_>>().await.unwrap() };
        while listed().await.len() < wanted && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let objects = listed().await;
        assert!(objects.len() >= wanted, "the writer wrote {} objects", objects.len());
        for object in objects {
            let number: u32 = object.key.as_str().rsplit('/').next().unwrap().parse().unwrap();
            let body = stream::collect(store.get(&object.key, None).await.unwrap(), 2 << 20).await.unwrap();
            assert!(body == number.to_le_bytes().repeat(250_000), "{} is not whole", object.key);
        }
        store.sweep_leftovers(Duration::ZERO).await.unwrap();
        assert!(files(folder.path()).iter().all(|f| !f.starts_with(TEMPORARY)), "{:?}", files(folder.path()));
    }
}

thread_local! {
    /// Inodes of the files that a failing disk was asked to sync.
    static SYNCED: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Fails as a disk that lost what it was given: the kernel drops the pages, and a second sync would succeed.
fn lost_pages(file: &File) -> io::Result<()> {
    let inode = rustix::fs::fstat(file)?.st_ino;
    let is_first = SYNCED.with_borrow_mut(|synced| {
        synced.push(inode);
        synced.len() == 1
    });
    if is_first { Err(Errno::IO.into()) } else { file.sync_all() }
}

/// F33.
#[test]
fn after_a_failed_sync_the_file_goes_away_and_the_next_attempt_writes_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = LocalStore::open(folder.path()).unwrap();
    Arc::get_mut(&mut store.inner).unwrap().sync = lost_pages;
    let (inner, wanted) = (store.inner.clone(), key("a/b"));
    // On this very thread, so that it can be told which files were synced.
    let write = || {
        let mut temporary = inner.temporary("a", "b").map_err(|e| failed("write", &wanted, e))?;
        temporary.file.write_all(b"whole").map_err(|e| failed("write", &wanted, e))?;
        inner.publish(temporary, "b", true).map_err(|e| failed("write", &wanted, e))
    };
    let error = write().unwrap_err();
    assert!(error.to_string().contains("cannot write `a/b`"), "{error}");
    assert_eq!(SYNCED.with_borrow(Vec::len), 1, "the same file is not synced again");
    assert_eq!(files(folder.path()), Vec::<String>::new(), "nothing is left of it, and nothing is visible");
    assert!(inner.stat(&wanted).unwrap().is_none());

    write().unwrap();
    let synced = SYNCED.take();
    assert_eq!(files(folder.path()), ["b"]);
    assert_eq!(synced.len(), 2);
    assert_eq!(inner.stat(&wanted).unwrap().unwrap().length, 5);
}
