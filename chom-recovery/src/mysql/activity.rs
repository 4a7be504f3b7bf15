//! What the server is doing at this moment: statements that run, and those that wait for locks.

use serde::{Deserialize, Serialize};

use super::{
    info::Flavour,
    quote,
    server::Server,
    session::{PROGRAM, Role, Session},
};
use crate::error::Result;

/// Longest form of a statement that is kept.
const FORM: usize = 120;
/// Most statements that are listed.
const MOST: usize = 500;

/// A statement of a client that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Connection id.
    pub connection: u64,
    /// Account.
    pub user: String,
    /// Seconds since it began.
    pub seconds: u64,
    /// Whether it waits for a lock on rows or on a table's definition.
    pub waits_for_lock: bool,
    /// Its text without values, shortened: values are data.
    pub form: String,
}

/// A transaction that others wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// Connection id.
    pub connection: u64,
    /// How many transactions wait for it.
    pub waiting: u64,
}

impl Server {
    /// Lists the statements of clients that run at this moment, longest first; those of this program, of replication and
    /// of the server itself are left out.
    ///
    /// # Errors
    /// `Precondition`: the account may not see other accounts' statements.
    pub async fn statements(&self) -> Result<Vec<Statement>> {
        let list = match self.info().flavour {
            Flavour::Mysql => "performance_schema.processlist",
            Flavour::Mariadb => "information_schema.PROCESSLIST",
        };
        let sql = format!(
            "SELECT p.ID, p.USER, p.TIME, COALESCE(x.n, 0) > 0 OR p.STATE LIKE 'Waiting for%lock%', \
             LEFT(p.INFO, 400) FROM {list} p \
             LEFT JOIN (SELECT trx_mysql_thread_id AS id, COUNT(*) AS n FROM information_schema.INNODB_TRX \
             WHERE trx_state = 'LOCK WAIT' GROUP BY trx_mysql_thread_id) x ON x.id = p.ID \
             WHERE p.COMMAND IN ('Query', 'Execute') AND p.ID <> CONNECTION_ID() AND p.INFO IS NOT NULL \
             AND p.USER NOT IN ('system user', 'event_scheduler', 'mysql.session') \
             ORDER BY p.TIME DESC LIMIT {MOST}"
        );
        let mut session = self.session(Role::Read).await?;
        let rows = session.rows(sql).await?;
        let ours = own_connections(&mut session, self.info().flavour).await?;
        session.close().await;
        let mut statements = Vec::new();
        for row in &rows {
            let connection = row.number(0)?.unwrap_or_default();
            if !ours.contains(&connection) {
                statements.push(Statement {
                    connection,
                    user: row.text(1)?,
                    // A clock that went back makes it negative.
                    seconds: row.text(2)?.parse().unwrap_or(0),
                    waits_for_lock: row.number(3)?.unwrap_or_default() > 0,
                    form: form(&row.bytes(4).map(String::from_utf8_lossy).unwrap_or_default()),
                });
            }
        }
        Ok(statements)
    }

    /// Lists the transactions that others wait for, the one with most waiting first.
    pub async fn blockers(&self) -> Result<Vec<Blocker>> {
        let sql = match self.info().flavour {
            Flavour::Mysql => {
                "SELECT t.PROCESSLIST_ID, COUNT(DISTINCT w.REQUESTING_THREAD_ID) \
                 FROM performance_schema.data_lock_waits w \
                 JOIN performance_schema.threads t ON t.THREAD_ID = w.BLOCKING_THREAD_ID \
                 WHERE t.PROCESSLIST_ID IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 20"
            }
            Flavour::Mariadb => {
                "SELECT b.trx_mysql_thread_id, COUNT(DISTINCT w.requesting_trx_id) \
                 FROM information_schema.INNODB_LOCK_WAITS w \
                 JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id \
                 GROUP BY 1 ORDER BY 2 DESC LIMIT 20"
            }
        };
        let mut session = self.session(Role::Read).await?;
        let rows = session.rows(sql).await?;
        session.close().await;
        rows.iter()
            .map(|row| {
                let number = |index| row.number(index).map(Option::unwrap_or_default);
                Ok(Blocker { connection: number(0)?, waiting: number(1)? })
            })
            .collect()
    }

    /// Counts the rows of tables, one after the other; a table that is gone has none.
    pub async fn count_rows(&self, tables: &[(String, String)]) -> Result<Vec<u64>> {
        let mut session = self.session(Role::Read).await?;
        let mut counts = Vec::with_capacity(tables.len());
        for (schema, table) in tables {
            let row = match session.row(format!("SELECT COUNT(*) FROM {}", quote::qualified(schema, table))).await {
                Err(error) if error.kind() == crate::ErrorKind::NotFound => None,
                row => row?,
            };
            counts.push(row.map_or(Ok(None), |row| row.number(0))?.unwrap_or_default());
        }
        session.close().await;
        Ok(counts)
    }
}

/// Connections of this program, where the server tells who they are: MySQL does.
async fn own_connections(session: &mut Session, flavour: Flavour) -> Result<Vec<u64>> {
    if flavour == Flavour::Mariadb {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT PROCESSLIST_ID FROM performance_schema.session_account_connect_attrs \
         WHERE ATTR_NAME = 'program_name' AND ATTR_VALUE = '{PROGRAM}'"
    );
    session.rows(sql).await?.iter().map(|row| row.number(0).map(Option::unwrap_or_default)).collect()
}

/// Takes the values out of a statement: strings and numbers become `?`.
fn form(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_in_word =
            out.chars().last().is_some_and(|last| last.is_alphanumeric() || matches!(last, '_' | '`' | '$'));
        match c {
            '\'' | '"' => {
                out.push('?');
                skip_string(&mut chars, c);
            }
            c if c.is_ascii_digit() && !is_in_word => {
                out.push('?');
                while chars.next_if(|next| next.is_ascii_alphanumeric() || *next == '.').is_some() {}
            }
            c if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c => out.push(c),
        }
        if out.chars().count() >= FORM {
            out.push('…');
            break;
        }
    }
    out.trim().to_owned()
}

/// Reads to the end of a string, or of the text where it was cut before.
fn skip_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) {
    while let Some(c) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if_eq(&quote).is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_no_values() {
        for (text, wanted) in [
            ("SELECT * FROM t1 WHERE a = 'se''cr\\'et' AND b=12.5", "SELECT * FROM t1 WHERE a = ? AND b=?"),
            ("UPDATE `u2`\n  SET x = \"y\"  WHERE id = 0x1F", "UPDATE `u2` SET x = ? WHERE id = ?"),
            ("SELECT 'cut in the midd", "SELECT ?"),
        ] {
            assert_eq!(form(text), wanted);
        }
        assert_eq!(form(&"a ".repeat(500)).chars().count(), FORM + 1);
    }
}
