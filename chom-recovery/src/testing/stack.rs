//! A whole system in the simulated world: a project with a database, its application and a repository, in a folder.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use super::{
    application::SimApplication,
    database::{Data, IMAGE, SimDatabase, files},
    php,
    redis::{self, SimRedis},
    sim::{Moment, Op, SimBackend},
    web,
};
use crate::{
    backend::{Backend, BackendExt, Condition, Container, Dependency, Mount, MountSource, RestartPolicy, Service},
    catalog::{
        BackupWriter, Capture, Catalog, ComponentKind, ComponentSpec, ComposeFacts, Encryption, Facts, HostId,
        Repository, Signer,
        tree::{self, StoreOptions},
    },
    error::Result,
    files::{Root, Rules},
    probe::SharedProbe,
    procedure::{
        Parts,
        database::ops::{BackUp, DatabaseOps, Production},
        lock::EngineLock,
    },
    run::{Approver, Engine, failpoint},
    store,
    system::{StoreSettings, System},
};

/// Volume of the database.
pub const VOLUME: &str = "shop_data";
/// Container of the database.
pub const SERVER: &str = "shop-mysql-1";
const DATA_DIR: &str = "/var/lib/mysql";

/// A simulated system. Clones are the same system.
#[derive(Debug, Clone)]
pub struct SimStack {
    directory: PathBuf,
    /// What runs.
    pub backend: Arc<SimBackend>,
    /// Redis in it.
    pub redis: SimRedis,
    /// What procedures work with.
    pub parts: Parts,
}

impl SimStack {
    /// Makes a system with one backup, of [`SimStack::backed_up`]; since then it has changed to
    /// [`SimStack::before`]: newer rows, two queued jobs, and a table is gone.
    ///
    /// # Errors
    /// Those of its parts; `AlreadyExists`: the folder holds a system.
    pub async fn create(directory: &Path) -> Result<Self> {
        let backend = SimBackend::create(&directory.join("world"), "shop", services())?;
        // Not everything is alike and not everything runs: what is put back has to be what was found.
        backend.change("shop-queue-1", |c| c.restart_policy = RestartPolicy::OnFailure(3))?;
        backend.stop("scheduler", std::time::Duration::ZERO).await?;
        let store = store::create(&StoreSettings::from(url(directory).as_str())).await?;
        let state = directory.join("state");
        let signed = Repository::init(&store, &"shop".to_owned().try_into()?, &state, Encryption::None).await?;
        fs::write(directory.join("signer"), signed.signer.to_string())?;
        let stack = Self::open(directory, "state").await?;

        let folder = backend.volume_folder(VOLUME);
        Self::backed_up().write(&folder)?;
        let servers = backend.service_containers("mysql").await?;
        let production = Production::of(&servers[0], DATA_DIR);
        stack.parts.database.back_up(&production, &BackUp::default(), Arc::new(|_, _| {})).await?;
        Self::before().write(&folder)?;
        fs::remove_file(folder.join("tables/orders"))?;
        fs::remove_file(folder.join("next/orders"))?;
        SimApplication::queue(&stack.application_files(), &["job 1", "job 2"])?;
        Ok(stack)
    }

    /// Opens a system that was made before, as seen from a host that keeps its runs in the folder `state`. Every
    /// effect on it is a place where [`kill_matrix`](super::kill::kill_matrix) kills. While its repository is away, what
    /// needs a backup fails, and the rest works.
    ///
    /// # Errors
    /// Those of its parts.
    pub async fn open(directory: &Path, state: &str) -> Result<Self> {
        Self::open_with(directory, state, |_| {}).await
    }

    /// As [`SimStack::open`], with a configuration that a test adds to.
    ///
    /// # Errors
    /// Those of its parts.
    pub async fn open_with(directory: &Path, state: &str, configure: impl FnOnce(&mut System)) -> Result<Self> {
        let backend = Arc::new(SimBackend::open(&directory.join("world"))?);
        backend.watch(|moment| {
            failpoint::hit(match moment {
                Moment::Before(Op::ExchangeVolumes) => "before exchange",
                Moment::After(Op::ExchangeVolumes) => "after exchange",
                Moment::Before(_) => "before an effect",
                Moment::After(_) => "after an effect",
            });
        });
        let signer = fs::read_to_string(directory.join("signer"))?;
        let mut system = System::parse(&format!(
            "id = 'shop'\n[compose]\nproject = 'shop'\n[database]\nservice = 'mysql'\npassword = {{ env = 'NONE' }}\n\
             [repository]\nurl = '{}'\nsigners = ['{signer}']\n",
            url(directory),
        ))?;
        system.state_dir = Some(directory.join(state));
        configure(&mut system);
        let system = Arc::new(system);
        let store = store::open_later(&system.repository.store());
        let repository = Repository::open_with(store, &system.repository)
            .await
            .unwrap_or_else(|why| Repository::absent(&system.repository.url, why));
        let catalog = Arc::new(Catalog::new(&repository, &system.id));
        php::register(&backend);
        web::register(&backend);
        let redis = SimRedis::register(&system, &backend, &directory.join("redis"));
        let database = Arc::new(SimDatabase::new(system.clone(), backend.clone(), repository));
        let ready: SharedProbe = database.ready();
        let application = SimApplication::new(system.clone(), backend.clone(), ready, directory.join("application"));
        let parts = Parts { system, backend: backend.clone(), database, application: Arc::new(application), catalog };
        Ok(Self { directory: directory.to_owned(), backend, redis, parts })
    }

    /// Makes an engine for its runs, with the lock that other hosts see.
    pub fn engine(&self, approver: Arc<dyn Approver>) -> Engine {
        let system = &self.parts.system;
        let lock = EngineLock::new(self.backend.clone(), system.database.service.clone());
        Engine::new(system.state_dir()).operator("tester").approver(approver).system_lock(Arc::new(lock))
    }

    /// Backs up a folder as a component, all of it.
    ///
    /// # Errors
    /// Those of its parts.
    pub async fn back_up_tree(&self, component: &str, folder: &Path) -> Result<()> {
        let system = &self.parts.system;
        let signer = Signer::load(&system.state_dir(), &system.id)?;
        let repository = self.parts.catalog.repository();
        let mut writer = BackupWriter::begin(repository, &signer, &HostId::derive("a test"), &system.id).await?;
        let writing = writer.component(ComponentSpec::new(component, ComponentKind::Files)?)?;
        let options = StoreOptions::new(Rules::none());
        tree::store_tree(&writing, &Root::open(folder)?, &options, Arc::new(|_, _| {})).await?;
        let now = Utc::now();
        let images = self.backend.containers().await?.into_iter().map(|c| (c.service, c.image_id)).collect();
        let compose = ComposeFacts { project: self.backend.project().to_owned(), config_hash: None, images };
        let facts = Facts::new(Capture { begin: now, point: now, end: now });
        writer.finish(Facts { compose: Some(compose), ..facts }).await?;
        Ok(())
    }

    /// Returns the folder with the application's flag and queues.
    pub fn application_files(&self) -> PathBuf {
        self.directory.join("application")
    }

    /// Returns the folder of the repository, to be moved away as a disk that is not mounted is away.
    pub fn repository_folder(directory: &Path) -> PathBuf {
        directory.join("backups")
    }

    /// Returns the data of the backup that [`SimStack::create`] takes.
    pub fn backed_up() -> Data {
        data(&[("users", "1 ada\n2 bob\n", 3), ("orders", "1 ada tea\n", 2), ("audit_log", "1 in\n", 2)])
    }

    /// Returns the data that production has after [`SimStack::create`].
    pub fn before() -> Data {
        data(&[("users", "1 ada\n2 bob\n3 eve\n", 4), ("audit_log", "1 in\n2 out\n", 3)])
    }

    /// Reads what a volume's name leads to.
    ///
    /// # Errors
    /// Those of reading files.
    pub fn data(&self, volume: &str) -> Result<Data> {
        Ok(Data::read(&self.backend.volume_folder(volume))?)
    }

    /// Tells everything that must not differ after something that changed nothing: containers, volumes, the
    /// application's files.
    ///
    /// # Errors
    /// Those of looking.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let of = |c: &Container| (format!("{:?} {:?} {:?}", c.state, c.health, c.exit_code), c.restart_policy.clone());
        let all = self.backend.containers().await?.into_iter().chain(self.backend.own_containers().await?);
        Ok(Snapshot {
            containers: all.map(|c| (c.name.clone(), of(&c))).collect(),
            volumes: self.backend.snapshot()?,
            application: files(&self.application_files())?,
        })
    }
}

/// Where [`SimStack::keep_looks`] writes.
const LOOKED: &str = "looked";

/// What a test compares with what it looked like before.
impl SimStack {
    /// As [`SimStack::snapshot`], without the lock that a killed run leaves.
    ///
    /// # Errors
    /// Those of looking.
    pub async fn looks(&self) -> Result<Snapshot> {
        let mut looks = self.snapshot().await?;
        looks.containers.retain(|name, _| !name.ends_with("-recovery-lock"));
        Ok(looks)
    }

    /// Writes down what it looks like, for [`SimStack::looked`].
    ///
    /// # Errors
    /// Those of looking and of writing.
    pub async fn keep_looks(&self) -> Result<()> {
        let looks = serde_json::to_vec(&self.looks().await?).map_err(std::io::Error::from)?;
        Ok(fs::write(self.directory.join(LOOKED), looks)?)
    }

    /// Reads what the system in a folder looked like.
    ///
    /// # Errors
    /// Those of reading.
    pub fn looked(directory: &Path) -> Result<Snapshot> {
        Ok(serde_json::from_slice(&fs::read(directory.join(LOOKED))?).map_err(std::io::Error::from)?)
    }
}

/// What a system looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Container to how it is and what its restart policy is.
    pub containers: BTreeMap<String, (String, RestartPolicy)>,
    /// `volume/path` to content.
    pub volumes: BTreeMap<String, Vec<u8>>,
    /// Name to content.
    pub application: BTreeMap<String, String>,
}

fn url(directory: &Path) -> String {
    format!("file:{}", SimStack::repository_folder(directory).display())
}

fn data(tables: &[(&str, &str, u64)]) -> Data {
    Data {
        tables: tables.iter().map(|(table, rows, _)| ((*table).into(), (*rows).into())).collect(),
        next: tables.iter().map(|(table, _, next)| ((*table).into(), *next)).collect(),
        accounts: "root\napp\n".into(),
    }
}

fn services() -> Vec<Service> {
    let service = |name: &str, image: &str, depends_on: &[&str], mounts: Vec<Mount>| Service {
        name: name.into(),
        image: Some(image.into()),
        depends_on: depends_on
            .iter()
            .map(|on| Dependency { service: (*on).into(), condition: Condition::Healthy })
            .collect(),
        mounts,
        replicas: 1,
        has_health_check: true,
        has_fixed_name: false,
    };
    let data = Mount { source: MountSource::Volume(VOLUME.into()), target: DATA_DIR.into(), read_only: false };
    vec![
        service("mysql", IMAGE, &[], vec![data]),
        service("redis", redis::IMAGE, &[], Vec::new()),
        service("app", php::IMAGE, &["mysql"], Vec::new()),
        service("nginx", web::IMAGE, &["app"], Vec::new()),
        service("queue", php::IMAGE, &["mysql"], Vec::new()),
        service("scheduler", php::IMAGE, &["mysql"], Vec::new()),
    ]
}
