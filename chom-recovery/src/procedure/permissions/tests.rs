use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::PathBuf,
};

use super::*;
use crate::{
    files::Attributes,
    run::{Engine, NewRun, RunId},
};

/// A tree, and beside it the state of runs on it.
struct Fixture {
    dir: tempfile::TempDir,
    engine: Engine,
}

impl Fixture {
    /// Makes files with these modes, in folders of mode 0755.
    fn new(files: &[(&str, u32)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::new(dir.path().join("state")).operator("tester");
        let fixture = Self { dir, engine };
        for (path, mode) in files {
            let file = fixture.path(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, path).unwrap();
            fixture.chmod(path, *mode);
        }
        fixture
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().mode() & 0o7777
    }

    fn owner(&self, path: &str) -> (u32, u32) {
        let found = fs::metadata(self.path(path)).unwrap();
        (found.uid(), found.gid())
    }

    /// Compares with a backup that holds these files with these modes, and the owners that they have.
    fn compared(&self, files: &[(&str, u32)]) -> Compared {
        let owned = |path: &str| fs::symlink_metadata(self.path(path)).map_or((0, 0), |m| (m.uid(), m.gid()));
        let files: Vec<_> = files.iter().map(|(path, mode)| (*path, owned(path).0, owned(path).1, *mode)).collect();
        Compared::of(&self.path(""), &files)
    }

    async fn apply(&self, compared: &Compared) -> (RunId, Result<(u64, Vec<String>)>) {
        let run = self.engine.start(NewRun::new("shop", "test", &()).unwrap()).await.unwrap();
        (run.id(), run.execute(apply(&run, compared)).await)
    }

    /// Undoes a run as a process does that read it from its journal.
    async fn undo(&self, id: RunId, compared: &Compared) {
        let undone = self.engine.roll_back(id, "a test", async |run| apply(&run, compared).await).await.unwrap();
        assert_eq!(undone, ["give-back"]);
    }

    fn journal(&self, id: RunId) -> String {
        let runs = self.dir.path().join("state/runs");
        fs::read_to_string(runs.join(id.to_string()).join("journal.jsonl")).unwrap()
    }
}

#[tokio::test]
async fn exactly_what_differs_gets_its_recorded_mode_and_undoing_gives_it_the_one_before() {
    let f = Fixture::new(&[("a/key", 0o644), ("a/same", 0o600), ("b/open", 0o777), ("not-in-the-backup", 0o666)]);
    let compared = f.compared(&[("a/key", 0o600), ("a/same", 0o600), ("b/open", 0o640), ("gone", 0o600)]);
    let shown: Vec<_> = compared.differing.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["`a/key`: mode 0644 instead of 0600", "`b/open`: mode 0777 instead of 0640"]);
    compared.check("certs").unwrap();
    let before = fs::metadata(f.path("a/same")).unwrap().ctime_nsec();

    let (id, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap(), (2, vec![]));
    let modes = || ["a/key", "a/same", "b/open", "not-in-the-backup"].map(|path| f.mode(path));
    assert_eq!(modes(), [0o600, 0o600, 0o640, 0o666]);
    f.undo(id, &compared).await;
    assert_eq!(modes(), [0o644, 0o600, 0o777, 0o666]);
    assert_eq!(fs::metadata(f.path("a/same")).unwrap().ctime_nsec(), before, "what does not differ is not touched");
}

#[tokio::test]
async fn the_folder_itself_and_folders_that_close_are_given_theirs() {
    let f = Fixture::new(&[("d/e/f", 0o666)]);
    let owner = f.owner("");
    let entry = |path: TreePath, kind, mode| Entry {
        path,
        kind,
        attributes: Attributes { uid: owner.0, gid: owner.1, mode, ..Attributes::default() },
    };
    let mut entries = vec![
        entry(TreePath::new("d/e/f").unwrap(), Kind::File { size: 0, extents: None }, 0o600),
        entry(TreePath::root(), Kind::Folder, 0o750),
        entry(TreePath::new("d").unwrap(), Kind::Folder, 0o2700),
        // Something else has its name now.
        entry(TreePath::new("d/e").unwrap(), Kind::Fifo, 0o600),
    ]
    .into_iter();
    let root = Root::open(&f.path("")).unwrap();
    let (differing, unlisted) = compare(&root, || Ok(entries.next())).unwrap();
    let place = Located { mount: f.path(""), below: PathBuf::new() };
    let compared = Compared { place, backup: "b".into(), differing, unlisted };
    // As a resumed run reads it.
    let text = serde_json::to_string(&compared).unwrap();
    assert_eq!(serde_json::from_str::<Compared>(&text).unwrap(), compared);

    let before = ["", "d", "d/e", "d/e/f"].map(|path| f.mode(path));
    let (id, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap(), (3, vec![]));
    assert_eq!(["", "d", "d/e", "d/e/f"].map(|path| f.mode(path)), [0o750, 0o2700, before[2], 0o600]);
    f.undo(id, &compared).await;
    assert_eq!(["", "d", "d/e", "d/e/f"].map(|path| f.mode(path)), before);
}

#[tokio::test]
async fn neither_a_link_nor_what_lies_behind_one_is_touched() {
    let f = Fixture::new(&[("file", 0o666), ("d/inner", 0o666), ("kept", 0o666), ("../outside/inner", 0o666)]);
    symlink("../outside/inner", f.path("was-a-link")).unwrap();
    let recorded = [("file", 0o600), ("d/inner", 0o600), ("kept", 0o600), ("was-a-link", 0o600)];
    let compared = f.compared(&recorded);
    assert_eq!(compared.differing.len(), 3, "{compared:?}");
    // Whoever may write in the tree does this after it was looked at.
    fs::remove_file(f.path("file")).unwrap();
    symlink("../outside/inner", f.path("file")).unwrap();
    fs::rename(f.path("d"), f.path("d-moved")).unwrap();
    symlink("../outside", f.path("d")).unwrap();
    let left = |path: &str| format!("`{path}` is gone, or something else has its name now");
    let (id, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap(), (1, vec![left("file"), left("d/inner")]));
    assert_eq!(["../outside/inner", "d-moved/inner", "kept"].map(|path| f.mode(path)), [0o666, 0o666, 0o600]);
    // What is there by now is not seen either.
    assert!(f.compared(&recorded).differing.is_empty());
    f.undo(id, &compared).await;
    assert_eq!(["../outside/inner", "d-moved/inner", "kept"].map(|path| f.mode(path)), [0o666, 0o666, 0o666]);
}

#[tokio::test]
async fn what_somebody_else_changed_is_left_alone_and_told() {
    let f = Fixture::new(&[("early", 0o666), ("late", 0o666), ("replaced", 0o666), ("same", 0o666)]);
    let compared = f.compared(&[("early", 0o600), ("late", 0o600), ("replaced", 0o600), ("same", 0o600)]);
    f.chmod("early", 0o640);
    let (id, given) = f.apply(&compared).await;
    let (given, left) = given.unwrap();
    assert_eq!((given, left), (3, vec!["`early` was changed by somebody else since".to_owned()]));
    assert_eq!(f.mode("early"), 0o640);

    f.chmod("late", 0o440);
    // Written anew, as editors do.
    fs::write(f.path("new"), "").unwrap();
    f.chmod("new", 0o600);
    fs::rename(f.path("new"), f.path("replaced")).unwrap();
    f.undo(id, &compared).await;
    let modes = ["early", "late", "replaced", "same"].map(|path| f.mode(path));
    assert_eq!(modes, [0o640, 0o440, 0o600, 0o666]);
    let journal = f.journal(id);
    assert!(journal.contains("`late` was changed") && journal.contains("`replaced` is gone"), "{journal}");
}

#[tokio::test]
async fn what_was_half_done_is_done_and_undone_to_its_end() {
    let files = [("a", 0o666), ("b", 0o666), ("c", 0o666)];
    let f = Fixture::new(&files);
    let compared = f.compared(&[("a", 0o600), ("b", 0o600), ("c", 0o600)]);
    // As a process leaves it that was killed.
    f.chmod("c", 0o600);
    let (id, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap(), (3, vec![]));
    f.chmod("a", 0o666);
    f.undo(id, &compared).await;
    assert_eq!(files.map(|(path, _)| f.mode(path)), [0o666; 3]);
}

#[tokio::test]
async fn setuid_and_setgid_of_files_are_taken_and_never_given() {
    let f = Fixture::new(&[("lost", 0o666), ("kept", 0o4777), ("planted", 0o6755)]);
    let compared = f.compared(&[("lost", 0o4755), ("kept", 0o4755), ("planted", 0o755)]);
    let (id, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap(), (3, vec![]));
    let modes = || ["lost", "kept", "planted"].map(|path| f.mode(path));
    assert_eq!(modes(), [0o755, 0o4755, 0o755]);
    assert_eq!(compared.remarks(), ["`lost` setuid or setgid is left out: look at the content before you set it"]);
    f.undo(id, &compared).await;
    assert_eq!(modes(), [0o666, 0o4777, 0o755], "undoing gives none either");
    assert!(f.journal(id).contains(&format!("`planted` {LEFT_OUT}")), "and says so");
    let error = f.compared(&[("planted", 0o4755)]).check("app").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
}

#[test]
fn setuid_that_a_write_took_is_not_given_and_what_was_not_changed_keeps_it() {
    let f = Fixture::new(&[("written", 0o4777), ("untouched", 0o4777)]);
    let compared = f.compared(&[("written", 0o4755), ("untouched", 0o755)]);
    // Undone before anything was done.
    change(&compared.place, &compared.differing, Way::Back).unwrap();
    assert_eq!(["written", "untouched"].map(|path| f.mode(path)), [0o4777; 2]);
    f.chmod("written", 0o777);
    let given = change(&compared.place, &compared.differing, Way::There).unwrap();
    assert_eq!(given.remarks(&compared.differing), [format!("`written` {LEFT_OUT}")]);
    assert_eq!(["written", "untouched"].map(|path| f.mode(path)), [0o755; 2]);
    prove(&compared.place, &compared.differing, &given).unwrap();
    // A rollback does not fail where nothing is left to put back.
    fs::remove_dir_all(f.path("")).unwrap();
    assert_eq!(change(&compared.place, &compared.differing, Way::Back).unwrap().left.len(), 2);
    assert_eq!(change(&compared.place, &compared.differing, Way::There).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_file_with_a_name_that_the_backup_does_not_know_is_left_alone() {
    let f = Fixture::new(&[("known", 0o666), ("shared", 0o666)]);
    fs::hard_link(f.path("known"), f.path("known-too")).unwrap();
    fs::hard_link(f.path("shared"), f.dir.path().join("outside")).unwrap();
    // Of the same name as in the backup, and another file.
    fs::write(f.path("shared-too"), "").unwrap();
    let attributes =
        |mode| Attributes { uid: f.owner("known").0, gid: f.owner("known").1, mode, ..Attributes::default() };
    let name = |path: &str| TreePath::new(path).unwrap();
    let mut entries = Vec::new();
    for file in ["known", "shared"] {
        let kind = Kind::File { size: 0, extents: None };
        entries.push(Entry { path: name(file), kind, attributes: attributes(0o600) });
        let kind = Kind::HardLink { target: name(file) };
        entries.push(Entry { path: name(&format!("{file}-too")), kind, attributes: attributes(0o600) });
    }
    let mut entries = entries.into_iter();
    let (differing, unlisted) = compare(&Root::open(&f.path("")).unwrap(), || Ok(entries.next())).unwrap();
    let place = Located { mount: f.path(""), below: PathBuf::new() };
    let compared = Compared { place, backup: "b".into(), differing, unlisted };
    assert_eq!(compared.remarks(), ["`shared` has names outside of the component, and is left alone"]);
    let (_, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap().0, 1);
    assert_eq!(["known", "known-too", "shared"].map(|path| f.mode(path)), [0o600, 0o600, 0o666]);
}

#[tokio::test]
async fn owners_are_given_back_before_modes_and_undone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let f = Fixture::new(&[("file", 0o600), ("half", 0o644), ("setuid", 0o4755)]);
    let recorded = [("file", 33, 33, 0o640), ("half", 33, 34, 0o600), ("setuid", 33, 33, 0o4755)];
    let compared = Compared::of(&f.path(""), &recorded);
    assert_eq!(compared.differing[0].to_string(), "`file`: mode 0600 instead of 0640 owner 0:0 instead of 33:33");
    // Killed between the two calls.
    chown(f.path("half"), Some(33), Some(34)).unwrap();
    let (id, given) = f.apply(&compared).await;
    assert_eq!(given.unwrap(), (3, vec![]));
    let all = || ["file", "half", "setuid"].map(|path| (f.owner(path), f.mode(path)));
    assert_eq!(all(), [((33, 33), 0o640), ((33, 34), 0o600), ((33, 33), 0o755)]);
    assert!(compared.remarks()[0].starts_with("`setuid` setuid or setgid is left out"), "{compared:?}");
    chown(f.path("file"), Some(12), None).unwrap();
    f.undo(id, &compared).await;
    assert_eq!(all(), [((12, 33), 0o640), ((0, 0), 0o644), ((0, 0), 0o755)]);
}

#[tokio::test]
async fn something_that_changes_an_entry_again_is_no_success() {
    let f = Fixture::new(&[("a", 0o666)]);
    let compared = f.compared(&[("a", 0o600)]);
    let given = change(&compared.place, &compared.differing, Way::There).unwrap();
    f.chmod("a", 0o666);
    let error = prove(&compared.place, &compared.differing, &given).unwrap_err();
    assert!(error.kind() == ErrorKind::Conflict && error.message().contains("`a`"), "{error}");
}

#[test]
fn paths_come_back_as_they_are_and_secrets_in_them_do_no_harm() {
    let f = Fixture::new(&[("a", 0o666)]);
    let mut one = f.compared(&[("a", 0o600)]).differing.remove(0);
    for bytes in [&b"a/\xff\n"[..], b"[redacted]", b""] {
        one.path = if bytes.is_empty() { TreePath::root() } else { TreePath::new(bytes).unwrap() };
        let text = serde_json::to_value(&one).unwrap();
        assert_eq!(text["path"], hex::encode(bytes));
        assert_eq!(serde_json::from_value::<Difference>(text).unwrap(), one);
    }
    for bad in ["[redacted]", "2e2e", "2f65"] {
        let mut value = serde_json::to_value(&one).unwrap();
        value["path"] = bad.into();
        assert!(serde_json::from_value::<Difference>(value).is_err(), "{bad}");
    }
}

#[test]
fn more_than_can_be_undone_is_refused() {
    let f = Fixture::new(&[("a", 0o666)]);
    let mut entries = 0..MOST + 2;
    let (uid, gid) = f.owner("a");
    let (differing, unlisted) = compare(&Root::open(&f.path("")).unwrap(), || {
        Ok(entries.next().map(|_| Entry {
            path: TreePath::new("a").unwrap(),
            kind: Kind::File { size: 0, extents: None },
            attributes: Attributes { uid, gid, mode: 0o600, ..Attributes::default() },
        }))
    })
    .unwrap();
    assert_eq!((differing.len(), unlisted), (MOST, 2));
    let place = Located { mount: f.path(""), below: PathBuf::new() };
    let error = Compared { place, backup: "b".into(), differing, unlisted }.check("app").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("restore --component app"), "{error}");
}
