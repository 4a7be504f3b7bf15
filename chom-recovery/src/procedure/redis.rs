//! A snapshot of redis, which redis itself writes: its RDB file is of one moment, while its AOF grows all the time.

use std::{
    io::{Read, Seek, SeekFrom},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

use crate::{
    backend::{Backend, BackendExt, Mount, MountSource},
    error::{Error, ErrorKind, Result},
    probe::{
        Health,
        redis::{Session, parse_info},
    },
    store::pipe,
    system::{Redis, System},
};

/// Longest time for a snapshot.
const DEADLINE: Duration = Duration::from_mins(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Bytes behind the end marker of an RDB file: a checksum. Source: redis, `src/rdb.c`, `rdbSaveRio`.
const CHECKSUM: i64 = 8;
/// `RDB_OPCODE_EOF` there.
const END: u8 = 0xff;
/// Where the official images keep the data.
const OFFICIAL: &str = "/data";

/// Returns the folder in redis's container that it writes snapshots to.
///
/// # Errors
/// `Precondition`: the configuration knows no redis, or it does not answer.
pub(super) async fn folder(system: &System, backend: &Arc<dyn Backend>) -> Result<PathBuf> {
    let redis = configured(system)?;
    Ok(setting(&mut open(redis, backend).await?, "dir").await?.into())
}

/// Returns the folder in redis's container that must be its data: the only one that is mounted, or else the one of the
/// official images.
///
/// # Errors
/// `NotFound`: there is none.
pub(super) async fn mounted_folder(backend: &dyn Backend, service: &str) -> Result<PathBuf> {
    let containers = backend.service_containers(service).await?;
    let lasting = |m: &&Mount| m.source != MountSource::Tmpfs;
    let targets: Vec<_> =
        containers.iter().flat_map(|c| c.mounts.iter().filter(lasting)).map(|m| m.target.as_str()).collect();
    match targets[..] {
        [one] => Ok(one.into()),
        ref several if several.contains(&OFFICIAL) => Ok(OFFICIAL.into()),
        _ => Err(Error::new(ErrorKind::NotFound, format!("service `{service}` has no folder that must be its data"))),
    }
}

/// Name of the AOF where nothing else is said. Source: redis, `src/config.c`.
pub(super) const AOF: &str = "appendonly.aof";

/// Names the file that redis reads first where its AOF is switched on; `None`: redis does not answer.
///
/// # Errors
/// `InvalidInput`: it names a file of another folder.
pub(super) async fn aof_name(system: &System, backend: &Arc<dyn Backend>) -> Result<Option<String>> {
    let Ok(mut session) = open(configured(system)?, backend).await else { return Ok(None) };
    check_name(setting(&mut session, "appendfilename").await?).map(Some)
}

/// What redis says is not believed further than this folder.
pub(super) fn check_name(name: String) -> Result<String> {
    if matches!(Path::new(&name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]) {
        return Ok(name);
    }
    Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is no name for redis's AOF", name.escape_debug())))
}

/// Names the private note of a backup that holds the name of the AOF.
pub(super) fn aof_note(component: &str) -> String {
    format!("{component}.appendfilename")
}

/// Makes a restored snapshot the AOF as well: a redis whose AOF is switched on reads no snapshot. An AOF may begin with
/// one, since redis 4; redis 7 and later find it under the old name and take it for the base of theirs.
///
/// # Source
/// redis, `src/aof.c`: `loadSingleAppendOnlyFile`, `aofLoadManifestFromDisk`, `aofUpgradePrepare`.
///
/// # Errors
/// `Corrupt`: there is no whole snapshot in the folder.
pub(super) fn snapshot_as_aof(folder: &Path, aof: &str) -> Result<()> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && check(&entry.path()).is_ok() {
            found.push(entry.path());
        }
    }
    let [snapshot] = &found[..] else {
        return Err(Error::new(ErrorKind::Corrupt, "the backup holds no snapshot of redis, or several"));
    };
    let mut from = std::fs::File::open(snapshot)?;
    let meta = from.metadata()?;
    let mut to = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(aof))?;
    std::io::copy(&mut from, &mut to)?;
    std::os::unix::fs::fchown(&to, Some(meta.uid()), Some(meta.gid()))?;
    to.set_permissions(meta.permissions())?;
    to.sync_all()?;
    Ok(std::fs::File::open(folder)?.sync_all()?)
}

pub(super) async fn setting(session: &mut Session, name: &str) -> Result<String> {
    let answer: Vec<String> =
        session.query(redis::cmd("CONFIG").arg("GET").arg(name)).await.map_err(|health| failed(&health))?;
    answer.into_iter().nth(1).ok_or_else(|| Error::new(ErrorKind::Precondition, format!("redis tells no `{name}`")))
}

/// Has redis write a snapshot, and waits until it is there and whole. Returns the name of its file in `folder`, which is
/// where [`folder`] lies on this host.
///
/// # Errors
/// `Failed`: redis could not write it. `Timeout`: it took longer than half an hour. `Corrupt`: it is not whole.
pub(super) async fn snapshot(system: &System, backend: &Arc<dyn Backend>, folder: &Path) -> Result<String> {
    let mut session = open(configured(system)?, backend).await?;
    let name = setting(&mut session, "dbfilename").await?;
    save(&mut session).await?;
    let path = folder.join(&name);
    pipe::blocking(move || check(&path)).await?;
    Ok(name)
}

/// Has redis write a snapshot, and waits until it has.
///
/// # Errors
/// `Failed`: it could not. `Timeout`: it took longer than half an hour.
pub(super) async fn save(session: &mut Session) -> Result<()> {
    let now: Vec<String> = session.query(&redis::cmd("TIME")).await.map_err(|health| failed(&health))?;
    let begun: i64 = now.first().and_then(|seconds| seconds.parse().ok()).unwrap_or(i64::MAX);
    // While the AOF is rewritten, the snapshot follows that.
    let _: String = session.query(redis::cmd("BGSAVE").arg("SCHEDULE")).await.map_err(|health| failed(&health))?;
    let end = Instant::now() + DEADLINE;
    loop {
        let text: String =
            session.query(redis::cmd("INFO").arg("persistence")).await.map_err(|health| failed(&health))?;
        let info = parse_info(&text);
        let get = |name: &str| info.get(name).copied().unwrap_or_default();
        let is_idle = get("rdb_bgsave_in_progress") == "0";
        if is_idle && get("rdb_last_bgsave_status") != "ok" {
            return Err(Error::new(ErrorKind::Failed, "redis could not write its snapshot")
                .hint("its log says why; often the disk is full, or memory cannot be overcommitted for the fork"));
        }
        if is_idle && get("rdb_last_save_time").parse::<i64>().is_ok_and(|at| at >= begun) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("redis wrote no snapshot within {} s", DEADLINE.as_secs()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Looks at both ends of an RDB file.
fn check(path: &Path) -> Result<()> {
    let mut ends = [0; 6];
    let mut read = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
        file.read_exact(&mut ends[..5])?;
        file.seek(SeekFrom::End(-CHECKSUM - 1))?;
        file.read_exact(&mut ends[5..])
    };
    read().map_err(|e| Error::from(e).during(format!("redis's snapshot `{}`", path.display())))?;
    if ends[..5] == *b"REDIS" && ends[5] == END {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("`{}` is no whole snapshot of redis", path.display()))
        .hint("does another program write to that folder?"))
}

pub(super) fn configured(system: &System) -> Result<&Redis> {
    system.redis.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::Precondition, "a component is of kind `redis`, and the configuration knows no redis")
            .hint("add a `[redis]` table with its `service`")
    })
}

pub(super) async fn open(redis: &Redis, backend: &Arc<dyn Backend>) -> Result<Session> {
    Session::open(redis, backend).await.map_err(|health| failed(&health))
}

pub(super) fn failed(health: &Health) -> Error {
    Error::new(ErrorKind::Precondition, format!("redis: {}", health.summary))
        .hint("`chom-recovery health` shows what is wrong with it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aof_elsewhere_is_refused_and_nothing_is_written_over() {
        for name in ["/etc/cron.d/x", "../x", "a/b", "", ".", ".."] {
            assert!(check_name(name.into()).is_err(), "{name}");
        }
        assert_eq!(check_name("app.aof".into()).unwrap(), "app.aof");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dump.rdb"), [&b"REDIS0012"[..], &[0xfe, 0, 0xff], &[1; 8]].concat())
            .unwrap();
        snapshot_as_aof(folder.path(), "app.aof").unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("app.aof"), read("dump.rdb"));
        assert!(snapshot_as_aof(folder.path(), "app.aof").is_err());
    }

    #[test]
    fn a_snapshot_that_was_cut_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump.rdb");
        let whole = [&b"REDIS0012"[..], &[0xfe, 0, 0xff], &[1; 8]].concat();
        std::fs::write(&path, &whole).unwrap();
        check(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(check(&path).is_err(), "{length}");
        }
        assert!(check(&folder.path().join("absent")).is_err());
        std::fs::write(&path, &whole).unwrap();
        std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
        assert!(check(&folder.path().join("link")).is_err(), "links are not followed");
    }
}
