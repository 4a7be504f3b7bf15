//! How php-fpm is asked whether it lives.

use serde::{Deserialize, Serialize};

/// php-fpm of the application, asked directly, without the web server: `[application.php_fpm]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhpFpm {
    /// Port in the application's container.
    pub port: u16,
    /// Address to dial instead of the container's, `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// `ping.path` of the pool. Where the pool has none, its answer that there is no such page shows as well that it lives.
    pub ping_path: String,
}

impl Default for PhpFpm {
    fn default() -> Self {
        Self { port: 9000, address: None, ping_path: "/fpm-ping".into() }
    }
}
