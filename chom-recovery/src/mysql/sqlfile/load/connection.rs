//! One connection of a load: runs statements of the dump, and counts what the server took.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{LoadReport, described, values::Plan};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        session::{Session, server_code},
        sqlfile::{Kind, Piece, Token},
    },
};

/// Warnings that only speak of old ways of writing, or of what is not there to be removed: deprecated syntax, integer
/// widths, utf8mb3, `IF EXISTS`, and values of generated columns, which MariaDB's own program dumps and MariaDB computes
/// anew.
///
/// # Source
/// MySQL "Server Error Message Reference"; MariaDB "Error Codes".
const HARMLESS: [u64; 13] = [1007, 1008, 1051, 1287, 1305, 1360, 1539, 1681, 1831, 1906, 3719, 3720, 3778];
/// "Data truncated": what a server says to an ENUM value that is invalid and was so at the source.
const TRUNCATED: u64 = 1265;

/// Dates that no calendar knows come back as they were dumped: without this a server turns them into zeros, whatever mode
/// they were stored in. For rows alone: routines and triggers remember the mode that they were made in.
const ALLOW_DATES: &str = "SET @chom_recovery_sql_mode = @@SESSION.sql_mode, \
    SESSION sql_mode = CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), 'ALLOW_INVALID_DATES')";
const MODE_OF_THE_DUMP: &str = "SET SESSION sql_mode = @chom_recovery_sql_mode";

/// Where a statement stands in the file, and what it is about; for messages.
#[derive(Debug, Clone)]
pub(super) struct Place {
    offset: u64,
    line: u64,
    what: String,
}

impl Place {
    pub(super) fn of(piece: &Piece, kind: &Kind) -> Self {
        Self { offset: piece.offset, line: piece.line, what: described(kind) }
    }

    pub(super) fn in_error(&self, error: Error) -> Error {
        error.during(format!("{} at byte {} (line {})", self.what, self.offset, self.line))
    }
}

/// Rows for one table: one transaction.
pub(super) struct Batch {
    /// How they may be turned; `None`: they are inserted as they stand.
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) pieces: Vec<Piece>,
    pub(super) bytes: usize,
}

impl Batch {
    fn rows(&self) -> u64 {
        let rows = |piece: &Piece| match &piece.token {
            Token::Statement(Kind::Insert(insert)) => insert.rows,
            _ => 0,
        };
        self.pieces.iter().map(rows).sum()
    }
}

/// What one of several connections is told to do, in this order.
pub(super) enum Job {
    Rows(Batch),
    /// A statement that changes the session alone, which all connections run.
    Setting(Kind, Arc<[u8]>, Place),
    /// Tells that all before it is done.
    Reached(oneshot::Sender<()>),
}

pub(super) struct Connection {
    pub(super) session: Session,
    allows_dates: bool,
    pub(super) report: LoadReport,
}

impl Connection {
    pub(super) fn new(session: Session) -> Self {
        Self { session, allows_dates: false, report: LoadReport::default() }
    }

    /// Works until nobody has another job.
    pub(super) async fn serve(mut self, mut jobs: mpsc::Receiver<Job>) -> Result<LoadReport> {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Rows(batch) => self.rows(batch).await?,
                Job::Setting(kind, sql, place) => {
                    self.setting(&kind, &sql).await.map_err(|e| place.in_error(e))?;
                }
                // Nobody waits when the load has failed elsewhere.
                Job::Reached(reply) => {
                    let _ = reply.send(());
                }
            }
        }
        self.session.close().await;
        Ok(self.report)
    }

    /// Runs a statement that is counted once for all connections.
    async fn setting(&mut self, kind: &Kind, sql: &[u8]) -> Result<()> {
        let before = (self.report.statements, self.report.bytes);
        let done = self.statement(kind, sql.to_vec()).await;
        (self.report.statements, self.report.bytes) = before;
        done
    }

    /// Runs a statement without rows.
    pub(super) async fn statement(&mut self, kind: &Kind, sql: Vec<u8>) -> Result<()> {
        self.dates(false).await?;
        let (length, is_comment) = (sql.len(), sql.starts_with(b"/*"));
        let done = match self.session.run(sql).await {
            // A conditional comment of another version is no statement at all.
            Err(e) if is_comment && server_code(&e) == Some(1065) => return Ok(()),
            done => done?,
        };
        self.report.statements += 1;
        self.report.bytes += length as u64;
        if done.warnings > 0 { self.judge(kind).await } else { Ok(()) }
    }

    async fn dates(&mut self, is_rows: bool) -> Result<()> {
        if is_rows != self.allows_dates {
            self.session.run(if is_rows { ALLOW_DATES } else { MODE_OF_THE_DUMP }).await?;
            self.allows_dates = is_rows;
        }
        Ok(())
    }

    /// Adds rows, all of them or none.
    pub(super) async fn rows(&mut self, mut batch: Batch) -> Result<()> {
        self.dates(true).await?;
        if let Some(plan) = batch.plan.take().filter(|plan| plan.is_promising()) {
            let (taken, pieces) = self.turned(&plan, batch).await?;
            batch = pieces;
            if taken {
                self.count(&batch);
                return Ok(());
            }
            plan.refused();
        }
        self.session.run("START TRANSACTION").await?;
        self.count(&batch);
        for piece in batch.pieces {
            let Token::Statement(kind) = piece.token.clone() else { continue };
            let place = Place::of(&piece, &kind);
            self.insert(&kind, piece.into_sql()).await.map_err(|e| place.in_error(e))?;
        }
        self.session.run("COMMIT").await.map(drop)
    }

    fn count(&mut self, batch: &Batch) {
        self.report.statements += batch.pieces.len() as u64;
        self.report.bytes += batch.pieces.iter().map(|p| p.text().len() as u64).sum::<u64>();
    }

    /// Tries the rows as `LOAD DATA` reads them. Whether the server took each of them unchanged is what it says itself;
    /// otherwise nothing is there, and the INSERT tells what is wrong, or that nothing is.
    async fn turned(&mut self, plan: &Arc<Plan>, batch: Batch) -> Result<(bool, Batch)> {
        let of = Arc::clone(plan);
        let (turned, batch) = crate::mysql::sqlfile::blocking(move || {
            let mut out = Vec::with_capacity(batch.bytes + batch.bytes / 8);
            let mut rows = 0;
            for piece in &batch.pieces {
                match of.turn(piece.insert().1, &mut out) {
                    Some(more) => rows += more,
                    None => return Ok((None, batch)),
                }
            }
            // The same text was counted by another reader.
            let is_all = rows == batch.rows();
            Ok((is_all.then_some((out, rows)), batch))
        })
        .await?;
        let Some((cells, rows)) = turned else { return Ok((false, batch)) };
        self.session.run("START TRANSACTION").await?;
        let cells = bytes::Bytes::from(cells);
        self.session.feed(Box::pin(futures::stream::once(async move { Ok(cells) })));
        match self.session.run(plan.statement()).await {
            Ok(done) if is_whole(&done.info, rows) => {
                self.session.run("COMMIT").await?;
                self.report.rows += rows;
                Ok((true, batch))
            }
            Err(e) if server_code(&e).is_none() => Err(e),
            _ => {
                self.session.run("ROLLBACK").await?;
                Ok((false, batch))
            }
        }
    }

    async fn insert(&mut self, kind: &Kind, sql: Vec<u8>) -> Result<()> {
        let Kind::Insert(insert) = kind else { return Ok(()) };
        let done = self.session.run(sql).await?;
        self.report.rows += done.affected;
        if done.affected != insert.rows && !insert.is_lenient {
            return Err(Error::new(ErrorKind::Failed, "the server did not take every row")
                .with("rows", insert.rows)
                .with("taken", done.affected));
        }
        if done.warnings > 0 { self.judge(kind).await } else { Ok(()) }
    }

    /// A value that was changed is not the value that was dumped.
    async fn judge(&mut self, kind: &Kind) -> Result<()> {
        for (code, text) in self.session.warnings().await? {
            match kind {
                _ if HARMLESS.contains(&code) => {}
                Kind::Insert(insert) if !insert.is_lenient && code != TRUNCATED => {
                    return Err(Error::new(ErrorKind::Failed, "the server changed a value")
                        .with("warning", format!("{code}: {text}")));
                }
                _ => self.report.warn(format!("{}: {code}: {text}", described(kind))),
            }
        }
        Ok(())
    }
}

/// Reads `Records: 3  Deleted: 0  Skipped: 0  Warnings: 0`.
fn is_whole(info: &str, rows: u64) -> bool {
    let numbers = info.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty()).map(str::parse::<u64>);
    numbers.eq([Ok(rows), Ok(0), Ok(0), Ok(0)])
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn only_all_rows_without_a_warning_are_whole() {
        assert!(is_whole("Records: 3  Deleted: 0  Skipped: 0  Warnings: 0", 3));
        for info in ["Records: 2  Deleted: 0  Skipped: 1  Warnings: 1", "Records: 3  Deleted: 0", ""] {
            assert!(!is_whole(info, 3), "{info}");
        }
    }
}
