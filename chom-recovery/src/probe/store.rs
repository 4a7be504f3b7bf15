//! Whether the store of the backups answers, has room and tells the right time.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Class, Health, HealthProbe};
use crate::{error::ErrorKind, store::BackupStore};

/// Beyond this difference of clocks, ages of backups mean nothing.
const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

/// Asks the store for its time and its free bytes.
#[derive(Debug)]
pub struct StoreProbe {
    store: Arc<dyn BackupStore>,
    keep_free: u64,
}

impl StoreProbe {
    /// Makes the probe; fewer free bytes than `keep_free` is down.
    pub fn new(store: Arc<dyn BackupStore>, keep_free: u64) -> Self {
        Self { store, keep_free }
    }
}

#[async_trait]
impl HealthProbe for StoreProbe {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn check(&self) -> Health {
        let now = match self.store.now().await {
            Ok(now) => now,
            Err(error) => {
                let class = match error.kind() {
                    ErrorKind::Authentication => Class::Authentication,
                    ErrorKind::NoSpace => Class::FullDisk,
                    _ => Class::Unreachable,
                };
                return Health::down(format!("the store did not answer: {error}")).class(class);
            }
        };
        let free = match self.store.free_bytes().await {
            Ok(free) => free,
            Err(error) => return Health::degraded(format!("the store answers, but not how much is free: {error}")),
        };
        judge(now, Utc::now(), free, self.keep_free).fact("url", self.store.url())
    }
}

fn judge(store_time: DateTime<Utc>, ours: DateTime<Utc>, free: Option<u64>, keep_free: u64) -> Health {
    let skew = (store_time - ours).abs();
    let health = match free {
        Some(free) if free < keep_free => {
            Health::down(format!("the store has {free} bytes free, fewer than {keep_free}")).class(Class::FullDisk)
        }
        _ if skew > CLOCK_SKEW => {
            Health::degraded(format!("the store's clock differs by {} s", skew.num_seconds())).class(Class::Clock)
        }
        Some(free) => Health::healthy(format!("{free} bytes free")).class(Class::Ok),
        None => Health::healthy("answers").class(Class::Ok),
    };
    let health = health.fact("clock_skew_seconds", skew.num_seconds());
    match free {
        Some(free) => health.fact("free_bytes", free),
        None => health,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    #[test]
    fn a_full_store_is_down_and_a_wrong_clock_degraded() {
        let now = Utc::now();
        assert_eq!(judge(now, now, Some(10), 100).class_of(), Some(Class::FullDisk));
        assert_eq!(judge(now, now, Some(100), 100).status, Status::Healthy);
        assert_eq!(judge(now, now, None, 100).status, Status::Healthy);
        let late = now - chrono::TimeDelta::minutes(6);
        assert_eq!(judge(late, now, None, 100).class_of(), Some(Class::Clock));
    }
}
