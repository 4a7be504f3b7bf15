//! Choosing the newest backup of a component that passes a test, before anything of production is replaced.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{
    Parts,
    files::{self, beside_of, remove},
    locate::{self, Located},
};
use crate::{
    catalog::{
        BackupId, Catalog, Selector,
        tree::{self, RestoreOptions},
    },
    error::{Error, ErrorKind, Result},
    files::{Difference, Root, Rules, differences, unpack::Policy},
    run::{Effect, Run},
    store::pipe,
    system::Component,
};

/// How many backups are tried, the newest first.
const TRIED: usize = 10;

/// A backup of a component that passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub(super) backup: BackupId,
    /// What differs in production from it.
    pub(super) differences: Vec<Difference>,
    /// Newer backups, and why they did not pass.
    pub(super) refused: Vec<String>,
}

/// Judges a restored tree: why it would not do, a line each.
pub(super) type Test = Arc<dyn Fn(PathBuf) -> BoxFuture<'static, Result<Vec<String>>> + Send + Sync>;

/// Restores backups of a component beside production, one after the other, until one passes. What was restored for it is
/// removed again; what the test `keeps`, by an undo alone.
///
/// # Errors
/// `Precondition`: none passes. `NotFound`: there is none.
pub(super) async fn choose(
    run: &Run,
    parts: &Parts,
    component: &Component,
    which: &Selector,
    test: Test,
    keeps: Option<PathBuf>,
) -> Result<Candidate> {
    let catalog = Arc::new(Catalog::clone(&parts.catalog).holding(&component.name));
    let Choice { ids, damaged } = run.decide("backups", backups(&catalog, component, which)).await?;
    let located: Located = run.decide("place", locate::find(&parts.system, &parts.backend, component)).await?;
    // Recorded, so that `runs prune` finds what a run that nobody took up again left there.
    let beside = async { beside_of(&located, &component.name, run.id()) };
    let folder: PathBuf = run.decide(files::CANDIDATE, beside).await?;
    let (clearing, first) = (folder.clone(), ids[0]);
    let trying = Trying {
        catalog,
        component: component.clone(),
        located,
        folder,
        keep_free: parts.system.limits.keep_free_bytes,
        test,
    };
    run.step("test-backups")
        // Each attempt begins by removing what another left.
        .effect(Effect::Idempotent)
        .input(&ids)
        .predict(move || Candidate { backup: first, differences: Vec::new(), refused: Vec::new() })
        .budget(Duration::from_mins(3))
        .timeout(Duration::from_hours(1))
        .undo_text("remove what was restored for the test")
        .undo_with(async move |_, _: Option<Candidate>| {
            pipe::blocking(move || {
                keeps.iter().try_for_each(|kept| remove(kept))?;
                clear(&clearing)
            })
            .await
        })
        .run(async move |_| trying.all(ids, damaged).await)
        .await
}

/// Removes what was restored, also what an interrupted attempt has only half of.
fn clear(folder: &Path) -> Result<()> {
    if let Some(staging) = files::staging(folder) {
        remove(&folder.with_file_name(staging))?;
    }
    remove(folder)
}

/// Backups to try, the newest first, and newer ones that cannot be.
#[derive(Debug, Serialize, Deserialize)]
struct Choice {
    ids: Vec<BackupId>,
    damaged: Vec<String>,
}

async fn backups(catalog: &Catalog, component: &Component, which: &Selector) -> Result<Choice> {
    if *which != Selector::Latest {
        return Ok(Choice { ids: vec![catalog.select(which).await?.id()], damaged: Vec::new() });
    }
    let listing = catalog.list().await?;
    if let Some(problem) = listing.problems.first() {
        let what = "not all backups can be listed: a newer one than those seen may exist";
        return Err(Error::new(ErrorKind::Incomplete, what)
            .with("problem", &problem.message)
            .hint("mend the store, or name a backup: `--backup ID`"));
    }
    let usable = listing.backups.iter().rev().filter(|b| b.is_choosable() && b.missing_sources.is_empty());
    let ids: Vec<_> = usable.map(crate::catalog::BackupInfo::id).take(TRIED).collect();
    if ids.is_empty() {
        let what = format!("no backup holds component `{}`", component.name);
        return Err(Error::new(ErrorKind::NotFound, what).hint("chom-recovery backup list"));
    }
    let damaged = listing.damaged.iter().filter(|d| d.tombstone.is_none() && d.place.id > ids[0]);
    let damaged = damaged.map(|d| format!("backup {}: {}", d.place.id, d.error.message)).collect();
    Ok(Choice { ids, damaged })
}

/// Another backup may do: this one is damaged, gone since it was listed, or signed by somebody else.
fn is_of_backup(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Denied)
}

#[derive(Clone)]
struct Trying {
    catalog: Arc<Catalog>,
    component: Component,
    located: Located,
    folder: PathBuf,
    keep_free: u64,
    test: Test,
}

impl Trying {
    async fn all(&self, ids: Vec<BackupId>, mut refused: Vec<String>) -> Result<Candidate> {
        for backup in ids {
            let problems = self.one(backup).await;
            let differences = match &problems {
                Ok(problems) if problems.is_empty() => Some(self.compare().await),
                _ => None,
            };
            let folder = self.folder.clone();
            pipe::blocking(move || clear(&folder)).await?;
            match (problems, differences) {
                (_, Some(differences)) => return Ok(Candidate { backup, differences: differences?, refused }),
                (Ok(problems), None) => refused.push(format!("backup {backup}: {}", problems.join("; "))),
                (Err(e), None) if is_of_backup(&e) => refused.push(format!("backup {backup}: {e}")),
                (Err(e), None) => return Err(e),
            }
        }
        let what = format!("no backup of component `{}` would do: {}", self.component.name, refused.join("; "));
        Err(Error::new(ErrorKind::Precondition, what))
    }

    async fn one(&self, backup: BackupId) -> Result<Vec<String>> {
        let folder = self.folder.clone();
        pipe::blocking(move || clear(&folder)).await?;
        let info = self.catalog.select(&Selector::Id(backup.to_string())).await?;
        let reader = self.catalog.open(&info.place).await?;
        let component = reader.component(&self.component.name).await?;
        let mut options = RestoreOptions::new(Policy::default(), self.keep_free);
        options.staging = files::staging(&self.folder);
        tree::restore_tree(&component, &self.folder, &options, Arc::new(|_, _| {})).await?;
        (self.test)(self.folder.clone()).await
    }

    async fn compare(&self) -> Result<Vec<Difference>> {
        let rules = Rules::new(&self.component.include, &self.component.exclude)?;
        let (located, folder) = (self.located.clone(), self.folder.clone());
        pipe::blocking(move || {
            // A folder that is gone lacks everything.
            let here = match Root::open(&located.mount).and_then(|root| root.below(&located.below)) {
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                here => here?,
            };
            differences(&here, &Root::open(&folder)?, &rules)
        })
        .await
    }
}
