//! How long the HTTP checks take while all is well, so that "slow" can be told from "as always".
//!
//! `health` and `metrics` remember what they measure, a file per system in the state directory; `diagnose` compares with it
//! and writes nothing. Slow answers are not remembered: an incident that lasts does not become what is usual.

use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::http::shown;
use crate::{
    error::{Error, ErrorKind, Result},
    system::{HttpCheck, System},
};

/// Version of the file's form.
const FORMAT: u32 = 1;
/// Fewer measurements are no baseline: of so many, the 95th percentile is the second largest.
const LEAST: usize = 20;
/// Most that are kept of a check, the newest.
const MOST: usize = 500;
/// Measurements that lie closer together would make the baseline that of an hour.
const APART: TimeDelta = TimeDelta::minutes(5);
/// Older ones tell of another system.
const OLDEST: TimeDelta = TimeDelta::days(14);
/// So many times as slow as usual is marked.
const TIMES: f64 = 3.0;
/// And so much slower, in milliseconds: three times next to nothing is next to nothing.
const MARGIN_MS: f64 = 250.0;

/// What the HTTP checks of a system took while all was well.
///
/// # Examples
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let text = format!("id = \"shop\"\nstate_dir = \"{}\"\n[compose]\nproject = \"shop\"\n[database]\nservice = \"db\"\n\
/// #     password = {{ file = \"/x\" }}\n[repository]\nurl = \"file:/b\"\n[[http]]\nname = \"health\"\n\
/// #     url = \"https://shop.example/health\"", folder.path().display());
/// # let system = chom_recovery::System::parse(&text)?;
/// use std::time::Duration;
/// use chom_recovery::probe::latency::LatencyHistory;
/// use chrono::{TimeDelta, Utc};
///
/// let (mut history, now) = (LatencyHistory::open(&system)?, Utc::now());
/// for minutes in 1..=20 {
///     history.note(&system.http[0], Duration::from_millis(40), now - TimeDelta::minutes(120 - 5 * minutes));
/// }
/// history.save(&system.http, now)?;
/// let baseline = LatencyHistory::open(&system)?.baseline(&system.http[0], now);
/// assert_eq!(baseline.p95_ms, Some(40.0));
/// # Ok::<(), chom_recovery::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyHistory {
    path: PathBuf,
    checks: BTreeMap<String, Remembered>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    checks: BTreeMap<String, Remembered>,
}

/// What can be read of the file of every version.
#[derive(Debug, Deserialize)]
struct Version {
    format: u32,
}

/// What is remembered of a check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// What was asked, without secrets: another URL has another latency.
    url: String,
    /// Oldest first: seconds since 1970, milliseconds.
    measured: Vec<(i64, f64)>,
}

/// How long a check takes while all is well.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LatencyBaseline {
    /// Measurements behind it.
    pub measurements: usize,
    /// 95 of 100 took at most so many milliseconds; `None`: there are too few measurements to tell.
    pub p95_ms: Option<f64>,
}

impl LatencyBaseline {
    /// Measurements that a baseline needs.
    pub const NEEDED: usize = LEAST;

    /// Tells whether an answer took markedly longer than usual: three times, and by a quarter of a second.
    pub fn is_exceeded_by(&self, took: Duration) -> bool {
        let took = took.as_secs_f64() * 1e3;
        self.p95_ms.is_some_and(|p95| took > p95 * TIMES && took > p95 + MARGIN_MS)
    }
}

impl LatencyHistory {
    /// Reads what is remembered of a system; where nothing is, it is empty.
    ///
    /// # Errors
    /// `Corrupt`: the file is damaged. `Unsupported`: a newer version wrote it. Else it cannot be read.
    pub fn open(system: &System) -> Result<Self> {
        let mut history = Self::empty(system);
        let refused = |e: Error| e.during(format!("cannot read `{}`", history.path.display()));
        let text = match std::fs::read(&history.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(history),
            Err(e) => return Err(refused(e.into())),
        };
        let damaged = |e: serde_json::Error| refused(Error::new(ErrorKind::Corrupt, "it is damaged").caused_by(e));
        let Version { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format != FORMAT {
            let what = format!("its format {format} is not that of this version, {FORMAT}");
            return Err(refused(Error::new(ErrorKind::Unsupported, what)));
        }
        history.checks = serde_json::from_slice::<File>(&text).map_err(damaged)?.checks;
        Ok(history)
    }

    /// Begins anew, for a file that is damaged.
    pub(crate) fn empty(system: &System) -> Self {
        let path = system.state_dir().join(format!("latency-{}.json", system.id));
        Self { path, checks: BTreeMap::new() }
    }

    /// Notes what a check took, while all was well. One that lies within five minutes of the newest is left out.
    pub fn note(&mut self, check: &HttpCheck, took: Duration, at: DateTime<Utc>) {
        let url = asked(check);
        let remembered = self.checks.entry(check.name.clone()).or_default();
        if remembered.url != url {
            *remembered = Remembered { url, measured: Vec::new() };
        }
        let measured = &mut remembered.measured;
        // What lies in the future was noted before the clock was put right.
        measured.retain(|(seconds, _)| *seconds <= at.timestamp());
        if measured.last().is_none_or(|(newest, _)| at.timestamp() - newest >= APART.num_seconds()) {
            measured.push((at.timestamp(), took.as_secs_f64() * 1e3));
            let surplus = measured.len().saturating_sub(MOST);
            measured.drain(..surplus);
        }
    }

    /// Says how long a check takes while all is well, by what was measured in the last two weeks.
    pub fn baseline(&self, check: &HttpCheck, now: DateTime<Utc>) -> LatencyBaseline {
        let oldest = (now - OLDEST).timestamp();
        let of_check = self.checks.get(&check.name).filter(|remembered| remembered.url == asked(check));
        let mut took: Vec<f64> = of_check
            .into_iter()
            .flat_map(|remembered| &remembered.measured)
            .filter(|(seconds, _)| *seconds >= oldest)
            .map(|(_, ms)| *ms)
            .collect();
        took.sort_by(f64::total_cmp);
        let p95_ms = if took.len() < LEAST { None } else { percentile(&took, 95) };
        LatencyBaseline { measurements: took.len(), p95_ms }
    }

    /// Writes the file anew, at once: a reader sees the old one or the new one. Of checks that are no more, and of what is
    /// older than two weeks, nothing is kept.
    ///
    /// # Errors
    /// Those of writing; the old file stays then.
    pub fn save(&self, checks: &[HttpCheck], now: DateTime<Utc>) -> Result<()> {
        let mut kept = self.checks.clone();
        kept.retain(|name, _| checks.iter().any(|check| check.name == *name));
        let oldest = (now - OLDEST).timestamp();
        kept.values_mut().for_each(|remembered| remembered.measured.retain(|(seconds, _)| *seconds >= oldest));
        let text = serde_json::to_vec(&File { format: FORMAT, checks: kept }).map_err(std::io::Error::from)?;
        replace(&self.path, &text).map_err(|e| e.during(format!("cannot write `{}`", self.path.display())))
    }
}

/// What is asked, and where: together they make the latency.
fn asked(check: &HttpCheck) -> String {
    let at = check.connect_to.map(|address| format!(" at {address}")).unwrap_or_default();
    format!("{}{at}", shown(&check.url))
}

fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // Nobody else has this name, also where two of us write at once: the later one counts.
    let fresh =
        path.with_extension(format!("json.new-{}-{}", std::process::id(), hex::encode(rand::random::<[u8; 4]>())));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)
    })();
    if written.is_err() {
        // It was not made, or is of no use to anybody.
        let _ = std::fs::remove_file(&fresh);
    }
    written.map_err(Error::from)
}

/// The smallest value that so many per cent of the sorted ones do not exceed.
pub(crate) fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(folder: &Path) -> System {
        let state = folder.join("state");
        System::parse(&format!(
            "id = \"shop\"\nstate_dir = \"{}\"\n[compose]\nproject = \"shop\"\n[database]\nservice = \"db\"\n\
             password = {{ file = \"/x\" }}\n[repository]\nurl = \"file:/b\"\n\
             [[http]]\nname = \"health\"\nurl = \"https://u:hunter2@shop.example/health?token=hunter3\"",
            state.display()
        ))
        .unwrap()
    }

    fn at(minutes: i64) -> DateTime<Utc> {
        "2026-01-02T03:04:05Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }

    fn filled(system: &System, count: i64) -> LatencyHistory {
        let mut history = LatencyHistory::empty(system);
        for i in 0..count {
            history.note(&system.http[0], Duration::from_millis(u64::try_from(i).unwrap() + 1), at(5 * i));
        }
        history
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let took: Vec<_> = (1..=20).map(f64::from).collect();
        assert_eq!((percentile(&took, 50), percentile(&took, 95)), (Some(10.0), Some(19.0)));
        assert_eq!(percentile(&took[..1], 95), Some(1.0));
        assert_eq!(percentile(&[], 95), None);
    }

    #[test]
    fn a_baseline_needs_twenty_measurements_that_lie_apart_and_are_not_old() {
        let folder = tempfile::tempdir().unwrap();
        let system = system(folder.path());
        let check = &system.http[0];
        let few = filled(&system, 19).baseline(check, at(100));
        assert_eq!(few, LatencyBaseline { measurements: 19, p95_ms: None });
        let mut history = filled(&system, 20);
        history.note(check, Duration::from_secs(9), at(5 * 19 + 4));
        assert_eq!(history.baseline(check, at(100)), LatencyBaseline { measurements: 20, p95_ms: Some(19.0) });
        assert_eq!(history.baseline(check, at(100) + OLDEST).measurements, 0);
        let elsewhere = HttpCheck { url: "https://shop.example/other".into(), ..check.clone() };
        assert_eq!(history.baseline(&elsewhere, at(100)).measurements, 0);
    }

    #[test]
    fn the_file_is_bounded_private_whole_and_holds_no_secret() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let system = system(folder.path());
        let history = filled(&system, 600);
        history.save(&system.http, at(3_000)).unwrap();
        history.save(&system.http, at(3_000)).unwrap();
        let state = folder.path().join("state");
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
        let path = state.join("latency-shop.json");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter"));
        let read = LatencyHistory::open(&system).unwrap();
        assert_eq!(read.baseline(&system.http[0], at(3_000)).measurements, MOST);
        read.save(&[], at(3_000)).unwrap();
        assert_eq!(LatencyHistory::open(&system).unwrap().checks, BTreeMap::new(), "its check is no more");
    }

    #[test]
    fn a_damaged_file_and_one_of_a_newer_version_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let system = system(folder.path());
        assert_eq!(LatencyHistory::open(&system).unwrap().checks, BTreeMap::new());
        std::fs::create_dir(folder.path().join("state")).unwrap();
        for (text, kind) in [
            ("{\"format\":1,", ErrorKind::Corrupt),
            ("{\"format\":1}", ErrorKind::Corrupt),
            ("{\"format\":2,\"other\":[]}", ErrorKind::Unsupported),
        ] {
            std::fs::write(folder.path().join("state/latency-shop.json"), text).unwrap();
            assert_eq!(LatencyHistory::open(&system).unwrap_err().kind(), kind, "{text}");
        }
    }

    #[test]
    fn markedly_slower_is_by_factor_and_by_time() {
        let of = |p95: f64| LatencyBaseline { measurements: 20, p95_ms: Some(p95) };
        let ms = Duration::from_millis;
        assert!(of(100.0).is_exceeded_by(ms(351)));
        assert!(!of(100.0).is_exceeded_by(ms(349)), "by less than a quarter of a second");
        assert!(!of(1_000.0).is_exceeded_by(ms(2_900)), "not three times");
        assert!(!of(1.0).is_exceeded_by(ms(200)));
        assert!(!LatencyBaseline::default().is_exceeded_by(ms(60_000)), "nothing to compare with");
    }
}
