//! Removes what interrupted backups left.

use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        layout::{self, Belongs},
        repo::Repository,
        select::Catalog,
        writer::remove_unfinished,
    },
    error::Result,
    system::SystemId,
};

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Unfinished backups.
    pub backups: u64,
    /// Their objects.
    pub objects: u64,
    /// Temporary files and the like of the store.
    pub leftovers: u64,
}

/// Removes the objects of a system's backups that have no manifest and to which nothing was added for `older_than`
/// (a day is right), by the store's clock; and leftovers of the store of the same age. Backups are never touched, nor
/// is what has a tombstone or holds parts that a backup refers to: that is for prune.
///
/// A writer that is that slow and still alive finds its parts gone when it finishes, and fails without a manifest.
///
/// # Errors
/// Those of the store; a listing that has an error item removes nothing of any backup.
pub async fn sweep_unfinished(repository: &Repository, system: &SystemId, older_than: Duration) -> Result<Swept> {
    let store = repository.store();
    let age = chrono::Duration::from_std(older_than).unwrap_or(chrono::Duration::MAX);
    let before = store.now().await?.checked_sub_signed(age);
    let mut found = BTreeMap::new();
    let mut listed = store.list("").await?;
    while let Some(object) = listed.try_next().await? {
        if let Belongs::Backup(place, name) = layout::belongs(&object.key)
            && place.system == *system
        {
            let (newest, has_manifest, _) = found.entry(place.prefix()).or_insert((object.modified, false, place));
            *newest = object.modified.max(*newest);
            *has_manifest |= name == "manifest";
        }
    }
    let is_old = |newest| before.is_some_and(|before| newest < before);
    found.retain(|_, (newest, has_manifest, _)| !*has_manifest && is_old(*newest));
    let mut referred = BTreeMap::new();
    if !found.is_empty() {
        referred = Catalog::new(repository, system).list().await?.known_references();
    }
    let mut swept = Swept { leftovers: store.sweep_leftovers(older_than).await?, ..Swept::default() };
    for (_, _, place) in found.into_values() {
        if !referred.contains_key(&place) && store.stat(&place.tombstone()).await?.is_none() {
            swept.objects += remove_unfinished(repository, &place).await?;
            swept.backups += 1;
        }
    }
    Ok(swept)
}
