//! A full disk is told before anything is stopped.

use std::process::Command;

use chom_recovery::{ErrorKind, catalog::Selector, procedure::database::Extent};
use chom_recovery_tests::skip;

use crate::bench::{Bench, request, yes};

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
