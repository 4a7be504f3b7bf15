//! What GNU tar makes of our archives, and we of its. Other archivers are tried in the workspace's `tests`.

use std::process::Command;

use super::*;

fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // It finds times before 1970 odd, and sets them.
    let is_quiet = said.lines().all(|line| line.contains("implausibly old"));
    assert!(output.status.success() && is_quiet, "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn gnu_tar_unpacks_all_parts_together_to_the_same_tree() {
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    std::fs::create_dir(&source).unwrap();
    std::fs::create_dir(&target).unwrap();
    one_of_everything(&source);
    let whole: Vec<u8> = pack_tree(&source).into_iter().flat_map(|(_, tar)| tar).collect();
    let file = folder.path().join("whole.tar");
    std::fs::write(&file, &whole).unwrap();
    // Without `-P` it makes links that lead upwards last, and their folders get the time of that.
    run(Command::new("tar").args(["-P", "--numeric-owner", "-xpf"]).arg(&file).arg("-C").arg(&target));
    let (want, mut found) = (look(&source), look(&target));
    if !rustix::process::geteuid().is_root() {
        found.values_mut().for_each(|f| f.owner = want[&b""[..]].owner);
    }
    assert_same(&want, &found);
}

#[test]
fn gnu_tar_lists_every_part_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    one_of_everything(folder.path());
    let archive = tempfile::NamedTempFile::new().unwrap();
    for (role, tar) in pack_tree(folder.path()) {
        std::fs::write(archive.path(), &tar).unwrap();
        let listed = run(Command::new("tar").args(["--quoting-style=escape", "-tf"]).arg(archive.path()));
        let (mut ours, mut entries) = (reader(&tar, Dialect::Ours), 0);
        while ours.next_entry().unwrap().is_some() {
            entries += 1;
        }
        assert_eq!(listed.lines().count(), entries, "{role:?}");
    }
}

#[test]
fn archives_of_gnu_tar_are_understood_in_its_formats() {
    let folder = tempfile::tempdir().unwrap();
    one_of_everything(folder.path());
    std::fs::remove_file(folder.path().join("empty")).unwrap();
    let want: Vec<Vec<u8>> = look(folder.path()).into_keys().collect();
    for format in ["gnu", "pax", "ustar"] {
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).args(["--numeric-owner", "-cf", "-", "-C"]).arg(folder.path());
        if format == "ustar" {
            // Cannot hold the longest names.
            command.args(["--exclude=nnn*", "--exclude=ddd*", "--exclude=long-target"]);
        }
        let output = command.arg(".").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut reader = reader(&output.stdout, Dialect::Foreign);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            found.push(entry.path.as_bytes().to_vec());
        }
        found.sort();
        if format != "ustar" {
            assert_eq!(found, want, "{format}");
        }
    }
}

#[test]
fn holes_of_gnu_tar_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("holes")).unwrap();
    file.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 4 << 20).unwrap();
    let output = Command::new("tar")
        .args(["--format=pax", "--sparse", "-cf", "-", "-C"])
        .arg(folder.path())
        .arg("holes")
        .output()
        .unwrap();
    let mut reader = reader(&output.stdout, Dialect::Foreign);
    let entry = reader.next_entry().unwrap().unwrap();
    let Kind::File { size, extents: Some(extents) } = entry.kind else { panic!("{entry:?}") };
    assert_eq!(size, 8 << 20);
    assert_eq!(extents[0].offset, 4 << 20);
    assert_eq!(entry.path.display(), "holes");
}
