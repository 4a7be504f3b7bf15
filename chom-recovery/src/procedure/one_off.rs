//! A program that runs to its end in a container of ours.

use std::time::Duration;

use futures::StreamExt;

use crate::{
    backend::{Backend, LogRequest, OneOff},
    error::{Error, ErrorKind, Result},
};

/// Most bytes of what it prints that are read.
const LARGEST: usize = 8 << 20;

/// How a program ended, and what it printed.
pub(super) struct Ended {
    pub(super) code: i64,
    pub(super) stdout: Vec<String>,
    pub(super) stderr: Vec<String>,
}

/// Runs it, and removes the container, also one that an earlier attempt left.
///
/// # Errors
/// `Timeout`: it did not end within the limit. `Corrupt`: it printed too much.
pub(super) async fn run_to_end(backend: &dyn Backend, spec: &OneOff, limit: Duration) -> Result<Ended> {
    backend.remove_container(&spec.name).await?;
    let ended = run(backend, spec, limit).await;
    let removed = backend.remove_container(&spec.name).await;
    let ended = ended?;
    removed?;
    Ok(ended)
}

async fn run(backend: &dyn Backend, spec: &OneOff, limit: Duration) -> Result<Ended> {
    backend.one_off(spec).await?;
    let code = backend.wait_container(&spec.name, limit).await?;
    let reading = async {
        let (mut stdout, mut stderr, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut lines = backend.logs(&spec.name, LogRequest::default()).await?;
        while let Some(line) = lines.next().await {
            let line = line?;
            bytes += line.text.len();
            if bytes > LARGEST {
                return Err(Error::new(ErrorKind::Corrupt, format!("it printed more than {LARGEST} bytes")));
            }
            if line.is_stderr { stderr.push(line.text) } else { stdout.push(line.text) }
        }
        Ok(Ended { code, stdout, stderr })
    };
    let late = |_| Error::new(ErrorKind::Timeout, "what it printed cannot be read in time");
    tokio::time::timeout(limit, reading).await.map_err(late)?
}
