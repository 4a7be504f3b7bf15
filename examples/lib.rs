//! One runnable story per file; see `demo.sh` for the whole recovery.
