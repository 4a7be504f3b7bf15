//! Checklists: what has to be in order before a run may act.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Kind, Mode, PlanItem, Run, id};
use crate::{
    error::{Error, ErrorKind, Result},
    probe::{HealthProbe, Status, ask},
    run::{
        events::Event,
        record::{Entry, ItemVerdict},
    },
};

/// Deadline of the probe behind one item.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// An item of a checklist.
#[derive(Debug, Clone)]
pub struct Item {
    /// Name, `a-z`, `0-9` and `-`.
    pub name: String,
    /// What has to be in order.
    pub text: String,
    /// How that is found out.
    pub kind: ItemKind,
}

/// How an item is settled.
#[derive(Debug, Clone)]
pub enum ItemKind {
    /// A probe has to be healthy.
    Probe(Arc<dyn HealthProbe>),
    /// Somebody of this role has to vouch for it.
    Attest {
        /// Role.
        role: String,
    },
    /// Somebody has vouched for it beforehand.
    Vouched {
        /// Who.
        by: String,
        /// Why it is in order.
        because: String,
    },
}

impl Item {
    /// Makes an item that a probe settles, named after it.
    pub fn probe(text: impl Into<String>, probe: Arc<dyn HealthProbe>) -> Self {
        Self { name: probe.name().to_owned(), text: text.into(), kind: ItemKind::Probe(probe) }
    }

    /// Makes an item that a person has settled.
    pub fn vouched(
        name: impl Into<String>,
        text: impl Into<String>,
        by: impl Into<String>,
        because: impl Into<String>,
    ) -> Self {
        let kind = ItemKind::Vouched { by: by.into(), because: because.into() };
        Self { name: name.into(), text: text.into(), kind }
    }

    /// Makes an item that a person settles.
    pub fn attest(name: impl Into<String>, text: impl Into<String>, role: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), kind: ItemKind::Attest { role: role.into() } }
    }
}

/// Somebody takes the responsibility for an item that is not in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiver {
    /// Name of the item, or its whole path.
    pub item: String,
    /// Why.
    pub because: String,
    /// Who.
    pub by: String,
}

struct Settled {
    verdict: ItemVerdict,
    evidence: String,
}

impl Run {
    /// Settles every item: asks the probes at the same time, then the people.
    ///
    /// A failed item that was waived counts, and the waiver is recorded. A resumed run asks the probes again and
    /// keeps what people said.
    ///
    /// # Errors
    /// `Precondition`: items are not in order; all of them are named. `NeedsConfirmation`: nobody is there to vouch.
    pub async fn checklist(&self, items: &[Item]) -> Result<()> {
        let mut paths = Vec::new();
        for item in items {
            id::check_name(&item.name)?;
            paths.push(self.enter(Kind::Approval, &item.name, None)?);
        }
        if self.inner.mode == Mode::Unwind {
            return self.replay_checklist(items, &paths).await;
        }
        self.inner.check_going()?;
        let answers = futures::future::join_all(items.iter().map(|item| async {
            match &item.kind {
                ItemKind::Probe(probe) => Some(ask(probe, PROBE_DEADLINE).await),
                ItemKind::Attest { .. } | ItemKind::Vouched { .. } => None,
            }
        }))
        .await;
        let mut failed = Vec::new();
        for ((item, path), answer) in items.iter().zip(&paths).zip(answers) {
            let waiver = self.inner.waivers.iter().find(|w| w.item == item.name || w.item == *path);
            let vouched = match &item.kind {
                ItemKind::Vouched { by, because } => Some(format!("vouched for by {by}: {because}")),
                _ => None,
            };
            let settled = match (answer, waiver) {
                _ if vouched.is_some() => {
                    Settled { verdict: ItemVerdict::Attested, evidence: vouched.unwrap_or_default() }
                }
                (Some(answer), _) if answer.health.status == Status::Healthy => {
                    Settled { verdict: ItemVerdict::Passed, evidence: answer.health.summary }
                }
                (answer, Some(waiver)) => {
                    let seen = answer.map_or_else(|| "not vouched for".into(), |a| a.health.summary);
                    let evidence = format!("{seen}; waived by {}: {}", waiver.by, waiver.because);
                    Settled { verdict: ItemVerdict::Waived, evidence }
                }
                (Some(answer), None) => {
                    failed.push(format!("{} ({})", item.name, answer.health.summary));
                    Settled { verdict: ItemVerdict::Failed, evidence: answer.health.summary }
                }
                (None, None) if self.is_planning() => {
                    self.inner.plan(check(path, item, None, "somebody will have to vouch for it"));
                    continue;
                }
                (None, None) => Settled { verdict: ItemVerdict::Attested, evidence: self.attest(path, item).await? },
            };
            self.inner.events.send(Event::ChecklistItem {
                item: path.clone(),
                text: item.text.clone(),
                verdict: settled.verdict,
                evidence: settled.evidence.clone(),
            });
            if self.is_planning() {
                self.inner.plan(check(path, item, Some(settled.verdict), &settled.evidence));
            } else {
                self.inner
                    .append(Entry::ChecklistItem {
                        item: path.clone(),
                        text: item.text.clone(),
                        verdict: settled.verdict,
                        evidence: settled.evidence,
                    })
                    .await?;
            }
        }
        // A plan goes on: it shows what is not in order beside everything else.
        if failed.is_empty() || self.is_planning() { Ok(()) } else { Err(not_in_order(&failed)) }
    }

    async fn attest(&self, path: &str, item: &Item) -> Result<String> {
        let ItemKind::Attest { role } = &item.kind else { return Ok(String::new()) };
        let by = self.ask(path, &item.text, Some(role)).await?;
        Ok(format!("vouched for by {by} ({role})"))
    }

    async fn replay_checklist(&self, items: &[Item], paths: &[String]) -> Result<()> {
        let verdicts: Vec<_> = self.inner.ledger(|l| paths.iter().map(|path| l.checks.get(path).copied()).collect());
        let failed: Vec<_> = items
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| **verdict == Some(ItemVerdict::Failed))
            .map(|(item, _)| item.name.clone())
            .collect();
        if verdicts.contains(&None) {
            self.inner.park().await
        } else if failed.is_empty() {
            Ok(())
        } else {
            Err(not_in_order(&failed))
        }
    }
}

fn check(path: &str, item: &Item, verdict: Option<ItemVerdict>, evidence: &str) -> PlanItem {
    PlanItem::Check { item: path.into(), text: item.text.clone(), verdict, evidence: evidence.into() }
}

fn not_in_order(failed: &[String]) -> Error {
    Error::new(ErrorKind::Precondition, format!("checklist: not in order: {}", failed.join(", ")))
        .hint("mend it, or take the responsibility: --waive ITEM=REASON")
}
