//! systemd units that run backups, verifications, drills, tidying and metrics on time.
//!
//! # Source
//! systemd.timer(5), systemd.service(5), systemd.exec(5), systemd.syntax(7), systemd.time(7).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    report,
    secret::SecretSource,
    system::System,
};

/// First line of every file, by which it is known as ours.
const MARK: &str = "# Written by `chom-recovery schedule install`.";

/// Where the units find things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRequest {
    /// The program; absolute.
    pub program: PathBuf,
    /// The configuration file; absolute.
    pub config: PathBuf,
    /// File that the metrics are written to; `None`: no unit writes them.
    pub textfile: Option<PathBuf>,
}

/// A unit file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// File name.
    pub name: String,
    /// Content.
    pub text: String,
}

/// All units of a system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units {
    /// Services and timers.
    pub units: Vec<Unit>,
    /// What a person has to see to.
    pub notes: Vec<String>,
}

impl Units {
    /// Returns the names of the timers: what is enabled.
    pub fn timers(&self) -> Vec<&str> {
        self.units.iter().map(|u| u.name.as_str()).filter(|name| name.ends_with(".timer")).collect()
    }

    /// Writes the units into a folder. Files of the same name are replaced only where an earlier call wrote them.
    ///
    /// # Errors
    /// `AlreadyExists`: a file is somebody else's; nothing was written then.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for unit in &self.units {
            let path = folder.join(&unit.name);
            let is_ours = match std::fs::read_to_string(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
                Err(e) => return Err(Error::from(e).during(format!("cannot read `{}`", path.display()))),
                Ok(text) => text.starts_with(MARK),
            };
            if !is_ours {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("`{}` was not written by this program", path.display()),
                )
                .hint("move it away, or put changes into a drop-in: systemctl edit"));
            }
        }
        for unit in &self.units {
            report::publish(&folder.join(&unit.name), &unit.text)?;
        }
        Ok(())
    }
}

/// A piece of work that is done on time.
struct Job {
    name: &'static str,
    what: &'static str,
    /// Arguments of each call of the program, in order.
    calls: Vec<Vec<String>>,
    calendar: String,
    /// Longest random delay, so that hosts do not all ask one store at once.
    spread: &'static str,
    /// Longest time that it may take.
    timeout: &'static str,
}

/// Writes the units of a system. They hold no secret: each call of the program reads its own.
///
/// # Errors
/// `InvalidInput`: a path is not absolute or cannot be written into a unit.
pub fn schedule(system: &System, request: &ScheduleRequest) -> Result<Units> {
    for path in [&request.program, &request.config].into_iter().chain(&request.textfile) {
        if !path.is_absolute() {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not an absolute path", path.display())));
        }
    }
    let mut units = Vec::new();
    for job in jobs(system, request)? {
        let base = format!("chom-recovery-{}-{}", system.id, job.name);
        units.push(Unit { name: format!("{base}.service"), text: service(system, request, &job)? });
        units.push(Unit { name: format!("{base}.timer"), text: timer(system, &job) });
    }
    Ok(Units { units, notes: notes(system) })
}

fn jobs(system: &System, request: &ScheduleRequest) -> Result<Vec<Job>> {
    let schedule = &system.schedule;
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut jobs = vec![
        Job {
            name: "backup",
            what: "Backup",
            calls: vec![words("backup create --tag scheduled")],
            calendar: schedule.backup.clone(),
            spread: "2min",
            timeout: "12h",
        },
        Job {
            name: "verify",
            what: "Verification of the newest backup",
            calls: vec![words("backup verify --latest")],
            calendar: schedule.verify.clone(),
            spread: "15min",
            timeout: "12h",
        },
        Job {
            name: "drill",
            what: "Rehearsal of a recovery",
            calls: vec![words("drill --latest --operator timer")],
            calendar: schedule.drill.clone(),
            spread: "30min",
            timeout: "12h",
        },
        Job {
            name: "prune",
            what: "Expiry of backups, and tidying after finished runs",
            calls: vec![words("prune --yes --operator timer"), words("runs prune --yes --operator timer")],
            calendar: schedule.prune.clone(),
            spread: "15min",
            timeout: "1h",
        },
    ];
    if system.repository.copy.is_some() {
        jobs[0].calls.push(words("backup copy"));
        jobs[3].calls.push(words("--copy prune --yes --operator timer"));
    }
    if let Some(textfile) = &request.textfile {
        jobs.push(Job {
            name: "metrics",
            what: "Metrics of backups",
            calls: vec![vec!["metrics".into(), "--output".into(), unit_path(textfile)?]],
            calendar: schedule.metrics.clone(),
            spread: "20s",
            timeout: "5min",
        });
    }
    Ok(jobs)
}

fn service(system: &System, request: &ScheduleRequest, job: &Job) -> Result<String> {
    let program = [unit_path(&request.program)?, "--config".into(), unit_path(&request.config)?];
    let command = |call: &Vec<String>| {
        let words: Vec<_> = program.iter().chain(call).map(|word| quoted(word)).collect();
        format!("ExecStart={}\n", words.join(" "))
    };
    let commands: String = job.calls.iter().map(command).collect();
    let mut writable = vec![system.state_dir()];
    let urls = std::iter::once(&system.repository.url).chain(system.repository.copy.iter().map(|copy| &copy.url));
    writable.extend(urls.filter_map(|url| url.strip_prefix("file:")).map(PathBuf::from));
    writable.extend(request.textfile.as_ref().and_then(|f| f.parent()).map(Path::to_owned));
    // A folder that is not there yet is no reason not to start.
    let writable: Vec<_> =
        writable.iter().map(|path| unit_path(path).map(|path| quoted(&format!("-{path}")))).collect::<Result<_>>()?;
    Ok(format!(
        "{MARK} Change it by `systemctl edit`.
[Unit]
Description={what} of system {id} (chom-recovery)
Wants=network-online.target
After=network-online.target docker.service

[Service]
Type=oneshot
{commands}TimeoutStartSec={timeout}
EnvironmentFile=-/etc/chom-recovery/environment
UMask=0077
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
ReadWritePaths={writable}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
NoNewPrivileges=yes
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
",
        what = job.what,
        id = system.id,
        timeout = job.timeout,
        writable = writable.join(" "),
    ))
}

fn timer(system: &System, job: &Job) -> String {
    format!(
        "{MARK} Change it by `systemctl edit`.
[Unit]
Description={what} of system {id} (chom-recovery)

[Timer]
OnCalendar={calendar}
RandomizedDelaySec={spread}
AccuracySec=10s
Persistent=yes

[Install]
WantedBy=timers.target
",
        what = job.what,
        id = system.id,
        calendar = job.calendar,
        spread = job.spread,
    )
}

/// Names what a unit cannot see to by itself.
fn notes(system: &System) -> Vec<String> {
    let mut sources = vec![("database.password", &system.database.password)];
    sources.extend(system.redis.iter().filter_map(|r| r.password.as_ref()).map(|p| ("redis.password", p)));
    sources.extend(system.repository.identity.iter().map(|i| ("repository.identity", i)));
    let from_environment = |(what, source): &(&str, &SecretSource)| match source {
        SecretSource::Env(name) => Some(format!(
            "{what} comes from the environment variable {name}, which a unit does not have: put it into \
             /etc/chom-recovery/environment (0600), or name a file in the configuration"
        )),
        _ => None,
    };
    sources.iter().filter_map(from_environment).collect()
}

fn unit_path(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("`{}` cannot be written into a unit", path.display().to_string().escape_debug()),
        )),
    }
}

/// Quotes a word of a command line in a unit: `%` begins a specifier there, `$` a variable.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c);
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    if word.chars().all(plain) && !word.is_empty() { word.to_owned() } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> System {
        System::parse(
            r#"
            id = "chom"
            state_dir = "/var/lib/chom recovery"
            [compose]
            project = "chom"
            [database]
            service = "mysql"
            password = { env = "DB_ROOT" }
            [repository]
            url = "file:/var/backups/chom"
            "#,
        )
        .unwrap()
    }

    fn request() -> ScheduleRequest {
        ScheduleRequest {
            program: "/usr/bin/chom-recovery".into(),
            config: "/etc/chom-recovery/50% off.toml".into(),
            textfile: Some("/var/lib/prometheus/node-exporter/chom.prom".into()),
        }
    }

    #[test]
    fn the_units_of_a_system() {
        let units = schedule(&system(), &request()).unwrap();
        let all = units.units.iter().map(|u| format!("## {}\n{}", u.name, u.text)).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(all);
        assert_eq!(units.timers().len(), 5);
        assert!(units.notes[0].contains("DB_ROOT"), "{:?}", units.notes);
    }

    /// The real reader of unit files judges them, where it is installed.
    #[test]
    fn systemd_takes_the_units() {
        let Ok(version) = std::process::Command::new("systemd-analyze").arg("--version").output() else {
            eprintln!("SKIPPED systemd_takes_the_units: there is no systemd-analyze");
            return;
        };
        assert!(version.status.success());
        let folder = tempfile::tempdir().unwrap();
        let mut request = request();
        // Its existence is judged as well.
        request.program = std::env::current_exe().unwrap();
        let units = schedule(&system(), &request).unwrap();
        units.write(folder.path()).unwrap();
        let paths: Vec<_> = units.units.iter().map(|u| folder.path().join(&u.name)).collect();
        let judge = |paths: &[PathBuf]| {
            // Units that ours order themselves after need not be there.
            let output = std::process::Command::new("systemd-analyze")
                .args(["verify", "--man=no", "--recursive-errors=no"])
                .args(paths)
                .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let ours: Vec<String> = said.lines().filter(|l| l.contains("chom-recovery-")).map(str::to_owned).collect();
            (output.status.success(), ours, said)
        };
        let (passed, ours, said) = judge(&paths);
        assert!(passed && ours.is_empty(), "{said}");
        // It does judge: a broken one is refused.
        let broken = folder.path().join("chom-recovery-broken.service");
        std::fs::write(&broken, "[Service]\nType=oneshot\nExecStart=/no/such/program\nNonsense=1\n").unwrap();
        let (passed, ours, said) = judge(&[broken]);
        assert!(!passed || !ours.is_empty(), "{said}");
        for calendar in [&system().schedule.backup, &system().schedule.drill, &system().schedule.metrics] {
            let output = std::process::Command::new("systemd-analyze").args(["calendar", calendar]).output().unwrap();
            assert!(output.status.success(), "{calendar}: {output:?}");
        }
    }

    #[test]
    fn units_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let units = schedule(&system(), &request()).unwrap();
        units.write(folder.path()).unwrap();
        units.write(folder.path()).unwrap();
        let last = folder.path().join(&units.units.last().unwrap().name);
        std::fs::write(&last, "[Timer]\n").unwrap();
        let error = units.write(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&last).unwrap(), "[Timer]\n");
        let relative = ScheduleRequest { program: "chom-recovery".into(), ..request() };
        assert_eq!(schedule(&system(), &relative).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
