//! What the age of the newest backup says.

use super::*;
use crate::probe::{HealthProbe, Status};

#[tokio::test]
async fn a_backup_counts_by_its_age_and_by_whether_it_was_read_back() {
    let world = World::new().await;
    let probe = BackupProbe::new(world.catalog(), std::time::Duration::from_hours(1));
    assert_eq!(probe.check().await.status, Status::Down, "there is none");
    world.backup(&["a"]).await;
    assert_eq!(probe.check().await.status, Status::Degraded, "nobody read it back");
    world.pass(90);
    let old = probe.check().await;
    assert_eq!(old.status, Status::Degraded);
    assert!(old.summary.contains("more than agreed"), "{}", old.summary);
    world.pass(60);
    assert_eq!(probe.check().await.status, Status::Down);
}
