//! Volumes: what they are called, what they lead to, and what they hold.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Labels;

/// Where a path lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a container, running or not.
    Container(String),
    /// In a volume; the path is relative to its root.
    Volume(String),
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Full name on the Engine.
    pub name: String,
    /// Driver; contents can be exchanged without copying for `local` alone.
    pub driver: String,
    /// Folder on the Engine's host.
    pub mount_point: String,
    /// Driver options, for example a bind or NFS mount.
    pub options: BTreeMap<String, String>,
    /// All labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

impl Volume {
    /// The folder that it stands for, as the options `type: none, o: bind, device: PATH` of the `local` driver say.
    pub(crate) fn bound_folder(&self) -> Option<&str> {
        let is_bind = self.options.get("o").is_some_and(|o| o.split(',').any(|word| matches!(word, "bind" | "rbind")));
        let is_plain = self.options.get("type").is_none_or(|kind| kind.is_empty() || kind == "none");
        let device = self.options.get("device").filter(|_| is_bind && is_plain)?;
        device.starts_with('/').then_some(device.as_str())
    }

    /// The folder of the Engine's host that holds its content, also while nothing mounts it; `None`: there is none, as
    /// with other drivers and with mounts of something else.
    pub(crate) fn host_folder(&self) -> Option<&str> {
        match self.bound_folder() {
            _ if self.driver != "local" => None,
            Some(folder) => Some(folder),
            None => self.options.is_empty().then_some(self.mount_point.as_str()),
        }
    }
}

/// Which content a volume's name leads to: the inode of its root folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeIdentity {
    /// Full name of the volume, or path of a folder of the Engine's host.
    pub volume: String,
    /// Device number of the root folder.
    pub device: u64,
    /// Inode number of the root folder.
    pub inode: u64,
}

/// What a volume holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeContent {
    /// Which content this is.
    pub identity: VolumeIdentity,
    /// Bytes allocated on disk.
    pub bytes: u64,
    /// Files and folders below the root.
    pub entries: u64,
    /// Owner of the root folder.
    pub uid: u32,
    /// Group of the root folder.
    pub gid: u32,
    /// Permission bits of the root folder.
    pub mode: u32,
    /// Bytes free on its filesystem.
    pub free_bytes: u64,
    /// Inodes free on its filesystem; 0 where the filesystem has no such number.
    pub free_inodes: u64,
}
