//! MySQL and MariaDB behind the procedure's port.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    ops::{
        Assessment, BackUp, DatabaseKind, DatabaseOps, Loaded, NextIds, Production, Progress, RaisedCounter, Verified,
        is_physical,
    },
    source::Source,
};
use crate::{
    backend::{Backend, Endpoint, Mount, MountSource, Network, OneOff, OneOffFile},
    catalog::{self, BackupInfo, BackupReader, ComponentKind, ComponentWriter, Repository, logical},
    error::{Error, ErrorKind, Result},
    mysql::{self, Login, LoginAnswer, Scope, Server, candidate_args, compare, dump, load},
    probe::{self, SharedProbe, mysql::MysqlProbe},
    procedure::{
        backup::{Taking, take},
        salvage::ops::SalvageOps,
        tables::ops::TableOps,
    },
    secret::Secret,
    system::{DATABASE, System},
};

mod assess;
mod cold;
mod copies;
mod kept;
mod legacy;
mod physical;
mod raise;
mod salvage;
mod tables;

pub(crate) use kept::{KEPT_ROLE, kept_backups};
use physical::verify_copy;

/// Folder in every image, for the candidate's one-time password.
const PASSWORD_FILE: &str = "/run/chom-recovery-password";
/// Longest time for a login that is only tried.
const LOGIN: Duration = Duration::from_secs(8);
/// Longest time for a server's first start.
const FIRST_START: Duration = Duration::from_mins(5);
/// User and group of the server in the official images.
const MYSQL_UID: u32 = 999;

/// A real server in a container of the project.
#[derive(Debug, Clone)]
pub struct MySqlOps {
    system: Arc<System>,
    backend: Arc<dyn Backend>,
    repository: Repository,
}

/// A server with the endpoint that keeps it reachable.
struct Reached {
    server: Server,
    _endpoint: Endpoint,
}

impl MySqlOps {
    /// Makes it from what a system is made of.
    pub fn new(system: Arc<System>, backend: Arc<dyn Backend>, repository: Repository) -> Self {
        Self { system, backend, repository }
    }

    /// Reaches production's server with the configured credentials.
    async fn production(&self, container: &str) -> Result<Reached> {
        let database = &self.system.database;
        let endpoint = match &database.address {
            Some(address) => {
                let (host, port) = address
                    .rsplit_once(':')
                    .and_then(|(host, port)| Some((host, port.parse().ok()?)))
                    .ok_or_else(|| {
                    Error::new(ErrorKind::InvalidInput, format!("`database.address` = `{address}` is not host:port"))
                })?;
                Endpoint::new(host.trim_matches(['[', ']']), port, None)
            }
            None => self.backend.endpoint(container, database.port).await?,
        };
        self.reach(endpoint, &database.user, database.password.resolve().await?, Duration::from_secs(15)).await
    }

    /// Describes a server of production's image and settings, isolated, on a volume that holds a data directory already. It is
    /// not started, and its accounts are those of the data directory.
    fn server_on(&self, production: &Production, name: &str, volume: &str, arguments: Vec<String>) -> OneOff {
        let data = Mount {
            source: MountSource::Volume(volume.to_owned()),
            target: production.data_dir.clone(),
            read_only: false,
        };
        // The server's own settings decide how data is stored; scripts of its first start and secrets stay out.
        let settings = production
            .mounts
            .iter()
            .filter(|m| m.target.starts_with("/etc/"))
            .map(|m| Mount { read_only: true, ..m.clone() });
        let mut command = production.command.clone();
        command.extend(arguments);
        // Production's own may be more than the candidate has in all, or by default a small part of it.
        let memory = self.system.limits.candidate_memory;
        command.push(format!("--innodb-buffer-pool-size={}", memory / 2));
        OneOff {
            name: name.to_owned(),
            image: production.image_id.clone(),
            entrypoint: None,
            command,
            env: candidate_env(production, true),
            user: None,
            mounts: std::iter::once(data).chain(settings).collect(),
            files: Vec::new(),
            network: Network::Isolated,
            own_names: Vec::new(),
            labels: crate::backend::Labels::new(),
            memory: Some(memory),
            start: false,
        }
    }

    async fn reach(&self, endpoint: Endpoint, user: &str, password: Secret, wait: Duration) -> Result<Reached> {
        let login = Login::new(endpoint.host.clone(), endpoint.port, user, password);
        Ok(Reached { server: Server::connect(login, wait).await?, _endpoint: endpoint })
    }

    /// Waits until the candidate can be dialled.
    async fn candidate_endpoint(&self, name: &str, wait: Duration) -> Result<Endpoint> {
        let end = tokio::time::Instant::now() + wait;
        loop {
            match self.backend.endpoint(name, self.system.database.port).await {
                Ok(endpoint) => return Ok(endpoint),
                Err(e) if tokio::time::Instant::now() > end => {
                    return Err(e.during(format!("candidate `{name}` did not open its port")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Returns an error once the candidate runs no more. A connection to a server that is gone may stay silent.
    async fn candidate_ended(&self, name: &str) -> Error {
        loop {
            match self.backend.container(name).await {
                Ok(Some(container)) if container.finished_at.is_none() || container.exit_code.is_none() => {}
                Ok(found) => {
                    let mut error =
                        Error::new(ErrorKind::Failed, format!("candidate `{name}` ended while it was needed"));
                    if let Some(container) = found {
                        error = error
                            .with("exit code", container.exit_code.map_or_else(String::new, |code| code.to_string()))
                            .with("out of memory", container.oom_killed);
                    }
                    return error.with("log", self.last_lines(name).await);
                }
                // An Engine that does not answer for a moment says nothing about the candidate.
                Err(_) => {}
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn load_into(
        &self,
        candidate: &str,
        password: &Secret,
        backup: &Source,
        progress: Progress,
    ) -> Result<Loaded> {
        let endpoint = self.candidate_endpoint(candidate, FIRST_START).await?;
        let reached = match self.reach(endpoint, "root", password.clone(), FIRST_START).await {
            Ok(reached) => reached,
            Err(e) => return Err(e.with("log", self.last_lines(candidate).await)),
        };
        let backup = match backup {
            Source::Repository(backup) => backup,
            Source::Legacy(dump) => return self.load_dump(&reached.server, dump, progress).await,
        };
        if let Some(from) = &backup.manifest().facts.database {
            check_version(ComponentKind::Logical, from, reached.server.info())?;
        }
        let component = backup.component(DATABASE).await?;
        let total = component.parts().iter().map(|p| p.plain_len).sum();
        let loaded = logical::load_from(&component, &reached.server, &mut |p| progress(p.bytes, Some(total))).await?;
        // Last: from here on the one-time password opens nothing.
        let accounts = load::replace_accounts(&reached.server, &loaded.objects).await?;
        let mut warnings = loaded.report.warnings;
        warnings.extend(accounts.warnings);
        Ok(Loaded {
            rows: loaded.report.rows,
            bytes: loaded.report.bytes,
            tables: loaded.report.tables as u64,
            warnings,
            filled: None,
        })
    }

    async fn last_lines(&self, container: &str) -> String {
        use futures::StreamExt;
        let request = crate::backend::LogRequest { since: None, tail: Some(8) };
        let Ok(stream) = self.backend.logs(container, request).await else { return "none".into() };
        let lines: Vec<_> = stream.filter_map(|line| std::future::ready(line.ok().map(|l| l.text))).collect().await;
        lines.join(" | ")
    }
}

#[async_trait]
impl DatabaseOps for MySqlOps {
    async fn assess(&self, production: &Production, newest: Option<&BackupReader>) -> Result<Assessment> {
        self.look(production, newest).await
    }

    fn ready(&self) -> SharedProbe {
        Arc::new(MysqlProbe::new(self.system.database.clone(), self.backend.clone()))
    }

    async fn check_compatible(&self, backup: &Source, production: &Production) -> Result<Vec<String>> {
        let backup = match backup {
            Source::Repository(backup) => backup,
            Source::Legacy(dump) => return self.check_dump(dump, production).await,
        };
        let Some(from) = &backup.manifest().facts.database else {
            return Err(Error::new(ErrorKind::Unsupported, "this backup holds no database"));
        };
        if is_physical(backup) {
            return self.check_copy(backup, from, production).await;
        }
        // A server that does not answer is judged when the candidate, made from its image, has started.
        match self.production(&production.container).await {
            Ok(reached) => check_version(ComponentKind::Logical, from, reached.server.info()).map(|()| Vec::new()),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn candidate(
        &self,
        production: &Production,
        backup: &Source,
        name: &str,
        volume: &str,
        password: &Secret,
    ) -> Result<OneOff> {
        let arguments = match (backup.flavour(), backup) {
            (Some(flavour), _) => candidate_args(flavour),
            // The dump does not say: each server passes over what only the other knows.
            (None, Source::Legacy(_)) => {
                let both = [mysql::Flavour::Mysql, mysql::Flavour::Mariadb].into_iter().flat_map(candidate_args);
                both.map(|argument| argument.replacen("--", "--loose-", 1)).collect()
            }
            (None, Source::Repository(_)) => {
                return Err(Error::new(ErrorKind::Unsupported, "this backup holds no database"));
            }
        };
        let mut spec = self.server_on(production, name, volume, arguments);
        // Data files bring their accounts along, and have to be there before the server starts.
        let is_filled_first = matches!(backup, Source::Repository(backup) if is_physical(backup));
        let one_time_password = OneOffFile {
            path: PASSWORD_FILE.into(),
            content: password.clone(),
            mode: 0o400,
            uid: MYSQL_UID,
            gid: MYSQL_UID,
        };
        if !is_filled_first {
            spec.env = candidate_env(production, false);
            spec.files = vec![one_time_password];
            spec.start = true;
        }
        Ok(spec)
    }

    async fn load(&self, candidate: &str, password: &Secret, backup: &Source, progress: Progress) -> Result<Loaded> {
        if let Source::Repository(backup) = backup
            && is_physical(backup)
        {
            return self.start_on_copy(candidate, backup, progress).await;
        }
        tokio::select! {
            ended = self.candidate_ended(candidate) => Err(ended),
            loaded = self.load_into(candidate, password, backup, progress) => loaded,
        }
    }

    async fn verify(&self, container: &str, backup: &Source, _progress: Progress) -> Result<Verified> {
        let endpoint = self.backend.endpoint(container, self.system.database.port).await?;
        let database = &self.system.database;
        let reached = self
            .reach(endpoint, &database.user, database.password.resolve().await?, Duration::from_secs(30))
            .await
            .map_err(of_backups_accounts)?;
        load::prove_durable(&reached.server).await?;
        let backup = match backup {
            Source::Repository(backup) => backup,
            Source::Legacy(dump) => return self.verify_dump(&reached.server, dump).await,
        };
        let component = backup.component(DATABASE).await?;
        if is_physical(backup) {
            return verify_copy(&reached.server, &component).await;
        }
        let baseline = logical::read_baseline(&component).await?;
        let comparison = compare(&reached.server, &baseline, Scope::Everything).await?;
        comparison.require_equal()?;
        Ok(Verified {
            tables: comparison.tables as u64,
            rows: comparison.rows,
            definitions: comparison.definitions as u64,
            is_physical: false,
        })
    }

    async fn clients(&self, container: &str) -> Result<Vec<String>> {
        let reached = self.production(container).await?;
        let clients = reached.server.clients().await?;
        Ok(clients.iter().map(|c| format!("{}@{} ({}, {})", c.user, c.host, c.schema, c.command)).collect())
    }

    async fn try_login(&self, user: &str, password: &Secret, schema: &str) -> Result<LoginAnswer> {
        let endpoint = probe::reach(&self.backend, &self.system.database).await?;
        let mut login = Login::new(endpoint.host.clone(), endpoint.port, user, password.clone());
        login.connect_timeout = LOGIN;
        mysql::try_login(&login, schema).await
    }

    async fn next_ids(&self, container: &str) -> Result<NextIds> {
        let counters = self.production(container).await?.server.counters().await?;
        Ok(counters.into_iter().map(|c| (format!("{}.{}", c.schema, c.table), c.next)).collect())
    }

    async fn newest_rows(&self, container: &str) -> Result<BTreeMap<String, String>> {
        let mut newest = BTreeMap::new();
        let wanted = &self.system.application.newest_row;
        if wanted.is_empty() {
            return Ok(newest);
        }
        let reached = self.production(container).await?;
        for name in wanted {
            let parts: Vec<_> = name.split('.').collect();
            let [schema, table, column] = parts[..] else {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("`application.newest_row`: `{name}` is not `schema.table.column`"),
                ));
            };
            let time = reached.server.newest_row_time(schema, table, column).await?;
            newest.insert(name.clone(), time.unwrap_or_else(|| "no row".into()));
        }
        Ok(newest)
    }

    async fn raise_counters(&self, container: &str, next: &NextIds) -> Result<Vec<RaisedCounter>> {
        let reached = self.production(container).await?;
        raise::raise(&reached.server, next, self.system.database.id_gap).await
    }

    fn tables(&self) -> Result<Arc<dyn TableOps>> {
        Ok(Arc::new(self.clone()))
    }

    fn salvage(&self) -> Result<Arc<dyn SalvageOps>> {
        Ok(Arc::new(self.clone()))
    }

    async fn discard_copies(&self, production: &Production) -> Result<()> {
        self.discard_cold(production).await?;
        self.discard(production).await?;
        // They take room, and stand in nobody's way.
        if let Err(error) = self.discard_kept(production, None).await {
            tracing::warn!(%error, "what keeping a copy unpacked left over cannot be removed");
        }
        Ok(())
    }

    async fn back_up(&self, production: &Production, request: &BackUp, progress: Progress) -> Result<BackupInfo> {
        let taking = Taking { system: &self.system, backend: &self.backend, repository: &self.repository, request };
        let told = progress.clone();
        let dump = async |component: &ComponentWriter| {
            if request.kind == DatabaseKind::Physical {
                if self.is_stopped(production).await? {
                    return self.cold_copy_to(production, component, request.run.as_deref(), told.clone()).await;
                }
                return self.copy_to(production, component, request.run.as_deref(), told.clone()).await;
            }
            let reached = self.production(&production.container).await?;
            let expected = reached.server.sizes().await?.iter().map(|t| t.bytes).sum::<u64>();
            let report = |p: &dump::Progress| told(p.bytes, Some(expected.max(p.bytes)));
            let options = dump::Options { throttle: self.system.database.throttle.clone(), ..Default::default() };
            let summary = logical::dump_to(&reached.server, component, &options, &mut { report }).await?;
            Ok(logical::facts(reached.server.info(), &summary))
        };
        let mut info = take(taking, dump, progress).await?;
        if request.kind == DatabaseKind::Physical
            && self.system.database.keep_warm
            && let Err(error) = self.keep(production, &info, request.run.as_deref()).await
        {
            tracing::warn!(%error, "the backup is not kept unpacked");
            info.warnings.push(format!("it is not kept unpacked (`database.keep_warm`): {error}"));
        }
        Ok(info)
    }
}

fn check_version(kind: ComponentKind, from: &catalog::DatabaseFacts, to: &mysql::ServerInfo) -> Result<()> {
    catalog::compatible(kind, (from.flavour, &from.version), (to.flavour.into(), &to.version_text))
}

fn of_backups_accounts(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Authentication => error
            .during("the accounts of the backup refuse the configured credentials")
            .hint("the password was changed after the backup: configure the one of that time, then resume"),
        _ => error,
    }
}

/// Environment of a candidate: the contract of the official images; MariaDB's takes the names of MySQL's as well.
fn candidate_env(production: &Production, has_accounts: bool) -> Vec<(String, String)> {
    let mut env = Vec::new();
    if !has_accounts {
        env.push(("MYSQL_ROOT_PASSWORD_FILE".to_owned(), PASSWORD_FILE.to_owned()));
        env.push(("MYSQL_ROOT_HOST".to_owned(), "%".to_owned()));
    }
    // Events keep moments in UTC, and their definitions tell them in the server's own zone.
    env.extend(production.time_zone.iter().map(|zone| ("TZ".to_owned(), zone.clone())));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_lives_in_productions_time_zone_and_takes_no_secret_from_it() {
        let mut production = Production {
            container: "db".into(),
            image_id: "sha256:1".into(),
            command: Vec::new(),
            mounts: Vec::new(),
            data_dir: "/var/lib/mysql".into(),
            time_zone: Some("Europe/Berlin".into()),
        };
        let zone = |env: Vec<(String, String)>| env.into_iter().find(|(name, _)| name == "TZ").map(|(_, value)| value);
        assert_eq!(zone(candidate_env(&production, false)).as_deref(), Some("Europe/Berlin"));
        production.time_zone = None;
        assert_eq!(zone(candidate_env(&production, false)), None);
        let names: Vec<_> = candidate_env(&production, false).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["MYSQL_ROOT_PASSWORD_FILE", "MYSQL_ROOT_HOST"]);
    }
}
