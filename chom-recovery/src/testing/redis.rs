//! Redis in the simulated world, and the workers that live by it.
//!
//! It speaks its protocol within this process, and what it holds is a file, which outlives a process that is killed. At
//! each start it holds its last snapshot and no more, as after a kill. Its clock is its own: a second passes each time that
//! somebody asks for the time, in which every worker that runs and does not hang gives a sign of life and takes a job.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::{
    database::change,
    sim::{SimBackend, SimLife},
};
use crate::{
    backend::{Container, ContainerState, HealthCheck},
    system::{Redis, System},
};

/// Image of the simulated server.
pub const IMAGE: &str = "redis";
const FILE: &str = "state.json";
/// Time of its clock when it begins, a Unix time.
const BEGIN: u64 = 1_700_000_000;

/// What a configuration says of it; the scheduler's sign of life is the key `beat`.
pub fn configured() -> Redis {
    Redis {
        service: "redis".into(),
        port: 6379,
        password: None,
        address: None,
        database: 0,
        prefix: "shop_".into(),
        queues: vec!["default".into()],
        heartbeat_key: Some("beat".into()),
        heartbeat_age: Duration::from_secs(150),
    }
}

/// What redis holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Keys that are strings, with their prefix.
    pub strings: BTreeMap<String, String>,
    /// Jobs that wait in the first queue, the next one first.
    pub jobs: Vec<String>,
}

/// A redis, and what became of the jobs in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What it holds.
    pub memory: Data,
    /// What it has written to its disk.
    pub snapshot: Data,
    /// Where it copies from, when it was made a replica.
    pub source: Option<(String, u16)>,
    /// Its last snapshot failed, and it refuses writes.
    pub cannot_save: bool,
    /// Jobs that workers took, the first one first.
    pub taken: Vec<String>,
    clock: u64,
    saved_at: u64,
    /// Containers that hang, by when they were started: a new start ends it.
    hung: BTreeMap<String, Option<DateTime<Utc>>>,
}

/// The redis of a simulated system. Clones are the same redis.
#[derive(Debug, Clone)]
pub struct SimRedis {
    folder: PathBuf,
    system: Arc<System>,
    backend: Weak<SimBackend>,
}

impl SimRedis {
    /// Makes it, and registers it at the backend where the system has one configured.
    pub(super) fn register(system: &Arc<System>, backend: &Arc<SimBackend>, folder: &Path) -> Self {
        let redis = Self { folder: folder.to_owned(), system: system.clone(), backend: Arc::downgrade(backend) };
        let starting = redis.clone();
        backend.program(IMAGE, move |_| {
            let begun = starting.change(|state| {
                state.memory = state.snapshot.clone();
                // Neither is said in its configuration.
                (state.source, state.cannot_save) = (None, false);
            });
            if begun.is_ok() { SimLife::Runs(HealthCheck::Healthy) } else { SimLife::Ends(1) }
        });
        if let Some(configured) = &system.redis {
            let serving = redis.clone();
            let container = format!("{}-{}-1", system.compose.project, configured.service);
            backend.server(&container, configured.port, move |client| {
                let redis = serving.clone();
                // A client that goes away ends it.
                tokio::spawn(async move { redis.serve(client).await });
            });
        }
        redis
    }

    /// Reads how it is.
    ///
    /// # Errors
    /// Those of reading.
    pub fn state(&self) -> io::Result<State> {
        match fs::read(self.folder.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(State {
                memory: Data::default(),
                snapshot: Data::default(),
                source: None,
                cannot_save: false,
                taken: Vec::new(),
                clock: BEGIN,
                saved_at: BEGIN,
                hung: BTreeMap::new(),
            }),
            bytes => Ok(serde_json::from_slice(&bytes?)?),
        }
    }

    /// Changes how it is, at once.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn change(&self, change: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state()?;
        change(&mut state);
        fs::create_dir_all(&self.folder)?;
        let fresh = self.folder.join(".new");
        fs::write(&fresh, serde_json::to_vec(&state)?)?;
        fs::rename(fresh, self.folder.join(FILE))
    }

    /// Lets the containers of a service hang until they are started anew. Signs of life grow old meanwhile.
    ///
    /// # Errors
    /// Those of the backend, of reading and writing.
    pub fn hang(&self, service: &str) -> io::Result<()> {
        let containers = self.containers(service);
        self.change(|state| {
            state.hung.extend(containers.into_iter().map(|c| (c.name, c.started_at)));
            state.clock += 1_000;
        })
    }

    fn containers(&self, service: &str) -> Vec<Container> {
        self.backend.upgrade().and_then(|backend| backend.containers_of(service).ok()).unwrap_or_default()
    }

    fn works(state: &State, container: &Container) -> bool {
        let hangs = state.hung.get(&container.name).is_some_and(|since| *since == container.started_at);
        container.state == ContainerState::Running && !hangs
    }

    /// Answers one client until it goes away.
    async fn serve(&self, client: DuplexStream) -> io::Result<()> {
        let Some(redis) = self.system.redis.clone() else { return Ok(()) };
        let mut client = BufReader::new(client);
        while let Some(words) = read(&mut client).await? {
            let (state, containers) = (self.state()?, self.containers(&redis.service));
            if !containers.iter().any(|container| Self::works(&state, container)) {
                // It has the connection, and says nothing.
                std::future::pending::<()>().await;
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let answer = self.answer(&redis, &words)?;
            client.write_all(answer.as_bytes()).await?;
        }
        Ok(())
    }

    fn answer(&self, redis: &Redis, words: &[&str]) -> io::Result<String> {
        let state = self.state()?;
        let queue = format!("{}queues:{}", redis.prefix, redis.queues.first().map_or("", String::as_str));
        Ok(match *words {
            ["PING"] => simple("PONG"),
            ["SELECT" | "AUTH", ..] => simple("OK"),
            ["TIME"] => {
                self.pass_a_second(redis)?;
                array(&[self.state()?.clock.to_string(), "0".into()])
            }
            ["INFO", ..] => bulk(Some(&info(&state))),
            ["CONFIG", "GET", name] => {
                let value = match name {
                    "dir" => "/data",
                    "stop-writes-on-bgsave-error" => "yes",
                    "save" => "3600 1",
                    "dbfilename" => "dump.rdb",
                    _ => return Ok(array(&[])),
                };
                array(&[name.to_owned(), value.to_owned()])
            }
            ["GET", key] => bulk(state.memory.strings.get(key).map(String::as_str)),
            ["LLEN", key] => number(if key == queue { state.memory.jobs.len() } else { 0 }),
            ["LINDEX", key, "0"] => bulk(state.memory.jobs.first().filter(|_| key == queue).map(String::as_str)),
            ["ZRANGE", ..] => array(&[]),
            ["ZCARD" | "ZCOUNT", ..] => number(0),
            ["SET" | "DEL", ..] if state.source.is_some() => {
                error("READONLY You can't write against a read only replica.")
            }
            ["SET" | "DEL", ..] if state.cannot_save => error("MISCONF Redis is configured to save RDB snapshots"),
            ["SET", key, value, ..] => {
                self.effect("SET", |state| drop(state.memory.strings.insert(key.into(), value.into())))?;
                simple("OK")
            }
            ["DEL", key] => {
                self.effect("DEL", |state| drop(state.memory.strings.remove(key)))?;
                number(usize::from(state.memory.strings.contains_key(key)))
            }
            ["BGSAVE", ..] => {
                self.effect("BGSAVE", |state| {
                    state.snapshot = state.memory.clone();
                    (state.saved_at, state.cannot_save) = (state.clock, false);
                })?;
                simple("Background saving started")
            }
            ["REPLICAOF", host, port] => {
                let source = (host != "NO").then(|| (host.to_owned(), port.parse().unwrap_or_default()));
                self.effect("REPLICAOF", |state| state.source = source)?;
                simple("OK")
            }
            _ => error(&format!("ERR unknown command '{}'", words.join(" "))),
        })
    }

    /// A change that somebody asked for: a test may kill the process before and after.
    fn effect(&self, command: &str, effect: impl FnOnce(&mut State)) -> io::Result<()> {
        change(command, || self.change(effect))
    }

    /// Lets the workers do what they do.
    fn pass_a_second(&self, redis: &Redis) -> io::Result<()> {
        let (scheduler, queues) = (self.system.scheduler_service(), self.system.queue_services());
        let of = |services: &[&str]| services.iter().flat_map(|s| self.containers(s)).collect::<Vec<_>>();
        let (schedulers, workers) = (of(scheduler.as_slice()), of(&queues));
        self.change(|state| {
            state.clock += 1;
            if state.source.is_some() || state.cannot_save {
                return;
            }
            let beats = [
                (&schedulers, redis.heartbeat_key.as_ref()),
                (&workers, self.system.partial.queue_heartbeat_key.as_ref()),
            ];
            for (containers, key) in beats {
                if let Some(key) = key.filter(|_| containers.iter().any(|c| Self::works(state, c))) {
                    state.memory.strings.insert(format!("{}{key}", redis.prefix), state.clock.to_string());
                }
            }
            if workers.iter().any(|c| Self::works(state, c)) && !state.memory.jobs.is_empty() {
                let job = state.memory.jobs.remove(0);
                state.taken.push(job);
            }
        })
    }
}

fn info(state: &State) -> String {
    let status = if state.cannot_save { "err" } else { "ok" };
    let keys = state.memory.strings.len() + usize::from(!state.memory.jobs.is_empty());
    let mut lines = vec![
        "redis_version:7.2.0".to_owned(),
        "loading:0".into(),
        "aof_enabled:0".into(),
        "rdb_bgsave_in_progress:0".into(),
        format!("rdb_last_bgsave_status:{status}"),
        format!("rdb_last_save_time:{}", state.saved_at),
        format!("role:{}", if state.source.is_some() { "slave" } else { "master" }),
    ];
    if let Some((host, port)) = &state.source {
        lines.extend([format!("master_host:{host}"), format!("master_port:{port}"), "master_link_status:down".into()]);
    }
    if keys > 0 {
        lines.push(format!("db0:keys={keys},expires=0,avg_ttl=0"));
    }
    lines.join("\r\n")
}

/// Reads a command: an array of strings.
async fn read(client: &mut BufReader<DuplexStream>) -> io::Result<Option<Vec<String>>> {
    let Some(words) = read_length(client, '*').await? else { return Ok(None) };
    let mut found = Vec::new();
    for _ in 0..words {
        let length = read_length(client, '$').await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // With the end of the line.
        let mut bytes = vec![0; length + 2];
        client.read_exact(&mut bytes).await?;
        bytes.truncate(length);
        found.push(String::from_utf8(bytes).map_err(io::Error::other)?);
    }
    Ok(Some(found))
}

async fn read_length(client: &mut BufReader<DuplexStream>, kind: char) -> io::Result<Option<usize>> {
    let mut line = String::new();
    if client.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let length = line.strip_prefix(kind).and_then(|length| length.trim_end().parse().ok());
    length.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn simple(text: &str) -> String {
    format!("+{text}\r\n")
}

fn error(text: &str) -> String {
    format!("-{text}\r\n")
}

fn number(number: usize) -> String {
    format!(":{number}\r\n")
}

fn bulk(text: Option<&str>) -> String {
    text.map_or_else(|| "$-1\r\n".to_owned(), |text| format!("${}\r\n{text}\r\n", text.len()))
}

fn array(texts: &[String]) -> String {
    let all: String = texts.iter().map(|text| bulk(Some(text))).collect();
    format!("*{}\r\n{all}", texts.len())
}
