//! Evidence: what was seen before anything is changed, in files that only their owner reads.
//!
//! Gathering goes on in parallel under one deadline and never fails: what could not be had is named in the manifest,
//! and the recovery goes on. Every file passes through [`scrub`], after the secrets of the system and of its containers
//! were read, so that it knows them; text also loses what merely looks like a secret.

use std::{
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::Instant};

use super::{HealthMode, HealthProbe, HealthReport, SuiteOptions, disk::DiskProbe, run_suite, suite};
use crate::{
    backend::Backend,
    error::{Error, ErrorKind, Result},
    secret::scrub,
    system::System,
};

mod host;
mod parts;
mod place;
mod proof;
mod redact;

pub use place::EvidencePlace;
pub use proof::{EvidenceProof, verify};

/// Name of the manifest, written last.
pub const MANIFEST: &str = "manifest.json";
/// Kept free for the manifest: it is written however full the disk is by then.
const MANIFEST_RESERVE: usize = 256 << 10;
/// Kept back from the deadline for writing.
const RESERVE: Duration = Duration::from_secs(2);

/// What to gather, beyond what is always gathered.
#[derive(Debug, Clone)]
pub struct EvidenceOptions {
    /// Deadline of the whole gathering.
    pub deadline: Duration,
    /// Logs are read from here on; `None` reads the end of them.
    pub since: Option<DateTime<Utc>>,
    /// Health that was asked a moment ago; `None` asks now.
    pub health: Option<HealthReport>,
    /// Files that the caller brings, for example the state of the catalogue: name and content.
    pub extra: Vec<(String, Bytes)>,
    /// What a person should know of the place.
    pub notes: Vec<String>,
}

impl EvidenceOptions {
    /// Takes the deadline of the system's limits.
    pub fn new(system: &System) -> Self {
        Self {
            deadline: system.limits.evidence_deadline,
            since: None,
            health: None,
            extra: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// What was gathered and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceManifest {
    /// Directory of the files.
    pub directory: PathBuf,
    /// System.
    pub system: String,
    /// When gathering began.
    pub started: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Files, by name.
    pub files: Vec<EvidenceFile>,
    /// What could not be had, and why.
    pub missing: Vec<Missing>,
    /// What a person should know of the place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl EvidenceManifest {
    /// Tells whether everything was had.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// A file of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceFile {
    /// Name in the directory.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

/// Evidence that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Gathers evidence into a directory (made with mode 0700, files with 0600) and writes its manifest last.
///
/// Files of the same names from an interrupted gathering are replaced.
///
/// # Cancel
/// A dropped future ends the gathering; the files written so far stay, without a manifest.
pub async fn collect(
    system: &System,
    backend: &Arc<dyn Backend>,
    into: &Path,
    options: EvidenceOptions,
) -> EvidenceManifest {
    collect_with(system, backend, into, options, Vec::new()).await
}

/// A file that the caller gathers meanwhile: its name, and the work.
pub(crate) type Brought = (String, BoxFuture<'static, Result<Bytes>>);

/// The same, with files that the caller gathers meanwhile, under the same deadline.
pub(crate) async fn collect_with(
    system: &System,
    backend: &Arc<dyn Backend>,
    into: &Path,
    mut options: EvidenceOptions,
    brought: Vec<Brought>,
) -> EvidenceManifest {
    let (started, begun) = (Utc::now(), Instant::now());
    let mut manifest = EvidenceManifest {
        directory: into.to_owned(),
        system: system.id.to_string(),
        started,
        took_ms: 0,
        files: Vec::new(),
        missing: Vec::new(),
        notes: std::mem::take(&mut options.notes),
    };
    let until = begun + options.deadline.saturating_sub(RESERVE).max(options.deadline / 2);
    if let Err(error) = make_directory(into) {
        manifest.missing.push(Missing { what: "everything".into(), why: error.to_string() });
        return manifest;
    }
    redact::learn(system, backend, until).await;
    let reserve = into.join(".reserve.part");
    // Without it the manifest takes its chance.
    let _ = tokio::fs::write(&reserve, vec![0; MANIFEST_RESERVE]).await;
    let mut jobs = jobs(system, backend, into, options, brought, until).await;
    while let Some(done) = jobs.join_next().await {
        let Ok((what, outcome)) = done else {
            manifest.missing.push(Missing { what: "a part".into(), why: "gathering it failed unexpectedly".into() });
            continue;
        };
        let written = match outcome {
            Ok(content) => write(into, &what, &content).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(file) => manifest.files.push(file),
            Err(error) => manifest.missing.push(Missing { what, why: scrub(&error.to_string()) }),
        }
    }
    manifest.files.sort_by(|a, b| a.name.cmp(&b.name));
    manifest.missing.sort_by(|a, b| a.what.cmp(&b.what));
    manifest.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let _ = tokio::fs::remove_file(&reserve).await;
    if let Err(error) = write_manifest(into, &manifest).await {
        manifest.missing.push(Missing { what: MANIFEST.into(), why: error.to_string() });
    }
    manifest
}

type Job = (String, Result<Bytes>);

/// Starts one task for each file; each ends at the deadline.
async fn jobs(
    system: &System,
    backend: &Arc<dyn Backend>,
    into: &Path,
    options: EvidenceOptions,
    brought: Vec<Brought>,
    until: Instant,
) -> JoinSet<Job> {
    let mut jobs = JoinSet::new();
    for (name, work) in brought {
        spawn(&mut jobs, until, &name, work);
    }
    for (name, content) in options.extra {
        jobs.spawn(async move { (name, Ok(content)) });
    }
    if let Some(report) = options.health {
        jobs.spawn(async move { ("health.json".to_owned(), json(&report)) });
    } else {
        let asked = SuiteOptions { since: options.since, ..HealthMode::PreRecovery.into() };
        let probes = suite(system, backend, None, asked);
        let left = until.saturating_duration_since(Instant::now());
        // The suite keeps the deadline itself; a second one at the same instant would throw its answers away.
        jobs.spawn(
            async move { ("health.json".to_owned(), json(&run_suite(HealthMode::PreRecovery, probes, left).await)) },
        );
    }

    let disk = DiskProbe::new(system, backend.clone());
    spawn(&mut jobs, until, "disk.json", async move { json(&disk.check().await) });
    let asked = backend.clone();
    spawn(&mut jobs, until, "engine.json", async move { json(&asked.engine().await?) });
    let asked = backend.clone();
    spawn(&mut jobs, until, "project.json", async move { json(&asked.model().await?) });
    let asked = backend.clone();
    spawn(&mut jobs, until, "host.txt", async move { host::memory(asked.as_ref()).await });
    let asked = (backend.clone(), host::Places::of(system, into));
    spawn(&mut jobs, until, "filesystems.json", async move { host::filesystems(asked.0.as_ref(), &asked.1).await });

    let containers = match tokio::time::timeout_at(until, backend.containers()).await {
        Ok(found) => found,
        Err(_) => Err(late()),
    };
    match containers {
        Ok(containers) => {
            let listed = json(&containers);
            jobs.spawn(async move { ("containers.json".to_owned(), listed) });
            let asked = (backend.clone(), containers.clone());
            spawn(&mut jobs, until, "usage.json", async move { parts::usage(&asked.0, &asked.1, until).await });
            let asked = parts::Errors::of(system, backend, &containers, options.since);
            spawn(&mut jobs, until, "errors.json", async move { asked.gather().await });
            for container in containers {
                let (asked, since) = (backend.clone(), options.since);
                let name = format!("log-{}.txt", container.name);
                if container.service == system.application.service {
                    for (i, file) in system.application.logs.iter().enumerate() {
                        let (asked, container, file) = (backend.clone(), container.clone(), file.clone());
                        let name = format!("file-{}-{i}.txt", container.name);
                        spawn(&mut jobs, until, &name, async move { parts::file(&asked, &container, &file).await });
                    }
                }
                spawn(&mut jobs, until, &name, async move { parts::log(&asked, &container.name, since).await });
            }
        }
        Err(error) => {
            let record = error.to_record();
            for what in ["containers.json", "errors.json", "usage.json", "logs"] {
                let error = Error::from(record.clone());
                jobs.spawn(async move { (what.to_owned(), Err(error)) });
            }
        }
    }
    jobs
}

fn spawn(
    jobs: &mut JoinSet<Job>,
    until: Instant,
    name: &str,
    work: impl Future<Output = Result<Bytes>> + Send + 'static,
) {
    let name = name.to_owned();
    jobs.spawn(async move {
        let outcome = tokio::time::timeout_at(until, work).await.unwrap_or_else(|_| Err(late()));
        (name, outcome)
    });
}

fn late() -> Error {
    Error::new(ErrorKind::Timeout, "no answer before the deadline")
}

fn json<T: Serialize>(value: &T) -> Result<Bytes> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot write evidence as JSON").caused_by(e))?;
    Ok(text.into())
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // One that was there before may be open to others.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}

async fn write(directory: &Path, name: &str, content: &[u8]) -> Result<EvidenceFile> {
    let clean: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).take(120).collect();
    let clean = if clean.starts_with('.') { format!("_{clean}") } else { clean };
    let content = redact::clean(&clean, &String::from_utf8_lossy(content));
    replace(directory, &clean, content.as_bytes()).await?;
    Ok(EvidenceFile { name: clean, bytes: content.len() as u64, sha256: hex::encode(Sha256::digest(&content)) })
}

async fn write_manifest(directory: &Path, manifest: &EvidenceManifest) -> Result<()> {
    replace(directory, MANIFEST, &json(manifest)?).await?;
    // Names are durable once their directory is.
    tokio::fs::File::open(directory).await?.sync_all().await?;
    Ok(())
}

async fn replace(directory: &Path, name: &str, content: &[u8]) -> Result<()> {
    let (partial, path) = (directory.join(format!(".{name}.part")), directory.join(name));
    match tokio::fs::remove_file(&partial).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).await?;
    file.write_all(content).await?;
    file.sync_all().await?;
    tokio::fs::rename(&partial, &path).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::testing::backend::{self as testing_backend, Told},
        secret::Secret,
    };

    #[tokio::test]
    async fn files_are_private_scrubbed_hashed_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("evidence");
        make_directory(&into).unwrap();
        let secret = Secret::new("evidence-canary-81");
        let text = format!("password is {}", secret.expose());
        write(&into, "../log:1.txt", b"older").await.unwrap();
        let file = write(&into, "../log:1.txt", text.as_bytes()).await.unwrap();
        assert_eq!(file.name, "_.._log_1.txt", "no name leads out of the directory");
        let path = into.join(&file.name);
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content, b"password is [redacted]");
        assert_eq!(file.sha256, hex::encode(Sha256::digest(&content)));
        assert_eq!(file.bytes, content.len() as u64);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&into).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&into).unwrap().count(), 1, "nothing partial stays");
    }

    fn system(state: &Path) -> System {
        System::parse(&format!(
            "id = 'p'\nstate_dir = '{0}'\n[compose]\nproject = 'p'\n[database]\nservice = 'mysql'\n\
             password = {{ env = 'NO_SUCH_VARIABLE_HERE' }}\n[repository]\nurl = 'file:{0}/backups'\n",
            state.display()
        ))
        .unwrap()
    }

    async fn gather(told: Told, into: &Path, deadline: Duration) -> EvidenceManifest {
        let system = system(into);
        let backend: Arc<dyn Backend> = Arc::new(told);
        let extra = vec![("catalog.json".to_owned(), Bytes::from_static(b"[]"))];
        let options = EvidenceOptions { deadline, extra, ..EvidenceOptions::new(&system) };
        collect(&system, &backend, &into.join("evidence"), options).await
    }

    #[tokio::test]
    async fn a_log_that_never_ends_costs_no_more_than_the_deadline_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let told = Told { containers: Some(vec![testing_backend::container("mysql")]), ..Told::default() };
        let begun = std::time::Instant::now();
        let manifest = gather(told, dir.path(), Duration::from_secs(2)).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        let missing: Vec<_> = manifest.missing.iter().map(|m| m.what.as_str()).collect();
        assert!(missing.contains(&"log-p-mysql-1.txt"), "{missing:?}");
        let names: Vec<_> = manifest.files.iter().map(|f| f.name.as_str()).collect();
        for name in ["catalog.json", "containers.json", "disk.json", "health.json", "usage.json"] {
            assert!(names.contains(&name), "{name} of {names:?}");
        }
        let written = std::fs::read(dir.path().join("evidence").join(MANIFEST)).unwrap();
        assert_eq!(serde_json::from_slice::<EvidenceManifest>(&written).unwrap(), manifest);
    }

    #[tokio::test]
    async fn a_silent_engine_leaves_what_can_be_had_without_it() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = gather(Told::default(), dir.path(), Duration::from_secs(2)).await;
        assert!(!manifest.is_complete());
        assert!(manifest.missing.iter().any(|m| m.what == "logs" && m.why.contains("does not answer")));
        assert!(manifest.files.iter().any(|f| f.name == "health.json"));
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_does_not_stop_the_recovery() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("evidence"), "a file is in the way").unwrap();
        let manifest = gather(Told::default(), dir.path(), Duration::from_secs(2)).await;
        assert_eq!(manifest.missing[0].what, "everything");
    }

    #[tokio::test]
    async fn a_log_keeps_its_end_and_both_streams() {
        let told = Told { log: Some(vec!["one", "two"]), ..Told::default() };
        let backend: Arc<dyn Backend> = Arc::new(told);
        assert_eq!(parts::log(&backend, "x", None).await.unwrap(), "- err one\n- err two\n");
    }

    #[tokio::test]
    async fn a_bundle_is_proven_and_what_was_changed_since_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = gather(Told::default(), dir.path(), Duration::from_secs(2)).await;
        let into = dir.path().join("evidence");
        let proof = verify(&into).unwrap();
        assert_eq!((proof.proven, &proof.findings), (manifest.files.len() as u64, &Vec::new()));

        std::fs::write(into.join("catalog.json"), "{}").unwrap();
        std::fs::write(into.join("added.txt"), "later").unwrap();
        std::fs::remove_file(into.join("health.json")).unwrap();
        let found = verify(&into).unwrap();
        let told: Vec<_> = found.findings.iter().map(|f| f.split(':').next().unwrap()).collect();
        assert_eq!(told, ["catalog.json", "health.json", "added.txt"]);
        assert_eq!(found.manifest_sha256, proof.manifest_sha256);

        let text = std::fs::read_to_string(into.join(MANIFEST)).unwrap();
        std::fs::write(into.join(MANIFEST), text.replace("catalog.json", "../evidence/x")).unwrap();
        let found = verify(&into).unwrap();
        assert!(found.findings[0].contains("leads out"), "{found:?}");
        assert_ne!(found.manifest_sha256, proof.manifest_sha256);
        std::fs::remove_file(into.join(MANIFEST)).unwrap();
        assert_eq!(verify(&into).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_folder_that_holds_something_or_has_no_room_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let backend: Arc<dyn Backend> = Arc::new(Told::default());
        let system = system(dir.path());
        let chosen = EvidencePlace::choose(&system, &backend, Utc::now()).await.unwrap();
        assert!(chosen.directory.starts_with(dir.path().join("evidence")), "{chosen:?}");
        std::fs::write(dir.path().join("something"), "").unwrap();
        let refused = EvidencePlace::asked_for(&system, &backend, dir.path()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        let refused = EvidencePlace::asked_for(&system, &backend, Path::new("/proc/nothing")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
    }

    #[tokio::test]
    async fn a_directory_that_was_open_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        make_directory(dir.path()).unwrap();
        assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
