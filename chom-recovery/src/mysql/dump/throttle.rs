//! Steps back while the server has other things to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::Result,
    mysql::{
        server::Server,
        session::{Role, Session},
    },
    system::Throttle,
};

/// Time between two looks at the server.
const BETWEEN: Duration = Duration::from_secs(1);

/// Lets readers on, or holds them.
#[derive(Debug)]
pub(in crate::mysql) struct Pace {
    is_held: watch::Receiver<bool>,
    held_ms: Arc<AtomicU64>,
    _watching: Option<AbortOnDropHandle<()>>,
}

impl Pace {
    /// Never holds.
    pub(in crate::mysql) fn free() -> Self {
        Self { is_held: watch::channel(false).1, held_ms: Arc::default(), _watching: None }
    }

    /// Looks at the server once a second. `own` connections of ours run statements there.
    pub(super) fn watching(server: &Server, throttle: &Throttle, own: u64) -> Self {
        let (hold, is_held) = watch::channel(false);
        let held_ms = Arc::new(AtomicU64::new(0));
        let task = look(server.clone(), throttle.clone(), own, hold, Arc::clone(&held_ms));
        Self { is_held, held_ms, _watching: Some(AbortOnDropHandle::new(tokio::spawn(task))) }
    }

    /// Waits while readers are held. Ends when nobody looks any more.
    pub(super) async fn wait(&self) {
        let _ = self.is_held.clone().wait_for(|held| !held).await;
    }

    /// How long readers were held so far, in milliseconds.
    pub(super) fn held_ms(&self) -> u64 {
        self.held_ms.load(Ordering::Relaxed)
    }
}

/// Looks until the time for pauses is used up, or the server does not answer: the dump goes on then.
async fn look(server: Server, throttle: Throttle, own: u64, hold: watch::Sender<bool>, held_ms: Arc<AtomicU64>) {
    let Ok(mut session) = server.session(Role::Read).await else { return };
    let mut last = Instant::now();
    loop {
        let busy = match is_busy(&server, &mut session, &throttle, own).await {
            Ok(busy) => busy,
            Err(error) => {
                tracing::warn!(%error, "the dump is not throttled any more");
                return;
            }
        };
        let now = Instant::now();
        if *hold.borrow() {
            let passed = u64::try_from((now - last).as_millis()).unwrap_or(u64::MAX);
            let held = held_ms.fetch_add(passed, Ordering::Relaxed) + passed;
            if u128::from(held) >= throttle.longest.as_millis() {
                tracing::warn!(held_ms = held, "the server is still busy, and the dump goes on all the same");
                return;
            }
        }
        last = now;
        hold.send_replace(busy);
        tokio::time::sleep(BETWEEN).await;
    }
}

async fn is_busy(server: &Server, session: &mut Session, throttle: &Throttle, own: u64) -> Result<bool> {
    if let Some(limit) = throttle.running {
        let row = session.row("SHOW GLOBAL STATUS LIKE 'Threads_running'").await?;
        let running = row.map_or(Ok(None), |row| row.number(1))?.unwrap_or_default();
        // This session's own statement runs as well.
        if running.saturating_sub(own + 1) > limit {
            return Ok(true);
        }
    }
    if let Some(limit) = throttle.lag {
        let behind = server.replica_status().await?.iter().filter_map(|replica| replica.seconds_behind).max();
        return Ok(behind.is_some_and(|seconds| Duration::from_secs(seconds) > limit));
    }
    Ok(false)
}
