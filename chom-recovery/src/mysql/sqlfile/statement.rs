//! What a statement of a dump is about.

use serde::{Deserialize, Serialize};

use super::{
    mode::Mode,
    tokens::{Token, Tokens},
};

/// Tokens that are looked at; what a statement is about stands in front.
const LOOK: usize = 400;

/// Kind of a named object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A schema.
    Schema,
    /// A table.
    Table,
    /// A view.
    View,
    /// A trigger.
    Trigger,
    /// A stored function.
    Function,
    /// A stored procedure.
    Procedure,
    /// A package (MariaDB).
    Package,
    /// A package body (MariaDB).
    PackageBody,
    /// An event.
    Event,
    /// A sequence (MariaDB).
    Sequence,
    /// A tablespace, which belongs to no schema (MySQL).
    Tablespace,
}

impl Object {
    /// What a census and a person call it: stored functions, procedures and packages are routines.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Table => "table",
            Self::View => "view",
            Self::Trigger => "trigger",
            Self::Function | Self::Procedure | Self::Package | Self::PackageBody => "routine",
            Self::Event => "event",
            Self::Sequence => "sequence",
            Self::Tablespace => "tablespace",
        }
    }
}

/// Name of an object, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Schema, where the name carries one.
    pub schema: Option<String>,
    /// The name itself.
    pub name: String,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Chooses the schema for what follows.
    Use(String),
    /// Makes an object.
    Create {
        /// Kind of object.
        object: Object,
        /// Its name.
        name: Name,
    },
    /// Removes objects.
    Drop {
        /// Kind of object.
        object: Object,
        /// Their names.
        names: Vec<Name>,
    },
    /// Changes an object.
    Alter {
        /// Kind of object.
        object: Object,
        /// Its name.
        name: Name,
    },
    /// Adds rows.
    Insert(Insert),
    /// `LOCK TABLES` and `UNLOCK TABLES`.
    Lock,
    /// Session settings, and sometimes those of the server.
    Set(Settings),
    /// Moves a sequence on (MariaDB).
    SetValue,
    /// Begins or ends a transaction.
    Transaction,
    /// Tells a replica where to go on.
    Replication,
    /// Accounts and grants.
    Account,
    /// Acts on the server as a whole: `FLUSH`, `INSTALL`, `ANALYZE`.
    Administration(String),
    /// Nothing but comments.
    Empty,
    /// Something that no dump holds; its first word.
    Other(String),
}

/// Rows for a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Insert {
    /// Table.
    pub table: Name,
    /// Rows in this piece.
    pub rows: u64,
    /// Whether rows that are there already may be kept or replaced, so that the server's count may differ.
    pub is_lenient: bool,
    /// Whether a value is computed, or a clause stands behind the rows: more than literals, which act on nothing else.
    pub has_expressions: bool,
}

/// A `SET` statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Assignments, in order.
    pub assignments: Vec<Assignment>,
}

impl Settings {
    /// Names what it sets on the server as a whole; empty when only its own session changes.
    pub fn globals(&self) -> Vec<&str> {
        let is_global = |target: &str| {
            let target = target.to_ascii_lowercase();
            ["@@global.", "@@persist.", "@@persist_only."].iter().any(|scope| target.starts_with(scope))
        };
        self.assignments.iter().map(|a| a.target.as_str()).filter(|t| is_global(t)).collect()
    }

    /// Tells whether it puts a setting back that was saved at the begin: what ends a whole dump.
    pub fn restores(&self) -> bool {
        let is_saved =
            |a: &Assignment| matches!(&a.source, Source::Variable(v) if v.to_ascii_lowercase().starts_with("@old_"));
        !self.assignments.is_empty() && self.assignments.iter().all(is_saved)
    }

    /// Returns the text that is assigned to a variable of this name.
    pub(in crate::mysql) fn text(&self, name: &str) -> Option<&[u8]> {
        self.assignments.iter().find_map(|a| match &a.source {
            Source::Text(text) if a.target.to_ascii_lowercase().ends_with(name) => Some(text.as_slice()),
            _ => None,
        })
    }
}

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Variable, with its `@`s and its scope.
    pub target: String,
    /// What it gets.
    pub source: Source,
}

/// Right side of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A text, or a bare word.
    Text(Vec<u8>),
    /// Another variable.
    Variable(String),
    /// Anything else.
    Expression,
}

/// A cursor over the front of a statement.
struct Cursor {
    tokens: Vec<Token>,
    at: usize,
}

impl Cursor {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    /// The next token as an upper-case word, without taking it.
    fn word(&self) -> String {
        match self.peek() {
            Some(Token::Word(word)) => word.to_ascii_uppercase(),
            _ => String::new(),
        }
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// Takes these words if they come next.
    fn take(&mut self, words: &[&str]) -> bool {
        let is_word =
            |token: Option<&Token>, word: &str| matches!(token, Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        let all = words.iter().enumerate().all(|(i, word)| is_word(self.tokens.get(self.at + i), word));
        if all {
            self.at += words.len();
        }
        all
    }

    fn take_symbol(&mut self, symbol: u8) -> bool {
        let is = self.peek() == Some(&Token::Symbol(symbol));
        self.at += usize::from(is);
        is
    }

    fn identifier(&mut self) -> Option<String> {
        match self.peek()? {
            Token::Word(name) | Token::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Some(name)
            }
            _ => None,
        }
    }

    fn name(&mut self) -> Option<Name> {
        let first = self.identifier()?;
        if !self.take_symbol(b'.') {
            return Some(Name { schema: None, name: first });
        }
        Some(Name { schema: Some(first), name: self.identifier()? })
    }

    fn names(&mut self) -> Option<Vec<Name>> {
        let mut names = vec![self.name()?];
        while self.take_symbol(b',') {
            names.push(self.name()?);
        }
        Some(names)
    }

    /// Passes over what may stand between `CREATE` and the kind of object.
    fn skip_attributes(&mut self) {
        loop {
            match self.word().as_str() {
                "OR" | "REPLACE" | "TEMPORARY" | "AGGREGATE" => self.at += 1,
                "SQL" => self.at += 3,
                "ALGORITHM" => {
                    self.at += 1;
                    self.take_symbol(b'=');
                    self.at += 1;
                }
                "DEFINER" => {
                    self.at += 1;
                    self.take_symbol(b'=');
                    self.at += 1;
                    if self.take_symbol(b'@') {
                        self.at += 1;
                    } else if matches!(self.peek(), Some(Token::Variable(_))) {
                        // `'root'@localhost`
                        self.at += 1;
                    } else if self.take_symbol(b'(') {
                        self.take_symbol(b')');
                    }
                }
                _ => return,
            }
        }
    }

    fn object(&mut self) -> Option<Object> {
        let object = match self.word().as_str() {
            "DATABASE" | "SCHEMA" => Object::Schema,
            "TABLE" | "TABLES" => Object::Table,
            "VIEW" => Object::View,
            "TRIGGER" => Object::Trigger,
            "FUNCTION" => Object::Function,
            "PROCEDURE" => Object::Procedure,
            "EVENT" => Object::Event,
            "SEQUENCE" => Object::Sequence,
            "TABLESPACE" => Object::Tablespace,
            "PACKAGE" => {
                self.at += 1;
                return Some(if self.take(&["BODY"]) { Object::PackageBody } else { Object::Package });
            }
            _ => return None,
        };
        self.at += 1;
        Some(object)
    }
}

/// Tells what a statement is about. `text` is without its delimiter; `rows` were counted while it was read.
/// `has_expressions` tells what stands in those rows.
pub(super) fn classify(text: &[u8], mode: Mode, rows: Option<u64>, has_expressions: bool) -> Kind {
    let mut cursor = Cursor { tokens: Tokens::new(text, mode).take(LOOK).collect(), at: 0 };
    let first = match cursor.peek() {
        None => return Kind::Empty,
        Some(_) => cursor.word(),
    };
    let other = || Kind::Other(first.clone());
    let kind = match first.as_str() {
        "INSERT" | "REPLACE" => insert(&mut cursor, rows, has_expressions),
        "CREATE" => create(&mut cursor),
        "DROP" => drop_objects(&mut cursor),
        "ALTER" => alter(&mut cursor),
        "USE" => {
            cursor.at += 1;
            // Nothing may follow the name: a forgotten delimiter would hide a statement.
            cursor.identifier().filter(|_| cursor.peek().is_none()).map(Kind::Use)
        }
        "SET" => Some(set(&mut cursor)),
        "LOCK" | "UNLOCK" => Some(Kind::Lock),
        "START" => {
            cursor.at += 1;
            Some(if cursor.word() == "TRANSACTION" { Kind::Transaction } else { Kind::Replication })
        }
        "BEGIN" | "COMMIT" => Some(Kind::Transaction),
        "STOP" | "CHANGE" => Some(Kind::Replication),
        "GRANT" | "REVOKE" => Some(Kind::Account),
        "FLUSH" | "INSTALL" | "UNINSTALL" | "ANALYZE" | "OPTIMIZE" => Some(Kind::Administration(first.clone())),
        "DO" | "SELECT" => {
            cursor.at += 1;
            (cursor.word() == "SETVAL").then_some(Kind::SetValue)
        }
        _ => None,
    };
    kind.unwrap_or_else(other)
}

/// Reads the table that a trigger belongs to.
pub(in crate::mysql) fn trigger_table(text: &[u8]) -> Option<Name> {
    let mut cursor = Cursor { tokens: Tokens::new(text, Mode::default()).take(LOOK).collect(), at: 0 };
    while !cursor.take(&["ON"]) {
        cursor.next()?;
    }
    // Under `ANSI_QUOTES` a name is written like a text.
    if let Some(Token::Text(name)) = cursor.peek() {
        return Some(Name { schema: None, name: String::from_utf8_lossy(name).into_owned() });
    }
    cursor.name()
}

/// Reads the columns that an INSERT names; `None`: it says something else. An empty list: it names none.
pub(super) fn insert_columns(head: &[u8]) -> Option<Vec<String>> {
    let mut cursor = Cursor { tokens: Tokens::new(head, Mode::default()).collect(), at: 0 };
    if !cursor.take(&["INSERT", "INTO"]) {
        return None;
    }
    cursor.name()?;
    let mut columns = Vec::new();
    if cursor.take_symbol(b'(') {
        loop {
            columns.push(cursor.identifier()?);
            if !cursor.take_symbol(b',') {
                break;
            }
        }
        cursor.take_symbol(b')').then_some(())?;
    }
    (cursor.take(&["VALUES"]) && cursor.peek().is_none()).then_some(columns)
}

fn insert(cursor: &mut Cursor, rows: Option<u64>, has_expressions: bool) -> Option<Kind> {
    let mut is_lenient = cursor.word() == "REPLACE";
    cursor.at += 1;
    while matches!(cursor.word().as_str(), "LOW_PRIORITY" | "DELAYED" | "HIGH_PRIORITY" | "IGNORE") {
        is_lenient |= cursor.word() == "IGNORE";
        cursor.at += 1;
    }
    cursor.take(&["INTO"]);
    Some(Kind::Insert(Insert { table: cursor.name()?, rows: rows?, is_lenient, has_expressions }))
}

fn create(cursor: &mut Cursor) -> Option<Kind> {
    cursor.at += 1;
    cursor.skip_attributes();
    if matches!(cursor.word().as_str(), "USER" | "ROLE") {
        return Some(Kind::Account);
    }
    let object = cursor.object()?;
    cursor.take(&["IF", "NOT", "EXISTS"]);
    Some(Kind::Create { object, name: cursor.name()? })
}

fn drop_objects(cursor: &mut Cursor) -> Option<Kind> {
    cursor.at += 1;
    if matches!(cursor.word().as_str(), "USER" | "ROLE") {
        return Some(Kind::Account);
    }
    cursor.take(&["TEMPORARY"]);
    let object = cursor.object()?;
    cursor.take(&["IF", "EXISTS"]);
    Some(Kind::Drop { object, names: cursor.names()? })
}

fn alter(cursor: &mut Cursor) -> Option<Kind> {
    cursor.at += 1;
    cursor.skip_attributes();
    if matches!(cursor.word().as_str(), "USER" | "ROLE") {
        return Some(Kind::Account);
    }
    let object = cursor.object()?;
    cursor.take(&["IF", "EXISTS"]);
    Some(Kind::Alter { object, name: cursor.name()? })
}

fn set(cursor: &mut Cursor) -> Kind {
    cursor.at += 1;
    match cursor.word().as_str() {
        "PASSWORD" | "ROLE" | "DEFAULT" => return Kind::Account,
        "TRANSACTION" => return Kind::Transaction,
        _ => {}
    }
    let mut settings = Settings::default();
    let mut scope = String::new();
    while cursor.peek().is_some() {
        let target = match cursor.word().as_str() {
            "SESSION" | "LOCAL" => {
                cursor.at += 1;
                continue;
            }
            word @ ("GLOBAL" | "PERSIST" | "PERSIST_ONLY") => {
                cursor.at += 1;
                scope = format!("@@{word}.");
                continue;
            }
            "CHARACTER" => {
                cursor.at += 2;
                settings.assignments.push(Assignment { target: "names".into(), source: source(cursor) });
                continue;
            }
            "NAMES" => {
                cursor.at += 1;
                settings.assignments.push(Assignment { target: "names".into(), source: source(cursor) });
                continue;
            }
            _ => match cursor.next() {
                Some(Token::Variable(name) | Token::Name(name)) => name,
                Some(Token::Word(name)) => format!("{scope}{name}"),
                _ => continue,
            },
        };
        cursor.take_symbol(b':');
        if cursor.take_symbol(b'=') {
            settings.assignments.push(Assignment { target, source: source(cursor) });
        }
        scope.clear();
    }
    Kind::Set(settings)
}

/// Takes a right side up to the next comma outside brackets.
fn source(cursor: &mut Cursor) -> Source {
    let mut found = Vec::new();
    let mut depth = 0_u32;
    while let Some(token) = cursor.next() {
        match token {
            Token::Symbol(b',') if depth == 0 => break,
            Token::Symbol(b'(') => depth += 1,
            Token::Symbol(b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        found.push(token);
    }
    match found.as_slice() {
        // The second text is a GTID set behind the optional `'+'`.
        [Token::Text(text)] | [Token::Text(_), Token::Text(text)] => Source::Text(text.clone()),
        [Token::Text(text), Token::Word(word), ..] if word.eq_ignore_ascii_case("COLLATE") => {
            Source::Text(text.clone())
        }
        [Token::Word(word)] => Source::Text(word.clone().into_bytes()),
        [Token::Word(word), Token::Word(collate), ..] if collate.eq_ignore_ascii_case("COLLATE") => {
            Source::Text(word.clone().into_bytes())
        }
        [Token::Variable(name)] => Source::Variable(name.clone()),
        _ => Source::Expression,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Kind {
        classify(text.as_bytes(), Mode::default(), Some(2), false)
    }

    fn name(text: &str) -> Name {
        match text.split_once('.') {
            Some((schema, name)) => Name { schema: Some(schema.into()), name: name.into() },
            None => Name { schema: None, name: text.into() },
        }
    }

    #[test]
    fn objects_are_found_behind_conditional_comments_and_attributes() {
        let create = |object, text| Kind::Create { object, name: name(text) };
        for (text, wanted) in [
            (
                "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `chom` /*!40100 DEFAULT CHARACTER SET utf8mb4 */",
                create(Object::Schema, "chom"),
            ),
            ("CREATE TABLE IF NOT EXISTS `mysql`.`x` (a int)", create(Object::Table, "mysql.x")),
            (
                "/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`root`@`%` SQL SECURITY DEFINER */\n/*!50001 VIEW `v` AS select 1 */",
                create(Object::View, "v"),
            ),
            (
                "/*!50003 CREATE*/ /*!50017 DEFINER=`a`@`b`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `x` FOR EACH ROW SET @a = 1 */",
                create(Object::Trigger, "t"),
            ),
            ("CREATE DEFINER='root'@localhost PROCEDURE `p`() BEGIN END", create(Object::Procedure, "p")),
            ("CREATE DEFINER=CURRENT_USER() FUNCTION f() RETURNS int RETURN 1", create(Object::Function, "f")),
            (
                "/*!50106 CREATE*/ /*!50117 DEFINER=`root`@`%`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY DO SELECT 1 */",
                create(Object::Event, "e"),
            ),
            ("CREATE OR REPLACE PACKAGE BODY `b` AS END", create(Object::PackageBody, "b")),
            ("CREATE SEQUENCE `s` start with 1", create(Object::Sequence, "s")),
            ("CREATE TABLESPACE `a b` ADD DATAFILE 'a.ibd'", create(Object::Tablespace, "a b")),
        ] {
            assert_eq!(kind(text), wanted, "{text}");
        }
        assert_eq!(
            kind("DROP TABLE IF EXISTS `a`, b.`c``d`"),
            Kind::Drop { object: Object::Table, names: vec![name("a"), name("b.c`d")] }
        );
    }

    #[test]
    fn a_use_with_something_behind_it_is_no_use() {
        assert_eq!(kind("USE `chom`"), Kind::Use("chom".into()));
        assert_eq!(kind("use chom\nDROP DATABASE chom"), Kind::Other("USE".into()));
    }

    #[test]
    fn settings_tell_sessions_from_servers() {
        let Kind::Set(set) = kind("SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ 'a-b:1-5'") else { panic!() };
        assert_eq!(set.globals(), ["@@GLOBAL.GTID_PURGED"]);
        assert_eq!(set.text("gtid_purged"), Some(&b"a-b:1-5"[..]));
        let Kind::Set(set) = kind("/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='A,B' */") else { panic!() };
        assert_eq!(set.text("sql_mode"), Some(&b"A,B"[..]));
        assert!(set.globals().is_empty() && !set.restores());
        let Kind::Set(set) = kind("/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */") else { panic!() };
        assert!(set.restores());
        let Kind::Set(set) = kind("SET GLOBAL general_log = 1, a = 2") else { panic!() };
        assert_eq!(set.globals(), ["@@GLOBAL.general_log"]);
    }

    #[test]
    fn what_no_dump_holds_is_named() {
        for word in ["SHUTDOWN", "LOAD", "DELETE", "UPDATE", "SELECT", "CALL", "HANDLER", "PREPARE"] {
            assert_eq!(kind(&format!("{word} x")), Kind::Other(word.into()));
        }
        assert_eq!(
            kind("INSERT INTO t SELECT * FROM u"),
            Kind::Insert(Insert { table: name("t"), rows: 2, is_lenient: false, has_expressions: false })
        );
        assert_eq!(
            classify(b"INSERT INTO t SELECT * FROM u", Mode::default(), None, false),
            Kind::Other("INSERT".into())
        );
        assert_eq!(kind("/* nothing */ -- at all"), Kind::Empty);
        assert_eq!(kind("SELECT SETVAL(`s`, 5, 0)"), Kind::SetValue);
    }
}
