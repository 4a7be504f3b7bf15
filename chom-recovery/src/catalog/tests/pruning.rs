//! Which backups expire, and how they go.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use super::{dying::DyingStore, *};
use crate::system::Retention;

fn at(day: u32, hour: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 3, day, hour, 0, 0).unwrap()
}

/// A listing without a store: the policy asks nothing but what a listing says.
fn listing(backups: Vec<BackupInfo>) -> Listing {
    Listing {
        system: system("chom"),
        now: at(31, 23),
        backups,
        damaged: Vec::new(),
        others: Vec::new(),
        problems: Vec::new(),
    }
}

fn id(time: DateTime<Utc>, n: u8) -> BackupId {
    Ids::new(move || time, move || u128::from(n)).next(None)
}

fn backup(time: DateTime<Utc>) -> BackupInfo {
    let place = Place { host: HostId::derive("a host"), system: system("chom"), id: id(time, 1) };
    let mut info: BackupInfo = serde_json::from_value(serde_json::json!({
        "host": place.host, "system": place.system, "id": place.id,
        "repository": RepositoryId::random(), "point": time, "committed": time, "stored_len": 10, "plain_len": 1000,
        "components": ["database"], "database": null, "tags": [], "warnings": [], "level": "L2", "verified": time,
        "signer": Signer::from_seed(&[1; 32]).id(), "is_future_dated": false, "manifest_damage": null,
    }))
    .unwrap();
    info.place = place;
    info
}

fn nothing() -> Retention {
    Retention { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0, ..Retention::default() }
}

fn expired(backups: Vec<BackupInfo>, policy: &Retention) -> Vec<DateTime<Utc>> {
    expire(&listing(backups), policy).unwrap().expire.into_iter().map(|e| e.point).collect()
}

#[test]
fn the_newest_of_each_period_is_kept() {
    let every_six_hours: Vec<_> = (1..=20).flat_map(|day| [0, 6, 12, 18].map(|hour| backup(at(day, hour)))).collect();
    let policy = Retention { last: 3, daily: 5, weekly: 2, ..nothing() };
    let gone = expired(every_six_hours.clone(), &policy);
    let kept: BTreeSet<_> = every_six_hours.iter().map(|b| b.point).filter(|p| !gone.contains(p)).collect();
    // 20 March 2026 is a Friday; the week before ended on the 15th.
    let daily = [16, 17, 18, 19, 20].map(|day| at(day, 18));
    let last = [at(20, 6), at(20, 12), at(20, 18)];
    assert_eq!(kept, daily.into_iter().chain(last).chain([at(15, 18)]).collect());
}

#[test]
fn days_begin_where_the_policy_says() {
    let backups = vec![backup(at(1, 22)), backup(at(1, 23)), backup(at(2, 1)), backup(at(3, 1))];
    let policy = Retention { daily: 2, ..nothing() };
    assert_eq!(expired(backups.clone(), &policy), [at(1, 22), at(1, 23)]);
    let paris = Retention { utc_offset_minutes: 60, ..policy };
    // 23:00 UTC is midnight there: the same day as 01:00 UTC.
    assert_eq!(expired(backups, &paris), [at(1, 22), at(1, 23)]);
}

#[test]
fn what_was_never_read_back_stands_in_for_nothing_and_waits() {
    let unproven = |time| BackupInfo { level: None, ..backup(time) };
    let policy = Retention { last: 1, ..nothing() };
    let backups = vec![backup(at(1, 0)), backup(at(2, 0)), unproven(at(3, 0)), unproven(at(4, 0))];
    assert!(expired(backups, &policy).is_empty());
    let backups = vec![unproven(at(1, 0)), backup(at(2, 0)), backup(at(3, 0)), backup(at(4, 0))];
    assert_eq!(expired(backups, &policy), [at(1, 0), at(2, 0)]);
    let only_unproven = (1..9).map(|day| unproven(at(day, 0))).collect();
    assert!(expired(only_unproven, &policy).is_empty());
}

#[test]
fn the_newest_backup_of_a_drill_stays_however_old_it_is() {
    let mut drilled = backup(at(1, 0));
    drilled.level = Some(Level::L3);
    let mut backups = vec![drilled];
    backups.extend((2..20).map(|day| backup(at(day, 0))));
    let gone = expired(backups, &nothing());
    assert!(!gone.contains(&at(1, 0)) && gone.contains(&at(2, 0)), "{gone:?}");
}

#[test]
fn a_sudden_shrink_pushes_nothing_out() {
    let mut backups: Vec<_> = (1..=6).map(|day| backup(at(day, 0))).collect();
    backups.extend((7..=12).map(|day| BackupInfo { plain_len: 100, ..backup(at(day, 0)) }));
    let policy = Retention { last: 3, ..nothing() };
    let expiry = expire(&listing(backups), &policy).unwrap();
    let gone: Vec<_> = expiry.expire.iter().map(|e| e.point).collect();
    assert_eq!(gone, [at(1, 0), at(2, 0), at(3, 0)], "the last three whole ones stay");
    let shrank = |k: &&Keeping| k.reasons.iter().any(|r| matches!(r, Reason::Shrank { median: 1000, plain_len: 100 }));
    assert_eq!(expiry.keep.iter().filter(shrank).count(), 6);
}

#[test]
fn different_components_do_not_stand_in_for_one_another() {
    let files = |time| BackupInfo { components: vec!["uploads".parse().unwrap()], ..backup(time) };
    let policy = Retention { last: 2, ..nothing() };
    let backups = vec![files(at(1, 0)), files(at(2, 0)), backup(at(3, 0)), backup(at(4, 0)), backup(at(5, 0))];
    assert_eq!(expired(backups, &policy), [at(3, 0)]);
}

#[test]
fn held_and_referred_backups_stay_and_so_does_what_nobody_can_date_or_read() {
    let mut backups: Vec<_> = (1..=9).map(|day| backup(at(day, 0))).collect();
    backups[0].holds = vec![Hold { id: id(at(9, 1), 2), reason: None, by: None, signer: None, since: at(9, 1) }];
    let (old, middle) = (backups[1].id(), backups[2].id());
    backups[2].sources = [old].into();
    backups[8].sources = [middle].into();
    backups[3].is_future_dated = true;
    let mut all = listing(backups);
    let error = Error::new(ErrorKind::Corrupt, "damaged").to_record();
    let place = Place { id: id(at(1, 5), 3), ..all.backups[0].place.clone() };
    all.damaged = vec![Damaged { place, error, tombstone: None }];
    let expiry = expire(&all, &Retention { last: 1, ..nothing() }).unwrap();
    let gone: Vec<_> = expiry.expire.iter().map(|e| e.point).collect();
    assert_eq!(gone, [5, 6, 7].map(|day| at(day, 0)));
    assert_eq!(expiry.keep.len(), 7);
    all.problems = vec![Error::new(ErrorKind::Failed, "a folder cannot be read").to_record()];
    assert_eq!(expire(&all, &nothing()).unwrap_err().kind(), ErrorKind::Incomplete);
}

#[test]
fn a_policy_that_would_lose_too_much_is_refused() {
    for (policy, key) in [
        (Retention { min_keep: 1, ..Retention::default() }, "min_keep"),
        (Retention { grace: Duration::from_mins(1), ..Retention::default() }, "grace"),
        (Retention { shrink_percent: 100, ..Retention::default() }, "shrink_percent"),
        (Retention { utc_offset_minutes: 1440, ..Retention::default() }, "utc_offset"),
    ] {
        let error = expire(&listing(Vec::new()), &policy).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
    }
}

/// A repository with proven backups of the first days of March.
struct Pruned {
    world: World,
}

impl Pruned {
    async fn with(days: u32) -> Self {
        let this = Self { world: World::new().await };
        for day in 1..=days {
            this.set_time(at(day, 4));
            let info = this.world.backup(&["1\tann\n", "2\tbob\n"]).await;
            let reader = this.world.catalog().open(&info.place).await.unwrap();
            let report = verify(&reader, Level::L2, &silent()).await.unwrap();
            record(&this.world.repository, &this.world.signer, &info.place, report, None).await.unwrap();
        }
        this
    }

    fn set_time(&self, time: DateTime<Utc>) {
        *self.world.clock.lock().unwrap() = time;
    }

    fn policy() -> Retention {
        Retention { last: 2, ..nothing() }
    }

    async fn plan(&self) -> Result<PrunePlan> {
        plan_prune(&self.world.catalog(), &Self::policy()).await
    }

    async fn prune(&self, plan: &PrunePlan) -> Result<PruneReport> {
        prune(&self.world.catalog(), &Self::policy(), plan, &self.world.signer, "a test").await
    }

    async fn keys(&self) -> BTreeSet<String> {
        self.world.keys("").await.into_iter().map(String::from).collect()
    }
}

#[tokio::test]
async fn a_backup_goes_in_two_phases_with_a_day_between_and_nothing_else_goes() {
    let pruned = Pruned::with(5).await;
    let plan = pruned.plan().await.unwrap();
    assert_eq!((plan.expiry.expire.len(), plan.delete.len()), (3, 0));
    let before = pruned.keys().await;
    let report = pruned.prune(&plan).await.unwrap();
    assert_eq!((report.marked.len(), report.deleted.len()), (3, 0));
    let now = pruned.keys().await;
    assert!(before.is_subset(&now), "a tombstone deletes nothing");
    assert_eq!(now.iter().filter(|k| k.contains("/dead/")).count(), 3);
    let error = pruned.world.catalog().select(&Selector::Previous(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "the dead are not chosen");

    pruned.world.pass(23 * 60);
    let plan = pruned.plan().await.unwrap();
    assert_eq!((plan.delete.len(), plan.waiting.len()), (0, 3), "the grace period is not over");
    assert!(plan.is_empty());

    pruned.world.pass(2 * 60);
    let plan = pruned.plan().await.unwrap();
    assert_eq!(plan.delete.len(), 3);
    let gone: Vec<String> = plan.delete.iter().map(|d| d.place.id.to_string()).collect();
    let report = pruned.prune(&plan).await.unwrap();
    assert_eq!(report.deleted.len(), 3);
    let left = pruned.keys().await;
    assert!(left.iter().all(|key| gone.iter().all(|id| !key.contains(id))), "{left:?}");
    let theirs = before.iter().filter(|key| gone.iter().all(|id| !key.contains(id.as_str())));
    assert!(theirs.clone().all(|key| left.contains(key)), "nothing of the others went");
    for which in [Selector::Latest, Selector::Previous(1)] {
        let info = pruned.world.catalog().select(&which).await.unwrap();
        let reader = pruned.world.catalog().open(&info.place).await.unwrap();
        assert!(verify(&reader, Level::L2, &silent()).await.unwrap().passed());
    }
}

#[tokio::test]
async fn what_was_agreed_to_is_done_or_nothing() {
    let pruned = Pruned::with(4).await;
    let plan = pruned.plan().await.unwrap();
    let place = &plan.expiry.expire[0].place;
    hold(&pruned.world.repository, &pruned.world.signer, place, "a lawyer asks", "ada").await.unwrap();
    let before = pruned.keys().await;
    assert_eq!(pruned.prune(&plan).await.unwrap_err().kind(), ErrorKind::Conflict);
    let lease = |keys: BTreeSet<String>| keys.into_iter().filter(|k| !k.starts_with("lease/")).collect::<BTreeSet<_>>();
    assert_eq!(lease(pruned.keys().await), lease(before));
    let plan = pruned.plan().await.unwrap();
    assert_eq!(plan.expiry.expire.len(), 1);
}

#[tokio::test]
async fn of_two_prunes_one_works_and_a_dead_one_is_waited_for() {
    let pruned = Pruned::with(4).await;
    let plan = pruned.plan().await.unwrap();
    let lease = serde_json::json!({
        "holder": pruned.world.signer.id(), "token": "another process", "until": pruned.world.now() + TimeDelta::minutes(9),
    });
    let store = &pruned.world.store;
    store.compare_and_swap(&prune_lease(), None, lease.to_string().into()).await.unwrap();
    assert_eq!(pruned.prune(&plan).await.unwrap_err().kind(), ErrorKind::Locked);
    pruned.world.pass(10);
    assert_eq!(pruned.prune(&pruned.plan().await.unwrap()).await.unwrap().marked.len(), 2);
}

#[tokio::test]
async fn a_prune_that_died_half_way_is_gone_on_with() {
    let pruned = Pruned::with(3).await;
    pruned.prune(&pruned.plan().await.unwrap()).await.unwrap();
    pruned.world.pass(25 * 60);
    let plan = pruned.plan().await.unwrap();
    let place = plan.delete[0].place.clone();
    let objects = pruned.keys().await.into_iter().filter(|k| k.contains(&place.id.to_string())).count();
    assert!(objects > 4);
    // Killed after each of its deletions, in its own order.
    let store = &pruned.world.store;
    store.delete(&place.manifest()).await.unwrap();
    assert!(pruned.world.catalog().list().await.unwrap().backups.iter().all(|b| b.id() != place.id));
    store.delete(&place.manifest_copy()).await.unwrap();
    store.delete(&place.part(&"database".parse().unwrap(), 0)).await.unwrap();
    let again = pruned.plan().await.unwrap();
    assert_eq!(again.delete.iter().map(|d| &d.place).collect::<Vec<_>>(), [&place]);
    assert_eq!(pruned.prune(&again).await.unwrap().deleted, [place.id]);
    assert!(pruned.keys().await.iter().all(|key| !key.contains(&place.id.to_string())));
}

/// Killed before and after each effect of both phases: what is kept can always be restored, what dies is never half
/// there without a tombstone, and the next prune ends where an undisturbed one does.
#[tokio::test]
async fn a_prune_that_is_killed_at_any_effect_is_finished_by_the_next() {
    for dies_after_effect in [false, true] {
        for survives in 0.. {
            let pruned = Pruned::with(4).await;
            let mut is_killed = false;
            for _phase in 0..2 {
                let plan = pruned.plan().await.unwrap();
                let dying = DyingStore::over(&pruned.world.store, survives, dies_after_effect);
                let mortal = pruned.world.opened_on(dying).await.with_ids(pruned.world.repository.ids().clone());
                let mortal = Catalog::new(&mortal, &pruned.world.system);
                let result = prune(&mortal, &Pruned::policy(), &plan, &pruned.world.signer, "a test").await;
                if result.is_err() {
                    is_killed = true;
                    let listing = pruned.world.catalog().list().await.unwrap();
                    assert!(listing.damaged.is_empty() && listing.problems.is_empty(), "after {survives}");
                    for info in listing.backups {
                        let whole = content(&pruned.world.repository, &info.place).await;
                        assert!(whole.is_ok() || info.tombstone.is_some(), "after {survives}: {whole:?}");
                    }
                    // Its lease ends by itself.
                    pruned.world.pass(11);
                    pruned.prune(&pruned.plan().await.unwrap()).await.unwrap();
                }
                pruned.world.pass(25 * 60);
            }
            let left = pruned.keys().await;
            assert_eq!(left.iter().filter(|key| key.ends_with("/manifest")).count(), 2, "after {survives}: {left:?}");
            assert!(!left.iter().any(|key| key.contains("/dead/")), "after {survives}: {left:?}");
            // Two backups with their records, the repository's file, the lease.
            assert_eq!(left.len(), 2 * (5 + 1) + 2, "after {survives}: {left:?}");
            if !is_killed {
                assert!(survives > 15, "the first phase and the second have more effects than {survives}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_clock_that_jumped_expires_nothing() {
    let pruned = Pruned::with(3).await;
    let later = pruned.world.now() + TimeDelta::days(400);
    let jumped = pruned.world.repository.clone().with_ids(Ids::new(move || later, rand::random));
    let error = plan_prune(&Catalog::new(&jumped, &pruned.world.system), &Pruned::policy()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
}
