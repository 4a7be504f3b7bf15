//! Whether the newest backup is good enough to bet on.

use std::time::Duration;

use async_trait::async_trait;

use super::{BackupInfo, Catalog, Selector};
use crate::{
    error::ErrorKind,
    probe::{Health, HealthProbe},
};

/// Judges the newest backup: its age against the objective, and whether anybody ever read its bytes back.
#[derive(Debug)]
pub struct BackupProbe {
    catalog: Catalog,
    oldest: Duration,
}

impl BackupProbe {
    /// Makes the probe `backup`: older than `oldest` is degraded, twice that is down.
    pub fn new(catalog: Catalog, oldest: Duration) -> Self {
        Self { catalog, oldest }
    }
}

#[async_trait]
impl HealthProbe for BackupProbe {
    fn name(&self) -> &'static str {
        "backup"
    }

    async fn check(&self) -> Health {
        let now = match self.catalog.repository().store().now().await {
            Ok(now) => now,
            Err(error) => return Health::inconclusive(format!("the store does not tell its time: {error}")),
        };
        match self.catalog.select(&Selector::Latest).await {
            Ok(newest) => judge(&newest, newest.age(now), self.oldest),
            Err(e) if e.kind() == ErrorKind::NotFound => Health::down("there is no backup"),
            Err(e) if e.kind() == ErrorKind::Corrupt => Health::down(format!("the newest backup is damaged: {e}")),
            Err(e) => Health::inconclusive(format!("the backups cannot be listed: {e}")),
        }
    }
}

fn judge(newest: &BackupInfo, age: Duration, oldest: Duration) -> Health {
    let shown = format!("backup {} is {} old", newest.id(), in_words(age));
    let health = if age > oldest * 2 {
        Health::down(format!("{shown}, twice what is agreed ({})", in_words(oldest)))
    } else if age > oldest {
        Health::degraded(format!("{shown}, more than agreed ({})", in_words(oldest)))
    } else if !newest.is_proven() {
        Health::degraded(format!("{shown} and was not read back"))
    } else {
        Health::healthy(shown)
    };
    health
        .fact("id", newest.id())
        .fact("age_s", age.as_secs())
        .fact("bytes", newest.stored_len)
        .fact("level", newest.level.map_or_else(|| "none".into(), |level| format!("{level:?}")))
}

fn in_words(duration: Duration) -> String {
    let minutes = duration.as_secs() / 60;
    match minutes {
        0..60 => format!("{minutes} min"),
        60..2880 => format!("{} h", minutes / 60),
        _ => format!("{} days", minutes / 1440),
    }
}
