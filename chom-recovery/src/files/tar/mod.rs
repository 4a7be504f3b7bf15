//! Tar, as small as it can be: one header an entry, written in one way, and read without trust.
//!
//! What is written is POSIX `pax`: a `ustar` header, with an extended header before it where something does not fit.
//! No two readers of the field may understand it differently, so that nothing can be smuggled past one of them.
//!
//! # Source
//! POSIX.1-2017 `pax`; GNU tar manual, "Basic Tar Format" and appendix D.

mod read;
mod write;

pub use read::{Dialect, Limits, Pieces, TarReader};
pub use write::{END, entry_len, padding, write_header};

/// Size of a block, in bytes.
pub const BLOCK: usize = 512;
/// Longest extended header, in bytes. It holds names and attributes.
pub(super) const LONGEST_EXTENSION: u64 = 1 << 20;

/// Where a field of a header lies.
pub(super) mod field {
    use std::ops::Range;

    pub(in super::super) const NAME: Range<usize> = 0..100;
    pub(in super::super) const MODE: Range<usize> = 100..108;
    pub(in super::super) const UID: Range<usize> = 108..116;
    pub(in super::super) const GID: Range<usize> = 116..124;
    pub(in super::super) const SIZE: Range<usize> = 124..136;
    pub(in super::super) const MTIME: Range<usize> = 136..148;
    pub(in super::super) const CHECKSUM: Range<usize> = 148..156;
    pub(in super::super) const TYPE: usize = 156;
    pub(in super::super) const LINK: Range<usize> = 157..257;
    pub(in super::super) const MAGIC: Range<usize> = 257..265;
    pub(in super::super) const PREFIX: Range<usize> = 345..500;
}

/// Sum of a header's bytes, its own field counted as blanks.
pub(super) fn checksum(header: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    sum(header) - sum(&header[field::CHECKSUM]) + 8 * u32::from(b' ')
}
