//! Cuts tables into pieces that several connections read at once.

use std::collections::BTreeMap;

use super::Options;
use crate::{
    error::Result,
    mysql::{
        objects::{Table, TableData},
        quote,
        wire::Wire,
    },
};

/// What one connection reads in one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Piece {
    /// Place of the table in the definitions.
    pub(in crate::mysql) table: usize,
    /// Condition on its rows; `None`: all of them.
    pub(in crate::mysql) range: Option<Range>,
    /// Bytes of the rows, as the server estimates them.
    bytes: u64,
}

/// Rows of a table: those whose key is at least `from` and below `to`, where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Range {
    key: String,
    from: Option<i128>,
    to: Option<i128>,
}

impl Range {
    /// Writes what follows the table's name in a query.
    pub(in crate::mysql) fn condition(&self) -> String {
        let key = quote::ident(&self.key);
        let from = self.from.map(|from| format!("{key} >= {from}"));
        let to = self.to.map(|to| format!("{key} < {to}"));
        let conditions: Vec<String> = from.into_iter().chain(to).collect();
        // Whatever the statistics say: a scan of the whole table for each range would be the worst way to read it.
        format!(" FORCE INDEX (PRIMARY) WHERE {}", conditions.join(" AND "))
    }
}

/// What the server tells of a table's rows.
struct Facts {
    bytes: u64,
    /// First column of the primary key.
    key: Option<String>,
}

/// Cuts tables by their primary key, the largest pieces first, so that no connection is left with a large one at the end.
pub(in crate::mysql) async fn plan(reader: &mut Wire, tables: &[Table], options: &Options) -> Result<Vec<Piece>> {
    let facts = facts(reader).await?;
    let mut pieces = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        if table.data == TableData::None {
            continue;
        }
        let known = facts.get(&(table.schema.clone(), table.name.clone()));
        let bytes = known.map_or(0, |facts| facts.bytes);
        let wanted = if options.connections > 1 { bytes.div_ceil(options.piece_bytes.max(1)) } else { 1 };
        let key = known.and_then(|facts| facts.key.clone()).filter(|key| is_integer(table, key));
        let ranges = match key {
            Some(key) if wanted > 1 => ranges(reader, table, key, wanted).await?,
            _ => Vec::new(),
        };
        if ranges.is_empty() {
            pieces.push(Piece { table: index, range: None, bytes });
            continue;
        }
        let share = bytes / ranges.len() as u64;
        pieces.extend(ranges.into_iter().map(|range| Piece { table: index, range: Some(range), bytes: share }));
    }
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.bytes));
    Ok(pieces)
}

async fn facts(reader: &mut Wire) -> Result<BTreeMap<(String, String), Facts>> {
    let sql = format!(
        "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, COALESCE(t.DATA_LENGTH, 0), s.COLUMN_NAME FROM information_schema.TABLES t \
         LEFT JOIN information_schema.STATISTICS s ON s.TABLE_SCHEMA = t.TABLE_SCHEMA AND s.TABLE_NAME = t.TABLE_NAME \
         AND s.INDEX_NAME = 'PRIMARY' AND s.SEQ_IN_INDEX = 1 \
         WHERE t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND t.TABLE_SCHEMA NOT IN ({})",
        quote::system_schemas()
    );
    let mut facts = BTreeMap::new();
    for row in reader.rows(sql).await? {
        let fact = Facts { bytes: row.number(2)?.unwrap_or_default(), key: row.optional(3)? };
        facts.insert((row.text(0)?, row.text(1)?), fact);
    }
    Ok(facts)
}

fn is_integer(table: &Table, key: &str) -> bool {
    let integers = ["tinyint", "smallint", "mediumint", "int", "bigint"];
    table.columns.iter().any(|column| column.name == key && integers.contains(&column.data_type.as_str()))
}

/// Cuts a table in `wanted` ranges of even width, as the snapshot sees it. Where keys have gaps, some hold fewer rows.
async fn ranges(reader: &mut Wire, table: &Table, key: String, wanted: u64) -> Result<Vec<Range>> {
    let name = quote::qualified(&table.schema, &table.name);
    let history = if table.history { " FOR SYSTEM_TIME ALL" } else { "" };
    let column = quote::ident(&key);
    let ends = reader.row(format!("SELECT MIN({column}), MAX({column}) FROM {name}{history}")).await?;
    let Some(ends) = ends else { return Ok(Vec::new()) };
    let number = |index| ends.optional(index).map(|text| text.and_then(|text| text.parse::<i128>().ok()));
    let (Some(least), Some(greatest)) = (number(0)?, number(1)?) else { return Ok(Vec::new()) };
    Ok(cut(&key, least, greatest, wanted))
}

/// The first range has no lower end and the last no upper one: every row is in exactly one.
fn cut(key: &str, least: i128, greatest: i128, wanted: u64) -> Vec<Range> {
    let width = greatest - least + 1;
    let count = i128::from(wanted).min(width);
    if count < 2 {
        return Vec::new();
    }
    let begin = |nth: i128| least + width * nth / count;
    (0..count)
        .map(|nth| Range {
            key: key.to_owned(),
            from: (nth > 0).then(|| begin(nth)),
            to: (nth + 1 < count).then(|| begin(nth + 1)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_key_is_in_one_range(least in -1_000_i128..1_000, width in 1_i128..2_000, wanted in 2_u64..40) {
            let ranges = cut("id", least, least + width - 1, wanted);
            for key in least - 2..least + width + 2 {
                let holds = |range: &&Range| range.from.is_none_or(|from| key >= from) && range.to.is_none_or(|to| key < to);
                prop_assert!(ranges.is_empty() || ranges.iter().filter(holds).count() == 1, "{key}");
            }
            prop_assert!(ranges.len() as u64 <= wanted);
        }
    }

    #[test]
    fn keys_of_the_whole_width_of_a_bigint_are_cut() {
        let ranges = cut("id", i128::from(i64::MIN), i128::from(u64::MAX), 3);
        assert_eq!(ranges.len(), 3);
        assert_eq!(ranges[2].to, None);
        assert_eq!(cut("id", 7, 7, 5), []);
        let condition = cut("a`b", 0, 9, 2)[1].condition();
        assert_eq!(condition, " FORCE INDEX (PRIMARY) WHERE `a``b` >= 5");
    }
}
