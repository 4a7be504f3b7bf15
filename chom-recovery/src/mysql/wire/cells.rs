//! Cells of a row in the text protocol.

use crate::error::Result;

use super::unexpected;

/// The bytes end before what they announce.
pub(super) struct Cut;

/// Reads a length; `None` is NULL.
pub(super) fn length(bytes: &mut &[u8]) -> Result<Option<u64>, Cut> {
    let (first, rest) = bytes.split_first().ok_or(Cut)?;
    let digits = match first {
        0xfb => {
            *bytes = rest;
            return Ok(None);
        }
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        0xff => return Err(Cut),
        _ => {
            *bytes = rest;
            return Ok(Some(u64::from(*first)));
        }
    };
    let (digits, rest) = rest.split_at_checked(digits).ok_or(Cut)?;
    *bytes = rest;
    Ok(Some(digits.iter().rev().fold(0, |number, digit| number << 8 | u64::from(*digit))))
}

/// The cells of a row: bytes, or `None` for NULL. Ends after an error.
#[derive(Debug, Clone)]
pub(in crate::mysql) struct Cells<'a> {
    left: &'a [u8],
}

impl<'a> Cells<'a> {
    pub(in crate::mysql) fn of(row: &'a [u8]) -> Self {
        Self { left: row }
    }

    fn cell(&mut self) -> Result<Option<&'a [u8]>, Cut> {
        let Some(length) = length(&mut self.left)? else { return Ok(None) };
        let length = usize::try_from(length).map_err(|_| Cut)?;
        let (cell, left) = self.left.split_at_checked(length).ok_or(Cut)?;
        self.left = left;
        Ok(Some(cell))
    }
}

impl<'a> Iterator for Cells<'a> {
    type Item = Result<Option<&'a [u8]>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        Some(self.cell().map_err(|Cut| {
            self.left = &[];
            unexpected("a row that is cut off")
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(cells: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut row = Vec::new();
        for cell in cells {
            let Some(cell) = cell else {
                row.push(0xfb);
                continue;
            };
            let length = cell.len().to_le_bytes();
            match cell.len() {
                0..251 => row.push(length[0]),
                251..65536 => row.extend([&[0xfc], &length[..2]].concat()),
                _ => row.extend([&[0xfd], &length[..3]].concat()),
            }
            row.extend(cell);
        }
        row
    }

    proptest! {
        #[test]
        fn cells_come_back(cells in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)), 0..9)) {
            let row = encoded(&cells);
            let read: Vec<_> = Cells::of(&row).map(|cell| cell.unwrap().map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(read, cells);
        }

        #[test]
        fn any_bytes_are_read_without_panic(row in proptest::collection::vec(any::<u8>(), 0..64)) {
            let read: Vec<_> = Cells::of(&row).collect();
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok), "nothing comes after an error");
        }
    }

    #[test]
    fn a_cut_row_is_an_error_and_no_shorter_row() {
        let row = encoded(&[Some(vec![b'x'; 70_000]), None, Some(b"end".to_vec())]);
        assert_eq!(Cells::of(&row).flatten().count(), 3);
        for cut in [row.len() - 1, 2, 3, 100] {
            assert!(Cells::of(&row[..cut]).any(|cell| cell.is_err()), "cut at {cut}");
        }
    }
}
