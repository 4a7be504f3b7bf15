//! The encoding of a row.

use bytes::BufMut;

/// Bytes that are looked at together: the compiler makes one comparison of them.
const BLOCK: usize = 16;

fn is_special(byte: u8) -> bool {
    matches!(byte, b'\\' | b'\t' | b'\n' | 0)
}

/// Finds the first byte that cannot stand for itself. Most cells have none.
fn special(cell: &[u8]) -> Option<usize> {
    let (blocks, rest) = cell.as_chunks::<BLOCK>();
    // Without an early end inside of a block.
    let plain = blocks.iter().take_while(|block| !block.iter().fold(false, |any, b| any | is_special(*b))).count();
    let from = plain * BLOCK;
    let rest = if plain < blocks.len() { &cell[from..] } else { rest };
    rest.iter().position(|b| is_special(*b)).map(|at| from + at)
}

/// Appends a cell; `None` is NULL.
pub(super) fn cell(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(mut rest) = value else {
        out.put_slice(b"\\N");
        return;
    };
    out.reserve(rest.len() + 1);
    while let Some(at) = special(rest) {
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
        fn any_bytes_come_back_and_no_cell_holds_a_separator(value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))) {
            let mut text = Vec::new();
            cell(&mut text, value.as_deref());
            prop_assert!(!text.iter().any(|b| matches!(b, b'\t' | b'\n')));
            prop_assert_eq!(decode(&text), value);
        }
    }

    #[test]
    fn a_special_byte_is_found_wherever_it_stands() {
        for length in 0..50 {
            let mut text = vec![b'x'; length];
            assert_eq!(special(&text), None);
            for at in 0..length {
                for byte in [b'\\', b'\t', b'\n', 0] {
                    text[at] = byte;
                    assert_eq!(special(&text), Some(at), "byte {byte} at {at} of {length}");
                }
                text[at] = b'x';
            }
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
