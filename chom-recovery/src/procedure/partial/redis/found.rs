//! What redis says of itself, and what is wrong with it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    backend::ContainerState,
    error::Result,
    probe::{
        Class, Health,
        redis::{FACTS, Session, parse_info, stops_writes},
    },
    procedure::{
        Parts,
        partial::{
            containers::{self, Site},
            look, redis_of,
        },
    },
    run::Run,
};

/// What redis says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    /// Lines of `INFO` that count here.
    pub(super) info: BTreeMap<String, String>,
    /// Keys of each logical database.
    pub(super) keys: BTreeMap<String, u64>,
    /// Whether a failed snapshot stops writes, where it tells.
    stops_writes: Option<bool>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) site: Site,
    /// `None`: it does not answer.
    pub(super) said: Option<Said>,
    /// Why not: class and text of the probe.
    silence: Option<(String, String)>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    None,
    NotRunning,
    Loading,
    Replica { host: String, port: u16, source_answers: bool },
    CannotSave,
    MemoryUsedUp,
    Refused { why: String },
    Silent { why: String },
}

/// Lines of `INFO` that count here beside those that a probe shows.
const MORE: [&str; 5] = ["master_host", "master_port", "master_link_status", "loading", "evicted_keys"];

pub(super) async fn look_at(run: &Run, parts: &Parts, service: &str) -> Result<Found> {
    let (parts, service) = (parts.clone(), service.to_owned());
    look(run, "look")
        .budget(Duration::from_secs(20))
        .timeout(Duration::from_mins(2))
        .run(async move |_| {
            let site = Site::look(&*parts.backend, &[service]).await?;
            Ok(match ask(&parts).await {
                Ok(said) => Found { site, said: Some(said), silence: None },
                Err(health) => {
                    let class = health.class_of().map_or_else(String::new, |c| c.code().to_owned());
                    Found { site, said: None, silence: Some((class, health.summary)) }
                }
            })
        })
        .await
}

/// Asks redis about itself; the error is a probe's answer.
pub(super) async fn ask(parts: &Parts) -> Result<Said, Health> {
    let redis = redis_of(parts).map_err(|e| Health::inconclusive(e.to_string()))?;
    let mut session = Session::open(redis, &parts.backend).await?;
    let text: String = session.query(&redis::cmd("INFO")).await?;
    let info = parse_info(&text);
    Ok(Said {
        keys: keys(&info),
        info: FACTS
            .iter()
            .chain(&MORE)
            .filter_map(|name| Some(((*name).to_owned(), info.get(name)?.chars().take(200).collect())))
            .collect(),
        stops_writes: stops_writes(&mut session).await,
    })
}

/// Reads `db0:keys=5,expires=1,avg_ttl=0`.
pub(super) fn keys(info: &BTreeMap<&str, &str>) -> BTreeMap<String, u64> {
    let of = |text: &str| text.strip_prefix("keys=")?.split(',').next()?.parse().ok();
    info.iter()
        .filter(|(name, _)| name.strip_prefix("db").is_some_and(|n| n.parse::<u32>().is_ok()))
        .filter_map(|(name, text)| Some(((*name).to_owned(), of(text)?)))
        .collect()
}

impl Said {
    pub(super) fn get(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    fn fault(&self) -> Fault {
        let is_full = || {
            let (used, most) = (self.number("used_memory"), self.number("maxmemory").filter(|m| *m > 0));
            self.get("maxmemory_policy") == "noeviction" && used.zip(most).is_some_and(|(used, most)| used >= most)
        };
        if self.get("loading") == "1" {
            Fault::Loading
        } else if self.get("role") == "slave" {
            Fault::Replica {
                host: self.get("master_host").to_owned(),
                port: self.get("master_port").parse().unwrap_or(0),
                source_answers: self.get("master_link_status") == "up",
            }
        } else if self.get("rdb_last_bgsave_status") == "err" || self.get("aof_last_write_status") == "err" {
            Fault::CannotSave
        } else if is_full() {
            Fault::MemoryUsedUp
        } else {
            Fault::None
        }
    }
}

/// Tells what is wrong, causes before effects.
pub(super) fn judge(found: &Found) -> Fault {
    if found.site.seen.iter().any(|one| matches!(one.state, s if s != ContainerState::Running)) {
        return Fault::NotRunning;
    }
    match (&found.said, &found.silence) {
        (Some(said), _) => said.fault(),
        (None, Some((class, _))) if class == Class::Starting.code() => Fault::Loading,
        (None, Some((class, why))) if [Class::Authentication, Class::Secret].iter().any(|c| c.code() == class) => {
            Fault::Refused { why: why.clone() }
        }
        (None, silence) => Fault::Silent { why: silence.as_ref().map_or_else(String::new, |(_, why)| why.clone()) },
    }
}

impl Found {
    pub(super) fn lines(&self, fault: &Fault) -> Vec<String> {
        let mut lines: Vec<String> = self.site.seen.iter().filter_map(containers::Seen::fault).collect();
        lines.extend(match fault {
            Fault::None | Fault::NotRunning => None,
            Fault::Loading => Some("redis is loading its data".to_owned()),
            Fault::Replica { host, port, source_answers } => {
                let link = if *source_answers { "which answers" } else { "which does not answer" };
                Some(format!("redis is a replica of {host}:{port}, {link}, and takes no writes"))
            }
            Fault::CannotSave => {
                let stops = self.said.as_ref().and_then(|s| s.stops_writes) == Some(true);
                let effect = if stops { ", and refuses writes" } else { "" };
                Some(format!("redis cannot save its data{effect}"))
            }
            Fault::MemoryUsedUp => Some("redis has used up its memory and evicts nothing".to_owned()),
            Fault::Refused { why } | Fault::Silent { why } => Some(why.clone()),
        });
        if let Some(said) = &self.said {
            let persistence = if said.get("aof_enabled") == "1" { "AOF on" } else { "AOF off" };
            lines.push(format!(
                "redis {}: {persistence}, last snapshot {}, {} changes since, {} evicted",
                said.get("redis_version"),
                said.get("rdb_last_bgsave_status"),
                said.get("rdb_changes_since_last_save"),
                said.get("evicted_keys"),
            ));
        }
        lines
    }

    /// Says what a restart without a snapshot may lose.
    pub(super) fn at_stake(&self) -> String {
        let aof = self.site.remembered.first().map(|one| one.container.as_str()).unwrap_or_default();
        match &self.said {
            Some(said) if said.get("aof_enabled") == "1" => "the writes of the last second".into(),
            Some(said) => format!("{} changes since its last snapshot", said.get("rdb_changes_since_last_save")),
            None => format!(
                "it cannot be asked (`{aof}`): the writes of the last second where its AOF is switched on, else everything \
                 since its last snapshot"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procedure::partial::containers::{Seen, seen};

    fn said(lines: &[(&str, &str)]) -> Said {
        let info = lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Said { info, ..Said::default() }
    }

    fn found(container: Seen, said: Option<Said>, silence: Option<(Class, &str)>) -> Found {
        let silence = silence.map(|(class, why)| (class.code().to_owned(), why.to_owned()));
        Found { site: Site { seen: vec![container], remembered: Vec::new() }, said, silence }
    }

    #[test]
    fn the_cause_is_found_before_its_effects() {
        use ContainerState::{Exited, Running};
        let runs = || seen("redis", Running);
        let dead = ("role", "slave");
        let replica = |link: &str| {
            let lines = [dead, ("master_host", "10.0.0.9"), ("master_port", "6379"), ("master_link_status", link)];
            found(runs(), Some(said(&lines)), None)
        };
        let of = |lines: &[(&str, &str)]| judge(&found(runs(), Some(said(lines)), None));
        assert_eq!(judge(&found(seen("redis", Exited), None, Some((Class::NotRunning, "x")))), Fault::NotRunning);
        for (link, source_answers) in [("down", false), ("up", true)] {
            let wanted = Fault::Replica { host: "10.0.0.9".into(), port: 6379, source_answers };
            assert_eq!(judge(&replica(link)), wanted);
        }
        assert_eq!(of(&[("rdb_last_bgsave_status", "err")]), Fault::CannotSave);
        assert_eq!(of(&[("aof_last_write_status", "err")]), Fault::CannotSave);
        assert_eq!(of(&[("loading", "1"), dead]), Fault::Loading);
        let full = [("used_memory", "10"), ("maxmemory", "10"), ("maxmemory_policy", "noeviction")];
        assert_eq!(of(&full), Fault::MemoryUsedUp);
        assert_eq!(of(&[("role", "master")]), Fault::None);
        let silent = |class| judge(&found(runs(), None, Some((class, "x"))));
        assert_eq!(silent(Class::Starting), Fault::Loading);
        assert_eq!(silent(Class::Authentication), Fault::Refused { why: "x".into() });
        assert_eq!(silent(Class::Stalled), Fault::Silent { why: "x".into() });
    }
}
