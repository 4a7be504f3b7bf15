//! Physical backups of a database: a copy of a server's data directory, kept as a tree of files.
//!
//! The parts are those of a [`tree`], restored in parallel; one more, `baseline` (JSON), says what a server
//! that starts on the files must equal. It is written last: its presence says that the copy is whole. Before anything is
//! stored, the checksum of every page of InnoDB is computed: a page that is damaged now would be as damaged when it is needed.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt};

use super::{
    Baselines, BinlogPosition, Capture, ComponentReader, ComponentWriter, DatabaseFacts, Facts, Flavour, PartMeta,
    TableBaseline,
    tree::{self, OnProgress, RestoreOptions, StoreOptions, Stored},
};
use crate::{
    error::{Error, ErrorKind, Result},
    files::{
        Root, Rules,
        unpack::{Policy, Unpacked},
    },
    mysql::{
        self, ServerInfo,
        physical::{
            CopyBaseline,
            pages::{Dialect, PageReport, check_file},
        },
    },
    store::pipe,
    stream,
};

/// What a server on the files must equal.
const BASELINE: &str = "baseline";
/// Its number, behind those of the tree.
const BASELINE_PART: u32 = tree::AFTER_TREE;
/// Longest baseline that is read, in bytes.
const BASELINE_LIMIT: usize = 1 << 30;
/// Folders below the data directory in which files of InnoDB can lie: one for each schema.
const DEPTH: usize = 2;
/// What is not kept: what a server knows itself by, what it makes anew at each start, and what a copying program leaves
/// behind. Two servers of one `server_uuid` would give two transactions the same GTID.
const LEFT_OUT: [&str; 7] =
    ["/auto.cnf", "/*.pid", "/*.sock", "/ibtmp1", "/xtrabackup_*", "/mariadb_backup_*", "/backup-my.cnf"];

/// What was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCopy {
    /// Files and bytes.
    pub stored: Stored,
    /// What their pages were found to be: none is damaged.
    pub pages: PageReport,
}

/// Stores a copy of a data directory, which nobody writes to, in a component that is empty so far. `pages` is what
/// [`check_pages`] found of it.
///
/// # Errors
/// `Incomplete`: a file could not be read. `Conflict`: one changed
/// while it was read. Those of the store. After one the component is not a backup: abandon it.
pub async fn store(
    component: &ComponentWriter,
    root: &Root,
    pages: PageReport,
    baseline: &CopyBaseline,
    progress: OnProgress,
) -> Result<StoredCopy> {
    let options = StoreOptions::new(Rules::new::<&str>(&[], &LEFT_OUT)?);
    let (stored, _) = tree::store_tree(component, root, &options, progress).await?;
    let lacks = |kind, what: &str| {
        let path = stored.troubles.list.first().map_or_else(String::new, |t| format!("`{}`: {}", t.path, t.why));
        Err(Error::new(kind, format!("a file of the copy {what}")).with("file", path))
    };
    if stored.troubles.unreadable + stored.troubles.vanished > 0 {
        return lacks(ErrorKind::Incomplete, "could not be read");
    }
    if stored.troubles.changed > 0 {
        return lacks(ErrorKind::Conflict, "changed while it was read");
    }
    let json = serde_json::to_vec(baseline)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode what a copy must equal").caused_by(e))?;
    let meta = PartMeta { what: BASELINE.into(), ..PartMeta::default() };
    component.put(BASELINE_PART, meta, stream::once(json)).await?;
    Ok(StoredCopy { stored, pages })
}

/// Reads what a server on the files must equal.
///
/// # Errors
/// `Corrupt`: the copy was not finished, or it cannot be read.
pub async fn read_baseline(component: &ComponentReader) -> Result<CopyBaseline> {
    let broken =
        || Error::new(ErrorKind::Corrupt, format!("component `{}` does not say what was copied", component.name()));
    let part = component.parts().iter().find(|p| p.meta.what == BASELINE).ok_or_else(broken)?;
    let json = stream::collect(component.read_part(part).await?, BASELINE_LIMIT).await?;
    serde_json::from_slice(&json).map_err(|e| broken().caused_by(e))
}

/// Restores a data directory into an empty folder, in parallel, with all owners and modes, also those of the folder itself.
/// Everything is read back and durable when this returns.
///
/// # Errors
/// Those of [`tree::restore_into`]. After one the folder holds a part of it.
pub async fn restore(
    component: &ComponentReader,
    root: &Root,
    keep_free: u64,
    progress: OnProgress,
) -> Result<Unpacked> {
    tree::restore_into(component, root, &RestoreOptions::new(Policy::default(), keep_free), progress).await
}

/// Proves that a folder which nobody writes to is a data directory as it was stored: every file, owner and mode, those of the
/// folder itself too, and nothing else. Several parts are compared at the same time; the repository is not read.
///
/// # Errors
/// `Corrupt`: it is not.
pub async fn prove(component: &ComponentReader, root: &Root) -> Result<Stored> {
    tree::prove_same(component, root, Arc::new(|_, _| {})).await
}

/// Makes the manifest's facts from what was copied: `capture` and `position` as the copying program tells them.
pub fn facts(
    server: &ServerInfo,
    baseline: &CopyBaseline,
    capture: Capture,
    position: Option<&mysql::Position>,
) -> Facts {
    let database = DatabaseFacts {
        flavour: match server.flavour {
            mysql::Flavour::Mysql => Flavour::Mysql,
            mysql::Flavour::Mariadb => Flavour::Mariadb,
        },
        version: server.version_text.clone(),
        server_uuid: server.server_uuid.clone(),
        position: position.map(|p| BinlogPosition { file: p.file.clone(), offset: p.offset }),
        gtid_set: position.and_then(|p| p.gtid.clone()),
        variables: baseline.settings.clone(),
    };
    // Nobody counted rows: of each table it is known which it is, and that it can be read.
    let tables = baseline
        .tables()
        .map(|(schema, table)| TableBaseline { schema: schema.into(), table: table.into(), rows: 0, checksum: None })
        .collect();
    let count = |kind: &str| baseline.census.get(kind).map(|names| names.len() as u64);
    let kinds = baseline.census.keys().filter(|kind| *kind != "account");
    let objects = kinds.filter_map(|kind| Some((kind.clone(), count(kind)?))).collect();
    Facts {
        database: Some(database),
        baselines: Baselines { tables, objects, accounts: count("account"), ..Baselines::default() },
        ..Facts::new(capture)
    }
}

/// Checks the pages of all files of InnoDB in a data directory that no server works on, several files at a time.
///
/// # Errors
/// `Corrupt`: a page is damaged; file and page are named. Those of reading.
pub async fn check_pages(root: &Root, dialect: Dialect) -> Result<PageReport> {
    let lanes = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let listing = root.clone();
    let files = pipe::blocking(move || files_of_innodb(&listing)).await?;
    let checks = files.into_iter().map(|file| {
        let root = root.clone();
        async move {
            pipe::blocking(move || {
                let report = check_one(&root, &file, dialect)?;
                match &report.damaged {
                    None => Ok(report),
                    Some((page, why)) => Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("page {page} of `{}` is damaged: {why}", file.display()),
                    )
                    .hint(
                        "`chom-recovery recover database` restores an earlier backup; the server's log may say more",
                    )),
                }
            })
            .await
        }
    });
    let sum = PageReport::default();
    futures::stream::iter(checks)
        .buffer_unordered(lanes)
        .try_fold(sum, |mut sum, one| async move {
            sum.add(&one);
            Ok(sum)
        })
        .await
}

/// Finds the first damaged page of each file of InnoDB in a data directory: path, number of the page, and what is wrong. A
/// file that cannot be read has none that is known.
///
/// # Errors
/// The directory cannot be listed.
pub async fn damaged_pages(root: &Root, dialect: Dialect) -> Result<Vec<(PathBuf, u64, String)>> {
    let listing = root.clone();
    pipe::blocking(move || {
        let mut found = Vec::new();
        for file in files_of_innodb(&listing)? {
            if let Ok(PageReport { damaged: Some((page, why)), .. }) = check_one(&listing, &file, dialect) {
                found.push((file, page, why));
            }
        }
        Ok(found)
    })
    .await
}

fn check_one(root: &Root, file: &Path, dialect: Dialect) -> Result<PageReport> {
    let folder = root.below(file.parent().unwrap_or(Path::new("")))?;
    let name = file.file_name().unwrap_or_default();
    // A link would lead out of the tree.
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let opened = OpenOptions::new().read(true).custom_flags(nofollow).open(folder.path_by_descriptor().join(name));
    let report = opened.and_then(|opened| check_file(opened, dialect));
    report.map_err(|e| Error::from(e).during(format!("cannot read the pages of `{}`", file.display())))
}

/// Lists files of InnoDB's pages, by their paths below the data directory.
fn files_of_innodb(root: &Root) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(below) = waiting.pop() {
        let folder = if below.as_os_str().is_empty() { root.clone() } else { root.below(&below)? };
        for entry in std::fs::read_dir(folder.path_by_descriptor())? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, below.join(entry.file_name()));
            if kind.is_dir() && path.components().count() < DEPTH {
                waiting.push(path);
            } else if kind.is_file() && is_of_innodb(&path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Tablespaces of tables and of undo logs, and the system's, by the names that servers give them.
fn is_of_innodb(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_numbered = |prefix: &str| {
        let rest = name.strip_prefix(prefix).map(|rest| rest.trim_start_matches('_'));
        rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    match path.extension().and_then(|e| e.to_str()) {
        Some("ibd" | "ibu") => true,
        Some(_) => false,
        None => is_numbered("ibdata") || is_numbered("undo"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tablespaces_are_known_by_their_names() {
        for (path, is) in [
            ("chom/users.ibd", true),
            ("chom/t#p#p0.ibd", true),
            ("ibdata1", true),
            ("undo_001", true),
            ("undo001", true),
            ("extra.ibu", true),
            ("ib_logfile0", false),
            ("#innodb_redo/#ib_redo0", false),
            ("#ib_16384_0.dblwr", false),
            ("undo_notes", false),
            ("ib_buffer_pool", false),
            ("mysql/general_log.CSV", false),
        ] {
            assert_eq!(is_of_innodb(Path::new(path)), is, "{path}");
        }
    }

    #[tokio::test]
    async fn a_damaged_page_is_named_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("chom")).unwrap();
        std::fs::write(folder.path().join("chom/empty.ibd"), vec![0; 32768]).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("chom/link.ibd")).unwrap();
        let (root, dialect) = (Root::open(folder.path()).unwrap(), Dialect { is_mariadb: false, page_size: 16384 });
        let report = check_pages(&root, dialect).await.unwrap();
        assert_eq!((report.good, report.empty), (0, 2));

        let mut bad = vec![0; 49152];
        bad[40000] = 1;
        std::fs::write(folder.path().join("chom/bad.ibd"), bad).unwrap();
        let error = check_pages(&root, dialect).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("page 2 of `chom/bad.ibd` is damaged"), "{error}");
    }
}
