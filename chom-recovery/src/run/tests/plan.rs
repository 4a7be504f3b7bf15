use super::*;

struct Swap;

impl Approvable for Swap {
    const NAME: &'static str = "swap";
}

async fn procedure(run: Run, world: Counter, looks: Counter) -> Result<u32> {
    let seen = counting(&run, "look", &looks).effect(Effect::Observe).budget(Duration::from_secs(1)).await?;
    run.decide("branch", async { Ok(seen > 0) }).await?;
    let (w, undo) = (world.clone(), world.clone());
    run.step("load")
        .budget(Duration::from_mins(10))
        .estimate(Duration::from_secs(50))
        .undo_with(async move |_, _| {
            undo.bump();
            Ok(())
        })
        .undo_text("removes the candidate")
        .predict(|| 1)
        .run(async move |_| Ok(w.bump()))
        .await?;
    // What is not there yet cannot be looked at: the prediction stands in.
    let l = looks.clone();
    run.step::<u32>("look-at-it").effect(Effect::Observe).predict(|| 7).run(async move |_| Ok(100 + l.bump())).await?;
    let approval = run.approve::<Swap>("swap it in").await?;
    let swap = counting(&run, "swap", &world).effect(Effect::Destructive).approved(approval);
    let swapped = swap.undo(Undo::Pivot).await?;
    counting(&run, "after", &world).await?;
    Ok(swapped)
}

#[tokio::test]
async fn a_plan_looks_for_real_changes_nothing_and_says_where_it_ends() {
    let f = Fixture::new();
    let (world, looks) = (Counter::default(), Counter::default());
    let new = new_run().objective(Objective::minutes(1, 1));
    let plan = f.engine.plan(&new, |run| procedure(run, world.clone(), looks.clone())).await.unwrap();
    assert_eq!((world.get(), looks.get()), (0, 1));
    assert_eq!(std::fs::read_dir(f.dir.path()).unwrap().count(), 0, "a plan leaves no file");
    let kinds: Vec<_> =
        plan.items.iter().map(|i| serde_json::to_value(i).unwrap()["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["step", "decision", "step", "step", "approval", "step"]);
    assert_eq!(plan.boundary.as_deref(), Some("swap"));
    let effects: Vec<_> = plan.effects().collect();
    assert_eq!(effects.len(), 2);
    assert_eq!(effects[0].undo, UndoPlan::With { text: "removes the candidate".into() });
    assert_eq!(effects[0].predicted, Some(1.into()));
    assert!(effects[1].needs_approval && effects[1].undo == UndoPlan::Pivot);
    let look = plan.items[0].estimate().unwrap();
    assert_eq!(look.basis, Basis::Observed, "it was done");
    assert_eq!((plan.estimate_ms - look.ms, plan.fits_rto()), (50_000, Some(true)));
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

/// Loads `bytes`, serves, and tidies up for an hour.
async fn slow(run: Run, bytes: u64) -> Result<()> {
    let sleep = |run: &Run, name: &str, seconds: u64| {
        run.step(name)
            .effect(Effect::Idempotent)
            .undo(Undo::Unnecessary("a test"))
            .predict(|| ())
            .budget(Duration::from_mins(10))
            .run(async move |_| {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Ok(())
            })
    };
    let work = Work::new(bytes, 1_000).fixed(Duration::from_secs(10));
    sleep(&run, "load", 5 + bytes / 2_000).work(work).await?;
    run.until_healthy(Arc::new(Fine), Wait::new(Duration::from_secs(2), 3, Duration::from_mins(1))).await?;
    sleep(&run, "serve", 1).ends_outage().await?;
    sleep(&run, "tidy-up", 3_600).await
}

#[derive(Debug)]
struct Fine;

#[async_trait::async_trait]
impl crate::probe::HealthProbe for Fine {
    fn name(&self) -> &'static str {
        "fine"
    }

    async fn check(&self) -> crate::probe::Health {
        crate::probe::Health::healthy("fine")
    }
}

#[tokio::test(start_paused = true)]
async fn estimates_come_from_measured_runs_else_from_bytes_else_from_budgets() {
    let f = Fixture::new();
    let new = || new_run().objective(Objective::minutes(5, 1));
    let plan = async |bytes| f.engine.plan(&new(), |run| slow(run, bytes)).await.unwrap();
    let of = |plan: &Plan| plan.items.iter().map(|item| item.estimate().unwrap()).collect::<Vec<_>>();

    let first = plan(20_000).await;
    let minutes = |n: u64| n * 60_000;
    assert_eq!(
        of(&first),
        [
            Estimate { ms: 30_000, basis: Basis::Computed { bytes: 20_000 } },
            Estimate { ms: 4_000, basis: Basis::Expected },
            Estimate { ms: minutes(10), basis: Basis::Budget },
            Estimate { ms: minutes(10), basis: Basis::Budget },
        ]
    );
    assert_eq!((first.outage_ms, first.fits_rto()), (Some(34_000 + minutes(10)), Some(false)));
    assert_eq!(first.budgeted_ms(), minutes(20));

    let (_, ran) = f.run(|run| slow(run, 10_000)).await;
    ran.unwrap();
    // Another procedure and another system have steps of the same name.
    for other in [NewRun::new("chom", "other", &()), NewRun::new("shop", "test", &())] {
        let run = f.engine.start(other.unwrap()).await.unwrap();
        run.execute(slow(run.clone(), 80_000)).await.unwrap();
    }
    let second = plan(50_000).await;
    let measured = Basis::Measured { runs: 1 };
    let estimates = of(&second);
    assert!(estimates.iter().all(|e| e.basis == measured), "{estimates:?}");
    // Half of what is computed, then as now.
    assert_eq!(estimates.iter().map(|e| e.ms / 1000).collect::<Vec<_>>(), [30, 4, 1, 3_600]);
    assert_eq!((second.fits_rto(), second.budgeted_ms()), (Some(true), 0));
    assert_eq!(second.check_same(&plan(10_000).await).map_err(|e| e.kind()), Ok(()), "estimates bind nobody");
}

#[tokio::test]
async fn the_same_plan_has_the_same_hash_and_another_one_is_a_conflict() {
    let f = Fixture::new();
    let (world, looks) = (Counter::default(), Counter::default());
    let first = f.engine.plan(&new_run(), |run| procedure(run, world.clone(), looks.clone())).await.unwrap();
    let again = f.engine.plan(&new_run(), |run| procedure(run, world.clone(), looks.clone())).await.unwrap();
    assert_eq!(first.hash, again.hash, "what was seen differs, what would be done does not");
    first.check_same(&again).unwrap();
    let other = async |run: Run| counting(&run, "load", &world).await;
    let other = f.engine.plan(&new_run(), other).await.unwrap();
    let error = first.check_same(&other).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let mut edited = first.clone();
    edited.items.remove(2);
    assert_eq!(edited.check_same(&first).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn an_effect_that_does_not_say_how_it_is_undone_is_refused_in_plans_and_runs() {
    let f = Fixture::new();
    let careless = async |run: Run| run.step("act").predict(|| 1).run(async |_| Ok(1)).await;
    let planned = f.engine.plan(&new_run(), careless).await.unwrap_err();
    let (_, ran) = f.run(careless).await;
    for error in [planned, ran.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.message(), "step `act` has an effect and does not say how it is undone");
    }
}

#[tokio::test]
async fn an_approval_of_another_plan_does_not_count() {
    let f = Fixture::new();
    let yes = Arc::new(AlwaysYes { by: "lead".into() });
    let engine = f.engine.clone().approver(yes);
    let (world, looks) = (Counter::default(), Counter::default());
    let plan = engine.plan(&new_run(), |run| procedure(run, world.clone(), looks.clone())).await.unwrap();
    let run = engine.start(new_run().planned(&plan)).await.unwrap();
    assert_eq!(run.plan_hash(), plan.hash);
    let approval = run.approve::<Swap>("swap it in").await.unwrap();
    drop(run);
    let run = engine.start(new_run()).await.unwrap();
    let stale = counting(&run, "swap", &world).effect(Effect::Destructive).approved(approval);
    assert_eq!(run.execute(async { stale.await }).await.unwrap_err().kind(), ErrorKind::Conflict);
    drop(run);
    let (_, none) = f.run(async |run| counting(&run, "swap", &world).effect(Effect::Destructive).await).await;
    assert_eq!(none.unwrap_err().message(), "step `swap` is destructive and has no approval");
    assert_eq!(world.get(), 0);
}
