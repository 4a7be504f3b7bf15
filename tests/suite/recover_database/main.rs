//! `recover database` and `restore` on the real stack. Each test breaks the stack in its own way and leaves it
//! healthy; what a failed one leaves is mended before the next.

mod backups;
mod bench;
mod bound;
mod choice;
mod deployment;
mod disturbed;
mod drill;
mod flapping;
mod found;
mod kept;
mod kill;
mod legacy;
mod people;
mod physical;
mod rollback;
mod salvage;
mod signals;
mod space;
mod unmounted;
