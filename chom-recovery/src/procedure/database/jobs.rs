//! Queued jobs that may be newer than the restore point: they speak of rows that are gone. They are set aside for
//! review, never dropped.
//!
//! Laravel writes no time into a job on redis (`Illuminate\Queue\RedisQueue::createPayloadArray`), so no job can be
//! proven older than the backup: all that wait are held.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    backend::Backend,
    error::{Error, ErrorKind, Result},
    probe::{Health, redis::Session},
    system::Redis,
};

/// Jobs set aside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldJobs {
    /// What was moved, key by key.
    pub keys: Vec<HeldKey>,
}

impl HeldJobs {
    /// Counts the jobs.
    pub fn count(&self) -> u64 {
        self.keys.iter().map(|k| k.jobs).sum()
    }
}

/// A queue that was moved as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldKey {
    /// Key the workers read.
    pub key: String,
    /// Key where the jobs lie now.
    pub held_as: String,
    /// Number of jobs.
    pub jobs: u64,
}

/// Laravel keeps a queue under three keys: waiting (a list), delayed and reserved (sorted sets), and a list of
/// wake-up notices (`Illuminate\Queue\RedisQueue`).
const PARTS: [&str; 4] = ["", ":delayed", ":reserved", ":notify"];

/// The queues of one system.
pub(in crate::procedure) struct Queues {
    session: Session,
    pairs: Vec<(String, String)>,
}

impl Queues {
    pub(in crate::procedure) async fn open(redis: &Redis, backend: &Arc<dyn Backend>, run_id: &str) -> Result<Self> {
        let session = Session::open(redis, backend).await.map_err(|h| failed(&h))?;
        let pairs = redis
            .queues
            .iter()
            .flat_map(|queue| PARTS.map(|part| format!("{}queues:{queue}{part}", redis.prefix)))
            // A key that no worker reads, beside the queue and named after the run.
            .map(|key| (format!("{key}:held:{run_id}"), key))
            .map(|(held, key)| (key, held))
            .collect();
        Ok(Self { session, pairs })
    }

    /// Moves every queue aside. Each move is one atomic command, and one that was made before is recognised, so that
    /// doing it again after a crash loses and doubles nothing.
    pub(in crate::procedure) async fn hold(&mut self) -> Result<HeldJobs> {
        let mut held = HeldJobs::default();
        for (key, held_as) in self.pairs.clone() {
            if self.size(&key).await? > 0 && !self.query::<bool>("RENAMENX", &[&key, &held_as]).await? {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "redis key `{held_as}` exists and `{key}` has jobs again: a worker or the application runs"
                    ),
                )
                .hint("stop whatever queues jobs, then resume"));
            }
            let jobs = self.size(&held_as).await?;
            // Notices are not jobs; they follow the jobs they belong to.
            if jobs > 0 && !key.ends_with(":notify") {
                held.keys.push(HeldKey { key, held_as, jobs });
            }
        }
        Ok(held)
    }

    /// Puts the jobs back in front of whatever was queued since; harmless when none are held.
    pub(in crate::procedure) async fn release(&mut self) -> Result<u64> {
        let mut back = 0;
        for (key, held_as) in self.pairs.clone() {
            back += match self.query::<String>("TYPE", &[&held_as]).await?.as_str() {
                "list" => self.move_list(&held_as, &key).await?,
                "zset" => self.merge_set(&held_as, &key).await?,
                _ => 0,
            };
        }
        Ok(back)
    }

    async fn move_list(&mut self, from: &str, to: &str) -> Result<u64> {
        let mut moved = 0;
        // From the tail of the one to the head of the other: the order stays, and each move is atomic.
        while self.query::<Option<Vec<u8>>>("LMOVE", &[from, to, "RIGHT", "LEFT"]).await?.is_some() {
            moved += 1;
        }
        Ok(moved)
    }

    async fn merge_set(&mut self, from: &str, to: &str) -> Result<u64> {
        let jobs = self.size(from).await?;
        // A job in both sets is one job: a second run after a crash between the two commands doubles nothing.
        self.query::<u64>("ZUNIONSTORE", &[to, "2", to, from]).await?;
        self.query::<u64>("DEL", &[from]).await?;
        Ok(jobs)
    }

    async fn size(&mut self, key: &str) -> Result<u64> {
        match self.query::<String>("TYPE", &[key]).await?.as_str() {
            "list" => self.query("LLEN", &[key]).await,
            "zset" => self.query("ZCARD", &[key]).await,
            "none" => Ok(0),
            other => Err(Error::new(ErrorKind::Unsupported, format!("redis key `{key}` is a {other}, not a queue"))),
        }
    }

    async fn query<T: redis::FromRedisValue>(&mut self, command: &str, arguments: &[&str]) -> Result<T> {
        let mut request = redis::cmd(command);
        for argument in arguments {
            request.arg(*argument);
        }
        self.session.query(&request).await.map_err(|h| failed(&h))
    }
}

fn failed(health: &Health) -> Error {
    Error::new(ErrorKind::Failed, format!("redis: {}", health.summary))
}
