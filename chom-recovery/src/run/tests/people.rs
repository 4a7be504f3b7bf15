use async_trait::async_trait;

use super::{ItemVerdict as V, *};
use crate::probe::{Health, HealthProbe};

struct Swap;

impl Approvable for Swap {
    const NAME: &'static str = "swap";
}

async fn swap(run: Run, count: Counter) -> Result<u32> {
    let approval = run.scope("db").approve::<Swap>("swap it in").await?;
    counting(&run, "swap", &count).effect(Effect::Destructive).approved(approval).await
}

#[tokio::test]
async fn without_anybody_to_ask_the_run_pauses_until_somebody_approves() {
    let f = Fixture::new();
    let count = Counter::default();
    let (id, result) = f.run(|run| swap(run, count.clone())).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NeedsConfirmation);
    assert!(error.hint_text().unwrap().contains(&format!("chom-recovery approve {id} db/swap")), "{error:?}");
    assert_eq!(f.summary(id).status, RunStatus::Paused);
    assert_eq!(f.resume(id, |run| swap(run, count.clone())).await.unwrap_err().kind(), ErrorKind::NeedsConfirmation);
    assert_eq!(f.engine.approve(id, Some("other"), "lead").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(f.engine.approve(id, None, "lead").unwrap(), "db/swap");
    assert_eq!(f.resume(id, |run| swap(run, count.clone())).await.unwrap(), 1);
    assert_eq!(f.summary(id).steps[0].approved_by.as_deref(), Some("lead"));
}

#[tokio::test]
async fn a_no_is_recorded_and_asked_again_on_resume() {
    let f = Fixture::new();
    let count = Counter::default();
    let no = AskWith::new(|q: &Question| {
        assert_eq!(q.ask, "swap it in");
        Reply::No { by: "lead".into(), because: "customers are online".into() }
    });
    let engine = f.engine.clone().approver(Arc::new(no));
    let run = engine.start(new_run()).await.unwrap();
    let id = run.id();
    let error = run.execute(swap(run.clone(), count.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    drop(run);
    let engine = f.engine.clone().approver(Arc::new(AlwaysYes { by: "lead".into() }));
    let run = engine.resume(id).await.unwrap();
    assert_eq!(run.execute(swap(run.clone(), count)).await.unwrap(), 1);
}

/// Answers from a list, the last one for ever.
#[derive(Debug)]
struct Script(&'static str, Mutex<Vec<Health>>);

impl Script {
    fn probe(name: &'static str, answers: &str) -> Arc<dyn HealthProbe> {
        let answer = |c| match c {
            'h' => Health::healthy("fine"),
            'd' => Health::degraded("slow"),
            'i' => Health::inconclusive("who knows"),
            _ => Health::down("gone"),
        };
        Arc::new(Self(name, Mutex::new(answers.chars().rev().map(answer).collect())))
    }
}

#[async_trait]
impl HealthProbe for Script {
    fn name(&self) -> &str {
        self.0
    }

    async fn check(&self) -> Health {
        let mut left = lock(&self.1);
        if left.len() > 1 { left.pop().unwrap() } else { left[0].clone() }
    }
}

#[tokio::test(start_paused = true)]
async fn only_healthy_answers_in_a_row_end_a_wait() {
    let f = Fixture::new();
    let wait = Wait::new(Duration::from_secs(1), 3, Duration::from_mins(1));
    let begun = tokio::time::Instant::now();
    let (_, result) = f.run(async |run| run.until_healthy(Script::probe("web", "xhhdhhihhh"), wait).await).await;
    assert_eq!(result.unwrap().health.summary, "fine");
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_what_never_becomes_healthy_ends_with_its_last_answer() {
    let f = Fixture::new();
    for answers in ["x", "i", "hdhd", "d"] {
        let wait = Wait::new(Duration::from_secs(1), 2, Duration::from_secs(20));
        let (_, result) = f.run(async |run| run.until_healthy(Script::probe("web", answers), wait).await).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unhealthy, "{answers}");
        assert!(error.to_string().contains("last answer"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_soak_needs_health_for_a_whole_window() {
    let f = Fixture::new();
    let soak = Wait::soak(Duration::from_secs(30), Duration::from_secs(5), Duration::from_mins(2));
    let begun = tokio::time::Instant::now();
    let (_, result) = f
        .run(async |run| {
            // The same probe twice in one run is no mistake.
            run.until_healthy(Script::probe("web", "h"), Wait::default()).await?;
            run.until_healthy(Script::probe("web", "hhhhxh"), soak).await
        })
        .await;
    result.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(4 + 25 + 30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_checklist_names_everything_that_is_not_in_order_and_records_waivers() {
    let f = Fixture::new();
    let items = || {
        vec![
            Item::probe("the backup is fresh", Script::probe("backup-age", "x")),
            Item::probe("there is space", Script::probe("disk", "h")),
            Item::probe("the clock is right", Script::probe("clock", "i")),
            Item::attest("told-users", "users were told", "incident commander"),
        ]
    };
    let engine = f.engine.clone().approver(Arc::new(AlwaysYes { by: "ann".into() }));
    let run = engine.start(new_run()).await.unwrap();
    let id = run.id();
    let error = run.execute(async { run.checklist(&items()).await }).await.unwrap_err();
    drop(run);
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(error.message(), "checklist: not in order: backup-age (gone), clock (who knows)");
    let waive = |item: &str| Waiver { item: item.into(), because: "known".into(), by: "ann".into() };
    // Nobody is asked again for what was vouched for.
    let engine = f.engine.clone().waive([waive("backup-age"), waive("clock")]);
    let run = engine.resume(id).await.unwrap();
    run.execute(async { run.checklist(&items()).await }).await.unwrap();
    let verdicts: Vec<_> = f.summary(id).checks.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [V::Waived, V::Passed, V::Waived, V::Attested]);
    assert_eq!(f.summary(id).checks[0].evidence, "gone; waived by ann: known");
    let plan = f.engine.plan(&new_run(), async |run| run.checklist(&items()).await).await.unwrap();
    assert_eq!(plan.failed_checks(), ["backup-age", "clock"]);
}
