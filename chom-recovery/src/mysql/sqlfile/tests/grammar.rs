//! Random dumps whose contents are known: every kind of quote, comment, literal, delimiter and character set, in any mixture,
//! handed over in slices of any length. What is read is what was written, and no part of a dump passes for the whole.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use proptest::prelude::*;

use super::{super::Insert, Contents, Kind, Limits, Object, Piece, Reader, Splitter, Token, joined};

/// How texts and names are written.
#[derive(Debug, Clone, Copy)]
struct Style {
    /// What `SET NAMES` says.
    charset: &'static str,
    no_backslash_escapes: bool,
    ansi_quotes: bool,
}

#[derive(Debug, Clone)]
enum Value {
    Null,
    Number(i64),
    Float(f32),
    Hex(Vec<u8>),
    /// Characters, of which one above 0x7f may have a second byte.
    Text(Vec<(u8, u8)>),
    Binary(Vec<(u8, u8)>),
}

#[derive(Debug, Clone)]
struct Table {
    name: String,
    rows: Vec<Vec<Value>>,
    /// Rows of one INSERT.
    together: usize,
    has_trigger: bool,
    comment: Vec<(u8, u8)>,
}

#[derive(Debug, Clone)]
struct Dump {
    style: Style,
    /// Between two rows.
    comma: &'static str,
    delimiter: &'static str,
    between: Vec<&'static str>,
    schemas: Vec<Vec<Table>>,
}

impl Style {
    /// Writes a character; one of two bytes ends in whatever is special elsewhere.
    fn character(self, (first, second): (u8, u8), quote: u8, out: &mut Vec<u8>) {
        const TRAILS: &[u8] = b"\\`@|~A";
        let is_wide = self.charset != "utf8mb4" && first >= 0x80;
        if is_wide {
            // Leads of all three character sets.
            out.extend([0xa1 + first % 0x3f % 0x1e, TRAILS[usize::from(second) % TRAILS.len()]]);
            if self.charset == "cp932" {
                let lead = out.len() - 2;
                out[lead] = 0x81 + first % 0x1e;
            }
            return;
        }
        match first {
            b if b == quote => {
                out.extend(if self.no_backslash_escapes || second % 2 == 0 { [b, b] } else { [b'\\', b] });
            }
            _ if self.no_backslash_escapes => out.push(first),
            b'\\' => out.extend(b"\\\\"),
            0 => out.extend(b"\\0"),
            b'\n' => out.extend(b"\\n"),
            0x1a => out.extend(b"\\Z"),
            b => out.push(b),
        }
    }

    fn text(self, characters: &[(u8, u8)]) -> Vec<u8> {
        let mut out = vec![b'\''];
        for one in characters {
            self.character(*one, b'\'', &mut out);
        }
        out.push(b'\'');
        out
    }

    fn name(self, name: &str) -> String {
        let quote = if self.ansi_quotes { '"' } else { '`' };
        format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
    }

    fn value(self, value: &Value) -> Vec<u8> {
        match value {
            Value::Null => b"NULL".to_vec(),
            Value::Number(number) => number.to_string().into_bytes(),
            Value::Float(number) => format!("{number:e}").into_bytes(),
            Value::Hex(bytes) => bytes.iter().fold("0x".to_owned(), |text, b| format!("{text}{b:02X}")).into_bytes(),
            Value::Text(characters) => self.text(characters),
            Value::Binary(characters) => [b"_binary ".to_vec(), self.text(characters)].concat(),
        }
    }

    fn row(self, row: &[Value]) -> Vec<u8> {
        let values: Vec<_> = row.iter().map(|value| self.value(value)).collect();
        [&b"("[..], &values.join(&b","[..]), b")"].concat()
    }
}

impl Dump {
    /// Writes it, up to and without its trailer.
    fn body(&self) -> Vec<u8> {
        let (style, mut out) = (self.style, Vec::new());
        let mut between = self.between.iter().cycle();
        let mut line = |out: &mut Vec<u8>, parts: &[&[u8]]| {
            out.extend(between.next().unwrap_or(&"").as_bytes());
            out.extend(parts.concat());
        };
        line(&mut out, &[b"-- MySQL dump 10.13  Distrib 9.7.0, for Linux (x86_64)\n-- Server version\t9.7.0\n"]);
        line(&mut out, &[format!("/*!40101 SET NAMES {} */;\n", style.charset).as_bytes()]);
        let mut modes = vec!["NO_AUTO_VALUE_ON_ZERO"];
        modes.extend(style.no_backslash_escapes.then_some("NO_BACKSLASH_ESCAPES"));
        modes.extend(style.ansi_quotes.then_some("ANSI_QUOTES"));
        line(&mut out, &[format!("SET SQL_MODE='{}';\n", modes.join(",")).as_bytes()]);
        for (number, tables) in self.schemas.iter().enumerate() {
            line(&mut out, &[format!("CREATE DATABASE /*!32312 IF NOT EXISTS*/ {};\n", schema(number)).as_bytes()]);
            line(&mut out, &[format!("USE {};\n", schema(number)).as_bytes()]);
            for table in tables {
                self.table(table, &mut out, &mut line);
            }
        }
        out
    }

    fn table(&self, table: &Table, out: &mut Vec<u8>, line: &mut dyn FnMut(&mut Vec<u8>, &[&[u8]])) {
        let (style, name) = (self.style, self.style.name(&table.name));
        line(out, &[b"DROP TABLE IF EXISTS ", name.as_bytes(), b";\n"]);
        let column = [&b" (\n  a int COMMENT "[..], &style.text(&table.comment), b"\n) ENGINE=InnoDB;\n"].concat();
        line(out, &[b"CREATE TABLE ", name.as_bytes(), &column]);
        for rows in table.rows.chunks(table.together) {
            let rows: Vec<_> = rows.iter().map(|row| style.row(row)).collect();
            line(out, &[b"INSERT INTO ", name.as_bytes(), b" VALUES ", &rows.join(self.comma.as_bytes()), b";\n"]);
        }
        if table.has_trigger {
            let (end, text) = (self.delimiter.as_bytes(), style.text(&table.comment));
            line(
                out,
                &[b"DELIMITER ", end, b"\n/*!50003 CREATE*/ /*!50017 DEFINER=root@localhost*/ /*!50003 TRIGGER "],
            );
            let trigger = style.name(&format!("{} fires", table.name));
            out.extend([trigger.as_bytes(), b" BEFORE INSERT ON ", name.as_bytes()].concat());
            out.extend([&b" FOR EACH ROW BEGIN SET @a = "[..], &text, b"; -- it's\n"].concat());
            // `*///` would end in the comment's own slash.
            out.extend([&b"# `\nSET @b = 1; /* ; ' */ END */ "[..], end, b"\nDELIMITER ;\n"].concat());
        }
    }
}

fn schema(number: usize) -> String {
    format!("`s{number}`")
}

const TRAILER: &str = "-- Dump completed on 2026-01-02  3:04:05\n";

/// Gives slices of these lengths, again and again.
struct Slices<'a>(&'a [u8], &'a [usize], usize);

impl Read for Slices<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.len().min(self.1[self.2 % self.1.len()]).min(buffer.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        (self.0, self.2) = (&self.0[n..], self.2 + 1);
        Ok(n)
    }
}

fn read(text: &[u8], slices: &[usize], split: usize) -> (Contents, Vec<Piece>) {
    let (mut reader, mut pieces) = (Reader::default(), Vec::new());
    let mut splitter = Splitter::new(Slices(text, slices, 0), Limits { split, ..Limits::default() });
    loop {
        match splitter.next_piece() {
            Ok(Some(piece)) => {
                reader.piece(&piece);
                pieces.push(piece);
            }
            Ok(None) => break,
            Err(error) => {
                reader.failed(splitter.offset(), error.message().to_owned());
                break;
            }
        }
    }
    (reader.finish(), pieces)
}

fn value() -> impl Strategy<Value = Value> {
    let special = prop::sample::select(b"'\"`\\;,()-#/*\n\0\x1a@".to_vec());
    let character = (prop_oneof![2 => special, 1 => any::<u8>()], any::<u8>());
    let text = prop::collection::vec(character, 0..12);
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Number),
        any::<f32>().prop_filter("a number", |f| f.is_finite()).prop_map(Value::Float),
        prop::collection::vec(any::<u8>(), 1..8).prop_map(Value::Hex),
        text.clone().prop_map(Value::Text),
        text.prop_map(Value::Binary),
    ]
}

fn table() -> impl Strategy<Value = Table> {
    let comment = prop::collection::vec((prop::sample::select(b"';,\n\\`x".to_vec()), any::<u8>()), 0..6);
    let rows = prop::collection::vec(prop::collection::vec(value(), 1..4), 0..8);
    ("[a-zA-Z_ ;'\"`#/*-]{1,10}", rows, 1_usize..5, any::<bool>(), comment)
        .prop_map(|(name, rows, together, has_trigger, comment)| Table { name, rows, together, has_trigger, comment })
}

fn dump() -> impl Strategy<Value = Dump> {
    let charset = prop::sample::select(vec!["utf8mb4", "utf8mb4", "gbk", "cp932", "big5"]);
    let style = (charset, any::<bool>(), any::<bool>())
        .prop_map(|(charset, no_backslash_escapes, ansi_quotes)| Style { charset, no_backslash_escapes, ansi_quotes });
    let between = [
        "",
        "\n\n",
        "-- it's; `a\n",
        "--\n",
        "# \" ;\n",
        "/* ' ; DELIMITER $$ */\n",
        "/*!40000 ALTER TABLE a DISABLE KEYS */;\n",
        "\r\n",
        "UNLOCK TABLES;\n",
        ";\n",
    ];
    (
        style,
        prop::sample::select(vec![",", ",\n", " , "]),
        prop::sample::select(vec![";;", "$$", "//", "END_OF"]),
        prop::collection::vec(prop::sample::select(between.to_vec()), 1..6),
        prop::collection::vec(prop::collection::vec(table(), 0..4), 1..3),
    )
        .prop_map(|(style, comma, delimiter, between, mut schemas)| {
            // No name twice in a schema.
            for tables in &mut schemas {
                for (number, table) in tables.iter_mut().enumerate() {
                    table.name.push_str(&number.to_string());
                }
            }
            Dump { style, comma, delimiter, between, schemas }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read_and_a_part_is_never_the_whole(
        dump in dump(),
        slices in prop::collection::vec(1_usize..200, 1..6),
        split in 1_usize..120,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        let body = dump.body();
        let text = [&body[..], TRAILER.as_bytes()].concat();
        let (found, pieces) = read(&text, &slices, split);
        prop_assert!(found.is_sound(), "{:?}\n{}", found.problems, text.escape_ascii());
        prop_assert_eq!(joined(&pieces), text.clone());
        let mut rows: BTreeMap<(String, String), Vec<Vec<u8>>> = BTreeMap::new();
        let mut current = String::new();
        for piece in &pieces {
            match &piece.token {
                Token::Statement(Kind::Use(schema)) => current.clone_from(schema),
                Token::Statement(Kind::Insert(Insert { table, has_expressions, .. })) => {
                    prop_assert!(!has_expressions, "{}", piece.text().escape_ascii());
                    let of = (current.clone(), table.name.clone());
                    rows.entry(of).or_default().push(piece.insert().1.trim_ascii().to_vec());
                }
                _ => {}
            }
        }
        for (number, tables) in dump.schemas.iter().enumerate() {
            let schema = format!("s{number}");
            prop_assert_eq!(found.tables.get(&schema).map_or(0, BTreeMap::len), tables.len());
            for table in tables {
                let held = &found.tables[&schema][&table.name];
                prop_assert_eq!(held.rows, table.rows.len() as u64);
                prop_assert!(held.definition.is_some() && !held.is_lenient && !held.has_expressions);
                let trigger = (Object::Trigger, schema.clone(), format!("{} fires", table.name));
                prop_assert_eq!(found.objects.contains(&trigger), table.has_trigger);
                let is_of_table = found.trigger_tables.get(&schema).and_then(|of| of.get(&trigger.2));
                prop_assert_eq!(is_of_table, table.has_trigger.then_some(&table.name));
                let read = rows.remove(&(schema.clone(), table.name.clone())).unwrap_or_default();
                let written: Vec<_> = table.rows.iter().map(|row| dump.style.row(row)).collect();
                let comma = dump.comma.as_bytes();
                prop_assert_eq!(read.join(comma).escape_ascii().to_string(), written.join(comma).escape_ascii().to_string());
            }
        }
        prop_assert!(rows.is_empty(), "rows of no table: {:?}", rows);
        let whole = body.len() + "-- Dump completed".len();
        for cut in cuts {
            let length = cut.index(whole);
            let (part, _) = read(&text[..length], &slices, split);
            prop_assert!(!part.is_sound(), "{length} of {} bytes: {}", text.len(), text[..length].escape_ascii());
        }
    }
}
