//! The configuration of a system, out of a backup that lies elsewhere, for a machine that has nothing.

use std::{os::unix::fs::PermissionsExt, path::Path};

use chom_recovery::{
    ErrorKind, System,
    catalog::{
        BackupWriter, Capture, ComponentKind, ComponentSpec, Encryption, Facts, HostId, Identities, PartMeta,
        Recipients, Repository, Signer,
    },
    configuration::{RecallRequest, recall},
    secret::SecretSource,
    store, stream,
    system::{StoreSettings, SystemId},
};
use chom_recovery_tests::{
    s3::{BUCKET, FsServer},
    sftp::{Setup, SftpServer},
};

/// Identities of nobody: they protect nothing but the data of tests.
const OPERATOR: &str = include_str!("../../../chom-recovery/src/catalog/tests/golden/operator.identity");
const ESCROW: &str = include_str!("../../../chom-recovery/src/catalog/tests/golden/escrow.identity");

fn recipients() -> Recipients {
    let of = |identity: &str| identity.lines().find_map(|l| l.strip_prefix("# public key: ")).unwrap().to_owned();
    Recipients::parse(&[of(OPERATOR), of(ESCROW)]).unwrap()
}

fn identity(folder: &Path) -> SecretSource {
    let file = folder.join("escrow");
    std::fs::write(&file, ESCROW).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    SecretSource::File(file)
}

/// Makes an encrypted repository with one backup that holds a configuration; returns its signer.
async fn back_up(settings: &StoreSettings, folder: &Path) -> String {
    let (lost, system): (_, SystemId) = (folder.join("lost"), "chom".to_owned().try_into().unwrap());
    let store = store::create(settings).await.unwrap();
    let escrow = Identities::resolve(&[identity(folder)]).await;
    let encryption = Encryption::Age { recipients: recipients(), escrow };
    Repository::init(&store, &system, &lost, encryption).await.unwrap();
    let signer = Signer::load(&lost, &system).unwrap();
    let repository = Repository::open(store, signer.id().into()).await.unwrap().with_recipients(recipients());
    let begin = repository.ids().now();
    let writer = BackupWriter::begin(&repository, &signer, &HostId::derive("lost"), &system).await;
    let mut writer = writer.unwrap();
    let component = writer.component(ComponentSpec::new("database", ComponentKind::Logical).unwrap()).unwrap();
    let meta = PartMeta { what: "rows".into(), rows: Some(1), ..PartMeta::default() };
    component.put(0, meta, stream::once("1")).await.unwrap();
    let mut facts = Facts::new(Capture { begin, point: begin, end: repository.ids().now() });
    let configuration = format!(
        "id = 'chom'\nstate_dir = '{}'\n[compose]\nproject = 'chom'\n[database]\nservice = 'mysql'\n\
         password = {{ env = 'NOBODY' }}\n[repository]\nurl = 'file:/lost/with/the/machine'\n",
        lost.display()
    );
    facts.private_notes.insert("configuration".into(), configuration);
    writer.finish(facts).await.unwrap();
    signer.id().to_string()
}

async fn comes_back(settings: StoreSettings) {
    let folder = tempfile::tempdir().unwrap();
    let signer = back_up(&settings, folder.path()).await;
    let mut request = RecallRequest {
        store: settings.clone(),
        signers: vec![signer.clone()],
        identity: vec![identity(folder.path())],
        system: None,
        state_dir: Some(folder.path().join("new")),
    };
    let recalled = recall(&request).await.unwrap();
    let system = System::parse(&recalled.text).unwrap();
    assert_eq!(system.repository.store(), settings, "the way to the store is that of the person");
    assert!(system.repository.signers.contains(&signer) && system.repository.signers.len() == 2, "{system:?}");
    // What was written is enough for the next command.
    let repository = Repository::open_configured(&system.repository).await.unwrap();
    assert_eq!(chom_recovery::catalog::Catalog::new(&repository, &system.id).list().await.unwrap().backups.len(), 1);

    request.signers = vec!["ab".repeat(32)];
    assert!(recall(&request).await.is_err(), "nobody believes a stranger");
    request.signers = vec![signer];
    request.identity.clear();
    let sealed = recall(&request).await.unwrap_err().kind();
    assert!(matches!(sealed, ErrorKind::Precondition | ErrorKind::Authentication), "{sealed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_comes_back_over_ssh() {
    let Some(server) = SftpServer::start("a_configuration_comes_back_over_ssh", Setup::Plain) else { return };
    comes_back(StoreSettings { sftp: server.settings(), ..StoreSettings::from(server.url().as_str()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_comes_back_from_a_bucket() {
    let server = FsServer::start().await;
    let url = format!("s3://{BUCKET}/backups");
    comes_back(StoreSettings { s3: server.settings(), ..StoreSettings::from(url.as_str()) }).await;
}
