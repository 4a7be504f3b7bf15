//! A backup written as a plain SQL file: the servers' own client brings it back, and so does our own reader, each equal to
//! the backup row by row.

use std::{io::Read as _, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use chom_recovery::{
    ErrorKind,
    catalog::{
        BackupReader, BackupWriter, ComponentKind, ComponentReader, ComponentSpec, Encryption, HostId, Repository,
        Signer,
        export::{ExportOf, ExportReport, ExportTo, export},
        logical,
    },
    mysql::{
        Scope, Server, compare, dump,
        sqlfile::{self, FileCompression, Limits, LoadOptions},
    },
    store::{BackupStore, memory::MemoryStore},
    system::SystemId,
};
use chom_recovery_tests::mysql::{Image, TestServer, fixture};
use chrono::Utc;

fn fixtures(image: Image) -> &'static [&'static str] {
    match image {
        Image::Mysql => &["types.sql", "schema.sql", "objects.sql", "mysql.sql", "accounts-mysql.sql"],
        Image::Mariadb118 => {
            &["types.sql", "schema.sql", "objects.sql", "mariadb.sql", "mariadb-11.8.sql", "accounts-mariadb.sql"]
        }
        Image::Mariadb1011 => &["types.sql", "schema.sql", "objects.sql", "mariadb.sql", "accounts-mariadb.sql"],
    }
}

/// Takes a backup into memory.
async fn backup_of(from: &Server) -> (ComponentReader, dump::Summary) {
    let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
    let state = tempfile::tempdir().unwrap();
    let system: SystemId = "chom".to_owned().try_into().unwrap();
    let made = Repository::init(&store, &system, state.path(), Encryption::None).await.unwrap();
    let repository = Repository::open(store, made.signer.into()).await.unwrap();
    let signer = Signer::load(state.path(), &system).unwrap();
    let mut backup = BackupWriter::begin(&repository, &signer, &HostId::derive("a test"), &system).await.unwrap();
    let component = backup.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    // Rows of one table in several parts, cut anywhere in the text that is made of them.
    let options = dump::Options { chunk_bytes: 2_000, ..dump::Options::default() };
    let summary = logical::dump_to(from, &component, &options, &mut |_| {}).await.unwrap();
    let info = backup.finish(logical::facts(from.info(), &summary)).await.unwrap();
    let reader = BackupReader::open(&repository, info.place).await.unwrap();
    (reader.component("database").await.unwrap(), summary)
}

async fn to_file(component: &ComponentReader, path: &Path, overwrite: bool) -> chom_recovery::Result<ExportReport> {
    let of = ExportOf { name: "backup of a test".into(), point: Utc::now(), with_accounts: false };
    export(component, &of, ExportTo::File { path: path.to_owned(), overwrite }, |_, _| {}).await
}

#[tokio::test]
async fn an_export_comes_back_through_the_servers_own_client_and_through_our_reader() {
    let Some(image) = Image::chosen("an_export_comes_back_through_the_servers_own_client_and_through_our_reader")
    else {
        return;
    };
    let source = TestServer::start(image, &[]).await;
    for name in fixtures(image) {
        source.script(fixture(name));
    }
    // Views of which no file can say that they miss a column.
    source.script("DROP VIEW IF EXISTS objects.over_invalid, objects.invalid_view, objects.a_top");
    let (component, summary) = backup_of(&source.connect().await).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("export.sql.gz");
    let report = to_file(&component, &path, false).await.unwrap();
    println!("{report:?}");
    assert_eq!(report.rows, summary.rows);
    assert_eq!(report.stored_bytes, path.metadata().unwrap().len());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something is left beside it");
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut text).unwrap();
    assert_eq!(report.bytes, text.len() as u64);
    assert!(memchr_count(&text, b"IDENTIFIED") == 0, "accounts were not asked for");

    let peer = TestServer::start(image, &[]).await;
    peer.script(&text);
    let comparison = compare(&peer.connect().await, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, [], "through the client");

    let file = sqlfile::read(&path, Limits { split: 3_000, ..Limits::default() }, |_, _| {}).await.unwrap();
    assert_eq!(file.contents.problems, []);
    assert_eq!(file.contents.header.flavour(), Some(image.flavour()));
    let candidate = TestServer::candidate(image).await;
    let to = candidate.connect().await;
    let loaded = sqlfile::load(&to, &path, &file, &LoadOptions::default(), |_, _| {}).await.unwrap();
    println!("{loaded:?}");
    let comparison = compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap();
    assert_eq!(comparison.differences, [], "through our reader");
    assert_eq!(sqlfile::compare(&to, &file.contents, None).await.unwrap().differences, [], "with the file");
}

#[tokio::test]
async fn an_export_overwrites_nothing_and_shows_accounts_only_when_it_is_told_to() {
    let Some(image) = Image::chosen("an_export_overwrites_nothing_and_shows_accounts_only_when_it_is_told_to") else {
        return;
    };
    let source = TestServer::start(image, &[]).await;
    source.script(
        "CREATE DATABASE shop; CREATE TABLE shop.t (id int PRIMARY KEY); INSERT INTO shop.t VALUES (1), (2); \
         CREATE USER 'reader'@'%' IDENTIFIED BY 'reader-password-1'; GRANT SELECT ON shop.* TO 'reader'@'%'",
    );
    let (component, _) = backup_of(&source.connect().await).await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.sql", "a.sql.gz", "a.sql.zst"] {
        let path = folder.path().join(name);
        to_file(&component, &path, false).await.unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = to_file(&component, &path, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        std::fs::write(&path, "another").unwrap();
        to_file(&component, &path, true).await.unwrap();
        let file = sqlfile::read(&path, Limits::default(), |_, _| {}).await.unwrap();
        assert!(file.contents.is_sound() && file.contents.rows == 2, "{file:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "something is left beside them");
    let error = to_file(&component, &folder.path().join("nowhere/a.sql"), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    // As comments: whoever loads the file lets nobody in.
    let shared = Shared::default();
    let of = ExportOf { name: "backup of a test".into(), point: Utc::now(), with_accounts: true };
    let to = ExportTo::Stream(Box::new(shared.clone()), FileCompression::None);
    export(&component, &of, to, |_, _| {}).await.unwrap();
    let text = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    let about: Vec<_> = text.lines().filter(|line| line.contains("reader")).collect();
    assert!(about.len() >= 2 && about.iter().all(|line| line.starts_with("-- ")), "{about:?}");
    assert!(!text.contains("reader-password-1"));
}

#[derive(Clone, Default)]
struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn memchr_count(text: &[u8], word: &[u8]) -> usize {
    text.windows(word.len()).filter(|w| *w == word).count()
}
