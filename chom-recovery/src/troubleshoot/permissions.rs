//! Files have other owners or permissions than they should: each component against its newest backup.

use std::collections::BTreeMap;

use super::{Cause, Findings, Issue};
use crate::{
    procedure::{Compared, Parts, fix::DIFFERS, look},
    system::{Component, TreeKind},
};

/// Entries that are shown.
const SHOWN: usize = 8;

/// Compares owners and permissions of every component with its newest backup.
pub(crate) async fn permissions(parts: &Parts) -> Findings {
    let mut findings = Findings::new(Issue::Permissions);
    for component in parts.system.components.iter().filter(|c| c.kind != TreeKind::Redis) {
        match look(parts, component).await {
            Ok(compared) => judge(&mut findings, component, &compared),
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

fn judge(findings: &mut Findings, component: &Component, compared: &Compared) {
    let (name, differing) = (&component.name, &compared.differing);
    if differing.is_empty() {
        return findings.fine(format!("component `{name}`: owners and permissions are those of its newest backup"));
    }
    let more_open = differing.iter().filter(|d| d.mode().is_some_and(|(is, was)| is & !was & 0o007 != 0)).count();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for one in differing {
        *kinds.entry(if one.owner().is_some() { "owners" } else { "permissions" }).or_default() += 1;
    }
    let mut counted: Vec<_> = kinds.iter().map(|(what, count)| format!("{count} with other {what}")).collect();
    if compared.unlisted > 0 {
        counted.push(format!("{} more entries", compared.unlisted));
    }
    let cause = Cause::new(
        format!("{DIFFERS}{name}"),
        if differing.iter().any(|d| d.owner().is_some()) { 85 } else { 75 },
        format!("component `{name}` differs from its newest backup: {}", counted.join(", ")),
    );
    let cause = differing.iter().take(SHOWN).fold(cause, Cause::seen);
    let cause = match more_open {
        0 => cause,
        count => cause.seen(format!("{count} of them can be read or written by more users than in the backup")),
    };
    findings.add(match compared.check(name) {
        Ok(()) => cause
            .mend(
                format!(
                    "give exactly these entries their recorded owners and permissions back: \
                     chom-recovery troubleshoot permissions --fix {DIFFERS}{name}"
                ),
                "contents are not compared: what others could write meanwhile may be theirs. Never `chown -R` or \
                 `chmod -R`: keys and passwords would be readable by everybody, and nothing undoes it",
            )
            .fixable(),
        Err(error) => cause.mend(
            error.hint_text().map_or_else(|| error.message().to_owned(), |hint| format!("{}: {hint}", error.message())),
            "never `chown -R` or `chmod -R`: keys and passwords would be readable by everybody, and nothing undoes it",
        ),
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn what_differs_is_told_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, mode) = (folder.path().join("key.pem"), |bits| PermissionsExt::from_mode(bits));
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, mode(0o644)).unwrap();
        let component: Component = toml::from_str("name = \"certs\"\npath = \"/x\"").unwrap();
        let found = |was| {
            let owned = std::fs::metadata(&file).unwrap();
            let mut findings = Findings::new(Issue::Permissions);
            judge(
                &mut findings,
                &component,
                &Compared::of(folder.path(), &[("key.pem", owned.uid(), owned.gid(), was)]),
            );
            findings
        };
        assert!(found(0o644).causes.is_empty());
        let findings = found(0o600);
        let cause = findings.cause("differs-certs").unwrap();
        assert_eq!(cause.evidence[0], "`key.pem`: mode 0644 instead of 0600");
        assert!(cause.evidence[1].contains("more users"), "{findings:?}");
        assert!(cause.is_fixable && cause.fix.contains("permissions --fix differs-certs"), "{cause:?}");
        // Nothing gives setuid back.
        assert!(!found(0o4644).causes[0].is_fixable);
    }
}
