//! Whether Redis answers, takes writes and keeps them: by its own word, and by a write of our own.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, ServerErrorKind, aio::MultiplexedConnection};

use super::{
    Class, Health, HealthProbe,
    net::{self, ANSWER_TIMEOUT, CONNECT_TIMEOUT},
};
use crate::{
    backend::{Backend, Endpoint},
    system::Redis,
};

/// Key that the probe writes for a few seconds, behind the configured prefix; no application has a use for it.
const PROBE_KEY: &str = "chom-recovery:probe";

/// Logs in, sends `PING`, judges `INFO`, and writes one key that goes away by itself.
#[derive(Debug)]
pub struct RedisProbe {
    redis: Redis,
    backend: Arc<dyn Backend>,
}

impl RedisProbe {
    /// Makes the probe `redis`.
    pub fn new(redis: Redis, backend: Arc<dyn Backend>) -> Self {
        Self { redis, backend }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let mut session = Session::open(&self.redis, &self.backend).await?;
        let pong: String = session.query(&redis::cmd("PING")).await?;
        if pong != "PONG" {
            return Err(Health::down("the answer to PING is not PONG").class(Class::Unreachable));
        }
        let info: String = session.query(&redis::cmd("INFO")).await?;
        // Managed servers refuse CONFIG; what it would tell is then left out of the judgement.
        let stops_writes = stops_writes(&mut session).await;
        let health = judge(&parse_info(&info), stops_writes);
        if health.status > super::Status::Degraded || health.class_of() == Some(Class::Starting) {
            return Ok(health);
        }
        match self.write(&mut session).await {
            Err(refused) if refused.class_of() != Some(Class::Authentication) => {
                Ok(Health { facts: health.facts, ..refused.clone() }
                    .class(refused.class_of().unwrap_or(Class::ReadOnly)))
            }
            // An account that may not write tells nothing of one that may.
            Err(_) => Ok(health.fact("write", "not allowed to us")),
            Ok(()) => Ok(health.fact("write", "taken")),
        }
    }

    /// Writes a key that the server removes by itself, and removes it.
    async fn write(&self, session: &mut Session) -> Result<(), Health> {
        let key = format!("{}{PROBE_KEY}", self.redis.prefix);
        let _: Option<String> = session.query(redis::cmd("SET").arg(&key).arg("1").arg("EX").arg(10)).await?;
        let _: u64 = session.query(redis::cmd("DEL").arg(&key)).await?;
        Ok(())
    }
}

#[async_trait]
impl HealthProbe for RedisProbe {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn check(&self) -> Health {
        net::bounded(net::WHOLE, async { self.ask().await.unwrap_or_else(|failure| failure) }).await
    }
}

/// Tells whether a failed snapshot makes redis refuse writes: it does so where there are save points, also with the AOF
/// switched on. `None`: it does not tell.
///
/// # Source
/// redis, `src/db.c` and `src/server.c`: `writeCommandsDeniedByDiskError`.
pub(crate) async fn stops_writes(session: &mut Session) -> Option<bool> {
    let mut get = async |name: &str| {
        let pair: Vec<String> = session.query(redis::cmd("CONFIG").arg("GET").arg(name)).await.ok()?;
        pair.into_iter().nth(1)
    };
    Some(get("stop-writes-on-bgsave-error").await? == "yes" && !get("save").await?.is_empty())
}

/// A connection with the endpoint that keeps it reachable.
pub(crate) struct Session {
    connection: MultiplexedConnection,
    _endpoint: Endpoint,
}

impl Session {
    /// Connects and logs in; the error is already the probe's answer.
    pub(crate) async fn open(redis: &Redis, backend: &Arc<dyn Backend>) -> Result<Self, Health> {
        let endpoint = net::reach(backend, &redis.service, redis.port, redis.address.as_deref()).await?;
        let connection = net::dial(&endpoint).await?;
        let mut settings = RedisConnectionInfo::default().set_db(i64::from(redis.database)).set_skip_set_lib_name();
        if let Some(source) = &redis.password {
            let password = source
                .resolve()
                .await
                .map_err(|e| Health::inconclusive(format!("no password for redis: {e}")).class(Class::Secret))?;
            settings = settings.set_password(password.expose());
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER_TIMEOUT));
        let greeting = MultiplexedConnection::new_with_config(&settings, connection, config);
        let (connection, driver) = tokio::time::timeout(CONNECT_TIMEOUT, greeting)
            .await
            .map_err(|_| Health::down("redis: it does not answer").class(Class::Stalled))?
            .map_err(|e| failure(&e))?;
        // It ends with the connection.
        tokio::spawn(driver);
        Ok(Self { connection, _endpoint: endpoint })
    }

    /// Sends a command; the error is already the probe's answer.
    pub(crate) async fn query<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Health> {
        command.query_async(&mut self.connection).await.map_err(|e| failure(&e))
    }
}

/// Tells what an error of the server or of the connection means.
fn failure(error: &redis::RedisError) -> Health {
    let code = error.code().unwrap_or_default();
    let class = if matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
        || error.kind() == redis::ErrorKind::AuthenticationFailed
        || error.detail().is_some_and(|d| d.contains("invalid password") || d.contains("without any password"))
    {
        Class::Authentication
    } else if error.kind() == redis::ErrorKind::Server(ServerErrorKind::BusyLoading) {
        Class::Starting
    } else if matches!(code, "READONLY" | "NOREPLICAS")
        || error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly)
    {
        Class::ReadOnly
    } else if code == "MISCONF" {
        Class::Persistence
    } else if code == "OOM" {
        Class::Memory
    } else if error.is_timeout() {
        Class::Stalled
    } else {
        Class::Unreachable
    };
    let health = match class {
        Class::Starting => Health::degraded(format!("redis is loading its data: {error}")),
        _ => Health::down(format!("redis: {error}")),
    };
    health.class(class)
}

/// Reads the answer to `INFO`.
pub(crate) fn parse_info(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.trim_end().split_once(':')).collect()
}

/// Lines of `INFO` that an answer shows.
pub(crate) const FACTS: [&str; 13] = [
    "redis_version",
    "role",
    "uptime_in_seconds",
    "aof_enabled",
    "aof_last_write_status",
    "aof_last_bgrewrite_status",
    "rdb_last_bgsave_status",
    "rdb_last_save_time",
    "rdb_changes_since_last_save",
    "used_memory",
    "maxmemory",
    "maxmemory_policy",
    "connected_clients",
];

/// Judges `INFO`; `stops_writes` says whether a failed snapshot stops writes, where that could be read.
pub(crate) fn judge(info: &BTreeMap<&str, &str>, stops_writes: Option<bool>) -> Health {
    let get = |key: &str| info.get(key).copied().unwrap_or_default();
    let number = |key: &str| get(key).parse::<u64>().ok();
    let (used, limit) = (number("used_memory"), number("maxmemory").filter(|m| *m > 0));
    let full = used.zip(limit).is_some_and(|(used, limit)| used >= limit);
    let nearly_full = used.zip(limit).is_some_and(|(used, limit)| used / 9 >= limit / 10);
    let aof_on = get("aof_enabled") == "1";

    let health = if !info.contains_key("redis_version") {
        Health::inconclusive("the answer to INFO lacks `redis_version`")
    } else if get("loading") == "1" {
        Health::degraded("redis is loading its data").class(Class::Starting)
    } else if get("role") == "slave" {
        Health::down(format!("redis is a replica of {}: it takes no writes", get("master_host"))).class(Class::ReadOnly)
    } else if aof_on && get("aof_last_write_status") == "err" {
        Health::down("redis cannot write its append-only file and refuses writes").class(Class::Persistence)
    } else if get("rdb_last_bgsave_status") == "err" && stops_writes == Some(true) {
        Health::down("redis cannot save its snapshot and refuses writes").class(Class::Persistence)
    } else if full && get("maxmemory_policy") == "noeviction" {
        Health::down("redis has used up its memory and refuses writes").class(Class::Memory)
    } else if get("rdb_last_bgsave_status") == "err" || (aof_on && get("aof_last_bgrewrite_status") == "err") {
        Health::degraded("redis works, and its last snapshot or rewrite failed").class(Class::Persistence)
    } else if nearly_full {
        Health::degraded("redis uses nine tenths of its memory or more").class(Class::Memory)
    } else {
        Health::healthy(format!("redis {} answers and takes writes", get("redis_version"))).class(Class::Ok)
    };
    FACTS
        .into_iter()
        .filter_map(|key| info.get_key_value(key))
        .fold(health, |health, (key, value)| health.fact(*key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Status;

    /// As printed by Redis 7.0, shortened.
    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:100\r\n\r\n# Memory\r\n\
        used_memory:1000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\nloading:0\r\n\
        rdb_last_bgsave_status:ok\r\naof_enabled:1\r\naof_last_bgrewrite_status:ok\r\n\
        aof_last_write_status:ok\r\n# Replication\r\nrole:master\r\n";

    #[test]
    fn info_is_judged_by_whether_writes_are_taken_and_kept() {
        for (from, to, status, class) in [
            ("", "", Status::Healthy, Class::Ok),
            ("loading:0", "loading:1", Status::Degraded, Class::Starting),
            ("role:master", "role:slave\r\nmaster_host:10.0.0.9", Status::Down, Class::ReadOnly),
            ("aof_last_write_status:ok", "aof_last_write_status:err", Status::Down, Class::Persistence),
            ("aof_last_bgrewrite_status:ok", "aof_last_bgrewrite_status:err", Status::Degraded, Class::Persistence),
            ("rdb_last_bgsave_status:ok", "rdb_last_bgsave_status:err", Status::Degraded, Class::Persistence),
            ("maxmemory:0", "maxmemory:1000", Status::Down, Class::Memory),
            ("maxmemory:0", "maxmemory:1050", Status::Degraded, Class::Memory),
            ("maxmemory:0", "maxmemory:2000", Status::Healthy, Class::Ok),
        ] {
            let text = if from.is_empty() { INFO.to_owned() } else { INFO.replace(from, to) };
            let health = judge(&parse_info(&text), None);
            assert_eq!((health.status, health.class_of()), (status, Some(class)), "{to}");
        }
    }

    #[test]
    fn a_failed_snapshot_stops_writes_only_where_it_is_configured_so() {
        let text = INFO.replace("rdb_last_bgsave_status:ok", "rdb_last_bgsave_status:err");
        assert_eq!(judge(&parse_info(&text), Some(true)).status, Status::Down);
        assert_eq!(judge(&parse_info(&text), Some(false)).status, Status::Degraded);
    }

    #[test]
    fn an_answer_that_is_not_info_is_inconclusive() {
        assert_eq!(judge(&parse_info("hello"), None).status, Status::Inconclusive);
    }
}
