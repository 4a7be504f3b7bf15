//! A database whose data lies in a folder of the host: `./mysql-data:/var/lib/mysql`.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use chom_recovery::{
    catalog::Selector,
    procedure::database::Extent,
    recovery::{Recovery, RunOptions},
};
use chom_recovery_tests::{Stack, chaos};

use crate::bench::{Bench, database, request, yes};

#[tokio::test]
async fn data_in_a_folder_of_the_host_is_replaced_brought_back_and_pruned() {
    let Some(bench) = Bench::open("data_in_a_folder_of_the_host_is_replaced_brought_back_and_pruned").await else {
        return;
    };
    let before = bench.fingerprint().await;
    let bound = Bound::begin(&bench);
    let recovery = bench.reopen(|system| system.compose.files.push(bound.file().into())).await;
    let (data, inode) = (bound.data(), fs::metadata(bound.data()).unwrap().ino());
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;

    let going = recovery.recover_database(request(Selector::Latest, Extent::Recover), yes()).await.unwrap();
    let run = going.id();
    let restored = database(going.finish().await).unwrap().restored.expect("data was replaced");
    assert_eq!(bench.fingerprint().await, before);
    // An operator's plain `docker compose up -d` finds the restored data; the old data lies beside it.
    bound.up();
    assert_eq!(bench.fingerprint().await, before);
    assert!(restored.kept.volume.ends_with(&run.to_string()), "{:?}", restored.kept);
    assert_eq!(fs::metadata(bench.stack.site.join(&restored.kept.volume)).unwrap().ino(), inode);
    assert!(restored.kept.bytes > 1 << 20);

    recovery.roll_back(run, "the old data is wanted", RunOptions::default()).await.unwrap();
    assert_eq!(fs::metadata(&data).unwrap().ino(), inode);
    bound.up();
    let orders = "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.tables WHERE table_name = 'orders'";
    assert_eq!(bench.sql().await.text(orders).await, "0");

    recover_again(&recovery).await;
    assert_eq!(bench.fingerprint().await, before);
    let left = recovery.leftovers(Duration::ZERO).await.unwrap();
    assert!(left.volumes.iter().all(|v| v.bytes.is_some()) && left.volumes.len() >= 2, "{left:?}");
    recovery.prune(&left).await.unwrap();
    assert_eq!(folders_of_runs(&bench.stack.site), Vec::<PathBuf>::new());
    assert_eq!(bench.fingerprint().await, before);
}

async fn recover_again(recovery: &Recovery) {
    let going = recovery.recover_database(request(Selector::Latest, Extent::Recover), yes()).await.unwrap();
    assert!(database(going.finish().await).unwrap().restored.is_some());
}

fn folders_of_runs(site: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(site).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().contains("__r_")).collect()
}

/// The stack with its database in a folder beside the Compose file; in its volume again when dropped.
struct Bound {
    stack: Stack,
}

impl Bound {
    fn begin(bench: &Bench) -> Self {
        let this = Self { stack: bench.stack.clone() };
        for left in folders_of_runs(&this.stack.site) {
            fs::remove_dir_all(left).unwrap();
        }
        let override_file = "services:\n  mysql:\n    volumes: [\"./mysql-data:/var/lib/mysql\"]\n";
        fs::write(this.file(), override_file).unwrap();
        chaos::compose(&this.stack, &["stop"]);
        fs::create_dir(this.data()).unwrap();
        let (from, to) = (format!("{}:/from:ro", bench.volume()), format!("{}:/to", this.data()));
        let image = this.stack.db_image.clone();
        let copy = ["--entrypoint", "cp", &image, "-a", "/from/.", "/to"];
        chaos::docker(&[&["run", "--rm", "--network", "none", "-v", &from, "-v", &to][..], &copy].concat());
        this.up();
        this
    }

    fn file(&self) -> String {
        self.stack.site.join("bound.yaml").display().to_string()
    }

    fn data(&self) -> String {
        self.stack.site.join("mysql-data").display().to_string()
    }

    fn up(&self) {
        chaos::up(&self.stack, &["-f", &self.file()]);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        chaos::up(&self.stack, &[]);
        for folder in [self.data(), self.file()] {
            let _ = fs::remove_dir_all(&folder).or_else(|_| fs::remove_file(&folder));
        }
    }
}
