//! Owners and permissions of a component against its newest backup: which entries differ, and giving exactly those what
//! was recorded.
//!
//! A tree that an application writes to is not trusted: no link is followed, an entry is changed only while it is the one
//! that was looked at, one with names outside of the tree is left alone, and no file gets setuid or setgid anew.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Parts,
    locate::{Located, find},
};
use crate::{
    catalog::{Catalog, ComponentReader, Selector, tree},
    error::{Error, ErrorKind, Result},
    files::{
        Entry, Handle, Handles, Identity, Kind, Permissions, Root, TreePath,
        tar::{Dialect, Limits, TarReader},
    },
    run::{Effect, Run, StepCx, failpoint},
    store::pipe,
    system::Component,
};

mod path;
#[cfg(test)]
mod tests;

/// Larger components are not read for their permissions: the backup has to be read to its end for them.
const LARGEST: u64 = 4 << 30;
/// Most entries that are changed: all of them stand in the journal, so that they can be given back.
const MOST: usize = 100_000;
/// Longest time for changing them, or for changing them back.
const LONGEST: Duration = Duration::from_mins(10);
/// Entries that are named one by one.
const SHOWN: usize = 20;

const GONE: &str = "is gone, or something else has its name now";
const LEFT_OUT: &str = "setuid or setgid is left out: look at the content before you set it";

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const SETID: u32 = SETUID | SETGID;

/// An entry that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    #[serde(with = "path")]
    path: TreePath,
    /// The entry that was looked at.
    entry: Identity,
    /// What it has.
    is: Permissions,
    /// What it has in the backup.
    was: Permissions,
    /// It has names that are none of the component's: what is done to it is done to them.
    is_shared: bool,
}

impl Difference {
    /// Mode that it has, and the one in the backup, where they differ.
    pub(crate) fn mode(&self) -> Option<(u32, u32)> {
        (self.is.mode != self.was.mode).then_some((self.is.mode, self.was.mode))
    }

    /// Owner and group that it has, and those in the backup, where they differ.
    pub(crate) fn owner(&self) -> Option<((u32, u32), (u32, u32))> {
        (self.is.owner() != self.was.owner()).then_some((self.is.owner(), self.was.owner()))
    }

    /// Tells whether [`apply`] does something about it.
    pub(crate) fn is_mendable(&self) -> bool {
        !self.is_shared && self.goal() != self.is
    }

    /// What it is given.
    fn goal(&self) -> Permissions {
        allowed(self.is, self.was, self.entry)
    }

    /// What it is given, being like this now: the kernel takes setuid from a file that is written to.
    fn wanted(&self, now: Permissions, way: Way) -> Permissions {
        allowed(now, self.end(way), self.entry)
    }

    /// What it has at the end of a way.
    fn end(&self, way: Way) -> Permissions {
        match way {
            Way::There => self.goal(),
            Way::Back => self.is,
        }
    }

    /// Says what is left for a person.
    fn remark(&self) -> Option<&'static str> {
        if self.is_shared {
            Some("has names outside of the component, and is left alone")
        } else {
            (self.goal() != self.was).then_some(LEFT_OUT)
        }
    }

    /// Holds the entry, or says why it must be left alone.
    fn hold(&self, handles: &mut Handles<'_>) -> Result<Result<Handle<'_>, &'static str>> {
        let found = handles.hold(&self.path)?.filter(|found| found.identity() == self.entry);
        let Some(found) = found else { return Ok(Err(GONE)) };
        // Between two calls an interrupted step leaves the one owner with the other mode, or one that lost its setid bits.
        let (now, goal) = (found.permissions(), self.goal());
        let is_known = |one: u32, other: u32, mask: u32| [one & mask, other & mask].contains(&(now.mode & mask));
        let is_ours = [self.is.owner(), goal.owner()].contains(&now.owner())
            && is_known(self.is.mode, goal.mode, !SETID)
            && now.mode & SETID & !(self.is.mode | goal.mode) == 0;
        Ok(if is_ours { Ok(found) } else { Err("was changed by somebody else since") })
    }
}

/// What an entry may be given. A file whose content somebody else could write must not run as its owner: it keeps setuid and
/// setgid only where it has them and its owner stays. A folder's setgid hands its group down, and nothing more.
fn allowed(now: Permissions, wanted: Permissions, entry: Identity) -> Permissions {
    let kept = match (entry.is_folder(), now.owner() == wanted.owner()) {
        (true, _) => SETGID | (now.mode & SETUID),
        (false, true) => now.mode & SETID,
        (false, false) => 0,
    };
    Permissions { mode: wanted.mode & (!SETID | kept), ..wanted }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:", self.path)?;
        if let Some((is, was)) = self.mode() {
            write!(f, " mode {is:04o} instead of {was:04o}")?;
        }
        if let Some(((uid, gid), (was_uid, was_gid))) = self.owner() {
            write!(f, " owner {uid}:{gid} instead of {was_uid}:{was_gid}")?;
        }
        Ok(())
    }
}

/// A component beside its newest backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Compared {
    place: Located,
    /// Backup.
    pub(crate) backup: String,
    /// Entries that differ, in the order of their paths.
    pub(crate) differing: Vec<Difference>,
    /// Entries that differ as well, beyond the most that are listed.
    pub(crate) unlisted: u64,
}

impl Compared {
    /// Refuses what [`apply`] cannot do, or not undo.
    ///
    /// # Errors
    /// `Unsupported`: too many entries differ. `Precondition`: nothing differs that is mended without a person.
    pub(crate) fn check(&self, component: &str) -> Result<()> {
        if self.unlisted > 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("more than {MOST} entries of component `{component}` differ from backup {}", self.backup),
            )
            .hint(format!(
                "restore the component, which is one rename and can be undone: chom-recovery restore --component {component}"
            )));
        }
        if self.differing.iter().any(Difference::is_mendable) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "component `{component}` has no entry that can be given back what it has in backup {}",
                self.backup
            ),
        )
        .hint("chom-recovery troubleshoot permissions"))
    }

    /// What is left for a person, a line for each entry.
    pub(super) fn remarks(&self) -> Vec<String> {
        told(self.differing.iter().filter_map(|one| Some((&one.path, one.remark()?))))
    }
}

#[cfg(test)]
impl Compared {
    /// Compares a folder with a backup of these files: path, owner, group and mode.
    pub(crate) fn of(folder: &std::path::Path, files: &[(&str, u32, u32, u32)]) -> Self {
        let place = Located { mount: folder.into(), below: std::path::PathBuf::new() };
        let mut files = files.iter().map(|(path, uid, gid, mode)| Entry {
            path: TreePath::new(*path).unwrap(),
            kind: Kind::File { size: 0, extents: None },
            attributes: crate::files::Attributes { uid: *uid, gid: *gid, mode: *mode, ..Default::default() },
        });
        let (differing, unlisted) = compare(&place.open().unwrap(), || Ok(files.next())).unwrap();
        Self { place, backup: "b".into(), differing, unlisted }
    }
}

/// Compares owners and permissions of a component with its newest backup. What is gone is not a matter of permissions.
///
/// # Errors
/// `Unsupported`: the backup is too large to be read for this. Else what is not found or not read.
pub(crate) async fn look(parts: &Parts, component: &Component) -> Result<Compared> {
    let place = find(&parts.system, &parts.backend, component).await?;
    let catalog = Arc::new(Catalog::clone(&parts.catalog).holding(&component.name));
    let backup = catalog.select(&Selector::Latest).await?;
    if backup.plain_len > LARGEST {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "backup {} is larger than {} GiB, and would have to be read to its end",
                backup.id(),
                LARGEST >> 30
            ),
        )
        .hint("restore it into a new folder, `--target FOLDER`, and compare that"));
    }
    let reader: ComponentReader = catalog.open(&backup.place).await?.component(&component.name).await?;
    let (archive, opening) = (tree::read_tar(&reader)?, place.clone());
    let (differing, unlisted) = pipe::consume(archive, move |input| {
        let mut entries = TarReader::new(&mut *input, Dialect::Ours, Limits::NONE);
        compare(&opening.open()?, || entries.next_entry())
    })
    .await?;
    Ok(Compared { place, backup: backup.id().to_string(), differing, unlisted })
}

/// Looks at every entry of a backup; further names of a file come after it.
fn compare(root: &Root, mut next: impl FnMut() -> Result<Option<Entry>>) -> Result<(Vec<Difference>, u64)> {
    let (mut handles, mut links) = (Handles::new(root)?, Handles::new(root)?);
    let (mut differing, mut unlisted): (Vec<Difference>, u64) = (Vec::new(), 0);
    // Files that differ and have several names: where they stand, and how many names are not known yet.
    let mut shared: HashMap<TreePath, (usize, u64)> = HashMap::new();
    while let Some(Entry { path, kind, attributes }) = next()? {
        if let Kind::HardLink { target } = &kind {
            if let Some((at, missing)) = shared.get_mut(target)
                && let Some(name) = links.hold(&path)?
                && name.identity() == differing[*at].entry
            {
                *missing = missing.saturating_sub(1);
            }
            continue;
        }
        let Some(found) = handles.hold(&path)?.filter(|found| found.is_a(&kind)) else { continue };
        let was = Permissions { uid: attributes.uid, gid: attributes.gid, mode: attributes.mode };
        let (entry, is, names) = (found.identity(), found.permissions(), found.names());
        if is == was {
            continue;
        }
        if differing.len() == MOST {
            unlisted += 1;
            continue;
        }
        if names > 1 {
            shared.insert(path.clone(), (differing.len(), names - 1));
        }
        differing.push(Difference { path, entry, is, was, is_shared: false });
    }
    for (at, missing) in shared.into_values() {
        differing[at].is_shared = missing > 0;
    }
    differing.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((differing, unlisted))
}

/// What became of entries that were to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    /// Entries that have what they were to be given.
    pub(super) given: u64,
    /// Entries that were left alone or did not get all of it, by their place in the list, and why.
    left: Vec<(usize, String)>,
}

impl Given {
    fn remarks(&self, list: &[Difference]) -> Vec<String> {
        told(self.left.iter().filter_map(|(at, why)| Some((&list.get(*at)?.path, why.as_str()))))
    }
}

/// Gives the entries that differ what they have in the backup, and proves it. Undoing it gives those that still have it what
/// they had before. Returns how many were given it, and what was left alone.
///
/// # Errors
/// `Precondition`: who runs this may not. `Conflict`: something changes the entries again.
pub(super) async fn apply(run: &Run, compared: &Compared) -> Result<(u64, Vec<String>)> {
    let list: Vec<_> = compared.differing.iter().filter(|one| one.is_mendable()).cloned().collect();
    let (place, list) = (compared.place.clone(), Arc::new(list));
    let there = (place.clone(), list.clone());
    let (back, again) = (there.clone(), there.clone());
    let given = run
        .step("give-back")
        .effect(Effect::Idempotent)
        .input(&(&place, &*list))
        .predict(Given::default)
        .budget(Duration::from_mins(1))
        .timeout(LONGEST)
        .undo_text("give them the owners and permissions that they had before")
        .undo_with(async move |cx, _: Option<Given>| changed(cx, back.0, back.1, Way::Back).await.map(drop))
        .run(async move |cx| changed(cx, there.0, there.1, Way::There).await)
        .verify(async move |_, given| pipe::blocking(move || prove(&again.0, &again.1, &given)).await)
        .await?;
    Ok((given.given, given.remarks(&list)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

async fn changed(cx: StepCx, place: Located, list: Arc<Vec<Difference>>, way: Way) -> Result<Given> {
    let all = list.clone();
    let given = pipe::blocking(move || change(&place, &list, way)).await?;
    given.remarks(&all).iter().for_each(|line| cx.note(line));
    Ok(given)
}

/// Changes every entry of the list that is still the one that was looked at. A second call finds it done.
fn change(place: &Located, list: &[Difference], way: Way) -> Result<Given> {
    let root = match place.open() {
        Err(gone) if way == Way::Back && gone.kind() == ErrorKind::NotFound => {
            return Ok(Given { given: 0, left: (0..list.len()).map(|at| (at, GONE.to_owned())).collect() });
        }
        opened => opened?,
    };
    let mut handles = Handles::new(&root)?;
    let mut given = Given::default();
    for step in 0..list.len() {
        // A folder closes after what lies in it, and opens before.
        let at = if way == Way::There { list.len() - 1 - step } else { step };
        let one = &list[at];
        match one.hold(&mut handles)? {
            Ok(mut entry) => {
                failpoint::hit("before an entry is given its permissions");
                let wanted = one.wanted(entry.permissions(), way);
                entry.give(wanted)?;
                given.given += 1;
                if wanted != one.end(way) {
                    given.left.push((at, LEFT_OUT.to_owned()));
                }
            }
            Err(why) => given.left.push((at, why.to_owned())),
        }
    }
    handles.sync()?;
    Ok(given)
}

/// Compares again: of the list nothing differs but what was left alone.
fn prove(place: &Located, list: &[Difference], given: &Given) -> Result<String> {
    let root = place.open()?;
    let mut handles = Handles::new(&root)?;
    let left: HashSet<_> = given.left.iter().map(|(at, _)| *at).collect();
    for (_, one) in list.iter().enumerate().filter(|(at, _)| !left.contains(at)) {
        // What went away in the meantime has no permissions.
        let found = handles.hold(&one.path)?.filter(|found| found.identity() == one.entry);
        if found.is_some_and(|found| found.permissions() != one.goal()) {
            let again = format!("{:?} has another owner or mode again: something changes it", one.path);
            return Err(Error::new(ErrorKind::Conflict, again));
        }
    }
    Ok(format!("{} entries have the owner and mode that they were given", given.given))
}

/// Names the first of them, and counts the rest.
fn told<'a>(entries: impl Iterator<Item = (&'a TreePath, &'a str)>) -> Vec<String> {
    let mut entries = entries.peekable();
    let mut lines: Vec<_> = entries.by_ref().take(SHOWN).map(|(path, what)| format!("{path:?} {what}")).collect();
    if entries.peek().is_some() {
        lines.push(format!("and {} more entries", entries.count()));
    }
    lines
}
