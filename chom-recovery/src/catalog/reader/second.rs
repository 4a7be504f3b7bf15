//! The copy that a reader turns to for what is damaged in the first store.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use crate::store::{BackupStore, Key};

/// A second store with the same objects, and which of them had to be looked for there.
#[derive(Clone)]
pub(in crate::catalog) struct Second {
    store: Arc<dyn BackupStore>,
    /// For each part that was read through: whether the first store's is damaged. Grows with the number of parts, which
    /// have 256 MiB at most, not with their size.
    known: Arc<Mutex<BTreeMap<Key, bool>>>,
}

impl fmt::Debug for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Second {
    pub(in crate::catalog) fn new(store: Arc<dyn BackupStore>) -> Self {
        Self { store, known: Arc::default() }
    }

    pub(super) fn store(&self) -> &Arc<dyn BackupStore> {
        &self.store
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, bool>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells whether the copy's object is to be used; `None`: nobody has looked yet.
    pub(super) fn is_needed(&self, key: &Key) -> Option<bool> {
        self.known().get(key).copied()
    }

    pub(super) fn remember(&self, key: &Key, is_needed: bool) {
        if is_needed {
            tracing::warn!(%key, copy = self.store.url(), "damaged here, and good in the copy, which is used");
        }
        self.known().insert(key.clone(), is_needed);
    }

    /// Counts the objects that are good in the copy alone.
    pub(super) fn needed(&self) -> u64 {
        self.known().values().filter(|is_needed| **is_needed).count() as u64
    }
}
