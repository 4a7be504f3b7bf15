//! Logical backups of a database: a dump kept as the parts of a component, and loaded from it.
//!
//! Parts, in order: the definitions (`objects`, JSON), the chunks of all tables (`rows`), and what a restored server must
//! equal (`baseline`, JSON), whose presence says that the dump was finished.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::TryStreamExt;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use crate::{
    catalog::{
        Baselines, BinlogPosition, Capture, ComponentFacts, ComponentReader, ComponentWriter, DatabaseFacts, Facts,
        PartMeta, PartRecord, TableBaseline,
    },
    error::{Error, ErrorKind, Result},
    mysql::{
        Baseline, Objects, Server, ServerInfo,
        dump::{self, Chunk, DumpSink, Progress, Summary},
        load,
        salvage::{self, Salvaged},
    },
    stream,
};

const OBJECTS: &str = "objects";
pub(super) const ROWS: &str = "rows";
const BASELINE: &str = "baseline";

/// Note of a manifest that tells how the snapshot was taken, and how long writers were kept out.
pub const LOCK_NOTE: &str = "database.lock";
/// Note of a manifest that tells how long the dump paused for others.
pub const PAUSE_NOTE: &str = "database.paused";

/// Longest JSON part that is read, in bytes.
const JSON_LIMIT: usize = 1 << 30;

/// Called with how far the work is.
pub type OnProgress<'a> = &'a mut (dyn FnMut(&Progress) + Send);

/// Dumps a server into a component that is empty so far.
///
/// # Errors
/// Those of [`dump::dump`] and of the store. After one the component is not a backup: abandon it.
pub async fn dump_to(
    server: &Server,
    component: &ComponentWriter,
    options: &dump::Options,
    progress: OnProgress<'_>,
) -> Result<Summary> {
    // One more than connections: one part always waits for the disk.
    let mut sink = PartSink::new(component, options.connections.max(1) + 1, progress);
    let summary = dump::dump(server, options, &mut sink).await?;
    sink.finish(&summary, 0).await?;
    Ok(summary)
}

/// Stores what can be read of a damaged server in a component that is empty so far. Where that is not everything, the
/// component says that it is incomplete.
///
/// # Errors
/// Those of [`salvage::read`] and of the store. After one the component is not a backup: abandon it.
pub async fn salvage_to(
    patient: &mut dyn salvage::Patient,
    component: &ComponentWriter,
    options: &salvage::Options,
    progress: OnProgress<'_>,
) -> Result<Salvaged> {
    let mut sink = PartSink::new(component, 2, progress);
    let salvaged = salvage::read(patient, options, &mut sink).await?;
    let broken = salvaged.tables.iter().filter(|table| table.extent != salvage::Extent::Whole).count();
    sink.finish(&salvaged.summary, (broken + salvaged.lost.len()) as u64).await?;
    Ok(salvaged)
}

struct PartSink<'a> {
    component: ComponentWriter,
    next: u32,
    /// Chunks that are being compressed and stored while the next ones are read; aborted when dropped.
    storing: JoinSet<Result<()>>,
    /// How many of them there may be.
    at_once: usize,
    progress: OnProgress<'a>,
}

impl<'a> PartSink<'a> {
    fn new(component: &ComponentWriter, at_once: usize, progress: OnProgress<'a>) -> Self {
        Self { component: component.clone(), next: 0, storing: JoinSet::new(), at_once, progress }
    }

    /// Waits for the last chunk, and says that the dump is finished.
    async fn finish(&mut self, summary: &Summary, unread: u64) -> Result<()> {
        self.settle().await?;
        self.put_json(BASELINE, &summary.baseline).await?;
        let entries = Some(summary.baseline.rows());
        self.component.describe(ComponentFacts { entries, unread, ..ComponentFacts::default() });
        Ok(())
    }

    fn index(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    async fn put_json(&mut self, what: &str, value: &(impl serde::Serialize + Sync)) -> Result<()> {
        let json = serde_json::to_vec(value)
            .map_err(|e| Error::new(ErrorKind::Failed, format!("cannot encode {what}")).caused_by(e))?;
        let meta = PartMeta { what: what.into(), ..PartMeta::default() };
        let index = self.index();
        self.component.put(index, meta, stream::once(json)).await
    }

    /// Waits for one of the chunks that are being stored.
    async fn stored(&mut self) -> Result<()> {
        let Some(stored) = self.storing.join_next().await else { return Ok(()) };
        stored.map_err(|e| Error::new(ErrorKind::Failed, "storing a chunk ended early").caused_by(e))?
    }

    /// Waits for all of them.
    async fn settle(&mut self) -> Result<()> {
        while !self.storing.is_empty() {
            self.stored().await?;
        }
        Ok(())
    }
}

#[async_trait]
impl DumpSink for PartSink<'_> {
    async fn objects(&mut self, objects: &Objects) -> Result<()> {
        self.put_json(OBJECTS, objects).await
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<()> {
        while self.storing.len() >= self.at_once {
            self.stored().await?;
        }
        let (component, index) = (self.component.clone(), self.index());
        self.storing.spawn(async move {
            let meta = PartMeta {
                what: ROWS.into(),
                schema: Some(chunk.schema),
                table: Some(chunk.table),
                chunk: Some(chunk.number),
                rows: Some(chunk.rows),
                row_hash: Some(chunk.row_hash.to_string()),
                ..PartMeta::default()
            };
            component.put(index, meta, stream::once(chunk.bytes)).await
        });
        Ok(())
    }

    fn progress(&mut self, progress: &Progress) {
        (self.progress)(progress);
    }
}

/// What was loaded, and what it must equal.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Counts, and what could not be made again.
    pub report: load::Report,
    /// For [`crate::mysql::compare`].
    pub baseline: Baseline,
    /// For [`load::replace_accounts`], which comes after the comparison.
    pub objects: Objects,
}

/// Loads a component into an empty candidate, accounts excepted.
///
/// # Errors
/// `Corrupt`: the component is damaged or unfinished. Those of [`load::Loader`]. After one, discard the candidate.
pub async fn load_from(component: &ComponentReader, candidate: &Server, progress: OnProgress<'_>) -> Result<Loaded> {
    load_with(component, candidate, load::Options::default(), progress).await
}

/// Loads a component as [`load_from`] does, in a chosen way.
///
/// # Errors
/// Those of [`load_from`].
pub async fn load_with(
    component: &ComponentReader,
    candidate: &Server,
    options: load::Options,
    progress: OnProgress<'_>,
) -> Result<Loaded> {
    let objects = read_objects(component).await?;
    let baseline = read_baseline(component).await?;
    let (mut chunks, mut sizes, mut rows) = (Vec::new(), BTreeMap::new(), 0);
    for part in component.parts().iter().filter(|p| p.meta.what == ROWS) {
        let chunk = incoming(component, part)?;
        rows += chunk.rows;
        *sizes.entry((chunk.schema.clone(), chunk.table.clone())).or_default() += part.plain_len;
        chunks.push(chunk);
    }
    if rows != baseline.rows() {
        return Err(Error::new(ErrorKind::Corrupt, format!("the chunks of `{}` are not all there", component.name()))
            .with("rows", rows)
            .with("promised", baseline.rows()));
    }
    let mut loader = load::Loader::begin_with(candidate, objects.clone(), options, &sizes).await?;
    loader.chunks(chunks, &sizes, progress).await?;
    Ok(Loaded { report: loader.finish().await?, baseline, objects })
}

/// Finds the parts that hold the rows of a table, in order.
pub(crate) fn parts_of<'a>(
    component: &'a ComponentReader,
    schema: &'a str,
    table: &'a str,
) -> impl Iterator<Item = &'a PartRecord> {
    component.parts().iter().filter(move |part| {
        let meta = &part.meta;
        meta.what == ROWS && meta.schema.as_deref() == Some(schema) && meta.table.as_deref() == Some(table)
    })
}

/// Counts the stored bytes of what is not rows: definitions and promises, which every restore reads.
pub(crate) fn stored_definitions(component: &ComponentReader) -> u64 {
    component.parts().iter().filter(|part| part.meta.what != ROWS).map(|part| part.stored_len).sum()
}

/// Makes a chunk of a part. It is read when its stream is.
pub(crate) fn incoming(component: &ComponentReader, part: &PartRecord) -> Result<load::Incoming> {
    let bad = || Error::new(ErrorKind::Corrupt, format!("part {} does not say which rows it holds", part.index));
    let meta = &part.meta;
    let (reading, wanted) = (component.clone(), part.clone());
    let bytes = futures::stream::once(async move { reading.read_part(&wanted).await }).try_flatten();
    Ok(load::Incoming {
        schema: meta.schema.clone().ok_or_else(bad)?,
        table: meta.table.clone().ok_or_else(bad)?,
        number: meta.chunk.ok_or_else(bad)?,
        rows: meta.rows.ok_or_else(bad)?,
        row_hash: Some(meta.row_hash.as_deref().ok_or_else(bad)?.parse()?),
        bytes: Box::pin(bytes),
    })
}

/// Reads the definitions of a logical component.
///
/// # Errors
/// `Corrupt`: there are none, or they cannot be read.
pub async fn read_objects(component: &ComponentReader) -> Result<Objects> {
    read_json(component, OBJECTS).await
}

/// Reads what a restored server must equal.
///
/// # Errors
/// `Corrupt`: the dump was not finished, or it cannot be read.
pub async fn read_baseline(component: &ComponentReader) -> Result<Baseline> {
    read_json(component, BASELINE).await
}

async fn read_json<T: DeserializeOwned>(component: &ComponentReader, what: &str) -> Result<T> {
    let part = component.parts().iter().find(|p| p.meta.what == what);
    let part = part.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("component `{}` has no part `{what}`", component.name()))
    })?;
    let json = stream::collect(component.read_part(part).await?, JSON_LIMIT).await?;
    serde_json::from_slice(&json)
        .map_err(|e| Error::new(ErrorKind::Corrupt, format!("`{what}` cannot be read")).caused_by(e))
}

/// Makes the manifest's facts from what was dumped.
pub fn facts(server: &ServerInfo, summary: &Summary) -> Facts {
    let baseline = &summary.baseline;
    let position = baseline.position.as_ref();
    let database = DatabaseFacts {
        flavour: server.flavour.into(),
        version: server.version_text.clone(),
        server_uuid: server.server_uuid.clone(),
        position: position.map(|p| BinlogPosition { file: p.file.clone(), offset: p.offset }),
        gtid_set: position.and_then(|p| p.gtid.clone()),
        variables: [("lower_case_table_names".to_owned(), server.lower_case_table_names.to_string())].into(),
    };
    let tables = baseline
        .tables
        .iter()
        .map(|t| TableBaseline {
            schema: t.schema.clone(),
            table: t.table.clone(),
            rows: t.rows,
            checksum: Some(t.row_hash.to_string()),
        })
        .collect();
    let count = |names: &BTreeMap<String, String>| names.len() as u64;
    let objects = baseline.census.iter().filter(|(k, _)| *k != "account").map(|(k, n)| (k.clone(), count(n))).collect();
    let capture = Capture { begin: summary.begun, point: summary.point, end: summary.ended };
    let mut notes = BTreeMap::from([(LOCK_NOTE.to_owned(), summary.lock.to_string())]);
    if summary.paused_ms > 0 {
        notes.insert(PAUSE_NOTE.to_owned(), format!("{} ms", summary.paused_ms));
    }
    Facts {
        database: Some(database),
        notes,
        warnings: summary.warnings.clone(),
        baselines: Baselines {
            tables,
            objects,
            accounts: baseline.census.get("account").map(count),
            ..Baselines::default()
        },
        ..Facts::new(capture)
    }
}
