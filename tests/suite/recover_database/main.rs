//! `recover database` and `restore` on the real stack. Each test breaks the stack in its own way and leaves it
//! healthy; what a failed one leaves is mended before the next.

mod backups;
mod bench;
mod disturbed;
mod drill;
mod found;
mod kill;
mod legacy;
mod people;
mod rollback;
mod space;
mod unmounted;
