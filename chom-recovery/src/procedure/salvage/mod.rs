//! A server that does not start any more: what can be read of its files is read, on a copy, and kept as a backup.
//!
//! Nothing of production is touched: its files are mounted read-only, and a copy is what the server with InnoDB's forced
//! recovery works on. What was read is a logical backup that may lack rows, says which, and is never chosen by itself.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use self::ops::{Attempt, Found, SalvageOps, Wanted};
use super::{Parts, database, drill};
use crate::{
    catalog::{BackupInfo, Name},
    error::{Error, ErrorKind, Result},
    mysql::salvage::{Extent, Lost, SalvagedTable},
    run::{Effect, Run},
    system::System,
};

pub mod ops;

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "salvage-database";
/// Highest level of forced recovery that is tried where nothing else is said: higher ones may damage more than they give.
pub const SAFE_LEVEL: u8 = 3;
/// Highest level that there is.
pub const HIGHEST_LEVEL: u8 = 6;
/// Longest time for copying and reading.
const LONG: Duration = Duration::from_hours(24);
/// Tables that a person is told of one by one.
const NAMED: usize = 50;

/// What to salvage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Highest level of forced recovery that may be tried, 0 to 6.
    #[serde(default = "safe_level")]
    pub up_to_level: u8,
    /// Tags to find the backup by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

const fn safe_level() -> u8 {
    SAFE_LEVEL
}

impl Default for Request {
    fn default() -> Self {
        Self { up_to_level: SAFE_LEVEL, tags: Vec::new() }
    }
}

/// What was read of a server that does not start any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SalvageReport {
    /// The backup that holds it: to be named by its id.
    pub backup: BackupInfo,
    /// Level of forced recovery at which the server came up on the copy; 0: without.
    pub level: u8,
    /// Lower levels, and why each was given up.
    pub attempts: Vec<Attempt>,
    /// Rows that were read.
    pub rows: u64,
    /// Tables that were read to their end.
    pub whole: u64,
    /// Tables of which some rows were read.
    pub part: u64,
    /// Tables of which no row was read.
    pub nothing: u64,
    /// Each table.
    pub tables: Vec<SalvagedTable>,
    /// Definitions that could not be read.
    pub lost: Vec<Lost>,
    /// Damaged pages of the data files, as the first of each file.
    pub damaged_pages: Vec<String>,
}

impl SalvageReport {
    /// Tells whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.part == 0 && self.nothing == 0 && self.lost.is_empty()
    }

    /// Names what is missing, a line each.
    pub fn missing(&self) -> Vec<String> {
        missing(&self.tables, &self.lost)
    }
}

/// Refuses a request that makes no sense, before anything begins.
///
/// # Errors
/// `InvalidInput`: there is no such level, or a tag is none.
pub fn check(_system: &System, request: &Request) -> Result<()> {
    for tag in &request.tags {
        tag.parse::<Name>()?;
    }
    if request.up_to_level <= HIGHEST_LEVEL {
        return Ok(());
    }
    let what = format!("there is no level {} of forced recovery", request.up_to_level);
    Err(Error::new(ErrorKind::InvalidInput, what).hint("0 to 6; 3 is the default"))
}

/// Reads what can be read of production's data files, and leaves nothing behind but the backup.
///
/// # Errors
/// `Precondition`: the server answers, its files may be written, or it starts on a copy at no allowed level. `NoSpace`: there
/// is no room for a copy.
pub async fn salvage(run: &Run, parts: &Parts, request: &Request) -> Result<SalvageReport> {
    let scope = run.scope("salvage");
    let ops = parts.database.salvage()?;
    let site = match prepare(&scope, parts, &*ops).await {
        // Nothing was made: there is nothing to go on with.
        Err(error) => {
            return match run.roll_back("nothing was made yet").await {
                Ok(_) => Err(error),
                Err(left) => Err(error.with("left behind", left)),
            };
        }
        Ok(site) => Arc::new(site),
    };
    drill::sweep(&scope, &site).await?;
    let found = read(&scope, &site, ops, request).await?;
    drill::discard(&scope, &site).await?;
    Ok(conclude(found))
}

async fn prepare(run: &Run, parts: &Parts, ops: &dyn SalvageOps) -> Result<database::Site> {
    let site = database::survey(run, parts).await?.for_salvage();
    run.decide("server-is-dead", ops.require_dead(&site)).await?;
    Ok(site)
}

async fn read(run: &Run, site: &Arc<database::Site>, ops: Arc<dyn SalvageOps>, request: &Request) -> Result<Found> {
    let wanted = Wanted { up_to_level: request.up_to_level, tags: request.tags.clone(), run: run.id().to_string() };
    let (site, undoing, discarding) = (site.clone(), site.clone(), ops.clone());
    run.step("read")
        // A backup that was interrupted left nothing that anybody can see, and the copy is made anew.
        .effect(Effect::Idempotent)
        .input(&wanted)
        .budget(Duration::from_hours(1))
        .timeout(LONG)
        .undo_text("remove the copy of the data files and its server; a backup of what was read stays")
        .undo_with(async move |_, _: Option<Found>| discarding.discard(&undoing).await)
        .run(async move |cx| {
            let cx = Arc::new(cx);
            let told = cx.clone();
            let progress = Arc::new(move |done, total| told.progress(done, total));
            ops.salvage(&site, &wanted, progress, Arc::new(move |text: String| cx.note(text))).await
        })
        .await
}

fn conclude(found: Found) -> SalvageReport {
    let Found { backup, level, attempts, tables, lost, damaged_pages } = found;
    let count = |extent| tables.iter().filter(|table| table.extent == extent).count() as u64;
    SalvageReport {
        backup,
        level,
        attempts,
        rows: tables.iter().map(|table| table.rows).sum(),
        whole: count(Extent::Whole),
        part: count(Extent::Part),
        nothing: count(Extent::Nothing),
        tables,
        lost,
        damaged_pages,
    }
}

/// Names what was not read, a line each.
pub(super) fn missing(tables: &[SalvagedTable], lost: &[Lost]) -> Vec<String> {
    let broken: Vec<_> = tables.iter().filter(|table| table.extent != Extent::Whole).collect();
    let mut lines: Vec<String> = broken.iter().take(NAMED).map(|table| line(table)).collect();
    if broken.len() > NAMED {
        lines.push(format!("{} more tables are not whole", broken.len() - NAMED));
    }
    lines.extend(lost.iter().take(NAMED).map(|lost| format!("definition of {}: not read: {}", lost.what, lost.why)));
    if lost.len() > NAMED {
        lines.push(format!("{} more definitions could not be read", lost.len() - NAMED));
    }
    lines
}

fn line(table: &SalvagedTable) -> String {
    let name = format!("table `{}.{}`", table.schema, table.table);
    let why = table.why.as_deref().unwrap_or("unknown");
    if table.extent == Extent::Nothing {
        return format!("{name}: no row was read: {why}");
    }
    let range = |range: &crate::mysql::salvage::KeyRange| match (&range.after, &range.before) {
        (None, None) => "of unknown keys".to_owned(),
        (Some(after), None) => format!("behind key {after}"),
        (None, Some(before)) => format!("before key {before}"),
        (Some(after), Some(before)) => format!("between keys {after} and {before}"),
    };
    let ranges = table.unread.iter().map(range).collect::<Vec<_>>().join(", ");
    let ranges = if ranges.is_empty() { "rows of damaged pages".to_owned() } else { format!("rows {ranges}") };
    format!("table `{}.{}`: {} rows were read, and not {ranges}: {why}", table.schema, table.table, table.rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::salvage::KeyRange;

    fn table(extent: Extent, rows: u64, unread: Vec<KeyRange>) -> SalvagedTable {
        let why = (extent != Extent::Whole).then(|| "page 7 is damaged".to_owned());
        SalvagedTable { schema: "shop".into(), table: "orders".into(), extent, rows, level: 1, unread, why }
    }

    #[test]
    fn what_is_missing_is_named_and_what_is_whole_is_not() {
        let gap = KeyRange { after: Some("41".into()), before: Some("99".into()) };
        let tables = [
            table(Extent::Whole, 9, Vec::new()),
            table(Extent::Part, 5, vec![gap]),
            table(Extent::Part, 3, Vec::new()),
            table(Extent::Nothing, 0, vec![KeyRange { after: None, before: None }]),
        ];
        let lost = [Lost { what: "shop.v".into(), why: "no such column".into() }];
        assert_eq!(
            missing(&tables, &lost),
            [
                "table `shop.orders`: 5 rows were read, and not rows between keys 41 and 99: page 7 is damaged",
                "table `shop.orders`: 3 rows were read, and not rows of damaged pages: page 7 is damaged",
                "table `shop.orders`: no row was read: page 7 is damaged",
                "definition of shop.v: not read: no such column",
            ]
        );
    }

    #[test]
    fn levels_that_do_not_exist_are_refused_and_the_default_is_safe() {
        let request: Request = serde_json::from_str("{}").unwrap();
        assert_eq!(request, Request::default());
        assert_eq!(request.up_to_level, SAFE_LEVEL);
    }
}
