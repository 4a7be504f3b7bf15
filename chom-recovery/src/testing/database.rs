//! A database in the simulated world: its tables are files in the folder of its volume.
//!
//! Every change is one rename, so that a killed process leaves each file as it was or as it is to be; a load is many
//! changes, so that a candidate can be found half loaded.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use async_trait::async_trait;
use chrono::Utc;

use super::sim::{SimBackend, SimLife};
use crate::{
    backend::{
        Backend, BackendExt, ContainerState, HealthCheck, Labels, LogRequest, Mount, MountSource, Network, OneOff,
        OneOffFile,
    },
    catalog::{
        self, BackupInfo, BackupReader, BackupWriter, Baselines, Capture, ComponentFacts, ComponentKind, ComponentSpec,
        DatabaseFacts, Facts, Flavour, HostId, Name, PartMeta, Repository, SALVAGE_NOTE, Signer, TableBaseline,
    },
    error::{Error, ErrorKind, Result},
    mysql::LoginAnswer,
    probe::{Health, HealthProbe, SharedProbe},
    procedure::database::Source,
    procedure::database::ops::{
        Assessment, BackUp, DatabaseKind, DatabaseOps, Finding, Loaded, NextIds, Production, Progress, RaisedCounter,
        Verified,
    },
    procedure::{salvage::ops::SalvageOps, tables::ops::TableOps},
    run::failpoint,
    secret::Secret,
    stream,
    system::{DATABASE, System},
};

/// Image of the simulated server.
pub const IMAGE: &str = "simulated-server";
pub(super) const SCHEMA: &str = "shop";
const PASSWORD: &str = "/run/password";
const VERSION: &str = "10.11.6";
const DAMAGE: &str = "a page is corrupt";
/// Files of a volume: the version of the server on it, where that is another, and tables that it calls corrupt, a line each.
const OTHER_VERSION: &str = "version";
pub(super) const CORRUPT: &str = "corrupt";

/// Returns the password that a simulated server knows of an account.
pub fn password_of(user: &str) -> String {
    format!("Password-of-{user}-1")
}

/// What a simulated server keeps in its volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Table to rows, a line each.
    pub tables: BTreeMap<String, String>,
    /// Table to the next AUTO_INCREMENT value.
    pub next: NextIds,
    /// Accounts, a line each. A server without any has not been set up to its end.
    pub accounts: String,
}

impl Data {
    /// Reads a volume's folder.
    ///
    /// # Errors
    /// Those of reading files; one that is not there is no error.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let next = files(&folder.join("next"))?
            .into_iter()
            .map(|(table, text)| Ok((table, text.parse().map_err(io::Error::other)?)));
        Ok(Self {
            tables: files(&folder.join("tables"))?,
            next: next.collect::<io::Result<_>>()?,
            accounts: text(&folder.join("accounts"))?.unwrap_or_default(),
        })
    }

    /// Writes it into a volume's folder.
    ///
    /// # Errors
    /// Those of writing files.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        for (table, rows) in &self.tables {
            put(folder, &format!("tables/{table}"), rows)?;
            if let Some(next) = self.next.get(table) {
                put(folder, &format!("next/{table}"), &next.to_string())?;
            }
        }
        // Last: what has accounts has everything else.
        put(folder, "accounts", &self.accounts)
    }

    /// Tells whether rows and accounts are the same; counters may differ.
    pub fn has_rows_of(&self, other: &Self) -> bool {
        self.tables == other.tables && self.accounts == other.accounts
    }
}

/// Damages the data in a volume's folder: a server on it runs and is not healthy, or does not start at all.
///
/// # Errors
/// Those of writing files.
pub fn damage(folder: &Path, starts: bool) -> io::Result<()> {
    put(folder, "damaged", if starts { "starts" } else { "ends" })
}

/// Makes a server on a volume's folder call tables corrupt.
///
/// # Errors
/// Those of writing files.
pub fn corrupt(folder: &Path, tables: &[&str]) -> io::Result<()> {
    put(folder, CORRUPT, &tables.join("\n"))
}

/// Makes a server on a volume's folder one of another version.
///
/// # Errors
/// Those of writing files.
pub fn upgrade(folder: &Path, version: &str) -> io::Result<()> {
    put(folder, OTHER_VERSION, version)
}

pub(super) fn version(folder: &Path) -> io::Result<String> {
    Ok(text(&folder.join(OTHER_VERSION))?.unwrap_or_else(|| VERSION.into()))
}

fn is_physical(backup: &BackupReader) -> bool {
    backup.manifest().component(DATABASE).is_ok_and(|component| component.kind == ComponentKind::Physical)
}

/// Files of a folder by name; unfinished ones are not seen.
pub(super) fn files(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

pub(super) fn text(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts a file there at once; a test may kill the process before and after.
pub(super) fn put(folder: &Path, name: &str, content: &str) -> io::Result<()> {
    put_called(folder, name, content, name)
}

/// As [`put`], under a name for the place that is the same in every run.
pub(super) fn put_called(folder: &Path, name: &str, content: &str, place: &str) -> io::Result<()> {
    let path = folder.join(name);
    let (parent, file) = (path.parent().unwrap_or(folder), path.file_name().unwrap_or_default().to_string_lossy());
    fs::create_dir_all(parent)?;
    let fresh = parent.join(format!(".new-{file}"));
    fs::write(&fresh, content)?;
    change(&format!("put {place}"), || fs::rename(&fresh, &path))
}

pub(super) fn change(what: &str, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    failpoint::hit(&format!("before {what}"));
    change()?;
    failpoint::hit(&format!("after {what}"));
    Ok(())
}

/// A simulated server speaks no SQL.
pub(super) fn of_repository(backup: &Source) -> Result<&BackupReader> {
    match backup {
        Source::Repository(reader) => Ok(reader),
        Source::Legacy(_) => Err(Error::new(ErrorKind::Unsupported, "the simulated server reads no dumps")),
    }
}

/// Describes an isolated server of production's image on another volume.
pub(super) fn server_on(production: &Production, name: &str, volume: &str) -> OneOff {
    let source = MountSource::Volume(volume.to_owned());
    OneOff {
        name: name.to_owned(),
        image: production.image_id.clone(),
        entrypoint: None,
        command: production.command.clone(),
        env: Vec::new(),
        user: None,
        mounts: vec![Mount { source, target: production.data_dir.clone(), read_only: false }],
        files: Vec::new(),
        network: Network::Isolated,
        own_names: Vec::new(),
        labels: Labels::new(),
        memory: None,
        start: true,
    }
}

/// The database of a simulated system.
#[derive(Debug, Clone)]
pub struct SimDatabase {
    system: Arc<System>,
    pub(super) backend: Arc<SimBackend>,
    repository: Repository,
}

impl SimDatabase {
    /// Makes it, and registers the server's program at the backend.
    pub fn new(system: Arc<System>, backend: Arc<SimBackend>, repository: Repository) -> Self {
        let (weak, data_dir): (Weak<SimBackend>, _) = (Arc::downgrade(&backend), system.database.data_dir.clone());
        backend.program(IMAGE, move |start| {
            let volume = start.container.volume_at(&data_dir).map(str::to_owned);
            let folder = weak.upgrade().zip(volume).map(|(backend, volume)| backend.volume_folder(&volume));
            let damaged = folder.and_then(|folder| text(&folder.join("damaged")).ok().flatten());
            match damaged.as_deref() {
                None => SimLife::Runs(HealthCheck::Healthy),
                Some(how) => {
                    start.print(DAMAGE, true);
                    if how == "starts" { SimLife::Runs(HealthCheck::Unhealthy) } else { SimLife::Ends(1) }
                }
            }
        });
        Self { system, backend, repository }
    }

    /// Returns the folder of the data that a running server serves.
    pub(super) async fn served(&self, container: &str) -> Result<PathBuf> {
        let unreachable = |why: String| Error::new(ErrorKind::Unreachable, format!("`{container}` {why}"));
        let found = self.backend.container(container).await?.ok_or_else(|| unreachable("is not there".into()))?;
        if !found.is_ready() {
            return Err(unreachable(format!("does not answer: {:?}, {:?}", found.state, found.health)));
        }
        let volume = found
            .volume_at(&self.system.database.data_dir)
            .ok_or_else(|| Error::new(ErrorKind::Precondition, format!("`{container}` has no volume")))?;
        Ok(self.backend.volume_folder(volume))
    }

    async fn health(&self) -> Result<Health> {
        let containers = self.backend.service_containers(&self.system.database.service).await?;
        let name = containers.first().map(|c| c.name.clone()).unwrap_or_default();
        let data = Data::read(&self.served(&name).await?)?;
        Ok(if data.accounts.is_empty() || data.tables.is_empty() {
            Health::down("the server is still being set up")
        } else {
            Health::healthy(format!("{} tables", data.tables.len()))
        })
    }

    /// Stores data as a backup. `unread` are tables whose rows could not be read, of a server that does not start any more.
    pub(super) async fn store(
        &self,
        data: &Data,
        version: String,
        request: &BackUp,
        unread: &[String],
        progress: Progress,
    ) -> Result<BackupInfo> {
        let begin = Utc::now();
        let signer = Signer::load(&self.system.state_dir(), &self.system.id)?;
        let host = HostId::derive(&self.backend.engine().await?.id);
        let mut writer = BackupWriter::begin(&self.repository, &signer, &host, &self.system.id).await?;
        let kind = match request.kind {
            DatabaseKind::Logical => ComponentKind::Logical,
            DatabaseKind::Physical => ComponentKind::Physical,
        };
        let component = writer.component(ComponentSpec::new(DATABASE, kind)?)?;
        let mut baselines = Baselines { accounts: Some(rows(&data.accounts)), ..Baselines::default() };
        let mut index = 0;
        for (table, text) in &data.tables {
            let mut meta = PartMeta { what: "rows".into(), table: Some(table.clone()), ..PartMeta::default() };
            meta.notes.insert("next".into(), data.next.get(table).copied().unwrap_or(1).to_string());
            component.put(index, meta, stream::once(text.clone())).await?;
            failpoint::hit("after part");
            index += 1;
            baselines.tables.push(TableBaseline {
                schema: SCHEMA.into(),
                table: table.clone(),
                rows: rows(text),
                checksum: Some(checksum(text)),
            });
            progress(u64::from(index), None);
        }
        let meta = PartMeta { what: "accounts".into(), ..PartMeta::default() };
        component.put(index, meta, stream::once(data.accounts.clone())).await?;
        let mut facts = Facts::new(Capture { begin, point: begin, end: Utc::now() });
        if !unread.is_empty() {
            component.describe(ComponentFacts { unread: unread.len() as u64, ..ComponentFacts::default() });
            facts.notes.insert(SALVAGE_NOTE.into(), "1".into());
            facts.warnings.extend(unread.iter().map(|table| format!("table `{table}`: no row was read")));
        }
        facts.run.clone_from(&request.run);
        facts.tags = request.tags.iter().map(|tag| tag.parse::<Name>()).collect::<Result<_>>()?;
        facts.baselines = baselines;
        facts.database = Some(DatabaseFacts {
            flavour: Flavour::Mariadb,
            version,
            server_uuid: None,
            position: None,
            gtid_set: None,
            variables: BTreeMap::new(),
        });
        failpoint::hit("before manifest");
        let info = writer.finish(facts).await?;
        failpoint::hit("after manifest");
        let reader = BackupReader::open(&self.repository, info.place.clone()).await?;
        let verified = catalog::verify_written(&reader, &|_| {}).await?.into_result()?;
        Ok(BackupInfo {
            level: Some(verified.level),
            verified: Some(verified.ended),
            decoded_when_written: verified.decoded_when_written,
            ..info
        })
    }

    /// Rows of a backup, by table, and its accounts.
    pub(super) async fn content(backup: &BackupReader) -> Result<Data> {
        let component = backup.component(DATABASE).await?;
        let mut data = Data::default();
        for part in component.parts() {
            let bytes = stream::collect(component.read_part(part).await?, 1 << 20).await?;
            let text = String::from_utf8_lossy(&bytes).into_owned();
            match &part.meta.table {
                Some(table) => {
                    let next = part.meta.notes.get("next").and_then(|next| next.parse().ok()).unwrap_or(1);
                    data.next.insert(table.clone(), next);
                    data.tables.insert(table.clone(), text);
                }
                None => data.accounts = text,
            }
        }
        Ok(data)
    }
}

pub(super) fn rows(text: &str) -> u64 {
    text.lines().count() as u64
}

pub(super) fn checksum(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// Asks whether the server serves whole data.
#[derive(Debug)]
struct Ready(SimDatabase);

#[async_trait]
impl HealthProbe for Ready {
    fn name(&self) -> &'static str {
        "mysql"
    }

    async fn check(&self) -> Health {
        self.0.health().await.unwrap_or_else(|e| Health::down(e.to_string()))
    }
}

#[async_trait]
impl DatabaseOps for SimDatabase {
    async fn assess(&self, production: &Production, newest: Option<&BackupReader>) -> Result<Assessment> {
        let folder = match self.served(&production.container).await {
            Ok(folder) => folder,
            Err(error) => {
                let log = self.backend.logs(&production.container, LogRequest::default()).await?;
                let lines: Vec<_> = futures::TryStreamExt::try_collect(log).await?;
                let running = self.backend.container(&production.container).await?.map(|c| c.state);
                let damaged = lines.iter().any(|line| line.text == DAMAGE);
                let finding = match running {
                    _ if damaged => Finding::Damaged,
                    Some(ContainerState::Running) => Finding::Unclear,
                    _ => Finding::Stopped,
                };
                return Ok(Assessment::of(finding, error.to_string()));
            }
        };
        let data = Data::read(&folder)?;
        let expected = match newest {
            Some(backup) => backup.private().await?.baselines.tables.as_slice(),
            None => &[],
        };
        let gone = expected.iter().filter(|t| !data.tables.contains_key(&t.table));
        let missing: Vec<_> = gone.map(|t| format!("{}.{}", t.schema, t.table)).collect();
        let corrupt: Vec<_> = text(&folder.join(CORRUPT))?.iter().flat_map(|t| t.lines()).map(str::to_owned).collect();
        let finding = match (corrupt.is_empty(), missing.is_empty()) {
            (false, _) => Finding::Damaged,
            (true, false) => Finding::DataMissing,
            (true, true) => Finding::Healthy,
        };
        let mut seen = Assessment::of(finding, format!("{} tables, {} missing", data.tables.len(), missing.len()));
        seen.server = Some(VERSION.into());
        seen.missing_tables = missing;
        seen.corrupt_tables = corrupt;
        seen.next_ids = data.next;
        Ok(seen)
    }

    fn ready(&self) -> SharedProbe {
        Arc::new(Ready(self.clone()))
    }

    async fn check_compatible(&self, backup: &Source, production: &Production) -> Result<Vec<String>> {
        let backup = of_repository(backup)?;
        let from = backup.manifest().facts.database.as_ref();
        let from = from.ok_or_else(|| Error::new(ErrorKind::Unsupported, "this backup holds no database"))?;
        let kind = backup.manifest().component(DATABASE)?.kind;
        let version = match self.served(&production.container).await {
            Ok(folder) => version(&folder)?,
            Err(_) => VERSION.into(),
        };
        catalog::compatible(kind, (from.flavour, &from.version), (Flavour::Mariadb, &version))?;
        Ok(Vec::new())
    }

    fn candidate(
        &self,
        production: &Production,
        _backup: &Source,
        name: &str,
        volume: &str,
        password: &Secret,
    ) -> Result<OneOff> {
        let content = password.clone();
        let files = vec![OneOffFile { path: PASSWORD.into(), content, mode: 0o400, uid: 0, gid: 0 }];
        Ok(OneOff { files, ..server_on(production, name, volume) })
    }

    async fn load(&self, candidate: &str, password: &Secret, backup: &Source, progress: Progress) -> Result<Loaded> {
        let backup = of_repository(backup)?;
        let folder = self.served(candidate).await?;
        let place = crate::backend::Place::Container(candidate.to_owned());
        let packed = stream::collect(self.backend.read_archive(&place, PASSWORD).await?, 1 << 20).await?;
        if !packed.windows(password.expose().len()).any(|bytes| bytes == password.expose().as_bytes()) {
            return Err(Error::new(ErrorKind::Denied, format!("`{candidate}` was made with another password")));
        }
        let data = Self::content(backup).await?;
        data.write(&folder)?;
        progress(backup.manifest().plain_len(), None);
        Ok(Loaded {
            rows: data.tables.values().map(|t| rows(t)).sum(),
            bytes: backup.manifest().plain_len(),
            tables: data.tables.len() as u64,
            warnings: Vec::new(),
            filled: None,
        })
    }

    async fn verify(&self, container: &str, backup: &Source, _progress: Progress) -> Result<Verified> {
        let backup = of_repository(backup)?;
        let data = Data::read(&self.served(container).await?)?;
        let baselines = &backup.private().await?.baselines;
        let mut differences = Vec::new();
        for table in &baselines.tables {
            let here = data.tables.get(&table.table).map(|text| (rows(text), Some(checksum(text))));
            if here != Some((table.rows, table.checksum.clone())) {
                differences.push(format!("table `{}`", table.table));
            }
        }
        if data.tables.len() != baselines.tables.len() {
            differences.push("the number of tables".into());
        }
        if baselines.accounts != Some(rows(&data.accounts)) {
            differences.push("the accounts".into());
        }
        if !differences.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, format!("`{container}` differs from its backup"))
                .with("differences", differences.join(", ")));
        }
        Ok(Verified {
            tables: data.tables.len() as u64,
            rows: data.tables.values().map(|t| rows(t)).sum(),
            definitions: 0,
            is_physical: is_physical(backup),
        })
    }

    /// Who writes is connected while it runs.
    async fn clients(&self, container: &str) -> Result<Vec<String>> {
        self.served(container).await?;
        let writers = self.system.writers();
        let all = self.backend.containers().await?.into_iter();
        let connected = all.filter(|c| c.state == ContainerState::Running && writers.contains(&c.service.as_str()));
        Ok(connected.map(|c| c.name).collect())
    }

    async fn try_login(&self, user: &str, password: &Secret, schema: &str) -> Result<LoginAnswer> {
        let servers = self.backend.service_containers(&self.system.database.service).await?;
        let data = Data::read(&self.served(&servers[0].name).await?)?;
        let is_known = data.accounts.lines().any(|account| account == user);
        Ok(match (is_known && password.expose() == password_of(user), schema == SCHEMA) {
            (false, _) => LoginAnswer::AccountRefused,
            (true, false) => LoginAnswer::SchemaRefused,
            (true, true) => LoginAnswer::LetIn,
        })
    }

    async fn newest_rows(&self, _container: &str) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    async fn raise_counters(&self, container: &str, next: &NextIds) -> Result<Vec<RaisedCounter>> {
        let folder = self.served(container).await?;
        let mut raised = Vec::new();
        for (table, from) in Data::read(&folder)?.next {
            if let Some(&to) = next.get(&table).filter(|to| **to > from) {
                put(&folder, &format!("next/{table}"), &to.to_string())?;
                raised.push(RaisedCounter { table, from, to });
            }
        }
        Ok(raised)
    }

    fn tables(&self) -> Result<Arc<dyn TableOps>> {
        Ok(Arc::new(self.clone()))
    }

    fn salvage(&self) -> Result<Arc<dyn SalvageOps>> {
        Ok(Arc::new(self.clone()))
    }

    async fn back_up(&self, production: &Production, request: &BackUp, progress: Progress) -> Result<BackupInfo> {
        let folder = self.served(&production.container).await?;
        self.store(&Data::read(&folder)?, version(&folder)?, request, &[], progress).await
    }
}
