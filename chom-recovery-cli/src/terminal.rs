//! Standard error: bars, lines and questions that do not tear each other.

use std::{
    io::{BufRead, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The terminal, or what stands in its place. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Terminal {
    bars: MultiProgress,
    active: Arc<Mutex<Option<ProgressBar>>>,
    /// Bars can be drawn and lines rewritten.
    is_live: bool,
    /// Somebody can be asked.
    can_ask: bool,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_live = std::io::stderr().is_terminal() && !is_dumb;
        let target = if is_live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bars: MultiProgress::with_draw_target(target),
            active: Arc::default(),
            is_live,
            can_ask: std::io::stderr().is_terminal() && std::io::stdin().is_terminal(),
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    pub(crate) fn can_ask(&self) -> bool {
        self.can_ask
    }

    /// Prints a line above the bar. Nobody reading any more is not an error of ours.
    pub(crate) fn line(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    /// Shows that something goes on; it takes the place of what was shown before.
    pub(crate) fn begin(&self, message: &str) {
        let mut active = self.active();
        clear(&mut active);
        if !self.is_live {
            return;
        }
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(spinner()));
        bar.set_message(message.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        *active = Some(bar);
    }

    /// Changes what is said of it.
    pub(crate) fn message(&self, message: &str) {
        if let Some(bar) = self.active().as_ref() {
            bar.set_message(message.to_owned());
        }
    }

    /// Shows how far it is, in bytes.
    pub(crate) fn advance(&self, done: u64, total: Option<u64>) {
        let active = self.active();
        let Some(bar) = active.as_ref() else { return };
        match total {
            Some(total) if bar.length() != Some(total) => {
                bar.set_style(bytes_of_total());
                bar.set_length(total);
            }
            None if bar.position() == 0 => bar.set_style(bytes_only()),
            _ => {}
        }
        bar.set_position(done);
    }

    /// Removes what is shown.
    pub(crate) fn end(&self) {
        clear(&mut self.active());
    }

    /// Asks on standard error and reads a line from standard input; `None`: there is no answer.
    pub(crate) fn ask(&self, question: &str) -> Option<String> {
        self.end();
        self.bars.suspend(|| {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "{question}").and_then(|()| err.flush());
        });
        let mut answer = String::new();
        match std::io::stdin().lock().read_line(&mut answer) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(answer.trim().to_owned()),
        }
    }

    fn active(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn clear(active: &mut Option<ProgressBar>) {
    if let Some(bar) = active.take() {
        bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn spinner() -> ProgressStyle {
    style("{spinner} {wide_msg} {elapsed}").tick_chars("|/-\\ ")
}

fn bytes_only() -> ProgressStyle {
    style("{spinner} {wide_msg} {bytes} {bytes_per_sec} {elapsed}").tick_chars("|/-\\ ")
}

fn bytes_of_total() -> ProgressStyle {
    style("{spinner} {wide_msg} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta}")
        .tick_chars("|/-\\ ")
        .progress_chars("=> ")
}
