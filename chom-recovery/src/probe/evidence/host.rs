//! What is read of the host, where the Engine is local.

use std::{
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;

use super::json;
use crate::{
    backend::Backend,
    error::{Error, ErrorKind, Result},
    probe::disk::statvfs,
    system::System,
};

/// Most mounts that are listed.
const MOUNTS: usize = 200;
/// Most lines about killed processes, and most bytes of the kernel's log that are read for them.
const KILLS: usize = 100;
const KERNEL_LOG: usize = 4 << 20;
/// Filesystems that hold no files of anybody.
const WITHOUT_ROOM: &[&str] = &[
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "mqueue",
    "securityfs",
    "debugfs",
    "tracefs",
    "pstore",
    "bpf",
    "configfs",
    "fusectl",
    "hugetlbfs",
    "autofs",
    "binfmt_misc",
    "nsfs",
    "rpc_pipefs",
    "efivarfs",
    "overlay",
];

/// How long an Engine may take to say where it runs.
const ASK: Duration = Duration::from_secs(5);
/// Where an Engine keeps its data by default.
const ENGINE_ROOT: &str = "/var/lib/docker";

/// Returns the folder of the Engine's data. One that is silent on a socket of this host is taken for one of this host:
/// then above all it matters what became of the host.
async fn require_local(backend: &dyn Backend) -> Result<String> {
    let is_here = backend.engine_address().starts_with("unix://");
    match tokio::time::timeout(ASK, backend.engine()).await {
        Ok(Ok(engine)) if engine.is_local => Ok(engine.root),
        Ok(Ok(_)) => Err(Error::new(ErrorKind::Unsupported, "the Engine runs on another host")),
        _ if is_here => Ok(ENGINE_ROOT.into()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "the Engine did not say where it runs")),
    }
}

/// Memory, load, kernel pressure, and processes that were killed for want of memory.
pub(super) async fn memory(backend: &dyn Backend) -> Result<Bytes> {
    require_local(backend).await?;
    let mut text = String::new();
    for path in ["/proc/meminfo", "/proc/loadavg", "/proc/uptime", "/proc/pressure/memory", "/proc/pressure/io"] {
        text.push_str(&format!("== {path}\n"));
        // Not every kernel tells of pressure.
        text.push_str(&tokio::fs::read_to_string(path).await.unwrap_or_else(|error| format!("{error}\n")));
    }
    text.push_str("== killed for want of memory, since the host was started\n");
    let counters = tokio::fs::read_to_string("/proc/vmstat").await.unwrap_or_default();
    let count = counters.lines().find(|line| line.starts_with("oom_kill "));
    text.push_str(&format!("{}\n", count.unwrap_or("this kernel does not count them")));
    let kills = tokio::task::spawn_blocking(killed).await;
    text.push_str(&kills.unwrap_or_else(|_| "the kernel's log could not be read".into()));
    Ok(text.into())
}

/// Reads of the kernel's log what it says of processes that it killed.
fn killed() -> String {
    let options = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let mut log = match std::fs::OpenOptions::new().read(true).custom_flags(options).open("/dev/kmsg") {
        Ok(log) => log,
        Err(error) => return format!("the kernel's log cannot be read: {error}\n"),
    };
    let (mut record, mut found, mut read) = ([0; 8192], Vec::new(), 0);
    // Each read gives one record; at the end of the log there is none, and none is waited for.
    while let Ok(length) = log.read(&mut record) {
        read += length;
        let text = String::from_utf8_lossy(&record[..length]);
        let line = text.lines().next().unwrap_or_default();
        let lower = line.to_ascii_lowercase();
        if lower.contains("out of memory") || lower.contains("oom-kill") || lower.contains("oom_reaper") {
            found.push(line.to_owned());
        }
        if length == 0 || read > KERNEL_LOG {
            break;
        }
    }
    if found.is_empty() {
        return "none in the kernel's log\n".into();
    }
    let skipped = found.len().saturating_sub(KILLS);
    found.split_off(skipped).join("\n") + "\n"
}

/// Places whose filesystems matter.
pub(super) struct Places(Vec<(&'static str, PathBuf)>);

impl Places {
    pub(super) fn of(system: &System, evidence: &Path) -> Self {
        let mut places = vec![("state", system.state_dir()), ("evidence", evidence.to_owned())];
        places.extend(system.repository.url.strip_prefix("file:").map(|path| ("store", PathBuf::from(path))));
        Self(places)
    }
}

#[derive(Debug, Serialize)]
struct Filesystem {
    mounted_at: String,
    kind: String,
    /// Gone after a restart.
    in_memory: bool,
    bytes: Option<u64>,
    free_bytes: Option<u64>,
    inodes: Option<u64>,
    free_inodes: Option<u64>,
    /// What of ours lies on it.
    holds: Vec<&'static str>,
    error: Option<String>,
}

/// Measures every filesystem of the host that can hold files, in bytes and inodes.
pub(super) async fn filesystems(backend: &dyn Backend, places: &Places) -> Result<Bytes> {
    let mut places = places.0.clone();
    places.push(("engine", PathBuf::from(require_local(backend).await?)));
    let mounts = tokio::fs::read_to_string("/proc/self/mounts").await?;
    let mut found: Vec<Filesystem> = Vec::new();
    for (at, kind) in mounts_of(&mounts).into_iter().take(MOUNTS) {
        let device = std::fs::metadata(&at).ok().map(|m| m.dev());
        let holds =
            places.iter().filter(|(_, path)| device.is_some() && device_of(path) == device).map(|(what, _)| *what);
        let (space, error) = match statvfs(PathBuf::from(&at)).await {
            Ok(space) => (Some(space), None),
            Err(error) => (None, Some(error.to_string())),
        };
        found.push(Filesystem {
            in_memory: matches!(kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs"),
            bytes: space.and_then(|s| s.bytes),
            free_bytes: space.map(|s| s.free_bytes),
            inodes: space.and_then(|s| s.inodes),
            free_inodes: space.and_then(|s| s.free_inodes),
            holds: holds.collect(),
            mounted_at: at,
            kind,
            error,
        });
    }
    json(&found)
}

fn device_of(path: &Path) -> Option<u64> {
    let existing = path.ancestors().find(|path| path.exists())?;
    std::fs::metadata(existing).ok().map(|m| m.dev())
}

/// Reads mount points and kinds; those that hold no files, or belong to containers, are left out.
fn mounts_of(text: &str) -> Vec<(String, String)> {
    let fields = text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?.replace("\\040", " "), fields.next()?.to_owned()))
    });
    let is_wanted = |(at, kind): &(String, String)| {
        (!WITHOUT_ROOM.contains(&kind.as_str()) || at == "/")
            && !at.contains("/containers/")
            && !at.starts_with("/run/docker/netns")
    };
    fields.filter(is_wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_without_files_and_those_of_containers_are_left_out() {
        let text = "overlay / overlay rw 0 0\nproc /proc proc rw 0 0\n/dev/vda /srv/a\\040b ext4 rw 0 0\n\
                    tmpfs /run tmpfs rw 0 0\nshm /var/lib/docker/containers/x/mounts/shm tmpfs rw 0 0\n";
        let found = mounts_of(text);
        let shown: Vec<_> = found.iter().map(|(at, kind)| (at.as_str(), kind.as_str())).collect();
        assert_eq!(shown, [("/", "overlay"), ("/srv/a b", "ext4"), ("/run", "tmpfs")]);
    }
}
