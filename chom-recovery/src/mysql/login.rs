//! Where a server is and who asks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    quote,
    session::{Role, Session, server_code},
};
use crate::{
    error::{ErrorKind, Result},
    secret::Secret,
};

/// Address and account of a server. Prints without its password.
#[derive(Debug, Clone)]
pub struct Login {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Account name.
    pub user: String,
    /// Password.
    pub password: Secret,
    /// Longest time for one connection, handshake and session settings included.
    pub connect_timeout: Duration,
}

impl Login {
    /// Makes a login with a connect timeout of ten seconds.
    pub fn new(host: impl Into<String>, port: u16, user: impl Into<String>, password: Secret) -> Self {
        Self { host: host.into(), port, user: user.into(), password, connect_timeout: Duration::from_secs(10) }
    }

    /// Names the server in messages: `host:port`.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// What a server says to a login that is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginAnswer {
    /// It lets the account in, and to the schema.
    LetIn,
    /// It refuses user or password, and does not tell which.
    AccountRefused,
    /// It lets the account in; the schema is not there, or not for this account.
    SchemaRefused,
}

/// Logs in once over TCP, asks for a schema, and leaves. What the server refuses is an answer, not an error.
///
/// # Errors
/// `Unreachable`, `Timeout`: it did not answer. `Authentication`: the account may not connect from this machine, which says
/// nothing of others.
///
/// # Source
/// MySQL "Server Error Message Reference": 1044 `ER_DBACCESS_DENIED_ERROR`, 1049 `ER_BAD_DB_ERROR`, 1130
/// `ER_HOST_NOT_PRIVILEGED`.
pub(crate) async fn try_login(login: &Login, schema: &str) -> Result<LoginAnswer> {
    let mut session = match Session::open(login, Role::Guest).await {
        Err(e) if e.kind() == ErrorKind::Authentication && server_code(&e) != Some(1130) => {
            return Ok(LoginAnswer::AccountRefused);
        }
        session => session?,
    };
    let used = session.run(format!("USE {}", quote::ident(schema))).await;
    session.close().await;
    match used {
        Ok(_) => Ok(LoginAnswer::LetIn),
        Err(e) if matches!(server_code(&e), Some(1044 | 1049)) => Ok(LoginAnswer::SchemaRefused),
        Err(e) => Err(e),
    }
}
