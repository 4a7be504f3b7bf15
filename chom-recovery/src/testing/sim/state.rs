//! The simulated world as files: every effect is one rename or one append, so that a process killed at any instant
//! leaves either the world before it or the world after it.

use std::{
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    backend::{Container, Labels, LogLine, MountSource, Project, Usage, Volume, exchange::CONTENT},
    error::{Error, ErrorKind, Result},
};

/// What is remembered of a container beyond what the port shows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) container: Container,
    pub(super) argv: Vec<String>,
    pub(super) usage: Usage,
    #[serde(default)]
    pub(super) environment: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct VolumeRecord {
    labels: Labels,
    created_at: chrono::DateTime<chrono::Utc>,
}

/// The folder that the world lives in.
#[derive(Debug, Clone)]
pub(super) struct World {
    root: PathBuf,
}

impl World {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(super) fn project_file(&self) -> PathBuf {
        self.root.join("project.json")
    }

    pub(super) fn calls_file(&self) -> PathBuf {
        self.root.join("calls.jsonl")
    }

    /// Folder of a container's own files.
    pub(super) fn files_of(&self, container: &str) -> PathBuf {
        self.root.join("files").join(container)
    }

    /// Folder with the content of a volume.
    pub(super) fn content_of(&self, volume: &str) -> PathBuf {
        self.volumes().join(volume).join(CONTENT)
    }

    /// The folder that a path of a container lies in, and the path from there: the nearest mount that covers it, or the
    /// container's own files.
    pub(super) fn place_in(&self, container: &Container, path: &str) -> (PathBuf, String) {
        let covering = container.mounts.iter().filter_map(|mount| {
            let rest = path.strip_prefix(&mount.target).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            match &mount.source {
                MountSource::Volume(volume) => Some((mount, self.content_of(volume), rest)),
                MountSource::HostPath(folder) => Some((mount, folder.into(), rest)),
                MountSource::Tmpfs => None,
            }
        });
        match covering.max_by_key(|(mount, ..)| mount.target.len()) {
            Some((_, folder, rest)) => (folder, rest.to_owned()),
            None => (self.files_of(&container.name), path.to_owned()),
        }
    }

    /// Where a path of a container lies on this host.
    pub(super) fn path_in(&self, container: &Container, path: &str) -> PathBuf {
        let (folder, rest) = self.place_in(container, path);
        folder.join(rest.trim_start_matches('/'))
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    fn record_file(&self, container: &str) -> PathBuf {
        self.root.join("containers").join(format!("{container}.json"))
    }

    fn log_file(&self, container: &str) -> PathBuf {
        self.root.join("logs").join(format!("{container}.jsonl"))
    }

    pub(super) fn create(&self, project: &Project) -> Result<()> {
        for folder in ["containers", "files", "volumes", "logs"] {
            std::fs::create_dir_all(self.root.join(folder))?;
        }
        write_atomically(&self.project_file(), project, false)
    }

    pub(super) fn project(&self) -> Result<Project> {
        read(&self.project_file())?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no simulated world in `{}`", self.root.display())))
    }

    /// Finds a container by name or id.
    pub(super) fn record(&self, name: &str) -> Result<Option<Record>> {
        if let Some(record) = read(&self.record_file(name))? {
            return Ok(Some(record));
        }
        Ok(self.records()?.into_iter().find(|record: &Record| record.container.id == name))
    }

    /// All containers, in the order of their names.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        for entry in std::fs::read_dir(self.root.join("containers"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json")
                && let Some(record) = read(&path)?
            {
                records.push(record);
            }
        }
        records.sort_by(|a, b| a.container.name.cmp(&b.container.name));
        Ok(records)
    }

    /// Makes a container; its files come first, so that it is never seen without them.
    pub(super) fn add(&self, record: &Record) -> Result<()> {
        write_atomically(&self.record_file(&record.container.name), record, true)
    }

    pub(super) fn put(&self, record: &Record) -> Result<()> {
        write_atomically(&self.record_file(&record.container.name), record, false)
    }

    pub(super) fn remove(&self, container: &str) -> Result<()> {
        ignore_absent(std::fs::remove_file(self.record_file(container)))?;
        ignore_absent(std::fs::remove_file(self.log_file(container)))?;
        ignore_absent(std::fs::remove_dir_all(self.files_of(container)))
    }

    pub(super) fn add_volume(&self, name: &str, labels: &Labels) -> Result<()> {
        // Made whole under another name and renamed, like the Engine's own is not.
        let making = self.volumes().join(format!(".making-{}", ulid::Ulid::new()));
        std::fs::create_dir_all(making.join(CONTENT))?;
        let record = VolumeRecord { labels: labels.clone(), created_at: chrono::Utc::now() };
        std::fs::write(making.join("volume.json"), serde_json::to_vec(&record).map_err(std::io::Error::from)?)?;
        let made = renameat_with(CWD, &making, CWD, self.volumes().join(name), RenameFlags::NOREPLACE);
        if let Err(error) = made {
            std::fs::remove_dir_all(&making)?;
            return Err(Error::from(std::io::Error::from(error)).during(format!("cannot create volume `{name}`")));
        }
        Ok(())
    }

    pub(super) fn volume(&self, name: &str) -> Result<Option<Volume>> {
        let Some(record) = read::<VolumeRecord>(&self.volumes().join(name).join("volume.json"))? else {
            return Ok(None);
        };
        Ok(Some(Volume {
            name: name.into(),
            driver: "local".into(),
            mount_point: self.content_of(name).to_string_lossy().into_owned(),
            options: std::collections::BTreeMap::new(),
            labels: record.labels,
            created_at: Some(record.created_at),
        }))
    }

    pub(super) fn all_volumes(&self) -> Result<Vec<Volume>> {
        let mut volumes = Vec::new();
        for entry in std::fs::read_dir(self.volumes())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                volumes.extend(self.volume(&name)?);
            }
        }
        volumes.sort_by(|a: &Volume, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    pub(super) fn remove_volume(&self, name: &str) -> Result<()> {
        let going = self.volumes().join(format!(".going-{}", ulid::Ulid::new()));
        ignore_absent(std::fs::rename(self.volumes().join(name), &going))?;
        ignore_absent(std::fs::remove_dir_all(going))
    }

    pub(super) fn append_log(&self, container: &str, line: &LogLine) -> Result<()> {
        append(&self.log_file(container), line)
    }

    pub(super) fn log(&self, container: &str) -> Result<Vec<LogLine>> {
        read_lines(&self.log_file(container))
    }
}

fn ignore_absent(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Ok(other?),
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(std::io::Error::from)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::from(e).during(format!("cannot read `{}`", path.display()))),
    }
}

fn write_atomically<T: Serialize>(path: &Path, value: &T, new: bool) -> Result<()> {
    let temporary = path.with_extension(format!("new-{}", ulid::Ulid::new()));
    std::fs::write(&temporary, serde_json::to_vec_pretty(value).map_err(std::io::Error::from)?)?;
    if !new {
        return Ok(std::fs::rename(&temporary, path)?);
    }
    let renamed = renameat_with(CWD, &temporary, CWD, path, RenameFlags::NOREPLACE);
    if let Err(error) = renamed {
        std::fs::remove_file(&temporary)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        return Err(Error::from(std::io::Error::from(error)).during(format!("cannot create container `{name}`")));
    }
    Ok(())
}

/// Appends one line with one write, which a kill cannot cut in two.
pub(super) fn append<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(std::io::Error::from)?;
    line.push(b'\n');
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    Ok(file.write_all(&line)?)
}

pub(super) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(std::io::Error::from)?)
}

/// Packs a path as the Engine does: named after its last part, or `./` for the content of a folder.
pub(super) fn pack(root: &Path, path: &str) -> Result<Vec<u8>> {
    let content = path.is_empty() || path == "." || path.ends_with("/.");
    let plain = path.trim_end_matches("/.").trim_matches('/');
    let plain = if plain == "." { "" } else { plain };
    let source = root.join(plain);
    let missing = |e: std::io::Error| Error::from(e).during(format!("cannot read `{path}`"));
    let meta = std::fs::symlink_metadata(&source).map_err(missing)?;
    let top = if content { PathBuf::from(".") } else { PathBuf::from(source.file_name().unwrap_or_default()) };
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    let mut linked = std::collections::HashMap::new();
    let mut waiting = vec![(source, top, meta)];
    while let Some((source, name, meta)) = waiting.pop() {
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        if meta.is_dir() {
            builder.append_data(&mut header, format!("{}/", name.display()), &[][..])?;
            for entry in std::fs::read_dir(&source)? {
                let entry = entry?;
                waiting.push((entry.path(), name.join(entry.file_name()), entry.metadata()?));
            }
        } else if meta.is_symlink() {
            header.set_size(0);
            builder.append_link(&mut header, &name, std::fs::read_link(&source)?)?;
        } else if meta.is_file() {
            match linked.entry((meta.dev(), meta.ino())) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    header.set_entry_type(tar::EntryType::Link);
                    header.set_size(0);
                    builder.append_link(&mut header, &name, first.get())?;
                }
                std::collections::hash_map::Entry::Vacant(first) => {
                    builder.append_data(&mut header, &name, std::fs::File::open(&source)?)?;
                    first.insert(name);
                }
            }
        }
    }
    Ok(builder.into_inner()?)
}

/// Unpacks below an existing folder, with owners where this process may give them.
pub(super) fn unpack(root: &Path, path: &str, tar: &[u8]) -> Result<()> {
    let plain = path.trim_end_matches("/.").trim_matches('/');
    let target = if plain == "." { root.to_owned() } else { root.join(plain) };
    if !target.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("cannot write into `{path}`: there is no such folder")));
    }
    let is_root = rustix::process::geteuid().is_root();
    let mut archive = tar::Archive::new(tar);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(is_root);
    archive.set_preserve_mtime(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.unpack_in(&target)? {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            return Err(Error::new(ErrorKind::InvalidInput, format!("the archive leads out of its folder: `{name}`")));
        }
        if entry.header().entry_type().is_dir() && matches!(&*entry.path_bytes(), b"." | b"./") {
            let header = entry.header();
            if is_root {
                let number = |id: u64| u32::try_from(id).ok();
                std::os::unix::fs::chown(&target, number(header.uid()?), number(header.gid()?))?;
            }
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(header.mode()? & 0o7777))?;
        }
    }
    Ok(())
}
