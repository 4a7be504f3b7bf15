//! Where a server is and who asks.

use std::time::Duration;

use crate::secret::Secret;

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
