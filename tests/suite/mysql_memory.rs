//! Memory does not grow with the data. Alone in its process, whose peak it measures.

use std::sync::Arc;

use chom_recovery::{
    catalog::{
        BackupReader, BackupWriter, ComponentKind, ComponentSpec, Encryption, HostId, Repository, Signer, logical,
    },
    mysql::{Scope, compare, dump},
    store::{BackupStore, local::LocalStore},
    system::SystemId,
};
use chom_recovery_tests::mysql::{Image, TestServer};

/// Peak of this process's memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_is_dumped_loaded_and_compared_in_bounded_memory() {
    let test = "a_gigabyte_is_dumped_loaded_and_compared_in_bounded_memory";
    let Some(image) = Image::chosen(test) else { return };
    if !Image::all_cases(test) {
        return;
    }
    let (source, candidate) = tokio::join!(TestServer::start(image, &["--skip-log-bin"]), TestServer::candidate(image));
    source.script(
        "CREATE DATABASE m; USE m; CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, a char(36), v varchar(1000));
         INSERT INTO t (a, v) VALUES (UUID(), REPEAT('abcdefghij', 90)), (UUID(), REPEAT('klmnopqrst', 95));",
    );
    for _ in 0..19 {
        source.script("INSERT INTO m.t (a, v) SELECT UUID(), v FROM m.t");
    }
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn BackupStore> = Arc::new(LocalStore::open(folder.path()).unwrap());
    let state = tempfile::tempdir().unwrap();
    let system: SystemId = "chom".to_owned().try_into().unwrap();
    let made = Repository::init(&store, &system, state.path(), Encryption::None).await.unwrap();
    let repository = Repository::open(store, made.signer.into()).await.unwrap();
    let signer = Signer::load(state.path(), &system).unwrap();

    let from = source.connect().await;
    let begun = std::time::Instant::now();
    let mut backup = BackupWriter::begin(&repository, &signer, &HostId::derive("a test"), &system).await.unwrap();
    let component = backup.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    let summary = logical::dump_to(&from, &component, &dump::Options::default(), &mut |_| {}).await.unwrap();
    let info = backup.finish(logical::facts(from.info(), &summary)).await.unwrap();
    println!("dumped {} bytes in {:?}, peak {} MiB", summary.bytes, begun.elapsed(), peak() >> 20);
    assert!(summary.bytes > 900 << 20, "{}", summary.bytes);

    let to = candidate.connect().await;
    let reader = BackupReader::open(&repository, info.place).await.unwrap();
    let begun = std::time::Instant::now();
    logical::load_from(&reader.component("database").await.unwrap(), &to, &mut |_| {}).await.unwrap();
    println!("loaded in {:?}, peak {} MiB", begun.elapsed(), peak() >> 20);
    compare(&to, &summary.baseline, Scope::WithoutAccounts).await.unwrap().require_equal().unwrap();
    assert!(peak() < 200 << 20, "peak {} MiB", peak() >> 20);
}
