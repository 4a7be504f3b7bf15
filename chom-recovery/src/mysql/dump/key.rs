//! Primary keys, and ranges of them as conditions that a server answers from the key alone.

use std::fmt::Write as _;

use crate::mysql::{quote, session::Row};

/// Columns of a primary key, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::mysql) struct Key(Vec<Column>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    name: String,
    kind: Kind,
}

/// How a value is written so that it compares as the column does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Integer,
    Decimal,
    /// Text that compares by the column's collation, as its bytes in the column's character set.
    Text(String),
    Bytes,
    /// Times, and types that are written as quoted text.
    Quoted,
    /// No value of it is written without loss, or the key is not in the order of its values.
    Other,
}

impl Key {
    /// Adds a column. `is_plain`: the key has all of it, in rising order.
    pub(super) fn push(&mut self, name: String, data_type: &str, charset: Option<String>, is_plain: bool) {
        let kind = match (data_type, charset) {
            _ if !is_plain => Kind::Other,
            ("tinyint" | "smallint" | "mediumint" | "int" | "bigint", _) => Kind::Integer,
            ("decimal", _) => Kind::Decimal,
            ("char" | "varchar", Some(charset)) if charset.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Kind::Text(charset)
            }
            ("binary" | "varbinary", _) => Kind::Bytes,
            ("date" | "datetime" | "timestamp" | "time" | "year" | "uuid" | "inet4" | "inet6", _) => Kind::Quoted,
            _ => Kind::Other,
        };
        self.0.push(Column { name, kind });
    }

    /// Tells whether the key of a row can be written in a statement, whatever its value.
    pub(in crate::mysql) fn can_be_walked(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|column| column.kind != Kind::Other)
    }

    pub(in crate::mysql) fn begins_with_integer(&self) -> bool {
        self.0.first().is_some_and(|column| column.kind == Kind::Integer)
    }

    /// The key's first column alone.
    pub(super) fn first(&self) -> Self {
        Self(self.0.iter().take(1).cloned().collect())
    }

    /// Lists the columns for a statement.
    pub(in crate::mysql) fn columns(&self) -> String {
        self.0.iter().map(|column| quote::ident(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// Lists the columns for a statement, in an order of rows.
    pub(in crate::mysql) fn order(&self, is_down: bool) -> String {
        let columns = self.0.iter().map(|column| quote::ident(&column.name) + if is_down { " DESC" } else { "" });
        columns.collect::<Vec<_>>().join(", ")
    }

    /// Finds the columns by their names.
    pub(in crate::mysql) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|column| column.name.as_str())
    }

    /// Writes the key of a row, whose cells are the key's columns.
    pub(super) fn literals(&self, row: &Row) -> Option<Vec<String>> {
        self.literals_of((0..self.0.len()).map(|index| row.bytes(index)))
    }

    /// Writes the key whose values are these.
    pub(in crate::mysql) fn literals_of<'a>(
        &self,
        values: impl Iterator<Item = Option<&'a [u8]>>,
    ) -> Option<Vec<String>> {
        self.0.iter().zip(values).map(|(column, value)| column.literal(value?)).collect()
    }
}

impl Column {
    fn literal(&self, value: &[u8]) -> Option<String> {
        let number = || {
            let is_number = !value.is_empty() && value.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'));
            is_number.then(|| String::from_utf8_lossy(value).into_owned())
        };
        match &self.kind {
            Kind::Integer | Kind::Decimal => number(),
            Kind::Text(charset) => Some(format!("_{charset} X'{}'", hex(value))),
            Kind::Bytes => Some(format!("X'{}'", hex(value))),
            Kind::Quoted => Some(quote::text(std::str::from_utf8(value).ok()?)),
            Kind::Other => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// Rows of a table: those whose key is at least `from`, or above it, and below `to`, where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Range {
    names: Vec<String>,
    from: Option<Vec<String>>,
    /// Whether `from` itself is left out.
    is_after: bool,
    to: Option<Vec<String>>,
}

impl Range {
    /// Makes a range of values as a statement writes them, one for each column of the key.
    pub(in crate::mysql) fn new(key: &Key, from: Option<Vec<String>>, to: Option<Vec<String>>) -> Self {
        Self { names: key.0.iter().map(|column| quote::ident(&column.name)).collect(), from, is_after: false, to }
    }

    /// Makes a range of what lies between two keys, neither of which is in it. Fewer values than the key has columns stand for
    /// all keys that begin so.
    pub(in crate::mysql) fn between(key: &Key, after: Option<Vec<String>>, before: Option<Vec<String>>) -> Self {
        Self { is_after: true, ..Self::new(key, after, before) }
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    #[cfg(test)]
    pub(super) fn from(&self) -> Option<&[String]> {
        self.from.as_deref()
    }

    #[cfg(test)]
    pub(super) fn to(&self) -> Option<&[String]> {
        self.to.as_deref()
    }

    /// Writes what follows the table's name in a query.
    pub(in crate::mysql) fn condition(&self) -> String {
        // Whatever the statistics say: a scan of the whole table for each range would be the worst way to read it.
        format!(" FORCE INDEX (PRIMARY){}", self.filter())
    }

    /// Writes the condition alone.
    pub(super) fn filter(&self) -> String {
        let from = self.from.as_ref().map(|from| self.side(from, '>', if self.is_after { ">" } else { ">=" }));
        let to = self.to.as_ref().map(|to| self.side(to, '<', "<"));
        let conditions: Vec<String> = from.into_iter().chain(to).collect();
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }

    /// Compares the key with values, column by column: servers answer a comparison of rows, `(a, b) >= (1, 2)`, by a scan of
    /// the whole key. The first column stands in front once more, because a range of it is found at once.
    fn side(&self, values: &[String], beyond: char, last: &str) -> String {
        let mut condition = String::new();
        for (nth, (name, value)) in self.names.iter().zip(values).enumerate().rev() {
            condition = if nth + 1 == values.len() {
                format!("{name} {last} {value}")
            } else {
                format!("({name} {beyond} {value} OR {name} = {value} AND {condition})")
            };
        }
        match (self.names.first(), values) {
            (Some(name), [value, _, ..]) => format!("{name} {beyond}= {value} AND {condition}"),
            _ => condition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_several_columns_compare_column_by_column() {
        let mut key = Key::default();
        key.push("a`b".into(), "int", None, true);
        key.push("s".into(), "varchar", Some("utf8mb4".into()), true);
        assert!(key.can_be_walked() && key.begins_with_integer());
        let row = Row::new(&["a".to_owned(), "s".to_owned()].into(), vec![Some(b"-5".to_vec()), Some("é'".into())]);
        let literals = key.literals(&row).unwrap();
        assert_eq!(literals, ["-5", "_utf8mb4 X'c3a927'"]);
        let range = Range::new(&key, Some(literals.clone()), Some(vec!["7".into(), "_utf8mb4 X''".into()]));
        assert_eq!(
            range.condition(),
            " FORCE INDEX (PRIMARY) WHERE `a``b` >= -5 AND (`a``b` > -5 OR `a``b` = -5 AND `s` >= _utf8mb4 X'c3a927') \
             AND `a``b` <= 7 AND (`a``b` < 7 OR `a``b` = 7 AND `s` < _utf8mb4 X'')"
        );
        assert_eq!(Range::new(&key.first(), None, Some(vec!["3".into()])).filter(), " WHERE `a``b` < 3");
        assert!(!Range::new(&key, None, None).is_bounded());
        let between = Range::between(&key, Some(vec!["1".into(), "_utf8mb4 X''".into()]), Some(vec!["9".into()]));
        assert_eq!(
            between.filter(),
            " WHERE `a``b` >= 1 AND (`a``b` > 1 OR `a``b` = 1 AND `s` > _utf8mb4 X'') AND `a``b` < 9"
        );
    }

    #[test]
    fn keys_whose_values_cannot_be_written_or_are_in_another_order_are_not_walked() {
        let walked = |data_type: &str, charset: Option<&str>, is_plain| {
            let mut key = Key::default();
            key.push("k".into(), data_type, charset.map(str::to_owned), is_plain);
            key.can_be_walked()
        };
        assert!(walked("binary", None, true) && walked("uuid", None, true) && walked("datetime", None, true));
        assert!(!walked("float", None, true) && !walked("enum", Some("latin1"), true) && !walked("int", None, false));
        assert!(!Key::default().can_be_walked());
        // What is no number must not come into a statement as one.
        let mut key = Key::default();
        key.push("k".into(), "int", None, true);
        assert_eq!(key.literals(&Row::new(&["k".to_owned()].into(), vec![Some(b"1 OR 1".to_vec())])), None);
    }
}
