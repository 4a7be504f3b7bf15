//! Copies a volume that nobody writes to: owners, modes and times, those of the root folder too, holes in files, and links as
//! links. The original is mounted read-only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::one_off::run_to_end;
use crate::{
    backend::{Backend, Container, ContainerState, Labels, Mount, MountSource, Network, OneOff},
    error::{Error, ErrorKind, Result},
};

/// Where the helper sees the original and the copy: paths that no image uses.
const FROM: &str = "/.chom-recovery-from";
const TO: &str = "/.chom-recovery-to";
/// Exit codes of [`COPY`].
const WRITTEN: i64 = 75;
const DIFFERS: i64 = 76;
/// Copies `$1` into the empty `$2`. Clones blocks where the filesystem can. Before and after, the original is looked at: sizes,
/// times, owners, modes and inodes of all that is in it; and at the end the copy has to look as the original does, but for
/// what only a file itself has.
const COPY: &str = r#"
set -eu
state() { find "$1" -xdev -printf '%P\0%y %s %T@ %C@ %i %m %U:%G %l\n' | LC_ALL=C sort | sha256sum; }
look() { find "$1" -xdev \( -type d -printf '%P\0%y %m %U:%G\n' \) -o -printf '%P\0%y %s %m %U:%G %l\n' | LC_ALL=C sort | sha256sum; }
[ -z "$(ls -A "$2")" ] || { echo "the copy's place is not empty" >&2; exit 1; }
before=$(state "$1")
cp -a --reflink=auto --sparse=always "$1/." "$2/"
after=$(state "$1")
[ "$before" = "$after" ] || exit 75
[ "$(look "$1")" = "$(look "$2")" ] || exit 76
sync -f "$2"
find "$2" -xdev -mindepth 1 -printf . | wc -c
du -sk "$2" | cut -f1
"#;

/// What is copied, where to, and by which helper.
#[derive(Debug)]
pub(super) struct Copying<'a> {
    /// Name of the helper, by which a copy that was interrupted is found and ended.
    pub(super) helper: &'a str,
    /// Image with GNU's coreutils and findutils: that of the server.
    pub(super) image: &'a str,
    pub(super) from: &'a MountSource,
    /// An empty volume.
    pub(super) to: &'a str,
    pub(super) labels: &'a Labels,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copied {
    /// Files and folders below the root.
    pub(super) entries: u64,
    /// Bytes that they take.
    pub(super) bytes: u64,
}

/// Copies.
///
/// # Errors
/// `Precondition`: a container that uses the original runs. `Conflict`: the original was written to meanwhile. `Corrupt`: the
/// copy differs from it. `Timeout`: it took longer than `limit`.
pub(super) async fn copy_volume(backend: &dyn Backend, copying: &Copying<'_>, limit: Duration) -> Result<Copied> {
    require_unused(backend, copying.from).await?;
    let mount = |source: MountSource, target: &str, read_only| Mount { source, target: target.to_owned(), read_only };
    let spec = OneOff {
        name: copying.helper.to_owned(),
        image: copying.image.to_owned(),
        entrypoint: Some(["sh", "-c", COPY, "sh", FROM, TO].map(str::to_owned).into()),
        command: Vec::new(),
        env: Vec::new(),
        user: Some("0:0".into()),
        mounts: vec![
            mount(copying.from.clone(), FROM, true),
            mount(MountSource::Volume(copying.to.to_owned()), TO, false),
        ],
        files: Vec::new(),
        network: Network::None,
        own_names: Vec::new(),
        labels: copying.labels.clone(),
        memory: None,
        start: true,
    };
    let ended = run_to_end(backend, &spec, limit).await.map_err(|e| e.during("copying the data files"))?;
    require_unused(backend, copying.from).await?;
    let numbers: Vec<u64> = ended.stdout.iter().filter_map(|line| line.trim().parse().ok()).collect();
    match (ended.code, &numbers[..]) {
        (0, [entries, kilobytes]) => Ok(Copied { entries: *entries, bytes: kilobytes << 10 }),
        (WRITTEN, _) => Err(Error::new(ErrorKind::Conflict, "the data files were written to while they were copied")
            .hint("find out who writes them, stop that, and run it again")),
        (DIFFERS, _) => Err(Error::new(ErrorKind::Corrupt, "the copy of the data files differs from them")),
        (code, _) => {
            let said = ended.stderr.iter().rev().take(4).rev().cloned().collect::<Vec<_>>().join(" | ");
            let full = said.contains("No space left");
            let kind = if full { ErrorKind::NoSpace } else { ErrorKind::Failed };
            Err(Error::new(kind, "the data files could not be copied").with("exit code", code).with("output", said))
        }
    }
}

/// Makes sure that no container that runs, or is about to be started again, uses a content.
///
/// # Errors
/// `Precondition`: one does.
pub(super) async fn require_unused(backend: &dyn Backend, content: &MountSource) -> Result<()> {
    let runs = |container: &Container| {
        matches!(container.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
    };
    let containers = backend.all_containers().await?;
    let user = containers.iter().find(|c| runs(c) && c.mounts.iter().any(|m| m.source == *content && !m.read_only));
    let Some(user) = user else { return Ok(()) };
    let stop = if user.service.is_empty() {
        format!("docker stop {}", user.name)
    } else {
        format!("docker compose -p {} stop {}", backend.project(), user.service)
    };
    Err(Error::new(
        ErrorKind::Precondition,
        format!("container `{}` runs and may write to the data files: a copy of them would be none", user.name),
    )
    .hint(format!("stop it first: {stop}")))
}
