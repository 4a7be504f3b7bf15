//! The probes on the reference stack: all healthy on a healthy one, and faults that do not break it told apart.

use std::{sync::Arc, time::Duration};

use chom_recovery::{
    backend::{
        Backend,
        docker::{DockerBackend, DockerOptions},
    },
    probe::{
        Class, Health, HealthMode, HealthProbe, HealthReport, Status, SuiteOptions,
        certificate::CertificateProbe,
        evidence::{self, EvidenceOptions},
        http::HttpProbe,
        mysql::MysqlProbe,
        redis::RedisProbe,
        run_suite, suite,
    },
    procedure::maintenance::{self, MaintenanceState, Method},
    secret::SecretSource,
    store::{BackupStore, local::LocalStore},
    system::System,
    triage::{Selected, diagnose},
};
use chom_recovery_tests::{Stack, chaos};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// Maintenance mode is seen by every test of this file.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

struct Bench {
    stack: Stack,
    system: System,
    backend: Arc<dyn Backend>,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    async fn open(test: &str) -> Option<Self> {
        let stack = Stack::open(test)?;
        let folder = tempfile::tempdir().unwrap();
        let system = stack.system(folder.path());
        let backend = DockerBackend::connect(&system.compose, DockerOptions::default()).await.unwrap();
        Some(Self { stack, system, backend: Arc::new(backend), folder, _alone: ONE_AT_A_TIME.lock().await })
    }

    /// Asks a whole suite; logs from this moment on, since other tests make errors on purpose.
    async fn suite(&self, mode: HealthMode) -> HealthReport {
        let folder = self.folder.path().join(format!("store-{mode}"));
        let store: Arc<dyn BackupStore> = Arc::new(LocalStore::create(&folder).unwrap());
        let options = SuiteOptions { since: Some(chrono::Utc::now()), ..mode.into() };
        let probes = suite(&self.system, &self.backend, Some(&store), options);
        run_suite(mode, probes, self.system.limits.health_deadline).await
    }

    async fn mysql(&self) -> Health {
        MysqlProbe::new(self.system.database.clone(), self.backend.clone()).check().await
    }
}

fn assert_is(health: &Health, status: Status, class: Class) {
    assert_eq!((health.status, health.class_of()), (status, Some(class)), "{health:#?}");
}

fn password(text: &str) -> SecretSource {
    SecretSource::Command(vec!["printf".into(), text.into()])
}

#[tokio::test]
async fn every_probe_is_healthy_on_a_healthy_stack() {
    let Some(bench) = Bench::open("every_probe_is_healthy_on_a_healthy_stack").await else { return };
    for mode in HealthMode::ALL {
        let report = bench.suite(mode).await;
        for answer in &report.answers {
            assert_eq!(answer.health.status, Status::Healthy, "{mode}: {answer:#?}");
        }
        assert_eq!(report.overall, Status::Healthy);
        let names: Vec<_> = report.answers.iter().map(|a| a.probe.clone()).collect();
        let certificate = format!("certificate-{}-{}", bench.stack.host, bench.stack.port);
        for wanted in [
            "disk",
            "store",
            "container-mysql",
            "container-nginx",
            "mysql",
            "redis",
            "queue",
            "scheduler",
            "failed-jobs",
            "http-health",
            &certificate,
        ] {
            assert!(names.iter().any(|n| n == wanted), "{mode}: {wanted} is not in {names:?}");
        }
        let thorough = mode != HealthMode::Monitoring;
        assert_eq!(names.iter().any(|n| n == "mysql-tables"), thorough);
        assert_eq!(names.iter().any(|n| n == "logs-app"), thorough);
        let diagnoses = diagnose(&report);
        assert_eq!((diagnoses[0].procedure, diagnoses[0].confidence), (Selected::None, 90), "{diagnoses:#?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_authentication_and_selects_no_restore() {
    let Some(mut bench) = Bench::open("a_wrong_password_is_authentication_and_selects_no_restore").await else {
        return;
    };
    bench.system.database.password = password("not-the-password-91");
    let health = bench.mysql().await;
    assert_is(&health, Status::Down, Class::Authentication);
    assert!(!format!("{health:?}").contains("not-the-password-91"), "{health:#?}");
    let report = bench.suite(HealthMode::PreRecovery).await;
    let diagnoses = diagnose(&report);
    assert_eq!(diagnoses[0].procedure, Selected::None, "{diagnoses:#?}");
    assert!(diagnoses.iter().all(|d| d.procedure != Selected::Database), "{diagnoses:#?}");
}

#[tokio::test]
async fn a_missing_password_file_is_inconclusive() {
    let Some(mut bench) = Bench::open("a_missing_password_file_is_inconclusive").await else { return };
    bench.system.database.password = SecretSource::File("/nowhere/password".into());
    assert_is(&bench.mysql().await, Status::Inconclusive, Class::Secret);
}

#[tokio::test]
async fn a_port_on_which_nothing_listens_is_unreachable_and_a_missing_service_absent() {
    let name = "a_port_on_which_nothing_listens_is_unreachable_and_a_missing_service_absent";
    let Some(mut bench) = Bench::open(name).await else { return };
    bench.system.database.port = 3999;
    assert_is(&bench.mysql().await, Status::Down, Class::Unreachable);
    let mut redis = bench.system.redis.clone().unwrap();
    redis.port = 6999;
    let health = RedisProbe::new(redis.clone(), bench.backend.clone()).check().await;
    assert_is(&health, Status::Down, Class::Unreachable);
    redis.service = "no-such-service".into();
    let health = RedisProbe::new(redis, bench.backend.clone()).check().await;
    assert_is(&health, Status::Down, Class::Absent);
}

#[tokio::test]
async fn a_redis_password_where_none_is_wanted_is_authentication() {
    let Some(bench) = Bench::open("a_redis_password_where_none_is_wanted_is_authentication").await else { return };
    let mut redis = bench.system.redis.clone().unwrap();
    redis.password = Some(password("not-the-password-92"));
    let health = RedisProbe::new(redis, bench.backend.clone()).check().await;
    assert_is(&health, Status::Down, Class::Authentication);
}

#[tokio::test]
async fn a_wrong_name_and_an_unknown_ca_fail_tls_and_are_shown() {
    let Some(bench) = Bench::open("a_wrong_name_and_an_unknown_ca_fail_tls_and_are_shown").await else { return };
    let mut check = bench.stack.check("health", "/health");
    check.url = format!("https://other.test:{}/health", bench.stack.port);
    assert_is(&HttpProbe::new(check.clone()).check().await, Status::Down, Class::WrongName);
    let health = CertificateProbe::of(&[check]).remove(0).check().await;
    assert_is(&health, Status::Down, Class::WrongName);
    assert!(health.facts["names"].contains(&bench.stack.host), "{health:#?}");

    let mut check = bench.stack.check("health", "/health");
    check.ca_file = None;
    assert_is(&HttpProbe::new(check).check().await, Status::Down, Class::Untrusted);
}

#[tokio::test]
async fn a_wrong_body_and_a_missing_page_are_down() {
    let Some(bench) = Bench::open("a_wrong_body_and_a_missing_page_are_down").await else { return };
    let mut check = bench.stack.check("health", "/health");
    check.contains = Some("no such text".into());
    assert_is(&HttpProbe::new(check).check().await, Status::Down, Class::Body);
    let check = bench.stack.check("missing", "/no-such-page");
    assert_is(&HttpProbe::new(check).check().await, Status::Down, Class::HttpStatus);
}

#[tokio::test]
async fn tables_that_should_be_there_are_missed_by_name() {
    let Some(bench) = Bench::open("tables_that_should_be_there_are_missed_by_name").await else { return };
    let probe = MysqlProbe::new(bench.system.database.clone(), bench.backend.clone());
    let expected = [("chom".to_owned(), ["users".to_owned(), "gone".to_owned()].into())].into();
    let health = probe.expecting(expected).check().await;
    assert_is(&health, Status::Down, Class::MissingTables);
    assert!(health.summary.ends_with("chom.gone"), "{health:#?}");
}

#[tokio::test]
async fn rows_of_our_own_are_taken_and_a_server_that_is_read_only_is_told_by_its_setting() {
    let name = "rows_of_our_own_are_taken_and_a_server_that_is_read_only_is_told_by_its_setting";
    let Some(bench) = Bench::open(name).await else { return };
    let health = bench.mysql().await;
    assert_is(&health, Status::Healthy, Class::Ok);
    assert!(health.facts["scratch_write"].starts_with("taken, read back and dropped in "), "{health:#?}");
    let program = if bench.stack.db == "mysql" { "mysql" } else { "mariadb" };
    let switch = |value: u8| {
        let sql = format!("SET GLOBAL read_only = {value}");
        let script = format!("MYSQL_PWD=$(cat /run/secrets/db_root_password) {program} --user=root -e '{sql}'");
        chaos::shell(&bench.stack, "mysql", &script);
    };
    switch(1);
    let health = bench.mysql().await;
    switch(0);
    assert_is(&health, Status::Down, Class::ReadOnly);
    assert!(health.summary.contains("(read_only = ON)"), "{health:#?}");
}

#[tokio::test]
async fn maintenance_is_seen_from_outside_and_prior_state_is_kept() {
    let Some(bench) = Bench::open("maintenance_is_seen_from_outside_and_prior_state_is_kept").await else { return };
    let (system, backend) = (&bench.system, bench.backend.as_ref());
    assert_eq!(maintenance::state(system, backend).await.unwrap(), MaintenanceState::Off);

    let first = maintenance::down(system, backend).await.unwrap();
    assert_eq!((first.was_down_before, first.method), (false, Method::Application));
    assert_eq!(first.seen_by, ["health", "status"]);
    assert!(first.still_served.is_empty());
    assert_eq!(maintenance::state(system, backend).await.unwrap(), MaintenanceState::On);
    assert_is(&HttpProbe::new(system.http[0].clone()).check().await, Status::Down, Class::Maintenance);

    // On again: recorded as on before, and left on.
    let second = maintenance::down(system, backend).await.unwrap();
    assert!(second.was_down_before);
    maintenance::up(system, backend, &second).await.unwrap();
    assert_eq!(maintenance::state(system, backend).await.unwrap(), MaintenanceState::On);

    maintenance::up(system, backend, &first).await.unwrap();
    maintenance::up(system, backend, &first).await.unwrap();
    assert_eq!(maintenance::state(system, backend).await.unwrap(), MaintenanceState::Off);
    assert_eq!(HttpProbe::new(system.http[0].clone()).check().await.status, Status::Healthy);
}

#[tokio::test]
async fn evidence_is_complete_and_holds_no_secret() {
    let Some(bench) = Bench::open("evidence_is_complete_and_holds_no_secret").await else { return };
    // An application that never had anything to say has no log yet, and then that is what is missing.
    chaos::shell(&bench.stack, "app", "su -s /bin/sh www-data -c 'touch /srv/app/storage/logs/laravel.log'");
    let into = bench.folder.path().join("evidence");
    let begun = std::time::Instant::now();
    let manifest = evidence::collect(&bench.system, &bench.backend, &into, EvidenceOptions::new(&bench.system)).await;
    assert!(begun.elapsed() < Duration::from_mins(1));
    assert!(manifest.is_complete(), "{:#?}", manifest.missing);
    for service in ["mysql", "redis", "app", "nginx", "queue", "scheduler"] {
        let name = format!("log-{}-{service}-1.txt", bench.stack.project);
        assert!(manifest.files.iter().any(|f| f.name == name), "{name}: {manifest:#?}");
    }
    let password = std::fs::read_to_string(&bench.stack.db_root_password_file).unwrap();
    for file in &manifest.files {
        let content = std::fs::read(into.join(&file.name)).unwrap();
        assert_eq!(content.len() as u64, file.bytes);
        assert!(!String::from_utf8_lossy(&content).contains(password.trim()), "{} holds the password", file.name);
    }
}

/// A container of this test's own, removed at its end.
struct Own(String);

impl Own {
    fn docker(arguments: &[&str]) -> String {
        let output = std::process::Command::new("docker").args(arguments).output().unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rm", "-fv", &self.0]).output();
    }
}

#[tokio::test]
async fn during_a_first_start_nothing_is_believed_and_an_empty_server_is_down() {
    let name = "during_a_first_start_nothing_is_believed_and_an_empty_server_is_down";
    let Some(mut bench) = Bench::open(name).await else { return };
    let own = Own(format!("chomt-probe-{}", std::process::id()));
    let secret = format!("{}:/run/secrets/db_root_password:ro", bench.stack.db_root_password_file.display());
    let password = "MYSQL_ROOT_PASSWORD_FILE=/run/secrets/db_root_password";
    Own::docker(&["run", "-d", "--name", &own.0, "-v", &secret, "-e", password, &bench.stack.db_image]);
    let address = Own::docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", &own.0]);
    bench.system.database.address = Some(format!("{address}:3306"));

    let end = tokio::time::Instant::now() + Duration::from_mins(3);
    let mut before = std::collections::BTreeSet::new();
    let health = loop {
        assert!(tokio::time::Instant::now() < end, "not up in time; seen before: {before:?}");
        let health = bench.mysql().await;
        assert_eq!(health.status, Status::Down, "{health:#?}");
        if health.class_of() == Some(Class::Empty) {
            break health;
        }
        before.extend(health.class_of());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    // The image makes its data directory first, which takes longer than our first look.
    assert!(before.contains(&Class::Unreachable), "{before:?}");
    assert_eq!(health.facts["tables"], "0");
    let logs = std::process::Command::new("docker").args(["logs", &own.0]).output().unwrap();
    let logs = String::from_utf8_lossy(&logs.stdout).into_owned() + &String::from_utf8_lossy(&logs.stderr);
    assert!(logs.contains("port: 3306"), "answered before the real server was ready:\n{logs}");
}
