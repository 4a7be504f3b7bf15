//! Single tables of a backup, restored on the running database of the real stack, and put back again. Each test has a
//! schema of its own and leaves nothing behind.

mod bench;
mod dump;
mod kill;
mod places;
mod refused;
