//! Kills runs at every place and checks what the engine promises.

use std::{path::Path, sync::Arc, time::Duration};

use chom_recovery::{
    Error, ErrorKind, Result,
    run::{
        AlwaysYes, Approvable, Effect, Engine, NewRun, Observed, Run, RunId, StepCx, Undo,
        summary::{self, RunStatus, RunSummary},
    },
    testing::{
        kill::{Kills, Promises, TakenUp, is_unknown, kill_matrix, resolve_all, take_up},
        world::World,
    },
};

struct Swap;

impl Approvable for Swap {
    const NAME: &'static str = "swap";
}

fn engine(directory: &Path) -> Engine {
    Engine::new(directory.join("state")).operator("tester").approver(Arc::new(AlwaysYes { by: "tester".into() }))
}

/// The world before anything happened; a process that comes later finds it as it is.
fn world(directory: &Path) -> World {
    let world = World::open(directory.join("world")).unwrap();
    if !directory.join("made").exists() {
        std::fs::write(world.root().join("live"), "old").unwrap();
        std::fs::write(world.root().join("workers"), "up").unwrap();
        std::fs::write(directory.join("made"), "").unwrap();
    }
    world
}

fn new_run() -> NewRun {
    NewRun::new("chom", "swap", &"old to new").unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// A recovery in small: every effect class, with reconciliation where `looks`.
async fn recover(run: Run, world: World, looks: bool, fails: bool) -> Result<String> {
    let run = run.scope("recover").budget(Duration::from_mins(1));
    // An observation is made again on resume, when it may see what the run did meanwhile; a decision stays.
    let w = world.clone();
    let assess = run.step::<Option<String>>("assess").effect(Effect::Observe).run(async move |_| Ok(w.get("live")?));
    let before = run.decide("from", async { assess.await }).await?;

    let (w, u) = (world.clone(), world.clone());
    run.step("stop-workers")
        .effect(Effect::Idempotent)
        .undo_with(async move |_: StepCx, _: Option<()>| Ok(u.put("workers", "up")?))
        .run(async move |_| Ok(w.put("workers", "down")?))
        .await?;

    let (w, u, r, d) = (world.clone(), world.clone(), world.clone(), world.clone());
    let mut load = run
        .step("load-beside")
        .effect(Effect::Once)
        .input(&before)
        .derive(async move |_| Ok(d.count("beside")?))
        .undo_with(async move |_: StepCx, _: Option<u32>| Ok(u.remove("beside#1")?))
        .run(async move |cx: StepCx| {
            cx.note("loading");
            Ok(w.count_up("beside")?)
        });
    if looks {
        load = load.reconcile(async move |_| {
            Ok(match r.count("beside")? {
                0 => Observed::NotApplied,
                n => Observed::Applied(n),
            })
        });
    }
    assert_eq!(load.await?, 1, "loaded once");

    let (w, u) = (world.clone(), world.clone());
    run.step("fill")
        .effect(Effect::Idempotent)
        .undo_with(async move |_: StepCx, _: Option<()>| Ok(u.remove("candidate")?))
        .verify(async move |cx: StepCx, _| cx.attach("log.txt", b"filled").await)
        .run(async move |_| Ok(w.put("candidate", "new")?))
        .await?;

    let approval = run.approve::<Swap>("put the new in the place of the old").await?;
    let (w, u, r, v) = (world.clone(), world.clone(), world.clone(), world.clone());
    let mut swap = run
        .step("swap")
        .effect(Effect::Destructive)
        .approved(approval)
        .undo_with(async move |_: StepCx, _: Option<()>| {
            // The goal decides, not what is thought to have happened.
            if u.get("live")?.as_deref() == Some("new") {
                u.exchange("live", "candidate")?;
            }
            Ok(())
        })
        .verify(async move |_, _| match v.get("live")?.as_deref() {
            Some("new") => Ok("live is new"),
            other => Err(Error::new(ErrorKind::Unhealthy, format!("live is {other:?}"))),
        })
        .run(async move |_| Ok(w.exchange("live", "candidate")?));
    if looks {
        swap = swap.reconcile(async move |_| {
            Ok(match r.get("live")?.as_deref() {
                Some("old") => Observed::NotApplied,
                Some("new") => Observed::Applied(()),
                other => Observed::CannotTell(format!("live is {other:?}")),
            })
        });
    }
    swap.await?;

    if fails {
        return Err(Error::new(ErrorKind::Failed, "the new one does not work"));
    }
    let w = world.clone();
    run.step("start-workers")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("stop-workers puts them up"))
        .run(async move |_| Ok(w.put("workers", "up")?))
        .await?;
    Ok(world.get("live")?.unwrap_or_default())
}

/// Old data exists, the live place is never empty, the journal is whole.
fn always(directory: &Path, what: &impl std::fmt::Debug) {
    let world = world(directory);
    let (live, candidate) = (world.get("live").unwrap(), world.get("candidate").unwrap());
    assert!(live.is_some(), "{what:?}: the live place is empty");
    assert!([&live, &candidate].contains(&&Some("old".into())), "{what:?}: the old data is gone");
    assert!(world.count("beside").unwrap() <= 1, "{what:?}: loaded twice");
    for (id, run) in summary::list(&directory.join("state")).unwrap() {
        if let Err(e) = run {
            assert_eq!(e.kind(), ErrorKind::NotFound, "{what:?}: {id}: {e}");
        }
    }
}

fn newest(directory: &Path) -> Option<(RunId, RunSummary)> {
    let runs = summary::list(&directory.join("state")).unwrap();
    runs.into_iter().filter_map(|(id, run)| Some((id, run.ok()?))).next_back()
}

fn swapped_once(directory: &Path) {
    let world = world(directory);
    assert_eq!(world.get("live").unwrap().as_deref(), Some("new"));
    assert_eq!(world.get("candidate").unwrap().as_deref(), Some("old"), "the old data is kept");
    assert_eq!(world.get("workers").unwrap().as_deref(), Some("up"));
    assert_eq!(world.count("beside").unwrap(), 1, "what must happen once happened once");
    assert_eq!(newest(directory).unwrap().1.status, RunStatus::Succeeded);
}

fn work(directory: &Path) {
    block_on(async {
        let world = world(directory);
        match take_up(&engine(directory), new_run()).await.unwrap() {
            TakenUp::Finished(_) => {}
            TakenUp::Run(run) => {
                assert_eq!(run.execute(recover(run.clone(), world, true, false)).await.unwrap(), "new");
            }
        }
    });
}

#[test]
fn a_run_killed_anywhere_goes_on_and_nothing_happens_twice() {
    let places = kill_matrix(
        "a_run_killed_anywhere_goes_on_and_nothing_happens_twice",
        Kills::Once,
        &Promises { begin: &|_| {}, work: &work, always: &|d, crash| always(d, crash), at_end: &swapped_once },
    );
    for place in ["before step_intent", "before sync", "body ended", "after step_done", "after exchange"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[test]
fn a_run_killed_twice_anywhere_goes_on_and_nothing_happens_twice() {
    /// Smaller, since its places are squared: one effect that must not be repeated.
    fn work(directory: &Path) {
        block_on(async {
            let (w, r) = (world(directory), world(directory));
            let TakenUp::Run(run) = take_up(&engine(directory), new_run()).await.unwrap() else { return };
            let step = run
                .step("load")
                .undo(Undo::Pivot)
                .reconcile(async move |_| {
                    Ok(match r.count("beside")? {
                        0 => Observed::NotApplied,
                        n => Observed::Applied(n),
                    })
                })
                .verify(async move |_, n: Arc<u32>| if *n == 1 { Ok(()) } else { Err(bad()) })
                .run(async move |_| Ok(w.count_up("beside")?));
            assert_eq!(run.execute(async { step.await }).await.unwrap(), 1);
        });
    }
    fn bad() -> Error {
        Error::new(ErrorKind::Corrupt, "loaded twice")
    }
    let at_end = |d: &Path| assert_eq!(world(d).count("beside").unwrap(), 1);
    let places = kill_matrix(
        "a_run_killed_twice_anywhere_goes_on_and_nothing_happens_twice",
        Kills::Twice,
        &Promises { begin: &|_| {}, work: &work, always: &|d, crash| always(d, crash), at_end: &at_end },
    );
    assert!(places.len() > 10, "{places:?}");
}

#[test]
fn where_nothing_can_tell_the_run_stops_and_a_person_settles_it() {
    fn work(directory: &Path) {
        block_on(async {
            let (engine, w) = (engine(directory), world(directory));
            let look = |step: &str| match step {
                "recover/load-beside" => w.count("beside").unwrap() == 1,
                "recover/swap" => w.get("live").unwrap().as_deref() == Some("new"),
                other => panic!("{other} can be run again and is asked about"),
            };
            // A process killed while it stopped leaves the question to this one.
            for _ in 0..3 {
                let TakenUp::Run(run) = take_up(&engine, new_run()).await.unwrap() else { return };
                let id = run.id();
                let result = run.execute(recover(run.clone(), w.clone(), false, false)).await;
                drop(run);
                match result {
                    Ok(live) => return assert_eq!(live, "new"),
                    Err(e) => {
                        assert!(is_unknown(&e), "{e}");
                        assert!(e.hint_text().unwrap().contains("chom-recovery resolve"), "{e:?}");
                        let again = |run| recover(run, w.clone(), false, false);
                        assert_eq!(resolve_all(&engine, id, look, again).await.unwrap(), 1);
                    }
                }
            }
            panic!("more than one question");
        });
    }
    kill_matrix(
        "where_nothing_can_tell_the_run_stops_and_a_person_settles_it",
        Kills::Once,
        &Promises { begin: &|_| {}, work: &work, always: &|d, crash| always(d, crash), at_end: &swapped_once },
    );
}

fn as_before(directory: &Path) {
    let world = world(directory);
    let all: Vec<_> = world.all().unwrap().into_iter().collect();
    assert_eq!(all, [("live".to_owned(), "old".to_owned()), ("workers".to_owned(), "up".to_owned())]);
    assert_eq!(newest(directory).unwrap().1.status, RunStatus::RolledBack);
}

#[test]
fn a_rollback_killed_anywhere_goes_on_to_the_world_as_it_was() {
    fn work(directory: &Path) {
        block_on(async {
            let (engine, w) = (engine(directory), world(directory));
            if newest(directory).is_none_or(|(_, run)| run.steps.is_empty()) {
                let run = match newest(directory) {
                    Some((id, _)) => engine.resume(id).await.unwrap(),
                    None => engine.start(new_run()).await.unwrap(),
                };
                run.execute(recover(run.clone(), w.clone(), true, true)).await.unwrap_err();
            }
            let (id, run) = newest(directory).unwrap();
            if run.status != RunStatus::RolledBack {
                engine.roll_back(id, "a test", |run| recover(run, w, true, true)).await.unwrap();
            }
        });
    }
    let places = kill_matrix(
        "a_rollback_killed_anywhere_goes_on_to_the_world_as_it_was",
        Kills::Once,
        &Promises { begin: &|_| {}, work: &work, always: &|d, crash| always(d, crash), at_end: &as_before },
    );
    for place in ["after undo_intent", "undo ended", "before undo_done"] {
        assert!(places.iter().any(|p| p == place), "{place} is not among {places:?}");
    }
}

#[test]
fn a_killed_run_rolls_back_from_wherever_it_was() {
    fn work(directory: &Path) {
        block_on(async {
            let (engine, w) = (engine(directory), world(directory));
            match newest(directory) {
                None => {
                    let run = engine.start(new_run()).await.unwrap();
                    run.execute(recover(run.clone(), w, true, false)).await.unwrap();
                    // Not killed: the matrix is at its end, and a finished run rolls back as well.
                    let id = run.id();
                    drop(run);
                    engine.roll_back(id, "a test", |run| recover(run, world(directory), true, false)).await.unwrap();
                }
                Some((_, run)) if run.status == RunStatus::RolledBack => {}
                Some((id, _)) => {
                    engine.roll_back(id, "a test", |run| recover(run, w, true, false)).await.unwrap();
                }
            }
        });
    }
    kill_matrix(
        "a_killed_run_rolls_back_from_wherever_it_was",
        Kills::Once,
        &Promises { begin: &|_| {}, work: &work, always: &|d, crash| always(d, crash), at_end: &as_before },
    );
}

/// The other process of the test below: begins a run, acts, and waits until it is killed.
const HOLDER: &str = "CHOM_TEST_HOLDER";

#[test]
fn a_second_process_is_refused_and_takes_over_only_by_resuming_after_the_first_has_died() {
    const NAME: &str = "a_second_process_is_refused_and_takes_over_only_by_resuming_after_the_first_has_died";
    let procedure = async |run: Run, ready: Option<std::path::PathBuf>| -> Result<u32> {
        let n = run.step("act").undo(Undo::Pivot).run(async |_| Ok(1)).await?;
        if let Some(ready) = ready {
            std::fs::write(ready, "")?;
            std::future::pending::<()>().await;
        }
        Ok(n)
    };
    if let Ok(directory) = std::env::var(HOLDER) {
        let directory = Path::new(&directory);
        block_on(async {
            let run = engine(directory).start(new_run()).await.unwrap();
            run.execute(procedure(run.clone(), Some(directory.join("ready")))).await.unwrap();
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let mut holder = std::process::Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(HOLDER, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !dir.path().join("ready").exists() {
        assert!(std::time::Instant::now() < deadline, "the other process did not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (id, run) = newest(dir.path()).unwrap();
    assert_eq!(run.status, RunStatus::Running);
    block_on(async {
        let engine = engine(dir.path());
        for refused in [engine.start(new_run()).await.unwrap_err(), engine.resume(id).await.unwrap_err()] {
            assert_eq!(refused.kind(), ErrorKind::Locked, "{refused}");
            assert!(refused.to_string().contains(&id.to_string()), "{refused}");
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(newest(dir.path()).unwrap().1.status, RunStatus::Interrupted);
        assert_eq!(engine.start(new_run()).await.unwrap_err().kind(), ErrorKind::Locked, "it is unfinished");
        let run = engine.resume(id).await.unwrap();
        assert_eq!(run.execute(procedure(run.clone(), None)).await.unwrap(), 1);
        drop(run);
        engine.start(new_run()).await.unwrap();
    });
}
