//! Causes: the stable names of what triage can find.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Selected;

/// What is probably broken. The names are stable: scripts, scenarios and documentation speak of the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// The Engine does not answer, and the service does or is not asked.
    EngineUnreachable,
    /// Neither Engine nor service answers.
    HostUnreachable,
    /// Neither answers here, and both are seen from elsewhere.
    NetworkBetween,
    /// Database, application and web server are down.
    EverythingDown,
    /// A disk has no room left.
    DiskFull,
    /// The database refuses the credentials of this program.
    DatabaseCredentials,
    /// Pages, tables or the dictionary are damaged.
    DatabaseCorrupt,
    /// Tables are gone.
    TablesMissing,
    /// The database sets up an empty data directory.
    DatabaseFirstStart,
    /// The database has no connection left.
    DatabaseConnections,
    /// The database does not run or does not answer.
    DatabaseDown,
    /// Redis refuses the credentials of this program.
    RedisCredentials,
    /// Redis does not run or does not answer.
    RedisDown,
    /// Redis answers and takes no writes.
    RedisReadOnly,
    /// Statements wait for locks.
    LockWaits,
    /// Code cannot be parsed.
    CodeBroken,
    /// The environment file cannot be used.
    EnvironmentBroken,
    /// The database refuses the application's credentials.
    ApplicationCredentials,
    /// The application does not run.
    ApplicationDown,
    /// The application runs and does not answer the web server, nor anybody else.
    UpstreamDead,
    /// The application answers with errors.
    ApplicationErrors,
    /// The web server refuses its configuration.
    WebConfiguration,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is for another name, or does not belong to its key.
    CertificateMismatched,
    /// The certificate is refused for another reason.
    CertificateRefused,
    /// The certificate expires soon.
    CertificateExpiresSoon,
    /// The application answers, and the web server does not reach it.
    UpstreamNotReached,
    /// The web server does not run or does not answer.
    WebDown,
    /// The name of the service does not resolve.
    NameUnresolved,
    /// Maintenance mode is on.
    MaintenanceOn,
    /// Queued jobs are not taken.
    QueueStuck,
    /// The scheduler gives no sign of life.
    SchedulerDead,
    /// Tables hold far fewer rows than the newest backup.
    RowsMissing,
    /// Many statements run for long.
    SlowStatements,
    /// The service answers slowly, and why is not seen.
    Slow,
    /// The service works, and something is not as it should be.
    Degraded,
    /// No fault was found, and not every probe could tell.
    Unknown,
    /// Nothing is wrong.
    Nothing,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 38] = [
        Self::EngineUnreachable,
        Self::HostUnreachable,
        Self::NetworkBetween,
        Self::EverythingDown,
        Self::DiskFull,
        Self::DatabaseCredentials,
        Self::DatabaseCorrupt,
        Self::TablesMissing,
        Self::DatabaseFirstStart,
        Self::DatabaseConnections,
        Self::DatabaseDown,
        Self::RedisCredentials,
        Self::RedisDown,
        Self::RedisReadOnly,
        Self::LockWaits,
        Self::CodeBroken,
        Self::EnvironmentBroken,
        Self::ApplicationCredentials,
        Self::ApplicationDown,
        Self::UpstreamDead,
        Self::ApplicationErrors,
        Self::WebConfiguration,
        Self::CertificateExpired,
        Self::CertificateMismatched,
        Self::CertificateRefused,
        Self::CertificateExpiresSoon,
        Self::UpstreamNotReached,
        Self::WebDown,
        Self::NameUnresolved,
        Self::MaintenanceOn,
        Self::QueueStuck,
        Self::SchedulerDead,
        Self::RowsMissing,
        Self::SlowStatements,
        Self::Slow,
        Self::Degraded,
        Self::Unknown,
        Self::Nothing,
    ];

    /// Returns the name that the command line and JSON use.
    pub fn code(self) -> &'static str {
        match self {
            Self::EngineUnreachable => "engine-unreachable",
            Self::HostUnreachable => "host-unreachable",
            Self::NetworkBetween => "network-between",
            Self::EverythingDown => "everything-down",
            Self::DiskFull => "disk-full",
            Self::DatabaseCredentials => "database-credentials",
            Self::DatabaseCorrupt => "database-corrupt",
            Self::TablesMissing => "tables-missing",
            Self::DatabaseFirstStart => "database-first-start",
            Self::DatabaseConnections => "database-connections",
            Self::DatabaseDown => "database-down",
            Self::RedisCredentials => "redis-credentials",
            Self::RedisDown => "redis-down",
            Self::RedisReadOnly => "redis-read-only",
            Self::LockWaits => "lock-waits",
            Self::CodeBroken => "code-broken",
            Self::EnvironmentBroken => "environment-broken",
            Self::ApplicationCredentials => "application-credentials",
            Self::ApplicationDown => "application-down",
            Self::UpstreamDead => "upstream-dead",
            Self::ApplicationErrors => "application-errors",
            Self::WebConfiguration => "web-configuration",
            Self::CertificateExpired => "certificate-expired",
            Self::CertificateMismatched => "certificate-mismatched",
            Self::CertificateRefused => "certificate-refused",
            Self::CertificateExpiresSoon => "certificate-expires-soon",
            Self::UpstreamNotReached => "upstream-not-reached",
            Self::WebDown => "web-down",
            Self::NameUnresolved => "name-unresolved",
            Self::MaintenanceOn => "maintenance-on",
            Self::QueueStuck => "queue-stuck",
            Self::SchedulerDead => "scheduler-dead",
            Self::RowsMissing => "rows-missing",
            Self::SlowStatements => "slow-statements",
            Self::Slow => "slow",
            Self::Degraded => "degraded",
            Self::Unknown => "unknown",
            Self::Nothing => "nothing",
        }
    }

    /// Returns the procedure of the runbook that it selects.
    pub fn procedure(self) -> Selected {
        match self {
            Self::HostUnreachable | Self::EverythingDown => Selected::FullSystem,
            Self::DatabaseCorrupt | Self::TablesMissing | Self::DatabaseFirstStart | Self::DatabaseDown => {
                Selected::Database
            }
            Self::CodeBroken
            | Self::EnvironmentBroken
            | Self::ApplicationCredentials
            | Self::ApplicationDown
            | Self::UpstreamDead
            | Self::ApplicationErrors => Selected::Application,
            Self::WebConfiguration
            | Self::CertificateExpired
            | Self::CertificateMismatched
            | Self::CertificateRefused
            | Self::CertificateExpiresSoon
            | Self::UpstreamNotReached
            | Self::WebDown => Selected::Nginx,
            Self::DatabaseConnections | Self::LockWaits | Self::SlowStatements | Self::Slow => Selected::Performance,
            Self::RedisDown | Self::RedisReadOnly => Selected::Redis,
            Self::QueueStuck => Selected::Queue,
            Self::SchedulerDead => Selected::Scheduler,
            Self::EngineUnreachable
            | Self::NetworkBetween
            | Self::DiskFull
            | Self::DatabaseCredentials
            | Self::RedisCredentials
            | Self::NameUnresolved
            | Self::MaintenanceOn
            | Self::RowsMissing
            | Self::Degraded
            | Self::Unknown
            | Self::Nothing => Selected::None,
        }
    }

    /// Returns the command to type; `None` where the advice says what a person has to do.
    pub fn command(self) -> Option<&'static str> {
        match self.procedure() {
            Selected::Database => Some("chom-recovery recover database"),
            Selected::Application => Some("chom-recovery recover application"),
            Selected::Nginx => Some("chom-recovery recover nginx"),
            Selected::Performance => Some("chom-recovery recover performance"),
            Selected::Queue => Some("chom-recovery recover queue"),
            Selected::Redis => Some("chom-recovery recover redis"),
            Selected::Scheduler => Some("chom-recovery recover scheduler"),
            Selected::FullSystem | Selected::None => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_documented() {
        let page = include_str!("../docs/triage.md");
        for cause in Cause::ALL {
            assert!(page.contains(&format!("`{cause}`")), "{cause}");
        }
    }

    #[test]
    fn codes_are_those_of_json_and_each_procedure_but_two_has_a_command() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.code());
            let by_hand = matches!(cause.procedure(), Selected::None | Selected::FullSystem);
            assert_eq!(cause.command().is_none(), by_hand, "{cause}");
        }
        let codes: std::collections::BTreeSet<_> = Cause::ALL.iter().map(|c| c.code()).collect();
        assert_eq!(codes.len(), Cause::ALL.len());
    }
}
