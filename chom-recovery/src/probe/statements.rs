//! Whether statements pile up: behind locks, or by running for long.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{
    Class, Health, HealthProbe,
    mysql::{Session, failure},
    net,
};
use crate::{
    backend::Backend,
    mysql::{Busy, LockWait},
    system::Database,
};

/// A statement that waits for a lock for so many seconds, with so many others, is a pile-up.
const WAITS: u64 = 3;
const WAITING: usize = 3;
/// One that waits for so long is one alone.
const WAITS_LONG: u64 = 15;
/// A statement that runs for so many seconds, with so many others, is a storm.
const RUNS: u64 = 5;
const RUNNING: usize = 5;
/// One that runs for so long is told alone.
const RUNS_LONG: u64 = 120;

/// Looks at the statements that run at this moment, once.
#[derive(Debug)]
pub struct StatementsProbe {
    database: Database,
    backend: Arc<dyn Backend>,
}

impl StatementsProbe {
    /// Makes the probe `mysql-statements`.
    pub fn new(database: Database, backend: Arc<dyn Backend>) -> Self {
        Self { database, backend }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let session = Session::open(&self.database, &self.backend).await?;
        let (sessions, waits) = session.server.busy().await.map_err(|e| failure(&e))?;
        Ok(judge(&sessions, &waits))
    }
}

#[async_trait]
impl HealthProbe for StatementsProbe {
    fn name(&self) -> &'static str {
        "mysql-statements"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) })
            .await
            .fact("service", &self.database.service)
    }
}

fn judge(sessions: &[Busy], waits: &[LockWait]) -> Health {
    let waits_for_lock = |s: &&Busy| waits.iter().any(|w| w.waiting == s.connection);
    let (waiting, running): (Vec<_>, Vec<_>) = sessions.iter().filter(|s| s.is_statement()).partition(waits_for_lock);
    let blocker = most_waited_for(waits);
    let longest = |of: &[&Busy]| of.iter().map(|s| s.seconds).max().unwrap_or_default();
    let over = |of: &[&Busy], seconds: u64| of.iter().filter(|s| s.seconds >= seconds).count();
    let piled = over(&waiting, WAITS) >= WAITING || over(&waiting, WAITS_LONG) > 0;
    let stormed = over(&running, RUNS) >= RUNNING || over(&running, RUNS_LONG) > 0;
    let health = if piled {
        let by = blocker.map_or(String::new(), |(connection, _)| format!(", behind connection {connection}"));
        Health::degraded(format!("{} statements wait for locks, up to {} s{by}", waiting.len(), longest(&waiting)))
            .class(Class::Locked)
    } else if stormed {
        let count = over(&running, RUNS);
        Health::degraded(format!("{count} statements have run for {RUNS} s and more, up to {} s", longest(&running)))
            .class(Class::Slow)
    } else {
        Health::healthy(format!("{} statements run, up to {} s", running.len(), longest(&running))).class(Class::Ok)
    };
    let mut shown: Vec<_> = if piled { waiting.clone() } else { running.clone() };
    shown.sort_by_key(|s| std::cmp::Reverse(s.seconds));
    let health = health.fact("running", running.len()).fact("waiting", waiting.len());
    let health = shown.iter().take(3).enumerate().fold(health, |health, (i, s)| {
        health.fact(format!("statement.{i}"), format!("{} s, {}: {}", s.seconds, s.user, s.form()))
    });
    match blocker {
        Some((connection, waiting)) => health.fact("blocker", connection).fact("blocked", waiting),
        None => health,
    }
}

/// Finds the connection that most others wait for, and how many they are.
fn most_waited_for(waits: &[LockWait]) -> Option<(u64, usize)> {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for connection in waits.iter().filter_map(|w| w.blocking) {
        *counts.entry(connection).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::Lock;

    fn statements(seconds: u64, count: u64) -> Vec<Busy> {
        let one = |connection| Busy {
            connection,
            user: "app".into(),
            command: "Query".into(),
            seconds,
            text: "SELECT 1".into(),
            ..Busy::default()
        };
        (1..=count).map(one).collect()
    }

    fn wait(waiting: u64) -> LockWait {
        LockWait { waiting, blocking: Some(99), seconds: 1, lock: Lock::Rows, object: String::new() }
    }

    #[test]
    fn many_that_wait_or_run_are_told_apart_and_few_are_nothing() {
        let class = |seconds: u64, waits: bool, count: u64| {
            let waits: Vec<_> = (1..=count).filter(|_| waits).map(wait).collect();
            judge(&statements(seconds, count), &waits).class_of()
        };
        assert_eq!(class(4, true, 3), Some(Class::Locked));
        assert_eq!(class(4, true, 2), Some(Class::Ok));
        assert_eq!(class(16, true, 1), Some(Class::Locked));
        assert_eq!(class(5, false, 5), Some(Class::Slow));
        assert_eq!(class(5, false, 4), Some(Class::Ok));
        assert_eq!(class(200, false, 1), Some(Class::Slow));
        let health = judge(&statements(9, 9), &[wait(1), wait(2), wait(3)]);
        assert_eq!(health.class_of(), Some(Class::Locked), "those that wait are the effect of one that holds");
        assert!(health.summary.contains("connection 99"), "{health:?}");
        assert_eq!(health.facts["statement.0"], "9 s, app: SELECT ?");
    }

    #[test]
    fn sessions_of_the_server_of_ours_and_idle_ones_do_not_count() {
        let mut sessions = statements(200, 3);
        (sessions[0].user, sessions[1].is_ours, sessions[2].command) = ("system user".into(), true, "Sleep".into());
        assert_eq!(judge(&sessions, &[]).class_of(), Some(Class::Ok));
    }
}
