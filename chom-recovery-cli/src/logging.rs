//! The log on standard error.

use std::io::{self, Write};

use chom_recovery::{backend::docker::NOISY_LOG_TARGETS, secret::scrub};
use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{filter::filter_fn, fmt::MakeWriter, layer::SubscriberExt, prelude::*};

use crate::terminal::Terminal;

/// Starts the log: warnings, with `-v` also information, with `-vv` everything of ours.
pub(crate) fn start(verbose: u8, terminal: Terminal) {
    let wanted = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(verbose > 1)
        .with_writer(Scrubbed { terminal })
        .with_filter(filter_fn(move |metadata| is_wanted(metadata, wanted)));
    // A second start within one process changes nothing.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}

fn is_wanted(metadata: &Metadata<'_>, wanted: LevelFilter) -> bool {
    *metadata.level() <= cap(metadata.target(), wanted)
}

/// Requests to the Engine and the database hold passwords at `debug`; no option shows them.
fn cap(target: &str, wanted: LevelFilter) -> LevelFilter {
    let root = target.split("::").next().unwrap_or_default();
    if NOISY_LOG_TARGETS.contains(&root) { wanted.min(LevelFilter::from_level(Level::WARN)) } else { wanted }
}

/// Takes secrets out of every record, and writes it above the bars.
struct Scrubbed {
    terminal: Terminal,
}

/// One record.
struct Record {
    terminal: Terminal,
    text: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Scrubbed {
    type Writer = Record;

    fn make_writer(&'a self) -> Record {
        Record { terminal: self.terminal.clone(), text: Vec::new() }
    }
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.terminal.line(scrub(&String::from_utf8_lossy(&self.text)).trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_verbosity_shows_requests_of_noisy_libraries() {
        for target in NOISY_LOG_TARGETS {
            assert_eq!(cap(&format!("{target}::inner"), LevelFilter::TRACE), LevelFilter::WARN, "{target}");
            assert_eq!(cap(target, LevelFilter::ERROR), LevelFilter::ERROR);
        }
        assert_eq!(cap("chom_recovery::run", LevelFilter::DEBUG), LevelFilter::DEBUG);
        assert_eq!(cap("bollards", LevelFilter::DEBUG), LevelFilter::DEBUG);
    }
}
