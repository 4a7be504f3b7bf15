//! The guide to faults names tests; all of them exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

#[test]
fn every_test_that_the_guide_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("chom-recovery/src/docs/faults.md")).unwrap();
    let mut sources = String::new();
    for folder in ["chom-recovery", "chom-recovery-cli", "chom-recovery-py", "tests"] {
        for file in files(&root.join(folder)) {
            sources.push_str(&fs::read_to_string(file).unwrap());
        }
    }
    // Rust's tests have names of several words, Python's begin with `test_`.
    let words = guide.split('`').skip(1).step_by(2);
    let named: BTreeSet<_> = words.filter(|w| w.matches('_').count() >= 2 && w.chars().all(is_of_name)).collect();
    assert!(named.len() > 60, "{named:?}");
    let defined = |name: &str| ["fn ", "def "].iter().any(|word| sources.contains(&format!("{word}{name}(")));
    let missing: Vec<_> = named.into_iter().filter(|name| !defined(name)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "the guide names tests that are not there");
}

#[test]
fn the_configuration_in_the_readme_is_one() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let blocks: Vec<_> = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 3, "{blocks:?}");
    let system = chom_recovery::System::parse(&blocks.join("\n")).unwrap();
    assert_eq!(system.components.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["uploads", "redis", "config"]);
}

fn is_of_name(c: char) -> bool {
    c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                found.extend(files(&path));
            }
        } else if path.extension().is_some_and(|e| e == "rs" || e == "py") {
            found.push(path);
        }
    }
    found
}
