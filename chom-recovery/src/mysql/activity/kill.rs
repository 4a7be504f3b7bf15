//! Ending a statement or an idle connection: the very one that was looked at, or none.

use serde::{Deserialize, Serialize};

use super::{Busy, sessions};
use crate::{
    error::{Error, Result},
    mysql::{
        info::Flavour,
        server::Server,
        session::{Role, server_code},
    },
};

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It was ended.
    Killed,
    /// It had ended by itself, or the connection does something else now: nothing was done.
    GoneAlready,
}

impl Server {
    /// Ends a statement (`KILL QUERY`), if it still is the one that was seen. Its connection stays, and so does its
    /// transaction without what the statement did.
    ///
    /// MariaDB names the very statement. MySQL cannot: the connection is looked at right before.
    ///
    /// # Errors
    /// `Precondition`: the account may not.
    pub async fn kill_query(&self, seen: &Busy) -> Result<Ended> {
        let mut session = self.session(Role::Read).await?;
        let sql = match (self.info().flavour, seen.query) {
            (Flavour::Mariadb, Some(query)) => format!("KILL QUERY ID {query}"),
            _ => {
                let now = sessions(&mut session, self.info().flavour).await?;
                if !now.iter().any(|one| is_same_statement(one, seen)) {
                    return Ok(Ended::GoneAlready);
                }
                format!("KILL QUERY {}", seen.connection)
            }
        };
        let ended = ended(session.run(sql).await.map(drop));
        session.close().await;
        ended
    }

    /// Ends a connection whose transaction is idle, if it still is the one that was seen. What the transaction changed is
    /// changed back.
    ///
    /// # Errors
    /// `Precondition`: the account may not.
    pub async fn kill_idle(&self, seen: &Busy) -> Result<Ended> {
        let mut session = self.session(Role::Read).await?;
        let now = sessions(&mut session, self.info().flavour).await?;
        if !now.iter().any(|one| is_same_idle(one, seen)) {
            return Ok(Ended::GoneAlready);
        }
        let ended = ended(session.run(format!("KILL CONNECTION {}", seen.connection)).await.map(drop));
        session.close().await;
        ended
    }

    /// Tells whether the statement still runs.
    ///
    /// # Errors
    /// Those of asking.
    pub async fn still_runs(&self, seen: &Busy) -> Result<bool> {
        let now = self.now().await?;
        Ok(now.iter().any(|one| is_same_statement(one, seen)))
    }

    /// Tells whether the idle transaction is still there.
    ///
    /// # Errors
    /// Those of asking.
    pub async fn still_idles(&self, seen: &Busy) -> Result<bool> {
        let now = self.now().await?;
        Ok(now.iter().any(|one| is_same_idle(one, seen)))
    }

    async fn now(&self) -> Result<Vec<Busy>> {
        let mut session = self.session(Role::Read).await?;
        let now = sessions(&mut session, self.info().flavour).await?;
        session.close().await;
        Ok(now)
    }
}

/// A statement is the same while it grows older.
fn is_same_statement(now: &Busy, seen: &Busy) -> bool {
    now.connection == seen.connection
        && now.query == seen.query
        && now.user == seen.user
        && now.text == seen.text
        && now.seconds >= seen.seconds
        && !now.is_idle()
}

fn is_same_idle(now: &Busy, seen: &Busy) -> bool {
    let id = |one: &Busy| one.transaction.as_ref().map(|t| t.id.clone());
    now.connection == seen.connection
        && now.user == seen.user
        && now.is_idle()
        && id(now).is_some()
        && id(now) == id(seen)
}

/// 1094: no such connection. 1957: no such statement (MariaDB).
fn ended(result: Result<(), Error>) -> Result<Ended> {
    match result {
        Ok(()) => Ok(Ended::Killed),
        Err(e) if matches!(server_code(&e), Some(1094 | 1957)) => Ok(Ended::GoneAlready),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::ErrorKind, mysql::activity::Transaction};

    #[test]
    fn another_statement_of_the_same_connection_is_not_the_one_that_was_seen() {
        let seen = Busy {
            connection: 7,
            command: "Query".into(),
            seconds: 30,
            text: "SELECT SLEEP(99)".into(),
            ..Busy::default()
        };
        assert!(is_same_statement(&Busy { seconds: 31, ..seen.clone() }, &seen));
        for other in [
            Busy { seconds: 2, ..seen.clone() },
            Busy { text: "SELECT 1".into(), ..seen.clone() },
            Busy { connection: 8, ..seen.clone() },
            Busy { query: Some(5), ..seen.clone() },
            Busy { command: "Sleep".into(), ..seen.clone() },
        ] {
            assert!(!is_same_statement(&other, &seen), "{other:?}");
        }
    }

    #[test]
    fn a_connection_that_works_again_is_not_ended() {
        let transaction = Some(Transaction { id: "9".into(), ..Transaction::default() });
        let seen = Busy { connection: 7, command: "Sleep".into(), transaction, ..Busy::default() };
        assert!(is_same_idle(&seen, &seen));
        assert!(!is_same_idle(&Busy { command: "Query".into(), ..seen.clone() }, &seen));
        let next = Some(Transaction { id: "10".into(), ..Transaction::default() });
        assert!(!is_same_idle(&Busy { transaction: next, ..seen.clone() }, &seen));
        assert!(!is_same_idle(&Busy { transaction: None, ..seen.clone() }, &seen));
    }

    #[test]
    fn what_is_gone_already_is_no_error() {
        let coded = |code: u16| Err(Error::new(ErrorKind::Failed, "x").with("code", code));
        assert_eq!(ended(coded(1094)).unwrap(), Ended::GoneAlready);
        assert_eq!(ended(coded(1957)).unwrap(), Ended::GoneAlready);
        assert!(ended(coded(1095)).is_err());
    }
}
