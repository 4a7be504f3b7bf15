//! Signed records beside backups: each says one thing about one backup, lies under a key that follows from it, and
//! counts only there.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catalog::{
        id::RepositoryId,
        json,
        repo::Repository,
        sign::{Signer, SignerId},
    },
    error::{Error, ErrorKind, Result},
    store::Key,
    stream,
};

/// Longest record, in bytes.
const LIMIT: usize = 1 << 20;

/// A record that is signed and stored.
pub(super) trait Statement: Serialize + DeserializeOwned {
    /// First word of the object.
    const KIND: &'static str;
    /// What it is, for errors.
    const WHAT: &'static str;
    /// Repository that it was made for.
    fn repository(&self) -> &RepositoryId;
    /// Where it lies.
    fn key(&self) -> Key;
}

/// Signs a record and stores it.
pub(super) async fn publish<S: Statement + Sync>(repository: &Repository, signer: &Signer, record: &S) -> Result<()> {
    let failed =
        |e: serde_json::Error| Error::new(ErrorKind::Failed, format!("cannot encode the {}", S::WHAT)).caused_by(e);
    let mut text = serde_json::to_vec(record).map_err(failed)?;
    text.push(b'\n');
    if text.len() > LIMIT {
        return Err(Error::new(ErrorKind::InvalidInput, format!("the {} is longer than its format allows", S::WHAT)));
    }
    repository.store().put_new(&record.key(), stream::once(signer.seal(S::KIND, &text))).await?;
    Ok(())
}

/// Reads a record, and tells who signed it.
///
/// # Errors
/// `Corrupt`: damaged, or moved here from elsewhere. `Denied`: signed by a stranger. `Unsupported`: a newer format.
/// `NotFound`: it is gone.
pub(super) async fn read<S: Statement>(repository: &Repository, key: &Key) -> Result<(S, SignerId)> {
    read_sealed(repository, key).await.map(|(record, signer, _)| (record, signer))
}

/// Reads a record as [`read`] does, and returns the object itself as well.
pub(super) async fn read_sealed<S: Statement>(repository: &Repository, key: &Key) -> Result<(S, SignerId, Bytes)> {
    let read = async {
        let object = stream::collect(repository.store().get(key, None).await?, LIMIT + 1024).await?;
        let (signer, payload) = repository.trusted().open(S::KIND, &object)?;
        let record: S = json::decode(S::WHAT, &payload)?;
        if record.key() == *key && record.repository() == repository.id() {
            return Ok((record, signer, object));
        }
        Err(Error::new(ErrorKind::Corrupt, format!("the {} was moved here or replayed", S::WHAT)))
    };
    read.await.map_err(|e: Error| e.with("key", key))
}

/// Reads a record; `None`: it is gone, damaged, or signed by a stranger, and counts for nothing.
pub(super) async fn read_valid<S: Statement>(repository: &Repository, key: &Key) -> Result<Option<(S, SignerId)>> {
    match read(repository, key).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_about_the_record(&error) => {
            tracing::warn!(%key, %error, "a {} does not count", S::WHAT);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Tells an error that says something about the record from one about the way to it.
pub(super) fn is_about_the_record(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Unsupported)
}
