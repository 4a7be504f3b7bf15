//! Faults of redis.

use chom_recovery_tests::chaos;

use crate::site::{Fault, Seen};

pub(crate) const DOWN: Fault = Fault {
    name: "redis-down",
    needs_root: false,
    make: |site| site.compose(&["stop", "redis"]),
    is_effective: |site| site.http() == Seen::Status(503),
    mend: |site| site.compose(&["start", "redis"]),
};

/// It follows a master that is not there: it keeps its data, and takes no writes.
pub(crate) const READ_ONLY: Fault = Fault {
    name: "redis-read-only",
    needs_root: false,
    make: |site| {
        chaos::redis(site.stack(), &["REPLICAOF", "127.0.0.1", "6390"]);
    },
    is_effective: |site| chaos::redis(site.stack(), &["SET", "of-a-test", "1"]).contains("READONLY"),
    mend: |site| {
        chaos::redis(site.stack(), &["REPLICAOF", "NO", "ONE"]);
    },
};
