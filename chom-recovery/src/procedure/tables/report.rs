//! What a restore of single tables says: before it replaces anything, and when it is done.

use super::ops::Loaded;
use crate::{
    mysql::tables::{Checked, Look, Orphans, Placed},
    procedure::{Measured, Parts, Recovered, database::Origin},
};

/// What the steps found and did.
pub(super) struct Facts<'a> {
    pub(super) backup: &'a Origin,
    pub(super) look: &'a Look,
    pub(super) loaded: Loaded,
    pub(super) checked: Checked,
    pub(super) orphans: Vec<Orphans>,
}

/// What is asked before tables are replaced: what goes, when it was last written, and what comes. Nothing in it changes by
/// the minute but the server's own estimates.
pub(super) fn question(parts: &Parts, backup: &Origin, look: &Look) -> String {
    let tables: Vec<_> = look.tables.iter().map(replaced).collect();
    let window = if look.locks || look.tables.iter().all(|t| t.triggers.is_empty()) {
        ""
    } else {
        "; rows written in the moment of the exchange fire no triggers, since this server cannot lock tables for it: stop \
         writers first if that matters"
    };
    format!(
        "replace tables of project `{}` on {} with backup {} of {}: {}; rows written since then are only in what is kept{window}",
        parts.backend.project(),
        parts.backend.engine_address(),
        backup.name(),
        backup.point().format("%F %T UTC"),
        tables.join("; "),
    )
}

fn replaced(table: &Placed) -> String {
    match &table.present {
        Some(now) => {
            let written = now.written.as_ref().map_or_else(String::new, |at| format!(", last written at {at} UTC"));
            format!("`{}` (about {} rows now{written}) by {} rows", table.target, now.rows, table.rows)
        }
        None => format!("`{}` (not there now) by {} rows", table.target, table.rows),
    }
}

pub(super) fn tell(report: &mut Recovered, facts: &Facts<'_>) {
    let Facts { backup, look, loaded, checked, orphans } = facts;
    let point = backup.point().format("%F %T UTC");
    for table in &look.tables {
        report.found.push(replaced(table));
        let name = if table.is_copy() {
            format!("`{}` as `{}`", table.source, table.target)
        } else {
            format!("`{}`", table.target)
        };
        report.done.push(format!("restored {name}: {} rows of backup {}, {point}", table.rows, backup.name()));
        if table.present.is_some() {
            report.to_review.push(format!(
                "what production had of `{}` is kept as `{}`, with the rows written since the backup",
                table.target, table.kept
            ));
        }
        if table.is_copy() {
            report.to_review.push(format!("`{}` is a copy: it has no triggers and no foreign keys", table.target));
        }
        for child in &table.children {
            report.done.push(format!(
                "foreign key `{}` of `{}` refers to the restored `{}`",
                child.key.name, child.table, table.target
            ));
        }
    }
    let mut kept: Vec<_> = look.tables.iter().filter(|t| t.present.is_some()).map(|t| &t.kept.schema).collect();
    kept.dedup();
    for schema in kept {
        report
            .to_review
            .push(format!("once nobody needs it: DROP DATABASE `{schema}`; a rollback is not possible then"));
    }
    for one in orphans {
        report.to_review.push(match one.rows {
            Some(rows) => format!(
                "{rows} rows of `{}` refer by `{}` to rows that `{}` does not have",
                one.table, one.key, one.parent
            ),
            None => format!("rows of `{}` without a parent by `{}` could not be counted in time", one.table, one.key),
        });
    }
    let said = backup.warnings().iter().chain(&look.notes).chain(&loaded.warnings);
    report.to_review.extend(said.map(|w| format!("the backup says: {w}")));
    let measured = |name: &str, unit: &str, after: f64| Measured {
        name: name.into(),
        unit: unit.into(),
        before: None,
        after: Some(after),
    };
    report.measured.push(measured("rows restored and compared", "", number(checked.rows)));
    report.measured.push(measured("bytes of rows", "bytes", number(loaded.bytes)));
    if loaded.of > 0 {
        report.measured.push(measured("read of the backup", "%", 100.0 * number(loaded.read) / number(loaded.of)));
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts beyond 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
