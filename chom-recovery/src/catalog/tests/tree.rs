//! File trees stored and restored.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::*;
use crate::{
    catalog::tree::{self, KnownParts, RestoreOptions, StoreOptions, Stored},
    files::{Root, Rules, unpack::Policy, walk::TroubleKind},
};

fn sample(root: &Path) {
    for folder in ["app/Http", "storage/logs", "public", "empty"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::write(root.join("app/Http/Kernel.php"), "<?php // kernel\n".repeat(500)).unwrap();
    std::fs::write(root.join(".env"), "APP_KEY=base64:AAAA\n").unwrap();
    std::fs::set_permissions(root.join(".env"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::hard_link(root.join(".env"), root.join("env-linked")).unwrap();
    std::os::unix::fs::symlink("../storage/app/public", root.join("public/storage")).unwrap();
    for i in 0..2000 {
        std::fs::write(root.join(format!("storage/logs/{i}.log")), format!("line {i}\n").repeat(i % 50)).unwrap();
    }
    std::fs::write(root.join("large.bin"), noise(70 << 20, 1)).unwrap();
}

fn policy() -> Policy {
    Policy { own_everything: !rustix::process::geteuid().is_root(), keep_setid: false }
}

fn options() -> RestoreOptions {
    RestoreOptions::new(policy(), 0)
}

fn quiet() -> tree::OnProgress {
    Arc::new(|_, _| {})
}

/// Everything that `find` tells of a tree.
fn list(root: &Path) -> String {
    let mut find = std::process::Command::new("find");
    let output = find.arg(".").args(["-printf", "%p %y %m %U %G %s %T@ %l %n\n"]).current_dir(root).output().unwrap();
    assert!(output.status.success());
    let mut lines: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        // The size of a folder and its number of names are the filesystem's affair.
        .map(
            |line| if line.contains(" d ") { line.rsplitn(4, ' ').nth(3).unwrap().to_owned() } else { line.to_owned() },
        )
        .collect();
    lines.sort();
    lines.join("\n")
}

impl World {
    async fn store(&self, source: &Path, rules: Rules) -> (BackupReader, Stored) {
        let (reader, stored, _) = self.store_with(source, StoreOptions::new(rules)).await;
        (reader, stored)
    }

    async fn store_with(&self, source: &Path, options: StoreOptions) -> (BackupReader, Stored, KnownParts) {
        let mut writer = self.begin().await;
        let component = writer.component(ComponentSpec::new("app", ComponentKind::Files).unwrap().level(1)).unwrap();
        let root = Root::open(source).unwrap();
        let (stored, known) = tree::store_tree(&component, &root, &options, quiet()).await.unwrap();
        let info = writer.finish(self.facts()).await.unwrap();
        (BackupReader::open(&self.repository, info.place).await.unwrap(), stored, known)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_restored_as_it_was() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    sample(&source);
    let (reader, stored) = world.store(&source, Rules::none()).await;
    assert!(stored.troubles.list.is_empty(), "{:?}", stored.troubles);
    assert!(verify(&reader, Level::L2, &silent()).await.unwrap().passed());
    let component = reader.component("app").await.unwrap();
    assert_eq!(tree::read_troubles(&component).await.unwrap(), stored.troubles);
    let (unpacked, path) = tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap();
    assert_eq!(path, target);
    assert_eq!((unpacked.entries(), unpacked.bytes), (stored.entries, stored.bytes));
    assert_eq!((unpacked.hard_links, unpacked.symlinks, unpacked.outward_links), (1, 1, 0));
    assert_eq!(list(&source), list(&target));
    assert_eq!(std::fs::read(source.join("large.bin")).unwrap(), std::fs::read(target.join("large.bin")).unwrap());

    // And the parts together are one tar.
    let whole = stream::collect(tree::read_tar(&component).unwrap(), 1 << 30).await.unwrap();
    std::fs::write(folder.path().join("whole.tar"), whole).unwrap();
    std::fs::create_dir(folder.path().join("by-hand")).unwrap();
    let by_hand = folder.path().join("by-hand");
    let tar = std::process::Command::new("tar").args(["-xpf", "../whole.tar"]).current_dir(&by_hand).status().unwrap();
    assert!(tar.success());
    assert_eq!(list(&source), list(&by_hand));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_is_a_tree_too() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::set_permissions(&source, PermissionsExt::from_mode(0o2750)).unwrap();
    let (reader, _) = world.store(&source, Rules::none()).await;
    let component = reader.component("app").await.unwrap();
    let target = folder.path().join("target");
    tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap();
    assert_eq!(list(&source), list(&target));
}

#[tokio::test(flavor = "multi_thread")]
async fn excluded_is_what_the_rules_say() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let source = folder.path().join("source");
    sample(&source);
    let rules = Rules::new(&["/.env", "/app/"], &["*.bak"]).unwrap();
    std::fs::write(source.join("app/x.bak"), "old").unwrap();
    let (reader, _) = world.store(&source, rules).await;
    let target = folder.path().join("target");
    let component = reader.component("app").await.unwrap();
    tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap();
    let mut found: Vec<String> = list(&target).lines().map(|l| l.split(' ').next().unwrap().to_owned()).collect();
    found.sort();
    assert_eq!(found, [".", "./.env", "./app", "./app/Http", "./app/Http/Kernel.php"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_over_anything() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), "new").unwrap();
    let (reader, _) = world.store(&source, Rules::none()).await;
    let component = reader.component("app").await.unwrap();
    for name in ["file", "folder", "link"] {
        let target = folder.path().join(name);
        match name {
            "file" => std::fs::write(&target, "live").unwrap(),
            "folder" => std::fs::create_dir(&target).unwrap(),
            _ => std::os::unix::fs::symlink("nowhere", &target).unwrap(),
        }
        let error = tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{name}");
    }
    let no_room = RestoreOptions { keep_free: u64::MAX / 2, ..options() };
    let error = tree::restore_tree(&component, &folder.path().join("x"), &no_room, quiet()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let error = tree::restore_tree(&component, &folder.path().join("no/x"), &options(), quiet()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["file", "folder", "link", "source"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_damaged_backup_nothing_is_left_at_the_target() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    sample(&source);
    let (reader, _) = world.store(&source, Rules::none()).await;
    let component = reader.component("app").await.unwrap();
    for part in component.parts().iter().filter(|p| p.meta.what != "troubles") {
        let key = reader.place().part(component.name(), part.index);
        let good = world.object(&key).await;
        let mut bad = good.to_vec();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        world.replace(&key, bad).await;
        let error = tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "part {}: {error}", part.index);
        world.replace(&key, good).await;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "part {}", part.index);
    }
    tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_that_is_no_tree_is_refused() {
    let world = World::new().await;
    let info = world.backup(&["1\tann\n"]).await;
    let reader = BackupReader::open(&world.repository, info.place).await.unwrap();
    let component = reader.component("database").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = tree::restore_tree(&component, &folder.path().join("x"), &options(), quiet()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Corrupt), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_listed_in_the_backup() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("php.sock")).unwrap();
    let (reader, stored) = world.store(folder.path(), Rules::none()).await;
    let told = tree::read_troubles(&reader.component("app").await.unwrap()).await.unwrap();
    assert_eq!(told, stored.troubles);
    assert_eq!((told.list[0].kind, told.list[0].path.as_str()), (TroubleKind::Skipped, "php.sock"));
}

/// Gives every file below a folder a time at which it rested.
fn age(root: &Path) {
    let status =
        std::process::Command::new("find").arg(root).args(["-exec", "touch", "-hd", "2020-01-01", "{}", "+"]).status();
    assert!(status.unwrap().success());
}

/// Waits until changes of now lie behind what a walk takes for settled.
fn settle(root: &Path) {
    age(root);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let changed = || {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(root).unwrap().ctime()
    };
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    while now() <= u64::try_from(changed()).unwrap() + 3 {
        assert!(std::time::Instant::now() < end, "the clocks disagree");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_is_not_stored_twice() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let source = folder.path().join("source");
    sample(&source);
    settle(&source);
    let (first, stored, known) = world.store_with(&source, StoreOptions::new(Rules::none())).await;
    assert_eq!(stored.reused_bytes, 0);

    let file = folder.path().join("state/known");
    known.save(&file).unwrap();
    let known = KnownParts::load(&file).unwrap();
    world.pass(60);
    std::fs::write(source.join("app/new.php"), "<?php").unwrap();
    let again = StoreOptions::new(Rules::none()).known(Some(known));
    let (second, stored, known) = world.store_with(&source, again).await;
    assert!(stored.reused_bytes > 70 << 20, "{stored:?}");
    let record = second.manifest().component("app").unwrap().clone();
    assert!(record.own_len < 10 << 20 && record.sources.contains(&first.manifest().id), "{record:?}");

    // A third refers to where the bytes are, not to the second.
    world.pass(60);
    let again = StoreOptions::new(Rules::none()).known(Some(known));
    let (third, stored, _) = world.store_with(&source, again).await;
    assert!(stored.reused_bytes > 70 << 20);
    assert!(third.manifest().component("app").unwrap().sources.contains(&first.manifest().id));
    let target = folder.path().join("target");
    tree::restore_tree(&third.component("app").await.unwrap(), &target, &options(), quiet()).await.unwrap();
    assert_eq!(list(&source), list(&target));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_within_the_second_is_stored_again() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a"), "1").unwrap();
    let (.., known) = world.store_with(&source, StoreOptions::new(Rules::none())).await;
    world.pass(60);
    std::fs::write(source.join("a"), "2").unwrap();
    let again = StoreOptions::new(Rules::none()).known(Some(known));
    let (second, stored, _) = world.store_with(&source, again).await;
    assert_eq!(stored.reused_bytes, 0);
    let target = folder.path().join("target");
    tree::restore_tree(&second.component("app").await.unwrap(), &target, &options(), quiet()).await.unwrap();
    assert_eq!(std::fs::read_to_string(target.join("a")).unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_backup_that_is_gone_is_stored_anew() {
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let source = folder.path().join("source");
    sample(&source);
    settle(&source);
    let (first, _, known) = world.store_with(&source, StoreOptions::new(Rules::none())).await;
    world.store.delete(&first.place().manifest()).await.unwrap();
    world.pass(60);
    let again = StoreOptions::new(Rules::none()).known(Some(known));
    let (second, stored, _) = world.store_with(&source, again).await;
    assert_eq!(stored.reused_bytes, 0);
    assert!(second.manifest().sources().is_empty());
}

#[test]
fn a_damaged_list_of_known_parts_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("known");
    assert!(KnownParts::load(&file).is_none());
    std::fs::write(&file, "garbage").unwrap();
    assert!(KnownParts::load(&file).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_tree_is_proven_the_same_until_anything_in_it_changes() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (world, folder) = (World::new().await, tempfile::tempdir().unwrap());
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    sample(&source);
    let (reader, stored) = world.store(&source, Rules::none()).await;
    let component = reader.component("app").await.unwrap();
    tree::restore_tree(&component, &target, &options(), quiet()).await.unwrap();
    let prove = async || tree::prove_same(&component, &Root::open(&target).unwrap(), quiet()).await;
    let proven = prove().await.unwrap();
    assert_eq!((proven.entries, proven.bytes), (stored.entries, stored.bytes));

    let refused = async |what: &str| {
        let error = prove().await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        error.to_string()
    };
    let at = |name: &str| target.join(name);
    let times = |name: &str| {
        let stat = std::fs::metadata(target.join(name)).unwrap();
        std::fs::FileTimes::new().set_modified(stat.modified().unwrap())
    };
    // One byte in the middle of a large file, of the same size and time.
    let before = times("large.bin");
    let file = std::fs::File::options().read(true).write(true).open(at("large.bin")).unwrap();
    let flip = || {
        use std::os::unix::fs::FileExt;
        let mut byte = [0];
        file.read_exact_at(&mut byte, 66 << 20).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 66 << 20).unwrap();
        file.set_times(before).unwrap();
    };
    flip();
    assert!(refused("a flipped bit").await.contains("(piece) differs"));
    flip();
    prove().await.unwrap();
    // The mode of a file, and of the root folder itself.
    for (name, other) in [(".env", 0o644), ("", 0o750)] {
        let was = std::fs::metadata(at(name)).unwrap().permissions();
        std::fs::set_permissions(at(name), PermissionsExt::from_mode(other)).unwrap();
        refused(name).await;
        std::fs::set_permissions(at(name), was).unwrap();
        prove().await.unwrap();
    }
    // An owner.
    std::os::unix::fs::chown(at("storage"), Some(12), None).unwrap();
    refused("another owner").await;
    std::os::unix::fs::chown(at("storage"), Some(0), None).unwrap();
    prove().await.unwrap();
    // Something more, and something less: the times of the folders are put back.
    let (of_root, of_empty) = (times(""), times("empty"));
    let restore_times = || {
        std::fs::File::open(at("")).unwrap().set_times(of_root).unwrap();
        std::fs::File::open(at("empty")).unwrap().set_times(of_empty).unwrap();
    };
    std::fs::write(at("empty/more"), "").unwrap();
    restore_times();
    refused("one more file").await;
    std::fs::remove_file(at("empty/more")).unwrap();
    std::fs::remove_file(at("large.bin")).unwrap();
    restore_times();
    refused("one file less").await;
}
