//! Which backup a database is restored from where no single one is named: the newest, unless it does not go here, or may carry
//! what failed.
//!
//! Never an older one merely because it would be back faster. The rule is [`pick`]; users read it in the guide.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Site, ops::Assessment, source::Source};
use crate::{
    catalog::{BackupId, BackupInfo, Catalog, ComponentKind, Place, Selector},
    error::{Error, ErrorKind, Result},
    procedure::Parts,
};

/// Which kind of backup is wanted, where no single one is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedKind {
    /// Whichever is best for what failed, and possible here.
    #[default]
    Auto,
    /// One that keeps rows and definitions.
    Logical,
    /// One that keeps the server's data files.
    Physical,
}

impl WantedKind {
    fn component(self) -> Option<ComponentKind> {
        match self {
            Self::Auto => None,
            Self::Logical => Some(ComponentKind::Logical),
            Self::Physical => Some(ComponentKind::Physical),
        }
    }
}

/// The backup that was chosen, and why it. Kept with the run: a resumed one does not slide to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// Why it, in a sentence; empty where somebody named it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What a choice goes by.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which backup.
    pub backup: &'a Selector,
    /// Which kind, where that names none.
    pub kind: WantedKind,
    /// What failed, where somebody looked.
    pub assessment: Option<&'a Assessment>,
    /// Begin of the incident: the loss of data counts back from here.
    pub incident: DateTime<Utc>,
}

/// Chooses a backup of the repository.
///
/// # Errors
/// Those of [`Catalog::select`]. `InvalidInput`: the one that is named is of another kind. `Precondition`, `Unsupported`: neither
/// kind goes here; the error says why of each.
pub(super) async fn choose(parts: &Parts, site: &Site, wanted: Wanted<'_>) -> Result<Chosen> {
    let catalog = &parts.catalog;
    let first = select(catalog, wanted.backup, wanted.kind).await?;
    if matches!(wanted.backup, Selector::Id(_)) {
        return Ok(Chosen { place: first.place, why: String::new() });
    }
    if wanted.kind.component().is_some() {
        let why = format!("the newest that is {}, as asked for", word(&first));
        return Ok(Chosen { place: first.place, why });
    }
    let corrupt = wanted.assessment.map_or(0, |seen| seen.corrupt_tables.len());
    let is_physical = is_physical(&first);
    let first_refused = refusal(parts, site, &first).await;
    let other = other_kind(catalog, wanted.backup, &first).await?;
    let other_refused = match &other {
        Some(other) if first_refused.is_some() || (is_physical && corrupt > 0) => refusal(parts, site, other).await,
        _ => None,
    };
    let rpo = chrono::TimeDelta::from_std(parts.system.objectives.database.rpo).unwrap_or(chrono::TimeDelta::MAX);
    let known = |info: &BackupInfo, refused: Option<&Error>| Known {
        id: info.id(),
        is_physical: self::is_physical(info),
        point: info.point,
        refused: refused.map(ToString::to_string),
    };
    let of_other = other.as_ref().map(|other| known(other, other_refused.as_ref()));
    let contest = Contest { corrupt_tables: corrupt, keeps_rpo_from: wanted.incident - rpo };
    match (pick(&known(&first, first_refused.as_ref()), of_other.as_ref(), contest), other) {
        (Some((Pick::Newest, why)), _) => Ok(Chosen { place: first.place, why }),
        (Some((Pick::Other, why)), Some(other)) => Ok(Chosen { place: other.place, why }),
        (_, other) => {
            let error = first_refused.unwrap_or_else(|| Error::new(ErrorKind::Failed, "no backup was chosen"));
            let error = error.during(format!("backup {} does not go here", first.id()));
            Err(match (other, other_refused) {
                (Some(other), Some(why)) => error.with(format!("and {} not either", other.id()), why),
                _ => error.with("of the other kind", "there is none"),
            })
        }
    }
}

/// Refuses a backup that is named by its id and is of another kind than asked for. Asks the repository only where both are said.
///
/// # Errors
/// `InvalidInput`: it is.
pub(super) async fn check_kind(catalog: &Catalog, backup: &Selector, kind: WantedKind) -> Result<()> {
    match (backup, kind) {
        (_, WantedKind::Auto) => Ok(()),
        (Selector::Legacy(name), WantedKind::Physical) => {
            Err(contradiction(&format!("`legacy:{}`", name.escape_debug()), "logical", "physical"))
        }
        // Whatever else is wrong with it is told where it is needed.
        (Selector::Id(_), _) => match select(catalog, backup, kind).await {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Err(error),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Finds the one that a selector means, of the kind that is wanted.
///
/// # Errors
/// As [`choose`].
pub(super) async fn select(catalog: &Catalog, backup: &Selector, kind: WantedKind) -> Result<BackupInfo> {
    let Some(component) = kind.component() else { return catalog.select(backup).await };
    if !matches!(backup, Selector::Id(_)) {
        let asked = name(component == ComponentKind::Physical);
        let chosen = catalog.clone().of_kind(component).select(backup).await;
        return chosen.map_err(|e| e.during(format!("no {asked} backup was chosen")));
    }
    let info = catalog.select(backup).await?;
    if info.database_kind == Some(component) {
        return Ok(info);
    }
    Err(contradiction(&info.id().to_string(), word(&info), name(component == ComponentKind::Physical)))
}

fn contradiction(backup: &str, is: &str, asked: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("backup {backup} is {is}, and a {asked} one is asked for"))
        .hint("leave out `--kind`, or name no single backup")
}

/// The newest of the other kind that a selector fits: never newer than `first`, which it fits best.
async fn other_kind(catalog: &Catalog, backup: &Selector, first: &BackupInfo) -> Result<Option<BackupInfo>> {
    let kind = if is_physical(first) { ComponentKind::Logical } else { ComponentKind::Physical };
    let older = Selector::Before(first.id());
    let wanted = match backup {
        Selector::Tag(_) | Selector::Timestamp(_) => backup,
        _ => &older,
    };
    match catalog.clone().of_kind(kind).select(wanted).await {
        Ok(other) => Ok(Some(other)),
        Err(e) if matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Authentication) => Err(e),
        // One that is damaged is none to fall back on.
        Err(_) => Ok(None),
    }
}

/// Why a backup cannot be restored here, if that is certain. Other errors are told by the step that reads all of it.
async fn refusal(parts: &Parts, site: &Site, info: &BackupInfo) -> Option<Error> {
    let reader = parts.catalog.open(&info.place).await.ok()?;
    reader.check_identity().ok()?;
    let error = site.ops.check_compatible(&Source::Repository(reader), &site.production).await.err()?;
    matches!(error.kind(), ErrorKind::Precondition | ErrorKind::Unsupported).then_some(error)
}

fn is_physical(info: &BackupInfo) -> bool {
    info.database_kind == Some(ComponentKind::Physical)
}

fn word(info: &BackupInfo) -> &'static str {
    name(is_physical(info))
}

fn name(is_physical: bool) -> &'static str {
    if is_physical { "physical" } else { "logical" }
}

/// A backup that comes into question.
#[derive(Debug, Clone)]
struct Known {
    id: BackupId,
    is_physical: bool,
    /// The moment whose data it holds.
    point: DateTime<Utc>,
    /// Why it does not go here.
    refused: Option<String>,
}

impl Known {
    fn word(&self) -> &'static str {
        name(self.is_physical)
    }

    /// How much more it would lose than another, in words.
    fn cost(&self, newest: &Self) -> String {
        let minutes = (newest.point - self.point).num_minutes();
        if minutes < 1 { "less than a minute older".into() } else { format!("{minutes} min older") }
    }
}

/// What else decides.
#[derive(Debug, Clone, Copy)]
struct Contest {
    /// Tables that `CHECK TABLE` calls corrupt.
    corrupt_tables: usize,
    /// The oldest point that the objective for the loss of data allows.
    keeps_rpo_from: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pick {
    Newest,
    Other,
}

/// The rule. `newest` is the newest of all that fit, `other` the newest of the other kind. `None`: neither goes here.
fn pick(newest: &Known, other: Option<&Known>, contest: Contest) -> Option<(Pick, String)> {
    let fitting = other.filter(|other| other.refused.is_none());
    if let Some(why) = &newest.refused {
        let other = fitting?;
        let (is, cost) = (other.word(), other.cost(newest));
        let told = format!("{is}, {cost}: the newest, {} ({}), does not go here: {why}", newest.id, newest.word());
        return Some((Pick::Other, told));
    }
    let Contest { corrupt_tables: corrupt, keeps_rpo_from } = contest;
    if newest.is_physical && corrupt > 0 {
        // Page by page such files may be sound: what is wrong with them is what the pages say of each other.
        let may = format!("{corrupt} tables are corrupt, and the data files of {} may be so as well", newest.id);
        return Some(match fitting {
            Some(other) if other.point >= keeps_rpo_from => {
                let cost = other.cost(newest);
                (Pick::Other, format!("logical, {cost}, which the RPO allows: {may}, while rows are read anew"))
            }
            Some(other) => {
                let (id, cost) = (other.id, other.cost(newest));
                let too_old = format!("the newest logical one, {id}, is {cost}, more than the RPO allows");
                (
                    Pick::Newest,
                    format!("physical, the newest: {may}, but {too_old}; each table is checked before the swap"),
                )
            }
            None => {
                let told = format!(
                    "physical, the newest: {may}, but no logical one goes here; each table is checked before the swap"
                );
                (Pick::Newest, told)
            }
        });
    }
    let told = match other {
        _ if newest.is_physical => "physical, the newest: its pages were sound when it was taken".into(),
        Some(other) => format!(
            "logical, the newest; {} is physical, {}: `--kind physical` takes it where being back sooner is worth that",
            other.id,
            other.cost(newest)
        ),
        None => "logical, the newest".into(),
    };
    Some((Pick::Newest, told))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::catalog::HostId;

    fn at(minutes_ago: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) - TimeDelta::minutes(minutes_ago)
    }

    fn id(minutes_ago: i64) -> BackupId {
        let milliseconds = u64::try_from(at(minutes_ago).timestamp_millis()).unwrap();
        ulid::Ulid::from_parts(milliseconds, 0).to_string().parse().unwrap()
    }

    fn known(is_physical: bool, minutes_ago: i64, refused: Option<&str>) -> Known {
        Known { id: id(minutes_ago), is_physical, point: at(minutes_ago), refused: refused.map(Into::into) }
    }

    /// An incident now, with an RPO of an hour.
    fn contest(corrupt_tables: usize) -> Contest {
        Contest { corrupt_tables, keeps_rpo_from: at(60) }
    }

    const PHYSICAL: bool = true;
    const LOGICAL: bool = false;

    #[test]
    fn the_newest_is_taken_and_never_an_older_one_for_speed() {
        let (files, rows) = (known(PHYSICAL, 20, None), known(LOGICAL, 10, None));
        let (picked, why) = pick(&rows, Some(&files), contest(0)).unwrap();
        assert_eq!(picked, Pick::Newest);
        assert!(why.contains("10 min older") && why.contains("--kind physical"), "{why}");
        // Corrupt tables do not speak against rows.
        assert_eq!(pick(&rows, Some(&files), contest(3)).unwrap().0, Pick::Newest);

        let (files, rows) = (known(PHYSICAL, 10, None), known(LOGICAL, 20, None));
        let (picked, why) = pick(&files, Some(&rows), contest(0)).unwrap();
        assert_eq!(picked, Pick::Newest);
        assert!(why.starts_with("physical"), "{why}");
        assert_eq!(pick(&files, None, contest(0)).unwrap().0, Pick::Newest);
    }

    #[test]
    fn what_does_not_go_here_gives_way_and_its_reason_and_price_are_told() {
        for kind in [PHYSICAL, LOGICAL] {
            let (newest, other) = (known(kind, 10, Some("the server is older")), known(!kind, 95, None));
            let (picked, why) = pick(&newest, Some(&other), contest(0)).unwrap();
            assert_eq!(picked, Pick::Other, "also beyond the RPO: there is nothing else");
            assert!(why.contains("the server is older") && why.contains("85 min older"), "{why}");
            let other = known(!kind, 95, Some("neither does this"));
            assert!(pick(&newest, Some(&other), contest(0)).is_none());
            assert!(pick(&newest, None, contest(0)).is_none());
        }
    }

    #[test]
    fn files_that_may_carry_the_damage_give_way_to_rows_within_the_rpo() {
        let files = known(PHYSICAL, 10, None);
        let (picked, why) = pick(&files, Some(&known(LOGICAL, 60, None)), contest(2)).unwrap();
        assert_eq!(picked, Pick::Other);
        assert!(why.contains("2 tables are corrupt") && why.contains("50 min older"), "{why}");

        let (picked, why) = pick(&files, Some(&known(LOGICAL, 61, None)), contest(2)).unwrap();
        assert_eq!(picked, Pick::Newest);
        assert!(why.contains("more than the RPO allows") && why.contains("checked before the swap"), "{why}");

        for other in [None, Some(known(LOGICAL, 20, Some("another flavour")))] {
            let (picked, why) = pick(&files, other.as_ref(), contest(2)).unwrap();
            assert_eq!(picked, Pick::Newest);
            assert!(why.contains("no logical one goes here"), "{why}");
        }
    }

    #[test]
    fn a_choice_of_an_older_version_is_read() {
        let place = Place { host: HostId::derive("a test"), system: "shop".to_owned().try_into().unwrap(), id: id(1) };
        let chosen: Chosen = serde_json::from_value(serde_json::to_value(&place).unwrap()).unwrap();
        assert_eq!(chosen, Chosen { place, why: String::new() });
    }
}
