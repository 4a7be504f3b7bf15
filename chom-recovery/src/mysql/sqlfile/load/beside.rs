//! Single tables of a dump, filled beside production's on a server that goes on serving.
//!
//! Of the dump nothing but values and settings of a session reach the server: each statement that is run is written anew
//! for a table in a schema of the run's own, and rows that hold more than literals are refused.

use std::{collections::BTreeMap, path::Path};

use super::{Connection, LoadOptions, LoadReport, Reading, Sessions, connection::Place, indexes::Key, order, run};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        session::Session,
        sqlfile::{
            Contents, Kind, Limits, Name, Object, Piece, Settings, Source, SqlFile, Token,
            mode::{bare, is_user},
        },
        tables::{Definition, TableName},
    },
};

/// Settings of a session that decide what the text of a dump means. Its other settings stay as ours are: rows go through
/// the binary log, unique keys are checked.
const SETTINGS: &[&str] = &[
    "names",
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "collation_connection",
    "sql_mode",
    "time_zone",
    "sql_notes",
    "note_verbosity",
    "system_versioning_insert_history",
];

/// Tables of a dump, and where they are filled.
pub(in crate::mysql) struct Beside<'a> {
    /// Path of the dump.
    pub(in crate::mysql) path: &'a Path,
    /// What an earlier reading of the same file found.
    pub(in crate::mysql) file: &'a SqlFile,
    /// How much is held at a time.
    pub(in crate::mysql) limits: Limits,
    /// Schema of what names none.
    pub(in crate::mysql) default_schema: Option<String>,
    /// Name in the dump, and where the table is made, without foreign keys.
    pub(in crate::mysql) places: BTreeMap<TableName, TableName>,
    /// Whether names of `CHECK` constraints are left out.
    pub(in crate::mysql) unnamed: bool,
}

/// Makes and fills tables of a dump beside production's: their schemas are there, and empty. One connection of
/// `sessions` makes tables, one stands by, and all others add rows.
///
/// # Errors
/// As [`load`](super::load); `Unsupported`: rows or the definition of a table are not as dumps have them.
pub(in crate::mysql) async fn load_beside(
    mut sessions: Vec<Session>,
    beside: Beside<'_>,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<LoadReport> {
    let (Some(first), Some(indexing)) = (sessions.pop(), sessions.pop()) else {
        return Err(Error::new(ErrorKind::Failed, "a load needs three connections"));
    };
    let redirect = Redirect {
        places: beside.places.into_iter().map(|(from, to)| ((from.schema, from.name), to)).collect(),
        default: beside.default_schema.unwrap_or_default(),
        current: String::new(),
        unnamed: beside.unnamed,
    };
    let sessions = Sessions { first: Connection::new(first), others: sessions, indexing };
    let reading = Reading { path: beside.path, file: beside.file, limits: beside.limits, redirect: Some(redirect) };
    // Keys are made with their tables: what is read here names no others.
    run(sessions, reading, &Contents::default(), &LoadOptions::default(), String::new(), progress).await
}

/// Writes statements of a dump anew for other tables.
pub(super) struct Redirect {
    places: BTreeMap<Key, TableName>,
    default: String,
    current: String,
    unnamed: bool,
}

impl Redirect {
    /// Returns what is run in the place of a piece; `None`: nothing.
    pub(super) fn piece(&mut self, piece: Piece) -> Result<Option<Piece>> {
        let kind = match &piece.token {
            Token::Statement(kind) => kind.clone(),
            Token::Unfinished(_) => return Ok(Some(piece)),
            _ => return Ok(None),
        };
        let place = Place::of(&piece, &kind);
        self.statement(&kind, piece).map_err(|e| place.in_error(e))
    }

    fn statement(&mut self, kind: &Kind, piece: Piece) -> Result<Option<Piece>> {
        match kind {
            Kind::Use(schema) => {
                self.current.clone_from(schema);
                Ok(None)
            }
            Kind::Set(settings) => Ok(is_harmless(settings).then_some(piece)),
            Kind::Create { object: Object::Table, name } => {
                let Some(to) = self.place_of(name).cloned() else { return Ok(None) };
                let create = Definition::read(piece.text(), &self.schema_of(name), self.unnamed)?.create(&to);
                let name = Name { schema: Some(to.schema.clone()), name: to.name.clone() };
                Ok(Some(piece.replaced(Kind::Create { object: Object::Table, name }, create)))
            }
            Kind::Alter { object: Object::Table, name } if self.place_of(name).is_some() => {
                if order::is_about_keys(piece.text()) {
                    return Ok(None);
                }
                Err(Error::new(ErrorKind::Unsupported, "the dump changes the table after it made it")
                    .hint("restore the whole dump (`restore --backup legacy:...`), or choose another backup"))
            }
            Kind::Drop { object: Object::Table, names } => {
                let gone: Vec<_> = names.iter().filter_map(|name| self.place_of(name)).cloned().collect();
                Ok(Self::dropped(piece, &gone))
            }
            Kind::Drop { object: Object::Schema, names } => {
                let is_of = |(schema, _): &Key| names.iter().any(|name| name.name == *schema);
                let gone: Vec<_> =
                    self.places.iter().filter(|(from, _)| is_of(from)).map(|(_, to)| to.clone()).collect();
                Ok(Self::dropped(piece, &gone))
            }
            Kind::Insert(insert) => {
                let Some(to) = self.place_of(&insert.table).cloned() else { return Ok(None) };
                if insert.has_expressions {
                    return Err(computed(&to.name));
                }
                let unknown = || {
                    Error::new(ErrorKind::Unsupported, "these rows are not added by a plain INSERT INTO")
                        .hint("restore the whole dump (`restore --backup legacy:...`), or choose another backup")
                };
                piece.redirected(&to).map(Some).ok_or_else(unknown)
            }
            // Triggers, views, routines, accounts, orders to the server: none of them is part of a table.
            _ => Ok(None),
        }
    }

    fn schema_of(&self, name: &Name) -> String {
        match &name.schema {
            Some(schema) => schema.clone(),
            None if self.current.is_empty() => self.default.clone(),
            None => self.current.clone(),
        }
    }

    fn place_of(&self, name: &Name) -> Option<&TableName> {
        self.places.get(&(self.schema_of(name), name.name.clone()))
    }

    /// What is made again later in the dump must not be there then.
    fn dropped(piece: Piece, gone: &[TableName]) -> Option<Piece> {
        let names = gone.iter().map(|t| Name { schema: Some(t.schema.clone()), name: t.name.clone() }).collect();
        let list: Vec<_> = gone.iter().map(TableName::quoted).collect();
        let kind = Kind::Drop { object: Object::Table, names };
        (!gone.is_empty())
            .then(|| piece.replaced(kind, format!("DROP TABLE IF EXISTS {}", list.join(", ")).into_bytes()))
    }
}

/// The error of rows that would run something on the server.
pub(in crate::mysql) fn computed(table: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("rows of table `{table}` hold more than plain values"))
        .hint("they would run on production's server: restore the whole dump, or choose another backup")
}

/// Tells whether a `SET` changes nothing but how the dump's text is read.
fn is_harmless(settings: &Settings) -> bool {
    !settings.assignments.is_empty()
        && settings.globals().is_empty()
        && settings.assignments.iter().all(|one| {
            let is_known = is_user(&one.target) || SETTINGS.contains(&bare(&one.target).as_str());
            is_known && matches!(one.source, Source::Text(_) | Source::Variable(_))
        })
}
