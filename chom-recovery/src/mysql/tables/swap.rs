//! The exchange: one `RENAME TABLE` for all tables of a run, and what has to be made again around it.
//!
//! Both directions look where the tables are and go on from there, so that they may be called again after they were
//! interrupted anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{ForeignKey, Placed, TableName, load::schemas, look::definition_of};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        info::Flavour,
        load::make_trigger,
        quote,
        server::Server,
        session::{Role, Session, server_code},
    },
    run::failpoint,
};

/// How long a statement is tried again while others use the table. Each attempt holds their next statements up for at most
/// five seconds, the `lock_wait_timeout` of our sessions.
const PATIENCE: Duration = Duration::from_secs(40);
const BETWEEN: Duration = Duration::from_secs(1);

/// Where the tables of a run are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Beside production's.
    Before,
    /// In production's place, wholly or with something left to be made again around them.
    After,
    /// They were in production's place and were taken out again.
    Undone,
    /// Anything else; the text says what.
    Elsewhere(String),
}

/// Which tables production is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Restored,
    Old,
}

impl Server {
    /// Finds out where the tables of a run are.
    pub async fn place_of_tables(&self, places: &[Placed]) -> Result<Place> {
        let mut session = self.session(Role::Read).await?;
        let place = place(&mut session, places).await?;
        session.close().await;
        Ok(place)
    }

    /// Puts the restored tables in production's place, and what it had into the schemas of what is kept.
    ///
    /// # Errors
    /// `Locked`: other sessions used a table for too long; nothing was exchanged. `Conflict`: a trigger was made since the
    /// tables were looked at, or the tables are not where they were.
    pub async fn swap_tables(&self, places: &[Placed]) -> Result<()> {
        let mut session = self.session(Role::Restore).await?;
        match place(&mut session, places).await? {
            Place::After => {}
            Place::Before => self.exchange(&mut session, places, Side::Restored).await?,
            Place::Undone => return Err(elsewhere("they were taken out of production's place again")),
            Place::Elsewhere(what) => return Err(elsewhere(&what)),
        }
        self.settle(&mut session, places, Side::Restored).await?;
        tidy(&mut session, places).await?;
        session.close().await;
        Ok(())
    }

    /// Puts back what production had; what was restored, with the rows written since, is set aside. Harmless when nothing
    /// was exchanged.
    ///
    /// # Errors
    /// As [`Server::swap_tables`]; `Conflict` as well where what was kept is gone.
    pub async fn take_tables_back(&self, places: &[Placed]) -> Result<()> {
        let mut session = self.session(Role::Restore).await?;
        match place(&mut session, places).await? {
            Place::Before | Place::Undone => {}
            Place::After => self.exchange(&mut session, places, Side::Old).await?,
            Place::Elsewhere(what) => return Err(elsewhere(&what)),
        }
        self.settle(&mut session, places, Side::Old).await?;
        tidy(&mut session, places).await?;
        session.close().await;
        Ok(())
    }

    /// Renames all tables in one statement. Where the server allows it, nobody can write from before the triggers are
    /// dropped until [`Server::settle`] has made everything again.
    async fn exchange(&self, session: &mut Session, places: &[Placed], side: Side) -> Result<()> {
        check_triggers(session, places).await?;
        let away = |place: &Placed| if side == Side::Restored { place.kept.clone() } else { place.undone.clone() };
        for schema in schemas(places, |p| if side == Side::Restored { &p.kept } else { &p.undone }) {
            session.run(format!("CREATE DATABASE IF NOT EXISTS {}", quote::ident(schema))).await?;
        }
        if self.info().flavour == Flavour::Mysql {
            let mut tables = BTreeSet::new();
            for place in places {
                tables.extend([&place.target, if side == Side::Restored { &place.fresh } else { &place.kept }]);
                tables.extend(place.children.iter().map(|c| &c.table));
                tables.extend(place.keys.iter().chain(&place.old_keys).map(|k| &k.parent));
            }
            let here = existing(session, tables.iter().copied()).await?;
            let list: Vec<_> =
                tables.iter().filter(|t| here.contains(t)).map(|t| format!("{} WRITE", t.quoted())).collect();
            patiently(session, &format!("LOCK TABLES {}", list.join(", "))).await?;
        }
        let mut renames = Vec::new();
        for place in places {
            let rename = |from: &TableName, to: &TableName| format!("{} TO {}", from.quoted(), to.quoted());
            if side == Side::Old || place.present.is_some() {
                renames.push(rename(&place.target, &away(place)));
            }
            match side {
                Side::Restored => {
                    let wanted = wanted_id(session, place).await?;
                    raise(session, &place.fresh, wanted).await?;
                    renames.push(rename(&place.fresh, &place.target));
                }
                Side::Old if place.present.is_some() => renames.push(rename(&place.kept, &place.target)),
                Side::Old => {}
            }
        }
        let moved = async {
            for place in places {
                for name in triggers_of(session, &place.target).await? {
                    session.run(format!("DROP TRIGGER {}", quote::qualified(&place.target.schema, &name))).await?;
                }
            }
            failpoint::hit("before tables are renamed");
            patiently(session, &format!("RENAME TABLE {}", renames.join(", "))).await
        };
        if let Err(error) = moved.await {
            // The triggers that were dropped belong to a table that is still there.
            let other = if side == Side::Restored { Side::Old } else { Side::Restored };
            let unlocked = session.run("UNLOCK TABLES").await;
            let mended = match unlocked {
                Ok(_) => make_triggers(session, places, other).await,
                Err(e) => Err(e),
            };
            return Err(match mended {
                Ok(()) => error,
                Err(also) => error.with("triggers are missing", also).hint("resume or roll back: both make them again"),
            });
        }
        Ok(())
    }

    /// Makes again what an exchange takes apart: triggers, foreign keys of the tables and towards them, counters.
    async fn settle(&self, session: &mut Session, places: &[Placed], side: Side) -> Result<()> {
        failpoint::hit("after tables are renamed");
        make_triggers(session, places, side).await?;
        failpoint::hit("after triggers are made");
        let mut later = Vec::new();
        for place in places {
            let (keys, aside) = match side {
                Side::Restored => (&place.keys, &place.kept),
                Side::Old => (&place.old_keys, &place.undone),
            };
            let own = if side == Side::Restored || place.present.is_some() { &keys[..] } else { &[] };
            let own = own.iter().map(|key| (&place.target, key));
            for (table, key) in own.chain(place.children.iter().map(|child| (&child.table, &child.key))) {
                match tie(session, table, key).await {
                    // A parent that is not there cannot be locked (1100), and may be referred to all the same.
                    Err(error) if server_code(&error) == Some(1100) => later.push((table, key)),
                    tied => tied?,
                }
            }
            // Rows that are only kept must not hold production's rows.
            if side == Side::Old || place.present.is_some() {
                untie(session, aside).await?;
            }
        }
        session.run("UNLOCK TABLES").await?;
        for (table, key) in later {
            tie(session, table, key).await?;
        }
        failpoint::hit("after keys are tied");
        if side == Side::Restored {
            for place in places {
                // Ids that were given out while the tables were exchanged.
                let given = next_id(session, &place.kept).await?;
                raise(session, &place.target, given).await?;
            }
        }
        Ok(())
    }
}

fn elsewhere(what: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("the restored tables are not where they were: {what}"))
        .hint("look at the schemas `chom_new_…`, `chom_kept_…` and `chom_undone_…` of the run before anything else")
}

/// Runs a statement that may have to wait for others, again and again for a while.
async fn patiently(session: &mut Session, sql: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match session.run(sql).await {
            // The wait for a lock was over: of rows or tables (1205).
            Err(error) if server_code(&error) == Some(1205) => {
                if Instant::now() > end {
                    return Err(error
                        .of_kind(ErrorKind::Locked)
                        .during("other sessions use the table")
                        .hint("end what holds it (`SHOW PROCESSLIST`; an open transaction is enough), then resume"));
                }
                sleep(BETWEEN).await;
            }
            done => return done.map(drop),
        }
    }
}

async fn existing<'a>(
    session: &mut Session,
    tables: impl Iterator<Item = &'a TableName>,
) -> Result<BTreeSet<TableName>> {
    let list: Vec<_> = tables.map(|t| format!("({}, {})", quote::text(&t.schema), quote::text(&t.name))).collect();
    let sql = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE (TABLE_SCHEMA, TABLE_NAME) IN ({})",
        list.join(", ")
    );
    session.rows(sql).await?.iter().map(|row| Ok(TableName::new(row.text(0)?, row.text(1)?))).collect()
}

async fn place(session: &mut Session, places: &[Placed]) -> Result<Place> {
    let names = places.iter().flat_map(|p| [&p.target, &p.fresh, &p.kept, &p.undone]);
    let here = existing(session, names).await?;
    let mut found = BTreeMap::new();
    for place in places {
        let [target, fresh, kept, undone] =
            [&place.target, &place.fresh, &place.kept, &place.undone].map(|name| here.contains(name));
        let was_there = place.present.is_some();
        let one = match (target, fresh, kept, undone) {
            (target, true, false, false) if target == was_there => "before",
            (true, false, kept, false) if kept == was_there => "after",
            (target, false, false, true) if target == was_there => "undone",
            (_, true, ..) if !was_there => return Ok(Place::Elsewhere(format!("`{}` was made since", place.target))),
            _ => return Ok(Place::Elsewhere(format!("`{}`: {}", place.target, shown([target, fresh, kept, undone])))),
        };
        found.entry(one).or_insert(place);
    }
    Ok(match found.keys().copied().collect::<Vec<_>>()[..] {
        ["before"] => Place::Before,
        ["after"] => Place::After,
        ["undone"] => Place::Undone,
        _ => Place::Elsewhere("some are exchanged and some are not".into()),
    })
}

fn shown(here: [bool; 4]) -> String {
    let names = ["production's", "the restored one", "what was kept", "what was undone"];
    let list = |wanted: bool| {
        names.iter().zip(here).filter(|(_, is)| *is == wanted).map(|(n, _)| *n).collect::<Vec<_>>().join(", ")
    };
    format!("there: {}; not there: {}", list(true), list(false))
}

async fn triggers_of(session: &mut Session, table: &TableName) -> Result<BTreeSet<String>> {
    let sql = format!(
        "SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA = {} AND EVENT_OBJECT_TABLE = {}",
        quote::text(&table.schema),
        quote::text(&table.name)
    );
    session.rows(sql).await?.iter().map(|row| row.text(0)).collect()
}

/// Refuses to drop a trigger that could not be made again.
async fn check_triggers(session: &mut Session, places: &[Placed]) -> Result<()> {
    for place in places {
        for name in triggers_of(session, &place.target).await? {
            if !place.triggers.iter().any(|t| t.name == name) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("trigger `{name}` of table `{}` was made since this run began", place.target),
                )
                .hint("nothing was exchanged; roll back and begin a new run, which keeps it"));
            }
        }
    }
    Ok(())
}

/// Makes the triggers that are missing, in their order.
async fn make_triggers(session: &mut Session, places: &[Placed], side: Side) -> Result<()> {
    for place in places {
        if side == Side::Old && place.present.is_none() {
            continue;
        }
        let here = triggers_of(session, &place.target).await?;
        for trigger in place.triggers.iter().filter(|t| !here.contains(&t.name)) {
            make_trigger(session, trigger)
                .await
                .map_err(|e| e.during(format!("trigger `{}.{}`", trigger.schema, trigger.name)))?;
        }
    }
    Ok(())
}

/// Sees to it that a table has a foreign key towards the table that it names. Rows are not looked at: those without a
/// parent are counted later.
///
/// Servers drop an index that they had made for a key by themselves when a key of another name comes, and build it anew.
/// So the index has the key's name while the key is made: nothing is built, and it is called as before afterwards.
async fn tie(session: &mut Session, table: &TableName, key: &ForeignKey) -> Result<()> {
    let name = quote::ident(&key.name);
    let context = |e: Error| e.during(format!("foreign key {name} of table `{table}`"));
    // A table that was dropped since needs none.
    let Some(now) = definition_of(session, table).await.map_err(context)? else { return Ok(()) };
    let index = key.index.as_ref().filter(|index| **index != key.name);
    let there = now.keys.iter().find(|k| k.name == key.name);
    if !there.is_some_and(|there| there.is_same(key)) {
        let mut first = Vec::new();
        if there.is_some() {
            first.push(format!("DROP FOREIGN KEY {name}"));
        }
        if let Some(index) = index.filter(|index| now.has_index(index) && !now.has_index(&key.name)) {
            first.push(format!("RENAME INDEX {} TO {name}", quote::ident(index)));
        }
        if !first.is_empty() {
            patiently(session, &format!("ALTER TABLE {} {}", table.quoted(), first.join(", ")))
                .await
                .map_err(context)?;
        }
        patiently(session, &format!("ALTER TABLE {} {}", table.quoted(), key.add())).await.map_err(context)?;
    }
    let Some(index) = index else { return Ok(()) };
    let Some(now) = definition_of(session, table).await.map_err(context)? else { return Ok(()) };
    if now.has_index(&key.name) && !now.has_index(index) {
        let back = format!("ALTER TABLE {} RENAME INDEX {name} TO {}", table.quoted(), quote::ident(index));
        patiently(session, &back).await.map_err(context)?;
    }
    Ok(())
}

/// Takes all foreign keys from a table.
async fn untie(session: &mut Session, table: &TableName) -> Result<()> {
    for key in definition_of(session, table).await?.map(|d| d.keys).unwrap_or_default() {
        let sql = format!("ALTER TABLE {} DROP FOREIGN KEY {}", table.quoted(), quote::ident(&key.name));
        patiently(session, &sql).await?;
    }
    Ok(())
}

async fn next_id(session: &mut Session, table: &TableName) -> Result<Option<u64>> {
    // Opened first: after a restart MySQL tells the last id until somebody has.
    let _ = session.rows(format!("SELECT 1 FROM {} LIMIT 0", table.quoted())).await;
    let sql = format!(
        "SELECT AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote::text(&table.schema),
        quote::text(&table.name)
    );
    session.row(sql).await?.map_or(Ok(None), |row| row.number(0))
}

/// The larger of the backup's counter and production's.
async fn wanted_id(session: &mut Session, place: &Placed) -> Result<Option<u64>> {
    let now = if place.present.is_some() { next_id(session, &place.target).await? } else { None };
    Ok(now.max(place.next_id))
}

/// Raises the counter of a table that has one; never lowers it.
async fn raise(session: &mut Session, table: &TableName, wanted: Option<u64>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    if next_id(session, table).await?.is_some_and(|now| now < wanted) {
        patiently(session, &format!("ALTER TABLE {} AUTO_INCREMENT = {wanted}", table.quoted())).await?;
    }
    Ok(())
}

/// Drops schemas of the run's own that hold nothing any more.
async fn tidy(session: &mut Session, places: &[Placed]) -> Result<()> {
    let mut own = BTreeSet::new();
    for place in places {
        own.extend([&place.fresh.schema, &place.kept.schema, &place.undone.schema]);
    }
    for schema in own {
        let sql =
            format!("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = {}", quote::text(schema));
        let tables = session.row(sql).await?.map_or(Ok(None), |row| row.number(0))?;
        if tables == Some(0) {
            session.run(format!("DROP DATABASE IF EXISTS {}", quote::ident(schema))).await?;
        }
    }
    Ok(())
}
