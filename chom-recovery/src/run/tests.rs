//! Tests of the engine in one process; `tests/kill.rs` has those that kill it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

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

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(dir.path()).operator("tester");
    Fixture { dir, engine }
}

fn new_run() -> NewRun {
    NewRun::new("chom", "test", &()).unwrap()
}

#[tokio::test]
async fn a_done_step_is_not_run_again_and_gives_its_recorded_output() {
    let f = fixture();
    let count = Counter::default();
    let procedure = |run: Run, fails: bool| {
        let count = count.clone();
        async move {
            let n: u32 = run.step("act").undo(Undo::Unnecessary("a test")).run(async move |_| Ok(count.bump())).await?;
            if fails {
                return Err(Error::new(ErrorKind::Failed, "later"));
            }
            Ok(n)
        }
    };
    let run = f.engine.start(new_run()).await.unwrap();
    let id = run.id();
    run.execute(procedure(run.clone(), true)).await.unwrap_err();
    drop(run);
    let run = f.engine.resume(id).await.unwrap();
    assert_eq!(run.execute(procedure(run.clone(), false)).await.unwrap(), 1);
    assert_eq!(count.get(), 1);
    drop(run);
    assert_eq!(f.engine.resume(id).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert!(f.dir.path().join("runs").join(id.to_string()).join("journal.jsonl").is_file());
}
