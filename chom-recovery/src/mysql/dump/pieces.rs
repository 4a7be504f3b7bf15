//! Cuts tables into pieces that several connections read at once.
//!
//! A dense integer key is cut by arithmetic. Any other key is walked: the key of the row that is a piece's length further on
//! is where the next piece begins, and is looked for by the connection that is free, while others read.

use std::collections::BTreeMap;

use super::{
    Options,
    key::{Key, Range},
};
use crate::{
    error::Result,
    mysql::{
        objects::{Table, TableData},
        quote,
        wire::Wire,
    },
};

/// Least rows of a piece that is walked to: one more statement costs more than to read them.
const LEAST_ROWS: u64 = 1000;

/// What one connection reads in one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Piece {
    /// Place of the table in the definitions.
    pub(super) table: usize,
    /// Rows; `None`: all of them.
    pub(super) range: Option<Range>,
}

/// A table whose rest is to be cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Walk {
    /// Place of the table in the definitions.
    pub(super) table: usize,
    key: Key,
    /// Where the rest begins.
    from: Option<Vec<String>>,
    /// Rows of a piece.
    rows: u64,
}

/// What a connection does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) enum Job {
    /// Reads a piece.
    Read(Piece),
    /// Cuts a piece off, and reads it.
    Walk(Walk),
}

impl Job {
    pub(super) fn table(&self) -> usize {
        match self {
            Self::Read(piece) => piece.table,
            Self::Walk(walk) => walk.table,
        }
    }
}

impl Walk {
    /// Cuts the next piece off; the rest, where there is one, is left to be cut.
    pub(super) async fn step(self, reader: &mut Wire, table: &Table) -> Result<(Piece, Option<Self>)> {
        let begin = self.from.clone().map(|from| Range::new(&self.key, Some(from), None));
        let columns = self.key.columns();
        let sql = format!(
            "SELECT {columns} FROM {} FORCE INDEX (PRIMARY){} ORDER BY {columns} LIMIT 1 OFFSET {}",
            quote::qualified(&table.schema, &table.name),
            begin.map(|range| range.filter()).unwrap_or_default(),
            self.rows
        );
        let to = reader.row(sql).await?.and_then(|row| self.key.literals(&row));
        let range = Range::new(&self.key, self.from.clone(), to.clone());
        let piece = Piece { table: self.table, range: range.is_bounded().then_some(range) };
        Ok((piece, to.map(|to| Self { from: Some(to), ..self })))
    }
}

/// What the server tells of a table's rows.
#[derive(Debug, Default)]
pub(in crate::mysql) struct Facts {
    bytes: u64,
    rows: u64,
    /// Primary key.
    pub(in crate::mysql) key: Key,
}

/// Cuts tables by their primary key, the largest pieces first, so that no connection is left with a large one at the end.
/// Rows of a table without a primary key are read by one connection.
pub(in crate::mysql) async fn plan(reader: &mut Wire, tables: &[Table], options: &Options) -> Result<Vec<Job>> {
    let mut facts = facts(reader).await?;
    let mut jobs = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        if table.data == TableData::None {
            continue;
        }
        let known = facts.remove(&(table.schema.clone(), table.name.clone())).unwrap_or_default();
        let wanted = if options.connections > 1 { known.bytes.div_ceil(options.piece_bytes.max(1)) } else { 1 };
        let whole = |bytes| (bytes, Job::Read(Piece { table: index, range: None }));
        if wanted <= 1 {
            jobs.push(whole(known.bytes));
            continue;
        }
        let ends = ends(reader, table, &known.key).await?;
        // Where ids have large gaps, or few values, ranges of even width hold very different numbers of rows.
        let is_even = |(least, greatest): (i128, i128)| {
            let width = greatest - least + 1;
            width >= i128::from(wanted) * 8 && width <= i128::from(known.rows) * 4
        };
        let can_walk = known.key.can_be_walked() && !table.history;
        let ranges = match ends {
            Some((least, greatest)) if is_even((least, greatest)) || !can_walk => {
                cut(&known.key.first(), least, greatest, wanted)
            }
            _ => Vec::new(),
        };
        if !ranges.is_empty() {
            let share = known.bytes / ranges.len() as u64;
            jobs.extend(ranges.into_iter().map(|range| (share, Job::Read(Piece { table: index, range: Some(range) }))));
        } else if can_walk {
            let rows = (known.rows / wanted).max(LEAST_ROWS);
            jobs.push((known.bytes, Job::Walk(Walk { table: index, key: known.key, from: None, rows })));
        } else {
            jobs.push(whole(known.bytes));
        }
    }
    jobs.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    Ok(jobs.into_iter().map(|(_, job)| job).collect())
}

pub(in crate::mysql) async fn facts(reader: &mut Wire) -> Result<BTreeMap<(String, String), Facts>> {
    let system = quote::system_schemas();
    let mut facts = BTreeMap::<_, Facts>::new();
    let sizes = format!(
        "SELECT TABLE_SCHEMA, TABLE_NAME, COALESCE(DATA_LENGTH, 0), COALESCE(TABLE_ROWS, 0) FROM information_schema.TABLES \
         WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND TABLE_SCHEMA NOT IN ({system})"
    );
    for row in reader.rows(sizes).await? {
        let (bytes, rows) = (row.number(2)?.unwrap_or_default(), row.number(3)?.unwrap_or_default());
        facts.insert((row.text(0)?, row.text(1)?), Facts { bytes, rows, key: Key::default() });
    }
    let keys = format!(
        "SELECT s.TABLE_SCHEMA, s.TABLE_NAME, s.COLUMN_NAME, c.DATA_TYPE, c.CHARACTER_SET_NAME, \
         s.SUB_PART IS NULL AND COALESCE(s.COLLATION, '') = 'A' FROM information_schema.STATISTICS s \
         JOIN information_schema.COLUMNS c ON c.TABLE_SCHEMA = s.TABLE_SCHEMA AND c.TABLE_NAME = s.TABLE_NAME \
         AND c.COLUMN_NAME = s.COLUMN_NAME WHERE s.INDEX_NAME = 'PRIMARY' AND s.TABLE_SCHEMA NOT IN ({system}) \
         ORDER BY s.TABLE_SCHEMA, s.TABLE_NAME, s.SEQ_IN_INDEX"
    );
    for row in reader.rows(keys).await? {
        if let Some(facts) = facts.get_mut(&(row.text(0)?, row.text(1)?)) {
            let (name, kind, charset) = (row.text(2)?, row.text(3)?.to_ascii_lowercase(), row.optional(4)?);
            facts.key.push(name, &kind, charset, row.number(5)? == Some(1));
        }
    }
    Ok(facts)
}

/// Reads the least and the greatest value of a key's first column, where that is an integer.
async fn ends(reader: &mut Wire, table: &Table, key: &Key) -> Result<Option<(i128, i128)>> {
    if !key.begins_with_integer() {
        return Ok(None);
    }
    let name = quote::qualified(&table.schema, &table.name);
    let history = if table.history { " FOR SYSTEM_TIME ALL" } else { "" };
    let column = key.first().columns();
    let ends = reader.row(format!("SELECT MIN({column}), MAX({column}) FROM {name}{history}")).await?;
    let Some(ends) = ends else { return Ok(None) };
    let number = |index| ends.optional(index).map(|text| text.and_then(|text| text.parse::<i128>().ok()));
    Ok(number(0)?.zip(number(1)?))
}

/// Cuts a table in `wanted` ranges of even width. The first range has no lower end and the last no upper one: every row is
/// in exactly one.
fn cut(key: &Key, least: i128, greatest: i128, wanted: u64) -> Vec<Range> {
    let width = greatest - least + 1;
    let count = i128::from(wanted).min(width);
    if count < 2 {
        return Vec::new();
    }
    let begin = |nth: i128| vec![(least + width * nth / count).to_string()];
    (0..count)
        .map(|nth| Range::new(key, (nth > 0).then(|| begin(nth)), (nth + 1 < count).then(|| begin(nth + 1))))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn integer(name: &str) -> Key {
        let mut key = Key::default();
        key.push(name.into(), "bigint", None, true);
        key
    }

    /// Ends of a range as numbers.
    fn ends(range: &Range) -> (Option<i128>, Option<i128>) {
        let number = |end: Option<&[String]>| end.map(|end| end[0].parse::<i128>().unwrap());
        (number(range.from()), number(range.to()))
    }

    proptest! {
        #[test]
        fn every_key_is_in_one_range(least in -1_000_i128..1_000, width in 1_i128..2_000, wanted in 2_u64..40) {
            let ranges: Vec<_> = cut(&integer("id"), least, least + width - 1, wanted).iter().map(ends).collect();
            for key in least - 2..least + width + 2 {
                let holds = |(from, to): &&(Option<i128>, Option<i128>)| from.is_none_or(|from| key >= from) && to.is_none_or(|to| key < to);
                prop_assert!(ranges.is_empty() || ranges.iter().filter(holds).count() == 1, "{key}");
            }
            prop_assert!(ranges.len() as u64 <= wanted);
        }
    }

    #[test]
    fn keys_of_the_whole_width_of_a_bigint_are_cut() {
        let ranges = cut(&integer("id"), i128::from(i64::MIN), i128::from(u64::MAX), 3);
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges[2].to(), None);
        assert_eq!(cut(&integer("id"), 7, 7, 5), []);
    }
}
