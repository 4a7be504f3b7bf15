//! Single tables of a logical backup, or of a dump of another program, restored on production's running server.
//!
//! They are made beside production's, compared with the backup there, and put in place by one `RENAME TABLE`; what
//! production had is kept in a schema named after the run. Only what they need is read from the backup. A dump is proven to
//! its end first, and of it nothing but values and definitions, written anew, reaches the server. Nothing else on the server
//! stops, and rows written to a table between the backup and the exchange are not lost: they are in the table that is kept.

pub mod ops;
mod report;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
use serde::{Deserialize, Serialize};

use self::ops::{Loaded, TableOps};
use super::{
    Parts, Procedure, Recovered,
    database::{self, LegacyDump, Origin, Site, Source, legacy, source::Opener},
    proof::moment,
};
use crate::{
    catalog::{BackupInfo, Catalog, ComponentKind, Place as BackupPlace, Selector},
    error::{Error, ErrorKind, Result},
    mysql::{
        SYSTEM_SCHEMAS,
        tables::{Asked, Checked, Look, Orphans, Place, TableName, is_own, refused_infile},
    },
    objective::Objective,
    run::{Approvable, Effect, Observed, Run, Undo, Work},
    system::{DATABASE, System},
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "restore-tables";

// What plans expect where no earlier run has measured it, in bytes a second.
/// Bytes of rows that a server loads which goes on serving, logs them, and builds its indexes on the way: a third of what
/// a candidate does.
const LOAD_RATE: u64 = 6_000_000;
/// Bytes of rows that a server reads to compare them.
const COMPARE_RATE: u64 = 50_000_000;

const fn mins(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// What to restore, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which backup.
    #[serde(default)]
    pub backup: Selector,
    /// Single tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableName>,
    /// Schemas, of which every table of the backup is meant. Views, routines and events are not restored with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// Another name for the one table that is asked for: then nothing is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rename: Option<TableName>,
    /// Whether `local_infile` may be switched on while rows are loaded, on a server where it is off.
    #[serde(default)]
    pub allow_local_infile: bool,
}

impl Request {
    fn asked(&self) -> Asked {
        Asked { tables: self.tables.clone(), schemas: self.schemas.clone(), rename: self.rename.clone() }
    }
}

/// Marks an approval to replace tables of production.
#[derive(Debug)]
pub struct ReplaceProductionTables;

impl Approvable for ReplaceProductionTables {
    const NAME: &'static str = "replace-production-tables";
}

/// Restores single tables, a set of them, or all tables of a schema; one of them also under another name.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreTables;

#[async_trait]
impl Procedure for RestoreTables {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.partial
    }

    fn check(&self, parts: &Parts, request: &Request) -> Result<()> {
        parts.database.tables()?;
        check(request)
    }

    async fn recover(&self, run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
        let run = run.scope("tables");
        let began = moment(&run, "began").await?;
        let site = database::survey(&run, parts).await?;
        let work = Tables { ops: parts.database.tables()?, container: site.production().container.clone() };
        let backup = choose(&run, parts, &request.backup).await?;
        let look = look(&run, &work, &backup, &request.asked()).await?;
        // The rows of a dump can be inserted as well.
        if !look.local_infile && !request.allow_local_infile && backup.origin.id().is_some() {
            return Err(refused_infile());
        }
        check_space(&run, parts, &site, &look).await?;
        let switches = !look.local_infile && request.allow_local_infile;
        let loaded = load(&run, &work, &backup, &look, switches).await?;
        let checked = verify(&run, &work, &backup, &look).await?;
        swap(&run, parts, &work, &backup, &look).await?;
        let orphans = orphans(&run, &work, &look).await?;
        let proven = moment(&run, "proven").await?;
        let mut report = Recovered::new(self.objective(&parts.system), began, proven);
        report::tell(&mut report, &report::Facts { backup: &backup.origin, look: &look, loaded, checked, orphans });
        Ok(report)
    }
}

/// The server, and how it is spoken to. Cheap to clone.
#[derive(Debug, Clone)]
struct Tables {
    ops: Arc<dyn TableOps>,
    container: String,
}

fn check(request: &Request) -> Result<()> {
    let refuse = |what: String, hint: &str| Err(Error::new(ErrorKind::InvalidInput, what).hint(hint));
    if request.tables.is_empty() && request.schemas.is_empty() {
        return refuse("no table is named".into(), "name one: `--table SCHEMA.TABLE`, or all of `--schema SCHEMA`");
    }
    if request.rename.is_some() && (request.tables.len() != 1 || !request.schemas.is_empty()) {
        return refuse("another name is for one table alone".into(), "name one `--table` with `--as`");
    }
    let named = request.tables.iter().map(|t| &t.schema).chain(&request.schemas);
    for schema in named.chain(request.rename.iter().map(|t| &t.schema)) {
        if SYSTEM_SCHEMAS.contains(&schema.to_lowercase().as_str()) || is_own(schema) {
            return refuse(
                format!("schema `{schema}` is the server's or a run's own"),
                "only tables of the application are restored; accounts come back with the whole database",
            );
        }
    }
    Ok(())
}

/// Where tables are taken from.
struct Backup {
    origin: Origin,
    opener: Opener,
}

/// Chooses the backup, once. The newest is the newest that single tables can be taken from. A dump is read to its end.
async fn choose(run: &Run, parts: &Parts, wanted: &Selector) -> Result<Backup> {
    if let Selector::Legacy(name) = wanted {
        let (catalog, found) = legacy::choose(run, parts, name).await?;
        let kept = |dump: LegacyDump| async move { Ok(dump) }.boxed();
        let dump = legacy::prove(run, &catalog, &found, kept).await?;
        return Ok(Backup { origin: Origin::Legacy(dump.backup.clone()), opener: Opener::Legacy(Arc::new(dump)) });
    }
    let place: BackupPlace = run.decide("choose-backup", newest_logical(&parts.catalog, wanted)).await?;
    let (catalog, id) = (parts.catalog.clone(), place.id.to_string());
    let info: BackupInfo = run
        .step("look-up-backup")
        .effect(Effect::Observe)
        .kept()
        .timeout(mins(5))
        .run(async move |_| catalog.select(&Selector::Id(id)).await)
        .await?;
    let opener = Opener::Repository(parts.catalog.clone(), info.place.clone());
    Ok(Backup { origin: Origin::Repository(Box::new(info)), opener })
}

async fn newest_logical(catalog: &Catalog, wanted: &Selector) -> Result<BackupPlace> {
    let mut info = catalog.select(wanted).await?;
    if *wanted != Selector::Latest {
        return Ok(info.place);
    }
    loop {
        let reader = catalog.open(&info.place).await?;
        if reader.manifest().component(DATABASE)?.kind == ComponentKind::Logical {
            return Ok(info.place);
        }
        info = catalog.select(&Selector::Before(info.id())).await?;
    }
}

async fn look(run: &Run, tables: &Tables, backup: &Backup, asked: &Asked) -> Result<Look> {
    let (opener, tables) = (backup.opener.clone(), tables.clone());
    let (wanted, id) = (asked.clone(), run.id().to_string());
    let step = run.step("look-at-tables").effect(Effect::Observe);
    let step = match &backup.origin {
        Origin::Repository(info) => step.input(&(&info.place, asked)),
        Origin::Legacy(dump) => step.input(&(&dump.legacy, asked)),
    };
    step
        // What was there before the exchange is asked for after it, too.
        .kept()
        .budget(mins(1))
        .timeout(mins(30))
        .run(async move |_| {
            let source = opener.open().await?;
            if let Source::Repository(reader) = &source {
                reader.check_identity()?;
            }
            tables.ops.look(&tables.container, &source, &wanted, &id).await
        })
        .await
}

/// Refuses to begin what would fill production's disk.
async fn check_space(run: &Run, parts: &Parts, site: &Site, look: &Look) -> Result<()> {
    let rows: u64 = look.tables.iter().map(|t| t.bytes).sum();
    // Rows with their indexes, and once more for the binary log.
    let needed = rows.saturating_mul(if look.binary_log { 4 } else { 3 });
    let keep_free = parts.system.limits.keep_free_bytes;
    let asking = async {
        let volume = site.volume();
        let free = parts.backend.measure_volume(volume).await?.free_bytes;
        if free >= needed.saturating_add(keep_free) {
            return Ok(needed);
        }
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        Err(Error::new(ErrorKind::NoSpace, format!("there is no room for the tables in volume `{volume}`"))
            .with("free", mib(free))
            .with("needed", mib(needed))
            .with("to be kept free", mib(keep_free))
            .hint("production is untouched; free space, then resume"))
    };
    run.decide("check-space", asking).await.map(drop)
}

/// What steps are told apart by: in a plan, the schemas of the run's own have other names.
fn names(look: &Look) -> Vec<(&TableName, &TableName)> {
    look.tables.iter().map(|t| (&t.source, &t.target)).collect()
}

async fn load(run: &Run, tables: &Tables, backup: &Backup, look: &Look, switches: bool) -> Result<Loaded> {
    let opener = backup.opener.clone();
    let (loading, clearing) = (tables.clone(), tables.clone());
    let (places, to_clear) = (look.tables.clone(), look.tables.clone());
    let bytes: u64 = look.tables.iter().map(|t| t.bytes).sum();
    let expected = Loaded { rows: look.tables.iter().map(|t| t.rows).sum(), bytes, ..Loaded::default() };
    run.step("restore-beside")
        // It begins by removing what an earlier attempt left, so doing it again is harmless.
        .effect(Effect::Idempotent)
        .input(&names(look))
        .predict(move || expected)
        .work(Work::new(bytes, LOAD_RATE).fixed(Duration::from_secs(1)))
        .budget(mins(5))
        .timeout(mins(240))
        .undo_text("drop what was restored beside production and is not in its place")
        .undo_with(async move |_, _| clearing.ops.discard(&clearing.container, &to_clear, switches).await)
        .run(async move |cx| {
            let source = opener.open().await?;
            let progress = Arc::new(move |done, total| cx.progress(done, total));
            loading.ops.load(&loading.container, &source, &places, switches, progress).await
        })
        .await
}

async fn verify(run: &Run, tables: &Tables, backup: &Backup, look: &Look) -> Result<Checked> {
    let opener = backup.opener.clone();
    let (tables, places) = (tables.clone(), look.tables.clone());
    let expected = Checked { tables: look.tables.len() as u64, rows: look.tables.iter().map(|t| t.rows).sum() };
    run.step("verify-beside")
        // Kept, not asked again on resume: after the exchange there is nothing beside production.
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("it only reads"))
        .input(&names(look))
        .predict(move || expected)
        .work(Work::new(look.tables.iter().map(|t| t.bytes).sum(), COMPARE_RATE).fixed(Duration::from_secs(1)))
        .budget(mins(5))
        .timeout(mins(120))
        .run(async move |_| {
            let source = opener.open().await?;
            tables.ops.verify(&tables.container, &source, &places).await
        })
        .await
}

/// Exchanges the tables. Nobody is asked where production has nothing under their names.
async fn swap(run: &Run, parts: &Parts, tables: &Tables, backup: &Backup, look: &Look) -> Result<()> {
    let replaces = look.tables.iter().any(|t| t.present.is_some());
    let (swapping, looking, undoing) = (tables.clone(), tables.clone(), tables.clone());
    let (places, to_look, to_undo) = (look.tables.clone(), look.tables.clone(), look.tables.clone());
    let mut step = run.step("swap-tables");
    if replaces {
        let approval = run.approve::<ReplaceProductionTables>(&report::question(parts, &backup.origin, look)).await?;
        step = step.effect(Effect::Destructive).approved(approval);
    } else {
        step = step.effect(Effect::Idempotent);
    }
    step.input(&names(look))
        .predict(|| ())
        .budget(mins(1))
        .timeout(mins(10))
        .undo_text(
            "put back what production had by one rename; what was restored is set aside with the rows written since",
        )
        .undo_with(async move |_, _| undoing.ops.take_back(&undoing.container, &to_undo).await)
        .reconcile(async move |_| {
            Ok(match looking.ops.place(&looking.container, &to_look).await? {
                // After the rename, what belongs to it may be left to do: the step looks and goes on from there.
                Place::Before | Place::After => Observed::NotApplied,
                Place::Undone => Observed::Partial("the tables were put in place and taken out again".into()),
                Place::Elsewhere(what) => Observed::Partial(what),
            })
        })
        .run(async move |_| swapping.ops.swap(&swapping.container, &places).await)
        .await
}

async fn orphans(run: &Run, tables: &Tables, look: &Look) -> Result<Vec<Orphans>> {
    let (tables, places) = (tables.clone(), look.tables.clone());
    run.step("count-orphans")
        .effect(Effect::Observe)
        .predict(Vec::new)
        .budget(mins(1))
        .timeout(mins(5))
        .run(async move |_| tables.ops.orphans(&tables.container, &places).await)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(tables: &[&str], schemas: &[&str], rename: Option<&str>) -> Request {
        Request {
            backup: Selector::Latest,
            tables: tables.iter().map(|t| TableName::parse(t).unwrap()).collect(),
            schemas: schemas.iter().map(|&s| s.to_owned()).collect(),
            rename: rename.map(|t| TableName::parse(t).unwrap()),
            allow_local_infile: false,
        }
    }

    #[test]
    fn a_request_that_cannot_be_meant_is_refused() {
        for good in [request(&["a.b", "a.c"], &["d"], None), request(&["a.b"], &[], Some("a.c"))] {
            check(&good).unwrap();
        }
        for bad in [
            request(&[], &[], None),
            request(&["a.b", "a.c"], &[], Some("a.d")),
            request(&[], &["a"], Some("a.d")),
            request(&["mysql.user"], &[], None),
            request(&["a.b"], &[], Some("sys.b")),
            request(&[], &["chom_kept_01jdq0000000000000000000ab"], None),
        ] {
            assert_eq!(check(&bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }
}
