use chrono::{DateTime, TimeDelta, Utc};

use super::*;

/// A clock whose hands the test moves.
#[derive(Debug)]
struct Hands {
    wall: Mutex<DateTime<Utc>>,
    up: Mutex<Duration>,
    boot: Mutex<&'static str>,
}

impl Hands {
    fn new() -> Arc<Self> {
        let wall = "2026-11-23T03:00:00Z".parse().unwrap();
        Arc::new(Self { wall: Mutex::new(wall), up: Mutex::new(Duration::from_secs(1000)), boot: Mutex::new("one") })
    }

    fn pass(&self, seconds: u64) {
        *lock(&self.up) += Duration::from_secs(seconds);
        self.jump(i64::try_from(seconds).unwrap());
    }

    fn jump(&self, seconds: i64) {
        *lock(&self.wall) += TimeDelta::seconds(seconds);
    }

    fn reboot(&self) {
        *lock(&self.boot) = "two";
        *lock(&self.up) = Duration::ZERO;
    }
}

impl Clock for Hands {
    fn now(&self) -> DateTime<Utc> {
        *lock(&self.wall)
    }

    fn since_boot(&self) -> Duration {
        *lock(&self.up)
    }

    fn boot_id(&self) -> String {
        (*lock(&self.boot)).into()
    }
}

async fn slow(run: Run, hands: Arc<Hands>, jump: i64) -> Result<u32> {
    run.step("act")
        .undo(Undo::Unnecessary("a test"))
        .run(async move |_| {
            hands.pass(10);
            hands.jump(jump);
            Ok(1)
        })
        .await
}

#[tokio::test]
async fn a_wall_clock_that_jumps_changes_neither_order_nor_durations() {
    let f = Fixture::new();
    let hands = Hands::new();
    let engine = f.engine.clone().clock(hands.clone());
    let mut before = None;
    for jump in [-86_400, 86_400 * 400, -3_600] {
        let run = engine.start(new_run()).await.unwrap();
        assert!(Some(run.id()) > before, "ids grow");
        before = Some(run.id());
        run.execute(slow(run.clone(), hands.clone(), jump)).await.unwrap();
        let id = run.id();
        drop(run);
        let summary = f.summary(id);
        assert_eq!((summary.elapsed_ms, summary.crossed_boot), (10_000, false));
    }
}

#[tokio::test]
async fn time_between_two_processes_counts_and_a_restart_of_the_machine_is_told() {
    let f = Fixture::new();
    let hands = Hands::new();
    let engine = f.engine.clone().clock(hands.clone());
    let run = engine.start(new_run()).await.unwrap();
    let id = run.id();
    let h = hands.clone();
    run.execute(async { slow(run.clone(), h, 0).await.and_then(|_| Err::<u32, _>(failed("later"))) })
        .await
        .unwrap_err();
    drop(run);
    hands.pass(300);
    drop(engine.resume(id).await.unwrap());
    assert_eq!((f.summary(id).elapsed_ms, f.summary(id).crossed_boot), (310_000, false));
    hands.pass(60);
    hands.reboot();
    let run = engine.resume(id).await.unwrap();
    run.execute(slow(run.clone(), hands.clone(), 0)).await.unwrap();
    drop(run);
    assert_eq!((f.summary(id).elapsed_ms, f.summary(id).crossed_boot), (370_000, true));
}

#[tokio::test(start_paused = true)]
async fn steps_and_scopes_stand_beside_their_budgets() {
    let f = Fixture::new();
    let run = f.engine.start(new_run().objective(Objective::minutes(30, 15))).await.unwrap();
    let (id, events) = (run.id(), run.events());
    let scope = run.scope("db").budget(Duration::from_mins(1));
    let step = scope.step("act").budget(Duration::from_secs(5)).undo(Undo::Unnecessary("a test")).run(async |_| {
        tokio::time::sleep(Duration::from_secs(8)).await;
        Ok(())
    });
    run.execute(async { step.await }).await.unwrap();
    drop((run, scope));
    let summary = f.summary(id);
    assert!(summary.steps[0].is_over_budget() && summary.fits_rto() == Some(true));
    assert_eq!((summary.scopes[0].scope.as_str(), summary.scopes[0].budget_ms), ("db", 60_000));
    let events: Vec<_> = events.collect().await;
    assert!(events.contains(&Event::OverBudget { step: "db/act".into(), budget_ms: 5_000 }), "{events:?}");
}

#[tokio::test]
async fn an_unfinished_run_keeps_others_from_beginning() {
    let f = Fixture::new();
    let count = Counter::default();
    let half = async |run: Run| {
        counting(&run, "act", &count).await?;
        Err::<(), _>(failed("later"))
    };
    // One that changed nothing is in nobody's way.
    f.run(async |_| Err::<(), _>(failed("at once"))).await.1.unwrap_err();
    let (id, _) = f.run(half).await;
    let error = f.engine.start(new_run()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    f.engine.start(NewRun::new("other", "test", &()).unwrap()).await.unwrap();
    let backup = NewRun::new("chom", "backup", &()).unwrap().supersede(["backup"]);
    assert_eq!(f.engine.start(backup).await.unwrap_err().kind(), ErrorKind::Locked);
    drop(f.engine.start(new_run().supersede(["test"])).await.unwrap());
    assert_eq!(f.summary(id).status, RunStatus::Abandoned);
    let (id, _) = f.run(half).await;
    f.engine.abandon(id, "repaired by hand").await.unwrap();
    assert_eq!(f.engine.abandon(id, "again").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.engine.roll_back(id, "late", half).await.unwrap_err().kind(), ErrorKind::Conflict);
    f.run(async |_| Ok(())).await.1.unwrap();
}

#[tokio::test]
async fn prune_removes_what_is_over_and_old_and_nothing_else() {
    let f = Fixture::new();
    let hands = Hands::new();
    let engine = f.engine.clone().clock(hands.clone());
    let count = Counter::default();
    let fresh_of = async |fails: bool, system: &str| {
        let run = engine.start(NewRun::new(system, "test", &()).unwrap()).await.unwrap();
        let step = counting(&run, "act", &count);
        let _ = run.execute(async { if fails { step.await.and(Err(failed("x"))) } else { step.await } }).await;
        run.id()
    };
    let old = fresh_of(false, "chom").await;
    let open = fresh_of(true, "chom").await;
    let running = engine.start(NewRun::new("third", "test", &()).unwrap()).await.unwrap();
    hands.pass(10 * 86_400);
    let fresh = fresh_of(false, "other").await;
    std::fs::create_dir(f.dir.path().join("runs/.pruned-left")).unwrap();
    let damaged = fresh_of(false, "other").await;
    std::fs::write(engine.run_directory(damaged).join(journal::FILE), "{}\n").unwrap();
    let week = Duration::from_hours(7 * 24);
    assert_eq!(engine.prune(week).unwrap(), [old]);
    assert_eq!(summary::ids(f.dir.path()).unwrap(), [open, running.id(), fresh, damaged]);
    assert!(!f.dir.path().join("runs/.pruned-left").exists());
    // By a clock that went back, everything ended in the future.
    hands.jump(-86_400 * 30);
    assert!(engine.prune(Duration::ZERO).unwrap().is_empty());
}

/// A lock as other hosts see it.
#[derive(Debug, Default)]
struct Shared(Mutex<Option<RunId>>);

#[async_trait::async_trait]
impl SystemLock for Shared {
    async fn acquire(&self, run: &RunId) -> Result<()> {
        let mut holder = lock(&self.0);
        match *holder {
            Some(other) if other != *run => Err(Error::new(ErrorKind::Locked, format!("held by {other}"))),
            _ => {
                *holder = Some(*run);
                Ok(())
            }
        }
    }

    async fn release(&self, run: &RunId) -> Result<()> {
        lock(&self.0).take_if(|holder| holder == run);
        Ok(())
    }

    async fn holder(&self) -> Result<Option<RunId>> {
        Ok(*lock(&self.0))
    }
}

#[tokio::test]
async fn two_hosts_do_not_act_at_once_and_an_unfinished_run_keeps_its_lock() {
    let (here, there) = (Fixture::new(), Fixture::new());
    let shared = Arc::new(Shared::default());
    let (here_engine, there_engine) =
        (here.engine.clone().system_lock(shared.clone()), there.engine.clone().system_lock(shared.clone()));
    let run = here_engine.start(new_run()).await.unwrap();
    let id = run.id();
    assert_eq!(there_engine.start(new_run()).await.unwrap_err().kind(), ErrorKind::Locked);
    let step = counting(&run, "act", &Counter::default());
    run.execute(async { step.await.and(Err::<(), _>(failed("later"))) }).await.unwrap_err();
    drop(run);
    assert_eq!(shared.holder().await.unwrap(), Some(id));
    assert_eq!(there_engine.start(new_run()).await.unwrap_err().kind(), ErrorKind::Locked);
    let run = here_engine.resume(id).await.unwrap();
    run.execute(async { Ok(()) }).await.unwrap();
    assert_eq!(shared.holder().await.unwrap(), None);
    there_engine.start(new_run()).await.unwrap();
}
