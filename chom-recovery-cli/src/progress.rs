//! What is said while a run goes on.

use std::{collections::BTreeMap, time::Instant};

use chom_recovery::run::{Event, ItemVerdict, Outcome};
use chrono::{Local, Utc};

use crate::{
    human,
    output::{Output, Palette, document, write_out},
};

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// One JSON object a line on standard output.
    Json,
    /// Bars that are redrawn, with a line for each step that is done.
    Live,
    /// A line for each step, with its time.
    Lines,
}

/// What goes on at the moment.
#[derive(Debug)]
struct Current {
    step: String,
    since: Instant,
    /// What was heard of it last.
    latest: String,
}

/// Tells what happens.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    output: Output,
    current: Option<Current>,
    budgets: BTreeMap<String, u64>,
}

impl Progress {
    pub(crate) fn new(style: Style, output: Output) -> Self {
        Self { style, output, current: None, budgets: BTreeMap::new() }
    }

    /// Tells an event.
    pub(crate) fn show(&mut self, event: &Event) {
        if self.style == Style::Json {
            return write_out(&format!("{}\n", line_of(event)));
        }
        self.follow(event);
        if let Some(text) = text_of(event, &self.budgets, self.output.talk_palette()) {
            match self.style {
                Style::Live => self.output.say(format!("  {text}")),
                _ => self.output.say(format!("{} {text}", Local::now().format("%T"))),
            }
        }
    }

    /// Gives a sign of life where nothing is redrawn.
    pub(crate) fn beat(&self) {
        let (Style::Lines, Some(current)) = (self.style, &self.current) else { return };
        let latest = if current.latest.is_empty() { String::new() } else { format!(", {}", current.latest) };
        self.output.say(format!(
            "{} still   {} for {}{latest}",
            Local::now().format("%T"),
            current.step,
            human::duration(current.since.elapsed()),
        ));
    }

    pub(crate) fn end(&mut self) {
        self.current = None;
        self.output.terminal.end();
    }

    /// Keeps track of what goes on, and redraws it.
    fn follow(&mut self, event: &Event) {
        let terminal = self.output.terminal.clone();
        match event {
            Event::StepStarted { step, budget_ms, .. } => {
                if let Some(budget) = budget_ms {
                    self.budgets.insert(step.clone(), *budget);
                }
                self.begin(step);
            }
            Event::UndoStarted { step } => self.begin(&format!("undo {step}")),
            Event::Progress { done, total, rate, .. } => {
                terminal.advance(*done, *total);
                self.heard(amount(*done, *total, *rate));
            }
            Event::Waiting { step, summary, streak, needed, .. } => {
                let text = format!("{streak} of {needed} good answers; {summary}");
                if self.current.as_ref().is_none_or(|c| c.step != *step) {
                    self.begin(step);
                }
                terminal.message(&format!("{step}: {text}"));
                self.heard(text);
            }
            Event::StepDone { .. }
            | Event::StepFailed { .. }
            | Event::UndoDone { .. }
            | Event::UndoFailed { .. }
            | Event::RunEnded { .. }
            | Event::ApprovalNeeded { .. } => self.end(),
            _ => {}
        }
    }

    fn begin(&mut self, step: &str) {
        self.output.terminal.begin(step);
        self.current = Some(Current { step: step.to_owned(), since: Instant::now(), latest: String::new() });
    }

    fn heard(&mut self, text: String) {
        if let Some(current) = &mut self.current {
            current.latest = text;
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is shown, not counted with")]
fn amount(done: u64, total: Option<u64>, rate: f64) -> String {
    let total = total.map_or_else(String::new, |total| format!(" of {}", human::bytes(total)));
    format!("{}{total}, {}/s", human::bytes(done), human::bytes(rate.max(0.0) as u64))
}

/// An event as a line of JSON.
fn line_of(event: &Event) -> String {
    let kind = serde_json::to_value(event).ok();
    let kind = kind.as_ref().and_then(|v| v.get("type")).and_then(|t| t.as_str()).unwrap_or("event");
    let mut line = document(kind, event);
    if let Some(fields) = line.as_object_mut() {
        fields.insert("at".into(), Utc::now().to_rfc3339().into());
    }
    line.to_string()
}

/// An event as a line for people; `None`: it is not worth one.
fn text_of(event: &Event, budgets: &BTreeMap<String, u64>, palette: Palette) -> Option<String> {
    let took = |step: &str, ms: u64| {
        let budget = budgets.get(step);
        let text = budget.map_or_else(String::new, |b| format!(" (budget {})", human::millis(*b)));
        let text = format!("{}{text}", human::millis(ms));
        if budget.is_some_and(|b| ms > *b) { palette.yellow(format!("{text} OVER BUDGET")) } else { text }
    };
    Some(match event {
        Event::StepDone { step, ms, .. } => format!("{} {step}  {}", palette.green("done   "), took(step, *ms)),
        Event::StepReplayed { step } => format!("{} {step}  by an earlier process", palette.green("done   ")),
        Event::StepFailed { step, error } => format!("{} {step}: {}", palette.red("FAILED "), error.message),
        Event::Retrying { step, error, wait_ms } => {
            format!("{} {step} in {}: {}", palette.yellow("again  "), human::millis(*wait_ms), error.message)
        }
        Event::OverBudget { step, budget_ms } => {
            format!("{} {step} takes longer than {}", palette.yellow("slow   "), human::millis(*budget_ms))
        }
        Event::Note { step, text } => format!("note    {step}: {text}"),
        Event::ApprovalNeeded { name, ask } => format!("{} {name}: {ask}", palette.yellow("asks   ")),
        Event::Approved { name, by } => format!("{} {name} by {by}", palette.green("approved")),
        Event::ChecklistItem { item, verdict, evidence, .. } => {
            let verdict = match verdict {
                ItemVerdict::Passed | ItemVerdict::Attested => palette.green("ok     "),
                ItemVerdict::Waived => palette.yellow("WAIVED "),
                ItemVerdict::Failed => palette.red("FAILED "),
            };
            format!("{verdict} {item}: {evidence}")
        }
        Event::UndoDone { step, ms } => format!("{} {step}  {}", palette.green("undone "), human::millis(*ms)),
        Event::UndoFailed { step, error } => format!("{} to undo {step}: {}", palette.red("FAILED "), error.message),
        Event::Missed { events } => format!("({events} events were not shown)"),
        Event::RunEnded { outcome: Outcome::Paused, .. } => palette.yellow("paused"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use chom_recovery::{Error, ErrorKind, run::Effect};

    use super::*;

    fn told(events: &[Event]) -> String {
        let budgets = [("a/b".to_owned(), 1_000)].into();
        events.iter().filter_map(|e| text_of(e, &budgets, Palette(false))).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn every_step_that_ends_gets_a_line() {
        let error = Error::new(ErrorKind::NoSpace, "the disk is full").to_record();
        insta::assert_snapshot!(told(&[
            Event::StepStarted { step: "a/b".into(), attempt: 1, effect: Effect::Observe, budget_ms: Some(1_000) },
            Event::StepDone { step: "a/b".into(), ms: 900, budget_ms: None },
            Event::StepDone { step: "a/b".into(), ms: 1_900, budget_ms: None },
            Event::StepFailed { step: "a/c".into(), error: error.clone() },
            Event::UndoDone { step: "a/b".into(), ms: 5 },
            Event::ChecklistItem {
                item: "a/disk".into(),
                text: "the disk has room".into(),
                verdict: ItemVerdict::Waived,
                evidence: "full; waived by ada: known".into()
            },
        ]), @r"
        done    a/b  0.9 s (budget 1.0 s)
        done    a/b  1.9 s (budget 1.0 s) OVER BUDGET
        FAILED  a/c: the disk is full
        undone  a/b  0.0 s
        WAIVED  a/disk: full; waived by ada: known
        ");
    }

    #[test]
    fn a_line_of_json_has_version_type_and_time() {
        let line = line_of(&Event::StepReplayed { step: "a".into() });
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(line.starts_with(r#"{"v":1,"type":"step_replayed","step":"a","at":""#), "{line}");
        assert!(value["at"].as_str().unwrap().ends_with("+00:00"));
    }

    #[test]
    fn amounts_have_units() {
        assert_eq!(amount(1 << 20, Some(10 << 20), 2048.0), "1.0 MiB of 10.0 MiB, 2.0 KiB/s");
        assert_eq!(amount(5, None, -1.0), "5 B, 0 B/s");
    }
}
