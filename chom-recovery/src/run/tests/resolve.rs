use super::*;

/// What looking at the world shows.
type Seen = Arc<Mutex<Result<Observed<u32>, ErrorKind>>>;

/// A step of which nobody knows whether it happened, with a way to look and, where told, one to derive its output.
async fn unknown(run: Run, seen: Seen, derives: bool) -> Result<u32> {
    let run = run.scope("load");
    counting(&run, "before", &Counter::default()).await?;
    let mut step = run
        .step::<u32>("act")
        .undo(Undo::Unnecessary("a test"))
        .predict(|| 3)
        .reconcile(async move |_| lock(&seen).clone().map_err(|kind| Error::new(kind, "no answer")))
        .run(async |_| Err(Error::new(ErrorKind::Unreachable, "connection lost")));
    if derives {
        step = step.derive(async |_| Ok(9));
    }
    let acted = step.await?;
    counting(&run, "after", &Counter::default()).await?;
    Ok(acted)
}

async fn stopped(f: &Fixture, seen: &Seen, derives: bool) -> RunId {
    let (id, result) = f.run(|run| unknown(run, seen.clone(), derives)).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    id
}

fn seen(what: Result<Observed<u32>, ErrorKind>) -> Seen {
    Arc::new(Mutex::new(what))
}

fn says(verdict: Verdict, output: Option<Value>) -> Word {
    Word { verdict, output, because: "the DBA looked".into() }
}

async fn resolve(f: &Fixture, id: RunId, word: Word, seen: &Seen, derives: bool) -> Result<Resolution> {
    f.engine.resolve(id, "load/act", word, |run| unknown(run, seen.clone(), derives)).await
}

#[tokio::test]
async fn what_is_seen_need_not_be_typed_and_is_not_overruled() {
    let f = Fixture::new();
    let seen = seen(Ok(Observed::Applied(5)));
    let id = stopped(&f, &seen, false).await;
    let no = resolve(&f, id, says(Verdict::NotApplied, None), &seen, false).await.unwrap_err();
    assert_eq!(no.kind(), ErrorKind::Conflict);
    assert!(no.message().contains("it can be seen that `load/act` took effect"), "{no}");
    let yes = resolve(&f, id, says(Verdict::Applied, None), &seen, false).await.unwrap();
    assert_eq!((yes.output, yes.source), (5.into(), OutputSource::Seen));
    assert_eq!(f.resume(id, |run| unknown(run, seen.clone(), false)).await.unwrap(), 5);
}

#[tokio::test]
async fn an_effect_that_is_seen_to_be_missing_is_not_vouched_for() {
    let f = Fixture::new();
    let seen = seen(Ok(Observed::NotApplied));
    let id = stopped(&f, &seen, false).await;
    for output in [None, Some(1.into())] {
        let yes = resolve(&f, id, says(Verdict::Applied, output), &seen, false).await.unwrap_err();
        assert_eq!(yes.kind(), ErrorKind::Conflict, "{yes}");
    }
    let no = resolve(&f, id, says(Verdict::NotApplied, None), &seen, false).await.unwrap();
    assert_eq!((no.output, no.source), (Value::Null, OutputSource::Nothing));
    assert_eq!(f.summary(id).steps[1].status, StepStatus::NotApplied);
}

#[tokio::test]
async fn where_nothing_can_be_seen_the_output_is_derived_or_asked_for_by_its_form() {
    let f = Fixture::new();
    let seen = seen(Ok(Observed::Partial("3 of 7 tables".into())));
    let id = stopped(&f, &seen, false).await;
    let needs = resolve(&f, id, says(Verdict::Applied, None), &seen, false).await.unwrap_err();
    assert_eq!(needs.kind(), ErrorKind::InvalidInput);
    assert!(needs.to_string().contains("for example: 3"), "{needs}");
    assert!(needs.hint_text().unwrap().contains("--output"), "{needs:?}");
    let wrong = resolve(&f, id, says(Verdict::Applied, Some("three".into())), &seen, false).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidInput, "{wrong}");
    let derived = resolve(&f, id, says(Verdict::Applied, None), &seen, true).await.unwrap();
    assert_eq!((derived.output, derived.source), (9.into(), OutputSource::Derived));
    // Said again, before it is gone on with: the last word counts.
    let given = resolve(&f, id, says(Verdict::Applied, Some(4.into())), &seen, true).await.unwrap();
    assert_eq!(given.source, OutputSource::Given);
    assert_eq!(f.resume(id, |run| unknown(run, seen.clone(), true)).await.unwrap(), 4);
}

#[tokio::test]
async fn while_the_world_does_not_answer_nobodys_word_is_taken() {
    let f = Fixture::new();
    let seen = seen(Err(ErrorKind::Unreachable));
    let id = stopped(&f, &seen, true).await;
    let before = f.summary(id);
    for verdict in [Verdict::Applied, Verdict::NotApplied] {
        let error = resolve(&f, id, says(verdict, None), &seen, true).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        assert!(error.message().contains("cannot look whether `load/act` took effect"), "{error}");
    }
    assert_eq!(f.summary(id), before, "nothing was recorded");
    // An error that will not go away must not keep the run for ever.
    *lock(&seen) = Err(ErrorKind::NotFound);
    resolve(&f, id, says(Verdict::Applied, None), &seen, true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn code_that_no_longer_has_the_step_settles_nothing() {
    let f = Fixture::new();
    let seen = seen(Ok(Observed::NotApplied));
    let id = stopped(&f, &seen, false).await;
    let gone = f.engine.resolve(id, "load/act", says(Verdict::NotApplied, None), async |_| Ok(())).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Conflict, "{gone}");
    let waits = |_| std::future::pending::<Result<()>>();
    let stuck = f.engine.resolve(id, "load/act", says(Verdict::NotApplied, None), waits).await.unwrap_err();
    assert_eq!(stuck.kind(), ErrorKind::Conflict, "{stuck}");
    resolve(&f, id, says(Verdict::NotApplied, None), &seen, false).await.unwrap();
}
