//! What a dump says that it holds, counted while it is read to its end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use super::{
    header::Header,
    splitter::{Piece, Token},
    statement::{Insert, Kind, Name, Object, trigger_table},
};
use crate::mysql::{SYSTEM_SCHEMAS, baseline::definition_hash};

/// Findings and notes that are kept one by one.
const KEPT: usize = 100;

/// What a dump holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Contents {
    /// What its comments say.
    pub header: Header,
    /// Schemas that it makes or fills; empty where it names none, as a dump of one schema does.
    pub schemas: BTreeSet<String>,
    /// Schemas of the server itself that it fills.
    pub system_schemas: BTreeSet<String>,
    /// Schemas that it makes.
    pub made_schemas: BTreeSet<String>,
    /// Schemas that it would remove before it makes them: why it must never be fed to a server in use.
    pub dropped_schemas: BTreeSet<String>,
    /// Tables with what they get, by schema and name. The schema is empty where the dump names none.
    pub tables: BTreeMap<String, BTreeMap<String, TableContents>>,
    /// Other objects: kind, schema, name.
    pub objects: BTreeSet<(Object, String, String)>,
    /// Tables of its triggers, by schema and name of the trigger.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trigger_tables: BTreeMap<String, BTreeMap<String, String>>,
    /// Statements about accounts.
    pub accounts: u64,
    /// Binary log file and offset of its snapshot, where it tells.
    pub position: Option<(String, u64)>,
    /// GTID set of its snapshot, where it tells.
    pub gtid_set: Option<String>,
    /// Statements; the pieces of a long one count as one each.
    pub statements: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of the decompressed file.
    pub plain_bytes: u64,
    /// How its end shows that it is whole.
    pub completion: Completion,
    /// What is wrong; empty for a sound dump.
    pub problems: Vec<Place>,
    /// Number of problems in all.
    pub problems_total: u64,
    /// What a person should know.
    pub notes: Vec<Place>,
}

/// A table of a dump.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableContents {
    /// Rows of its INSERTs.
    pub rows: u64,
    /// Bytes of its INSERTs.
    #[serde(default)]
    pub bytes: u64,
    /// Hash of its definition; `None`: the dump has only rows for it.
    pub definition: Option<String>,
    /// Whether rows may be kept or replaced by others of the dump, so that fewer may arrive.
    pub is_lenient: bool,
    /// Whether a row holds more than literals.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_expressions: bool,
}

/// How a dump's end shows that it is whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// It does not: the dump may have been cut off.
    #[default]
    Unknown,
    /// The settings saved at the begin were put back; all that `--skip-comments` leaves.
    Settings,
    /// The trailer; its time is in the zone of the host that dumped, and is that of the end.
    Trailer(Option<NaiveDateTime>),
}

/// Something at a place in the decompressed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// First byte.
    pub offset: u64,
    /// Line, from 1.
    pub line: u64,
    /// What is there.
    pub text: String,
}

/// Makes [`Contents`] of the pieces of a dump.
#[derive(Debug, Default)]
pub(super) struct Reader {
    contents: Contents,
    current: String,
}

impl Reader {
    pub(super) fn piece(&mut self, piece: &Piece) {
        self.contents.plain_bytes = piece.offset + piece.raw().len() as u64;
        if piece.offset == 0 && piece.raw().starts_with(b"\xfebin") {
            self.problem(piece, "this is a binary log, not a dump: alone it cannot be restored".into());
        }
        match &piece.token {
            Token::Blank | Token::Delimiter | Token::Sandbox => {
                if piece.token == Token::Sandbox {
                    self.contents.header.has_sandbox = true;
                }
            }
            Token::Comment => {
                if let Some(time) = self.contents.header.comment(piece.raw()) {
                    self.contents.completion = Completion::Trailer(time);
                }
            }
            Token::Noise { is_error: true } => {
                self.problem(piece, format!("an error message stands in the file: {}", shown(piece.raw())));
            }
            Token::Noise { is_error: false } => {
                self.note(piece, format!("a message stands in the file, and is left out: {}", shown(piece.raw())));
            }
            Token::Unfinished(what) => {
                self.contents.completion = Completion::Unknown;
                self.problem(piece, format!("the file ends inside {what}"));
            }
            Token::Statement(Kind::Empty) => {}
            Token::Statement(kind) => {
                self.contents.statements += 1;
                self.contents.completion = Completion::Unknown;
                self.statement(piece, kind);
            }
        }
    }

    /// Something that made reading end early.
    pub(super) fn failed(&mut self, offset: u64, text: String) {
        self.contents.completion = Completion::Unknown;
        self.contents.problems_total += 1;
        self.contents.problems.push(Place { offset, line: 0, text });
    }

    pub(super) fn finish(mut self) -> Contents {
        let end = self.contents.plain_bytes;
        if self.contents.statements == 0 && self.contents.problems_total == 0 {
            self.failed(end, "it holds no statement".into());
        } else if self.contents.completion == Completion::Unknown && self.contents.problems_total == 0 {
            self.failed(
                end,
                "nothing at its end says that it is whole: no `-- Dump completed`, no restored settings".into(),
            );
        }
        self.contents
    }

    fn statement(&mut self, piece: &Piece, kind: &Kind) {
        match kind {
            Kind::Use(schema) => {
                self.current.clone_from(schema);
                self.schema(schema);
            }
            Kind::Create { object, name } => self.create(piece, *object, name),
            Kind::Drop { object, names } => {
                for name in names {
                    self.remove(*object, name);
                }
            }
            Kind::Insert(insert) => self.insert(piece, insert),
            Kind::Account => self.contents.accounts += 1,
            Kind::Set(settings) => {
                if settings.restores() {
                    self.contents.completion = Completion::Settings;
                }
                if let Some(set) = settings.text("gtid_purged").or_else(|| settings.text("gtid_slave_pos")) {
                    let set = String::from_utf8_lossy(set).split_whitespace().collect::<String>();
                    self.contents.gtid_set = Some(set).filter(|s| !s.is_empty());
                }
                let globals = settings.globals();
                if !globals.is_empty() {
                    self.note(piece, format!("it sets {} of the server, which is not done", globals.join(", ")));
                }
            }
            Kind::Replication => {
                self.contents.header.position(piece.text(), &mut self.contents.position);
                self.note(piece, "it gives orders to a replica, which are not carried out".into());
            }
            Kind::Administration(word) if word != "FLUSH" && word != "ANALYZE" && word != "OPTIMIZE" => {
                self.note(piece, format!("{word} changes the server, and is left out"));
            }
            Kind::Other(word) => {
                let what = if word.is_empty() { shown(piece.text()) } else { format!("`{word}`") };
                self.problem(piece, format!("this is no statement of a dump: {what}"));
            }
            Kind::Alter { .. }
            | Kind::Lock
            | Kind::SetValue
            | Kind::Transaction
            | Kind::Administration(_)
            | Kind::Empty => {}
        }
    }

    fn schema(&mut self, schema: &str) {
        let list = if is_system(schema) { &mut self.contents.system_schemas } else { &mut self.contents.schemas };
        if !list.contains(schema) {
            list.insert(schema.to_owned());
        }
    }

    fn place_of(&mut self, name: &Name) -> (String, String) {
        let schema = name.schema.as_ref().unwrap_or(&self.current).clone();
        if !schema.is_empty() {
            self.schema(&schema);
        }
        (schema, name.name.clone())
    }

    fn create(&mut self, piece: &Piece, object: Object, name: &Name) {
        if object == Object::Schema {
            self.schema(&name.name);
            self.contents.made_schemas.insert(name.name.clone());
            return;
        }
        if object == Object::Tablespace {
            return;
        }
        let (schema, name) = self.place_of(name);
        if object == Object::Trigger
            && let Some(table) = trigger_table(piece.text())
        {
            self.contents.trigger_tables.entry(schema.clone()).or_default().insert(name.clone(), table.name);
        }
        if object == Object::Table {
            let definition = Some(definition_hash(piece.text()));
            self.contents.tables.entry(schema).or_default().entry(name).or_default().definition = definition;
        } else {
            self.contents.objects.insert((object, schema, name));
        }
    }

    /// What is made, removed and made again was a placeholder, as dumps make them for views.
    fn remove(&mut self, object: Object, name: &Name) {
        if object == Object::Schema {
            self.remove_schema(&name.name);
            return;
        }
        if object == Object::Tablespace {
            return;
        }
        let (schema, name) = self.place_of(name);
        if matches!(object, Object::Table | Object::View)
            && let Some(table) = self.contents.tables.get_mut(&schema).and_then(|tables| tables.remove(&name))
        {
            self.contents.rows -= table.rows;
        }
        self.contents.objects.remove(&(object, schema, name));
    }

    /// Takes back what the dump itself put into a schema; what was there before it is gone as well.
    fn remove_schema(&mut self, schema: &str) {
        let contents = &mut self.contents;
        contents.dropped_schemas.insert(schema.to_owned());
        contents.schemas.remove(schema);
        contents.made_schemas.remove(schema);
        let tables = contents.tables.remove(schema).unwrap_or_default();
        contents.rows -= tables.values().map(|table| table.rows).sum::<u64>();
        contents.objects.retain(|(_, of, _)| of != schema);
        contents.trigger_tables.remove(schema);
    }

    fn insert(&mut self, piece: &Piece, insert: &Insert) {
        if insert.rows == 0 {
            self.problem(piece, "an INSERT has no rows".into());
        }
        let (schema, name) = self.place_of(&insert.table);
        let table = self.contents.tables.entry(schema).or_default().entry(name).or_default();
        table.rows += insert.rows;
        table.bytes += piece.text().len() as u64;
        table.is_lenient |= insert.is_lenient;
        table.has_expressions |= insert.has_expressions;
        self.contents.rows += insert.rows;
    }

    fn problem(&mut self, piece: &Piece, text: String) {
        self.contents.problems_total += 1;
        if self.contents.problems.len() < KEPT {
            self.contents.problems.push(Place { offset: piece.offset, line: piece.line, text });
        }
    }

    fn note(&mut self, piece: &Piece, text: String) {
        if self.contents.notes.len() < KEPT {
            self.contents.notes.push(Place { offset: piece.offset, line: piece.line, text });
        }
    }
}

impl Contents {
    /// Tells whether nothing is wrong and the end is there.
    pub fn is_sound(&self) -> bool {
        self.problems_total == 0
    }

    /// Tells whether something has no schema of its own, so that one must be chosen.
    pub fn needs_schema(&self) -> bool {
        self.tables.get("").is_some_and(|t| !t.is_empty())
            || self.objects.iter().any(|(_, schema, _)| schema.is_empty())
    }

    /// Returns the tables that are not the server's own, with their schemas.
    pub fn user_tables(&self) -> impl Iterator<Item = (&str, &str, &TableContents)> {
        self.tables
            .iter()
            .filter(|(schema, _)| !is_system(schema))
            .flat_map(|(schema, tables)| tables.iter().map(|(name, table)| (schema.as_str(), name.as_str(), table)))
    }

    /// Returns the schemas that a load fills; `default` takes what names none.
    pub fn target_schemas(&self, default: Option<&str>) -> BTreeSet<String> {
        let mut schemas = self.schemas.clone();
        if self.needs_schema() {
            schemas.extend(default.map(str::to_owned));
        }
        schemas
    }
}

pub(super) fn is_system(schema: &str) -> bool {
    SYSTEM_SCHEMAS.iter().any(|s| s.eq_ignore_ascii_case(schema))
}

/// The beginning of a text, for a message.
fn shown(text: &[u8]) -> String {
    let line = text.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii();
    let end = line.len().min(160);
    line[..end].escape_ascii().to_string()
}
