//! Tests of the engine in one process; `tests/kill.rs` has those that kill it.

use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use sha2::Digest;

use super::{
    summary::{RunStatus, RunSummary, StepStatus},
    *,
};
use crate::secret::Secret;

mod people;
mod plan;
mod resolve;
mod time;
mod undo;

/// Counts how often something ran.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicU32>);

impl Counter {
    fn bump(&self) -> u32 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    engine: Engine,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::new(dir.path()).operator("tester");
        Self { dir, engine }
    }

    /// Runs a procedure as a new run.
    async fn run<T, Fut>(&self, procedure: impl FnOnce(Run) -> Fut) -> (RunId, Result<T>)
    where
        Fut: Future<Output = Result<T>>,
    {
        let run = self.engine.start(new_run()).await.unwrap();
        (run.id(), run.execute(procedure(run.clone())).await)
    }

    /// Takes a run up again.
    async fn resume<T, Fut>(&self, id: RunId, procedure: impl FnOnce(Run) -> Fut) -> Result<T>
    where
        Fut: Future<Output = Result<T>>,
    {
        let run = self.engine.resume(id).await?;
        run.execute(procedure(run.clone())).await
    }

    fn summary(&self, id: RunId) -> RunSummary {
        RunSummary::read(self.dir.path(), id).unwrap()
    }
}

fn new_run() -> NewRun {
    NewRun::new("chom", "test", &()).unwrap()
}

fn failed(text: &str) -> Error {
    Error::new(ErrorKind::Failed, text)
}

/// A step that counts, with nothing to undo.
fn counting(run: &Run, name: &str, count: &Counter) -> Step<u32> {
    let count = count.clone();
    run.step(name).undo(Undo::Unnecessary("a test")).run(async move |_| Ok(count.bump()))
}

#[tokio::test]
async fn a_done_step_is_not_run_again_and_gives_its_recorded_output() {
    let f = Fixture::new();
    let count = Counter::default();
    let (id, result) = f
        .run(async |run| {
            counting(&run, "act", &count).await?;
            Err::<u32, _>(failed("later"))
        })
        .await;
    assert_eq!(result.unwrap_err().message(), "later");
    assert_eq!(f.summary(id).status, RunStatus::Failed);
    assert_eq!(f.resume(id, async |run| counting(&run, "act", &count).await).await.unwrap(), 1);
    assert_eq!(count.get(), 1);
    let error = f.engine.resume(id).await.unwrap_err();
    assert_eq!((error.kind(), error.hint_text()), (ErrorKind::Conflict, Some("begin a new one")));
}

#[tokio::test]
async fn another_input_version_or_effect_than_recorded_is_a_conflict_and_not_a_reuse() {
    let f = Fixture::new();
    let count = Counter::default();
    let (id, _) = f
        .run(async |run| {
            counting(&run, "act", &count).input(&"tuesday").await?;
            Err::<u32, _>(failed("later"))
        })
        .await;
    for change in [
        (|step: Step<u32>| step.input(&"wednesday")) as fn(Step<u32>) -> Step<u32>,
        |step| step,
        |step| step.input(&"tuesday").version(2),
        |step| step.input(&"tuesday").effect(Effect::Idempotent),
    ] {
        let error = f.resume(id, async |run| change(counting(&run, "act", &count)).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    assert_eq!(count.get(), 1);
}

#[tokio::test]
async fn an_observation_is_made_again_and_a_decision_is_not() {
    let f = Fixture::new();
    let count = Counter::default();
    let procedure = async |run: Run, fails: bool| {
        let observed = counting(&run, "look", &count).effect(Effect::Observe).await?;
        let decided = run.decide("branch", async { Ok(observed) }).await?;
        if fails { Err(failed("later")) } else { Ok((observed, decided)) }
    };
    let (id, _) = f.run(|run| procedure(run, true)).await;
    assert_eq!(f.resume(id, |run| procedure(run, false)).await.unwrap(), (2, 1));
}

#[tokio::test]
async fn an_observation_that_is_kept_is_made_once_and_again_only_where_it_failed() {
    let f = Fixture::new();
    let count = Counter::default();
    let procedure = async |run: Run, input: u32, ends: Option<u32>| {
        let count = count.clone();
        let look = run.step("look").effect(Effect::Observe).kept().input(&input);
        let seen = look.run(async move |_| if count.bump() == 1 { Err(failed("gone")) } else { Ok(count.get()) });
        let seen = seen.await?;
        if ends == Some(seen) { Ok(seen) } else { Err(failed("later")) }
    };
    let (id, failure) = f.run(|run| procedure(run, 1, None)).await;
    assert_eq!(failure.unwrap_err().message(), "gone");
    assert_eq!(f.resume(id, |run| procedure(run, 1, None)).await.unwrap_err().message(), "later");
    assert_eq!(f.resume(id, |run| procedure(run, 2, None)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.resume(id, |run| procedure(run, 1, Some(2))).await.unwrap(), 2);
    assert_eq!(count.get(), 2);
}

#[tokio::test]
async fn two_steps_of_one_name_are_refused_and_keys_tell_them_apart() {
    let f = Fixture::new();
    let count = Counter::default();
    let (_, result) = f
        .run(async |run| {
            for host in ["a", "b"] {
                counting(&run, "reload", &count).key(host).await?;
            }
            counting(&run.scope("inner"), "reload", &count).await?;
            counting(&run, "reload", &count).key("a").await
        })
        .await;
    assert!(result.unwrap_err().message().contains("`reload[a]` occurs twice"));
    assert_eq!(count.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_step_out_of_time_is_unknown_unless_it_may_be_applied_twice() {
    let f = Fixture::new();
    for (effect, kind, status) in [
        (Effect::Once, ErrorKind::OutcomeUnknown, RunStatus::Paused),
        (Effect::Idempotent, ErrorKind::Timeout, RunStatus::Failed),
        (Effect::Observe, ErrorKind::Timeout, RunStatus::Failed),
    ] {
        let (id, result) = f
            .run(async |run| {
                run.step::<()>("hang")
                    .effect(effect)
                    .undo(Undo::Unnecessary("a test"))
                    .timeout(Duration::from_secs(5))
                    .run(async |_| std::future::pending().await)
                    .await
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), kind, "{effect:?}");
        assert_eq!(f.summary(id).status, status, "{effect:?}");
        f.engine.abandon(id, "next").await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_is_an_unknown_outcome_and_reconciled_on_resume() {
    let f = Fixture::new();
    let procedure = async |run: Run| {
        run.step::<u32>("act")
            .undo(Undo::Unnecessary("a test"))
            .reconcile(async |cx: StepCx| Ok(Observed::Applied(cx.attempt() + 41)))
            .run(async |_| panic!("out of cheese"))
            .await
    };
    let (id, result) = f.run(procedure).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert!(error.to_string().contains("out of cheese"), "{error}");
    assert_eq!(f.summary(id).unknown_steps().count(), 1);
    assert_eq!(f.resume(id, procedure).await.unwrap(), 42);
    assert_eq!(f.summary(id).steps[0].how, Some(record::Done::Reconciled));
}

#[tokio::test]
async fn a_panic_of_the_procedure_is_recorded_too() {
    let f = Fixture::new();
    let (id, result) = f.run(async |_| if f.dir.path().exists() { panic!("oh") } else { Ok(()) }).await;
    assert_eq!(result.unwrap_err().message(), "the procedure panicked: oh");
    assert_eq!(f.summary(id).status, RunStatus::Failed);
}

#[tokio::test]
async fn an_effect_applied_in_part_waits_for_a_person() {
    let f = Fixture::new();
    let count = Counter::default();
    let procedure = async |run: Run| {
        let count = count.clone();
        run.step::<u32>("act")
            .undo(Undo::Unnecessary("a test"))
            .reconcile(async |_| Ok(Observed::Partial("3 of 7 tables".into())))
            .run(async move |_| {
                count.bump();
                Err(Error::new(ErrorKind::Unreachable, "connection lost"))
            })
            .await
    };
    let (id, _) = f.run(procedure).await;
    let error = f.resume(id, procedure).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    assert!(error.message().contains("3 of 7 tables"), "{error}");
    let says = |verdict, output| Word { verdict, output, because: "saw it".into() };
    let refused = f.engine.resolve(id, "nothing", says(Verdict::Applied, None), procedure).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    let settled = f.engine.resolve(id, "act", says(Verdict::Applied, Some(7.into())), procedure).await.unwrap();
    assert_eq!((settled.output, settled.source), (7.into(), OutputSource::Given));
    assert_eq!(f.resume(id, procedure).await.unwrap(), 7);
    assert_eq!(count.get(), 1);
    let error = f.engine.resolve(id, "act", says(Verdict::NotApplied, None), procedure).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_failed_verification_is_repeated_without_acting_again() {
    let f = Fixture::new();
    let (acts, checks) = (Counter::default(), Counter::default());
    let procedure = async |run: Run| {
        let checks = checks.clone();
        counting(&run, "act", &acts)
            .retry(3, Duration::ZERO)
            .verify(async move |_, n: Arc<u32>| match checks.bump() {
                1 => Err(Error::new(ErrorKind::Unhealthy, "not yet")),
                _ => Ok(format!("saw {n}")),
            })
            .await
    };
    let (id, result) = f.run(procedure).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Unhealthy);
    assert_eq!(f.summary(id).steps[0].status, StepStatus::Unverified);
    assert_eq!(f.resume(id, procedure).await.unwrap(), 1);
    assert_eq!((acts.get(), checks.get()), (1, 2));
    assert_eq!(f.summary(id).steps[0].evidence, Some("saw 1".into()));
}

#[tokio::test(start_paused = true)]
async fn a_definite_failure_is_retried_with_growing_pauses_and_a_bad_request_is_not() {
    let f = Fixture::new();
    let count = Counter::default();
    let begun = tokio::time::Instant::now();
    let (id, result) = f
        .run(async |run| {
            let count = count.clone();
            run.step("act")
                .undo(Undo::Unnecessary("a test"))
                .retry(3, Duration::from_secs(10))
                .run(async move |_| if count.bump() < 3 { Err(failed("not now")) } else { Ok(()) })
                .await
        })
        .await;
    result.unwrap();
    assert_eq!(f.summary(id).steps[0].attempts, 3);
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
    let count = Counter::default();
    let (_, result) = f
        .run(async |run| {
            let count = count.clone();
            run.step::<()>("act")
                .undo(Undo::Unnecessary("a test"))
                .retry(3, Duration::ZERO)
                .run(async move |_| {
                    count.bump();
                    Err(Error::new(ErrorKind::InvalidInput, "no such table"))
                })
                .await
        })
        .await;
    assert_eq!((result.unwrap_err().kind(), count.get()), (ErrorKind::InvalidInput, 1));
}

#[tokio::test]
async fn cancelled_in_the_middle_of_a_step_the_run_stops_behind_it_and_can_be_resumed() {
    let f = Fixture::new();
    let count = Counter::default();
    let (id, result) = f
        .run(async |run| {
            let cancel = run.cancellation();
            let c = count.clone();
            run.step("first")
                .undo(Undo::Unnecessary("a test"))
                .run(async move |cx: StepCx| {
                    cancel.cancel();
                    cx.cancelled().await;
                    Ok(c.bump())
                })
                .await?;
            counting(&run, "second", &count).await
        })
        .await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    let summary = f.summary(id);
    assert_eq!((summary.status, summary.steps.len()), (RunStatus::Paused, 1));
    assert_eq!(summary.steps[0].status, StepStatus::Done);
    let result = f
        .resume(id, async |run| {
            counting(&run, "first", &count).await?;
            counting(&run, "second", &count).await
        })
        .await;
    assert_eq!((result.unwrap(), count.get()), (2, 2));
}

#[tokio::test]
async fn dropping_the_future_of_a_run_does_not_abandon_the_step_that_has_begun() {
    let f = Fixture::new();
    let run = f.engine.start(new_run()).await.unwrap();
    let id = run.id();
    let (begun, wait) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (b, w) = (begun.clone(), wait.clone());
    let step = run.step("act").undo(Undo::Unnecessary("a test")).run(async move |_| {
        b.notify_one();
        w.notified().await;
        Ok(1)
    });
    tokio::select! {
        _ = run.execute(async { step.await }) => panic!("the step has not been let go"),
        () = begun.notified() => {}
    }
    assert_eq!(f.engine.resume(id).await.unwrap_err().kind(), ErrorKind::Locked);
    wait.notify_one();
    run.inner.settle_tasks().await;
    drop(run);
    let summary = f.summary(id);
    assert_eq!((summary.status, summary.steps[0].status), (RunStatus::Interrupted, StepStatus::Done));
}

#[tokio::test]
async fn secrets_reach_neither_journal_nor_evidence_nor_events() {
    let f = Fixture::new();
    let secret = Secret::new("canary-of-the-run");
    let run = f.engine.start(NewRun::new("chom", "test", &secret.expose()).unwrap()).await.unwrap();
    let id = run.id();
    let events = run.events();
    let text = format!("-p{}", secret.expose());
    let step =
        run.step("act").effect(Effect::Idempotent).undo(Undo::Unnecessary("a test")).run(async move |cx: StepCx| {
            cx.note(&text);
            cx.attach("argv.txt", text.as_bytes()).await?;
            cx.attach("argv.bin", &[text.as_bytes(), &[0xff]].concat()).await?;
            Err::<String, _>(failed(&text))
        });
    run.execute(async { step.await }).await.unwrap_err();
    drop(run);
    let mut all = format!("{:?}", events.collect::<Vec<_>>().await);
    let mut files = 0;
    let mut folders = vec![f.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                files += 1;
                all += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap());
            }
        }
    }
    assert!(files >= 4, "journal, reserve, two pieces of evidence");
    assert!(!all.contains("canary-of-the-run"));
    let summary = f.summary(id);
    assert_eq!(summary.attachments.len(), 2);
    for attachment in summary.attachments {
        let bytes = std::fs::read(f.engine.run_directory(id).join(&attachment.file)).unwrap();
        assert_eq!(hex::encode(sha2::Sha256::digest(&bytes)), attachment.sha256);
    }
}

#[tokio::test]
async fn events_tell_the_course_of_a_run() {
    let f = Fixture::new();
    let run = f.engine.start(new_run()).await.unwrap();
    let events = run.events();
    let step = run.scope("load").step("act").undo(Undo::Unnecessary("a test")).run(async |cx: StepCx| {
        cx.progress(1 << 20, Some(1 << 20));
        Ok(())
    });
    run.execute(async { step.await }).await.unwrap();
    let types: Vec<_> =
        events.map(|e| serde_json::to_value(e).unwrap()["type"].as_str().unwrap().to_owned()).collect().await;
    assert_eq!(types, ["step_started", "progress", "step_done", "run_ended"]);
}
