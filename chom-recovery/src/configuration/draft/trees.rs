//! What has to be backed up besides the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    backend::{
        Backend, Container, MountSource,
        compose::{ENV_FILES_LABEL, FILES_LABEL, FOLDER_LABEL},
    },
    error::Result,
};

/// What Laravel makes anew in its `storage`: caches, compiled views, sessions, logs.
const LARAVEL_MAKES: [&str; 4] = ["/framework/cache/", "/framework/sessions/", "/framework/views/", "/logs/"];

/// A component that is proposed.
#[derive(Debug)]
pub(super) struct FoundTree {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) place: TreePlace,
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    /// Why it is only proposed.
    pub(super) obstacle: Option<&'static str>,
}

/// Where it lies.
#[derive(Debug)]
pub(super) enum TreePlace {
    /// Volume by its name in the Compose file.
    Volume(String),
    /// Folder of this host.
    Path(PathBuf),
    /// Folder of this host that is mounted in a service.
    Mounted { service: String, target: String },
    /// Redis tells.
    Redis,
}

/// Proposes each volume, each mounted folder of the host, redis's snapshot, and the project's own files.
pub(super) async fn look(
    backend: &Arc<dyn Backend>,
    containers: &[Container],
    database: &str,
    redis: Option<&Container>,
) -> Result<Vec<FoundTree>> {
    let mut found = Vec::new();
    let is_local = backend.engine().await?.is_local;
    let elsewhere = (!is_local).then_some("the Engine runs on another host");
    let mut names = BTreeSet::new();
    for (volume, target) in volumes(containers, database, redis) {
        let readable = match backend.volume(&volume).await? {
            Some(known) if known.driver != "local" => Some("its driver keeps it elsewhere"),
            Some(known) => std::fs::read_dir(&known.mount_point).err().map(|_| "this user cannot read it"),
            None => continue,
        };
        let short = volume.strip_prefix(&format!("{}_", backend.project())).unwrap_or(&volume).to_owned();
        let is_of_certificates = ["cert", "ssl", "letsencrypt"].iter().any(|word| target.contains(word));
        let exclude = if target.ends_with("/storage") { LARAVEL_MAKES.map(str::to_owned).to_vec() } else { Vec::new() };
        found.push(FoundTree {
            name: unique(&mut names, &short),
            kind: if is_of_certificates { "certificates" } else { "files" },
            place: TreePlace::Volume(short),
            include: Vec::new(),
            exclude,
            obstacle: elsewhere.or(readable),
        });
    }
    for (folder, service, target) in folders(containers, database, redis) {
        let short = folder.file_name().map_or_else(|| service.clone(), |name| name.to_string_lossy().into_owned());
        let unreadable = std::fs::read_dir(&folder).err().map(|_| "this user cannot read it");
        let is_configuration = target.starts_with("/etc/");
        found.push(FoundTree {
            name: unique(&mut names, &short),
            kind: if is_configuration { "config" } else { "files" },
            place: TreePlace::Mounted { service, target },
            include: Vec::new(),
            exclude: Vec::new(),
            obstacle: elsewhere.or(unreadable),
        });
    }
    if redis.is_some_and(|c| c.mounts.iter().any(|m| m.source != MountSource::Tmpfs)) {
        found.push(FoundTree {
            name: unique(&mut names, "redis"),
            kind: "redis",
            place: TreePlace::Redis,
            include: Vec::new(),
            exclude: Vec::new(),
            obstacle: elsewhere,
        });
    }
    if let Some((folder, include)) = project_files(containers) {
        let unreadable = std::fs::read_dir(&folder).err().map(|_| "this user cannot read it");
        found.push(FoundTree {
            name: unique(&mut names, "config"),
            kind: "config",
            place: TreePlace::Path(folder),
            include,
            exclude: Vec::new(),
            obstacle: elsewhere.or(unreadable),
        });
    }
    Ok(found)
}

/// Finds the application's environment file among what is proposed: one that its container mounts from the project, else one
/// beside the code. The first is a copy of a setting for Compose as well, which is why it counts only where it is mounted.
pub(super) fn environment(trees: &[FoundTree], application: &Container, directory: &str) -> Option<(String, PathBuf)> {
    for tree in trees.iter().filter(|tree| tree.obstacle.is_none()) {
        let TreePlace::Path(folder) = &tree.place else { continue };
        for mount in &application.mounts {
            let MountSource::HostPath(path) = &mount.source else { continue };
            let Ok(below) = Path::new(path).strip_prefix(folder) else { continue };
            // A secret is handed on by the image's entrypoint.
            let is_read = Path::new(&mount.target) == Path::new(directory).join(".env")
                || below.file_name().is_some_and(|name| name == ".env") && mount.target.starts_with("/run/secrets/");
            if is_read && tree.include.iter().any(|rule| rule.strip_prefix('/') == below.to_str()) {
                return Some((tree.name.clone(), below.to_owned()));
            }
        }
    }
    let tree = trees.iter().filter(|tree| tree.obstacle.is_none()).find(|tree| {
        matches!(&tree.place, TreePlace::Mounted { service, target } if *service == application.service && target == directory)
    })?;
    let mount = application.mounts.iter().find(|mount| mount.target == directory)?;
    let MountSource::HostPath(folder) = &mount.source else { return None };
    let found = std::fs::symlink_metadata(Path::new(folder).join(".env")).is_ok_and(|meta| meta.is_file());
    found.then(|| (tree.name.clone(), ".env".into()))
}

/// Lists the volumes of everything but the database and redis, with where they are mounted.
fn volumes(containers: &[Container], database: &str, redis: Option<&Container>) -> BTreeMap<String, String> {
    let is_of_data = |c: &&Container| c.service == database || redis.is_some_and(|r| r.service == c.service);
    let of = |c: &Container| {
        let volumes = c.mounts.iter().filter_map(|m| match &m.source {
            MountSource::Volume(name) => Some((name.clone(), m.target.clone())),
            _ => None,
        });
        volumes.collect::<Vec<_>>()
    };
    let data: BTreeSet<String> = containers.iter().filter(is_of_data).flat_map(of).map(|(name, _)| name).collect();
    let mut found = BTreeMap::new();
    for (name, target) in containers.iter().filter(|c| !is_of_data(c)).flat_map(of) {
        if !data.contains(&name) {
            found.entry(name).or_insert(target);
        }
    }
    found
}

/// Lists the folders of this host that are mounted in everything but the database and redis, each once, with the first
/// service that mounts it and where. What a server mounts is data that it writes to, and torn where it is copied as files.
fn folders(containers: &[Container], database: &str, redis: Option<&Container>) -> Vec<(PathBuf, String, String)> {
    let mut found = BTreeMap::new();
    let is_server = |c: &&Container| c.service == database || redis.is_some_and(|r| r.service == c.service);
    for container in containers.iter().filter(|c| !is_server(c)) {
        for mount in &container.mounts {
            let MountSource::HostPath(path) = &mount.source else { continue };
            // Folders of the system (`/etc/localtime`, `/proc`) belong to nobody's backup.
            if Path::new(path).is_dir() && is_of_project(container, path) {
                found.entry(PathBuf::from(path)).or_insert((container.service.clone(), mount.target.clone()));
            }
        }
    }
    found.into_iter().map(|(folder, (service, target))| (folder, service, target)).collect()
}

fn is_of_project(container: &Container, path: &str) -> bool {
    container.labels.get(FOLDER_LABEL).is_some_and(|folder| Path::new(path).starts_with(folder))
}

/// Finds the folder of the Compose files, and which files in it the project is made of.
fn project_files(containers: &[Container]) -> Option<(PathBuf, Vec<String>)> {
    let labels = &containers.iter().find(|c| c.labels.contains_key(FOLDER_LABEL))?.labels;
    let folder = PathBuf::from(labels.get(FOLDER_LABEL)?);
    let below = |path: &Path| Some(format!("/{}", path.strip_prefix(&folder).ok()?.to_str()?));
    let mut include: BTreeSet<String> = BTreeSet::from(["/.env".to_owned()]);
    for label in [FILES_LABEL, ENV_FILES_LABEL] {
        let files = labels.get(label).into_iter().flat_map(|files| files.split(','));
        include.extend(files.filter_map(|file| below(Path::new(file))));
    }
    for mount in containers.iter().flat_map(|c| &c.mounts) {
        let MountSource::HostPath(path) = &mount.source else { continue };
        if Path::new(path).is_file() {
            include.extend(below(Path::new(path)));
        }
    }
    Some((folder, include.into_iter().collect()))
}

/// Makes a name for a component that no other has.
fn unique(names: &mut BTreeSet<String>, wanted: &str) -> String {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let mut base: String =
        wanted.to_ascii_lowercase().chars().map(|c| if is_good(c) { c } else { '-' }).take(56).collect();
    if base.is_empty() || base == crate::system::DATABASE {
        base.push_str("-files");
    }
    let mut name = base.clone();
    let mut number = 2;
    while !names.insert(name.clone()) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_differ() {
        let mut names = BTreeSet::new();
        for (wanted, name) in [
            ("app_storage", "app_storage"),
            ("App Storage", "app-storage"),
            ("app storage", "app-storage-2"),
            ("database", "database-files"),
        ] {
            assert_eq!(unique(&mut names, wanted), name);
            name.parse::<crate::catalog::Name>().unwrap();
        }
    }
}
