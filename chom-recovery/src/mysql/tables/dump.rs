//! Tables of a dump that another program wrote: what its text tells of them, and filling them beside production's.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{LocalInfile, Placed, Restore, TableName, look::unnamed, offer::Offer};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        baseline::definition_hash,
        objects::{Setting, Text, Trigger},
        quote,
        server::Server,
        sqlfile::{self, Beside, Input, Kind, Limits, LoadReport, Object, Piece, Splitter, SqlFile, Token},
    },
};

/// What a dump tells of its tables; definitions and triggers only of those that were read.
#[derive(Debug)]
pub(crate) struct DumpTables {
    file: SqlFile,
    /// Schema of what names none.
    default: Option<String>,
    /// Whether the server writes definitions as the dump has them.
    compares: bool,
    definitions: BTreeMap<TableName, Vec<u8>>,
    triggers: Vec<Trigger>,
}

impl DumpTables {
    /// Takes what a reading of the whole dump found. `server` is where its tables are to come.
    pub(crate) fn new(file: SqlFile, default: Option<String>, server: &Server) -> Self {
        let compares = sqlfile::is_same_series(&file.contents.header, server);
        Self { file, default, compares, definitions: BTreeMap::new(), triggers: Vec::new() }
    }

    /// Reads the definitions of tables out of the dump, up to the last of them.
    ///
    /// # Errors
    /// `Conflict`: the file is another one now.
    pub(crate) async fn read(&mut self, path: &Path, limits: Limits, wanted: &BTreeSet<TableName>) -> Result<()> {
        let wanted: BTreeMap<_, _> =
            wanted.iter().filter_map(|name| Some((name.clone(), self.hash_of(name)?))).collect();
        let default = self.default.clone().unwrap_or_default();
        let triggers = self.triggers_of(&wanted);
        let path = path.to_owned();
        let reading = move || Reader { wanted, triggers, current: default, ..Reader::default() }.read(&path, limits);
        let found = sqlfile::blocking(reading).await?;
        (self.definitions, self.triggers) = (found.definitions, found.made);
        Ok(())
    }

    /// Finds a table of the dump by its full name.
    fn find(&self, name: &TableName) -> Option<&sqlfile::TableContents> {
        let of = |schema: &str| self.file.contents.tables.get(schema)?.get(&name.name);
        let is_default = self.default.as_ref() == Some(&name.schema);
        of(&name.schema).or_else(|| is_default.then(|| of(""))?)
    }

    fn hash_of(&self, name: &TableName) -> Option<String> {
        self.find(name)?.definition.clone()
    }

    /// Counts the triggers of these tables.
    fn triggers_of(&self, tables: &BTreeMap<TableName, String>) -> usize {
        let all = self.file.contents.trigger_tables.iter();
        let all = all.flat_map(|(schema, of)| of.values().map(move |table| TableName::new(self.full(schema), table)));
        all.filter(|table| tables.contains_key(table)).count()
    }

    fn full(&self, schema: &str) -> String {
        if schema.is_empty() { self.default.clone().unwrap_or_default() } else { schema.to_owned() }
    }

    pub(super) fn tables_of(&self, schema: &str) -> Vec<TableName> {
        let all = self.file.contents.user_tables().map(|(of, name, _)| TableName::new(self.full(of), name));
        all.filter(|t| t.schema == schema).collect()
    }

    pub(super) fn schemas(&self) -> Vec<String> {
        self.file.contents.target_schemas(self.default.as_deref()).into_iter().collect()
    }

    pub(super) fn triggers(&self) -> &[Trigger] {
        &self.triggers
    }

    pub(super) fn other_kind(&self, name: &TableName) -> &'static str {
        let is = |kind: Object| {
            let mut objects = self.file.contents.objects.iter();
            objects.any(|(object, schema, of)| *object == kind && self.full(schema) == name.schema && *of == name.name)
        };
        if is(Object::View) {
            ": that is a view, which has no rows of its own"
        } else if is(Object::Sequence) {
            ": that is a sequence"
        } else {
            ""
        }
    }

    pub(super) fn offer(&self, name: &TableName) -> Result<Option<Offer<'_>>> {
        let Some(table) = self.find(name) else { return Ok(None) };
        if table.has_expressions {
            return Err(sqlfile::computed(&name.to_string()));
        }
        let create = self.definitions.get(name).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("the dump holds rows of `{name}` and not its definition"))
                .hint("choose another backup")
        })?;
        Ok(Some(Offer {
            create,
            rows: table.rows,
            bytes: table.bytes,
            row_hash: None,
            next_id: next_id(create),
            compares_definition: self.compares,
        }))
    }
}

/// Reads the counter that a definition names behind its columns.
fn next_id(create: &[u8]) -> Option<u64> {
    const SIGN: &[u8] = b" AUTO_INCREMENT=";
    let options = create.windows(3).rposition(|w| w == b"\n) ")?;
    let at = options + memchr::memmem::find(&create[options..], SIGN)? + SIGN.len();
    let digits = create[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&create[at..at + digits]).ok()?.parse().ok()
}

/// Reads some definitions out of a dump.
#[derive(Default)]
struct Reader {
    /// Tables, and the hashes of their definitions.
    wanted: BTreeMap<TableName, String>,
    /// Triggers that there are.
    triggers: usize,
    current: String,
    setting: Setting,
    definitions: BTreeMap<TableName, Vec<u8>>,
    made: Vec<Trigger>,
}

impl Reader {
    fn read(mut self, path: &Path, limits: Limits) -> Result<Self> {
        let mut input = Input::open(path)?;
        let mut splitter = Splitter::new(&mut input, limits);
        while self.definitions.len() < self.wanted.len() || self.made.len() < self.triggers {
            let Some(piece) = splitter.next_piece()? else {
                return Err(Error::new(ErrorKind::Conflict, "the dump is not the file any more that was verified")
                    .hint("something writes to it: run it again when that has ended"));
            };
            self.piece(&piece);
        }
        Ok(self)
    }

    fn piece(&mut self, piece: &Piece) {
        let Token::Statement(kind) = &piece.token else { return };
        match kind {
            Kind::Use(schema) => self.current.clone_from(schema),
            Kind::Set(settings) => {
                let text = |name: &str| settings.text(name).map(|t| String::from_utf8_lossy(t).into_owned());
                if let Some(mode) = text("sql_mode") {
                    self.setting.sql_mode = Some(mode);
                }
                if let Some(charset) = text("character_set_client") {
                    self.setting.character_set_client = charset;
                }
                if let Some(collation) = text("collation_connection") {
                    self.setting.collation_connection = collation;
                }
            }
            Kind::Create { object: Object::Table, name } => {
                let schema = name.schema.as_ref().unwrap_or(&self.current);
                let table = TableName::new(schema.as_str(), name.name.as_str());
                if self.wanted.get(&table) == Some(&definition_hash(piece.text())) {
                    self.definitions.insert(table, piece.text().to_vec());
                }
            }
            Kind::Create { object: Object::Trigger, name } => {
                let schema = name.schema.as_ref().unwrap_or(&self.current).clone();
                let Some(table) = sqlfile::trigger_table(piece.text()) else { return };
                let table = TableName::new(schema.as_str(), table.name);
                if self.wanted.contains_key(&table) {
                    // One that is made again takes the place of the first.
                    self.made.retain(|t| t.schema != schema || t.name != name.name);
                    self.made.push(Trigger {
                        schema,
                        name: name.name.clone(),
                        table: table.name,
                        moment: String::new(),
                        create: Text::new(without_definer(piece.text())),
                        setting: self.setting.clone(),
                    });
                }
            }
            _ => {}
        }
    }
}

/// Writes a trigger without who defined it, and without the conditional comments around its parts.
fn without_definer(create: &[u8]) -> Vec<u8> {
    let create = create.trim_ascii();
    let from = quote::find(create, b"TRIGGER ", 0).unwrap_or_default();
    let rest = &create[from..];
    let rest = if create.starts_with(b"/*") { rest.strip_suffix(b"*/").unwrap_or(rest) } else { rest };
    let rest = rest.trim_ascii_end();
    [b"CREATE ", rest].concat()
}

/// A dump whose tables are wanted.
#[derive(Debug, Clone)]
pub(crate) struct DumpFile {
    /// Its path.
    pub(crate) path: PathBuf,
    /// What a reading of the whole file found.
    pub(crate) file: SqlFile,
    /// How much of it is held at a time.
    pub(crate) limits: Limits,
    /// Schema of what names none.
    pub(crate) default_schema: Option<String>,
}

/// Makes and fills tables beside production's, whatever an earlier attempt left of them. Where the server takes no rows from
/// clients, they are inserted.
///
/// # Errors
/// Those of [`sqlfile::load`]; `Unsupported`: more than plain rows would reach the server.
pub(crate) async fn fill_from_dump(
    server: &Server,
    from: &DumpFile,
    places: &[Placed],
    local_infile: LocalInfile,
    connections: usize,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<LoadReport> {
    let mut restore = Restore::open(server).await?;
    let fill = async {
        restore.prepare(places, local_infile).await?;
        // One makes the tables, one stands by.
        let sessions = restore.sessions(connections + 2).await?;
        let beside = Beside {
            path: &from.path,
            file: &from.file,
            limits: from.limits,
            default_schema: from.default_schema.clone(),
            places: places.iter().map(|p| (p.source.clone(), p.fresh.clone())).collect(),
            unnamed: places.iter().any(|p| unnamed(server, p.is_copy())),
        };
        sqlfile::load_beside(sessions, beside, progress).await
    };
    let done = fill.await;
    let ended = restore.end().await;
    let report = done?;
    ended.map(|()| report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_is_made_by_nobody_of_the_dump() {
        for text in [
            "/*!50003 CREATE*/ /*!50017 DEFINER=`ro TRIGGER ot`@`%`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `b` FOR EACH ROW SET @a = 1 */",
            "CREATE DEFINER=`root`@`%` TRIGGER `t` BEFORE INSERT ON `b` FOR EACH ROW SET @a = 1 ",
        ] {
            let made = String::from_utf8(without_definer(text.as_bytes())).unwrap();
            assert_eq!(made.trim_end(), "CREATE TRIGGER `t` BEFORE INSERT ON `b` FOR EACH ROW SET @a = 1", "{text}");
        }
    }

    #[test]
    fn the_counter_is_read_behind_the_columns() {
        let create = b"CREATE TABLE `t` (\n  `id` int COMMENT ' AUTO_INCREMENT=9'\n) ENGINE=InnoDB AUTO_INCREMENT=42 COMMENT='x'";
        assert_eq!(next_id(create), Some(42));
        assert_eq!(next_id(b"CREATE TABLE `t` (\n  `id` int COMMENT ' AUTO_INCREMENT=9'\n) ENGINE=InnoDB"), None);
    }
}
