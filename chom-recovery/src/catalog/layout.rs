//! Keys: where everything of a backup lies. They are made from checked ids only, never from what a store says.

use serde::{Deserialize, Serialize};

use crate::{
    catalog::id::{BackupId, HostId, Name},
    store::Key,
    system::SystemId,
};

/// Key of the object that makes a store a repository.
pub(super) const REPOSITORY: &str = "chom-repo.json";
/// Prefix of the records that replace the recipients which `chom-repo.json` names.
pub(super) const RECIPIENTS: &str = "recipients/";
/// Greatest index of a part: what eight digits hold.
pub const MAX_PART: u32 = 99_999_999;

/// Where a backup lies, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Host that made it.
    pub host: HostId,
    /// System that it holds.
    pub system: SystemId,
    /// Id of the backup.
    pub id: BackupId,
}

fn key(text: String) -> Key {
    Key::try_from(text).expect("a key made of checked ids")
}

impl Place {
    /// Prefix of everything that belongs to the backup.
    pub(super) fn prefix(&self) -> String {
        format!("{}{}/", backups(&self.host, &self.system), self.id)
    }

    /// Key of the manifest: while it is absent, so is the backup.
    pub fn manifest(&self) -> Key {
        key(format!("{}manifest", self.prefix()))
    }

    /// Key of the manifest's copy.
    pub fn manifest_copy(&self) -> Key {
        key(format!("{}manifest.copy", self.prefix()))
    }

    /// Key of a component's index.
    pub fn index(&self, component: &Name) -> Key {
        key(format!("{}p/{component}/index", self.prefix()))
    }

    /// Key of a part; indexes above [`MAX_PART`] do not exist.
    pub fn part(&self, component: &Name, index: u32) -> Key {
        key(format!("{}p/{component}/{index:08}", self.prefix()))
    }

    /// Returns the place of another backup that the same host made of the same system.
    #[must_use]
    pub fn sibling(&self, id: BackupId) -> Self {
        Self { id, ..self.clone() }
    }

    fn beside(&self, area: &str) -> String {
        format!("{}/{}/{area}/{}", self.host, self.system, self.id)
    }

    /// Prefix of the backup's verification records.
    pub(super) fn evidence_prefix(&self) -> String {
        self.beside("v") + "/"
    }

    /// Key of a verification record.
    pub fn evidence(&self, record: BackupId) -> Key {
        key(format!("{}{record}", self.evidence_prefix()))
    }

    /// Prefix of the records that hold the backup or release it.
    pub(super) fn hold_prefix(&self) -> String {
        self.beside("hold") + "/"
    }

    /// Key of a record that holds the backup, or releases it.
    pub fn hold(&self, record: BackupId) -> Key {
        key(format!("{}{record}", self.hold_prefix()))
    }

    /// Key of the tombstone: what says that the backup is to be deleted.
    pub fn tombstone(&self) -> Key {
        key(self.beside("dead"))
    }
}

/// Key of the lease of whoever prunes: the only object of a repository that is ever overwritten.
pub fn prune_lease() -> Key {
    key("lease/prune".into())
}

/// Key of a record that replaces the recipients.
pub(super) fn recipients(record: BackupId) -> Key {
    key(format!("{RECIPIENTS}{record}"))
}

/// Prefix of the backups that a host made of a system.
pub(super) fn backups(host: &HostId, system: &SystemId) -> String {
    format!("{host}/{system}/b/")
}

/// Tells whether a prefix is that of the parts and indexes of a backup, which are most of a repository's objects.
pub(super) fn holds_parts(prefix: &str) -> bool {
    let mut words = prefix.split('/').skip(2);
    matches!((words.next(), words.nth(1), words.next(), words.next()), (Some("b"), Some("p"), Some(""), None))
}

/// What a key of a repository belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Belongs<'a> {
    /// An object of a backup, with its key below the backup's prefix.
    Backup(Place, &'a str),
    /// A verification record.
    Evidence(Place, BackupId),
    /// A record that holds a backup or releases it.
    Hold(Place, BackupId),
    /// A tombstone.
    Tombstone(Place),
    /// Anything else.
    Other,
}

/// Reads a key.
pub(super) fn belongs(key: &Key) -> Belongs<'_> {
    fn read(text: &str) -> Option<Belongs<'_>> {
        let mut words = text.splitn(5, '/');
        let (host, system, area, id) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let place =
            Place { host: host.parse().ok()?, system: system.to_owned().try_into().ok()?, id: id.parse().ok()? };
        match (area, words.next()) {
            ("b", Some(rest)) => Some(Belongs::Backup(place, rest)),
            ("v", Some(rest)) => Some(Belongs::Evidence(place, rest.parse().ok()?)),
            ("hold", Some(rest)) => Some(Belongs::Hold(place, rest.parse().ok()?)),
            ("dead", None) => Some(Belongs::Tombstone(place)),
            _ => None,
        }
    }
    read(key.as_str()).unwrap_or(Belongs::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            host: "0123456789abcdef".parse().unwrap(),
            system: "chom".to_owned().try_into().unwrap(),
            id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap(),
        }
    }

    /// Format 1 for ever: a change here makes every existing repository unreadable.
    #[test]
    fn keys_of_format_1_do_not_change() {
        let database = "database".parse().unwrap();
        let record = "01BX5ZZKBKACTAV9WEVGEMMVRZ".parse().unwrap();
        let keys = [
            place().manifest(),
            place().manifest_copy(),
            place().index(&database),
            place().part(&database, 0),
            place().part(&database, MAX_PART),
            place().evidence(record),
            place().hold(record),
            place().tombstone(),
            prune_lease(),
            recipients(record),
        ];
        assert_eq!(
            keys.map(String::from),
            [
                "0123456789abcdef/chom/b/01ARZ3NDEKTSV4RRFFQ69G5FAV/manifest",
                "0123456789abcdef/chom/b/01ARZ3NDEKTSV4RRFFQ69G5FAV/manifest.copy",
                "0123456789abcdef/chom/b/01ARZ3NDEKTSV4RRFFQ69G5FAV/p/database/index",
                "0123456789abcdef/chom/b/01ARZ3NDEKTSV4RRFFQ69G5FAV/p/database/00000000",
                "0123456789abcdef/chom/b/01ARZ3NDEKTSV4RRFFQ69G5FAV/p/database/99999999",
                "0123456789abcdef/chom/v/01ARZ3NDEKTSV4RRFFQ69G5FAV/01BX5ZZKBKACTAV9WEVGEMMVRZ",
                "0123456789abcdef/chom/hold/01ARZ3NDEKTSV4RRFFQ69G5FAV/01BX5ZZKBKACTAV9WEVGEMMVRZ",
                "0123456789abcdef/chom/dead/01ARZ3NDEKTSV4RRFFQ69G5FAV",
                "lease/prune",
                "recipients/01BX5ZZKBKACTAV9WEVGEMMVRZ",
            ]
        );
    }

    #[test]
    fn keys_are_read_back_and_strangers_are_nobodys() {
        assert_eq!(belongs(&place().manifest()), Belongs::Backup(place(), "manifest"));
        let part = place().part(&"db".parse().unwrap(), 7);
        assert_eq!(belongs(&part), Belongs::Backup(place(), "p/db/00000007"));
        assert_eq!(belongs(&place().evidence(place().id)), Belongs::Evidence(place(), place().id));
        assert_eq!(belongs(&place().hold(place().id)), Belongs::Hold(place(), place().id));
        assert_eq!(belongs(&place().tombstone()), Belongs::Tombstone(place()));
        assert!(holds_parts(&format!("{}p/", place().prefix())));
        for other in ["", "p/", "h/chom/b/p/", "h/chom/v/x/p/", "h/chom/b/x/p", "h/chom/b/x/p/db/", &place().prefix()] {
            assert!(!holds_parts(other), "{other}");
        }
        let tombstone = place().tombstone();
        for other in [
            "chom-repo.json",
            "lease/prune",
            "h/chom/b/notaulid/manifest",
            "h/chom/hold/x",
            "H/chom/b/x/y",
            &format!("{tombstone}/x"),
        ] {
            assert_eq!(belongs(&other.parse().unwrap()), Belongs::Other, "{other}");
        }
    }
}
