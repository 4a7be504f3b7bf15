//! What a server really does, found out with objects that nobody else uses. Servers that speak S3 differ most in
//! conditional writes, and some take the header and overwrite nevertheless.

use std::sync::atomic::Ordering;

use object_store::{
    ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion, multipart::MultipartStore, path::Path,
};

use super::{client::Client, error};
use crate::error::{Error, Result};

/// What a bucket and its server do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A write can insist that its key is free (`If-None-Match: *`). Without it two writers of one key, at once, can
    /// both succeed; keys of backups are unique.
    pub create_only: bool,
    /// The same for objects that are uploaded in several pieces.
    pub create_only_large: bool,
    /// A write can insist that it replaces what it saw (`If-Match`). Without it nothing can be pruned.
    pub swap: bool,
    /// The bucket keeps replaced and deleted objects as versions.
    pub versioned: bool,
    /// The bucket locks new objects against deletion.
    pub locks: bool,
}

const WHAT: &str = "cannot find out what the S3 server does";

/// The condition has to be refused; anything else means that it does not count here.
fn holds(answer: &object_store::Result<object_store::PutResult>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(false),
        Err(cause) if error::is_condition(cause) => Ok(true),
        Err(cause) => unsupported(cause),
    }
}

/// A header that the server does not know may be an error of the request; a lost connection says nothing.
fn unsupported(cause: &object_store::Error) -> Result<bool> {
    let error = error::map(WHAT, cause);
    let text = cause.to_string();
    let says_so = error.kind() == crate::ErrorKind::Unsupported
        || ["InvalidArgument", "InvalidRequest", "MalformedXML"].iter().any(|c| error::code(&text) == Some(c));
    if says_so { Ok(false) } else { Err(error) }
}

/// Finds out; leaves nothing behind where deleting is allowed.
///
/// # Errors
/// `Precondition`: this key may not write. `NotFound`: no such bucket. Otherwise why the server could not be asked.
pub(super) async fn probe(client: &Client, prefix: &str) -> Result<Capabilities> {
    // The answer to a missing bucket, or a missing permission, is clearer here.
    client.check_bucket(&format!("cannot list `{prefix}`")).await?;
    let path = format!("{prefix}.tmp-probe-{}", ulid::Ulid::new());
    let found = try_out(client, &path).await;
    // What cannot be deleted now is swept later.
    let _ = super::delete_at(client, &path, WHAT).await;
    tracing::debug!(?found, "capabilities of the S3 server");
    found
}

async fn try_out(client: &Client, path: &str) -> Result<Capabilities> {
    let (store, at) = (&client.store, Path::from(path));
    let failed = |cause: &object_store::Error| error::map(WHAT, cause);
    let put = |text: &'static str, mode: PutMode| {
        let options = PutOptions { mode, ..PutOptions::default() };
        store.put_opts(&at, PutPayload::from_static(text.as_bytes()), options)
    };

    let is_known = match put("1", PutMode::Create).await {
        Ok(_) => true,
        Err(cause) => {
            unsupported(&cause)?;
            put("1", PutMode::Overwrite).await.map_err(|e| failed(&e))?;
            false
        }
    };
    let seen = client.head(WHAT, path).await?.ok_or_else(|| lost("has not kept what it took"))?;
    let create_only = is_known && holds(&put("2", PutMode::Create).await)?;

    let etag = |etag: &str| PutMode::Update(UpdateVersion { e_tag: Some(etag.to_owned()), version: None });
    let stale = format!("\"{}\"", "0".repeat(32));
    let present = client.head(WHAT, path).await?.ok_or_else(|| lost("has lost an object"))?;
    let swap = holds(&put("3", etag(&stale)).await)? && put("4", etag(&present.etag)).await.is_ok();

    let create_only_large = create_only && completes_new(client, &at).await?;
    client.transport.completes_new.store(create_only_large, Ordering::Relaxed);
    Ok(Capabilities {
        create_only,
        create_only_large,
        swap,
        versioned: seen.version.is_some(),
        locks: seen.lock.is_some(),
    })
}

/// Tries to complete an upload over an object that exists.
async fn completes_new(client: &Client, at: &Path) -> Result<bool> {
    let store = &client.store;
    let failed = |cause: object_store::Error| error::map(WHAT, &cause);
    let id = store.create_multipart(at).await.map_err(failed)?;
    let part = match store.put_part(at, &id, 0, PutPayload::from_static(b"5")).await {
        Ok(part) => part,
        Err(cause) => {
            let _ = store.abort_multipart(at, &id).await;
            return Err(failed(cause));
        }
    };
    client.transport.completes_new.store(true, Ordering::Relaxed);
    let answer = store.complete_multipart(at, &id, vec![part]).await;
    if answer.is_err() {
        // What cannot be taken back now is swept later.
        let _ = store.abort_multipart(at, &id).await;
    }
    holds(&answer)
}

fn lost(what: &str) -> Error {
    Error::new(crate::ErrorKind::Corrupt, format!("{WHAT}: it {what}")).hint("do not use this server for backups")
}
