//! Dumps of other programs on a candidate.

use std::collections::BTreeSet;

use super::{
    super::{
        ops::{Loaded, Production, Progress, Verified},
        source::{self, LegacyDump},
    },
    MySqlOps, Reached,
};
use crate::{
    catalog::{self, Catalog, ComponentKind, Selector, logical},
    error::{Error, ErrorKind, Result},
    mysql::{
        Account, Server,
        load::{self, NewAccount},
        sqlfile::{self, Contents, LoadOptions},
    },
    system::{DATABASE, Legacy},
};

/// Where the accounts of a restored server come from.
enum Accounts {
    /// From the dump, which holds the server's own schema.
    Dump,
    /// From elsewhere: as they are there.
    Elsewhere(String, Vec<Account>),
    /// From the configuration.
    Configured,
}

impl MySqlOps {
    pub(super) fn legacy_settings(&self) -> Result<&Legacy> {
        self.system
            .legacy
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Precondition, "the configuration knows no legacy backups"))
    }

    /// Names the schema of what names none; `None`: everything in the dump names its own.
    pub(super) fn default_schema_of(&self, dump: &LegacyDump) -> Result<Option<String>> {
        let default = dump.default_schema(self.legacy_settings()?.schema.as_deref());
        if dump.file.contents.needs_schema() && default.is_none() {
            return Err(Error::new(ErrorKind::Precondition, "the dump does not say into which schema it belongs")
                .hint("name it in `legacy.schema` of the configuration"));
        }
        Ok(default)
    }

    /// Refuses a dump that this server cannot take, or whose place in production would lose more than the dump tells.
    /// Returns what a person should know.
    pub(super) async fn check_dump(&self, dump: &LegacyDump, production: &Production) -> Result<Vec<String>> {
        let contents = &dump.file.contents;
        let mut notes = Vec::new();
        let default = self.default_schema_of(dump)?;
        let targets = contents.target_schemas(default.as_deref());
        if targets.is_empty() {
            return Err(Error::new(ErrorKind::Unsupported, "the dump holds no schema of an application"));
        }
        notes.push(format!("it holds {}", summary(contents, &targets)));
        let reached = self.production(&production.container).await;
        if let Ok(reached) = &reached {
            notes.extend(check_version(contents, &reached.server)?);
        }
        let known = match &reached {
            Ok(reached) => Some(tables_of(&reached.server).await?),
            Err(_) => self.tables_of_newest().await,
        };
        match known {
            Some(known) => notes.extend(check_losses(contents, default.as_deref(), &targets, &known)?),
            None => notes.push("what else production held could not be asked".into()),
        }
        match self.accounts(contents, contents.system_schemas.contains("mysql"), reached.ok()).await? {
            Accounts::Dump => {}
            Accounts::Elsewhere(whence, accounts) => {
                notes.push(format!("its {} accounts come from {whence}", accounts.len()));
            }
            Accounts::Configured => notes.push("its accounts come from the configuration".into()),
        }
        Ok(notes)
    }

    /// Tables of the newest backup of the repository, where it can be read.
    async fn tables_of_newest(&self) -> Option<BTreeSet<(String, String)>> {
        let catalog = Catalog::new(&self.repository, &self.system.id).holding(DATABASE);
        let info = catalog.select(&Selector::Latest).await.ok()?;
        let reader = catalog.open(&info.place).await.ok()?;
        let tables = &reader.private().await.ok()?.baselines.tables;
        Some(tables.iter().map(|t| (t.schema.clone(), t.table.clone())).collect())
    }

    /// Finds accounts: in the dump, in production as it is now, in the newest backup, in the configuration.
    async fn accounts(&self, contents: &Contents, with_system: bool, production: Option<Reached>) -> Result<Accounts> {
        if with_system && contents.tables.get("mysql").is_some_and(|tables| !tables.is_empty()) {
            return Ok(Accounts::Dump);
        }
        let now = match production {
            Some(reached) => reached.server.accounts().await.unwrap_or_default(),
            None => Vec::new(),
        };
        let admin = &self.system.database.user;
        // A server that was just made has nobody but its administrator.
        let has_others = now.iter().any(|a| a.user == *admin) && now.iter().any(|a| a.user != *admin);
        if has_others {
            return Ok(Accounts::Elsewhere("production as it is".into(), now));
        }
        if let Ok((id, accounts)) = self.accounts_of_newest().await {
            return Ok(Accounts::Elsewhere(format!("backup {id}"), accounts));
        }
        if self.legacy_settings()?.accounts.is_empty() {
            return Err(Error::new(ErrorKind::Precondition, "nothing tells the accounts that belong to the dump")
                .with("looked in", "the dump, production, the newest backup, the configuration")
                .hint("list the application's account in `[[legacy.accounts]]` of the configuration"));
        }
        Ok(Accounts::Configured)
    }

    async fn accounts_of_newest(&self) -> Result<(catalog::BackupId, Vec<Account>)> {
        let catalog = Catalog::new(&self.repository, &self.system.id).of_kind(ComponentKind::Logical);
        let info = catalog.select(&Selector::Latest).await?;
        let reader = catalog.open(&info.place).await?;
        let objects = logical::read_objects(&reader.component(DATABASE).await?).await?;
        Ok((info.id(), objects.accounts))
    }

    pub(super) async fn load_dump(&self, server: &Server, dump: &LegacyDump, progress: Progress) -> Result<Loaded> {
        let settings = self.legacy_settings()?;
        let contents = &dump.file.contents;
        let mut warnings = check_version(contents, server)?;
        let production = self.production_now().await;
        let default = dump.default_schema(settings.schema.as_deref());
        let default_schema = match (&default, &production) {
            (Some(schema), Some(reached)) => Some((schema.clone(), reached.server.schema_definition(schema).await?)),
            (Some(schema), None) => Some((schema.clone(), None)),
            (None, _) => None,
        };
        let with_system =
            contents.system_schemas.contains("mysql") && sqlfile::is_same_series(&contents.header, server);
        let options =
            LoadOptions { limits: source::limits(settings), default_schema, with_system, ..LoadOptions::default() };
        let report =
            sqlfile::load(server, &dump.path, &dump.file, &options, |done, total| progress(done, Some(total))).await?;
        warnings.extend(report.warnings);
        // Last: from here on the one-time password opens nothing.
        match self.accounts(contents, with_system, production).await? {
            Accounts::Dump => {}
            Accounts::Elsewhere(_, accounts) => {
                warnings.extend(load::replace_accounts_by(server, &accounts).await?.warnings);
            }
            Accounts::Configured => self.make_configured_accounts(server).await?,
        }
        Ok(Loaded {
            rows: report.rows,
            bytes: report.bytes,
            tables: contents.user_tables().count() as u64,
            warnings,
            filled: None,
        })
    }

    async fn make_configured_accounts(&self, server: &Server) -> Result<()> {
        let database = &self.system.database;
        let admin = NewAccount {
            user: database.user.clone(),
            host: "%".into(),
            password: database.password.resolve().await?,
            schemas: Vec::new(),
        };
        let mut others = Vec::new();
        for account in &self.legacy_settings()?.accounts {
            others.push(NewAccount {
                user: account.user.clone(),
                host: account.host.clone(),
                password: account.password.resolve().await?,
                schemas: account.schemas.clone(),
            });
        }
        load::make_accounts(server, &admin, &others).await
    }

    /// Production's server, if it answers.
    async fn production_now(&self) -> Option<Reached> {
        use crate::backend::BackendExt;
        let containers = self.backend.service_containers(&self.system.database.service).await.ok()?;
        self.production(&containers.first()?.name).await.ok()
    }

    pub(super) async fn verify_dump(&self, server: &Server, dump: &LegacyDump) -> Result<Verified> {
        let default = dump.default_schema(self.legacy_settings()?.schema.as_deref());
        let comparison = sqlfile::compare(server, &dump.file.contents, default.as_deref()).await?;
        comparison.require_equal()?;
        Ok(Verified {
            tables: comparison.tables as u64,
            rows: comparison.rows,
            definitions: comparison.definitions as u64,
            is_physical: false,
        })
    }
}

/// Refuses another flavour and a newer version; says so where the dump does not tell.
pub(super) fn check_version(contents: &Contents, server: &Server) -> Result<Vec<String>> {
    let to = server.info();
    let Some(from) = contents.header.flavour() else {
        return Ok(vec!["it does not say which server it is of".into()]);
    };
    // Where only the family is known, the version is not judged.
    let version = contents.header.server_version.as_deref().unwrap_or(&to.version_text);
    catalog::compatible(ComponentKind::Logical, (from.into(), version), (to.flavour.into(), &to.version_text))?;
    Ok(Vec::new())
}

async fn tables_of(server: &Server) -> Result<BTreeSet<(String, String)>> {
    Ok(server.sizes().await?.into_iter().map(|t| (t.schema, t.table)).collect())
}

/// The swap replaces the whole server: what production has and the dump lacks would be gone.
fn check_losses(
    contents: &Contents,
    default: Option<&str>,
    targets: &BTreeSet<String>,
    known: &BTreeSet<(String, String)>,
) -> Result<Vec<String>> {
    let lost: BTreeSet<_> = known.iter().map(|(schema, _)| schema.as_str()).filter(|s| !targets.contains(*s)).collect();
    if !lost.is_empty() {
        let lost = lost.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("the dump lacks schemas that the server holds, and a swap would take them away: {lost}"),
        )
        .with("the dump holds", targets.iter().cloned().collect::<Vec<_>>().join(", "))
        .hint("choose a dump of all databases, or a backup of the repository"));
    }
    let held: BTreeSet<_> = contents
        .user_tables()
        .map(|(schema, table, _)| (if schema.is_empty() { default.unwrap_or_default() } else { schema }, table))
        .collect();
    let gone: Vec<_> = known
        .iter()
        .filter(|(s, t)| !held.contains(&(s.as_str(), t.as_str())))
        .map(|(s, t)| format!("{s}.{t}"))
        .collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let shown = gone.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Ok(vec![format!(
        "it lacks {} tables that are known: {shown}{}",
        gone.len(),
        if gone.len() > 5 { ", …" } else { "" }
    )])
}

fn summary(contents: &Contents, targets: &BTreeSet<String>) -> String {
    format!(
        "{} tables with {} rows of {}",
        contents.user_tables().count(),
        contents.user_tables().map(|(_, _, table)| table.rows).sum::<u64>(),
        targets.iter().cloned().collect::<Vec<_>>().join(", "),
    )
}
