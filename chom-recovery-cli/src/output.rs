//! What goes where: data to standard output, everything else to standard error.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
};

use chom_recovery::{Error, ErrorRecord, probe::Status};
use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{args::ColorChoice, exit::Exit, terminal::Terminal};

/// Version of the form of JSON output. Readers ignore fields that they do not know.
const VERSION: u32 = 1;

/// Where a command prints.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) terminal: Terminal,
    data: Palette,
    talk: Palette,
}

impl Output {
    pub(crate) fn new(json: bool, color: ColorChoice) -> Self {
        Self {
            json,
            terminal: Terminal::new(),
            data: Palette::choose(color, std::io::stdout().is_terminal()),
            talk: Palette::choose(color, std::io::stderr().is_terminal()),
        }
    }

    /// Prints a line of data.
    #[expect(clippy::unused_self, reason = "where data goes is this type's affair")]
    pub(crate) fn line(&self, text: impl Display) {
        write_out(&format!("{text}\n"));
    }

    /// Says something to whoever watches.
    pub(crate) fn say(&self, text: impl Display) {
        self.terminal.line(&text.to_string());
    }

    /// Prints the one document of a query.
    #[expect(clippy::unused_self, reason = "where data goes is this type's affair")]
    pub(crate) fn document(&self, kind: &str, value: &impl Serialize) {
        write_out(&format!("{}\n", document(kind, value)));
    }

    /// Prints data as a document or as text.
    pub(crate) fn show(&self, kind: &str, value: &impl Serialize, text: impl FnOnce(&Self)) {
        if self.json {
            self.document(kind, value);
        } else {
            text(self);
        }
    }

    /// Tells an error: as JSON among the data, and always to whoever watches.
    pub(crate) fn error(&self, error: &Error, exit: Exit) {
        if self.json {
            write_out(&format!("{}\n", exit_error(&error.to_record(), exit)));
        }
        self.say(render_error(&error.to_record(), self.talk));
    }

    /// Colours of the data.
    pub(crate) fn palette(&self) -> Palette {
        self.data
    }

    /// Colours of the talk.
    pub(crate) fn talk_palette(&self) -> Palette {
        self.talk
    }

    /// Makes a table for standard output.
    pub(crate) fn table(&self, header: &[&str]) -> Table {
        table(header, self.data)
    }
}

/// Narrower than this, wrapped columns are harder to read than lines that run over.
const NARROWEST: u16 = 60;

/// Makes a table without lines, so that it can be read by `awk` as well as by people.
fn table(header: &[&str], palette: Palette) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    // Asked before colours are settled: without them the table knows no terminal any more.
    if let Some(width) = table.width().filter(|width| *width >= NARROWEST) {
        table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
    }
    if palette.0 {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Makes the cell of a status: its word, and a colour that says the same.
pub(crate) fn status_cell(status: Status) -> Cell {
    match status {
        Status::Healthy => Cell::new("healthy").fg(Color::Green),
        Status::Degraded => Cell::new("degraded").fg(Color::Yellow),
        Status::Inconclusive => Cell::new("INCONCLUSIVE").fg(Color::Yellow),
        Status::Down => Cell::new("DOWN").fg(Color::Red),
    }
}

/// Whether colours are used. They never say anything that the text does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette(pub(crate) bool);

impl Palette {
    fn choose(choice: ColorChoice, is_terminal: bool) -> Self {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        Self(match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                is_terminal && variable("NO_COLOR").is_none() && variable("TERM").is_none_or(|t| t != "dumb")
            }
        })
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    pub(crate) fn red(self, text: impl Display) -> String {
        self.paint("31", text)
    }

    pub(crate) fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    pub(crate) fn status(self, status: Status) -> String {
        match status {
            Status::Healthy => self.green("healthy"),
            Status::Degraded => self.yellow("degraded"),
            Status::Inconclusive => self.yellow("INCONCLUSIVE"),
            Status::Down => self.red("DOWN"),
        }
    }
}

/// Writes to standard output. Nobody reading any more is not an error of ours.
pub(crate) fn write_out(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Makes a document: version and type first, then the fields of the value.
pub(crate) fn document(kind: &str, value: &impl Serialize) -> Value {
    let mut map = Map::new();
    map.insert("v".into(), VERSION.into());
    map.insert("type".into(), kind.into());
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => map.extend(fields.into_iter().filter(|(name, _)| name != "type")),
        Ok(other) => drop(map.insert("items".into(), other)),
        Err(error) => drop(map.insert("error".into(), error.to_string().into())),
    }
    Value::Object(map)
}

pub(crate) fn exit_error(error: &ErrorRecord, exit: Exit) -> Value {
    json!({
        "v": VERSION,
        "type": "exit_error",
        "code": error.kind.code(),
        "exit_code": exit as u8,
        "message": message(error),
        "hint": error.hint,
        "causes": error.causes,
    })
}

fn message(error: &ErrorRecord) -> String {
    let facts: Vec<String> = error.context.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    if facts.is_empty() { error.message.clone() } else { format!("{} ({})", error.message, facts.join(", ")) }
}

pub(crate) fn render_error(error: &ErrorRecord, palette: Palette) -> String {
    let mut lines = vec![format!("{} {}", palette.red(palette.bold("error:")), message(error))];
    lines.extend(error.causes.iter().map(|cause| format!("  caused by: {cause}")));
    lines.extend(error.hint.iter().map(|hint| format!("{} {hint}", palette.bold("hint:"))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use chom_recovery::ErrorKind;

    use super::*;

    #[test]
    fn an_error_names_facts_causes_and_the_next_step() {
        let error = Error::new(ErrorKind::NoSpace, "the store is full")
            .with("store", "file:/backups")
            .caused_by(std::io::Error::other("write failed"))
            .hint("free space there")
            .to_record();
        insta::assert_snapshot!(render_error(&error, Palette(false)), @r"
        error: the store is full (store: file:/backups)
          caused by: write failed
        hint: free space there
        ");
        insta::assert_snapshot!(exit_error(&error, Exit::from(error.kind)), @r#"{"v":1,"type":"exit_error","code":"no_space","exit_code":6,"message":"the store is full (store: file:/backups)","hint":"free space there","causes":["write failed"]}"#);
    }

    #[test]
    fn documents_begin_with_version_and_type() {
        assert_eq!(document("x", &json!({"a": 1})).to_string(), r#"{"v":1,"type":"x","a":1}"#);
        assert_eq!(document("x", &json!([1, 2])).to_string(), r#"{"v":1,"type":"x","items":[1,2]}"#);
        assert_eq!(
            document("event", &json!({"type": "step_done", "ms": 2})).to_string(),
            r#"{"v":1,"type":"event","ms":2}"#
        );
    }

    #[test]
    fn without_colour_the_words_stay() {
        assert_eq!(Palette(false).status(Status::Down), "DOWN");
        assert_eq!(Palette(true).status(Status::Down), "\u{1b}[31mDOWN\u{1b}[0m");
    }
}
