//! Values of a dump as literals of SQL.

use std::io::Write as _;

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{json::HELPERS, objects::Table},
};

/// Character sets in which a stored byte below 0x80 is another character than in ASCII, or part of one.
///
/// # Source
/// MySQL 9 manual, "Supported Character Sets and Collations": those that are no client's character set, and swe7.
const NOT_ASCII: [&[u8]; 4] = [b"ucs2", b"utf16", b"utf32", b"swe7"];

/// How the cells of one column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A number, as it stands.
    Number,
    /// A text of ASCII, in quotes: also numbers whose text tells more than SQL reads from the bare digits.
    Quoted,
    /// Text in the column's own character set.
    Text,
    /// Text in utf8mb4, whatever the column.
    Unicode,
    /// Bytes.
    Hex,
    /// A document, and in a second cell the types that its text does not tell.
    Document,
}

impl Form {
    fn of(data_type: &str, json_types: bool) -> Self {
        match data_type {
            _ if json_types => Self::Document,
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "enum" | "set" => Self::Number,
            // `-0` as a number has no sign, and a year of one digit is another one than its text.
            "float" | "double" | "year" | "date" | "time" | "datetime" | "timestamp" => Self::Quoted,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Self::Text,
            "json" | "uuid" | "inet4" | "inet6" | "xmltype" => Self::Unicode,
            _ => Self::Hex,
        }
    }
}

/// Writes the rows of one table.
#[derive(Debug)]
pub(super) struct Cells {
    forms: Vec<Form>,
    /// Whether every text column is in a character set whose bytes utf8mb4 reads alike.
    is_unicode: bool,
    /// Whether every text column reads ASCII as ASCII.
    is_ascii: bool,
}

impl Cells {
    pub(super) fn of(table: &Table) -> Self {
        let create = table.create.bytes().to_ascii_lowercase();
        let names = |word: &'static [u8]| {
            let create = &create;
            memchr::memmem::find_iter(create, word).map(move |at| &create[at + word.len()..])
        };
        let charsets: Vec<&[u8]> = names(b"charset=")
            .chain(names(b"character set "))
            .chain(names(b"collate "))
            .chain(names(b"collate="))
            .collect();
        Self {
            forms: table.columns.iter().map(|c| Form::of(&c.data_type, c.json_types)).collect(),
            is_unicode: !charsets.is_empty() && charsets.iter().all(|name| name.starts_with(b"utf8")),
            is_ascii: !charsets.iter().any(|name| NOT_ASCII.iter().any(|n| name.starts_with(n))),
        }
    }

    /// Appends a row of a dump as `(…)`. Tells whether a document in it is made by a function.
    pub(super) fn row(&self, row: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let damaged = |what: &str| Error::new(ErrorKind::Corrupt, format!("a row of the backup {what}"));
        let mut cells = row.split(|b| *b == b'\t');
        let mut next = || cells.next().ok_or_else(|| damaged("has too few columns")).map(decoded);
        let mut needs_function = false;
        out.push(b'(');
        for (i, form) in self.forms.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let cell = next()?;
            let types = if *form == Form::Document { next()? } else { None };
            match (cell, types) {
                (None, _) => out.extend_from_slice(b"NULL"),
                (Some(text), Some(types)) => {
                    needs_function = true;
                    out.extend_from_slice(format!("`{HELPERS}`.`typed`(CAST(").as_bytes());
                    quoted(&text, out);
                    out.extend_from_slice(b" AS JSON),CAST(");
                    quoted(&types, out);
                    out.extend_from_slice(b" AS JSON))");
                }
                (Some(value), None) => {
                    self.value(*form, &value, out).ok_or_else(|| damaged("holds a value of another type"))?;
                }
            }
        }
        out.push(b')');
        if cells.next().is_some() { Err(damaged("has too many columns")) } else { Ok(needs_function) }
    }

    fn value(&self, form: Form, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match form {
            Form::Number => {
                let is_number = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'.');
                (!value.is_empty() && value.iter().all(is_number)).then(|| out.extend_from_slice(value))
            }
            Form::Quoted => value.is_ascii().then(|| quoted(value, out)),
            Form::Unicode | Form::Document => std::str::from_utf8(value).ok().map(|_| quoted(value, out)),
            Form::Text => {
                let is_plain =
                    (value.is_ascii() && self.is_ascii) || (self.is_unicode && std::str::from_utf8(value).is_ok());
                if is_plain {
                    quoted(value, out);
                } else {
                    hex(value, out);
                }
                Some(())
            }
            Form::Hex => {
                hex(value, out);
                Some(())
            }
        }
    }
}

/// Reads a cell of a dump; `None` is NULL.
fn decoded(cell: &[u8]) -> Option<Vec<u8>> {
    if cell == b"\\N" {
        return None;
    }
    let (mut value, mut rest) = (Vec::with_capacity(cell.len()), cell);
    while let Some(at) = memchr::memchr(b'\\', rest) {
        value.extend_from_slice(&rest[..at]);
        value.push(match rest.get(at + 1) {
            Some(b't') => b'\t',
            Some(b'n') => b'\n',
            Some(b'0') => 0,
            Some(other) => *other,
            None => b'\\',
        });
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    value.extend_from_slice(rest);
    Some(value)
}

/// Appends a text in quotes. Bytes that a client or an editor could change are escaped.
pub(super) fn quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    let mut from = 0;
    for (at, byte) in text.iter().enumerate() {
        let escaped: &[u8] = match byte {
            b'\'' => b"\\'",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            0 => b"\\0",
            0x1a => b"\\Z",
            _ => continue,
        };
        out.extend_from_slice(&text[from..at]);
        out.extend_from_slice(escaped);
        from = at + 1;
    }
    out.extend_from_slice(&text[from..]);
    out.push(b'\'');
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.is_empty() {
        out.extend_from_slice(b"''");
        return;
    }
    let from = out.len() + 2;
    out.extend_from_slice(b"0x");
    out.resize(from + bytes.len() * 2, 0);
    // The room is exactly what the digits need.
    let _ = hex::encode_to_slice(bytes, &mut out[from..]);
}

/// Appends a comment; a line feed in it begins another one, and nothing in it is run.
pub(super) fn comment(text: &str, out: &mut Vec<u8>) {
    for line in text.split(['\n', '\r']) {
        // Writing to memory does not fail.
        let _ = writeln!(out, "-- {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::objects::{Column, TableData, Text};

    fn table(options: &str, types: &[&str]) -> Table {
        Table {
            schema: "s".into(),
            name: "t".into(),
            engine: "InnoDB".into(),
            create: Text::new(format!("CREATE TABLE `t` (\n  `a` int\n) {options}")),
            columns: types
                .iter()
                .map(|t| Column { name: "c".into(), data_type: (*t).into(), json_types: *t == "json" })
                .collect(),
            auto_increment: None,
            history: false,
            data: TableData::Snapshot,
        }
    }

    fn written(options: &str, types: &[&str], row: &[u8]) -> Result<String> {
        let mut out = Vec::new();
        Cells::of(&table(options, types)).row(row, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn each_type_has_its_literal() {
        let types = ["int", "double", "varchar", "varbinary", "enum", "json", "date", "bit"];
        let row = "-7\t-0\tit's \\\\ “x”\\n\t\\0\u{1}\t0\t{\"a\": 1}\t\\N\t0000-00-00\t\u{5}";
        assert_eq!(
            written("DEFAULT CHARSET=utf8mb4", &types, row.as_bytes()).unwrap(),
            r#"(-7,'-0','it\'s \\ “x”\n',0x0001,0,'{"a": 1}','0000-00-00',0x05)"#
        );
        assert_eq!(written("", &["json"], b"\\N\t\\N").unwrap(), "(NULL)");
        let typed = written("", &["json"], b"{\"d\": \"x\"}\t{\"$.d\": [\"DATE\", \"x\"]}").unwrap();
        assert!(typed.starts_with("(`chom_recovery_load`.`typed`(CAST('"), "{typed}");
    }

    #[test]
    fn text_that_utf8_would_read_otherwise_is_written_as_bytes() {
        for (options, cell, literal) in [
            ("CHARSET=utf8mb4", b"caf\xc3\xa9".as_slice(), "'café'"),
            ("CHARSET=utf8mb4", b"\xff", "0xff"),
            ("CHARSET=latin1", b"caf\xc3\xa9", "0x636166c3a9"),
            ("CHARSET=latin1", b"cafe", "'cafe'"),
            ("CHARSET=utf16", b"ab", "0x6162"),
            ("CHARSET=utf8mb4 COMMENT='x CHARACTER SET swe7'", b"ab", "0x6162"),
            ("CHARSET=latin1", b"", ""),
        ] {
            let literal = if cell.is_empty() { "''" } else { literal };
            assert_eq!(written(options, &["text"], cell).unwrap(), format!("({literal})"), "{options}");
        }
    }

    #[test]
    fn a_row_of_another_shape_is_refused() {
        for row in [b"1".as_slice(), b"1\t2\t3", b"1\t2 OR 1", b"\t1", b"0x1\t1"] {
            assert_eq!(written("", &["int", "int"], row).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(written("", &["json"], b"{}").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_comment_cannot_be_left() {
        let mut out = Vec::new();
        comment("a\nDROP DATABASE x;\r\ny", &mut out);
        assert!(String::from_utf8(out).unwrap().lines().all(|line| line.starts_with("-- ")));
    }
}
