//! The syntax of environment files, as `vlucas/phpdotenv` 5 reads them (`Parser\Lines`, `Parser\EntryParser`): Laravel's
//! reader since version 8.

/// Some lines of a file that belong together, kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Number of the first, from 1.
    line: usize,
    /// As written, with line ends.
    pub(super) text: String,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    /// Blank, or a comment.
    Nothing,
    /// A name without `=` has no value.
    Entry { name: String, value: Option<String> },
    /// It makes the whole file unreadable.
    Fault { name: Option<String>, why: &'static str },
}

impl Block {
    pub(super) fn pair(&self) -> Option<(&str, &str)> {
        match &self.content {
            Content::Entry { name, value: Some(value) } => Some((name, value)),
            _ => None,
        }
    }

    pub(super) fn is_faulty(&self) -> bool {
        matches!(self.content, Content::Fault { .. })
    }

    /// The name, also where the rest cannot be read.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.content {
            Content::Nothing => None,
            Content::Entry { name, .. } => Some(name),
            Content::Fault { name, .. } => name.as_deref(),
        }
    }

    /// Line, key and reason; never the value.
    pub(super) fn fault(&self) -> Option<String> {
        let Content::Fault { name, why } = &self.content else { return None };
        let name = name.as_ref().filter(|name| is_shown(name));
        let key = name.map_or_else(String::new, |name| format!(", `{name}`"));
        Some(format!("line {}{key}: {why}", self.line))
    }

    /// Names the lines for a person: by their key where there is one that looks like one.
    pub(super) fn label(&self) -> String {
        self.name()
            .filter(|name| is_shown(name))
            .map_or_else(|| format!("line {}", self.line), |name| format!("`{name}`"))
    }

    /// What follows the name, whole and word by word: what a message about it may quote.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        let value = if self.is_faulty() { self.text.split_once('=').map_or("", |(_, value)| value) } else { "" };
        let value = value.trim().trim_matches(['"', '\'']);
        std::iter::once(value).chain(value.split_whitespace())
    }
}

/// A line of an unquoted key may look like a name and a value.
fn is_shown(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Cuts a text into blocks; together they are the text again.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (mut blocks, mut at) = (Vec::new(), 0);
    while at < lines.len() {
        let closing = is_left_open(lines[at]).then(|| lines[at + 1..].iter().position(|line| closes(line)));
        let (taken, content) = match closing {
            None => (1, content(lines[at])),
            Some(Some(more)) => match content(&lines[at..=at + 1 + more].concat()) {
                // The quote that closes it is another's. What follows is read by itself, so that it can be kept.
                Content::Fault { name, why } => (1, Content::Fault { name, why }),
                content => (more + 2, content),
            },
            // The reader would drop all that follows, in silence.
            Some(None) => (1, Content::Fault { name: name_of(lines[at]), why: UNCLOSED }),
        };
        blocks.push(Block { line: at + 1, text: lines[at..at + taken].concat(), content });
        at += taken;
    }
    blocks
}

const UNCLOSED: &str = "a closing quote is missing";
/// Some editors write it first; the reader takes it away.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A value that begins with a double quote which does not end on this line. Comments count, for the reader too.
fn is_left_open(line: &str) -> bool {
    line.contains("=\"") && quotes(line) <= 1
}

fn closes(line: &str) -> bool {
    line.trim_end_matches(['\r', '\n']) == "\"" || quotes(line) >= 1
}

/// Counts double quotes that something other than a backslash stands before.
fn quotes(line: &str) -> usize {
    let line = line.replace("\\\\", "");
    line.as_bytes().windows(2).filter(|pair| pair[1] == b'"' && pair[0] != b'\\').count()
}

fn is_nothing(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn content(text: &str) -> Content {
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    if is_nothing(text) {
        return Content::Nothing;
    }
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (text.trim(), None),
    };
    let Some(known) = read_name(name) else {
        let why = if name.is_empty() { "there is no name before `=`" } else { "the name is not one" };
        return Content::Fault { name: None, why };
    };
    match value.map(read_value).transpose() {
        Ok(value) => Content::Entry { name: known, value },
        Err(why) => Content::Fault { name: Some(known), why },
    }
}

fn name_of(text: &str) -> Option<String> {
    read_name(text.split_once('=')?.0.trim())
}

fn read_name(text: &str) -> Option<String> {
    let text = text.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(text).trim();
    let inner = |quote| text.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    let name = inner('"').or_else(|| inner('\'')).unwrap_or(text);
    let is_good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    (!name.is_empty() && name.chars().all(is_good)).then(|| name.to_owned())
}

/// Reads a value. Variables in it stay as they are written.
fn read_value(text: &str) -> Result<String, &'static str> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        Begin,
        Plain,
        Single,
        Double,
        Escaped,
        After,
    }
    let (mut state, mut value) = (State::Begin, String::new());
    for c in text.chars() {
        state = match (state, c) {
            (State::Begin | State::Plain | State::After, '#') => break,
            (State::Begin, '\'') => State::Single,
            (State::Begin, '"') => State::Double,
            (State::Plain, c) if c.is_ascii_whitespace() => State::After,
            (State::Begin | State::Plain, c) => {
                value.push(c);
                State::Plain
            }
            (State::Single, '\'') | (State::Double, '"') => State::After,
            (State::Double, '\\') => State::Escaped,
            (State::Escaped, c) => {
                value.push(match c {
                    '"' | '\\' | '$' => c,
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    _ => return Err("an unexpected escape sequence"),
                });
                State::Double
            }
            (State::Single | State::Double, c) => {
                value.push(c);
                state
            }
            (State::After, c) if c.is_ascii_whitespace() => State::After,
            (State::After, _) => return Err("unexpected whitespace: quote the value"),
        };
    }
    if matches!(state, State::Single | State::Double | State::Escaped) {
        return Err(UNCLOSED);
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(text: &str) -> Vec<(String, String)> {
        blocks(text).iter().filter_map(Block::pair).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    fn faults(text: &str) -> Vec<String> {
        blocks(text).iter().filter_map(Block::fault).collect()
    }

    #[test]
    fn values_are_read_as_the_application_reads_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A = b ", "b"),
            ("export A=b", "b"),
            ("A=b # c", "b"),
            ("A=b#c", "b"),
            ("A=\"b c\" # d", "b c"),
            ("A='b \"c'", "b \"c"),
            (r#"A="b\n\"\\\$c""#, "b\n\"\\$c"),
            ("A=\"b\nc\"\nB=d", "b\nc"),
            ("A=", ""),
            ("A=\"\"", ""),
            ("A=b=c", "b=c"),
            ("A=${B}/x", "${B}/x"),
        ] {
            assert_eq!(values(text)[0], ("A".to_owned(), value.to_owned()), "{text}");
            assert_eq!(faults(text), [""; 0], "{text}");
        }
        assert_eq!(values("# A=b\n\n  #c\nexport\nB"), [], "no values");
    }

    #[test]
    fn faults_name_line_key_and_reason_and_not_the_value() {
        for (text, fault) in [
            ("X=1\nA=two hunter2", "line 2, `A`: unexpected whitespace"),
            ("A='hunter2", "line 1, `A`: a closing quote is missing"),
            ("A=\"hunter2\nB=c", "line 1, `A`: a closing quote is missing"),
            (r#"A="hunter2\q""#, "line 1, `A`: an unexpected escape sequence"),
            ("=hunter2", "line 1: there is no name"),
            ("A-B=hunter2", "line 1: the name is not one"),
        ] {
            let found = faults(text);
            assert!(found.len() == 1 && found[0].starts_with(fault), "{text}: {found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
        let lost = [("B".to_owned(), "c".to_owned()), ("C".to_owned(), "d e".to_owned())];
        assert_eq!(values("A=\"x\nB=c\nC=\"d e\"\n"), lost, "what follows is not lost with it");
        assert_eq!(faults("abcD12=x y"), ["line 1: unexpected whitespace: quote the value"], "a name that may be none");
    }

    #[test]
    fn what_is_only_strange_is_no_fault() {
        let key = "#KEY=\"-----BEGIN\nMIIE/+\n-----END\"\nA=b\n";
        assert_eq!((faults(key), values(key).len()), (vec![], 1), "a comment of several lines");
        assert_eq!((faults("\u{feff}# c\nA=b"), values("\u{feff}A=b").len()), (vec![], 1));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(text in "([A-Z=\"' #\\\\\n$a-c]{0,60})") {
            let together: String = blocks(&text).into_iter().map(|block| block.text).collect();
            prop_assert_eq!(together, text);
        }
    }
}
