//! Classes of findings: the part of an answer that a program may decide on.

use std::fmt;

use super::{Answer, Health};

/// Name of the fact that holds a [`Class`].
pub const CLASS: &str = "class";

/// Name of the fact that holds a [`Role`].
pub const ROLE: &str = "role";

/// What a service is to the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds the data.
    Database,
    /// Holds queues, sessions and caches.
    Redis,
    /// Runs the code.
    Application,
    /// Answers from outside.
    Web,
    /// Works in the background.
    Worker,
}

impl Role {
    /// Returns the stable code that facts and JSON use.
    pub fn code(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Redis => "redis",
            Self::Application => "application",
            Self::Web => "web",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

macro_rules! classes {
    ($($(#[$doc:meta])+ $variant:ident = $code:literal,)+) => {
        /// What kind of finding an answer is. The text of a summary is for people, the class is for triage.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Class {
            $($(#[$doc])+ $variant,)+
        }

        impl Class {
            /// Every class.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Returns the stable code that facts and JSON use.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }
        }
    };
}

classes! {
    /// Nothing wrong.
    Ok = "ok",
    /// The Engine did not answer: nothing is known about what runs on it.
    Engine = "engine",
    /// A secret that the probe needs cannot be read.
    Secret = "secret",
    /// The service has no container.
    Absent = "absent",
    /// The container is not running.
    NotRunning = "not_running",
    /// The kernel killed it for want of memory.
    OutOfMemory = "out_of_memory",
    /// The Engine starts it again and again.
    Restarting = "restarting",
    /// Its own health check fails.
    Unhealthy = "unhealthy",
    /// It is starting.
    Starting = "starting",
    /// Nothing accepts connections at the address.
    Unreachable = "unreachable",
    /// It accepted a connection and then said nothing in time.
    Stalled = "stalled",
    /// The name does not resolve.
    Name = "name",
    /// Credentials were refused: the data may be perfectly well.
    Authentication = "authentication",
    /// No space or inodes left.
    FullDisk = "full_disk",
    /// The server has no connection left to give.
    TooManyConnections = "too_many_connections",
    /// Data is damaged.
    Corrupt = "corrupt",
    /// A temporary server of the first start answered, not the real one.
    InitServer = "init_server",
    /// The server works and holds no data.
    Empty = "empty",
    /// Tables that are expected are not there.
    MissingTables = "missing_tables",
    /// Writes are refused.
    ReadOnly = "read_only",
    /// What was written cannot be kept: RDB or AOF fails.
    Persistence = "persistence",
    /// Memory is used up.
    Memory = "memory",
    /// Slower than agreed.
    Slow = "slow",
    /// The status is not the wanted one.
    HttpStatus = "http_status",
    /// The server behind the web server failed (502, 504).
    Upstream = "upstream",
    /// The application failed (500).
    Application = "application",
    /// Maintenance mode is on (503 with `Retry-After`).
    Maintenance = "maintenance",
    /// The body does not hold what it must.
    Body = "body",
    /// TLS failed for a reason other than the certificate.
    Tls = "tls",
    /// The certificate has expired.
    Expired = "expired",
    /// The certificate expires soon.
    ExpiresSoon = "expires_soon",
    /// The certificate is not valid yet.
    NotYetValid = "not_yet_valid",
    /// The certificate is for another name.
    WrongName = "wrong_name",
    /// The chain does not lead to a trusted root.
    Untrusted = "untrusted",
    /// More work waits than is taken.
    Backlog = "backlog",
    /// A sign of life is too old.
    Stale = "stale",
    /// Work waits, and nobody takes it.
    Stuck = "stuck",
    /// Statements wait for locks that others hold.
    Locked = "locked",
    /// Tables hold far fewer rows than the newest backup.
    RowsMissing = "rows_missing",
    /// Code cannot be parsed.
    Syntax = "syntax",
    /// The environment file cannot be used.
    Environment = "environment",
    /// The web server refuses its configuration.
    Configuration = "configuration",
    /// Another place sees the service, or does not.
    Vantage = "vantage",
    /// Errors were logged.
    Errors = "errors",
    /// Clocks differ.
    Clock = "clock",
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Health {
    /// Sets the class of the finding.
    #[must_use]
    pub fn class(self, class: Class) -> Self {
        self.fact(CLASS, class)
    }

    /// Returns the class of the finding, where one is known.
    pub fn class_of(&self) -> Option<Class> {
        let code = self.facts.get(CLASS)?;
        Class::ALL.iter().copied().find(|c| c.code() == code)
    }
}

impl Answer {
    /// Returns the class of the finding, where one is known.
    pub fn class(&self) -> Option<Class> {
        self.health.class_of()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let mut seen = std::collections::BTreeSet::new();
        for class in Class::ALL {
            assert!(seen.insert(class.code()), "{class} twice");
            assert_eq!(Health::down("x").class(*class).class_of(), Some(*class));
        }
    }
}
