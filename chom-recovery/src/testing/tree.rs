//! Trees of files for tests: what is in each.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Path within the tree to content.
pub type Tree = BTreeMap<String, String>;

/// Makes a tree of what is said.
pub fn tree(entries: &[(&str, &str)]) -> Tree {
    entries.iter().map(|(path, text)| ((*path).into(), (*text).into())).collect()
}

/// Reads every file below a folder; links are not followed.
///
/// # Errors
/// Those of reading.
pub fn read(folder: &Path) -> io::Result<Tree> {
    let mut found = Tree::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            let path = entry.path();
            match entry.file_type()? {
                kind if kind.is_dir() => waiting.push(path),
                kind if kind.is_file() => {
                    let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                    found.insert(name, String::from_utf8_lossy(&fs::read(&path)?).into_owned());
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Writes files below a folder; others stay.
///
/// # Errors
/// Those of writing.
pub fn write(folder: &Path, tree: &Tree) -> io::Result<()> {
    for (name, text) in tree {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// Lists what lies beside a folder.
///
/// # Errors
/// Those of reading.
pub fn beside(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let above = folder.parent().unwrap_or(folder);
    let found: io::Result<Vec<PathBuf>> = fs::read_dir(above)?.map(|entry| Ok(entry?.path())).collect();
    Ok(found?.into_iter().filter(|path| path != folder).collect())
}
