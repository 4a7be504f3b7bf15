//! A server, and the questions that are asked about it as a whole.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    dump::objects::collect_accounts,
    info::{Flavour, Position, ServerInfo},
    login::Login,
    objects::Account,
    quote,
    session::{PROGRAM, Role, Session, server_code},
    wire::Wire,
};
use crate::error::{Error, ErrorKind, Result};

/// Looks at the connections of a MariaDB until two agree, and the pause between two looks.
const LOOKS: usize = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A server that answered an authenticated query. Holds no connection: each piece of work opens its own.
#[derive(Debug, Clone)]
pub struct Server {
    login: Login,
    info: ServerInfo,
}

/// A connection to a server that is not ours and not the server's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Connection id.
    pub id: u64,
    /// Account.
    pub user: String,
    /// Where it comes from.
    pub host: String,
    /// Default schema.
    pub schema: String,
    /// `Query`, `Sleep`, ...
    pub command: String,
    /// Seconds in this state.
    pub seconds: u64,
    /// Whether it has a transaction open.
    pub in_transaction: bool,
}

/// Size of a table as the server estimates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Storage engine.
    pub engine: String,
    /// Bytes of data and indexes, estimated.
    pub bytes: u64,
    /// Rows, estimated.
    pub rows: u64,
}

/// State of one replication channel of this server, as a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Source's host.
    pub source: String,
    /// Whether events are received.
    pub receiving: bool,
    /// Whether events are applied.
    pub applying: bool,
    /// Seconds behind the source; `None` when the server cannot tell.
    pub seconds_behind: Option<u64>,
    /// Last error; empty when there is none.
    pub last_error: String,
}

impl Server {
    /// Connects, tries again until `deadline` while the server does not answer, and reads who it is.
    ///
    /// A zero deadline tries once.
    ///
    /// # Errors
    /// `Authentication`: the server answered and refused the account; not tried again. `Unreachable`, `Timeout`: it
    /// did not answer in time; the server's own code is in the context where it has one.
    pub async fn connect(login: Login, deadline: Duration) -> Result<Self> {
        let end = tokio::time::Instant::now() + deadline;
        loop {
            let error = match Self::try_connect(&login).await {
                Ok(server) => return Ok(server),
                Err(error) => error,
            };
            let wait = Duration::from_millis(200);
            if !error.kind().is_transient() || tokio::time::Instant::now() + wait > end {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_connect(login: &Login) -> Result<Self> {
        let mut session = Session::open(login, Role::Read).await?;
        let variables = variables(&mut session).await?;
        let uptime = session.row("SHOW GLOBAL STATUS LIKE 'Uptime'").await?;
        let uptime = uptime.map_or(Ok(None), |r| r.number(1))?.unwrap_or_default();
        let info = ServerInfo::from_variables(&variables, uptime)?;
        session.close().await;
        Ok(Self { login: login.clone(), info })
    }

    /// Returns what the server said about itself at connect.
    pub fn info(&self) -> &ServerInfo {
        &self.info
    }

    /// Returns the login that reached it.
    pub fn login(&self) -> &Login {
        &self.login
    }

    pub(super) async fn session(&self, role: Role) -> Result<Session> {
        Session::open(&self.login, role).await
    }

    /// Opens a connection that reads many rows.
    pub(super) async fn wire(&self) -> Result<Wire> {
        Wire::open(&self.login).await
    }

    /// Ends connections of ours whose work failed; those that are gone already are no matter.
    pub(super) async fn kill(&self, connections: &[u32]) {
        if let Ok(mut session) = self.session(Role::Read).await {
            for id in connections {
                let _ = session.run(format!("KILL CONNECTION {id}")).await;
            }
            session.close().await;
        }
    }

    /// Reads all global variables.
    pub async fn variables(&self) -> Result<BTreeMap<String, String>> {
        let mut session = self.session(Role::Read).await?;
        let variables = variables(&mut session).await?;
        session.close().await;
        Ok(variables)
    }

    /// Answers an authenticated query.
    ///
    /// # Errors
    /// Those of [`Server::connect`].
    pub async fn ping(&self) -> Result<()> {
        let mut session = self.session(Role::Read).await?;
        session.run("DO 1").await?;
        session.close().await;
        Ok(())
    }

    /// Lists connections of clients: not ours, not the server's own threads. Empty means that nobody can write.
    ///
    /// MySQL tells our own sessions from others. MariaDB cannot: there a session of ours that is open elsewhere is
    /// listed too, and one that was just closed is given a moment to go. MariaDB tells of a transaction up to a tenth
    /// of a second late.
    ///
    /// # Errors
    /// `Precondition`: the account may not see other accounts' connections.
    pub async fn clients(&self) -> Result<Vec<Client>> {
        let mut session = self.session(Role::Read).await?;
        let sql = match self.info.flavour {
            Flavour::Mysql => format!(
                "SELECT t.PROCESSLIST_ID, t.PROCESSLIST_USER, t.PROCESSLIST_HOST, t.PROCESSLIST_DB, \
                 t.PROCESSLIST_COMMAND, t.PROCESSLIST_TIME, x.THREAD_ID IS NOT NULL \
                 FROM performance_schema.threads t \
                 LEFT JOIN performance_schema.events_transactions_current x \
                 ON x.THREAD_ID = t.THREAD_ID AND x.STATE = 'ACTIVE' \
                 LEFT JOIN performance_schema.session_account_connect_attrs a \
                 ON a.PROCESSLIST_ID = t.PROCESSLIST_ID AND a.ATTR_NAME = 'program_name' AND a.ATTR_VALUE = '{PROGRAM}' \
                 WHERE t.TYPE = 'FOREGROUND' AND t.PROCESSLIST_ID IS NOT NULL AND t.PROCESSLIST_ID <> CONNECTION_ID() \
                 AND a.PROCESSLIST_ID IS NULL"
            ),
            Flavour::Mariadb => "SELECT p.ID, p.USER, p.HOST, p.DB, p.COMMAND, p.TIME, COALESCE(x.n, 0) \
                 FROM information_schema.PROCESSLIST p \
                 LEFT JOIN (SELECT trx_mysql_thread_id AS id, COUNT(*) AS n FROM information_schema.INNODB_TRX \
                 GROUP BY trx_mysql_thread_id) x ON x.id = p.ID WHERE p.ID <> CONNECTION_ID()"
                .to_owned(),
        };
        let mut clients = list_clients(&mut session, &sql).await?;
        for _ in 0..LOOKS {
            if clients.is_empty() || self.info.flavour == Flavour::Mysql {
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let again = list_clients(&mut session, &sql).await?;
            let same = again.iter().map(|c| c.id).eq(clients.iter().map(|c| c.id));
            clients = again;
            if same {
                break;
            }
        }
        session.close().await;
        Ok(clients)
    }

    /// Lists tables that are not the server's own, with estimated sizes, largest first.
    pub async fn sizes(&self) -> Result<Vec<TableSize>> {
        let mut session = self.session(Role::Read).await?;
        let rows = session
            .rows(format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE, COALESCE(DATA_LENGTH, 0) + COALESCE(INDEX_LENGTH, 0), \
                 COALESCE(TABLE_ROWS, 0) FROM information_schema.TABLES \
                 WHERE TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') AND TABLE_SCHEMA NOT IN ({}) ORDER BY 4 DESC",
                quote::system_schemas()
            ))
            .await?;
        session.close().await;
        rows.iter()
            .map(|r| {
                Ok(TableSize {
                    schema: r.text(0)?,
                    table: r.text(1)?,
                    engine: r.text(2)?,
                    bytes: r.number(3)?.unwrap_or_default(),
                    rows: r.number(4)?.unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Reads the newest value of a time column, in UTC as the server writes it; `None` when the table is empty.
    ///
    /// # Errors
    /// `NotFound`: no such table.
    pub async fn newest_row_time(&self, schema: &str, table: &str, column: &str) -> Result<Option<String>> {
        let mut session = self.session(Role::Read).await?;
        let sql = format!("SELECT MAX({}) FROM {}", quote::ident(column), quote::qualified(schema, table));
        let row = session.row(sql).await?;
        session.close().await;
        row.map_or(Ok(None), |r| r.optional(0))
    }

    /// Reads some values of a column, in no order; NULL is left out.
    ///
    /// # Errors
    /// `NotFound`: no such table.
    pub(crate) async fn some_values(
        &self,
        (schema, table, column): (&str, &str, &str),
        limit: u32,
    ) -> Result<Vec<String>> {
        let mut session = self.session(Role::Read).await?;
        let (table, column) = (quote::qualified(schema, table), quote::ident(column));
        let rows =
            session.rows(format!("SELECT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT {limit}")).await?;
        session.close().await;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// Raises the next AUTO_INCREMENT value of a table to at least `next`; never lowers it. Returns the value that is
    /// in force afterwards, read back from the server.
    ///
    /// # Errors
    /// `InvalidInput`: the table has no AUTO_INCREMENT column.
    pub async fn raise_auto_increment(&self, schema: &str, table: &str, next: u64) -> Result<u64> {
        let mut session = self.session(Role::Load).await?;
        let name = quote::qualified(schema, table);
        let now = auto_increment(&mut session, schema, table).await?.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("table {name} does not exist or has no AUTO_INCREMENT column"))
        })?;
        if next > now {
            session.run(format!("ALTER TABLE {name} AUTO_INCREMENT = {next}")).await?;
        }
        let after = auto_increment(&mut session, schema, table).await?.unwrap_or_default();
        session.close().await;
        if after < next {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("AUTO_INCREMENT of table {name} stayed at {after} when it was raised to {next}"),
            ));
        }
        Ok(after)
    }

    /// Reads accounts and roles with their grants; the server's own are left out.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        collect_accounts(self).await
    }

    /// Returns the statement that makes a schema as it is here; `None`: there is none of this name.
    pub async fn schema_definition(&self, schema: &str) -> Result<Option<Vec<u8>>> {
        let mut session = self.session(Role::Read).await?;
        let row = match session.row(format!("SHOW CREATE DATABASE {}", quote::ident(schema))).await {
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            row => row?,
        };
        session.close().await;
        Ok(row.and_then(|r| r.bytes(1).map(<[u8]>::to_vec)))
    }

    /// Returns the current binary log position; `None` when there is no binary log.
    pub async fn position(&self) -> Result<Option<Position>> {
        let mut session = self.session(Role::Read).await?;
        let position = position(&mut session, self.info.flavour).await?;
        session.close().await;
        Ok(position)
    }

    /// Returns the state of each replication channel; empty when this server is no replica.
    pub async fn replica_status(&self) -> Result<Vec<Replica>> {
        let mut session = self.session(Role::Read).await?;
        let forms: &[&str] = match self.info.flavour {
            Flavour::Mysql => &["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"],
            Flavour::Mariadb => &["SHOW ALL REPLICAS STATUS", "SHOW ALL SLAVES STATUS"],
        };
        let rows = first_understood(&mut session, forms).await?;
        session.close().await;
        let either = |row: &super::session::Row, names: [&str; 2]| -> Result<String> {
            let value = row.named(names[0])?;
            if value.is_empty() { row.named(names[1]) } else { Ok(value) }
        };
        rows.iter()
            .map(|row| {
                Ok(Replica {
                    source: either(row, ["Source_Host", "Master_Host"])?,
                    receiving: either(row, ["Replica_IO_Running", "Slave_IO_Running"])? == "Yes",
                    applying: either(row, ["Replica_SQL_Running", "Slave_SQL_Running"])? == "Yes",
                    seconds_behind: either(row, ["Seconds_Behind_Source", "Seconds_Behind_Master"])?.parse().ok(),
                    last_error: either(row, ["Last_SQL_Error", "Last_IO_Error"])?,
                })
            })
            .collect()
    }

    /// Proves that this server keeps every commit; for the production server after a swap.
    ///
    /// # Errors
    /// `Unhealthy`: a setting gives up durability; all of them are named.
    pub async fn check_durability(&self) -> Result<()> {
        let now = ServerInfo::from_variables(&self.variables().await?, 0)?;
        let gaps = now.durability_gaps();
        if gaps.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unhealthy, format!("the server may lose commits: {}", gaps.join("; ")))
            .with("server", self.login.address()))
    }
}

/// Lists clients, by id.
async fn list_clients(session: &mut Session, sql: &str) -> Result<Vec<Client>> {
    let rows = session.rows(sql).await?;
    let mut clients = Vec::new();
    for row in &rows {
        let client = Client {
            id: row.number(0)?.unwrap_or_default(),
            user: row.text(1)?,
            host: row.text(2)?,
            schema: row.text(3)?,
            command: row.text(4)?,
            seconds: row.text(5)?.parse().unwrap_or(0),
            in_transaction: row.number(6)?.unwrap_or_default() > 0,
        };
        let own = matches!(client.user.as_str(), "system user" | "event_scheduler" | "mysql.session")
            || matches!(client.command.as_str(), "Daemon" | "Slave_IO" | "Slave_SQL" | "Slave_worker");
        if !own {
            clients.push(client);
        }
    }
    clients.sort_by_key(|c| c.id);
    Ok(clients)
}

async fn variables(session: &mut Session) -> Result<BTreeMap<String, String>> {
    session.rows("SHOW GLOBAL VARIABLES").await?.iter().map(|r| Ok((r.text(0)?, r.text(1)?))).collect()
}

async fn auto_increment(session: &mut Session, schema: &str, table: &str) -> Result<Option<u64>> {
    let sql = format!(
        "SELECT AUTO_INCREMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote::text(schema),
        quote::text(table)
    );
    session.row(sql).await?.map_or(Ok(None), |r| r.number(0))
}

/// Runs the first form that the server's grammar knows (1064 is a syntax error).
pub(super) async fn first_understood(session: &mut Session, forms: &[&str]) -> Result<Vec<super::session::Row>> {
    let mut last = None;
    for form in forms {
        match session.rows(*form).await {
            Err(error) if server_code(&error) == Some(1064) => last = Some(error),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| Error::new(ErrorKind::Unsupported, "no form of a statement was given")))
}

pub(super) async fn position(session: &mut Session, flavour: Flavour) -> Result<Option<Position>> {
    let forms: &[&str] = match flavour {
        Flavour::Mysql => &["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"],
        Flavour::Mariadb => &["SHOW MASTER STATUS", "SHOW BINLOG STATUS"],
    };
    let Some(row) = first_understood(session, forms).await?.into_iter().next() else { return Ok(None) };
    let file = row.text(0)?;
    if file.is_empty() {
        return Ok(None);
    }
    let gtid_sql = match flavour {
        Flavour::Mysql => "SELECT @@global.gtid_executed",
        Flavour::Mariadb => "SELECT @@global.gtid_binlog_pos",
    };
    let gtid = session.row(gtid_sql).await?.map_or(Ok(String::new()), |r| r.text(0))?;
    let gtid = gtid.replace(char::is_whitespace, "");
    Ok(Some(Position { file, offset: row.number(1)?.unwrap_or_default(), gtid: Some(gtid).filter(|g| !g.is_empty()) }))
}
