//! One backup of one moment: the database first, then the trees of files.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    backend::Backend,
    catalog::{
        self, BackupInfo, BackupReader, BackupWriter, Capture, ComponentKind, ComponentSpec, ComponentWriter,
        ComposeFacts, Facts, HostId, Name, Repository, Signer,
        tree::{self, KnownParts, StoreOptions},
    },
    error::{Error, ErrorKind, Result},
    files::{Root, Rules, walk::TroubleKind},
    procedure::{
        database::ops::{BackUp, DatabaseKind, Progress},
        locate, redis,
    },
    system::{Component, DATABASE, System, TreeKind},
};

/// Age at which an interrupted backup counts as given up.
const UNFINISHED: Duration = Duration::from_hours(24);
/// Name of the private note that holds the configuration.
pub(crate) const CONFIGURATION: &str = "configuration";
/// Paths that the warnings of a backup name.
const NAMED: usize = 10;

/// What a backup is taken of, and where it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taking<'a> {
    /// The system.
    pub(crate) system: &'a System,
    /// The Engine it runs on.
    pub(crate) backend: &'a Arc<dyn Backend>,
    /// Where backups lie.
    pub(crate) repository: &'a Repository,
    /// What is wanted.
    pub(crate) request: &'a BackUp,
}

/// Takes a backup and verifies what was written. `dump` writes the database into its component, and says what it saw.
///
/// Files are read after the snapshot of the database: a row never speaks of an upload that is not there yet, and a file that
/// no row speaks of harms nobody. The manifest tells the whole window.
///
/// # Errors
/// `NotFound`: a component that is asked for is not configured. `Corrupt`: a table, or what was written, cannot be read.
/// `NoSpace`: the store is full. After an error there is no backup. Files that cannot be read are no error: the backup says
/// that it is incomplete.
pub(crate) async fn take(
    taking: Taking<'_>,
    dump: impl AsyncFnOnce(&ComponentWriter) -> Result<Facts>,
    progress: Progress,
) -> Result<BackupInfo> {
    let Taking { system, backend, repository, request } = taking;
    let (with_database, trees) = chosen(system, &request.components)?;
    let mut found = Vec::new();
    for component in trees {
        found.push((component, locate(system, backend, component).await?));
    }
    let state_dir = system.state_dir();
    let signer = Signer::load(&state_dir, &system.id)?;
    let host = HostId::derive(&backend.engine().await?.id);

    let mut writer = BackupWriter::begin(repository, &signer, &host, &system.id).await?;
    let written = write(&mut writer, taking, with_database, found, dump, progress).await;
    let (mut facts, known) = match written {
        Ok(written) => written,
        Err(error) => {
            // Nobody can see it; only the space is of interest, and a sweep gets that back as well.
            let _ = writer.abandon().await;
            return Err(error);
        }
    };
    facts.run.clone_from(&request.run);
    facts.tags = request.tags.iter().map(|tag| tag.parse::<Name>()).collect::<Result<_>>()?;
    // Not worth a backup that is written already.
    let images: BTreeMap<_, _> =
        backend.containers().await.unwrap_or_default().into_iter().map(|c| (c.service, c.image_id)).collect();
    for (service, id) in &images {
        // By its id alone, an image can be had from no registry.
        let digest = backend.image(id).await.ok().flatten().and_then(|image| image.digests.into_iter().next());
        facts.notes.extend(digest.map(|digest| (catalog::image_note(service), digest)));
    }
    facts.compose = Some(ComposeFacts { project: backend.project().to_owned(), config_hash: None, images });
    // A machine that has nothing learns from it where everything belongs. It names secrets and holds none.
    let text = toml::to_string(system)
        .map_err(|e| Error::new(ErrorKind::Failed, "the configuration cannot be written as TOML").caused_by(e))?;
    facts.private_notes.insert(CONFIGURATION.into(), text);
    let info = writer.finish(facts).await?;
    for (file, known) in known {
        // Without it the next backup stores everything anew.
        if let Err(error) = known.save(&file) {
            tracing::warn!(%error, "what this backup holds is not remembered");
        }
    }

    let reader = BackupReader::open(repository, info.place.clone()).await?;
    let verified = catalog::verify_written(&reader, &|_| {}).await?;
    catalog::record(repository, &signer, &info.place, verified.clone(), request.run.clone()).await?;
    let verified = verified.into_result()?;
    // What interrupted backups left. This one is whole, whether or not that can be removed now.
    if let Err(error) = catalog::sweep_unfinished(repository, &system.id, UNFINISHED).await {
        tracing::warn!(%error, "files of interrupted backups are left over");
    }
    Ok(BackupInfo {
        level: Some(verified.level),
        verified: Some(verified.ended),
        decoded_when_written: verified.decoded_when_written,
        ..info
    })
}

/// Refuses a request for what is not configured, before anything begins.
///
/// # Errors
/// `NotFound`: there is no such component.
pub(crate) fn check(system: &System, request: &BackUp) -> Result<()> {
    chosen(system, &request.components).map(drop)
}

/// Chooses among the database and the configured trees; nothing chosen is everything.
fn chosen<'a>(system: &'a System, wanted: &[String]) -> Result<(bool, Vec<&'a Component>)> {
    if wanted.is_empty() {
        return Ok((true, system.components.iter().collect()));
    }
    let is_known = |name: &String| name == DATABASE || system.components.iter().any(|c| c.name == *name);
    if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
        let names: Vec<_> =
            std::iter::once(DATABASE).chain(system.components.iter().map(|c| c.name.as_str())).collect();
        return Err(Error::new(ErrorKind::NotFound, format!("component `{unknown}` is not configured"))
            .with("components", names.join(", "))
            .hint("add it as `[[components]]` to the configuration"));
    }
    let trees = system.components.iter().filter(|c| wanted.contains(&c.name)).collect();
    Ok((wanted.iter().any(|name| name == DATABASE), trees))
}

async fn write(
    writer: &mut BackupWriter,
    taking: Taking<'_>,
    with_database: bool,
    trees: Vec<(&Component, Root)>,
    dump: impl AsyncFnOnce(&ComponentWriter) -> Result<Facts>,
    progress: Progress,
) -> Result<(Facts, Vec<(PathBuf, KnownParts)>)> {
    let Taking { system, backend, repository, request } = taking;
    let begin = repository.ids().now();
    let mut facts = Facts::new(Capture { begin, point: begin, end: begin });
    if with_database {
        let kind = match request.kind {
            DatabaseKind::Logical => ComponentKind::Logical,
            DatabaseKind::Physical => ComponentKind::Physical,
        };
        let spec = ComponentSpec::new(DATABASE, kind)?.compression(request.compression);
        facts = dump(&writer.component(spec)?).await?;
    }
    let mut known = Vec::new();
    for (component, root) in trees {
        let spec = ComponentSpec::new(&component.name, kind(component.kind))?.compression(request.compression);
        let writing = writer.component(spec)?;
        let within = |e: Error| e.during(format!("component `{}`", component.name));
        if component.kind == TreeKind::Redis
            && let Some(name) = redis::aof_name(system, backend).await.map_err(within)?
        {
            // On a machine that has nothing there is no redis to ask.
            facts.private_notes.insert(redis::aof_note(&component.name), name);
        }
        let include = if component.kind == TreeKind::Redis {
            vec![format!("/{}", redis::snapshot(system, backend, root.path()).await.map_err(within)?)]
        } else {
            component.include.clone()
        };
        let file = system.state_dir().join("known").join(format!("{}.{}", system.id, component.name));
        let options = StoreOptions::new(Rules::new(&include, &component.exclude)?).known(KnownParts::load(&file));
        let told = progress.clone();
        let (stored, parts) = tree::store_tree(&writing, &root, &options, Arc::new(move |done, all| told(done, all)))
            .await
            .map_err(within)?;
        known.push((file, parts));
        facts.baselines.counts.insert(format!("{}.entries", component.name), stored.entries);
        facts.baselines.counts.insert(format!("{}.bytes", component.name), stored.bytes);
        let bad = |kind| matches!(kind, TroubleKind::Unreadable | TroubleKind::Changed);
        for trouble in stored.troubles.list.iter().filter(|t| bad(t.kind)).take(NAMED) {
            let what =
                if trouble.kind == TroubleKind::Unreadable { "could not be read" } else { "changed while it was read" };
            facts.warnings.push(format!("component `{}`: `{}` {what}: {}", component.name, trouble.path, trouble.why));
        }
    }
    facts.capture.end = repository.ids().now();
    Ok((facts, known))
}

fn kind(kind: TreeKind) -> ComponentKind {
    match kind {
        TreeKind::Files => ComponentKind::Files,
        TreeKind::Config => ComponentKind::Config,
        TreeKind::Certificates => ComponentKind::Certificates,
        TreeKind::Volume => ComponentKind::Volume,
        TreeKind::Redis => ComponentKind::Redis,
    }
}
