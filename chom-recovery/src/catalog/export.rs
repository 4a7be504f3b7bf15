//! Export of a logical backup as a plain SQL file that `mysql` and `mariadb` read.
//!
//! Parts are read, checked and written one after the other: memory does not grow with the backup. A file appears under its
//! name only when it is whole.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{ComponentReader, PartRecord, logical};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        Baseline, RowHash,
        sqlfile::{FileCompression, write::Writer},
    },
};

/// Bytes of text that are handed over at a time.
const BLOCK: usize = 1 << 20;
/// Blocks that wait to be compressed.
const WAITING: usize = 4;

/// Where an export goes.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub enum ExportTo {
    /// A file that only its owner may read, compressed as its name says: `.gz`, `.zst`, or not at all.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether it takes the place of a file that is there.
        overwrite: bool,
    },
    /// A stream. Whether it is whole only its last line tells.
    Stream(Box<dyn Write + Send>, FileCompression),
}

/// What is exported, for the head of the file.
#[derive(Debug, Clone)]
pub struct ExportOf {
    /// Name of the backup.
    pub name: String,
    /// The moment whose data it holds.
    pub point: DateTime<Utc>,
    /// Whether the accounts are written, as comments: with the hashes of their passwords.
    pub with_accounts: bool,
}

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Bytes as written, compressed.
    pub stored_bytes: u64,
    /// What could not be written as it is in the backup.
    pub warnings: Vec<String>,
}

/// Writes a logical component as SQL. `progress` gets plain bytes of the backup done and in all.
///
/// # Errors
/// `Corrupt`: the component is damaged or unfinished. `Conflict`: the file is there already. `NoSpace` and others of the
/// file. `Unsupported`: a routine cannot be written into a plain file. After one there is no file of that name, or the
/// one from before.
pub async fn export(
    component: &ComponentReader,
    of: &ExportOf,
    to: ExportTo,
    progress: impl Fn(u64, u64) + Send,
) -> Result<ExportReport> {
    // First of all: what is refused in the end should not take an hour.
    let mut sink = Sink::open(to)?;
    let (sender, mut blocks) = mpsc::channel::<Block>(WAITING);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(block) = blocks.blocking_recv() {
            match block {
                Block::Text(text) => sink.out.write_all(&text)?,
                Block::End => return sink.finish(),
            }
        }
        // Who exports has failed, and tells why. What was written goes with the sink.
        Ok(0)
    });
    let exported = texts(component, of, &sender, progress).await;
    let whole = exported.is_ok() && sender.send(Block::End).await.is_ok();
    drop(sender);
    let stored = writing
        .await
        .unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "writing the file ended early").caused_by(e)));
    match exported {
        // The error of the file is the cause of what the sender found.
        Err(e) if e.kind() != ErrorKind::Cancelled => Err(e),
        Ok(report) if whole => Ok(ExportReport { stored_bytes: stored?, ..report }),
        _ => Err(stored.err().unwrap_or_else(|| Error::new(ErrorKind::Failed, "writing the file ended early"))),
    }
}

enum Block {
    Text(Vec<u8>),
    End,
}

/// Makes the text of a component and hands it over. `Cancelled`: nobody takes it any more.
async fn texts(
    component: &ComponentReader,
    of: &ExportOf,
    sender: &mpsc::Sender<Block>,
    progress: impl Fn(u64, u64) + Send,
) -> Result<ExportReport> {
    let objects = logical::read_objects(component).await?;
    let baseline = logical::read_baseline(component).await?;
    let mut parts = parts_of(component)?;
    let total: u64 = parts.values().flatten().map(|(_, part)| part.plain_len).sum();
    let mut report = ExportReport { tables: objects.tables.len() as u64, ..ExportReport::default() };
    let mut done = 0;
    let mut writer = Writer::begin(&objects, &of.name, of.point);
    for table in &objects.tables {
        writer.table(table);
        for (_, part) in parts.remove(&(table.schema.clone(), table.name.clone())).unwrap_or_default() {
            let context =
                |e: Error| e.during(format!("part {} of table `{}.{}`", part.index, table.schema, table.name));
            let mut rows = Rows::default();
            let mut stream = component.read_part(part).await.map_err(context)?;
            while let Some(bytes) = stream.next().await {
                rows.feed(&bytes.map_err(context)?, &mut writer).map_err(context)?;
                if writer.len() >= BLOCK {
                    report.bytes += hand_over(&mut writer, sender).await?;
                }
            }
            report.rows += rows.finish(part).map_err(context)?;
            done += part.plain_len;
            progress(done, total);
        }
    }
    check_rows(&baseline, report.rows, parts.keys().next())?;
    report.warnings = writer.finish(of.with_accounts, Utc::now())?;
    report.bytes += hand_over(&mut writer, sender).await?;
    Ok(report)
}

async fn hand_over(writer: &mut Writer<'_>, sender: &mpsc::Sender<Block>) -> Result<u64> {
    let text = writer.take();
    let length = text.len() as u64;
    match sender.send(Block::Text(text)).await {
        Ok(()) => Ok(length),
        Err(_) => Err(Error::new(ErrorKind::Cancelled, "the file cannot be written")),
    }
}

type PartsOf<'a> = BTreeMap<(String, String), Vec<(u32, &'a PartRecord)>>;

/// Lists the parts with rows, by table and in order.
fn parts_of(component: &ComponentReader) -> Result<PartsOf<'_>> {
    let mut parts = PartsOf::new();
    for part in component.parts().iter().filter(|p| p.meta.what == logical::ROWS) {
        let (Some(schema), Some(table), Some(chunk)) = (&part.meta.schema, &part.meta.table, part.meta.chunk) else {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("part {} does not say which rows it holds", part.index),
            ));
        };
        parts.entry((schema.clone(), table.clone())).or_default().push((chunk, part));
    }
    for parts in parts.values_mut() {
        parts.sort_by_key(|(chunk, _)| *chunk);
    }
    Ok(parts)
}

fn check_rows(baseline: &Baseline, rows: u64, left: Option<&(String, String)>) -> Result<()> {
    if let Some((schema, table)) = left {
        return Err(Error::new(ErrorKind::Corrupt, format!("it has rows of `{schema}.{table}` and no such table")));
    }
    if rows != baseline.rows() {
        return Err(Error::new(ErrorKind::Corrupt, "the parts of the backup are not all there")
            .with("rows", rows)
            .with("promised", baseline.rows()));
    }
    Ok(())
}

/// Divides a part into its rows, and counts and hashes them.
#[derive(Default)]
struct Rows {
    begun: Vec<u8>,
    rows: u64,
    hash: RowHash,
}

impl Rows {
    fn feed(&mut self, mut bytes: &[u8], writer: &mut Writer<'_>) -> Result<()> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (row, rest) = bytes.split_at(end + 1);
            let begun = std::mem::take(&mut self.begun);
            let row = if begun.is_empty() { row.into() } else { std::borrow::Cow::Owned([&begun, row].concat()) };
            self.rows += 1;
            self.hash.add_row(&row);
            writer.row(&row[..row.len() - 1])?;
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
        Ok(())
    }

    /// Compares with what was promised; returns the number of rows.
    fn finish(self, part: &PartRecord) -> Result<u64> {
        let hash = part.meta.row_hash.as_deref().map(str::parse::<RowHash>).transpose()?;
        if self.begun.is_empty() && part.meta.rows == Some(self.rows) && hash.is_none_or(|hash| hash == self.hash) {
            return Ok(self.rows);
        }
        Err(Error::new(ErrorKind::Corrupt, "its rows are not those that were dumped").with("rows", self.rows))
    }
}

/// Counts what is written.
struct Counted<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

type Raw = Counted<Box<dyn Write + Send>>;

/// Compresses.
enum Out {
    Plain(BufWriter<Raw>),
    Gzip(flate2::write::GzEncoder<Raw>),
    Zstd(zstd::stream::write::Encoder<'static, Raw>),
}

impl Out {
    fn new(to: Box<dyn Write + Send>, compression: FileCompression) -> Result<Self> {
        let to = Counted { to, bytes: 0 };
        Ok(match compression {
            FileCompression::None => Self::Plain(BufWriter::with_capacity(BLOCK, to)),
            FileCompression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(to, flate2::Compression::fast())),
            FileCompression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(to, 0)?),
        })
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(text),
            Self::Gzip(out) => out.write_all(text),
            Self::Zstd(out) => out.write_all(text),
        }
    }

    fn finish(self) -> io::Result<u64> {
        let mut raw = match self {
            Self::Plain(out) => out.into_inner().map_err(io::IntoInnerError::into_error)?,
            Self::Gzip(out) => out.finish()?,
            Self::Zstd(out) => out.finish()?,
        };
        raw.flush()?;
        Ok(raw.bytes)
    }
}

/// What is written to, and the name that it gets in the end.
struct Sink {
    out: Out,
    file: Option<Unnamed>,
}

/// A file beside the one that it will be; removed unless it gets its name.
struct Unnamed {
    file: File,
    beside: PathBuf,
    path: PathBuf,
    overwrite: bool,
    is_named: bool,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = std::fs::remove_file(&self.beside);
        }
    }
}

impl Sink {
    fn open(to: ExportTo) -> Result<Self> {
        let (path, overwrite) = match to {
            ExportTo::Stream(to, compression) => return Ok(Self { out: Out::new(to, compression)?, file: None }),
            ExportTo::File { path, overwrite } => (path, overwrite),
        };
        let refused = |e: io::Error| Error::from(e).during(format!("cannot write `{}`", path.display()));
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is a folder, not a file", path.display()))
                .hint("name a file, for example `backup.sql.gz`"));
        };
        if !overwrite && path.symlink_metadata().is_ok() {
            return Err(taken(&path));
        }
        let mut beside_name = std::ffi::OsString::from(".");
        beside_name.push(name);
        beside_name.push(format!(".{}.unfinished", std::process::id()));
        let beside = path.with_file_name(beside_name);
        // Rows are for nobody else to read.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(refused)?;
        let unnamed = Unnamed { file: file.try_clone()?, beside, path: path.clone(), overwrite, is_named: false };
        let out = Out::new(Box::new(file), compression_of(&path))?;
        Ok(Self { out, file: Some(unnamed) })
    }

    /// Ends the compression, and gives the file its name. Returns the bytes written.
    fn finish(self) -> Result<u64> {
        let bytes = self.out.finish()?;
        if let Some(file) = self.file {
            file.name()?;
        }
        Ok(bytes)
    }
}

impl Unnamed {
    fn name(mut self) -> Result<()> {
        self.file.sync_all()?;
        if self.overwrite {
            std::fs::rename(&self.beside, &self.path)?;
            self.is_named = true;
        } else {
            // Unlike a rename this does not take the place of a file that came in between.
            std::fs::hard_link(&self.beside, &self.path).map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => taken(&self.path),
                _ => Error::from(e),
            })?;
        }
        if let Some(folder) = self.path.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }
}

fn taken(path: &Path) -> Error {
    Error::new(ErrorKind::Conflict, format!("`{}` is there already", path.display()))
        .hint("choose another name, or `--force` to put the export in its place")
}

fn compression_of(path: &Path) -> FileCompression {
    match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => FileCompression::Gzip,
        Some("zst") => FileCompression::Zstd,
        _ => FileCompression::None,
    }
}
