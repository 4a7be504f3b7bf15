//! Writes a backup: parts, indexes, the manifest's copy, and last the manifest, which makes the backup exist.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;

use crate::{
    catalog::{
        FORMAT, READER,
        crypt::Recipients,
        entry::BackupInfo,
        facts::Facts,
        id::{BackupId, HostId},
        layout::{self, Belongs, Place},
        manifest::Manifest,
        reader::BackupReader,
        repo::Repository,
        sign::{MANIFEST, Signer},
    },
    error::{Error, ErrorKind, Result},
    store::Key,
    stream,
    system::SystemId,
};

mod component;

pub use component::{ComponentSpec, ComponentWriter, StoredPart};

/// What [`BackupWriter::resume`] found.
#[derive(Debug)]
pub enum Resumed {
    /// The backup is unfinished: write its parts again; those that are there already cost only reading.
    Unfinished(Box<BackupWriter>),
    /// Everything but the last object was there; it is now, and the backup is complete.
    Committed(Box<BackupInfo>),
}

/// A backup being written. Until [`BackupWriter::finish`] returns, nobody sees it; a writer that is dropped leaves
/// parts that [`super::sweep_unfinished`] removes a day later.
#[derive(Debug)]
pub struct BackupWriter {
    shared: Arc<Shared>,
    signer: Signer,
    components: Vec<ComponentWriter>,
}

#[derive(Debug)]
struct Shared {
    repository: Repository,
    place: Place,
    /// Whom everything is sealed for; `None`: it is not encrypted.
    recipients: Option<Recipients>,
}

impl BackupWriter {
    /// Begins a backup under a new id, which is greater than those of all earlier backups of the system.
    ///
    /// # Errors
    /// `Precondition`: the signer is not among those that the configuration trusts: the backup could not be read. Those
    /// of [`Repository::recipients`].
    pub async fn begin(repository: &Repository, signer: &Signer, host: &HostId, system: &SystemId) -> Result<Self> {
        let newest = newest(repository, host, system).await?;
        let place = Place { host: host.clone(), system: system.clone(), id: repository.ids().next(newest) };
        Self::at(repository, signer, place).await
    }

    /// Takes up a backup that a crash interrupted. Its maker writes every part again under the same index: a part
    /// that is there with the same content is kept, another one is a `Conflict`.
    ///
    /// # Errors
    /// `AlreadyExists`: the backup is complete.
    pub async fn resume(repository: &Repository, signer: &Signer, place: Place) -> Result<Resumed> {
        let store = repository.store();
        if store.stat(&place.manifest()).await?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("backup {} is complete", place.id)));
        }
        let writer = Self::at(repository, signer, place).await?;
        let place = &writer.shared.place;
        if store.stat(&place.manifest_copy()).await?.is_none() {
            return Ok(Resumed::Unfinished(Box::new(writer)));
        }
        let reader = BackupReader::open_copy(repository, place.clone()).await?;
        for component in &reader.manifest().components {
            let component = reader.stored_component(component.name.as_str()).await?;
            component::verify_lengths(repository, place, &component.record().name, component.parts().to_vec()).await?;
        }
        put_same(repository, &place.manifest(), reader.signed_bytes()).await?;
        Ok(Resumed::Committed(Box::new(writer.committed(&reader.signed_bytes()).await?)))
    }

    async fn at(repository: &Repository, signer: &Signer, place: Place) -> Result<Self> {
        if !repository.trusted().contains(&signer.id()) {
            return Err(Error::new(
                ErrorKind::Precondition,
                "this host's signing key is not trusted by the configuration",
            )
            .with("key", signer.id())
            .hint("add the key to `repository.signers`: without it the backup could not be restored"));
        }
        let recipients = repository.recipients().await?;
        let shared = Arc::new(Shared { repository: repository.clone(), place, recipients });
        Ok(Self { shared, signer: signer.clone(), components: Vec::new() })
    }

    /// Returns where the backup will lie.
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Returns the id that the backup will have.
    pub fn id(&self) -> BackupId {
        self.shared.place.id
    }

    /// Begins a component. Components are restored in the order in which they were begun.
    ///
    /// # Errors
    /// `InvalidInput`: a component of that name exists.
    pub fn component(&mut self, spec: ComponentSpec) -> Result<ComponentWriter> {
        if self.components.iter().any(|c| *c.name() == spec.name) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("two components are called `{}`", spec.name)));
        }
        let component = ComponentWriter::new(self.shared.clone(), spec);
        self.components.push(component.clone());
        Ok(component)
    }

    /// Completes the backup: looks at every part once more, writes the indexes, the manifest's copy and the manifest,
    /// and reads the manifest back. When this returns `Ok`, the backup exists and is durable.
    ///
    /// # Errors
    /// `InvalidInput`: no component, or a part that was stored and never recorded. `Corrupt`: a part is not in the
    /// store as it was written. After an error the backup does not exist, unless the kind is `OutcomeUnknown`.
    pub async fn finish(self, facts: Facts) -> Result<BackupInfo> {
        let Shared { repository, place, recipients } = &*self.shared;
        if self.components.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a backup has at least one component"));
        }
        let mut components = Vec::new();
        for (order, component) in (0..).zip(&self.components) {
            components.push(component.close(order).await?);
        }
        let sources: BTreeSet<_> = components.iter().flat_map(|c| c.sources.iter().copied()).collect();
        for source in sources {
            component::check_source(repository, place, source).await?;
        }
        let (facts, private) = facts.split();
        let warnings = private.warnings.clone();
        let mut manifest = Manifest {
            format: FORMAT,
            min_reader: READER,
            id: place.id,
            repository: repository.id().clone(),
            host: place.host.clone(),
            system: place.system.clone(),
            created: repository.ids().now(),
            tool: super::TOOL.to_owned(),
            recipients: Vec::new(),
            facts,
            details: None,
            sealed: None,
            components,
        };
        manifest.set_private(private, recipients.as_ref())?;
        let object = self.signer.seal(MANIFEST, &manifest.encode()?);
        put_same(repository, &place.manifest_copy(), object.clone()).await?;
        put_same(repository, &place.manifest(), object.clone()).await?;
        Ok(BackupInfo { warnings, ..self.committed(&object).await? })
    }

    /// Reads back what was committed.
    async fn committed(&self, object: &Bytes) -> Result<BackupInfo> {
        let Shared { repository, place, .. } = &*self.shared;
        let reader = BackupReader::open(repository, place.clone()).await?;
        if reader.signed_bytes() != *object || reader.damage().is_some() {
            return Err(Error::new(ErrorKind::Corrupt, "the manifest was not read back as it was written")
                .with("backup", place.id)
                .hint("check the store, then take a new backup"));
        }
        BackupInfo::read(&reader).await
    }

    /// Gives the backup up and removes what was written of it.
    pub async fn abandon(self) -> Result<()> {
        let Shared { repository, place, .. } = &*self.shared;
        remove_unfinished(repository, place).await.map(|_| ())
    }
}

/// Finds the greatest id in use. One that lies in the future, because a clock was wrong, does not count: else every
/// backup after it would have to lie in the future too.
async fn newest(repository: &Repository, host: &HostId, system: &SystemId) -> Result<Option<BackupId>> {
    let horizon = repository.store().now().await? + super::MAX_SKEW;
    let mut newest = None;
    let mut listed = repository.store().list(&layout::backups(host, system)).await?;
    while let Some(object) = listed.try_next().await? {
        if let Belongs::Backup(place, _) = layout::belongs(&object.key)
            && place.id.time() <= horizon
        {
            newest = newest.max(Some(place.id));
        }
    }
    Ok(newest)
}

/// Writes a small object; one that is there already with the same bytes is success, as is a failure after which the
/// bytes are there.
async fn put_same(repository: &Repository, key: &Key, bytes: Bytes) -> Result<()> {
    let store = repository.store();
    let Err(error) = store.put_new(key, stream::once(bytes.clone())).await else { return Ok(()) };
    let present = async { stream::collect(store.get(key, None).await?, bytes.len()).await };
    match present.await {
        Ok(present) if present == bytes => Ok(()),
        _ if error.kind() == ErrorKind::AlreadyExists => {
            Err(Error::new(ErrorKind::Conflict, "an earlier attempt stored something else here")
                .with("key", key)
                .hint("begin a new backup; what is left of this one goes away by itself"))
        }
        _ => Err(error),
    }
}

/// Removes the objects of a backup that has no manifest. Returns how many.
pub(super) async fn remove_unfinished(repository: &Repository, place: &Place) -> Result<u64> {
    let store = repository.store();
    let objects: Vec<_> = store.list(&place.prefix()).await?.try_collect().await?;
    if store.stat(&place.manifest()).await?.is_some() {
        return Err(Error::new(ErrorKind::Denied, format!("backup {} is complete: it is not swept", place.id)));
    }
    // The copy goes first: with it gone, nobody can complete a backup that is losing its parts.
    store.delete(&place.manifest_copy()).await?;
    for object in &objects {
        store.delete(&object.key).await?;
    }
    Ok(objects.len() as u64)
}
