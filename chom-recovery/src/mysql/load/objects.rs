//! Makes routines, views, triggers and events again, each under the settings under which it was made first.

use std::fmt::Write as _;

use super::Loader;
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        objects::{Schema, Setting, Text, Trigger, View},
        quote,
        session::{LOAD_MODE, Session, server_code},
    },
};

/// Placeholders made for one invalid view before it is given up.
const PLACEHOLDERS: usize = 200;

impl Loader {
    pub(super) async fn make_stored_objects(&mut self) -> Result<()> {
        let objects = self.objects.clone();
        // Bodies of routines are not looked at before they run, so they come first: views may call them.
        for r in &objects.routines {
            self.make(&r.schema, &r.create, &r.setting, None)
                .await
                .map_err(|e| e.during(format!("{} `{}.{}`", r.kind.to_lowercase(), r.schema, r.name)))?;
        }
        self.make_views(objects.views).await?;
        for t in &objects.triggers {
            self.make(&t.schema, &t.create, &t.setting, None)
                .await
                .map_err(|e| e.during(format!("trigger `{}.{}`", t.schema, t.name)))?;
        }
        for e in &objects.events {
            self.make(&e.schema, &e.create, &e.setting, Some(e.created))
                .await
                .map_err(|error| error.during(format!("event `{}.{}`", e.schema, e.name)))?;
        }
        Ok(())
    }

    /// Makes views in passes: each pass makes those whose parts exist. What remains when a pass makes none is invalid,
    /// as it was at the source, and is made over placeholders.
    async fn make_views(&mut self, mut waiting: Vec<View>) -> Result<()> {
        loop {
            let before = waiting.len();
            let mut rest = Vec::new();
            for view in waiting {
                match self.make(&view.schema, &view.create, &view.setting, None).await {
                    Ok(()) => {}
                    Err(e) if unresolved(&e) => rest.push(view),
                    Err(e) => return Err(e.during(format!("view `{}.{}`", view.schema, view.name))),
                }
            }
            waiting = rest;
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        self.make_invalid_views(waiting).await
    }

    /// Makes what invalid views miss, makes the views, and takes it away again. One may be built on another, so all
    /// placeholders stay until the last view is made.
    async fn make_invalid_views(&mut self, mut waiting: Vec<View>) -> Result<()> {
        let mut made = Placeholders::default();
        loop {
            let before = waiting.len();
            let mut rest = Vec::new();
            for view in waiting {
                match self.make_invalid_view(&view, &mut made).await {
                    Ok(()) => {}
                    Err(error) => rest.push((view, error)),
                }
            }
            if rest.is_empty() || rest.len() == before {
                for (view, error) in rest {
                    self.report.warnings.push(format!(
                        "view `{}.{}` was invalid at the source and could not be made again: {}",
                        view.schema,
                        view.name,
                        error.message()
                    ));
                }
                break;
            }
            waiting = rest.into_iter().map(|(view, _)| view).collect();
        }
        for drop in made.drops.iter().rev() {
            self.session.run(drop.as_str()).await?;
        }
        Ok(())
    }

    async fn make_invalid_view(&mut self, view: &View, made: &mut Placeholders) -> Result<()> {
        for _ in 0..PLACEHOLDERS {
            let Err(error) = self.make(&view.schema, &view.create, &view.setting, None).await else { return Ok(()) };
            let Some(step) = placeholder(&error, &view.schema, made.tables.last().map(String::as_str)) else {
                return Err(error);
            };
            if self.session.run(step.make.as_str()).await.is_err() {
                return Err(error);
            }
            made.drops.extend(step.drop);
            made.tables.extend(step.table);
        }
        Err(Error::new(ErrorKind::Failed, "too much of what it names is missing"))
    }

    /// Runs a `CREATE` under the object's settings, then puts the session's own back.
    async fn make(&mut self, schema: &str, create: &Text, setting: &Setting, clock: Option<u64>) -> Result<()> {
        self.session.run(format!("USE {}", quote::ident(schema))).await?;
        let collation = setting.database_collation.as_deref();
        let collation = match (collation, self.objects.schemas.iter().find(|s| s.name == schema)) {
            (Some(wanted), Some(schema)) => Collation::differing(&mut self.session, schema, wanted).await?,
            _ => None,
        };
        if let Some(c) = &collation {
            c.set(&mut self.session, &c.wanted).await?;
        }
        let made = run_under(&mut self.session, create, setting, clock).await;
        // Also after a failure: the next object is not to inherit any of it.
        self.session.run(usual_settings()).await?;
        if let Some(c) = &collation {
            c.set(&mut self.session, &c.usual).await?;
        }
        made
    }
}

/// Makes a trigger on a server that serves, in a session of [`Role::Restore`](crate::mysql::session::Role::Restore).
pub(in crate::mysql) async fn make_trigger(session: &mut Session, trigger: &Trigger) -> Result<()> {
    session.run(format!("USE {}", quote::ident(&trigger.schema))).await?;
    let made = run_under(session, &trigger.create, &trigger.setting, None).await;
    session.run(usual_settings()).await?;
    made
}

/// Puts back the settings of a session that loads.
fn usual_settings() -> String {
    format!(
        "SET NAMES utf8mb4, SESSION sql_mode = {}, SESSION time_zone = '+00:00', SESSION timestamp = 0, \
         SESSION character_set_results = NULL",
        quote::text(LOAD_MODE)
    )
}

async fn run_under(session: &mut Session, create: &Text, setting: &Setting, clock: Option<u64>) -> Result<()> {
    let mut set = format!("SET SESSION sql_mode = {}", quote::text(setting.sql_mode.as_deref().unwrap_or("")));
    if let Some(zone) = &setting.time_zone {
        let _ = write!(set, ", SESSION time_zone = {}", quote::text(zone));
    }
    if let Some(seconds) = clock.filter(|s| *s > 0) {
        let _ = write!(set, ", SESSION timestamp = {seconds}");
    }
    if !setting.character_set_client.is_empty() {
        let _ = write!(
            set,
            ", SESSION collation_connection = {}, SESSION character_set_client = {}",
            quote::text(&setting.collation_connection),
            quote::text(&setting.character_set_client)
        );
    }
    session.run(set).await?;
    let done = session.run(create.bytes().to_vec()).await?;
    if done.warnings > 0 {
        // 1588: an event of the past was not made. 1449: the definer is missing, as at the source.
        for (code, text) in session.warnings().await? {
            if code == 1588 {
                return Err(Error::new(ErrorKind::Failed, text).with("code", code));
            }
        }
    }
    Ok(())
}

/// A schema's default collation, changed for one object that was made under another one.
struct Collation {
    schema: String,
    usual: String,
    wanted: String,
}

impl Collation {
    async fn differing(session: &mut Session, schema: &Schema, wanted: &str) -> Result<Option<Self>> {
        let row = session.row("SELECT @@collation_database").await?;
        let usual = row.map_or(Ok(String::new()), |r| r.text(0))?;
        Ok((usual != wanted && !usual.is_empty() && !wanted.is_empty()).then(|| Self {
            schema: schema.name.clone(),
            usual,
            wanted: wanted.to_owned(),
        }))
    }

    async fn set(&self, session: &mut Session, collation: &str) -> Result<()> {
        let sql = format!("ALTER DATABASE {} COLLATE {}", quote::ident(&self.schema), quote::text(collation));
        session.run(sql).await.map(drop)
    }
}

/// Tells whether a view failed only because something that it names is not there: table (1146), column (1054),
/// function (1305), schema (1049), or a view that is invalid itself (1356).
fn unresolved(error: &Error) -> bool {
    matches!(server_code(error), Some(1049 | 1054 | 1146 | 1305 | 1356 | 4162))
}

/// What stands in for what invalid views miss.
#[derive(Default)]
struct Placeholders {
    drops: Vec<String>,
    tables: Vec<String>,
}

struct Placeholder {
    make: String,
    drop: Option<String>,
    table: Option<String>,
}

/// Makes of a server's complaint the statement that mends it. `table` is the placeholder that was made last.
fn placeholder(error: &Error, schema: &str, table: Option<&str>) -> Option<Placeholder> {
    let quoted = error.message().split('\'').nth(1)?;
    match server_code(error)? {
        1146 => {
            let (schema, name) = quoted.split_once('.').unwrap_or((schema, quoted));
            let name = quote::qualified(schema, name);
            Some(Placeholder {
                make: format!("CREATE TABLE {name} (chom_placeholder int)"),
                drop: Some(format!("DROP TABLE {name}")),
                table: Some(name),
            })
        }
        1054 => {
            let column = quoted.rsplit('.').next()?;
            Some(Placeholder {
                make: format!("ALTER TABLE {} ADD COLUMN {} int", table?, quote::ident(column)),
                drop: None,
                table: None,
            })
        }
        1305 => {
            let name = error.message().split_whitespace().nth(1)?;
            let (schema, name) = name.split_once('.').unwrap_or((schema, name));
            let name = quote::qualified(schema, name);
            Some(Placeholder {
                make: format!("CREATE FUNCTION {name}() RETURNS int DETERMINISTIC RETURN 0"),
                drop: Some(format!("DROP FUNCTION {name}")),
                table: None,
            })
        }
        1049 => {
            let name = quote::ident(quoted);
            Some(Placeholder {
                make: format!("CREATE DATABASE {name}"),
                drop: Some(format!("DROP DATABASE {name}")),
                table: None,
            })
        }
        _ => None,
    }
}
