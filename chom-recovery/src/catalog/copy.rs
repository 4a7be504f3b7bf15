//! Copies of backups in a second store.
//!
//! A copy has the same keys and the same bytes as the first one, signatures included: it needs no key to be made, and
//! whoever trusts the one trusts the other. Evidence is not copied: it says that somebody read the bytes of one store.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        codec,
        hold::HoldRecord,
        id::{BackupId, RepositoryId},
        layout::{self, Place},
        reader::{BackupObject, BackupReader},
        repo::{RecipientsRecord, Repository},
        statement::{self, Statement},
        verify::Progress,
    },
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, pipe},
    stream,
};

/// Parts that are copied at once.
const LANES: usize = 4;

/// A backup that was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Backup.
    pub backup: BackupId,
    /// Objects that were written.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there already, from an interrupted copy or another backup.
    pub present: u64,
}

/// Makes a store a copy of a repository, without any backup yet. Once it is one, nothing happens.
///
/// # Errors
/// `Conflict`: the store is another repository.
pub async fn init_copy(repository: &Repository, to: &Arc<dyn BackupStore>) -> Result<()> {
    let copied = repository.put_file(to).await;
    let is_there = matches!(&copied, Err(e) if e.kind() == ErrorKind::AlreadyExists);
    if !is_there {
        return copied;
    }
    same_repository(repository, Repository::open(to.clone(), repository.trusted().clone()).await?.id(), &to.url())
}

fn same_repository(repository: &Repository, id: &RepositoryId, url: &str) -> Result<()> {
    if id == repository.id() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, format!("`{url}` is another repository, not a copy of this one"))
        .with("this is", repository.id())
        .with("there is", id)
        .hint("choose an empty folder for `repository.copy`, then `chom-recovery repo init-copy`"))
}

/// Copies a backup, parts first and its manifest last, so that it exists in the copy when it is whole; then its holds.
/// Each object's hash is compared on the way, and damage of the first store is never copied. Killed at any moment, the
/// next call goes on.
///
/// `progress` is called after each object.
///
/// # Errors
/// `Conflict`: the copy is one of another repository. `Corrupt`: the backup is damaged. `NoSpace`: the copy's store is
/// full.
pub async fn copy_backup(
    from: &BackupReader,
    to: &Repository,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Copied> {
    same_repository(from.repository(), to.id(), &to.store().url())?;
    copy_statements::<RecipientsRecord>(from.repository(), to, layout::RECIPIENTS).await?;
    let mut objects = from.objects().await?;
    let mut done = Progress { done: 0, total: objects.iter().map(|o| o.length).sum() };
    let mut copied = Copied { backup: from.place().id, objects: 0, bytes: 0, present: 0 };
    let mut count = |object: &BackupObject, is_new: bool| {
        if is_new {
            copied.objects += 1;
            copied.bytes += object.length;
        } else {
            copied.present += 1;
        }
        done.done += object.length;
        progress(done);
    };
    // The last ones in their order: the manifest makes the backup exist.
    let rest = objects.split_off(objects.len() - from.manifest().components.len() - 2);
    let mut copying = futures::stream::iter(objects)
        .map(|object| async move {
            let is_new = copy_object(from, to, &object).await?;
            Ok::<_, Error>((object, is_new))
        })
        .buffer_unordered(LANES);
    while let Some((object, is_new)) = copying.try_next().await? {
        count(&object, is_new);
    }
    drop(copying);
    for object in rest {
        let is_new = copy_object(from, to, &object).await?;
        count(&object, is_new);
    }
    copy_holds(from.repository(), to, from.place()).await?;
    Ok(copied)
}

/// Copies an object. Returns whether it was not there yet.
async fn copy_object(from: &BackupReader, to: &Repository, object: &BackupObject) -> Result<bool> {
    let damaged = |why: &str| {
        Error::new(ErrorKind::Corrupt, format!("an object of backup {} {why}", from.place().id))
            .with("key", &object.key)
    };
    match to.store().stat(&object.key).await? {
        Some(there) if there.length == object.length => return Ok(false),
        Some(_) => {
            return Err(damaged("has another length in the copy").hint("delete it there, then copy the backup again"));
        }
        None => {}
    }
    let body = from.repository().store().get(&object.key, None).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound => damaged("is missing"),
        _ => e,
    })?;
    let (length, sha256) = (object.length, object.sha256);
    // Fails before its end where the hash is another one, and the store then keeps nothing.
    let (checked, _) = pipe::transform(body, move |input, out| codec::check(input, Some(out), length, sha256));
    match to.store().put_new(&object.key, checked).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e.with("key", &object.key)),
    }
}

/// Copies what holds a backup, or releases it, as far as that counts.
pub async fn copy_holds(from: &Repository, to: &Repository, place: &Place) -> Result<()> {
    copy_statements::<HoldRecord>(from, to, &place.hold_prefix()).await
}

async fn copy_statements<S: Statement>(from: &Repository, to: &Repository, prefix: &str) -> Result<()> {
    let listed: Vec<_> = from.store().list(prefix).await?.try_collect().await?;
    for object in listed {
        copy_statement::<S>(from, to, &object.key).await?;
    }
    Ok(())
}

async fn copy_statement<S: Statement>(from: &Repository, to: &Repository, key: &Key) -> Result<()> {
    if to.store().stat(key).await?.is_some() {
        return Ok(());
    }
    let sealed = match statement::read_sealed::<S>(from, key).await {
        Ok((_, _, sealed)) => sealed,
        // It counts for nothing here, and would not there.
        Err(error) if statement::is_about_the_record(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    match to.store().put_new(key, stream::once(sealed)).await {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}
