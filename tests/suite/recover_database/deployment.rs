//! A deployment tool that runs `docker compose up -d` in the middle of a recovery.

use chom_recovery::{ErrorKind, procedure::database::Extent, run::Event};
use chom_recovery_tests::chaos;
use futures::StreamExt;

use crate::bench::{Bench, database};

/// F43: whenever it comes, the run either ends well or stops and says who runs; the data is the backup's in the end.
#[tokio::test]
async fn a_deployment_at_any_time_costs_no_data() {
    let Some(bench) = Bench::open("a_deployment_at_any_time_costs_no_data").await else { return };
    let before = bench.fingerprint().await;
    for at in ["retire-candidate", "stop-database", "swap-volumes", "start-database"] {
        chaos::mend(&bench.stack);
        bench.back_up().await;
        bench.sql().await.run("DROP TABLE chom.orders").await;
        let old = bench.recovery.backend().volume_identity(&bench.volume()).await.unwrap();

        let mut going = bench.start(Extent::Recover).await.unwrap();
        let (run, mut events) = (going.id(), going.events().unwrap());
        let mut deploying = None;
        while let Some(event) = events.next().await {
            if matches!(&event, Event::StepStarted { step, .. } if step.ends_with(at)) && deploying.is_none() {
                let stack = bench.stack.clone();
                deploying = Some(std::thread::spawn(move || chaos::try_compose(&stack, &["up", "-d"])));
            }
        }
        let mut ended = database(going.finish().await);
        let deployed = deploying.expect("the step was reached").join().unwrap();
        println!(
            "{at}: the deployment ended with {:?}, the run with {:?}",
            deployed.status.code(),
            ended.as_ref().err()
        );
        for _ in 0..3 {
            let Err(error) = &ended else { break };
            assert_eq!(error.kind(), ErrorKind::Conflict, "{at}: {error:?}");
            assert!(error.hint_text().is_some_and(|hint| hint.contains("stop")), "{at}: {error:?}");
            // As the hint says.
            chaos::compose(&bench.stack, &["stop", "app", "queue", "scheduler"]);
            ended = bench.resume(run).await;
        }
        let restored = ended.unwrap_or_else(|e| panic!("{at}: {e:?}")).restored.expect("data was replaced");
        let kept = bench.recovery.backend().volume_identity(&restored.kept.volume).await.unwrap();
        assert_eq!(kept.inode, old.inode, "{at}: the kept volume holds what production had");
        assert_eq!(bench.fingerprint().await, before, "{at}");
    }
}
