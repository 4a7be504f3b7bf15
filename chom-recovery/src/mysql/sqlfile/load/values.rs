//! Turns the rows of an INSERT into the text that `LOAD DATA` reads, where both mean the same.
//!
//! A server spends most of the time of a long INSERT on parsing its values. What is turned here is only what is the
//! same value either way: each form of literal is taken for the types that store it alike, and anything else makes the
//! caller run the INSERT as it stands.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::mysql::quote;

/// How the texts of one column are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// A whole number.
    Whole,
    /// A number with a point.
    Decimal,
    /// A number with a point and an exponent.
    Float,
    /// Four digits: fewer would be read as a year of this age as text, and not as a number.
    Year,
    /// A date or time.
    Time,
    /// Text whose bytes are those that are stored.
    Text,
    /// Text that the server converts.
    Converted,
    /// Bytes.
    Bytes,
}

impl Take {
    /// Chooses by type and character set of a column.
    pub(super) fn of(data_type: &str, charset: Option<&str>) -> Option<Self> {
        Some(match data_type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Self::Whole,
            "decimal" => Self::Decimal,
            "float" | "double" => Self::Float,
            "year" => Self::Year,
            "date" | "time" | "datetime" | "timestamp" => Self::Time,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                let is_same = charset.is_some_and(|c| matches!(c, "utf8mb4" | "utf8mb3" | "utf8"));
                if is_same { Self::Text } else { Self::Converted }
            }
            "enum" | "set" | "json" | "uuid" | "inet4" | "inet6" => Self::Converted,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "bit" | "vector"
            | "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geometrycollection" | "geomcollection" => Self::Bytes,
            _ => return None,
        })
    }
}

/// How the rows of one kind of INSERT into one table are turned.
#[derive(Debug)]
pub(super) struct Plan {
    statement: String,
    takes: Vec<Take>,
    /// Whether characters of four bytes are unknown to the session.
    is_three_bytes: bool,
    refused: AtomicU32,
}

/// Batches that may turn out not to be turnable before no more are tried.
const TRIES: u32 = 3;

impl Plan {
    /// Plans for columns, in the order of an INSERT. `charset` is that of the session: utf8mb4 or utf8mb3.
    pub(super) fn new(schema: &str, table: &str, columns: &[(String, Take)], charset: &str) -> Self {
        let (mut targets, mut sets) = (Vec::new(), Vec::new());
        for (i, (name, take)) in columns.iter().enumerate() {
            if *take == Take::Converted {
                targets.push(format!("@chom_c{i}"));
                sets.push(format!("{} = CONVERT(@chom_c{i} USING {charset})", quote::ident(name)));
            } else {
                targets.push(quote::ident(name));
            }
        }
        let set = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
        let statement = format!(
            "LOAD DATA LOCAL INFILE 'rows' INTO TABLE {} CHARACTER SET binary FIELDS TERMINATED BY '\\t' \
             ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({}){set}",
            quote::qualified(schema, table),
            targets.join(", ")
        );
        Self {
            statement,
            takes: columns.iter().map(|(_, take)| *take).collect(),
            is_three_bytes: charset != "utf8mb4",
            refused: AtomicU32::new(0),
        }
    }

    /// The statement that reads turned rows.
    pub(super) fn statement(&self) -> &str {
        &self.statement
    }

    /// Tells whether it is still worth the try.
    pub(super) fn is_promising(&self) -> bool {
        self.refused.load(Ordering::Relaxed) < TRIES
    }

    /// Notes that rows had to be inserted after all.
    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Appends the rows of `values`, the text behind `VALUES`. `None`: they cannot be turned; `out` is of no use then.
    pub(super) fn turn(&self, values: &[u8], out: &mut Vec<u8>) -> Option<u64> {
        let mut from = Reader { text: values, at: 0 };
        let mut rows = 0;
        loop {
            from.blanks();
            from.take(b'(')?;
            for (i, take) in self.takes.iter().enumerate() {
                if i > 0 {
                    from.blanks();
                    from.take(b',')?;
                    out.push(b'\t');
                }
                from.blanks();
                self.value(&mut from, *take, out)?;
            }
            from.blanks();
            from.take(b')')?;
            out.push(b'\n');
            rows += 1;
            from.blanks();
            if from.at == values.len() {
                return Some(rows);
            }
            from.take(b',')?;
        }
    }

    fn value(&self, from: &mut Reader<'_>, take: Take, out: &mut Vec<u8>) -> Option<()> {
        let begin = out.len();
        match *from.rest().first()? {
            b'\'' => {
                from.quoted(out)?;
                let text = &out[begin..];
                match take {
                    Take::Text | Take::Converted => {
                        // Escapes are of single bytes below 0x80 and change nothing about that.
                        let is_valid = text.is_ascii() || std::str::from_utf8(text).is_ok();
                        let is_known = !self.is_three_bytes || text.iter().all(|b| *b < 0xf0);
                        (is_valid && is_known).then_some(())
                    }
                    Take::Year => is_year(text).then_some(()),
                    Take::Whole | Take::Decimal | Take::Float | Take::Time => text.is_ascii().then_some(()),
                    Take::Bytes => Some(()),
                }
            }
            b'N' if from.word(b"NULL") => {
                out.extend_from_slice(b"\\N");
                Some(())
            }
            b'_' if take == Take::Bytes && from.word(b"_binary") => {
                from.blanks();
                from.quoted(out)
            }
            b'0' if take == Take::Bytes && from.rest().starts_with(b"0x") => {
                from.at += 2;
                from.hex(out)
            }
            b'x' | b'X' if take == Take::Bytes && from.rest().get(1) == Some(&b'\'') => {
                from.at += 2;
                from.hex(out)?;
                from.take(b'\'')
            }
            _ => {
                let number = from.number();
                let is_fit = match take {
                    Take::Whole => is_whole(number),
                    Take::Decimal => is_whole(number) || is_decimal(number),
                    Take::Float => is_number(number),
                    Take::Year => is_year(number),
                    _ => false,
                };
                out.extend_from_slice(number);
                is_fit.then_some(())
            }
        }
    }
}

fn is_year(text: &[u8]) -> bool {
    text.len() == 4 && text.iter().all(u8::is_ascii_digit) && text != b"0000"
}

fn unsigned(number: &[u8]) -> &[u8] {
    number.strip_prefix(b"-").unwrap_or(number)
}

fn is_whole(number: &[u8]) -> bool {
    let digits = unsigned(number);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn is_decimal(number: &[u8]) -> bool {
    let mut halves = unsigned(number).splitn(2, |b| *b == b'.');
    let is_half = |half: Option<&[u8]>| half.is_some_and(is_whole_unsigned);
    is_half(halves.next()) && is_half(halves.next())
}

fn is_whole_unsigned(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

fn is_number(number: &[u8]) -> bool {
    let mut halves = number.splitn(2, |b| matches!(b, b'e' | b'E'));
    let is_base = halves.next().is_some_and(|base| is_whole(base) || is_decimal(base));
    is_base && halves.next().is_none_or(|power| is_whole(power.strip_prefix(b"+").unwrap_or(power)))
}

/// Reads literals.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().iter().take_while(|b| b.is_ascii_whitespace()).count();
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.rest().first() == Some(&byte)).then(|| self.at += 1)
    }

    /// Takes a word that is followed by none of its own kind.
    fn word(&mut self, word: &[u8]) -> bool {
        let rest = self.rest();
        let is = rest.starts_with(word) && rest.get(word.len()).is_none_or(|b| !super::super::tokens::is_word(*b));
        self.at += if is { word.len() } else { 0 };
        is
    }

    fn number(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let is_part = |b: &&u8| b.is_ascii_digit() || matches!(**b, b'-' | b'+' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(is_part).count();
        self.at += length;
        &rest[..length]
    }

    fn hex(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let rest = self.rest();
        let length = rest.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        // An odd number of digits and a letter behind them mean something else.
        if length % 2 == 1 || rest.get(length).is_some_and(|b| super::super::tokens::is_word(*b)) {
            return None;
        }
        let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
        for pair in rest[..length].chunks_exact(2) {
            escaped(&[digit(pair[0])? << 4 | digit(pair[1])?], out);
        }
        self.at += length;
        Some(())
    }

    /// Takes a text in single quotes; a second one behind it would belong to it, and is left to the caller to refuse.
    ///
    /// # Source
    /// MySQL 9 manual, "String Literals", table of escapes.
    fn quoted(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.take(b'\'')?;
        loop {
            let rest = self.rest();
            let at = memchr::memchr2(b'\'', b'\\', rest)?;
            escaped(&rest[..at], out);
            let next = rest.get(at + 1).copied();
            match (rest[at], next) {
                (b'\'', Some(b'\'')) => escaped(b"'", out),
                (b'\'', _) => {
                    self.at += at + 1;
                    return Some(());
                }
                (_, Some(b'0')) => escaped(b"\0", out),
                (_, Some(b'b')) => escaped(b"\x08", out),
                (_, Some(b'n')) => escaped(b"\n", out),
                (_, Some(b'r')) => escaped(b"\r", out),
                (_, Some(b't')) => escaped(b"\t", out),
                (_, Some(b'Z')) => escaped(b"\x1a", out),
                (_, Some(sign @ (b'%' | b'_'))) => escaped(&[b'\\', sign], out),
                (_, Some(other)) => escaped(&[other], out),
                (_, None) => return None,
            }
            self.at += at + 2;
        }
    }
}

/// Appends bytes of a cell as `LOAD DATA` reads them.
fn escaped(mut bytes: &[u8], out: &mut Vec<u8>) {
    loop {
        let one = memchr::memchr3(b'\\', b'\t', b'\n', bytes);
        let at = match (one, memchr::memchr(0, &bytes[..one.unwrap_or(bytes.len())])) {
            (_, Some(zero)) => zero,
            (Some(at), None) => at,
            (None, None) => break,
        };
        out.extend_from_slice(&bytes[..at]);
        out.extend_from_slice(match bytes[at] {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            _ => b"\\0",
        });
        bytes = &bytes[at + 1..];
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(takes: &[Take], values: &str) -> Option<String> {
        let columns: Vec<_> = takes.iter().enumerate().map(|(i, take)| (format!("c{i}"), *take)).collect();
        let mut out = Vec::new();
        let rows = Plan::new("s", "t", &columns, "utf8mb4").turn(values.as_bytes(), &mut out)?;
        assert_eq!(rows, out.iter().filter(|b| **b == b'\n').count() as u64);
        Some(out.escape_ascii().to_string())
    }

    #[test]
    fn literals_become_cells() {
        use Take::{Bytes, Converted, Decimal, Float, Text, Time, Whole, Year};
        let takes = [Whole, Text, Bytes, Float];
        assert_eq!(turned(&takes, "(1,'a',NULL,-1.5e-3),\n ( -2 , 'it''s' , 0x00ff0A , 3 )").unwrap(), {
            "1\\ta\\t\\\\N\\t-1.5e-3\\n-2\\tit\\'s\\t\\\\0\\xff\\\\n\\t3\\n"
        });
        for (take, value, cell) in [
            (Text, r"'\\ \' \n \t \r \0 \Z \% \q'", r"\\\\ \' \\n \\t \r \\0 \x1a \\\\% q"),
            (Text, "''", ""),
            (Text, r"'\\N'", r"\\\\N"),
            (Converted, "'[1, \"a\"]'", r#"[1, \"a\"]"#),
            (Bytes, r"_binary '\0\\x'", r"\\0\\\\x"),
            (Bytes, "x'2709'", r"\'\\t"),
            (Time, "'2024-01-01'", "2024-01-01"),
            (Year, "2024", "2024"),
            (Decimal, "12345678901234567890.10", "12345678901234567890.10"),
            (Whole, "18446744073709551615", "18446744073709551615"),
        ] {
            assert_eq!(turned(&[take], &format!("({value})")), Some(format!("{cell}\\n")), "{value}");
        }
    }

    #[test]
    fn what_may_mean_something_else_is_not_turned() {
        use Take::{Bytes, Converted, Decimal, Text, Whole, Year};
        for (take, value) in [
            (Year, "0"),
            (Year, "'0000'"),
            (Year, "24"),
            (Whole, "1.5"),
            (Whole, "1+1"),
            (Whole, "0x10"),
            (Decimal, "1e5"),
            (Text, "1"),
            (Text, "_binary 'x'"),
            (Text, "'a' 'b'"),
            (Text, "CONCAT('a')"),
            (Text, "DEFAULT"),
            (Text, "NULLX"),
            (Text, "'a' /* b */"),
            (Converted, "1"),
            (Bytes, "0x123"),
            (Bytes, "b'101'"),
            (Bytes, "5"),
            (Text, "'a"),
            (Text, "'a\\"),
        ] {
            assert_eq!(turned(&[take], &format!("({value})")), None, "{value}");
        }
        for values in ["(1,2)", "(1)(2)", "(1),", "", "(1) ON DUPLICATE KEY UPDATE a = 1"] {
            assert_eq!(turned(&[Whole], values), None, "{values}");
        }
        let columns = [("a".to_owned(), Text)];
        let four = "('\u{1f600}')".as_bytes();
        assert!(Plan::new("s", "t", &columns, "utf8mb3").turn(four, &mut Vec::new()).is_none());
        assert!(Plan::new("s", "t", &columns, "utf8mb4").turn(four, &mut Vec::new()).is_some());
        assert!(Plan::new("s", "t", &columns, "utf8mb4").turn(b"('\xff')", &mut Vec::new()).is_none());
    }
}
