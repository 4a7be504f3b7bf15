//! From a diagnosis to a procedure, and what a diagnosis knows beyond the moment: what is usual, who removed rows, who watches.

use std::{path::PathBuf, time::Duration};

use chom_recovery::probe::latency::LatencyHistory;
use chom_recovery_tests::{
    chaos,
    cli::{Bench, code, lines, shown},
    proxy::{FaultProxy, LineFault},
};
use chrono::{TimeDelta, Utc};
use serde_json::Value;

/// Drafts a configuration of a stack that is whole.
fn open(test: &str) -> Option<Bench> {
    let bench = Bench::open(test)?;
    chaos::mend(bench.stack());
    chaos::up(bench.stack(), &[]);
    Some(bench)
}

fn diagnose(bench: &Bench) -> Value {
    bench.query(&["--json", "diagnose"]).1
}

fn causes(ranked: &Value) -> Vec<&str> {
    ranked.as_array().unwrap().iter().map(|one| one["cause"].as_str().unwrap()).collect()
}

/// The choice that the newest run keeps.
fn choice(bench: &Bench) -> Value {
    bench.query(&["--json", "runs", "show"]).1["choice"].clone()
}

#[test]
fn a_procedure_is_selected_or_asked_for_and_the_run_keeps_why() {
    let Some(bench) = open("a_procedure_is_selected_or_asked_for_and_the_run_keeps_why") else { return };
    let stack = bench.stack();
    let created = bench.run(&["backup", "create", "--component", "database"]);
    assert_eq!(code(&created), 0, "{}", shown(&created));
    let nothing = bench.run(&["recover", "--yes"]);
    assert_eq!(code(&nothing), 0, "{}", shown(&nothing));
    assert!(shown(&nothing).contains("no procedure was begun"), "{}", shown(&nothing));
    let (_, runs) = bench.query(&["--json", "runs", "list"]);
    assert_eq!(runs["items"].as_array().unwrap().len(), 1, "only the backup was: {runs}");

    for service in ["queue", "scheduler"] {
        chaos::kill(stack, service);
    }
    let asked = bench.run(&["recover", "--yes"]);
    assert_eq!(code(&asked), 5, "{}", shown(&asked));
    for command in ["recover --choose queue", "recover --choose scheduler"] {
        assert!(shown(&asked).contains(command), "{}", shown(&asked));
    }
    let other = bench.run(&["recover", "--choose", "nginx", "--yes"]);
    assert_eq!(code(&other), 2, "{}", shown(&other));

    let chosen = bench.run(&["--json", "recover", "--choose", "scheduler", "--yes"]);
    assert_eq!(code(&chosen), 0, "{}", shown(&chosen));
    let summary = lines(&chosen).pop().unwrap();
    assert_eq!((&summary["procedure"], &summary["status"]), (&"recover-scheduler".into(), &"succeeded".into()));
    let kept = choice(&bench);
    assert_eq!((&kept["procedure"], &kept["by"]), (&"scheduler".into(), &"ada".into()), "{kept}");
    assert_eq!(causes(&kept["causes"])[..2], ["queue-stuck", "scheduler-dead"], "{kept}");
    let text = shown(&bench.run(&["runs", "show"]));
    assert!(text.contains("chosen by ada") && text.contains("queue-stuck"), "{text}");

    // One cause is left, and it selects alone.
    let selected = bench.run(&["--json", "recover", "--yes"]);
    assert_eq!(code(&selected), 0, "{}", shown(&selected));
    let kept = choice(&bench);
    assert_eq!((&kept["procedure"], &kept["by"]), (&"queue".into(), &Value::Null), "{kept}");
    assert!(shown(&bench.run(&["runs", "show"])).contains("selected by the most probable"));
    bench.roll_back();
    assert_eq!(choice(&bench)["procedure"], "queue", "a rollback takes nothing of the record");
    chaos::up(stack, &[]);
}

fn history_file(bench: &Bench) -> PathBuf {
    bench.folder().join(format!("state/latency-{}.json", bench.system().id))
}

#[tokio::test]
async fn slower_than_usual_is_told_and_only_health_and_metrics_remember() {
    let Some(bench) = open("slower_than_usual_is_told_and_only_health_and_metrics_remember") else { return };
    let server = format!("127.0.0.1:{}", bench.stack().port).parse().unwrap();
    let line = FaultProxy::start(server).await;
    let file = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let through = text.replace(&format!("connect_to = \"{server}\""), &format!("connect_to = \"{}\"", line.address()));
    assert_ne!(text, through);
    std::fs::write(&file, through).unwrap();
    let bench = std::sync::Arc::new(bench);
    // The program is waited for, while the line goes on.
    let run = async |arguments: &'static [&'static str]| {
        let bench = bench.clone();
        tokio::task::spawn_blocking(move || bench.run(arguments)).await.unwrap()
    };
    let diagnosed = async || lines(&run(&["--json", "diagnose"]).await)[0].clone();

    let found = diagnosed().await;
    let answer = |found: &Value| {
        found["health"]["answers"].as_array().unwrap().iter().find(|a| a["probe"] == "http-health").unwrap().clone()
    };
    assert!(answer(&found)["facts"]["no_baseline"].as_str().unwrap().starts_with("0 of 20"), "{found:#}");
    assert!(!history_file(&bench).exists(), "`diagnose` writes nothing");
    for (arguments, measurements) in
        [(&["--json", "health", "--mode", "monitoring"] as &[&str], 1), (&["--json", "metrics"], 1)]
    {
        let said = run(arguments).await;
        let history = LatencyHistory::open(&bench.system()).unwrap();
        let baseline = history.baseline(&bench.system().http[0], Utc::now());
        assert_eq!(baseline.measurements, measurements, "{arguments:?}: {}", shown(&said));
    }
    std::fs::remove_file(history_file(&bench)).unwrap();
    run(&["--json", "metrics"]).await;
    assert!(history_file(&bench).exists(), "`metrics` remembers too");

    std::fs::remove_file(history_file(&bench)).unwrap();
    let (system, now) = (bench.system(), Utc::now());
    let mut history = LatencyHistory::open(&system).unwrap();
    for i in 1..=20 {
        history.note(&system.http[0], Duration::from_millis(30), now - TimeDelta::minutes(200 - 6 * i));
    }
    history.save(&system.http, now).unwrap();
    let before = std::fs::read(history_file(&bench)).unwrap();
    for _ in 0..200 {
        line.fail(LineFault::Delay(Duration::from_millis(120)));
    }
    let found = diagnosed().await;
    assert_eq!(answer(&found)["facts"]["class"], "slow", "{found:#}");
    assert_eq!(found["diagnoses"][0]["cause"], "slow", "{found:#}");
    assert!(found["diagnoses"][0]["disproved_by"].as_str().unwrap().contains("up to 30 ms"), "{found:#}");
    run(&["--json", "health", "--mode", "monitoring"]).await;
    assert_eq!(std::fs::read(history_file(&bench)).unwrap(), before, "what is slow is not remembered");
}

#[test]
fn who_removed_rows_is_asked_of_server_and_application() {
    let Some(bench) = open("who_removed_rows_is_asked_of_server_and_application") else { return };
    let stack = bench.stack();
    let program = if stack.db == "mysql" { "mysql" } else { "mariadb" };
    let sql = |text: &str| {
        let script =
            format!("MYSQL_PWD=$(cat /run/secrets/db_root_password) {program} --user=root --batch -N -e \"{text}\"");
        String::from_utf8_lossy(&chaos::shell(stack, "mysql", &script).stdout).trim().to_owned()
    };
    bench.configure("");
    let file = bench.folder().join("chom-recovery.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, after) = text.split_once("\n[redis]\n").unwrap();
    let audit = "[application.audit]\ntable = \"chom.audit_log\"";
    std::fs::write(&file, format!("{before}\n{audit}\n\n[redis]\n{after}")).unwrap();

    let rows = (1..=50).map(|id| format!("({id})")).collect::<Vec<_>>().join(",");
    sql(&format!(
        "DROP TABLE IF EXISTS chom.of_a_test; CREATE TABLE chom.of_a_test (id INT PRIMARY KEY); INSERT INTO chom.of_a_test VALUES {rows}"
    ));
    let created = bench.run(&["--json", "backup", "create", "--component", "database"]);
    assert_eq!(code(&created), 0, "{}", shown(&created));
    // Times are whole seconds where they are compared.
    std::thread::sleep(Duration::from_millis(1_100));
    sql(
        "DELETE FROM chom.of_a_test WHERE id > 7; INSERT INTO chom.audit_log (user_id, action, subject) VALUES (1, 'of_a_test.deleted', 'of a test')",
    );
    let found = diagnose(&bench);
    let is_counted = sql("SELECT @@global.performance_schema") == "1";
    sql("DROP TABLE chom.of_a_test; DELETE FROM chom.audit_log WHERE subject = 'of a test'");

    let ranked = found["diagnoses"].as_array().unwrap();
    let missing = ranked.iter().find(|one| one["cause"] == "rows-missing").unwrap_or_else(|| panic!("{found:#}"));
    let evidence: Vec<&str> = missing["evidence"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    assert!(evidence[0].contains("chom.of_a_test lacks 43 of 50"), "{evidence:#?}");
    let has = |what: &str| evidence.iter().any(|line| line.contains(what));
    assert!(has("1: of_a_test.deleted 1 times"), "{evidence:#?}");
    if is_counted {
        assert!(evidence[1].contains("`of_a_test`") && evidence[1].contains("removed 43 rows"), "{evidence:#?}");
        assert!(has("account root@"), "{evidence:#?}");
    } else {
        assert!(has("`performance_schema` is off"), "{evidence:#?}");
    }
}

#[test]
fn what_watches_the_project_is_drafted_where_it_answers() {
    let Some(bench) = Bench::drafted("what_watches_the_project_is_drafted_where_it_answers") else { return };
    let monitoring = bench.system().monitoring;
    let Some(port) = bench.stack().prometheus_port else {
        assert!(monitoring.is_absent(), "{monitoring:?}");
        return;
    };
    assert_eq!(monitoring.prometheus.unwrap().url, format!("http://127.0.0.1:{port}"));
    for job in ["node", "prometheus"] {
        assert!(monitoring.targets.iter().any(|target| target == job), "{:?}", monitoring.targets);
    }
    let text = std::fs::read_to_string(bench.folder().join("chom-recovery.toml")).unwrap();
    match monitoring.alertmanager {
        Some(server) => {
            let port = bench.stack().alertmanager_port.unwrap();
            assert_eq!(server.url, format!("http://127.0.0.1:{port}"));
        }
        // Without a rule in Prometheus, no alert means nothing.
        None => assert!(text.contains("monitoring.alertmanager: `alertmanager` runs, and says"), "{text}"),
    }
    assert!(monitoring.loki.is_none(), "there is none");
    let checked = bench.run(&["config", "check"]);
    assert!(shown(&checked).contains("targets"), "{}", shown(&checked));
}
