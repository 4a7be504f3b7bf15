//! The S3 client of one bucket, made from settings and environment, and the requests that it does not have.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use http::{Method, StatusCode, header};
use object_store::{
    RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AwsAuthorizer, AwsCredential, Checksum},
    client::{HttpRequest, HttpRequestBody, HttpResponse, HttpService},
};

use super::{
    error,
    transport::{Connector, Transport},
};
use crate::{
    error::{Error, ErrorKind, Result},
    secret::{Secret, SecretSource},
    system::S3Settings,
    tls,
};

/// Longest answer that is read into memory.
const ANSWER_LIMIT: usize = 8 << 20;
/// Metadata that tells which write made an object; a prefix of its own keeps the names apart from an operator's.
pub(super) const WRITER: &str = "chom-writer";
/// Metadata that tells the swap which made an object.
pub(super) const SWAP: &str = "chom-swap";

/// Everything that a request needs.
pub(super) struct Client {
    pub(super) store: AmazonS3,
    pub(super) transport: Arc<Transport>,
    credential: AwsCredential,
    region: String,
    /// URL of the bucket, without a `/` at its end.
    bucket_url: String,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("bucket_url", &self.bucket_url).finish_non_exhaustive()
    }
}

/// What the server says of an object.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) length: u64,
    pub(super) modified: DateTime<Utc>,
    pub(super) etag: String,
    /// Version, where the bucket keeps several.
    pub(super) version: Option<String>,
    /// Which write made it, where it was one of ours.
    pub(super) writer: Option<String>,
    pub(super) swap: Option<String>,
    /// Why it cannot be deleted, where an object lock says so and this key may see it.
    pub(super) lock: Option<String>,
}

/// A value of the configuration, else of the environment. Only what is configured may fail.
async fn secret(source: Option<&SecretSource>, variable: &str) -> Result<Option<Secret>> {
    match source {
        Some(source) => source.resolve().await.map(Some),
        None => Ok(environment(variable).map(Secret::new)),
    }
}

fn environment(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Makes the URL of the bucket.
fn bucket_url(bucket: &str, region: &str, settings: &S3Settings) -> Result<String> {
    let bad = |what: &str| {
        Error::new(ErrorKind::InvalidInput, format!("`repository.s3.endpoint` {what}"))
            .hint("write `https://host` or `https://host:port`; keys go into keys of their own")
    };
    let own = settings.endpoint.clone();
    let endpoint = own.or_else(|| environment("AWS_ENDPOINT_URL_S3")).or_else(|| environment("AWS_ENDPOINT_URL"));
    let in_path = settings.path_style.unwrap_or(endpoint.is_some());
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let url: reqwest::Url = endpoint.parse().map_err(|_| bad("is not a URL"))?;
    let host = url.host_str().ok_or_else(|| bad("has no host"))?;
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("holds more than a host and a port"));
    }
    let is_here = host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if is_here => {}
        "http" => return Err(bad("is not encrypted").hint("use `https:`; `http:` is for servers on this host only")),
        _ => return Err(bad("is not an `https:` URL")),
    }
    let (scheme, path) = (url.scheme(), url.path().trim_end_matches('/'));
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    Ok(if in_path {
        format!("{scheme}://{authority}{path}/{bucket}")
    } else {
        format!("{scheme}://{bucket}.{authority}{path}")
    })
}

impl Client {
    /// Resolves keys and makes the client; nothing is sent.
    ///
    /// # Errors
    /// `Precondition`: a key is missing. `InvalidInput`: an endpoint that cannot be used.
    pub(super) async fn make(bucket: &str, settings: &S3Settings) -> Result<Self> {
        let region = settings.region.clone();
        let region = region.or_else(|| environment("AWS_REGION")).or_else(|| environment("AWS_DEFAULT_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".into());
        let bucket_url = bucket_url(bucket, &region, settings)?;
        let id = secret(settings.access_key_id.as_ref(), "AWS_ACCESS_KEY_ID").await?;
        let key = secret(settings.secret_access_key.as_ref(), "AWS_SECRET_ACCESS_KEY").await?;
        // A token belongs to a key: that of the environment not to one of the configuration.
        let token = match (&settings.session_token, &settings.secret_access_key) {
            (None, Some(_)) => None,
            (source, _) => secret(source.as_ref(), "AWS_SESSION_TOKEN").await?,
        };
        let missing = |name: &str, variable: &str| {
            Error::new(
                ErrorKind::Precondition,
                format!("`repository.s3.{name}` is missing, and `{variable}` is not set"),
            )
            .hint(format!("write `{name} = {{ file = \"/etc/chom-recovery/…\" }}` into `[repository.s3]`"))
        };
        let id = id.ok_or_else(|| missing("access_key_id", "AWS_ACCESS_KEY_ID"))?;
        let key = key.ok_or_else(|| missing("secret_access_key", "AWS_SECRET_ACCESS_KEY"))?;
        let printable = |secret: &Secret| secret.expose().bytes().all(|b| b.is_ascii_graphic());
        if ![Some(&id), Some(&key), token.as_ref()].into_iter().flatten().all(printable) {
            return Err(Error::new(ErrorKind::InvalidInput, "a key of `[repository.s3]` holds spaces or line ends")
                .hint("each key is a single word in a file of its own"));
        }

        let tls = tls::client(settings.ca_file.as_deref()).await?;
        let transport = Arc::new(Transport::new(tls, settings.timeout)?);
        let exposed = |secret: &Secret| secret.expose().to_owned();
        let credential =
            AwsCredential { key_id: exposed(&id), secret_key: exposed(&key), token: token.as_ref().map(exposed) };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&region)
            // The bucket is in the URL already, in whichever form.
            .with_endpoint(&bucket_url)
            .with_virtual_hosted_style_request(true)
            .with_access_key_id(&credential.key_id)
            .with_secret_access_key(&credential.secret_key)
            // The hash is signed anyway; servers that lock objects insist on a checksum.
            .with_checksum_algorithm(Checksum::SHA256)
            .with_disable_bulk_delete(true)
            .with_http_connector(Connector(transport.clone()))
            // What is repeated, and when, is decided here and by the retry layer.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
        if let Some(token) = &credential.token {
            builder = builder.with_token(token);
        }
        let store = builder
            .build()
            .map_err(|e| Error::new(ErrorKind::InvalidInput, "the S3 client cannot be made").caused_by(e))?;
        Ok(Self { store, transport, credential, region, bucket_url })
    }

    /// Sends a signed request. `path` is a key or empty, of characters that need no encoding.
    pub(super) async fn request(
        &self,
        what: &str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<HttpResponse> {
        let mut url: reqwest::Url = format!("{}/{path}", self.bucket_url)
            .parse()
            .map_err(|_| Error::new(ErrorKind::InvalidInput, format!("{what}: the key makes no URL")))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let failed = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Failed, format!("{what}: {e}"));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = url.as_str().parse().map_err(|e: http::uri::InvalidUri| failed(&e))?;
        AwsAuthorizer::new(&self.credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|e| failed(&e))?;
        self.transport.call(request).await.map_err(|e| error::silence(what, &e))
    }

    /// Reads a short answer.
    pub(super) async fn text(&self, what: &str, response: HttpResponse) -> Result<String> {
        use futures::TryStreamExt;
        let mut body = response.into_body().bytes_stream();
        let mut text = Vec::new();
        while let Some(piece) = body.try_next().await.map_err(|e| error::silence(what, &e))? {
            if text.len() + piece.len() > ANSWER_LIMIT {
                return Err(Error::new(ErrorKind::Corrupt, format!("{what}: the answer is longer than 8 MiB")));
            }
            text.extend_from_slice(&piece);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Makes an error of an answer that is no success.
    pub(super) async fn refused(&self, what: &str, response: HttpResponse) -> Error {
        let status = response.status().as_u16();
        let text = self.text(what, response).await.unwrap_or_default();
        error::refusal(what, Some(status), &text)
    }

    /// Looks at an object. `None`: it does not exist.
    ///
    /// A bucket that does not exist answers alike here, since `HEAD` has no body: see [`Client::check_bucket`].
    pub(super) async fn head(&self, what: &str, path: &str) -> Result<Option<Seen>> {
        let response = self.request(what, Method::HEAD, path, &[]).await?;
        match response.status() {
            StatusCode::OK => Seen::read(what, response.headers()).map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.refused(what, response).await),
        }
    }

    /// Tells an empty bucket from one that does not exist, and a clear reason for a refusal from none: asks for a
    /// listing of nothing, whose answer has a body.
    pub(super) async fn check_bucket(&self, what: &str) -> Result<()> {
        self.server_time(what).await.map(|_| ())
    }

    /// Asks for the time of the server's answers.
    pub(super) async fn server_time(&self, what: &str) -> Result<DateTime<Utc>> {
        let response = self.request(what, Method::GET, "", &[("list-type", "2"), ("max-keys", "1")]).await?;
        if !response.status().is_success() {
            return Err(self.refused(what, response).await);
        }
        let date = response.headers().get(header::DATE).and_then(|d| d.to_str().ok());
        date.and_then(|d| DateTime::parse_from_rfc2822(d).ok())
            .map(|d| d.to_utc())
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("{what}: the S3 server does not tell the time")))
    }
}

impl Seen {
    fn read(what: &str, headers: &http::HeaderMap) -> Result<Self> {
        let text: BTreeMap<&str, &str> =
            headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
        let get = |name: &str| text.get(name).copied();
        let bad =
            || Error::new(ErrorKind::Failed, format!("{what}: the S3 server's answer lacks length, time or ETag"));
        let date = get("last-modified").and_then(|d| DateTime::parse_from_rfc2822(d).ok()).ok_or_else(bad)?;
        let until = get("x-amz-object-lock-retain-until-date").map(|d| format!("retained until {d}"));
        let held = get("x-amz-object-lock-legal-hold").filter(|h| *h == "ON").map(|_| "under a legal hold".to_owned());
        Ok(Self {
            length: get("content-length").and_then(|l| l.parse().ok()).ok_or_else(bad)?,
            modified: date.to_utc(),
            etag: get("etag").ok_or_else(bad)?.to_owned(),
            version: get("x-amz-version-id").filter(|v| *v != "null").map(str::to_owned),
            writer: get(&format!("x-amz-meta-{WRITER}")).map(str::to_owned),
            swap: get(&format!("x-amz-meta-{SWAP}")).map(str::to_owned),
            lock: held.or(until),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_is_in_the_path_or_in_the_host() {
        let with = |endpoint: Option<&str>, path_style| {
            let settings = S3Settings { endpoint: endpoint.map(Into::into), path_style, ..S3Settings::default() };
            bucket_url("backups", "eu-north-1", &settings)
        };
        let url = |endpoint, path_style| with(endpoint, path_style).unwrap();
        assert_eq!(url(Some("https://s3.nas:9000/"), None), "https://s3.nas:9000/backups");
        assert_eq!(url(Some("https://s3.nas:9000"), Some(false)), "https://backups.s3.nas:9000");
        assert_eq!(url(Some("http://127.0.0.1:9000"), None), "http://127.0.0.1:9000/backups");
        assert_eq!(url(Some("http://[::1]:9000"), None), "http://[::1]:9000/backups");
        for bad in ["http://s3.nas", "https://AKIA:pass@s3.nas", "ftp://s3.nas", "s3.nas", "https://s3.nas/?key=pass"] {
            let error = with(Some(bad), None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
            assert!(!error.to_string().contains("pass"), "{error}");
        }
    }

    #[tokio::test]
    async fn no_secret_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            Some(SecretSource::File(path))
        };
        let settings = S3Settings {
            endpoint: Some("https://s3.nas".into()),
            access_key_id: file("id", "AKIDEXAMPLE\n"),
            secret_access_key: file("key", "wJalrXUtnFEMI-canary\n"),
            session_token: file("token", "token-canary"),
            ..S3Settings::default()
        };
        let client = Client::make("backups", &settings).await.unwrap();
        let shown = format!("{client:?} {:?} {:?}", client.store, client.credential);
        assert!(!shown.contains("canary"), "{shown}");
        let settings = S3Settings { secret_access_key: file("key", "two words-canary"), ..settings };
        let error = Client::make("backups", &settings).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
}
