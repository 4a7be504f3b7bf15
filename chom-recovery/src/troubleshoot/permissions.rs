//! Files have other owners or permissions than they should: each component against its newest backup.

use std::{
    collections::BTreeMap,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Cause, Findings, Issue};
use crate::{
    catalog::{Catalog, ComponentReader, Selector, tree},
    error::{Error, ErrorKind, Result},
    files::{
        Entry, Kind,
        tar::{Dialect, Limits, TarReader},
    },
    procedure::{Parts, locate},
    store::pipe,
    system::{Component, TreeKind},
};

/// Larger components are not read for their permissions: the backup has to be read to its end for them.
const LARGEST: u64 = 4 << 30;
/// Entries that are shown.
const SHOWN: usize = 8;

/// Compares owners and permissions of every component with its newest backup.
pub(crate) async fn permissions(parts: &Parts) -> Findings {
    let mut findings = Findings::new(Issue::Permissions);
    for component in parts.system.components.iter().filter(|c| c.kind != TreeKind::Redis) {
        match compare(parts, component).await {
            Ok(differing) => judge(&mut findings, component, &differing),
            Err(error) => findings.unclear(format!("component `{}`: {error}", component.name)),
        }
    }
    if findings.ruled_out.is_empty() && findings.causes.is_empty() && findings.unclear.is_empty() {
        findings.unclear("no component of files is configured: nothing says how owners and permissions should be");
    }
    if std::fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1") {
        findings.add(
            Cause::new("selinux", 25, "SELinux enforces its own rules on this host")
                .seen("/sys/fs/selinux/enforce is 1")
                .mend(
                    "look for `denied` in its audit log; mounts of containers need the type container_file_t",
                    "none",
                ),
        );
    }
    findings.ranked()
}

/// How an entry differs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    path: String,
    mode: Option<(u32, u32)>,
    owner: Option<((u32, u32), (u32, u32))>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`:", self.path)?;
        if let Some((is, was)) = self.mode {
            write!(f, " mode {is:04o} instead of {was:04o}")?;
        }
        if let Some(((uid, gid), (was_uid, was_gid))) = self.owner {
            write!(f, " owner {uid}:{gid} instead of {was_uid}:{was_gid}")?;
        }
        Ok(())
    }
}

async fn compare(parts: &Parts, component: &Component) -> Result<Vec<Difference>> {
    let root = locate(&parts.system, &parts.backend, component).await?;
    let catalog = Arc::new(Catalog::clone(&parts.catalog).holding(&component.name));
    let backup = catalog.select(&Selector::Latest).await?;
    if backup.plain_len > LARGEST {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "backup {} is larger than {} GiB, and would have to be read to its end",
                backup.id(),
                LARGEST >> 30
            ),
        )
        .hint("restore it into a new folder, `--target FOLDER`, and compare that"));
    }
    let reader: ComponentReader = catalog.open(&backup.place).await?.component(&component.name).await?;
    let (archive, folder) = (tree::read_tar(&reader)?, root.path().to_path_buf());
    pipe::consume(archive, move |input| {
        let mut entries = TarReader::new(&mut *input, Dialect::Ours, Limits::NONE);
        let mut differing = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            differing.extend(difference(&entry, &folder));
        }
        Ok(differing)
    })
    .await
}

/// Looks at one entry, and follows no link at its end. What is gone is not a matter of permissions.
fn difference(entry: &Entry, folder: &Path) -> Option<Difference> {
    if matches!(entry.kind, Kind::HardLink { .. } | Kind::Symlink { .. }) {
        return None;
    }
    let path: PathBuf = if entry.path.is_root() {
        folder.to_path_buf()
    } else {
        folder.join(std::ffi::OsStr::from_bytes(entry.path.as_bytes()))
    };
    let found = std::fs::symlink_metadata(path).ok().filter(|found| !found.is_symlink())?;
    let (is, was) = (found.mode() & 0o7777, entry.attributes.mode);
    let (owner, owned) = ((found.uid(), found.gid()), (entry.attributes.uid, entry.attributes.gid));
    let difference = Difference {
        path: entry.path.display().escape_debug().to_string(),
        mode: (is != was).then_some((is, was)),
        owner: (owner != owned).then_some((owner, owned)),
    };
    (difference.mode.is_some() || difference.owner.is_some()).then_some(difference)
}

fn judge(findings: &mut Findings, component: &Component, differing: &[Difference]) {
    let name = &component.name;
    if differing.is_empty() {
        return findings.fine(format!("component `{name}`: owners and permissions are those of its newest backup"));
    }
    let more_open = differing.iter().filter(|d| d.mode.is_some_and(|(is, was)| is & !was & 0o007 != 0)).count();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for one in differing {
        *kinds.entry(if one.owner.is_some() { "owners" } else { "permissions" }).or_default() += 1;
    }
    let counted: Vec<_> = kinds.iter().map(|(what, count)| format!("{count} with other {what}")).collect();
    let cause = Cause::new(
        format!("differs-{name}"),
        if differing.iter().any(|d| d.owner.is_some()) { 85 } else { 75 },
        format!("component `{name}` differs from its newest backup: {}", counted.join(", ")),
    );
    let cause = differing.iter().take(SHOWN).fold(cause, Cause::seen);
    let cause = match more_open {
        0 => cause,
        count => cause.seen(format!("{count} of them can be read or written by more users than in the backup")),
    };
    findings.add(cause.mend(
        format!("give exactly these entries their recorded owners and permissions back, or restore the component: chom-recovery restore --component {name}"),
        "never `chown -R` or `chmod -R`: keys and passwords would be readable by everybody, and nothing undoes it",
    ));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::files::{Attributes, TreePath};

    #[test]
    fn only_what_differs_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let found = std::fs::metadata(&file).unwrap();
        let entry = |path: &str, mode| Entry {
            path: TreePath::new(path).unwrap(),
            kind: Kind::File { size: 1, extents: None },
            attributes: Attributes { uid: found.uid(), gid: found.gid(), mode, ..Attributes::default() },
        };
        assert_eq!(difference(&entry("key.pem", 0o644), folder.path()), None);
        assert_eq!(difference(&entry("gone", 0o600), folder.path()), None);
        let opened = difference(&entry("key.pem", 0o600), folder.path()).unwrap();
        assert_eq!(opened.to_string(), "`key.pem`: mode 0644 instead of 0600");
        let mut owned = entry("key.pem", 0o644);
        owned.attributes.uid += 1;
        assert!(difference(&owned, folder.path()).unwrap().to_string().contains("owner"));

        let component: Component = toml::from_str("name = \"certs\"\npath = \"/x\"").unwrap();
        let mut findings = Findings::new(Issue::Permissions);
        judge(&mut findings, &component, &[opened]);
        assert!(findings.causes[0].evidence[1].contains("more users"), "{findings:?}");
    }
}
