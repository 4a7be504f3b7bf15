//! Single tables of the simulated database, restored on its running server.
//!
//! A schema is a folder of the volume, a table a file in it; production's own tables are where [`Data`] has them. What a
//! server renames in one statement is written down first and then done: who finds it written down goes on with it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::database::{Data, SCHEMA, SimDatabase, change, checksum, files, of_repository, put, put_called, rows, text};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        Setting, Text, Trigger,
        tables::{Asked, Checked, Look, Orphans, Place, Placed, Present, TableName},
    },
    procedure::{
        database::{Source, ops::Progress},
        tables::ops::{Loaded, TableOps},
    },
};

const RENAMES: &str = "renames";
const LOCAL_INFILE: &str = "local_infile";

/// Tells whether the server in a volume's folder takes rows from clients.
///
/// # Errors
/// Those of reading files.
pub fn local_infile(folder: &Path) -> io::Result<bool> {
    Ok(text(&folder.join(LOCAL_INFILE))?.as_deref() == Some("ON"))
}

/// Lists the schemas of runs in a volume's folder, and their tables.
///
/// # Errors
/// Those of reading files.
pub fn own_schemas(folder: &Path) -> io::Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut found = BTreeMap::new();
    let entries = match fs::read_dir(folder.join("schemas")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let tables = files(&entry.path())?;
        if !tables.is_empty() {
            found.insert(entry.file_name().to_string_lossy().into_owned(), tables);
        }
    }
    Ok(found)
}

/// Gives a table a trigger.
///
/// # Errors
/// Those of writing files.
pub fn add_trigger(folder: &Path, table: &str, body: &str) -> io::Result<()> {
    put(folder, &format!("triggers/{table}"), body)
}

/// Lists triggers by their table.
///
/// # Errors
/// Those of reading files.
pub fn triggers(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    files(&folder.join("triggers"))
}

#[derive(Debug, Serialize, Deserialize)]
struct Rename {
    from: String,
    to: String,
}

/// Goes on with a renaming that was begun, as a server does when it starts.
///
/// # Errors
/// Those of moving files.
pub fn finish_renames(folder: &Path) -> io::Result<()> {
    let Some(list) = text(&folder.join(RENAMES))? else { return Ok(()) };
    let list: Vec<Rename> = serde_json::from_str(&list)?;
    for one in &list {
        let (from, to) = (folder.join(&one.from), folder.join(&one.to));
        // Each name is left before another table takes it.
        if from.exists() && !to.exists() {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            change(&format!("rename to {}", kind(&one.to)), || fs::rename(&from, &to))?;
        }
    }
    change("end of renames", || fs::remove_file(folder.join(RENAMES)))
}

/// The part of a file's name that is the same in every run.
fn kind(file: &str) -> &str {
    ["chom_new", "chom_kept", "chom_undone"].into_iter().find(|kind| file.contains(kind)).unwrap_or("production")
}

fn file_of(table: &TableName) -> String {
    if table.schema == SCHEMA {
        format!("tables/{}", table.name)
    } else {
        format!("schemas/{}/{}", table.schema, table.name)
    }
}

fn has(folder: &Path, table: &TableName) -> bool {
    folder.join(file_of(table)).exists()
}

fn place(folder: &Path, places: &[Placed]) -> Place {
    let mut found = Vec::new();
    for place in places {
        let here = [&place.target, &place.fresh, &place.kept, &place.undone].map(|t| has(folder, t));
        let was_there = place.present.is_some();
        found.push(match here {
            [target, true, false, false] if target == was_there => Place::Before,
            [true, false, kept, false] if kept == was_there => Place::After,
            [target, false, false, true] if target == was_there => Place::Undone,
            _ => Place::Elsewhere(format!("`{}`: {here:?}", place.target)),
        });
    }
    found.dedup();
    if found.len() == 1 { found.remove(0) } else { Place::Elsewhere(format!("{found:?}")) }
}

fn rename(folder: &Path, renames: &[(&TableName, &TableName)]) -> Result<()> {
    let list: Vec<_> = renames.iter().map(|(from, to)| Rename { from: file_of(from), to: file_of(to) }).collect();
    put(folder, RENAMES, &serde_json::to_string(&list).map_err(io::Error::from)?)?;
    Ok(finish_renames(folder)?)
}

fn remove(folder: &Path, name: &str, what: &str) -> io::Result<()> {
    if folder.join(name).exists() { change(what, || fs::remove_file(folder.join(name))) } else { Ok(()) }
}

fn drop_triggers(folder: &Path, places: &[Placed]) -> Result<()> {
    for place in places {
        remove(folder, &format!("triggers/{}", place.target.name), "drop of a trigger")?;
    }
    Ok(())
}

fn make_triggers(folder: &Path, places: &[Placed]) -> Result<()> {
    for place in places {
        for trigger in &place.triggers {
            put(folder, &format!("triggers/{}", place.target.name), &trigger.create.lossy())?;
        }
    }
    Ok(())
}

fn discard(folder: &Path, places: &[Placed]) -> Result<()> {
    for place in places {
        remove(folder, &file_of(&place.fresh), "drop of a new table")?;
    }
    Ok(())
}

impl SimDatabase {
    /// The folder of a server that has ended what it had begun.
    async fn settled(&self, container: &str) -> Result<PathBuf> {
        let folder = self.served(container).await?;
        finish_renames(&folder)?;
        Ok(folder)
    }
}

#[async_trait]
impl TableOps for SimDatabase {
    async fn look(&self, container: &str, backup: &Source, asked: &Asked, run: &str) -> Result<Look> {
        let folder = self.settled(container).await?;
        let (held, here) = (Self::content(of_repository(backup)?).await?, Data::read(&folder)?);
        let (run, fires) = (run.to_lowercase(), triggers(&folder)?);
        let mut tables = Vec::new();
        for source in &asked.tables {
            let rows_held = held
                .tables
                .get(&source.name)
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("the backup has no table `{source}`")))?;
            let own = |prefix: &str| TableName::new(format!("{prefix}{run}"), source.name.as_str());
            let present = here.tables.get(&source.name);
            let trigger = fires.get(&source.name).map(|body| Trigger {
                schema: SCHEMA.into(),
                name: format!("of_{}", source.name),
                table: source.name.clone(),
                moment: String::new(),
                create: Text::new(body.as_bytes()),
                setting: Setting::default(),
            });
            tables.push(Placed {
                source: source.clone(),
                target: source.clone(),
                fresh: own("chom_new_"),
                kept: own("chom_kept_"),
                undone: own("chom_undone_"),
                present: present.map(|text| Present { rows: rows(text), bytes: text.len() as u64, written: None }),
                rows: rows(rows_held),
                bytes: rows_held.len() as u64,
                row_hash: None,
                next_id: None,
                definition: None,
                triggers: trigger.into_iter().collect(),
                keys: Vec::new(),
                old_keys: Vec::new(),
                children: Vec::new(),
            });
        }
        let local_infile = local_infile(&folder)?;
        Ok(Look { tables, local_infile, binary_log: true, locks: true, notes: Vec::new() })
    }

    async fn load(
        &self,
        container: &str,
        backup: &Source,
        places: &[Placed],
        switch_local_infile_on: bool,
        progress: Progress,
    ) -> Result<Loaded> {
        let folder = self.settled(container).await?;
        let held = Self::content(of_repository(backup)?).await?;
        if switch_local_infile_on {
            put(&folder, LOCAL_INFILE, "ON")?;
        } else if !local_infile(&folder)? {
            return Err(Error::new(ErrorKind::Precondition, "the server takes no rows from clients"));
        }
        discard(&folder, places)?;
        let mut loaded = Loaded::default();
        for place in places {
            let text = held.tables.get(&place.source.name).cloned().unwrap_or_default();
            let (first, _) = text.split_at(text.find('\n').map_or(0, |at| at + 1));
            put_called(&folder, &file_of(&place.fresh), first, "first rows")?;
            put_called(&folder, &file_of(&place.fresh), &text, "all rows")?;
            loaded.rows += rows(&text);
            loaded.bytes += text.len() as u64;
            progress(loaded.bytes, None);
        }
        if switch_local_infile_on {
            put(&folder, LOCAL_INFILE, "OFF")?;
        }
        Ok(loaded)
    }

    async fn verify(&self, container: &str, backup: &Source, places: &[Placed]) -> Result<Checked> {
        let folder = self.settled(container).await?;
        let baselines = &of_repository(backup)?.private().await?.baselines;
        let mut checked = Checked::default();
        for place in places {
            let here = text(&folder.join(file_of(&place.fresh)))?.unwrap_or_default();
            let promised = baselines.tables.iter().find(|t| t.table == place.source.name);
            if promised.and_then(|t| t.checksum.clone()) != Some(checksum(&here)) {
                return Err(Error::new(ErrorKind::Corrupt, format!("`{}` differs from its backup", place.source)));
            }
            checked.tables += 1;
            checked.rows += rows(&here);
        }
        Ok(checked)
    }

    async fn discard(&self, container: &str, places: &[Placed], switch_local_infile_off: bool) -> Result<()> {
        let folder = self.settled(container).await?;
        if switch_local_infile_off {
            put(&folder, LOCAL_INFILE, "OFF")?;
        }
        discard(&folder, places)
    }

    async fn place(&self, container: &str, places: &[Placed]) -> Result<Place> {
        Ok(place(&self.settled(container).await?, places))
    }

    async fn swap(&self, container: &str, places: &[Placed]) -> Result<()> {
        let folder = self.settled(container).await?;
        match place(&folder, places) {
            Place::Before => {
                drop_triggers(&folder, places)?;
                let mut renames = Vec::new();
                for place in places {
                    renames.extend(place.present.is_some().then_some((&place.target, &place.kept)));
                    renames.push((&place.fresh, &place.target));
                }
                rename(&folder, &renames)?;
            }
            Place::After => {}
            other => return Err(Error::new(ErrorKind::Conflict, format!("{other:?}"))),
        }
        make_triggers(&folder, places)
    }

    async fn take_back(&self, container: &str, places: &[Placed]) -> Result<()> {
        let folder = self.settled(container).await?;
        match place(&folder, places) {
            Place::Before | Place::Undone => {}
            Place::After => {
                drop_triggers(&folder, places)?;
                let mut renames = Vec::new();
                for place in places {
                    renames.push((&place.target, &place.undone));
                    renames.extend(place.present.is_some().then_some((&place.kept, &place.target)));
                }
                rename(&folder, &renames)?;
            }
            Place::Elsewhere(what) => return Err(Error::new(ErrorKind::Conflict, what)),
        }
        let present: Vec<_> = places.iter().filter(|p| p.present.is_some()).cloned().collect();
        make_triggers(&folder, &present)
    }

    async fn orphans(&self, _container: &str, _places: &[Placed]) -> Result<Vec<Orphans>> {
        Ok(Vec::new())
    }
}
