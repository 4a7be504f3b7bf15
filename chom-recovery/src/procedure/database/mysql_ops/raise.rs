//! AUTO_INCREMENT above lost ids.

use super::super::ops::{NextIds, RaisedCounter};
use crate::{
    error::Result,
    mysql::{Counter, Server},
};

/// Raises each counter to what it was before; where that is unknown, by `gap`.
pub(super) async fn raise(server: &Server, known: &NextIds, gap: u64) -> Result<Vec<RaisedCounter>> {
    let mut raised = Vec::new();
    for counter in server.counters().await? {
        let table = format!("{}.{}", counter.schema, counter.table);
        let wanted = wanted(&counter, known.get(&table).copied(), gap);
        if wanted > counter.next {
            let to = server.raise_auto_increment(&counter.schema, &counter.table, wanted).await?;
            raised.push(RaisedCounter { table, from: counter.next, to });
        }
    }
    Ok(raised)
}

pub(super) fn wanted(counter: &Counter, known: Option<u64>, gap: u64) -> u64 {
    known.unwrap_or_else(|| {
        // At most a sixteenth of what is left: a small column must not run full for the sake of a guess.
        let left = counter.largest.saturating_sub(counter.next);
        counter.next + gap.min(left / 16)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(next: u64, largest: u64) -> Counter {
        Counter { schema: "s".into(), table: "t".into(), next, largest }
    }

    #[test]
    fn a_known_counter_is_put_back_exactly() {
        assert_eq!(wanted(&counter(10, 255), Some(17), 1000), 17);
    }

    #[test]
    fn an_unknown_counter_leaps_and_never_uses_a_small_column_up() {
        assert_eq!(wanted(&counter(10, u64::MAX), None, 100_000), 100_010);
        assert_eq!(wanted(&counter(240, 255), None, 100_000), 240);
        assert_eq!(wanted(&counter(95, 255), None, 100_000), 105);
    }
}
