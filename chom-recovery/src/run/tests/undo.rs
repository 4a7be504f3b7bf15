use super::*;

/// Two steps that add their names to a list, and whose undos take them off again.
async fn two(run: Run, list: Arc<Mutex<Vec<String>>>, failing: Counter) -> Result<()> {
    for name in ["first", "second"] {
        let (add, remove, failing) = (list.clone(), list.clone(), failing.clone());
        run.step(name)
            .undo_with(async move |_, output: Option<String>| {
                if name == "first" && failing.bump() == 1 {
                    return Err(failed("volume is in use"));
                }
                let name = output.ok_or_else(|| failed("its outcome is known"))?;
                lock(&remove).retain(|n| *n != name);
                Ok(())
            })
            .run(async move |_| {
                lock(&add).push(name.to_owned());
                Ok(name.to_owned())
            })
            .await?;
    }
    Ok(())
}

/// A counter whose first failure is over.
fn never() -> Counter {
    let counter = Counter::default();
    counter.bump();
    counter
}

#[tokio::test]
async fn undo_runs_latest_first_and_closes_the_run() {
    let f = Fixture::new();
    let list = Arc::default();
    let run = f.engine.start(new_run()).await.unwrap();
    let id = run.id();
    run.execute(two(run.clone(), Arc::clone(&list), never())).await.unwrap();
    assert_eq!(run.roll_back("wrong day").await.unwrap(), ["second", "first"]);
    assert!(run.roll_back("again").await.unwrap().is_empty());
    drop(run);
    assert!(lock(&list).is_empty());
    let summary = f.summary(id);
    assert_eq!(summary.status, RunStatus::RolledBack);
    assert!(summary.steps.iter().all(|s| s.status == StepStatus::Undone));
    assert_eq!(f.engine.resume(id).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn an_undo_that_fails_stops_there_and_a_later_rollback_goes_on() {
    let f = Fixture::new();
    let (list, failing): (Arc<_>, _) = (Arc::default(), Counter::default());
    let (id, result) = f.run(|run| two(run, Arc::clone(&list), failing.clone())).await;
    result.unwrap();
    let procedure = |run| two(run, Arc::clone(&list), failing.clone());
    let error = f.engine.roll_back(id, "wrong day", procedure).await.unwrap_err();
    assert_eq!(error.message(), "cannot undo `first`: volume is in use");
    assert!(error.hint_text().unwrap().contains(&format!("chom-recovery rollback {id}")));
    assert_eq!(f.summary(id).status, RunStatus::RollingBack);
    assert_eq!(*lock(&list), ["first"]);
    // Half unwound, only unwinding goes on.
    assert_eq!(f.engine.resume(id).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.engine.start(new_run()).await.unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(f.engine.roll_back(id, "wrong day", procedure).await.unwrap(), ["first"]);
    assert!(lock(&list).is_empty());
}

#[tokio::test]
async fn behind_a_point_of_no_return_nothing_is_undone() {
    let f = Fixture::new();
    let list = Arc::default();
    let procedure = async |run: Run, pivot_fails: bool| {
        two(run.clone(), Arc::clone(&list), never()).await?;
        let pivot = run.step("open").undo(Undo::Pivot);
        pivot.run(async move |_| if pivot_fails { Err(failed("closed")) } else { Ok(()) }).await
    };
    let (id, _) = f.run(|run| procedure(run, false)).await;
    let error = f.engine.roll_back(id, "wrong day", |run| procedure(run, false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains("`open` is a point of no return"), "{error}");
    assert_eq!(lock(&list).len(), 2);
    assert_eq!(f.summary(id).status, RunStatus::Succeeded, "a refusal changes nothing");
    // One that failed for certain was not passed.
    let (id, _) = f.run(|run| procedure(run, true)).await;
    assert_eq!(f.engine.roll_back(id, "wrong day", |run| procedure(run, true)).await.unwrap().len(), 3 - 1);
}

#[tokio::test(start_paused = true)]
async fn code_that_does_not_know_every_step_undoes_nothing() {
    let f = Fixture::new();
    let list = Arc::default();
    let (id, _) = f.run(|run| two(run, Arc::clone(&list), never())).await;
    let other = async |run: Run| counting(&run, "second-renamed", &Counter::default()).await;
    let error = f.engine.roll_back(id, "wrong day", other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("second, first"), "{error}");
    assert_eq!(lock(&list).len(), 2);
}

#[tokio::test]
async fn the_undo_of_an_unknown_outcome_is_not_given_an_output() {
    let f = Fixture::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let procedure = |run: Run| {
        let seen = Arc::clone(&seen);
        async move {
            run.step::<u32>("act")
                .undo_with(async move |cx: StepCx, output| {
                    lock(&seen).push((output, cx.attempt()));
                    Ok(())
                })
                .run(async |_| Err(Error::new(ErrorKind::Timeout, "no answer")))
                .await
        }
    };
    let (id, result) = f.run(procedure).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    f.engine.roll_back(id, "unknown", procedure).await.unwrap();
    assert_eq!(*lock(&seen), [(None, 1)]);
}

#[tokio::test]
async fn a_run_is_not_unwound_underneath_a_later_one() {
    let f = Fixture::new();
    let list = Arc::default();
    let procedure = |run| two(run, Arc::clone(&list), never());
    let (first, _) = f.run(procedure).await;
    let (second, _) = f.run(procedure).await;
    let error = f.engine.roll_back(first, "wrong day", procedure).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(&second.to_string()), "{error}");
    f.engine.roll_back(second, "wrong day", procedure).await.unwrap();
    f.engine.roll_back(first, "wrong day", procedure).await.unwrap();
}

#[tokio::test]
async fn steps_side_by_side_are_all_undone_although_one_of_them_was_cut_short() {
    let f = Fixture::new();
    let undone = Counter::default();
    let procedure = |run: Run| {
        let undone = undone.clone();
        async move {
            let step = |name: &str, result: Result<u32, ErrorKind>| {
                let undone = undone.clone();
                run.step::<u32>(name)
                    .undo_with(async move |_, _| {
                        undone.bump();
                        Ok(())
                    })
                    .run(async move |_| result.map_err(|kind| Error::new(kind, "cut")))
            };
            let (unknown, done) = (step("unknown", Err(ErrorKind::Unreachable)), step("done", Ok(1)));
            tokio::join!(unknown.into_future(), async {
                done.await?;
                step("after-done", Ok(2)).await
            })
            .1
        }
    };
    let (id, _) = f.run(procedure).await;
    assert_eq!(f.engine.roll_back(id, "a test", procedure).await.unwrap().len(), 3);
    assert_eq!(undone.get(), 3);
}
