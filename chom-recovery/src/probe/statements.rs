//! Whether statements pile up: behind locks, or by running for long.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Class, Health, HealthProbe,
    mysql::{Session, failure},
    net,
};
use crate::{
    backend::Backend,
    mysql::{Blocker, Statement},
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
        let statements = session.server.statements().await.map_err(|e| failure(&e))?;
        // Who blocks is told where the server tells; that somebody waits is known without.
        let blockers = session.server.blockers().await.unwrap_or_default();
        Ok(judge(&statements, &blockers))
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

fn judge(statements: &[Statement], blockers: &[Blocker]) -> Health {
    let (waiting, running): (Vec<_>, Vec<_>) = statements.iter().partition(|s| s.waits_for_lock);
    let longest = |of: &[&Statement]| of.iter().map(|s| s.seconds).max().unwrap_or_default();
    let over = |of: &[&Statement], seconds: u64| of.iter().filter(|s| s.seconds >= seconds).count();
    let piled = over(&waiting, WAITS) >= WAITING || over(&waiting, WAITS_LONG) > 0;
    let stormed = over(&running, RUNS) >= RUNNING || over(&running, RUNS_LONG) > 0;
    let health = if piled {
        let by = blockers.first().map_or(String::new(), |b| format!(", behind connection {}", b.connection));
        Health::degraded(format!("{} statements wait for locks, up to {} s{by}", waiting.len(), longest(&waiting)))
            .class(Class::Locked)
    } else if stormed {
        let count = over(&running, RUNS);
        Health::degraded(format!("{count} statements have run for {RUNS} s and more, up to {} s", longest(&running)))
            .class(Class::Slow)
    } else {
        Health::healthy(format!("{} statements run, up to {} s", statements.len(), longest(&running))).class(Class::Ok)
    };
    let mut shown: Vec<_> = if piled { waiting.clone() } else { running.clone() };
    shown.sort_by_key(|s| std::cmp::Reverse(s.seconds));
    let health = health.fact("running", running.len()).fact("waiting", waiting.len());
    let health = shown.iter().take(3).enumerate().fold(health, |health, (i, s)| {
        health.fact(format!("statement.{i}"), format!("{} s, {}: {}", s.seconds, s.user, s.form))
    });
    match blockers.first() {
        Some(b) => health.fact("blocker", b.connection).fact("blocked", b.waiting),
        None => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(seconds: u64, waits_for_lock: bool) -> Statement {
        Statement { connection: 7, user: "app".into(), seconds, waits_for_lock, form: "SELECT ?".into() }
    }

    #[test]
    fn many_that_wait_or_run_are_told_apart_and_few_are_nothing() {
        let class = |seconds: u64, waits: bool, count: usize| {
            judge(&vec![statement(seconds, waits); count], &[Blocker { connection: 9, waiting: 3 }]).class_of()
        };
        assert_eq!(class(4, true, 3), Some(Class::Locked));
        assert_eq!(class(4, true, 2), Some(Class::Ok));
        assert_eq!(class(16, true, 1), Some(Class::Locked));
        assert_eq!(class(5, false, 5), Some(Class::Slow));
        assert_eq!(class(5, false, 4), Some(Class::Ok));
        assert_eq!(class(200, false, 1), Some(Class::Slow));
        let both = [vec![statement(9, false); 6], vec![statement(9, true); 3]].concat();
        let health = judge(&both, &[Blocker { connection: 9, waiting: 3 }]);
        assert_eq!(health.class_of(), Some(Class::Locked), "those that wait are the effect of one that holds");
        assert!(health.summary.contains("connection 9"), "{health:?}");
    }
}
