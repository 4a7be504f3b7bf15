//! A connection that hands out rows as the server sent them.
//!
//! The driver decodes each value into memory of its own, which costs more than all else that a dump does. Here a row stays
//! where it was received until it is encoded. Everything but reading many rows goes through [`Session`](super::session).
//!
//! # Source
//! MySQL internals manual, "Client/Server Protocol", the text protocol without `CLIENT_DEPRECATE_EOF`; MariaDB server
//! documentation, "Clients & Utilities: Client/Server Protocol".

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{
    login::Login,
    session::{self, Role, Row, Statement},
};
use crate::error::{Error, ErrorKind, Result};

mod cells;
mod handshake;
mod packets;

pub(super) use cells::Cells;
use packets::Packets;

/// First byte of a packet that reports an error.
const ERR: u8 = 0xff;
/// First byte of the packet that ends a list, where it is shorter than [`EOF_LIMIT`]; longer, it begins a row.
const EOF: u8 = 0xfe;
const EOF_LIMIT: usize = 9;
/// First byte of a packet that asks for a file.
const LOCAL_INFILE: u8 = 0xfb;
const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;

/// A connection whose settings were pinned and read back, as those of a [`Session`](session::Session) are.
#[derive(Debug)]
pub(super) struct Wire {
    packets: Packets,
    id: u32,
    address: String,
    /// A result that was begun and not read to its end.
    is_reading: bool,
}

impl Wire {
    /// Connects over TCP, pins the settings for reading and reads them back.
    pub(super) async fn open(login: &Login) -> Result<Self> {
        let address = login.address();
        let open = async {
            let (packets, id) = handshake::connect(login).await?;
            let mut wire = Self { packets, id, address: address.clone(), is_reading: false };
            let known = wire.rows(&session::settings_query(Role::Read)).await?;
            wire.run(&session::pin_statement(Role::Read, &known)?).await?;
            session::check_pinned(Role::Read, &wire.rows(session::PINNED_QUERY).await?)?;
            Ok(wire)
        };
        let opened = tokio::time::timeout(login.connect_timeout, open).await;
        opened
            .unwrap_or_else(|_| {
                let limit = login.connect_timeout.as_secs_f64();
                Err(Error::new(ErrorKind::Timeout, format!("no session with {address} within {limit:.0} s")))
            })
            .map_err(|e| e.with("server", &address).with("user", &login.user))
    }

    /// Tells whether the last result was read to its end.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_reading
    }

    /// Id of this connection on the server.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Runs a statement for its effect.
    pub(super) async fn run(&mut self, sql: impl Into<Statement>) -> Result<()> {
        self.rows(sql).await.map(|_| ())
    }

    /// Runs a statement for its first row.
    pub(super) async fn row(&mut self, sql: impl Into<Statement>) -> Result<Option<Row>> {
        Ok(self.rows(sql).await?.into_iter().next())
    }

    /// Runs a statement and collects its rows. For answers that are small by nature.
    pub(super) async fn rows(&mut self, sql: impl Into<Statement>) -> Result<Vec<Row>> {
        let mut result = self.begin(sql).await?;
        let mut rows = Vec::new();
        while let Some(row) = result.next().await? {
            let cells = Cells::of(&row).map(|cell| cell.map(|c| c.map(<[u8]>::to_vec))).collect::<Result<Vec<_>>>()?;
            if cells.len() != result.names.len() {
                return Err(unexpected("a row has another number of cells than the result has columns"));
            }
            rows.push(Row::new(&result.names, cells));
        }
        Ok(rows)
    }

    /// Runs a statement and begins to read its result, of any size.
    pub(super) async fn begin(&mut self, sql: impl Into<Statement>) -> Result<RawRows<'_>> {
        if self.is_reading {
            return Err(Error::new(ErrorKind::Failed, "a result of this connection was not read to its end"));
        }
        let address = self.address.clone();
        let names = self.columns(sql.into()).await.map_err(|e| e.with("server", &address))?;
        self.is_reading = !names.is_empty();
        Ok(RawRows { wire: self, names: names.into() })
    }

    /// Sends a statement and reads the names of its result's columns; none: it has no rows.
    async fn columns(&mut self, sql: Statement) -> Result<Vec<String>> {
        let mut command = vec![COM_QUERY];
        command.extend_from_slice(&sql.into_bytes());
        self.packets.command(&command).await?;
        let first = self.packets.next().await?;
        match first.first() {
            Some(0) => return Ok(Vec::new()),
            Some(&ERR) => return Err(server_error(&first)),
            Some(&LOCAL_INFILE) | None => return Err(unexpected("an answer that was not asked for")),
            Some(_) => {}
        }
        let count = cells::length(&mut &first[..]).ok().flatten().ok_or_else(|| unexpected("no number of columns"))?;
        let mut names = Vec::new();
        for _ in 0..count {
            let definition = self.packets.next().await?;
            // Catalog, schema, table as the statement calls it, table, and then the column as the statement calls it.
            let name = Cells::of(&definition).nth(4).transpose()?.flatten();
            let name = name.ok_or_else(|| unexpected("a column without a name"))?;
            names.push(session::lossy(name));
        }
        let end = self.packets.next().await?;
        if end.first() != Some(&EOF) || end.len() >= EOF_LIMIT {
            return Err(unexpected("no end of the columns"));
        }
        Ok(names)
    }

    /// Reads the server's clock.
    pub(super) async fn now(&mut self) -> Result<DateTime<Utc>> {
        session::read_clock(self.row(session::CLOCK_QUERY).await?)
    }

    /// Says goodbye; a server that does not listen is not waited for.
    pub(super) async fn close(mut self) {
        let limit = std::time::Duration::from_secs(2);
        let _ = tokio::time::timeout(limit, self.packets.command(&[COM_QUIT])).await;
    }
}

/// Rows of a result, as they come.
#[derive(Debug)]
pub(super) struct RawRows<'a> {
    wire: &'a mut Wire,
    names: std::sync::Arc<[String]>,
}

impl RawRows<'_> {
    /// Reads the next row, whose [`Cells`] are as the server sent them.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        if !self.wire.is_reading {
            return Ok(None);
        }
        let packet = match self.wire.packets.buffered() {
            Some(packet) => packet,
            None => self.wire.packets.next().await,
        };
        let packet = packet.map_err(|e| e.with("server", &self.wire.address))?;
        match packet.first() {
            Some(&EOF) if packet.len() < EOF_LIMIT => {
                self.wire.is_reading = false;
                Ok(None)
            }
            Some(&ERR) => {
                self.wire.is_reading = false;
                Err(server_error(&packet).with("server", &self.wire.address))
            }
            Some(_) => Ok(Some(packet)),
            None => Err(unexpected("an empty row")),
        }
    }
}

/// Reads an error packet.
fn server_error(packet: &[u8]) -> Error {
    let Some((code, rest)) = packet.get(1..).and_then(|rest| rest.split_first_chunk::<2>()) else {
        return unexpected("an error without a code");
    };
    // `#` and five characters of SQLSTATE, but for errors before the handshake.
    let message = if rest.first() == Some(&b'#') { rest.get(6..).unwrap_or_default() } else { rest };
    session::from_server(u16::from_le_bytes(*code), session::lossy(message))
}

fn unexpected(what: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("the database server sent {what}"))
        .hint("is it a MySQL or MariaDB server, and nothing else in between?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_server_keep_their_code_before_and_after_the_handshake() {
        let late = server_error(b"\xff\x15\x04#28000Access denied");
        assert_eq!((late.kind(), late.message()), (ErrorKind::Authentication, "Access denied"));
        assert_eq!(session::server_code(&late), Some(1045));
        let early = server_error(b"\xff\x10\x04Too many connections");
        assert_eq!((session::server_code(&early), early.message()), (Some(1040), "Too many connections"));
        assert_eq!(server_error(b"\xff").kind(), ErrorKind::Failed);
    }
}
