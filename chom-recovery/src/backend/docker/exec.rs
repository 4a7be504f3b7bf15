//! Commands in running containers.
//!
//! The end of the output is not the end of the command: only the exit code is, and only when the Engine has
//! recorded it. A frame that the client could not read whole comes out of it as `Console`, which a command
//! without a terminal never produces: it means that the stream was cut.

use std::time::{Duration, Instant};

use bollard::{
    container::LogOutput,
    exec::{StartExecOptions, StartExecResults},
    models::ExecConfig,
};
use futures::{StreamExt, stream};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    task::JoinHandle,
};

use super::client::{Connection, checked_name};
use crate::{
    backend::{Exec, ExecOutput, ExecRequest},
    error::{Error, ErrorKind, Result},
    stream::ByteStream,
};

/// How long the Engine may take to record an exit code after the output has ended.
const EXIT_CODE_WAIT: Duration = Duration::from_secs(10);
/// Capacity of the client's buffer; the Engine's frames are at most 32 KiB.
const BUFFER: usize = 128 << 10;

/// A running command and the task that feeds it.
struct Running {
    output: futures::stream::BoxStream<'static, Result<LogOutput, bollard::errors::Error>>,
    feeding: Option<Feeding>,
    docker: bollard::Docker,
    deadline: Duration,
    id: String,
    what: String,
    ended: bool,
}

/// Ends the feeding of a command with whoever listens to it.
struct Feeding(JoinHandle<Result<()>>);

impl Drop for Feeding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    /// Runs a command in a running container.
    pub(super) async fn exec(&self, container: &str, request: ExecRequest) -> Result<Exec> {
        let program = request.argv.first().cloned().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, format!("a command for container `{container}` is an empty list"))
        })?;
        let what = format!("run `{program}` in container `{container}`");
        let config = ExecConfig {
            attach_stdin: Some(request.stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            // A terminal would merge the streams and change line ends.
            tty: Some(false),
            env: Some(request.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
            cmd: Some(request.argv),
            user: request.user,
            ..Default::default()
        };
        let created = self.change(&what, self.control.create_exec(checked_name(container)?, config)).await?;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(BUFFER) };
        let started = self.change(&what, self.control.start_exec(&created.id, Some(options))).await?;
        let StartExecResults::Attached { output, input } = started else {
            return Err(Error::new(ErrorKind::Failed, format!("cannot {what}: the Engine did not attach to it")));
        };
        let feeding = request.stdin.map(|stdin| Feeding(tokio::spawn(feed(stdin, input))));
        let running = Running {
            output,
            feeding,
            docker: self.control.clone(),
            deadline: self.options.control_timeout,
            id: created.id,
            what,
            ended: false,
        };
        Ok(stream::unfold(running, step).boxed())
    }
}

/// Writes the input and closes it; a command that does not read to the end is its own affair.
async fn feed(mut stdin: ByteStream, mut input: std::pin::Pin<Box<dyn AsyncWrite + Send>>) -> Result<()> {
    while let Some(piece) = stdin.next().await {
        // On an error the input is left open: a command must not take what came so far for the whole.
        let piece = piece?;
        if input.write_all(&piece).await.is_err() {
            return Ok(());
        }
    }
    // Dropping would leave the connection half open, and the command would wait for more.
    let _ = input.flush().await;
    let _ = input.shutdown().await;
    Ok(())
}

async fn step(mut running: Running) -> Option<(Result<ExecOutput>, Running)> {
    if running.ended {
        return None;
    }
    let item = loop {
        match next(&mut running).await {
            // Empty frames say nothing.
            Ok(Some(ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes))) if bytes.is_empty() => {}
            Ok(Some(item)) => break Ok(item),
            Ok(None) => {
                running.ended = true;
                break exit_code(&running.docker, &running.id, running.deadline, &running.what)
                    .await
                    .map(ExecOutput::Exited);
            }
            Err(error) => {
                running.ended = true;
                break Err(error);
            }
        }
    };
    Some((item, running))
}

/// The next piece of output; `None` at its end. A failed input ends it too.
async fn next(running: &mut Running) -> Result<Option<ExecOutput>> {
    let item = loop {
        let Some(feeding) = running.feeding.as_mut() else { break running.output.next().await };
        tokio::select! {
            biased;
            item = running.output.next() => break item,
            fed = &mut feeding.0 => {
                running.feeding = None;
                match fed {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(error.during(format!("cannot {}: its input failed", running.what))),
                    Err(_) => return Err(Error::new(ErrorKind::Cancelled, format!("cannot {}", running.what))),
                }
            }
        }
    };
    let what = &running.what;
    match item {
        None => Ok(None),
        Some(Ok(LogOutput::StdOut { message })) => Ok(Some(ExecOutput::Stdout(message))),
        Some(Ok(LogOutput::StdErr { message })) => Ok(Some(ExecOutput::Stderr(message))),
        Some(Ok(LogOutput::Console { .. } | LogOutput::StdIn { .. })) => {
            Err(Error::new(ErrorKind::Corrupt, format!("cannot {what}: its output was cut in the middle of a frame")))
        }
        Some(Err(error)) => {
            Err(Error::new(ErrorKind::OutcomeUnknown, format!("cannot {what}: the connection was cut"))
                .caused_by(error))
        }
    }
}

/// Asks for the exit code until the Engine has it.
async fn exit_code(docker: &bollard::Docker, id: &str, answer: Duration, what: &str) -> Result<i64> {
    let unknown = |why: &str| Error::new(ErrorKind::OutcomeUnknown, format!("cannot {what}: {why}"));
    let deadline = Instant::now() + EXIT_CODE_WAIT;
    let mut pause = Duration::from_millis(5);
    loop {
        let inspected = super::error::bounded(answer, super::error::Effect::Read, what, docker.inspect_exec(id))
            .await
            .map_err(|e| e.of_kind(ErrorKind::OutcomeUnknown))?;
        match (inspected.running, inspected.exit_code) {
            (Some(false), Some(code)) => return Ok(code),
            (running, _) if Instant::now() >= deadline => {
                return Err(unknown(if running == Some(true) {
                    "its output ended while it still runs"
                } else {
                    "the Engine did not record how it ended"
                }));
            }
            _ => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
