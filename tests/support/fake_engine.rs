//! A stand-in for an Engine on a unix socket: says what a test wants to hear, byte by byte.

use std::{path::PathBuf, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

/// What the stand-in does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// An ordinary answer with a JSON body.
    Json(u16, String),
    /// These bytes, header and all, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, then silence with the connection open.
    RawThenHang(Vec<u8>),
    /// Silence.
    Hang,
}

type Script = Arc<dyn Fn(&str, &str) -> Answer + Send + Sync>;

/// The stand-in; gone when dropped.
#[derive(Debug)]
pub struct FakeEngine {
    folder: tempfile::TempDir,
    serving: JoinHandle<()>,
}

impl FakeEngine {
    /// Listens. `script` is given method and path (without the query) of each request.
    ///
    /// # Panics
    /// No socket can be made.
    pub fn serve(script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("engine.sock")).expect("a socket");
        let script: Script = Arc::new(script);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&script)));
            }
        });
        Self { folder, serving }
    }

    /// Address in the form of `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Path of the socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(mut stream: UnixStream, script: Script) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut first = head.lines().next()?.split(' ');
    let (method, target) = (first.next()?, first.next()?);
    let path = target.split('?').next()?;
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    match script(method, path) {
        Answer::Json(status, json) => {
            let text = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
                json.len()
            );
            stream.write_all(text.as_bytes()).await.ok()?;
        }
        Answer::Raw(bytes) => stream.write_all(&bytes).await.ok()?,
        Answer::RawThenHang(bytes) => {
            stream.write_all(&bytes).await.ok()?;
            std::future::pending::<()>().await;
        }
        Answer::Hang => std::future::pending().await,
    }
    stream.shutdown().await.ok()
}

/// The answer to `/version`.
pub fn version(engine: &str, api: &str, least: &str) -> Answer {
    Answer::Json(200, format!(r#"{{"Version": "{engine}", "ApiVersion": "{api}", "MinAPIVersion": "{least}"}}"#))
}

/// An upgraded connection that carries these frames of standard output.
pub fn exec_output(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\
        Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        .to_vec();
    for frame in frames {
        bytes.extend_from_slice(&[1, 0, 0, 0]);
        bytes.extend_from_slice(&u32::try_from(frame.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(frame);
    }
    bytes
}
