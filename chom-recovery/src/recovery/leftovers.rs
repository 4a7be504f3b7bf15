//! What finished runs left behind: old volumes, containers, folders, schemas, journals.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Recovery, kept_schemas::LeftoverSchema};
use crate::{
    backend::{Container, Labels, MountSource, ROLE_LABEL, RUN_LABEL},
    error::{Error, ErrorKind, Result},
    procedure::{database::mysql_ops::KEPT_ROLE, files, tables},
    run::{RunId, SystemClock, summary},
};

/// What may be removed, and what is kept although it looks old.
///
/// Only what carries the label of a run of this system that is over since long enough; nothing that a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftovers {
    /// Only runs that are over for longer than this, in seconds.
    pub older_than_s: u64,
    /// Volumes, with what they hold.
    pub volumes: Vec<LeftoverVolume>,
    /// Containers.
    pub containers: Vec<LeftoverContainer>,
    /// Folders of this host, with what was there before files were put in their place.
    #[serde(default)]
    pub folders: Vec<LeftoverFolder>,
    /// Schemas on the running database, with what tables were there before single ones were restored.
    #[serde(default)]
    pub schemas: Vec<LeftoverSchema>,
    /// Runs whose journals and evidence are removed once nothing else of theirs is left.
    pub runs: Vec<RunId>,
    /// What stays.
    pub kept: Vec<Kept>,
}

impl Leftovers {
    /// Tells whether there is nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.volumes.is_empty()
            && self.containers.is_empty()
            && self.folders.is_empty()
            && self.schemas.is_empty()
            && self.runs.is_empty()
    }

    /// Adds up the sizes of the volumes, in bytes.
    pub fn bytes(&self) -> u64 {
        self.volumes.iter().filter_map(|v| v.bytes).sum()
    }
}

/// A volume of a finished run: mostly what production had before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverVolume {
    /// Full name.
    pub volume: String,
    /// Run that made it.
    pub run: RunId,
    /// Bytes allocated; `None`: it could not be measured.
    pub bytes: Option<u64>,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

/// A container of a finished run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverContainer {
    /// Name.
    pub container: String,
    /// Run that made it.
    pub run: RunId,
    /// What it was for.
    pub role: String,
}

/// A folder of a finished run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftoverFolder {
    /// Path on this host.
    pub folder: PathBuf,
    /// Run that made it.
    pub run: RunId,
}

/// Something of ours that is not removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Volume, container or run.
    pub what: String,
    /// Why.
    pub because: String,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Volumes.
    pub volumes: Vec<String>,
    /// Containers.
    pub containers: Vec<String>,
    /// Folders.
    #[serde(default)]
    pub folders: Vec<PathBuf>,
    /// Schemas.
    #[serde(default)]
    pub schemas: Vec<String>,
    /// Runs.
    pub runs: Vec<RunId>,
    /// Bytes that the volumes held.
    pub bytes: u64,
    /// What was asked for and is still there.
    pub kept: Vec<Kept>,
}

impl Recovery {
    /// Lists what runs that are over for longer than `older_than` left behind. Removes nothing.
    pub async fn leftovers(&self, older_than: Duration) -> Result<Leftovers> {
        let (known, unreadable) = self.runs()?;
        let now = Utc::now();
        let mut kept: Vec<Kept> = unreadable
            .iter()
            .map(|(run, e)| Kept { what: format!("run {run}"), because: format!("its journal cannot be read: {e}") })
            .collect();
        let mut old = BTreeMap::new();
        for run in &known {
            let is_old = (now - run.last).to_std().is_ok_and(|age| age > older_than);
            let verdict = match (run.is_over, is_old) {
                (false, _) => Err("its run is not over"),
                (true, false) => Err("its run ended not long enough ago"),
                (true, true) => Ok(run.run),
            };
            old.insert(run.run.to_string(), verdict);
        }
        let judge = |labels: &Labels| match labels.get(RUN_LABEL).and_then(|run| old.get(run)) {
            Some(verdict) => *verdict,
            None => Err("its run is not known on this host"),
        };
        // What belongs to other systems on the same Engine is not spoken of.
        let project = self.backend.project();
        let of_project = [
            format!("{project}_"),
            format!("{project}-candidate-"),
            format!("{project}-drill-"),
            format!("{project}-salvage-"),
            format!("{project}-code-test-"),
            format!("{project}-nginx-test-"),
            format!("{project}-recovery-lock"),
        ];
        let is_ours = |labels: &Labels, name: &str| {
            let is_known = labels.get(RUN_LABEL).is_some_and(|run| old.contains_key(run));
            is_known || of_project.iter().any(|prefix| name.starts_with(prefix))
        };
        let mut own = self.backend.own_containers().await?;
        own.retain(|c| is_ours(&c.labels, &c.name));
        let containers = leftover_containers(&own, judge, &mut kept);
        let mut volumes = Vec::new();
        let users = self.users_of_volumes(&own, &containers).await?;
        let mut labelled = self.backend.volumes().await?;
        labelled.retain(|v| v.labels.contains_key(RUN_LABEL) && is_ours(&v.labels, &v.name));
        for volume in labelled {
            let verdict = match users.get(&volume.name) {
                Some(user) => Err(format!("container `{user}` uses it")),
                None if self.system.database.keep_warm && is_kept_copy(&volume.labels) => {
                    Err("it is a physical backup, kept unpacked (`database.keep_warm`)".into())
                }
                None => judge(&volume.labels).map_err(str::to_owned),
            };
            match verdict {
                Ok(run) => {
                    let bytes = self.backend.measure_volume(&volume.name).await.ok().map(|content| content.bytes);
                    volumes.push(LeftoverVolume { volume: volume.name, run, bytes, created_at: volume.created_at });
                }
                Err(because) => kept.push(Kept { what: format!("volume `{}`", volume.name), because }),
            }
        }
        let mut runs: Vec<RunId> = old.values().filter_map(|verdict| verdict.ok()).collect();
        let mut schemas = Vec::new();
        match self.own_schemas(&known).await {
            Ok(found) => {
                for one in found {
                    match old.get(&one.run).copied().unwrap_or(Err("its run is not known on this host")) {
                        Ok(run) => schemas.push(LeftoverSchema {
                            schema: one.schema,
                            run,
                            tables: one.tables,
                            bytes: one.bytes,
                        }),
                        Err(because) => {
                            kept.push(Kept { what: format!("schema `{}`", one.schema), because: because.into() });
                        }
                    }
                }
            }
            Err(error) => {
                // What they keep cannot be told without their journals.
                let of_tables =
                    known.iter().filter(|run| run.procedure == tables::PROCEDURE && runs.contains(&run.run));
                let of_tables: Vec<_> = of_tables.map(|run| run.run).collect();
                runs.retain(|run| !of_tables.contains(run));
                let because = format!("the database cannot be asked for the schemas that it keeps: {error}");
                kept.extend(of_tables.iter().map(|run| Kept { what: format!("run {run}"), because: because.clone() }));
            }
        }
        let of_old = known.iter().filter(|run| runs.contains(&run.run));
        let folders = of_old.flat_map(|run| {
            let kept = files::kept(run).into_iter();
            kept.map(|folder| LeftoverFolder { folder, run: run.run })
        });
        let folders = folders.collect();
        Ok(Leftovers { older_than_s: older_than.as_secs(), volumes, containers, folders, schemas, runs, kept })
    }

    /// Removes what was listed, and looks again before that: what has come into use since stays.
    ///
    /// A run's journal goes last, when nothing else of it is left. It is held meanwhile, so that nobody rolls back a
    /// run whose old data is being removed.
    ///
    /// # Cancel
    /// Some of it may be gone; calling again goes on.
    pub async fn prune(&self, listed: &Leftovers) -> Result<Pruned> {
        let older_than = Duration::from_secs(listed.older_than_s);
        let now = self.leftovers(older_than).await?;
        let mut pruned = Pruned::default();
        for run in now.runs.iter().filter(|run| listed.runs.contains(run)) {
            let Some(closed) = summary::Closed::hold(&self.system.state_dir(), *run, older_than, &SystemClock) else {
                pruned.kept.push(Kept { what: format!("run {run}"), because: "it was taken up again".into() });
                continue;
            };
            let is_whole = self.prune_run(*run, listed, &now, &mut pruned).await;
            if is_whole {
                closed.remove()?;
                pruned.runs.push(*run);
            }
        }
        Ok(pruned)
    }

    /// Removes the containers, volumes, folders and schemas of a run; tells whether nothing of it is left.
    async fn prune_run(&self, run: RunId, listed: &Leftovers, now: &Leftovers, pruned: &mut Pruned) -> bool {
        let mut is_whole = true;
        let mut failed = |pruned: &mut Pruned, what: String, error: &Error| {
            is_whole = false;
            pruned.kept.push(Kept { what, because: error.to_string() });
        };
        let changed = || Error::new(ErrorKind::Conflict, "it was not in the list that was agreed to");
        for one in now.containers.iter().filter(|c| c.run == run) {
            let removed = if listed.containers.contains(one) {
                self.backend.remove_container(&one.container).await
            } else {
                Err(changed())
            };
            match removed {
                Ok(()) => pruned.containers.push(one.container.clone()),
                Err(error) => failed(pruned, format!("container `{}`", one.container), &error),
            }
        }
        for one in now.volumes.iter().filter(|v| v.run == run) {
            let removed = if listed.volumes.iter().any(|v| v.volume == one.volume) {
                self.backend.remove_volume(&one.volume).await
            } else {
                Err(changed())
            };
            match removed {
                Ok(()) => {
                    pruned.bytes += one.bytes.unwrap_or(0);
                    pruned.volumes.push(one.volume.clone());
                }
                Err(error) => failed(pruned, format!("volume `{}`", one.volume), &error),
            }
        }
        for one in now.folders.iter().filter(|f| f.run == run) {
            let removed = if listed.folders.contains(one) {
                files::remove_kept(&*self.backend, &one.folder).await
            } else {
                Err(changed())
            };
            match removed {
                Ok(()) => pruned.folders.push(one.folder.clone()),
                Err(error) => failed(pruned, format!("folder `{}`", one.folder.display()), &error),
            }
        }
        for one in now.schemas.iter().filter(|s| s.run == run) {
            // Rows may have been estimated anew.
            let removed = if listed.schemas.iter().any(|s| s.schema == one.schema) {
                self.drop_own_schema(&one.schema).await
            } else {
                Err(changed())
            };
            match removed {
                Ok(()) => pruned.schemas.push(one.schema.clone()),
                Err(error) => failed(pruned, format!("schema `{}`", one.schema), &error),
            }
        }
        // Something of the run that stays for another reason, a volume in use, still needs its journal.
        is_whole && !self.has_more(run).await
    }

    async fn has_more(&self, run: RunId) -> bool {
        let is_of = |labels: &Labels| labels.get(RUN_LABEL).is_some_and(|of| *of == run.to_string());
        match (self.backend.own_containers().await, self.backend.volumes().await) {
            (Ok(containers), Ok(volumes)) => {
                containers.iter().any(|c| is_of(&c.labels)) || volumes.iter().any(|v| is_of(&v.labels))
            }
            _ => true,
        }
    }

    /// Names a container for each volume in use, leaving out those that are removed first.
    async fn users_of_volumes(
        &self,
        own: &[Container],
        leaving: &[LeftoverContainer],
    ) -> Result<BTreeMap<String, String>> {
        let of_project = self.backend.containers().await?;
        let staying = own.iter().filter(|c| !leaving.iter().any(|l| l.container == c.name));
        let mut users = BTreeMap::new();
        for container in of_project.iter().chain(staying) {
            for mount in &container.mounts {
                if let MountSource::Volume(volume) = &mount.source {
                    users.insert(volume.clone(), container.name.clone());
                }
            }
        }
        Ok(users)
    }
}

fn is_kept_copy(labels: &Labels) -> bool {
    labels.get(ROLE_LABEL).is_some_and(|role| role == KEPT_ROLE)
}

fn leftover_containers(
    own: &[Container],
    judge: impl Fn(&Labels) -> Result<RunId, &'static str>,
    kept: &mut Vec<Kept>,
) -> Vec<LeftoverContainer> {
    let mut found = Vec::new();
    for container in own {
        let role = container.labels.get(ROLE_LABEL).cloned().unwrap_or_default();
        match judge(&container.labels) {
            Ok(run) => found.push(LeftoverContainer { container: container.name.clone(), run, role }),
            Err(because) => {
                kept.push(Kept { what: format!("container `{}`", container.name), because: because.into() });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        backend::{Mount, Network, OneOff, Service},
        run::{Effect, Engine, NewRun, Undo},
        store::memory::MemoryStore,
        system::System,
        testing::sim::SimBackend,
    };

    struct World {
        recovery: Recovery,
        backend: Arc<SimBackend>,
        _dir: tempfile::TempDir,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let data = Mount {
            source: MountSource::Volume("shop_data".into()),
            target: "/var/lib/mysql".into(),
            read_only: false,
        };
        let db = Service {
            name: "db".into(),
            image: Some("mysql".into()),
            depends_on: vec![],
            mounts: vec![data],
            replicas: 1,
            has_health_check: false,
            has_fixed_name: false,
        };
        let backend = Arc::new(SimBackend::create(&dir.path().join("world"), "shop", vec![db]).unwrap());
        let system = System::parse(&format!(
            "id = \"shop\"\nstate_dir = \"{}/state\"\n[compose]\nproject = \"shop\"\n[database]\nservice = \"db\"\n\
             password = {{ env = \"X\" }}\n[repository]\nurl = \"file:/x\"\n",
            dir.path().display()
        ))
        .unwrap();
        let recovery = Recovery::with_ports(system, backend.clone(), Arc::new(MemoryStore::new()));
        World { recovery, backend, _dir: dir }
    }

    impl World {
        /// Makes a run that has one effect and ends as told.
        async fn run(&self, succeeds: bool) -> RunId {
            let run = Engine::new(self.recovery.system().state_dir())
                .start(NewRun::new("shop", "test", &()).unwrap())
                .await
                .unwrap();
            let (id, inner) = (run.id(), run.clone());
            let done = run
                .execute(async move {
                    inner
                        .step("act")
                        .effect(Effect::Idempotent)
                        .undo(Undo::Unnecessary("a test"))
                        .run(async |_| Ok(()))
                        .await?;
                    if succeeds { Ok(()) } else { Err(Error::new(ErrorKind::Failed, "as told")) }
                })
                .await;
            assert_eq!(done.is_ok(), succeeds);
            id
        }

        async fn volume(&self, name: &str, run: &str) {
            let labels = [(RUN_LABEL.to_owned(), run.to_owned()), (ROLE_LABEL.to_owned(), "candidate".to_owned())];
            self.backend.create_volume(name, &labels.into()).await.unwrap();
        }

        async fn container(&self, name: &str, run: RunId, volume: Option<&str>) {
            let mounts = volume.map(|v| Mount {
                source: MountSource::Volume(v.into()),
                target: "/data".into(),
                read_only: false,
            });
            let spec = OneOff {
                name: name.into(),
                image: "mysql".into(),
                entrypoint: None,
                command: vec![],
                env: vec![],
                user: None,
                mounts: mounts.into_iter().collect(),
                files: vec![],
                network: Network::None,
                own_names: Vec::new(),
                labels: [(RUN_LABEL.to_owned(), run.to_string())].into(),
                memory: None,
                start: false,
            };
            self.backend.one_off(&spec).await.unwrap();
        }
    }

    use crate::backend::Backend;

    #[tokio::test]
    async fn only_what_finished_runs_left_is_listed_and_removed() {
        let world = world();
        let over = world.run(true).await;
        world.volume("shop_data__old", &over.to_string()).await;
        world.container("shop-candidate-old", over, Some("shop_data__old")).await;
        world.volume("shop_data__foreign", "01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
        world.volume("other_data__foreign", "01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
        let open = world.run(false).await;
        world.volume("shop_data__open", &open.to_string()).await;

        let young = world.recovery.leftovers(Duration::from_hours(1)).await.unwrap();
        assert!(young.is_empty(), "{young:?}");

        let listed = world.recovery.leftovers(Duration::ZERO).await.unwrap();
        let names: Vec<_> = listed.volumes.iter().map(|v| v.volume.as_str()).collect();
        assert_eq!(names, ["shop_data__old"]);
        assert!(listed.volumes[0].bytes.is_some());
        assert_eq!(listed.containers.len(), 1);
        assert_eq!(listed.runs, [over]);
        let kept: Vec<_> = listed.kept.iter().map(|k| k.what.as_str()).collect();
        assert_eq!(kept, ["volume `shop_data__foreign`", "volume `shop_data__open`"], "other systems are not named");

        let pruned = world.recovery.prune(&listed).await.unwrap();
        assert_eq!((pruned.volumes.len(), pruned.containers.len(), pruned.runs.as_slice()), (1, 1, [over].as_slice()));
        assert!(world.backend.volume("shop_data__old").await.unwrap().is_none());
        for kept in ["shop_data", "shop_data__open", "shop_data__foreign", "other_data__foreign"] {
            assert!(world.backend.volume(kept).await.unwrap().is_some(), "{kept}");
        }
        let (runs, _) = world.recovery.runs().unwrap();
        assert_eq!(runs.iter().map(|r| r.run).collect::<Vec<_>>(), [open]);
    }

    #[tokio::test]
    async fn what_a_container_uses_stays_and_keeps_its_journal() {
        let world = world();
        let (over, open) = (world.run(true).await, world.run(false).await);
        world.volume("shop_data__old", &over.to_string()).await;
        // A later, unfinished run works with it.
        world.container("shop-candidate-new", open, Some("shop_data__old")).await;
        let listed = world.recovery.leftovers(Duration::ZERO).await.unwrap();
        assert!(listed.volumes.is_empty() && listed.containers.is_empty(), "{listed:?}");
        assert!(listed.kept.iter().any(|k| k.because.contains("shop-candidate-new")), "{:?}", listed.kept);
        let pruned = world.recovery.prune(&listed).await.unwrap();
        assert!(pruned.runs.is_empty(), "its volume could not be explained any more: {pruned:?}");
        assert!(world.backend.volume("shop_data__old").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_was_not_agreed_to_is_not_removed() {
        let world = world();
        let over = world.run(true).await;
        world.volume("shop_data__old", &over.to_string()).await;
        let listed = world.recovery.leftovers(Duration::ZERO).await.unwrap();
        world.volume("shop_data__more", &over.to_string()).await;
        let pruned = world.recovery.prune(&listed).await.unwrap();
        assert_eq!(pruned.volumes, ["shop_data__old"]);
        assert_eq!(pruned.kept.len(), 1, "{:?}", pruned.kept);
        assert!(pruned.runs.is_empty());
        assert!(world.backend.volume("shop_data__more").await.unwrap().is_some());
    }
}
