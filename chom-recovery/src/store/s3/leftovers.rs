//! What writers that died left behind: uploads that were never completed, and probes.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use http::{Method, StatusCode};
use object_store::{ObjectStore, path::Path};
use serde::Deserialize;

use super::{TEMPORARY, client::Client, delete_at, error};
use crate::{
    error::{Error, ErrorKind, Result},
    store::Key,
};

/// A page of `ListMultipartUploads`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: Option<String>,
    #[serde(default)]
    next_upload_id_marker: Option<String>,
    #[serde(default)]
    upload: Vec<Upload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: DateTime<Utc>,
}

fn is_probe(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|name| name.starts_with(TEMPORARY) && !name.contains('/'))
}

/// Aborts our uploads and deletes our probes that are older. Returns how many are gone.
pub(super) async fn sweep(client: &Client, prefix: &str, before: DateTime<Utc>) -> Result<u64> {
    Ok(abort_uploads(client, prefix, before).await? + delete_probes(client, prefix, before).await?)
}

async fn abort_uploads(client: &Client, prefix: &str, before: DateTime<Utc>) -> Result<u64> {
    const WHAT: &str = "cannot list unfinished uploads";
    let mut markers: Option<(String, String)> = None;
    let mut gone = 0;
    loop {
        let mut query = vec![("uploads", ""), ("prefix", prefix)];
        if let Some((key, upload)) = &markers {
            query.extend([("key-marker", key.as_str()), ("upload-id-marker", upload.as_str())]);
        }
        let response = client.request(WHAT, Method::GET, "", &query).await?;
        if matches!(response.status(), StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED) {
            // Such a server needs a rule of its own for them; the documentation says so.
            tracing::debug!("the S3 server does not list unfinished uploads");
            return Ok(gone);
        }
        if !response.status().is_success() {
            return Err(client.refused(WHAT, response).await);
        }
        let page: Page = quick_xml::de::from_str(&client.text(WHAT, response).await?)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("{WHAT}: the answer is not understood")).caused_by(e))?;
        for upload in page.upload {
            let is_ours = is_probe(&upload.key, prefix)
                || upload.key.strip_prefix(prefix).is_some_and(|key| key.parse::<Key>().is_ok());
            if !is_ours || upload.initiated > before {
                continue;
            }
            let what = format!("cannot abort an upload of `{}`", upload.key);
            let response =
                client.request(&what, Method::DELETE, &upload.key, &[("uploadId", &upload.upload_id)]).await?;
            match response.status() {
                status if status.is_success() => gone += 1,
                // It was completed or aborted a moment ago.
                StatusCode::NOT_FOUND => {}
                _ => return Err(client.refused(&what, response).await),
            }
        }
        markers = match (page.is_truncated, page.next_key_marker, page.next_upload_id_marker) {
            (true, Some(key), upload) => Some((key, upload.unwrap_or_default())),
            _ => return Ok(gone),
        };
    }
}

async fn delete_probes(client: &Client, prefix: &str, before: DateTime<Utc>) -> Result<u64> {
    const WHAT: &str = "cannot list leftovers";
    let below = (!prefix.is_empty()).then(|| Path::from(prefix.trim_end_matches('/')));
    let mut items = client.store.list_with_offset(below.as_ref(), &Path::from(format!("{prefix}.tmp")));
    let mut gone = 0;
    while let Some(item) = items.try_next().await.map_err(|e| error::map(WHAT, &e))? {
        let path = item.location.as_ref();
        if !path.starts_with(&format!("{prefix}{TEMPORARY}")) {
            break;
        }
        if !is_probe(path, prefix) || item.last_modified > before {
            continue;
        }
        match delete_at(client, path, WHAT).await {
            Ok(()) => gone += 1,
            Err(e) if e.kind() == ErrorKind::Retained => {}
            Err(e) => return Err(e),
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_uploads_is_read_and_only_ours_are_ours() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
            <ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Bucket>b</Bucket>
            <NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker><IsTruncated>true</IsTruncated>
            <Upload><Key>p/a</Key><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator>
            <Initiated>2010-11-10T20:48:33.000Z</Initiated></Upload>
            <Upload><Key>p/b</Key><UploadId>2</UploadId><Initiated>2010-11-10T20:48:34.000Z</Initiated></Upload>
            </ListMultipartUploadsResult>"#;
        let page: Page = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated && page.next_key_marker.as_deref() == Some("k"));
        assert_eq!(page.upload.iter().map(|u| u.upload_id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        assert!(is_probe("p/.tmp-probe-1", "p/") && !is_probe("p/a", "p/") && !is_probe("p/.tmp-x/a", "p/"));
        let empty = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>";
        assert!(quick_xml::de::from_str::<Page>(empty).unwrap().upload.is_empty());
    }
}
