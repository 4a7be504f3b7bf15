//! Reads what can be read of one table.

use std::time::Duration;

use tokio::time::timeout;

use super::{ENDS, Extent, KeyRange, Options, Patient, SalvagedTable, is_end};
pub(super) use crate::mysql::dump::key::Key;
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        baseline::RowHash,
        dump::{Chunk, DumpSink, key::Range, rows},
        objects::Table,
        wire::{Cells, Wire},
    },
};

/// Rows that are read one by one behind the place where the server ended: it takes those that it had not sent yet with it.
const STEPS: u32 = 4096;
/// How often what lies between two keys is tried in its middle.
const SPLITS: u32 = 24;
/// Rows that a damaged page takes with it at most, as far as splitting goes: keys that are closer are left.
const ROWS_OF_PAGE: i128 = 256;
/// How long a server may take to end a statement that hangs.
const KILL: Duration = Duration::from_secs(10);

/// What was read of a table.
pub(super) struct Read {
    pub(super) told: SalvagedTable,
    pub(super) row_hash: RowHash,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

/// The values of a key as a statement writes them.
type Values = Vec<String>;

/// Which way along the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What lies between two keys.
#[derive(Debug, Clone, Default)]
struct Gap {
    after: Option<Values>,
    before: Option<Values>,
}

/// How far the rows of a gap could be read from one end of it.
enum Edge {
    /// To its other end.
    Read,
    /// To damage. The key of the last row before it, or that at which the gap begins.
    Damaged(Option<Values>),
}

/// How a statement ended.
enum Ended {
    AtEnd,
    Failed(Error),
}

/// One statement's rows.
struct Pass {
    rows: u64,
    /// Key of the last of them.
    last: Option<Values>,
    ended: Ended,
}

pub(super) struct TableReader<'a> {
    table: &'a Table,
    /// Its primary key, where ranges of it can be read.
    key: Option<Key>,
    /// Cells of a row that hold the key.
    cells_of_key: Vec<usize>,
    options: &'a Options,
    sink: &'a mut dyn DumpSink,
    connection: Option<Wire>,
    /// How often the server ended.
    ends: u32,
    rows: u64,
    row_hash: RowHash,
    chunks: u32,
    bytes: u64,
    gaps: Vec<Gap>,
    why: Option<Error>,
}

impl<'a> TableReader<'a> {
    pub(super) fn new(table: &'a Table, key: Option<Key>, options: &'a Options, sink: &'a mut dyn DumpSink) -> Self {
        let key = key.filter(|key| key.can_be_walked() && !table.history);
        let cells_of_key = key.as_ref().and_then(|key| cells_of(table, key));
        Self {
            table,
            key: key.filter(|_| cells_of_key.is_some()),
            cells_of_key: cells_of_key.unwrap_or_default(),
            options,
            sink,
            connection: None,
            ends: 0,
            rows: 0,
            row_hash: RowHash::default(),
            chunks: 0,
            bytes: 0,
            gaps: Vec::new(),
            why: None,
        }
    }

    /// Reads all that can be read.
    ///
    /// # Errors
    /// Those of [`Patient`] and of the sink.
    pub(super) async fn read(&mut self, patient: &mut dyn Patient) -> Result<()> {
        if self.key.is_none() {
            return self.read_without_key(patient).await;
        }
        let Edge::Damaged(after) = self.edge(patient, Way::Up, &Gap::default(), false).await? else { return Ok(()) };
        let above = Gap { after, before: None };
        let Edge::Damaged(before) = self.edge(patient, Way::Down, &above, false).await? else { return Ok(()) };
        self.split(patient, Gap { before, ..above }).await
    }

    pub(super) fn finish(self, patient: &dyn Patient) -> Read {
        let Self { table, rows, gaps, why, .. } = self;
        let (schema, name, level) = (table.schema.clone(), table.name.clone(), patient.level());
        // A failure behind which everything was read in the end was none of the table's.
        let failed = why.filter(|_| !gaps.is_empty()).map(|e| e.to_string());
        let page = patient.damaged_page(&schema, &name).filter(|_| failed.is_some() || level > 0);
        let silent = page.as_ref().filter(|_| level > 0);
        let silent = silent.map(|_| format!("at level {level} its rows are passed over, or given as they are"));
        let reasons: Vec<_> = failed.into_iter().chain(page).chain(silent).collect();
        let extent = match (reasons.is_empty(), rows) {
            (true, _) => Extent::Whole,
            (false, 0) => Extent::Nothing,
            (false, _) => Extent::Part,
        };
        let why = (!reasons.is_empty()).then(|| reasons.join("; "));
        let text = |values: Values| values.join(", ");
        let unread =
            gaps.into_iter().map(|gap| KeyRange { after: gap.after.map(text), before: gap.before.map(text) }).collect();
        let told = SalvagedTable { schema, table: name, extent, rows, level, unread, why };
        Read { told, row_hash: self.row_hash, chunks: u64::from(self.chunks), bytes: self.bytes }
    }

    /// Reads from one end of a gap, up or down, until nothing is left of it or up to the damage.
    ///
    /// A failure is believed when it comes again at the same row: a server may end for another reason meanwhile, and one that
    /// ends keeps rows to itself that it had read.
    async fn edge(&mut self, patient: &mut dyn Patient, way: Way, gap: &Gap, includes_begin: bool) -> Result<Edge> {
        let mut gap = gap.clone();
        let mut is_first = includes_begin;
        let mut steps = 0;
        loop {
            let is_step = steps > 0;
            let pass = self.pass(patient, way, &gap, is_first, is_step.then_some(1)).await?;
            if let Some(last) = pass.last {
                is_first = false;
                match way {
                    Way::Up => gap.after = Some(last),
                    Way::Down => gap.before = Some(last),
                }
            }
            let at = match way {
                Way::Up => &gap.after,
                Way::Down => &gap.before,
            };
            match pass.ended {
                // One row was asked for: none is the end.
                Ended::AtEnd if !is_step || pass.rows == 0 => return Ok(Edge::Read),
                Ended::AtEnd => steps -= 1,
                Ended::Failed(error) => {
                    let is_same_place = is_step && pass.rows == 0;
                    let is_over = self.ends >= self.options.ends_of_table;
                    self.why.get_or_insert(error);
                    if is_same_place || is_over {
                        return Ok(Edge::Damaged(at.clone().filter(|_| !is_first)));
                    }
                    steps = STEPS;
                }
            }
        }
    }

    /// Looks for rows between two damaged places.
    async fn split(&mut self, patient: &mut dyn Patient, gap: Gap) -> Result<()> {
        let mut open = vec![gap];
        let mut splits = 0;
        while let Some(gap) = open.pop() {
            let middle = self.middle(&gap).filter(|_| splits < SPLITS && self.ends < self.options.ends_of_table);
            let Some(middle) = middle else {
                self.gaps.push(gap);
                continue;
            };
            splits += 1;
            let from_middle = Gap { after: Some(vec![middle.to_string()]), before: gap.before.clone() };
            let above = self.edge(patient, Way::Up, &from_middle, true).await?;
            let below_middle = Gap { after: gap.after.clone(), before: Some(vec![middle.to_string()]) };
            let below = self.edge(patient, Way::Down, &below_middle, false).await?;
            let just_below = Some(vec![(middle - 1).to_string()]);
            if let Edge::Damaged(before) = below {
                open.push(Gap { after: gap.after, before: before.or(below_middle.before) });
            }
            if let Edge::Damaged(after) = above {
                open.push(Gap { after: after.or(just_below), before: gap.before });
            }
        }
        self.gaps.reverse();
        Ok(())
    }

    /// The middle of a gap, where the key is a number and the gap is wider than what one page takes.
    fn middle(&self, gap: &Gap) -> Option<i128> {
        self.key.as_ref().filter(|key| key.begins_with_integer())?;
        let least = match &gap.after {
            Some(values) => values[0].parse().ok()?,
            None => 0,
        };
        let greatest: i128 = match &gap.before {
            Some(values) => values[0].parse().ok()?,
            None => i128::from(self.table.auto_increment?),
        };
        (greatest - least > ROWS_OF_PAGE).then(|| least + (greatest - least) / 2)
    }

    /// Rows without a usable key are read in the server's own order, once more from where it failed.
    async fn read_without_key(&mut self, patient: &mut dyn Patient) -> Result<()> {
        loop {
            let before = self.rows;
            let tail = if before == 0 { String::new() } else { format!(" LIMIT {} OFFSET {before}", u64::MAX) };
            match self.statement(patient, &tail, None).await?.ended {
                Ended::AtEnd => return Ok(()),
                Ended::Failed(error) => {
                    let is_same_place = self.why.replace(error).is_some() && self.rows == before;
                    if is_same_place || self.ends >= self.options.ends_of_table {
                        self.gaps.push(Gap::default());
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn pass(
        &mut self,
        patient: &mut dyn Patient,
        way: Way,
        gap: &Gap,
        includes_begin: bool,
        limit: Option<u32>,
    ) -> Result<Pass> {
        let Some(key) = &self.key else {
            return Err(Error::new(ErrorKind::Failed, "a table without a key has no ranges of it"));
        };
        let range = if includes_begin {
            Range::new(key, gap.after.clone(), gap.before.clone())
        } else {
            Range::between(key, gap.after.clone(), gap.before.clone())
        };
        let limit = limit.map_or_else(String::new, |rows| format!(" LIMIT {rows}"));
        let tail = format!("{} ORDER BY {}{limit}", range.condition(), key.order(way == Way::Down));
        let is_whole_key = self.cells_of_key.len() == 1;
        let order = Order { cell: self.cells_of_key[0], way, is_whole_key, last: None };
        let order = key.begins_with_integer().then_some(order);
        self.statement(patient, &tail, order).await
    }

    /// Reads the rows of one statement, and gives them to the sink also where it fails.
    async fn statement(&mut self, patient: &mut dyn Patient, tail: &str, order: Option<Order>) -> Result<Pass> {
        let mut pass = Pass { rows: 0, last: None, ended: Ended::AtEnd };
        let mut wire = match self.connection.take() {
            Some(wire) => wire,
            None => connect(patient).await?,
        };
        let id = wire.id();
        let read = self.rows(&mut wire, tail, order, &mut pass).await;
        match read {
            Ok(()) => self.connection = Some(wire),
            Err(Trouble::Sink(error)) => return Err(error),
            Err(Trouble::Server(error)) => {
                if is_end(&error) {
                    self.ends += 1;
                    drop(wire);
                    if error.kind() == ErrorKind::Timeout {
                        // What hangs would hold on to the page.
                        let server = patient.server().await?;
                        let _ = timeout(KILL, server.kill(&[id])).await;
                    }
                } else if wire.is_idle() {
                    self.connection = Some(wire);
                } else {
                    // The rest of its rows would have to be read first.
                    drop(wire);
                    let server = patient.server().await?;
                    let _ = timeout(KILL, server.kill(&[id])).await;
                }
                pass.ended = Ended::Failed(error);
            }
        }
        Ok(pass)
    }

    async fn rows(
        &mut self,
        wire: &mut Wire,
        tail: &str,
        mut order: Option<Order>,
        pass: &mut Pass,
    ) -> Result<(), Trouble> {
        let stall = self.options.stall;
        let stalled = |_| {
            let what = format!("the server gave no row within {} s", stall.as_secs());
            Trouble::Server(Error::new(ErrorKind::Timeout, what))
        };
        let sql = rows::select(self.table) + tail;
        let mut result = timeout(stall, wire.begin(sql)).await.map_err(stalled)?.map_err(Trouble::Server)?;
        loop {
            if self.options.cancel.is_cancelled() {
                return Err(Trouble::Sink(Error::new(ErrorKind::Cancelled, "the salvage was cancelled")));
            }
            let mut chunk = Filling::default();
            let (mut ended, mut last) = (None, None);
            while chunk.bytes.len() < self.options.chunk_bytes {
                let row = match timeout(stall, result.next()).await.map_err(stalled) {
                    Ok(Ok(Some(row))) => row,
                    Ok(Ok(None)) => {
                        ended = Some(Ok(()));
                        break;
                    }
                    Ok(Err(error)) => {
                        ended = Some(Err(Trouble::Server(error)));
                        break;
                    }
                    Err(trouble) => {
                        ended = Some(Err(trouble));
                        break;
                    }
                };
                if let Some(Err(error)) = order.as_mut().map(|order| order.check(&row)) {
                    ended = Some(Err(Trouble::Server(error)));
                    break;
                }
                let begin = chunk.bytes.len();
                rows::encode_row(&mut chunk.bytes, &row, self.table.cells()).map_err(Trouble::Server)?;
                chunk.row_hash.add_row(&chunk.bytes[begin..]);
                chunk.rows += 1;
                last = Some(row);
            }
            if let (Some(key), Some(row)) = (&self.key, last) {
                pass.last = Some(self.key_of(key, &row).map_err(Trouble::Server)?);
            }
            pass.rows += chunk.rows;
            self.give(chunk).await.map_err(Trouble::Sink)?;
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    fn key_of(&self, key: &Key, row: &[u8]) -> Result<Values> {
        let cells = Cells::of(row).collect::<Result<Vec<_>>>()?;
        let values = self.cells_of_key.iter().map(|index| cells.get(*index).copied().flatten());
        key.literals_of(values).ok_or_else(|| Error::new(ErrorKind::Corrupt, "the key of a row is none"))
    }

    async fn give(&mut self, chunk: Filling) -> Result<()> {
        if chunk.rows == 0 {
            return Ok(());
        }
        self.rows += chunk.rows;
        self.row_hash += chunk.row_hash;
        self.bytes += chunk.bytes.len() as u64;
        let number = self.chunks;
        self.chunks += 1;
        self.sink
            .chunk(Chunk {
                schema: self.table.schema.clone(),
                table: self.table.name.clone(),
                number,
                rows: chunk.rows,
                row_hash: chunk.row_hash,
                bytes: chunk.bytes.into(),
            })
            .await
    }
}

/// The order in which keys have to come. A damaged page that is read all the same may give any, and one that came twice could
/// not be loaded again.
struct Order {
    /// Cell of the key's first column, an integer.
    cell: usize,
    way: Way,
    /// Whether the key has no other column.
    is_whole_key: bool,
    last: Option<i128>,
}

impl Order {
    fn check(&mut self, row: &[u8]) -> Result<()> {
        let cell = Cells::of(row).nth(self.cell).transpose()?.flatten();
        let number = cell.and_then(|cell| std::str::from_utf8(cell).ok()?.parse::<i128>().ok());
        let is_next = match (self.last, number) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(last), Some(number)) if last == number => !self.is_whole_key,
            (Some(last), Some(number)) => (number > last) == (self.way == Way::Up),
        };
        self.last = number;
        if is_next {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "the server gives keys out of order: what it reads is damaged"))
    }
}

/// Opens a connection. A server that ends before it takes one does not end over a table.
async fn connect(patient: &mut dyn Patient) -> Result<Wire> {
    let mut ends = 0;
    loop {
        match patient.server().await?.wire().await {
            Err(error) if is_end(&error) => {
                ends += 1;
                if ends > ENDS {
                    patient.climb(&error).await?;
                    ends = 0;
                }
            }
            other => return other,
        }
    }
}

/// Rows that become a chunk.
#[derive(Default)]
struct Filling {
    bytes: Vec<u8>,
    rows: u64,
    row_hash: RowHash,
}

/// What stands in the way of more rows.
enum Trouble {
    Server(Error),
    /// Not the table's fault.
    Sink(Error),
}

/// Finds the cells that hold the key: a JSON column before them takes two.
fn cells_of(table: &Table, key: &Key) -> Option<Vec<usize>> {
    let place = |name: &str| {
        let mut cell = 0;
        for column in &table.columns {
            if column.name.eq_ignore_ascii_case(name) {
                return Some(cell);
            }
            cell += 1 + usize::from(column.json_types);
        }
        None
    };
    key.names().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of one cell in the text protocol.
    fn row(text: &str) -> Vec<u8> {
        let mut row = vec![u8::try_from(text.len()).unwrap()];
        row.extend_from_slice(text.as_bytes());
        row
    }

    #[test]
    fn keys_out_of_order_and_keys_that_are_no_numbers_are_damage() {
        let check = |way, is_whole_key, keys: &[&str]| {
            let mut order = Order { cell: 0, way, is_whole_key, last: None };
            keys.iter().map(|key| order.check(&row(key))).collect::<Result<Vec<_>>>().is_ok()
        };
        assert!(check(Way::Up, true, &["-3", "0", "18446744073709551615"]));
        assert!(check(Way::Down, true, &["9", "7", "-1"]));
        assert!(check(Way::Up, false, &["1", "1", "2"]) && !check(Way::Up, true, &["1", "1"]));
        assert!(!check(Way::Up, true, &["5", "4"]) && !check(Way::Down, false, &["4", "5"]));
        assert!(!check(Way::Up, true, &["x"]));
    }
}
