//! Lists backups and chooses one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{sync::Semaphore, task::JoinError};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    catalog::{
        MAX_SKEW,
        entry::BackupInfo,
        hold,
        id::{BackupId, Hash, Name},
        layout::{self, Belongs, Place},
        manifest::ComponentKind,
        reader::{BackupReader, Second},
        repo::Repository,
        statement,
        tombstone::{Tombstone, tombstone},
        verify::VerificationRecord,
    },
    error::{Error, ErrorKind, ErrorRecord, Result},
    store::{BackupStore, Key},
    system::SystemId,
};

mod version;

pub use version::compatible;

/// Manifests that are read at once.
const READS: usize = 16;
/// Shortest begin of an id that is accepted in its place.
const SHORTEST_PREFIX: usize = 4;

/// Which backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Selector {
    /// The newest.
    #[default]
    Latest,
    /// So many before the newest: 1 is the one before it.
    Previous(u32),
    /// The newest one before this.
    Before(BackupId),
    /// The newest whose data is not later than this moment.
    Timestamp(DateTime<Utc>),
    /// The one with this id, or with an id that begins so.
    Id(String),
    /// The newest with this tag.
    Tag(Name),
    /// A backup of another program, by its path below [`Legacy::directory`](crate::system::Legacy) or its file name;
    /// `latest` is the newest dump. No repository holds it: see [`legacy`](crate::catalog::legacy).
    Legacy(String),
}

/// A backup that is there and cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// Why.
    pub error: ErrorRecord,
    /// It is to be deleted, and in nobody's way.
    #[serde(default)]
    pub tombstone: Option<Tombstone>,
}

/// All backups of a system that a repository holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// System whose backups these are.
    pub system: SystemId,
    /// Time of the store when they were listed.
    pub now: DateTime<Utc>,
    /// Usable backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Backups with a damaged or untrusted manifest, oldest first.
    pub damaged: Vec<Damaged>,
    /// Backups of other systems in the same repository.
    pub others: Vec<Place>,
    /// What could not be listed: while there is something here, a newer backup than those above may exist.
    pub problems: Vec<ErrorRecord>,
}

/// The backups of one system in a repository.
#[derive(Debug, Clone)]
pub struct Catalog {
    repository: Repository,
    system: SystemId,
    is_clone: bool,
    holding: Option<String>,
    kind: Option<ComponentKind>,
    second: Option<Second>,
}

impl Catalog {
    /// Looks for the backups of a system.
    pub fn new(repository: &Repository, system: &SystemId) -> Self {
        Self {
            repository: repository.clone(),
            system: system.clone(),
            is_clone: false,
            holding: None,
            kind: None,
            second: None,
        }
    }

    /// Reads what is damaged or gone from a copy of the repository, where it is good. Without one, a reader tells how the
    /// repository itself is.
    #[must_use]
    pub fn with_copy(mut self, copy: Option<Arc<dyn BackupStore>>) -> Self {
        self.second = copy.map(Second::new);
        self
    }

    /// Looks for those alone that hold a component: one without the database is no answer to the question for the newest
    /// data.
    #[must_use]
    pub fn holding(mut self, component: &str) -> Self {
        self.holding = Some(component.to_owned());
        self
    }

    /// Looks for those alone that keep the database in one way: rows are counted in logical ones, and one table is restored
    /// from them.
    #[must_use]
    pub fn of_kind(mut self, kind: ComponentKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Looks for all of them, whatever they hold: every backup has facts of the whole system.
    #[must_use]
    pub fn holding_anything(mut self) -> Self {
        self.holding = None;
        self
    }

    /// Looks for the backups of another system instead, also those copied here from another repository, to make this
    /// system a clone of it. Nothing else lifts the guard against the wrong system.
    #[must_use]
    pub fn as_clone_of(mut self, other: &SystemId) -> Self {
        self.system = other.clone();
        self.is_clone = true;
        self
    }

    /// Returns the system whose backups these are.
    pub fn system(&self) -> &SystemId {
        &self.system
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Lists all backups of the system, made by whichever host.
    pub async fn list(&self) -> Result<Listing> {
        let mut listing = Listing {
            system: self.system.clone(),
            now: self.repository.store().now().await?,
            backups: Vec::new(),
            damaged: Vec::new(),
            others: Vec::new(),
            problems: Vec::new(),
        };
        let catalog = Arc::new(self.clone());
        let permits = Arc::new(Semaphore::new(READS));
        let mut manifests = Vec::new();
        let mut beside: BTreeMap<String, Beside> = BTreeMap::new();
        let mut listed = self.repository.store().list_except("", layout::holds_parts).await?;
        while let Some(item) = listed.next().await {
            let object = match item {
                Ok(object) => object,
                Err(e) => {
                    listing.problems.push(e.to_record());
                    continue;
                }
            };
            match layout::belongs(&object.key) {
                Belongs::Backup(place, "manifest") if place.system == self.system => {
                    // Read while others are listed, and in a task: a signature costs more than reading what it signs, and there
                    // may be thousands.
                    let (catalog, permits, asked) = (catalog.clone(), permits.clone(), place.clone());
                    let opening = tokio::spawn(async move {
                        let _permit = permits.acquire_owned().await;
                        let reader = catalog.open(&asked).await?;
                        // Not the reader: all of them are kept until the listing ends.
                        Ok((BackupInfo::of(&reader, object.modified), reader.manifest_sha256()))
                    });
                    manifests.push((place, AbortOnDropHandle::new(opening)));
                }
                Belongs::Backup(place, "manifest") => listing.others.push(place),
                Belongs::Evidence(place, _) if place.system == self.system => {
                    beside.entry(place.prefix()).or_default().evidence.push(object.key);
                }
                Belongs::Hold(place, _) if place.system == self.system => {
                    beside.entry(place.prefix()).or_default().holds.push(object.key);
                }
                Belongs::Tombstone(place) if place.system == self.system => {
                    beside.entry(place.prefix()).or_default().is_dead = true;
                }
                _ => {}
            }
        }
        let complete: BTreeSet<String> = manifests.iter().map(|(place, ..)| place.prefix()).collect();
        let mut read = futures::stream::iter(manifests)
            .map(|(place, opening)| {
                let beside = beside.remove(&place.prefix()).unwrap_or_default();
                let (catalog, is_dead) = (catalog.clone(), beside.is_dead);
                let reading = tokio::spawn(async move {
                    let (info, manifest) = opening.await.unwrap_or_else(|e| Err(ended(&e)))?;
                    catalog.complete(info, manifest, &beside).await
                });
                let reading = AbortOnDropHandle::new(reading);
                async move { (place, is_dead, reading.await) }
            })
            .buffer_unordered(READS);
        while let Some((place, is_dead, result)) = read.next().await {
            match result.unwrap_or_else(|e| Err(ended(&e))) {
                Ok(mut info) => {
                    info.is_future_dated |= place.id.time() > listing.now + MAX_SKEW;
                    info.missing_sources.clone_from(&info.sources);
                    info.missing_sources.retain(|source| !complete.contains(&place.sibling(*source).prefix()));
                    let is_of_kind = self.kind.is_none() || info.database_kind == self.kind;
                    if is_of_kind
                        && self.holding.as_ref().is_none_or(|name| info.components.iter().any(|c| c.as_str() == name))
                    {
                        listing.backups.push(info);
                    }
                }
                Err(e) => match e.kind() {
                    // Deleted since it was listed.
                    ErrorKind::NotFound => {}
                    ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Authentication => return Err(e),
                    _ => {
                        let tombstone = if is_dead { tombstone(&self.repository, &place).await? } else { None };
                        listing.damaged.push(Damaged { place, error: e.to_record(), tombstone });
                    }
                },
            }
        }
        drop(read);
        listing.backups.sort_by_key(BackupInfo::id);
        listing.damaged.sort_by_key(|d| d.place.id);
        listing.others.sort_by_key(|p| p.id);
        Ok(listing)
    }

    /// Chooses a backup.
    ///
    /// # Errors
    /// See [`Listing::select`].
    pub async fn select(&self, selector: &Selector) -> Result<BackupInfo> {
        let mut info = self.list().await?.select(selector)?.clone();
        if !info.recipients.is_empty() {
            let reader = self.open(&info.place).await?;
            // Without the right identity they stay sealed; whoever restores is told so.
            if reader.check_identity().is_ok() {
                info.warnings.clone_from(&reader.private().await?.warnings);
            }
        }
        Ok(info)
    }

    /// Opens a backup of this system.
    ///
    /// # Errors
    /// `Conflict`: it holds another system, or was made for another repository. Otherwise as [`BackupReader::open`].
    pub async fn open(&self, place: &Place) -> Result<BackupReader> {
        if place.system != self.system {
            return Err(wrong_system(place, &self.system));
        }
        let reader = BackupReader::open_with(&self.repository, place.clone(), self.second.clone()).await?;
        self.guard(&reader)?;
        Ok(reader)
    }

    fn guard(&self, reader: &BackupReader) -> Result<()> {
        let (made_for, here) = (&reader.manifest().repository, self.repository.id());
        if made_for == here || self.is_clone {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, format!("backup {} was made for another repository", reader.place().id))
            .with("made for", made_for)
            .with("this is", here)
            .hint("check `repository.url`; `--as-clone` uses it nevertheless"))
    }

    /// Adds what lies beside the manifest, whose SHA-256 is said.
    async fn complete(&self, mut info: BackupInfo, manifest: Hash, beside: &Beside) -> Result<BackupInfo> {
        let place = info.place.clone();
        // Oldest first. A failure takes back everything that was proven before it.
        for key in &beside.evidence {
            let record = statement::read_valid::<VerificationRecord>(&self.repository, key).await?;
            let Some(report) = record.map(|(r, _)| r.report).filter(|r| r.manifest_sha256 == manifest) else {
                continue;
            };
            let passed = report.passed();
            info.level = if passed { info.level.max(Some(report.level)) } else { None };
            info.decoded_when_written = passed && (info.decoded_when_written || report.decoded_when_written);
            info.verified = Some(report.ended);
        }
        info.holds = hold::read(&self.repository, &place, beside.holds.iter()).await?;
        if beside.is_dead {
            info.tombstone = tombstone(&self.repository, &place).await?;
        }
        Ok(info)
    }
}

/// Names the systems whose backups a repository holds.
///
/// # Errors
/// Those of listing the store.
pub async fn systems(repository: &Repository) -> Result<BTreeSet<SystemId>> {
    let mut systems = BTreeSet::new();
    let mut listed = repository.store().list_except("", layout::holds_parts).await?;
    while let Some(object) = listed.next().await.transpose()? {
        if let Belongs::Backup(place, "manifest") = layout::belongs(&object.key) {
            systems.insert(place.system);
        }
    }
    Ok(systems)
}

/// What a listing saw beside a backup.
#[derive(Default)]
struct Beside {
    evidence: Vec<Key>,
    holds: Vec<Key>,
    is_dead: bool,
}

fn ended(why: &JoinError) -> Error {
    Error::new(ErrorKind::Failed, "reading a manifest ended unexpectedly").caused_by(why.to_string())
}

fn wrong_system(place: &Place, wanted: &SystemId) -> Error {
    Error::new(ErrorKind::Conflict, format!("backup {} holds system `{}`, not `{wanted}`", place.id, place.system))
        .hint(format!("check the configuration; `--as-clone {}` makes a clone of that system", place.system))
}

/// A backup in order of ids, usable or not.
#[derive(Clone, Copy)]
enum Entry<'a> {
    Usable(&'a BackupInfo),
    Damaged(&'a Damaged),
}

impl Entry<'_> {
    fn is_alive(self) -> bool {
        match self {
            Self::Usable(b) => b.tombstone.is_none(),
            Self::Damaged(d) => d.tombstone.is_none(),
        }
    }

    fn id(self) -> BackupId {
        match self {
            Self::Usable(b) => b.id(),
            Self::Damaged(d) => d.place.id,
        }
    }
}

impl Listing {
    /// Tells which backups have parts that later ones refer to, and which ones those are. Such a backup must not be
    /// deleted before them.
    ///
    /// # Errors
    /// `Incomplete`: a part of the store could not be listed, or a manifest could not be read: what it refers to, nobody
    /// knows.
    pub fn references(&self) -> Result<BTreeMap<Place, BTreeSet<BackupId>>> {
        let incomplete = |what: String| {
            Err(Error::new(ErrorKind::Incomplete, format!("nobody can tell which parts are still referred to: {what}")))
        };
        if let Some(problem) = self.problems.first() {
            return incomplete(format!("a part of the repository could not be listed: {}", problem.message));
        }
        if let Some(damaged) = self.damaged.first() {
            return incomplete(format!("backup {} cannot be read: {}", damaged.place.id, damaged.error.message));
        }
        Ok(self.known_references())
    }

    pub(super) fn known_references(&self) -> BTreeMap<Place, BTreeSet<BackupId>> {
        let mut references: BTreeMap<Place, BTreeSet<BackupId>> = BTreeMap::new();
        for backup in &self.backups {
            for source in &backup.sources {
                references.entry(backup.place.sibling(*source)).or_default().insert(backup.id());
            }
        }
        references
    }

    /// Chooses a backup. Nothing older is ever chosen silently in the place of one that is damaged.
    ///
    /// # Errors
    /// `NotFound`: none matches. `Corrupt`: the one that matches, or a newer one that may match, is damaged; the hint
    /// names the newest usable one before it. `Conflict`: only backups of other systems match. `Incomplete`: parts of
    /// the store could not be listed, so that "newest" cannot be told; [`Selector::Id`] still works.
    /// `InvalidInput`: the begin of an id fits several, or is shorter than four characters.
    pub fn select(&self, selector: &Selector) -> Result<&BackupInfo> {
        if let Selector::Id(prefix) = selector {
            return self.by_id(prefix);
        }
        if let Selector::Legacy(name) = selector {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("legacy backup `{}` is in no repository", name.escape_debug()),
            )
            .hint("this needs a backup of the repository: leave out `legacy:`"));
        }
        if let Some(problem) = self.problems.first() {
            return Err(Error::new(ErrorKind::Incomplete, "the repository could not be listed completely")
                .with("problems", self.problems.len())
                .with("first", &problem.message)
                .hint("mend that, or name a backup by its id"));
        }
        // A damaged one may be the one that is wanted: it keeps its place in the order.
        let mut matching = self.newest_first().into_iter().filter(|entry| match (selector, entry) {
            (Selector::Before(id), entry) => entry.id() < *id,
            (Selector::Timestamp(at), Entry::Usable(b)) => b.point <= *at,
            (Selector::Timestamp(at), Entry::Damaged(d)) => d.place.id.time() <= *at,
            (Selector::Tag(tag), Entry::Usable(b)) => b.tags.contains(tag),
            (
                Selector::Latest | Selector::Previous(_) | Selector::Tag(_) | Selector::Id(_) | Selector::Legacy(_),
                _,
            ) => true,
        });
        let skip = if let Selector::Previous(n) = selector { *n as usize } else { 0 };
        match matching.by_ref().nth(skip) {
            Some(Entry::Usable(info)) => Ok(info),
            Some(Entry::Damaged(damaged)) => {
                let instead = matching.find_map(|e| match e {
                    Entry::Usable(b) => Some(b),
                    Entry::Damaged(_) => None,
                });
                Err(self.damaged(damaged, instead))
            }
            None => Err(self.nothing(selector)),
        }
    }

    fn newest_first(&self) -> Vec<Entry<'_>> {
        let usable = self.backups.iter().filter(|b| !b.is_future_dated && !b.is_salvaged).map(Entry::Usable);
        let horizon = self.now + MAX_SKEW;
        let damaged = self.damaged.iter().filter(|d| d.place.id.time() <= horizon).map(Entry::Damaged);
        let mut all: Vec<_> = usable.chain(damaged).filter(|entry| entry.is_alive()).collect();
        all.sort_by_key(|e| std::cmp::Reverse(e.id()));
        all
    }

    fn by_id(&self, prefix: &str) -> Result<&BackupInfo> {
        let prefix = prefix.to_ascii_uppercase();
        if prefix.len() < SHORTEST_PREFIX {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("`{}` is too short for an id", prefix.escape_debug()),
            )
            .hint("write at least four characters"));
        }
        let fits = |id: BackupId| id.to_string().starts_with(&prefix);
        let usable = self.backups.iter().filter(|b| fits(b.id())).map(Entry::Usable);
        let found: Vec<_> =
            usable.chain(self.damaged.iter().filter(|d| fits(d.place.id)).map(Entry::Damaged)).collect();
        match found[..] {
            [Entry::Usable(info)] => Ok(info),
            [Entry::Damaged(damaged)] => Err(self.damaged(damaged, None)),
            [] => Err(self
                .others
                .iter()
                .find(|p| fits(p.id))
                .map_or_else(|| self.nothing(&Selector::Id(prefix)), |other| wrong_system(other, &self.system))),
            _ => {
                let ids: Vec<_> = found.iter().map(|e| e.id().to_string()).collect();
                Err(Error::new(ErrorKind::InvalidInput, format!("several backups begin with `{prefix}`"))
                    .with("ids", ids.join(", ")))
            }
        }
    }

    fn damaged(&self, damaged: &Damaged, instead: Option<&BackupInfo>) -> Error {
        let id = damaged.place.id;
        let error = Error::new(damaged.error.kind, format!("backup {id} cannot be used: {}", damaged.error.message));
        match (instead, &damaged.error.hint) {
            (Some(b), _) => {
                let minutes = (self.now - b.point).num_minutes();
                error.with("data until", b.point.format("%F %T UTC")).hint(format!(
                    "the newest usable backup before it is {}, whose data is {minutes} minutes old: name it by its id \
                     to accept that",
                    b.id()
                ))
            }
            (None, Some(hint)) => error.hint(hint.clone()),
            (None, None) => error.hint("no older usable backup exists: look for another copy of the repository"),
        }
    }

    fn nothing(&self, selector: &Selector) -> Error {
        let what = match selector {
            Selector::Latest => "no backup".to_owned(),
            Selector::Previous(n) => format!("no backup {n} before the latest"),
            Selector::Before(id) => format!("no backup before {id}"),
            Selector::Timestamp(at) => format!("no backup with data from {} or earlier", at.format("%F %T UTC")),
            Selector::Id(id) => format!("no backup {}", id.escape_debug()),
            Selector::Tag(tag) => format!("no backup tagged `{tag}`"),
            Selector::Legacy(name) => format!("no backup `{}`", name.escape_debug()),
        };
        if self.backups.is_empty()
            && self.damaged.is_empty()
            && let Some(other) = self.others.last()
        {
            return wrong_system(other, &self.system).during(format!("there is {what} of `{}`", self.system));
        }
        let future = self.backups.iter().filter(|b| b.is_future_dated).count();
        let error = Error::new(ErrorKind::NotFound, format!("there is {what} of `{}`", self.system))
            .hint("`chom-recovery backup list` shows what there is");
        let error = if future > 0 { error.with("dated in the future, to be named by id", future) } else { error };
        let salvaged = self.backups.iter().filter(|b| b.is_salvaged).count();
        if salvaged > 0 { error.with("salvaged, to be named by id", salvaged) } else { error }
    }
}
