//! Exchanging the contents of two volumes of the Engine: which may be, and by which hand.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    client::Connection,
    data::DataFolder,
    helper::{HELPER_MOUNT, Helper, folder_mount},
};
use crate::{
    backend::{
        ContainerState, VolumeIdentity,
        exchange::{Folders, LocalFolders, Seen, Slot, exchange, sibling_slots, volume_slots},
    },
    error::{Error, ErrorKind, Result},
};

impl Connection {
    /// Exchanges the contents of two volumes, or of a folder and the volume that was made beside it.
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
        let contents = [self.data_folder(&first.volume).await?, self.data_folder(&second.volume).await?];
        let places = Places::of(&contents[0], &contents[1])?;
        for content in &contents {
            self.refuse_in_use(content).await?;
        }
        let (before_first, before_second) = ((first.device, first.inode), (second.device, second.inode));
        if self.reaches(&contents[0].path.to_string_lossy()).await? {
            let folders = LocalFolders::below(&places.root, &places.slots);
            return exchange(&folders, before_first, before_second).await;
        }
        let helper = self.working_helper(project, folder_mount(&places.root.to_string_lossy())).await?;
        let folders = HelperFolders { helper: &helper, slots: &places.slots };
        let result = exchange(&folders, before_first, before_second).await;
        let removed = helper.remove().await;
        result.and(removed)
    }

    async fn refuse_in_use(&self, content: &DataFolder) -> Result<()> {
        for container in self.users_of(content).await? {
            if !matches!(container.state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("volume `{}` is in use by container `{}`", content.name, container.name),
                )
                .hint(format!("stop container `{}` first", container.name)));
            }
        }
        Ok(())
    }
}

/// Where both contents lie, and the slots of their exchange below that.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    root: PathBuf,
    slots: [PathBuf; 3],
}

impl Places {
    fn of(first: &DataFolder, second: &DataFolder) -> Result<Self> {
        let places = [first, second]
            .map(|content| if content.is_plain { content.parent().parent() } else { Some(content.parent()) });
        match places {
            [Some(root), Some(other)] if root == other && first.is_plain == second.is_plain => Ok(Self {
                root: root.into(),
                slots: if first.is_plain {
                    volume_slots(&first.name, &second.name)
                } else {
                    sibling_slots(&first.file_name(), &second.file_name())
                },
            }),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("`{}` and `{}` do not lie in the same folder of the Engine's host", first.name, second.name),
            )),
        }
    }
}

/// Folders of the Engine's host, seen through a helper container.
struct HelperFolders<'a> {
    helper: &'a Helper,
    slots: &'a [PathBuf; 3],
}

impl HelperFolders<'_> {
    fn path(&self, slot: Slot) -> String {
        Path::new(HELPER_MOUNT).join(&self.slots[slot as usize]).to_string_lossy().into_owned()
    }
}

#[async_trait]
impl Folders for HelperFolders<'_> {
    async fn look(&self) -> Result<Seen> {
        const SCRIPT: &str =
            "for path; do if [ -e \"$path\" ]; then stat -c '%d %i' \"$path\" || exit 1; else echo none; fi; done";
        let paths = [Slot::First, Slot::Second, Slot::Aside].map(|slot| self.path(slot));
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
    fn contents_that_do_not_lie_together_are_refused() {
        let folder = |name: &str, path: &str, is_plain| DataFolder { name: name.into(), path: path.into(), is_plain };
        let plain = |name: &str| folder(name, &format!("/var/lib/docker/volumes/{name}/_data"), true);
        let places = Places::of(&plain("b"), &plain("a")).unwrap();
        assert_eq!(places.root, Path::new("/var/lib/docker/volumes"));
        assert_eq!(places.slots[..2], [PathBuf::from("b/_data"), PathBuf::from("a/_data")]);
        // The third place is the same in whichever order the two are named.
        assert_eq!(places.slots[2], Places::of(&plain("a"), &plain("b")).unwrap().slots[2]);

        let (bind, beside) = (folder("/srv/data", "/srv/data", false), folder("v", "/srv/v", false));
        let places = Places::of(&bind, &beside).unwrap();
        assert_eq!((places.root.as_path(), &places.slots[1]), (Path::new("/srv"), &PathBuf::from("v")));
        assert_eq!(places.slots[2], Places::of(&beside, &bind).unwrap().slots[2]);
        for other in [folder("w", "/mnt/w", false), plain("a")] {
            assert_eq!(Places::of(&bind, &other).unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
}
