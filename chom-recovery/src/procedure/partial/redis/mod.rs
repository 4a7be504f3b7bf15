//! Redis: it does not run, does not answer, takes no writes or cannot keep them.
//!
//! Queued jobs and sessions live there, so its cause is mended, and a restart comes last: after a snapshot that redis has
//! written, or when somebody has approved what would be lost.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use self::found::{Fault, Found, ask, judge, look_at};
use super::{containers, count, look, redis_of};
use crate::{
    backend::{BackendExt, ExecRequest},
    error::{Error, ErrorKind, Result},
    objective::Objective,
    probe::{Health, all_of, redis::parse_info},
    procedure::{
        Measured, Parts, Procedure, Recovered,
        proof::{STEADY, moment, pick},
        redis as snapshots,
    },
    run::{Approvable, Effect, Run, Undo},
    system::System,
};

mod found;

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "recover-redis";

/// Time for a clean end: redis writes its data before it ends.
const GRACE: Duration = Duration::from_mins(1);
/// Less than this on its disk, and a snapshot is not tried.
const LEAST_FREE: u64 = 1 << 20;
/// Longest time for a question to the shell in its container.
const COMMAND: Duration = Duration::from_secs(15);

/// What a recovery of redis is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Restart it although it works, after a snapshot.
    #[serde(default)]
    pub restart: bool,
}

/// Gets redis to answer, to take writes and to keep them.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecoverRedis;

/// Approves a restart of a redis that could not save first.
#[derive(Debug)]
pub struct RestartUnsavedRedis;

impl Approvable for RestartUnsavedRedis {
    const NAME: &'static str = "restart-unsaved-redis";
}

/// Approves that a replica whose source answers becomes independent of it.
#[derive(Debug)]
pub struct DetachReplica;

impl Approvable for DetachReplica {
    const NAME: &'static str = "detach-replica";
}

#[async_trait]
impl Procedure for RecoverRedis {
    type Request = Request;

    fn name(&self) -> &'static str {
        PROCEDURE
    }

    fn objective(&self, system: &System) -> Objective {
        system.objectives.partial
    }

    fn check(&self, parts: &Parts, _request: &Request) -> Result<()> {
        redis_of(parts).map(drop)
    }

    async fn recover(&self, run: &Run, parts: &Parts, request: &Request) -> Result<Recovered> {
        let run = run.scope("redis");
        let service = redis_of(parts)?.service.clone();
        let began = moment(&run, "began").await?;
        let found = look_at(&run, parts, &service).await?;
        let fault = run.decide("fault", async { Ok(judge(&found)) }).await?;
        let mut report = Mending { found: found.lines(&fault), ..Mending::default() };
        mend(&run, parts, &service, &found, &fault, &mut report).await?;
        if request.restart && !report.has_restarted {
            save(&run, parts).await?;
            report.done.push("it wrote a snapshot".into());
            restart(&run, parts, &service, &found, &mut report).await?;
        }
        let wanted = ["redis".to_owned(), format!("container-{service}")];
        let proof = all_of("redis-works", pick(parts, began, |name| wanted.iter().any(|w| w == name)));
        run.until_healthy(proof, STEADY).await?;
        take_a_write(&run, parts).await?;
        let proven = moment(&run, "proven").await?;
        let after = count_keys(&run, parts).await?;
        let before = found.said.as_ref().map(|said| said.keys.clone()).unwrap_or_default();
        report.to_review.extend(lost(&before, &after));
        Ok(Recovered {
            found: report.found,
            done: report.done,
            measured: measured(&before, &after),
            to_review: report.to_review,
            ..Recovered::new(self.objective(&parts.system), began, proven)
        })
    }
}

/// What the report will say.
#[derive(Debug, Default)]
struct Mending {
    found: Vec<String>,
    done: Vec<String>,
    to_review: Vec<String>,
    has_restarted: bool,
}

async fn mend(
    run: &Run,
    parts: &Parts,
    service: &str,
    found: &Found,
    fault: &Fault,
    report: &mut Mending,
) -> Result<()> {
    match fault {
        // Loading is waited for by the proof.
        Fault::None | Fault::Loading => {}
        Fault::NotRunning => {
            containers::start(run, parts, &found.site, service, GRACE).await?;
            report.done.push(format!("`{service}` was started"));
            report.has_restarted = true;
        }
        Fault::Replica { host, port, source_answers } => {
            detach(run, parts, (host, *port), *source_answers).await?;
            report.done.push(format!("redis copies from {host}:{port} no longer, and takes writes"));
            report.to_review.push(format!(
                "find out who made redis a replica of {host}:{port}: nobody who means well does that unsaid, and a restart \
                 reads its configuration again"
            ));
        }
        Fault::CannotSave => {
            check_folder(run, parts, service).await?;
            save(run, parts).await?;
            report.done.push("redis wrote a snapshot, and takes writes again".into());
        }
        Fault::MemoryUsedUp => {
            return Err(Error::new(ErrorKind::Precondition, "redis has used up `maxmemory` and evicts nothing").hint(
                "raise `maxmemory` in its configuration, or remove keys that nobody needs; a restart frees none",
            ));
        }
        Fault::Refused { why } => {
            return Err(Error::new(ErrorKind::Authentication, why.clone())
                .hint("correct `redis.password` in the configuration; nothing is lost, and nothing was done"));
        }
        Fault::Silent { why } => {
            let ask = format!("restart redis, which does not answer ({why}); what may be lost: {}", found.at_stake());
            let approval = run.approve::<RestartUnsavedRedis>(&ask).await?;
            let killed = containers::stop_unsaved(run, parts, &found.site, service, GRACE, approval).await?;
            start_again(run, parts, service, found, killed, report).await?;
        }
    }
    Ok(())
}

async fn restart(run: &Run, parts: &Parts, service: &str, found: &Found, report: &mut Mending) -> Result<()> {
    let killed = containers::drain(run, parts, &found.site, service, GRACE).await?;
    start_again(run, parts, service, found, killed, report).await
}

async fn start_again(
    run: &Run,
    parts: &Parts,
    service: &str,
    found: &Found,
    killed: Vec<String>,
    report: &mut Mending,
) -> Result<()> {
    for name in killed {
        report.to_review.push(format!("`{name}` did not end by itself within {} s and was killed", GRACE.as_secs()));
    }
    containers::start(run, parts, &found.site, service, GRACE).await?;
    report.done.push(format!("`{service}` was restarted"));
    report.has_restarted = true;
    Ok(())
}

/// Makes a replica independent. What it holds stays.
async fn detach(run: &Run, parts: &Parts, (host, port): (&str, u16), source_answers: bool) -> Result<()> {
    if source_answers {
        let ask =
            format!("make redis independent of {host}:{port}, which answers; what is written there no longer arrives");
        run.approve::<DetachReplica>(&ask).await?;
    }
    let (mending, undoing, host) = (parts.clone(), parts.clone(), host.to_owned());
    run.step("replicaof-no-one")
        .effect(Effect::Idempotent)
        .input(&(&host, port))
        .budget(Duration::from_secs(10))
        .timeout(Duration::from_mins(1))
        .predict(|| ())
        .undo_with(async move |_, _| replicate(&undoing, &host, &port.to_string(), "slave").await)
        .undo_text("makes it a replica of the same source again, which may replace what it holds")
        .run(async move |_| replicate(&mending, "NO", "ONE", "master").await)
        .await
}

/// Sets what redis copies from, and looks that its role followed.
async fn replicate(parts: &Parts, host: &str, port: &str, role: &str) -> Result<()> {
    let mut session = snapshots::open(redis_of(parts)?, &parts.backend).await?;
    let _: String = session
        .query(redis::cmd("REPLICAOF").arg(host).arg(port))
        .await
        .map_err(|health| snapshots::failed(&health))?;
    let text: String =
        session.query(redis::cmd("INFO").arg("replication")).await.map_err(|health| snapshots::failed(&health))?;
    match parse_info(&text).get("role") {
        Some(now) if *now == role => Ok(()),
        now => Err(Error::new(ErrorKind::Failed, format!("redis is `{}` instead of `{role}`", now.unwrap_or(&"?")))),
    }
}

/// Has redis write a snapshot: with that it takes writes again, and a restart loses nothing.
async fn save(run: &Run, parts: &Parts) -> Result<()> {
    let parts = parts.clone();
    run.step("save")
        .effect(Effect::Idempotent)
        .budget(Duration::from_mins(1))
        .timeout(Duration::from_mins(31))
        .predict(|| ())
        .undo(Undo::Unnecessary("a snapshot of what redis holds harms nobody"))
        .run(async move |_| {
            let mut session = snapshots::open(redis_of(&parts)?, &parts.backend).await?;
            snapshots::save(&mut session).await
        })
        .await
}

/// Looks at the folder that redis cannot write to.
///
/// # Errors
/// `NoSpace`: its disk is full. `Precondition`: redis may not write to it.
async fn check_folder(run: &Run, parts: &Parts, service: &str) -> Result<()> {
    let (parts, service) = (parts.clone(), service.to_owned());
    run.step("check-folder")
        .effect(Effect::Observe)
        .budget(Duration::from_secs(10))
        .timeout(Duration::from_mins(1))
        .run(async move |_| {
            let mut session = snapshots::open(redis_of(&parts)?, &parts.backend).await?;
            let folder = snapshots::setting(&mut session, "dir").await?;
            let container = parts.backend.service_containers(&service).await?.swap_remove(0).name;
            judge_folder(&folder, &shell(&parts, &container, &folder).await)
        })
        .await
}

/// What a shell in redis's container says about a folder: free kibibytes, owner, mode. Empty where it cannot tell.
async fn shell(parts: &Parts, container: &str, folder: &str) -> [String; 2] {
    let ask = async |argv: [&str; 4]| {
        let said = parts.backend.run(container, ExecRequest::new(argv), COMMAND).await.ok()?;
        (said.exit_code == 0).then(|| String::from_utf8_lossy(&said.stdout).into_owned())
    };
    let free = ask(["df", "-P", "-k", folder]).await.unwrap_or_default();
    let owner = ask(["stat", "-c", "%U:%G %a", folder]).await.unwrap_or_default();
    [free, owner.trim().to_owned()]
}

fn judge_folder(folder: &str, [free, owner]: &[String; 2]) -> Result<()> {
    // Filesystem, blocks, used, available.
    let available = free.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    if available.is_some_and(|kib| kib.saturating_mul(1024) < LEAST_FREE) {
        return Err(Error::new(ErrorKind::NoSpace, format!("the disk of redis's folder `{folder}` is full"))
            .hint("free space (old images, rotated logs), then recover redis again; a restart would lose data"));
    }
    let mode = owner.split_whitespace().nth(1).and_then(|mode| u32::from_str_radix(mode, 8).ok());
    if mode.is_some_and(|mode| mode & 0o200 == 0) {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("redis may not write to its folder `{folder}`, which is {owner}"),
        )
        .hint("give the folder back to redis's user with mode 0750, then recover redis again"));
    }
    Ok(())
}

/// Writes a key and reads it back.
async fn take_a_write(run: &Run, parts: &Parts) -> Result<()> {
    let parts = parts.clone();
    run.step("take-a-write")
        .effect(Effect::Idempotent)
        .budget(Duration::from_secs(10))
        .timeout(Duration::from_mins(1))
        .predict(|| ())
        .undo(Undo::Unnecessary("the key is removed, and ends by itself after a minute"))
        .run(async move |cx| {
            let mut session = snapshots::open(redis_of(&parts)?, &parts.backend).await?;
            let (key, value) = (format!("chom-recovery:{}", cx.run_id()), cx.key().to_string());
            let failed = |health: Health| snapshots::failed(&health).during("redis takes no write");
            let _: String =
                session.query(redis::cmd("SET").arg(&key).arg(&value).arg("EX").arg(60)).await.map_err(failed)?;
            let read: Option<String> = session.query(redis::cmd("GET").arg(&key)).await.map_err(failed)?;
            let _: u64 = session.query(redis::cmd("DEL").arg(&key)).await.map_err(failed)?;
            if read.as_ref() == Some(&value) {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Failed, "redis gave back something else than was written"))
        })
        .await
}

async fn count_keys(run: &Run, parts: &Parts) -> Result<BTreeMap<String, u64>> {
    let parts = parts.clone();
    look(run, "count-keys")
        .predict(BTreeMap::new)
        .timeout(Duration::from_mins(1))
        .run(async move |_| Ok(ask(&parts).await.map_err(|health| snapshots::failed(&health))?.keys))
        .await
}

fn measured(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<Measured> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let of = |keys: &BTreeMap<String, u64>, name: &str| {
        // A database without keys is not listed; a redis that did not answer lists none.
        if keys.is_empty() { None } else { count(keys.get(name).copied().unwrap_or(0)) }
    };
    names
        .into_iter()
        .map(|name| Measured {
            name: format!("keys of {name}"),
            unit: String::new(),
            before: of(before, name),
            after: of(after, name),
        })
        .collect()
}

fn lost(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<String> {
    before
        .iter()
        .filter_map(|(name, then)| {
            let now = after.get(name).copied().unwrap_or(0);
            (now < *then).then(|| format!("{name} has {now} keys, and had {then}: some may have expired meanwhile"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{found::keys, *};

    #[test]
    fn keys_are_counted_by_database_and_fewer_are_said() {
        let info = BTreeMap::from([("db0", "keys=5,expires=1,avg_ttl=0"), ("db12", "keys=2,expires=0"), ("dbx", "1")]);
        let before = keys(&info);
        assert_eq!(before, BTreeMap::from([("db0".to_owned(), 5), ("db12".to_owned(), 2)]));
        let after = BTreeMap::from([("db0".to_owned(), 5)]);
        assert_eq!(lost(&before, &after), ["db12 has 0 keys, and had 2: some may have expired meanwhile"]);
        assert_eq!(measured(&before, &after)[1].after, Some(0.0));
        assert_eq!(measured(&BTreeMap::new(), &after)[0].before, None, "it did not answer");
    }

    #[test]
    fn a_full_disk_and_a_folder_of_somebody_else_are_told_apart() {
        let df = |free: &str| {
            format!("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 10 9 {free} 99% /data\n")
        };
        let judged =
            |free: &str, owner: &str| judge_folder("/data", &[df(free), owner.to_owned()]).map_err(|e| e.kind());
        assert_eq!(judged("3", "redis:redis 750"), Err(ErrorKind::NoSpace));
        assert_eq!(judged("999999", "root:root 555"), Err(ErrorKind::Precondition));
        assert_eq!(judged("999999", "redis:redis 750"), Ok(()));
        assert_eq!(judge_folder("/data", &[String::new(), String::new()]).map_err(|e| e.kind()), Ok(()), "not known");
    }
}
