use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{
    backend::{Mount, MountSource, Service},
    error::ErrorKind,
    system::{Maintenance, System},
    testing::sim::SimBackend,
};

fn service(name: &str, image: &str, mounts: Vec<Mount>) -> Service {
    Service {
        name: name.into(),
        image: Some(image.into()),
        depends_on: Vec::new(),
        mounts,
        replicas: 1,
        has_health_check: false,
        has_fixed_name: false,
    }
}

fn volume(name: &str, target: &str) -> Mount {
    Mount { source: MountSource::Volume(name.into()), target: target.into(), read_only: false }
}

fn file(host: &str, target: &str) -> Mount {
    Mount { source: MountSource::HostPath(host.into()), target: target.into(), read_only: true }
}

fn shop(dir: &Path) -> Arc<dyn Backend> {
    let backend = SimBackend::create(
        dir,
        "my_shop",
        vec![
            service(
                "store",
                "library/mariadb:11.8",
                vec![volume("my_shop_data", "/var/lib/mysql"), file("/srv/secrets/root", "/run/secrets/root")],
            ),
            service("cache", "redis:7", vec![]),
            service("php", "shop/php-fpm:3", vec![]),
            service("jobs", "shop/php-fpm:3", vec![]),
            service("edge", "nginx:1.28", vec![]),
        ],
    )
    .unwrap();
    backend.set_variable("my_shop-store-1", "MARIADB_ROOT_PASSWORD_FILE", "/run/secrets/root").unwrap();
    backend.set_variable("my_shop-php-1", "REDIS_PREFIX", "shop_\"x\"_").unwrap();
    backend.set_variable("my_shop-php-1", "APP_KEY", "base64:very-secret-indeed").unwrap();
    backend
        .change("my_shop-jobs-1", |c| c.command = vec!["php".into(), "artisan".into(), "queue:work".into()])
        .unwrap();
    Arc::new(backend)
}

fn request() -> DraftRequest {
    DraftRequest { compose: Compose { project: "my_shop".into(), ..Compose::default() }, ..DraftRequest::default() }
}

#[tokio::test]
async fn services_are_told_apart_by_what_they_run() {
    let dir = tempfile::tempdir().unwrap();
    let draft = draft(&shop(dir.path()), &request()).await.unwrap();
    let system = System::parse(&draft.text).unwrap();
    assert_eq!(system.id.as_str(), "my-shop");
    assert_eq!(system.database.service, "store");
    assert_eq!(system.database.password.to_string(), "file `/srv/secrets/root`");
    assert_eq!(system.application.service, "php");
    assert_eq!(system.application.web_service, "edge");
    assert_eq!(system.application.workers, ["jobs"]);
    assert_eq!(system.application.maintenance, Maintenance::None, "no artisan in this world");
    assert_eq!(system.redis.unwrap().prefix, "shop_\"x\"_", "quotes survive");
    assert!(!draft.text.contains("very-secret"), "{}", draft.text);
}

#[tokio::test]
async fn what_is_not_known_is_named_in_the_file_and_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let draft = draft(&shop(dir.path()), &request()).await.unwrap();
    for key in ["repository.url", "http", "application.maintenance"] {
        assert!(draft.missing.iter().any(|m| m.starts_with(key)), "{key}: {:?}", draft.missing);
    }
    assert!(draft.missing.iter().all(|line| draft.text.contains(line.as_str())));
    assert!(draft.guessed.iter().any(|g| g.starts_with("database.service = store")), "{:?}", draft.guessed);
}

#[tokio::test]
async fn a_project_without_a_database_is_refused_with_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> =
        Arc::new(SimBackend::create(dir.path(), "web", vec![service("edge", "nginx:1", vec![])]).unwrap());
    let error = draft(&backend, &request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("edge"), "{error}");
}

#[test]
fn a_file_is_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chom-recovery.toml");
    let draft = Draft { text: "x".into(), guessed: vec![], missing: vec![] };
    draft.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = Draft { text: "y".into(), ..draft }.write(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
}
