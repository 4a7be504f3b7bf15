//! S3 servers of two makes: `s3s-fs` in this process, and moto's in one of its own.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use chom_recovery::{secret::SecretSource, system::S3Settings};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use s3s::{auth::SimpleAuth, service::S3Service, service::S3ServiceBuilder};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
};

use crate::skip;

/// The bucket that each server has.
pub const BUCKET: &str = "chom-backups";
/// Variable that names a Python with moto's server. `tests/run.sh` sets it.
pub const MOTO: &str = "CHOM_TEST_MOTO";
/// Access key of the servers.
pub const ID: &str = "AKIDCHOMTEST";
/// Its secret. No error, log or file of ours may hold it.
pub const SECRET: &str = "canary-s3-secret-5f1d0c";

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What the server does with a request, in place of an answer of its own.
#[derive(Debug, Clone)]
pub enum Script {
    /// Answers with a status, a `Retry-After` and an error code, and does nothing.
    Refuse(u16, Option<String>, &'static str),
    /// Does it, and drops the connection instead of answering.
    LoseAnswer,
    /// Ignores conditions, as some servers do.
    Unconditional,
}

/// `s3s-fs` in this process; gone when dropped.
#[derive(Debug)]
pub struct FsServer {
    address: SocketAddr,
    folder: tempfile::TempDir,
    keys: tempfile::TempDir,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    root: PathBuf,
    service: S3Service,
    /// The same objects without a look at signatures, which a changed request no longer fits.
    open: S3Service,
    /// `s3s-fs` looks and writes in two steps: conditions count only while nobody else writes.
    writing: tokio::sync::Mutex<()>,
    script: Mutex<VecDeque<(String, Script)>>,
    always: Mutex<Option<Script>>,
    requests: Mutex<Vec<String>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("script", &self.script).finish_non_exhaustive()
    }
}

impl FsServer {
    /// Starts a server with an empty bucket, which checks signatures.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let builder = || S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a filesystem"));
        let mut checked = builder();
        checked.set_auth(SimpleAuth::from_single(ID, SECRET));
        let shared = Arc::new(Shared {
            root: folder.path().to_owned(),
            service: checked.build(),
            open: builder().build(),
            writing: tokio::sync::Mutex::default(),
            script: Mutex::default(),
            always: Mutex::default(),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self { address, folder, keys: key_files(), shared, serving }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bucket's folder.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }

    /// Files of unfinished uploads.
    pub fn unfinished(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("the folder");
        entries
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains("upload"))
            .collect()
    }

    /// Settings for the server, reached at an address.
    pub fn settings_at(&self, address: SocketAddr) -> S3Settings {
        settings(address, self.keys.path())
    }

    /// Settings for the server.
    pub fn settings(&self) -> S3Settings {
        self.settings_at(self.address)
    }

    /// Adds a step to the script: it waits for a request whose `METHOD /path?query` contains `wanted`.
    pub fn on(&self, wanted: &str, script: Script) -> &Self {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner).push_back((wanted.to_owned(), script));
        self
    }

    /// What the server does with every request that the script says nothing about.
    pub fn always(&self, script: Script) -> &Self {
        *self.shared.always.lock().unwrap_or_else(PoisonError::into_inner) = Some(script);
        self
    }

    /// Steps of the script that no request has met yet.
    pub fn script_left(&self) -> usize {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The requests so far, `METHOD /path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FsServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(shared.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The connection is to be dropped.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dropped by the script")
    }
}

impl std::error::Error for Dropped {}

async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let line = format!("{} {}", request.method(), request.uri());
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
    let step = {
        let mut script = shared.script.lock().unwrap_or_else(PoisonError::into_inner);
        let at = script.iter().position(|(wanted, _)| line.contains(wanted.as_str()));
        at.and_then(|at| script.remove(at)).map(|(_, step)| step)
    };
    let step = step.or_else(|| shared.always.lock().unwrap_or_else(PoisonError::into_inner).clone());
    if let Some(Script::Refuse(status, retry_after, code)) = &step {
        let text =
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a test says so</Message></Error>");
        let body = Full::new(Bytes::from(text)).map_err(|e: Infallible| match e {}).boxed();
        let mut response = Response::builder().status(*status);
        if let Some(pause) = retry_after {
            response = response.header("retry-after", pause);
        }
        // A server that refuses early reads what was sent nevertheless, or the client sees a reset in its place.
        let _ = request.into_body().collect().await;
        return Ok(response.body(body).expect("an answer"));
    }
    let is_unconditional = matches!(step, Some(Script::Unconditional));
    if is_unconditional {
        for header in ["if-none-match", "if-match", "authorization"] {
            request.headers_mut().remove(header);
        }
    }
    // `s3s-fs` keeps objects in folders, and fails where it is asked for one as an object.
    let is_read = matches!(request.method().as_str(), "GET" | "HEAD");
    let is_key = request.uri().query().is_none() && request.uri().path().trim_matches('/').contains('/');
    if is_read && is_key && shared.root.join(request.uri().path().trim_matches('/')).is_dir() {
        return Ok(absent());
    }
    let writes = matches!(request.method().as_str(), "PUT" | "POST" | "DELETE");
    let _alone = if writes { Some(shared.writing.lock().await) } else { None };
    let service = if is_unconditional { &shared.open } else { &shared.service };
    let response = hyper::service::Service::call(service, request).await.map_err(|_| Dropped)?;
    if matches!(step, Some(Script::LoseAnswer)) {
        // What it does may happen while its answer is read.
        let _ = response.into_body().collect().await;
        return Err(Dropped);
    }
    Ok(response.map(BodyExt::boxed))
}

fn absent() -> Response<Body> {
    let text = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>there is none</Message></Error>";
    let body = Full::new(Bytes::from(text)).map_err(|e: Infallible| match e {}).boxed();
    Response::builder().status(404).body(body).expect("an answer")
}

fn key_files() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("id", ID), ("secret", SECRET)] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a key");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    folder
}

fn settings(address: SocketAddr, keys: &Path) -> S3Settings {
    S3Settings {
        endpoint: Some(format!("http://{address}")),
        access_key_id: Some(SecretSource::File(keys.join("id"))),
        secret_access_key: Some(SecretSource::File(keys.join("secret"))),
        timeout: Duration::from_secs(20),
        ..S3Settings::default()
    }
}

/// moto's server, in a process of its own; gone when dropped.
#[derive(Debug)]
pub struct MotoServer {
    address: SocketAddr,
    keys: tempfile::TempDir,
    _process: Child,
}

impl MotoServer {
    /// Starts the server. Without [`MOTO`], prints that `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(test: &str) -> Option<Self> {
        let Some(python) = std::env::var_os(MOTO).filter(|v| !v.is_empty()) else {
            skip(test, &format!("{MOTO} is not set"));
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("support/moto_server.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Python runs");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let line = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await;
        let port = line.expect("moto starts in time").expect("its output").expect("moto starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("moto tells its port")));
        Some(Self { address, keys: key_files(), _process: process })
    }

    /// Settings for the server.
    pub fn settings(&self) -> S3Settings {
        settings(self.address, self.keys.path())
    }

    /// Makes a bucket; `retention` locks each object for so many days.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn make_bucket(&self, name: &str, retention: Option<u32>) {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let send = async |query: &str, body: String| {
            let request = client
                .put(format!("http://{}/{name}{query}", self.address))
                .header("authorization", "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/s3/aws4_request")
                .header("x-amz-bucket-object-lock-enabled", retention.is_some().to_string())
                .body(body);
            let response = request.send().await.expect("an answer");
            assert!(response.status().is_success(), "{query}: {}", response.text().await.unwrap_or_default());
        };
        send("", String::new()).await;
        if let Some(days) = retention {
            let rule = format!("<DefaultRetention><Mode>COMPLIANCE</Mode><Days>{days}</Days></DefaultRetention>");
            send(
                "?object-lock",
                format!(
                    "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule>{rule}</Rule>\
                     </ObjectLockConfiguration>"
                ),
            )
            .await;
        }
    }
}
