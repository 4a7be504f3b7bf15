//! Exchanging the contents of two volumes of the Engine: which may be, and by which hand.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    client::Connection,
    helper::{HELPER_MOUNT, Helper, folder_mount},
};
use crate::{
    backend::{
        ContainerState, MountSource, Volume, VolumeIdentity,
        exchange::{CONTENT, Folders, LocalFolders, SLOTS, Seen, Slot, exchange, ordered, slot_path},
    },
    error::{Error, ErrorKind, Result},
};

impl Connection {
    /// Exchanges the contents of two volumes.
    pub(super) async fn exchange_volumes(
        self: &Arc<Self>,
        project: &str,
        first: &VolumeIdentity,
        second: &VolumeIdentity,
    ) -> Result<()> {
        if first.volume == second.volume || first.inode == second.inode {
            return Err(Error::new(ErrorKind::InvalidInput, "a volume cannot be exchanged with itself")
                .with("volume", &first.volume));
        }
        let volumes = (self.volume(&first.volume).await?, self.volume(&second.volume).await?);
        let root = common_root(&volumes.0, &volumes.1)?;
        for volume in [&first.volume, &second.volume] {
            self.refuse_in_use(volume).await?;
        }
        let (before_first, before_second) = ((first.device, first.inode), (second.device, second.inode));
        if self.reaches(&volumes.0.mount_point).await? {
            let folders = LocalFolders::new(&root, &first.volume, &second.volume);
            return exchange(&folders, before_first, before_second).await;
        }
        let root = root.to_string_lossy();
        let helper = self.working_helper(project, folder_mount(&root)).await?;
        let folders = HelperFolders { helper: &helper, first: &first.volume, second: &second.volume };
        let result = exchange(&folders, before_first, before_second).await;
        let removed = helper.remove().await;
        result.and(removed)
    }

    async fn refuse_in_use(&self, volume: &str) -> Result<()> {
        for container in self.matching(&[("volume", volume)]).await? {
            let uses = container.mounts.iter().any(|m| m.source == MountSource::Volume(volume.to_owned()));
            let runs =
                !matches!(container.state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead);
            if uses && runs {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("volume `{volume}` is in use by container `{}`", container.name),
                )
                .hint(format!("stop container `{}` first", container.name)));
            }
        }
        Ok(())
    }
}

/// The folder that holds both volumes, `<data root>/volumes`.
fn common_root(first: &Volume, second: &Volume) -> Result<PathBuf> {
    let mut roots = Vec::new();
    for volume in [first, second] {
        let unsupported = |why: String| {
            Error::new(
                ErrorKind::Unsupported,
                format!("the content of volume `{}` cannot be exchanged: {why}", volume.name),
            )
            .hint("only plain volumes of the `local` driver can be exchanged without copying")
        };
        if volume.driver != "local" {
            return Err(unsupported(format!("its driver is `{}`", volume.driver)));
        }
        if !volume.options.is_empty() {
            let keys: Vec<_> = volume.options.keys().map(String::as_str).collect();
            return Err(unsupported(format!("it is a mount of something else (driver options {})", keys.join(", "))));
        }
        let folder = Path::new(&volume.mount_point);
        let root = folder
            .parent()
            .filter(|parent| folder.ends_with(CONTENT) && parent.ends_with(&volume.name))
            .and_then(Path::parent)
            .ok_or_else(|| unsupported(format!("its folder `{}` is not the usual one", volume.mount_point)))?;
        roots.push(root.to_owned());
    }
    if roots[0] == roots[1] {
        return Ok(roots.swap_remove(0));
    }
    Err(Error::new(ErrorKind::Unsupported, "the two volumes do not lie in the same folder of the Engine's host"))
}

/// Folders of the Engine's host, seen through a helper container.
struct HelperFolders<'a> {
    helper: &'a Helper,
    first: &'a str,
    second: &'a str,
}

impl HelperFolders<'_> {
    fn path(&self, slot: Slot) -> String {
        let first = if slot == Slot::Aside { ordered(self.first, self.second).0 } else { self.first };
        slot_path(Path::new(HELPER_MOUNT), first, self.second, slot).to_string_lossy().into_owned()
    }
}

#[async_trait]
impl Folders for HelperFolders<'_> {
    async fn look(&self) -> Result<Seen> {
        const SCRIPT: &str =
            "for path; do if [ -e \"$path\" ]; then stat -c '%d %i' \"$path\" || exit 1; else echo none; fi; done";
        let paths = SLOTS.map(|slot| self.path(slot));
        let mut argv = vec!["sh", "-c", SCRIPT, "sh"];
        argv.extend(paths.iter().map(String::as_str));
        let printed = self.helper.run(&argv).await?;
        let mut seen = [None; 3];
        let mut lines = printed.lines();
        for slot in &mut seen {
            let line = lines.next().unwrap_or_default();
            *slot = match line.split_once(' ').map(|(device, inode)| (device.parse(), inode.parse())) {
                Some((Ok(device), Ok(inode))) => Some((device, inode)),
                None if line == "none" => None,
                _ => return Err(Error::new(ErrorKind::Unsupported, "the helper image's `stat` prints something else")),
            };
        }
        Ok(seen)
    }

    async fn rename(&self, from: Slot, to: Slot) -> Result<()> {
        const SCRIPT: &str = "[ ! -e \"$2\" ] && exec mv -T \"$1\" \"$2\"";
        let (from, to) = (self.path(from), self.path(to));
        self.helper.run(&["sh", "-c", SCRIPT, "sh", &from, &to]).await.map(drop)
    }

    async fn swap(&self) -> Result<bool> {
        // Since coreutils 9.5; others refuse the option before they touch anything.
        const SCRIPT: &str = "mv --help 2>&1 | grep -q -e --exchange || { echo no; exit 0; }; \
            mv -T --exchange --no-copy \"$1\" \"$2\" && echo yes";
        let (first, second) = (self.path(Slot::First), self.path(Slot::Second));
        Ok(self.helper.run(&["sh", "-c", SCRIPT, "sh", &first, &second]).await?.trim() == "yes")
    }

    async fn sync(&self) -> Result<()> {
        self.helper.run(&["sync"]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_drivers_and_mounts_of_something_else_are_refused() {
        let volume = |name: &str, driver: &str, option: Option<&str>| Volume {
            name: name.into(),
            driver: driver.into(),
            mount_point: format!("/var/lib/docker/volumes/{name}/_data"),
            options: option.map(|key| (key.into(), "x".into())).into_iter().collect(),
            labels: crate::backend::Labels::default(),
            created_at: None,
        };
        let plain = volume("a", "local", None);
        assert!(common_root(&plain, &volume("b", "local", None)).is_ok());
        for other in [volume("b", "nfs", None), volume("b", "local", Some("device"))] {
            assert_eq!(common_root(&plain, &other).unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
