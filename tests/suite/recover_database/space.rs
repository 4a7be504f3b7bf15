//! A full disk is told before anything is stopped.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chom_recovery::{ErrorKind, catalog::Selector, procedure::database::Extent, recovery::RunOptions};
use chom_recovery_tests::skip;

use crate::bench::{Bench, database, request, yes};

#[tokio::test]
async fn no_room_for_a_candidate_is_told_before_anything_is_touched() {
    let Some(bench) = Bench::open("no_room_for_a_candidate_is_told_before_anything_is_touched").await else { return };
    bench.back_up().await;
    let footprint = bench.footprint().await;
    let crowded = bench.reopen(|s| s.limits.keep_free_bytes = 1 << 60).await;

    let error = bench.refused(&crowded, request(Selector::Latest, Extent::Restore)).await;

    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("free space")), "{error:?}");
    assert_eq!(bench.footprint().await, footprint);
}

#[tokio::test]
async fn a_full_state_directory_is_told_before_anything_is_touched() {
    const TEST: &str = "a_full_state_directory_is_told_before_anything_is_touched";
    let Some(bench) = Bench::open(TEST).await else { return };
    bench.back_up().await;
    let footprint = bench.footprint().await;
    let Some(tiny) = Tiny::mount(&bench.folder.path().join("tiny")) else {
        return skip(TEST, "a tmpfs cannot be mounted here");
    };
    let crowded = bench.reopen(|s| s.state_dir = Some(tiny.0.clone())).await;

    let error = crowded.recover_database(request(Selector::Latest, Extent::Recover), yes()).await.expect_err("no room");

    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.hint_text().is_some(), "{error:?}");
    assert_eq!(bench.footprint().await, footprint);
    assert!(
        bench
            .recovery
            .backend()
            .own_containers()
            .await
            .unwrap()
            .iter()
            .all(|c| { c.name != format!("{}-recovery-lock", bench.stack.project) })
    );
}

/// F29: the candidate's disk fills up while the backup is loaded. Only the candidate notices.
#[tokio::test]
async fn a_disk_that_fills_up_under_the_candidate_costs_the_candidate_alone() {
    const TEST: &str = "a_disk_that_fills_up_under_the_candidate_costs_the_candidate_alone";
    let Some(bench) = Bench::open(TEST).await else { return };
    let engine = bench.recovery.backend().engine().await.unwrap();
    if !Path::new(&engine.root).join("volumes").is_dir() {
        return skip(TEST, "the Engine's volumes do not lie on this machine");
    }
    // More rows than there is room for beside a server without data.
    let mut sql = bench.sql().await;
    sql.run("CREATE TABLE chom.bulk (id INT PRIMARY KEY, data LONGBLOB)").await;
    for id in 0..16 {
        sql.run(&format!("INSERT INTO chom.bulk VALUES ({id}, REPEAT(RANDOM_BYTES(1024), 24576))")).await;
    }
    drop(sql);
    bench.back_up().await;
    let before = bench.production().await;

    let going = bench.recovery.recover_database(request(Selector::Latest, Extent::Restore), yes()).await.unwrap();
    let run = going.id();
    let volume = format!("{}__r_{run}", bench.volume());
    let small = Small::under(&Path::new(&engine.root).join("volumes").join(&volume), 320 << 20);
    let error = database(going.finish().await).expect_err("the disk is full");
    let mounted = small.end();
    println!("{error:?}");
    assert!(mounted > 0, "the small disk was never there");
    assert!(matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Failed), "{error:?}");
    assert_eq!(bench.production().await, before);
    bench.recovery.roll_back(run, "the disk is full", RunOptions::default()).await.unwrap();
    bench.sql().await.run("DROP TABLE chom.bulk").await;
    let backend = bench.recovery.backend();
    // Other systems on this Engine may have candidates of their own.
    let candidate = format!("{}-candidate-{}", bench.stack.project, run.to_string().to_lowercase());
    assert!(backend.own_containers().await.unwrap().iter().all(|c| !c.name.starts_with(&candidate)));
}

/// Puts a small disk under a volume whenever it is made, for as long as its container runs.
struct Small {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u32>,
}

impl Small {
    fn under(volume: &Path, size: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, folder) = (stop.clone(), volume.join("_data"));
        let thread = std::thread::spawn(move || {
            let (mut times, mut last) = (0, None);
            while !stopped.load(Ordering::Relaxed) {
                let inode = std::fs::metadata(&folder).ok().map(|m| m.ino());
                if inode.is_some() && inode != last && Self::mount(&folder, size) {
                    times += 1;
                    // The container keeps what it was started with; without the mount the volume can be removed.
                    Self::until_in_use(&folder, &stopped);
                    let _ = Command::new("umount").arg("-l").arg(&folder).status();
                    last = std::fs::metadata(&folder).ok().map(|m| m.ino());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            times
        });
        Self { stop, thread }
    }

    fn mount(folder: &Path, size: u64) -> bool {
        let options = format!("size={size},mode=0755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "small"]).arg(folder).status();
        mounted.is_ok_and(|status| status.success())
    }

    /// Waits until the server has begun to write.
    fn until_in_use(folder: &Path, stopped: &AtomicBool) {
        let deadline = Instant::now() + Duration::from_mins(2);
        let is_empty = || std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
        while is_empty() && !stopped.load(Ordering::Relaxed) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops, and tells how often a disk was put there.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A filesystem of 64 KiB.
struct Tiny(std::path::PathBuf);

impl Tiny {
    fn mount(at: &std::path::Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tiny"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
