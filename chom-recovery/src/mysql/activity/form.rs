//! Statements without their values, for what is kept and shown.

/// Longest form of a statement that is kept.
const FORM: usize = 120;

/// Takes the values out of a statement: strings and numbers become `?`.
pub(super) fn form(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_in_word =
            out.chars().last().is_some_and(|last| last.is_alphanumeric() || matches!(last, '_' | '`' | '$'));
        match c {
            '\'' | '"' => {
                out.push('?');
                skip_string(&mut chars, c);
            }
            c if c.is_ascii_digit() && !is_in_word => {
                out.push('?');
                while chars.next_if(|next| next.is_ascii_alphanumeric() || *next == '.').is_some() {}
            }
            c if c.is_whitespace() => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c => out.push(c),
        }
        if out.chars().count() >= FORM {
            out.push('…');
            break;
        }
    }
    out.trim().to_owned()
}

/// Reads to the end of a string, or of the text where it was cut before.
fn skip_string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) {
    while let Some(c) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if_eq(&quote).is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_no_values() {
        for (text, wanted) in [
            ("SELECT * FROM t1 WHERE a = 'se''cr\\'et' AND b=12.5", "SELECT * FROM t1 WHERE a = ? AND b=?"),
            ("UPDATE `u2`\n  SET x = \"y\"  WHERE id = 0x1F", "UPDATE `u2` SET x = ? WHERE id = ?"),
            ("SELECT 'cut in the midd", "SELECT ?"),
        ] {
            assert_eq!(form(text), wanted);
        }
        assert_eq!(form(&"a ".repeat(500)).chars().count(), FORM + 1);
    }
}
