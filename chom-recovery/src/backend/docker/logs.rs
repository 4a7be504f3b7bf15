//! Logs of containers, line by line.

use std::collections::VecDeque;

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream};

use super::client::{Connection, checked_name};
use crate::{
    backend::{LogLine, LogRequest, LogStream},
    error::{Error, ErrorKind, Result},
    secret,
};

/// Longest line that is kept; the rest of a longer one is cut off.
const LONGEST_LINE: usize = 1 << 20;

impl Connection {
    /// Reads a container's log.
    pub(super) async fn logs(&self, container: &str, request: LogRequest) -> Result<LogStream> {
        let tty = self.inspect(container).await?.config.and_then(|config| config.tty).unwrap_or(false);
        let since = request.since.map_or(0, |at| i32::try_from(at.timestamp()).unwrap_or(i32::MAX));
        let tail = request.tail.map_or_else(|| "all".into(), |lines| lines.to_string());
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).since(since).tail(&tail).build();
        let name = checked_name(container)?.to_owned();
        let frames = self.bulk.logs(&name, Some(options)).boxed();
        let stall = self.options.stall_timeout;
        let reader = Reader { frames, lines: Lines::default(), ready: VecDeque::new(), ended: false };
        let lines = stream::unfold(reader, move |mut reader| {
            let name = name.clone();
            async move {
                loop {
                    if let Some(line) = reader.ready.pop_front() {
                        // The Engine filters by whole seconds.
                        if request.since.is_some_and(|since| line.at.is_some_and(|at| at < since)) {
                            continue;
                        }
                        return Some((Ok(line), reader));
                    }
                    if reader.ended {
                        return None;
                    }
                    match tokio::time::timeout(stall, reader.frames.next()).await {
                        Ok(Some(Ok(frame))) => match reader.lines.push(frame, tty) {
                            Ok(lines) => reader.ready.extend(lines),
                            Err(error) => {
                                reader.ended = true;
                                return Some((Err(error.with("container", &name)), reader));
                            }
                        },
                        Ok(Some(Err(error))) => {
                            reader.ended = true;
                            let what = format!("read the log of container `{name}`");
                            return Some((Err(super::error::map(error, super::error::Effect::Read, what)), reader));
                        }
                        Ok(None) => {
                            reader.ended = true;
                            reader.ready.extend(reader.lines.finish());
                        }
                        Err(_) => {
                            reader.ended = true;
                            let text = format!("no byte of the log of container `{name}` came for {stall:?}");
                            return Some((Err(Error::new(ErrorKind::Timeout, text)), reader));
                        }
                    }
                }
            }
        });
        Ok(lines.boxed())
    }
}

struct Reader {
    frames: stream::BoxStream<'static, Result<LogOutput, bollard::errors::Error>>,
    lines: Lines,
    ready: VecDeque<LogLine>,
    ended: bool,
}

/// Puts lines together. Frames end anywhere in a line, the logging drivers cut lines at 16 KiB.
#[derive(Default)]
struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Lines {
    fn push(&mut self, frame: LogOutput, tty: bool) -> Result<Vec<LogLine>> {
        let (buffer, bytes, is_stderr) = match frame {
            LogOutput::StdOut { message } => (&mut self.stdout, message, false),
            LogOutput::StdErr { message } => (&mut self.stderr, message, true),
            LogOutput::Console { message } if tty => (&mut self.stdout, message, false),
            LogOutput::Console { .. } | LogOutput::StdIn { .. } => {
                return Err(Error::new(ErrorKind::Corrupt, "the log was cut in the middle of a line"));
            }
        };
        // The rest of a line that a logging driver cut carries a time of its own.
        let bytes = if buffer.is_empty() { &bytes[..] } else { split_time(&bytes).1 };
        let mut lines = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            if buffer.len() < LONGEST_LINE {
                buffer.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                lines.push(line(buffer, is_stderr));
                buffer.clear();
            }
        }
        Ok(lines)
    }

    fn finish(&mut self) -> Vec<LogLine> {
        [(&mut self.stdout, false), (&mut self.stderr, true)]
            .into_iter()
            .filter(|(buffer, _)| !buffer.is_empty())
            .map(|(buffer, is_stderr)| line(&std::mem::take(buffer), is_stderr))
            .collect()
    }
}

fn line(bytes: &[u8], is_stderr: bool) -> LogLine {
    let (at, text) = split_time(bytes);
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    LogLine { at, is_stderr, text: secret::scrub(&String::from_utf8_lossy(text)) }
}

fn split_time(bytes: &[u8]) -> (Option<DateTime<Utc>>, &[u8]) {
    // `2026-01-02T03:04:05.123456789Z `, of fixed width.
    const WIDTH: usize = 30;
    let time = bytes
        .get(..WIDTH)
        .filter(|_| bytes.get(WIDTH).is_none_or(|b| *b == b' '))
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    match time {
        Some(time) => (Some(time.with_timezone(&Utc)), bytes.get(WIDTH + 1..).unwrap_or_default()),
        None => (None, bytes),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn stdout(text: &'static str) -> LogOutput {
        LogOutput::StdOut { message: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn a_line_in_two_frames_is_one_line_with_its_first_time() {
        let mut lines = Lines::default();
        assert!(lines.push(stdout("2026-01-02T03:04:05.000000001Z first "), false).unwrap().is_empty());
        let got = lines.push(stdout("2026-01-02T03:04:05.000000002Z half\n"), false).unwrap();
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].text, "first half");
        assert_eq!(got[0].at.unwrap().timestamp_subsec_nanos(), 1);
    }

    #[test]
    fn the_two_streams_do_not_mix() {
        let mut lines = Lines::default();
        lines.push(stdout("2026-01-02T03:04:05.000000001Z out"), false).unwrap();
        let message = Bytes::from_static(b"2026-01-02T03:04:05.000000001Z err\n");
        let got = lines.push(LogOutput::StdErr { message }, false).unwrap();
        assert!(got[0].is_stderr && got[0].text == "err");
        assert_eq!(lines.finish()[0].text, "out");
    }

    #[test]
    fn a_cut_frame_is_an_error_unless_the_container_has_a_terminal() {
        let cut = || LogOutput::Console { message: Bytes::from_static(b"\x01\0\0") };
        assert_eq!(Lines::default().push(cut(), false).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(Lines::default().push(cut(), true).is_ok());
    }
}
