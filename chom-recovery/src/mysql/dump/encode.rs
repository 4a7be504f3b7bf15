//! The encoding of a row.

use bytes::BufMut;

/// Appends a cell; `None` is NULL.
pub(super) fn cell(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(mut rest) = value else {
        out.put_slice(b"\\N");
        return;
    };
    out.reserve(rest.len() + 1);
    while let Some(at) = rest.iter().position(|b| matches!(b, b'\\' | b'\t' | b'\n' | 0)) {
        out.put_slice(&rest[..at]);
        out.put_slice(match rest[at] {
            b'\\' => b"\\\\",
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            _ => b"\\0",
        });
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a cell as `LOAD DATA` does: manual, "LOAD DATA Statement", section on `ESCAPED BY`.
    fn decode(text: &[u8]) -> Option<Vec<u8>> {
        if text == b"\\N" {
            return None;
        }
        let (mut out, mut bytes) = (Vec::new(), text.iter());
        while let Some(b) = bytes.next() {
            if *b != b'\\' {
                out.push(*b);
                continue;
            }
            out.push(match bytes.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'0') => 0,
                Some(other) => *other,
                None => b'\\',
            });
        }
        Some(out)
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_and_no_cell_holds_a_separator(value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..64))) {
            let mut text = Vec::new();
            cell(&mut text, value.as_deref());
            prop_assert!(!text.iter().any(|b| matches!(b, b'\t' | b'\n')));
            prop_assert_eq!(decode(&text), value);
        }
    }

    #[test]
    fn null_empty_and_the_text_that_looks_like_null_differ() {
        let encoded = |v: Option<&[u8]>| {
            let mut text = Vec::new();
            cell(&mut text, v);
            text
        };
        assert_eq!(encoded(None), b"\\N");
        assert_eq!(encoded(Some(b"")), b"");
        assert_eq!(encoded(Some(b"\\N")), b"\\\\N");
    }
}
