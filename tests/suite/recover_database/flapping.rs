//! A service that comes up and goes down again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chom_recovery::{ErrorKind, procedure::database::Extent, run::Event};
use chom_recovery_tests::chaos;
use futures::StreamExt;

use crate::bench::{Bench, database};

/// F47: a web server that is healthy at every look and is started again between the looks.
#[tokio::test]
async fn a_service_that_flaps_is_not_taken_for_a_steady_one() {
    let Some(bench) = Bench::open("a_service_that_flaps_is_not_taken_for_a_steady_one").await else { return };
    let before = bench.fingerprint().await;
    bench.back_up().await;
    bench.sql().await.run("DROP TABLE chom.orders").await;

    let mut going = bench.start(Extent::Recover).await.unwrap();
    let (run, mut events) = (going.id(), going.events().unwrap());
    let mut flapping = None;
    while let Some(event) = events.next().await {
        if matches!(&event, Event::Waiting { probe, .. } if probe == "soak") && flapping.is_none() {
            flapping = Some(Flapping::begin(&format!("{}-nginx-1", bench.stack.project)));
        }
    }
    let error = database(going.finish().await).expect_err("it flaps");
    drop(flapping.expect("there was a soak"));
    println!("{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unhealthy, "{error:?}");
    assert!(error.to_string().contains("soak"), "{error}");

    chaos::compose(&bench.stack, &["up", "-d", "--wait", "nginx"]);
    assert!(bench.resume(run).await.unwrap().restored.is_some());
    assert_eq!(bench.fingerprint().await, before);
}

/// Restarts a container again and again until it is dropped.
struct Flapping {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flapping {
    fn begin(container: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, container) = (stop.clone(), container.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                chaos::docker(&["restart", "-t", "1", &container]);
                std::thread::sleep(Duration::from_secs(2));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
