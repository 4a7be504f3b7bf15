//! From ranked causes to the procedure that is run: the first one's where it stands alone, a person's where several are about
//! as likely.

use serde::{Deserialize, Serialize};

use super::{Diagnosis, Selected};
use crate::error::{Error, ErrorKind, Result};

/// Confidence is a judgement: so many per cent below the first is about as likely.
const CLOSE: u8 = 5;
/// What is less likely than this is the effect of something else, or was only logged.
const LEAST: u8 = 50;

/// Which procedure ranked causes select.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "procedures", rename_all = "snake_case")]
pub enum Selection {
    /// The most probable cause selects it, and none that is about as likely speaks for another one.
    One(Selected),
    /// Causes that are about as likely select these, the most probable first, or one of them selects none: a person chooses.
    Several(Vec<Selected>),
    /// The most probable cause is nothing that a procedure mends: its advice says what to do.
    None,
}

/// A procedure that was chosen, and the ranked causes that it was chosen for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The procedure.
    pub procedure: Selected,
    /// Who chose it; `None`: it was the only one that the most probable cause selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Causes as they were ranked, the most probable first.
    pub causes: Vec<Diagnosis>,
}

impl Diagnosis {
    /// Returns the procedure that mends it and can be run; `None`: a person has to act first.
    pub fn recovery(&self) -> Option<Selected> {
        let is_run = self.cause.command().is_some_and(|command| command.starts_with("chom-recovery recover "));
        is_run.then(|| self.cause.procedure())
    }
}

/// Tells which procedure ranked causes select.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use chom_recovery::{
///     probe::{Answer, Class, Health, HealthMode, HealthReport},
///     triage::{Selected, Selection, diagnose, select},
/// };
/// let down = |probe: &str, class| {
///     let health = Health::down("as told").class(class);
///     Answer { probe: probe.into(), health, latency_ms: 3 }
/// };
/// let report = |answers| HealthReport::new(HealthMode::Full, answers, chrono::Utc::now(), Duration::ZERO);
/// let stuck = || down("queue", Class::Stuck);
/// assert_eq!(select(&diagnose(&report(vec![stuck()]))), Selection::One(Selected::Queue));
/// let both = vec![stuck(), down("scheduler", Class::Stale)];
/// assert_eq!(select(&diagnose(&report(both))), Selection::Several(vec![Selected::Queue, Selected::Scheduler]));
/// ```
pub fn select(causes: &[Diagnosis]) -> Selection {
    let Some((first, procedure)) = causes.first().and_then(|first| Some((first, first.recovery()?))) else {
        return Selection::None;
    };
    if first.confidence < LEAST {
        return Selection::None;
    }
    let close = causes.iter().filter(|one| one.confidence >= LEAST && one.confidence + CLOSE >= first.confidence);
    let close: Vec<Option<Selected>> = close.map(Diagnosis::recovery).collect();
    if close.iter().all(|one| *one == Some(procedure)) {
        return Selection::One(procedure);
    }
    let mut procedures = Vec::new();
    for one in close.into_iter().flatten() {
        if !procedures.contains(&one) {
            procedures.push(one);
        }
    }
    Selection::Several(procedures)
}

impl Choice {
    /// Takes the procedure that ranked causes select.
    ///
    /// # Errors
    /// `NeedsConfirmation`: causes that are about as likely select different ones, which are named. `Precondition`: the most
    /// probable cause selects none; the hint says what to do.
    pub fn of(causes: Vec<Diagnosis>) -> Result<Self> {
        match select(&causes) {
            Selection::One(procedure) => Ok(Self { procedure, by: None, causes }),
            Selection::Several(procedures) => {
                let names: Vec<_> = procedures.iter().map(|p| p.code()).collect();
                let commands: Vec<_> = names.iter().map(|n| format!("chom-recovery recover --choose {n}")).collect();
                Err(Error::new(
                    ErrorKind::NeedsConfirmation,
                    "several causes are about as likely: somebody has to choose",
                )
                .with("procedures", names.join(", "))
                .hint(format!("one of: {}; or first look closer: chom-recovery diagnose", commands.join(", "))))
            }
            Selection::None => {
                let first = causes.first();
                let what = first.map_or("there is no diagnosis", |first| &first.hypothesis);
                let advice = first.map_or("diagnose first", |first| &first.advice);
                Err(Error::new(ErrorKind::Precondition, format!("no procedure is selected: {what}")).hint(advice))
            }
        }
    }

    /// Takes the procedure that a person chose among those that ranked causes select, whatever their rank.
    ///
    /// # Errors
    /// `InvalidInput`: none of them selects it; those that are selected are named.
    pub fn made(causes: Vec<Diagnosis>, procedure: Selected, by: &str) -> Result<Self> {
        if causes.iter().any(|one| one.recovery() == Some(procedure)) {
            return Ok(Self { procedure, by: Some(by.to_owned()), causes });
        }
        let mut named: Vec<_> = causes.iter().filter_map(Diagnosis::recovery).map(Selected::code).collect();
        named.dedup();
        let what = format!("no cause that was found selects the procedure `{procedure}`");
        Err(Error::new(ErrorKind::InvalidInput, what)
            .with("selected", if named.is_empty() { "none".to_owned() } else { named.join(", ") })
            .hint(format!("without a diagnosis: chom-recovery recover {procedure}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::triage::Cause;

    fn causes(ranked: &[(Cause, u8)]) -> Vec<Diagnosis> {
        let one = |(cause, confidence): &(Cause, u8)| Diagnosis {
            cause: *cause,
            hypothesis: format!("{cause}"),
            procedure: cause.procedure(),
            confidence: *confidence,
            evidence: vec![],
            disproved_by: "x".into(),
            advice: format!("advice on {cause}"),
            command: cause.command().map(str::to_owned),
        };
        ranked.iter().map(one).collect()
    }

    #[test]
    fn a_cause_that_stands_alone_selects_and_close_ones_of_other_procedures_are_asked_about() {
        use Cause::{
            ApplicationCredentials, ApplicationErrors, CertificateExpired, CodeBroken, DatabaseCorrupt, DatabaseDown,
            DiskFull, EnvironmentBroken, MaintenanceOn, QueueStuck, RedisDown, SchedulerDead, TablesMissing,
        };
        use Selection::{None, One, Several};
        let cases: &[(&[(Cause, u8)], Selection)] = &[
            (&[], None),
            (&[(Cause::Nothing, 90)], None),
            (&[(DatabaseDown, 90), (CertificateExpired, 81)], One(Selected::Database)),
            (&[(DatabaseCorrupt, 94), (TablesMissing, 92)], One(Selected::Database)),
            (&[(CodeBroken, 86), (EnvironmentBroken, 86)], One(Selected::Application)),
            (&[(DatabaseDown, 90), (RedisDown, 89)], Several(vec![Selected::Database, Selected::Redis])),
            (&[(QueueStuck, 77), (SchedulerDead, 76)], Several(vec![Selected::Queue, Selected::Scheduler])),
            // About as likely, and nothing for a procedure.
            (&[(QueueStuck, 77), (MaintenanceOn, 77)], Several(vec![Selected::Queue])),
            // What a person has to do first is not overtaken by what may be its effect.
            (&[(DiskFull, 97), (DatabaseDown, 95)], None),
            (&[(ApplicationCredentials, 85), (ApplicationErrors, 84)], One(Selected::Application)),
            (&[(DatabaseCorrupt, 40), (Cause::Unknown, 30)], None),
        ];
        for (ranked, wanted) in cases {
            assert_eq!(select(&causes(ranked)), *wanted, "{ranked:?}");
        }
    }

    #[test]
    fn a_choice_says_by_whom_and_for_what_and_survives_json() {
        let ranked = || causes(&[(Cause::QueueStuck, 77), (Cause::SchedulerDead, 76)]);
        let error = Choice::of(ranked()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NeedsConfirmation);
        assert!(error.hint_text().unwrap().contains("recover --choose scheduler"), "{error:?}");
        let made = Choice::made(ranked(), Selected::Scheduler, "ada").unwrap();
        assert_eq!((made.procedure, made.by.as_deref()), (Selected::Scheduler, Some("ada")));
        assert_eq!(serde_json::from_value::<Choice>(serde_json::to_value(&made).unwrap()).unwrap(), made);
        let error = Choice::made(ranked(), Selected::Database, "ada").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let alone = Choice::of(causes(&[(Cause::QueueStuck, 77)])).unwrap();
        assert_eq!((alone.procedure, alone.by), (Selected::Queue, None));
        let error = Choice::of(causes(&[(Cause::DiskFull, 97)])).unwrap_err();
        assert_eq!(error.hint_text(), Some("advice on disk-full"));
    }
}
