//! Closing a recovery, on a stack that a real Prometheus and a real Alertmanager watch.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use chom_recovery_tests::{
    cli::{Bench, code, lines},
    loki::Loki,
    skip,
};
use serde_json::Value;

/// The stack's monitoring, as an operator sets it up: our rules, our metrics, and an alert that can be raised.
struct Watched {
    bench: Bench,
    folder: PathBuf,
    loki: Loki,
}

impl Watched {
    fn open(test: &str) -> Option<Self> {
        let bench = Bench::open(test)?;
        let (Some(prometheus), Some(alertmanager)) = (bench.stack().prometheus_port, bench.stack().alertmanager_port)
        else {
            skip(test, "the stack was started without --monitoring");
            return None;
        };
        let folder = bench.stack().site.join("monitoring");
        let this = Self { bench, folder, loki: Loki::start() };
        this.raise_alert(false);
        this.write("rules/chom.yml", &this.rules());
        this.reload(prometheus);
        this.bench.without_drafted_components();
        this.bench.without_drafted_monitoring();
        let stack = this.bench.stack();
        this.bench.configure(&format!(
            r#"
            [[components]]
            name = "nginx"
            service = "nginx"
            path = "/etc/nginx/conf.d"
            [monitoring]
            prometheus = {{ url = "http://127.0.0.1:{prometheus}" }}
            targets = ["node", "prometheus/localhost:9090"]
            scrape_age = "30s"
            normal = [{{ name = "memory", query = "node_memory_MemAvailable_bytes", min = 1 }}]
            alertmanager = {{ url = "http://127.0.0.1:{alertmanager}" }}
            alerts = ['system="{system}"']
            loki = {{ url = "{loki}" }}
            logs = '{{job="shop"}}'
            [synthetic]
            url = "{url}"
            ca_file = "{ca}"
            connect_to = "127.0.0.1:{port}"
            user = "synthetic@example.test"
            password = {{ file = "{password}" }}
            upload = "/api/upload"
            "#,
            system = this.bench.system().id,
            loki = this.loki.url(),
            url = stack.url,
            ca = stack.ca.display(),
            port = stack.port,
            password = stack.site.join("secrets/synthetic_password").display(),
        ));
        Some(this)
    }

    fn rules(&self) -> String {
        let printed = self.bench.run(&["metrics", "--rules"]);
        assert_eq!(code(&printed), 0, "{printed:?}");
        let of_test = format!(
            "      - alert: OfTheTest\n        expr: 'chom_of_the_test{{system=\"{}\"}} == 1'\n",
            self.bench.system().id
        );
        String::from_utf8(printed.stdout).unwrap() + &of_test
    }

    fn raise_alert(&self, is_raised: bool) {
        let (system, value) = (self.bench.system().id, u8::from(is_raised));
        self.write("textfile/of_the_test.prom", &format!("chom_of_the_test{{system=\"{system}\"}} {value}\n"));
    }

    fn write(&self, file: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join(file);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Makes Prometheus read the rules, and waits until it has them and knows where alerts go.
    fn reload(&self, prometheus: u16) {
        self.bench.docker(&["kill", "--signal", "HUP", &self.container("prometheus")]);
        let says = |path: &str, word: &str| {
            let url = format!("http://127.0.0.1:{prometheus}/api/v1/{path}");
            let asked = Command::new("curl").args(["--silent", "--max-time", "5", &url]).output().unwrap();
            String::from_utf8_lossy(&asked.stdout).contains(word)
        };
        let deadline = Instant::now() + Duration::from_mins(1);
        while !(says("rules", "OfTheTest") && says("alertmanagers", "alertmanager:9093")) {
            assert!(Instant::now() < deadline, "Prometheus has not read the rules");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.bench.stack().project)
    }

    /// Asks how the items stand.
    fn items(&self, more: &[&str]) -> Vec<(String, String, String)> {
        let (_, plan) = self.bench.query(&[&["--json", "close", "--plan"], more].concat());
        let field = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let items = plan["items"].as_array().unwrap_or_else(|| panic!("{plan}"));
        let checks = items.iter().filter(|item| item["verdict"].is_string());
        checks.map(|i| (field(i, "item"), field(i, "verdict"), field(i, "evidence"))).collect()
    }

    fn open_items(&self, more: &[&str]) -> Vec<String> {
        self.items(more).into_iter().filter(|i| i.1 == "failed").map(|i| i.0).collect()
    }

    /// Waits until exactly these items, besides the logs, are open: errors of other tests are in the logs for a while.
    fn wait_for_open(&self, wanted: &[&str], more: &[&str]) {
        let deadline = Instant::now() + Duration::from_mins(4);
        loop {
            let open: Vec<_> = self.open_items(more).into_iter().filter(|item| item != "logs").collect();
            if open == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{open:?}, not {wanted:?}: {:#?}", self.items(more));
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

impl Drop for Watched {
    /// Rules that stay would raise true alerts, about backups of a repository that is gone with the test.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.folder.join("rules/chom.yml"));
        self.bench.try_docker(&["kill", "--signal", "HUP", &self.container("prometheus")]);
    }
}

#[test]
fn a_recovery_is_closed_when_every_item_is_in_order_vouched_for_or_waived() {
    let test = "a_recovery_is_closed_when_every_item_is_in_order_vouched_for_or_waived";
    let Some(watched) = Watched::open(test) else { return };
    let bench = &watched.bench;
    let nothing = bench.run(&["close"]);
    assert_eq!(code(&nothing), 10, "there is no recovery yet: {nothing:?}");
    for arguments in [&["backup", "create"][..], &["restore", "--component", "nginx", "--yes"]] {
        let done = bench.run(arguments);
        assert_eq!(code(&done), 0, "{done:?}");
    }
    let (_, status) = bench.query(&["--json"]);
    let run = status["unclosed"][0]["run"].as_str().unwrap_or_else(|| panic!("{status}")).to_owned();
    let next = status["next"].as_array().unwrap();
    assert!(next.iter().any(|n| n["command"] == format!("chom-recovery close {run}")), "{status}");

    // What nobody has configured is open as well as what is not in order. A target that is down takes what it measures along.
    watched.wait_for_open(&["external", "dns", "backup", "documented"], &[]);
    watched.loki.newest(None);
    watched.raise_alert(true);
    bench.docker(&["stop", &watched.container("node-exporter")]);
    watched.wait_for_open(&["metrics", "log-ingestion", "external", "dns", "dashboards", "backup", "documented"], &[]);
    bench.docker(&["start", &watched.container("node-exporter")]);
    watched.wait_for_open(&["log-ingestion", "external", "dns", "alerts", "backup", "documented"], &[]);
    let refused = bench.run(&["close"]);
    assert_eq!(code(&refused), 6, "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for item in ["log-ingestion", "external", "dns", "alerts", "backup", "documented"] {
        assert!(said.contains(item), "{item}: {said}");
    }
    watched.loki.newest(Some(20));
    watched.raise_alert(false);

    let taken = bench.run(&["backup", "create"]);
    assert_eq!(code(&taken), 0, "a recovery that cannot be closed yet is in nobody's way: {taken:?}");
    let words = [
        "--attest",
        "external=asked from a phone",
        "--attest",
        "documented=ticket 42",
        "--waive",
        "dns=the name did not change",
        "--waive",
        "logs=errors of the tests before",
    ];
    watched.wait_for_open(&[], &words);
    for (wrong, word) in [("metrics=I saw it", "asked by probes"), ("weather=fine", "no item")] {
        let refused = bench.run(&["close", "--attest", wrong]);
        assert_eq!(code(&refused), 2, "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(word), "{refused:?}");
    }
    let closed = bench.run(&[&["--json", "close", &run], &words[..]].concat());
    assert_eq!(code(&closed), 0, "{closed:?}");
    let summary = lines(&closed).pop().unwrap();
    assert_eq!(summary["checklist"].as_array().unwrap().len(), 15, "{summary}");
    assert_eq!(summary["achieved"]["run"], run.as_str());

    let (_, report) = bench.query(&["--json", "runs", "show", &run]);
    assert_eq!(report["closed"]["by"], "ada", "{report}");
    let exceptions = report["closed"]["exceptions"].to_string();
    for word in ["asked from a phone", "ticket 42", "the name did not change"] {
        assert!(exceptions.contains(word), "{exceptions}");
    }
    let (_, status) = bench.query(&["--json"]);
    assert_eq!(status["unclosed"], Value::Array(vec![]), "{status}");
    let again = bench.run(&["close", &run]);
    assert_eq!(code(&again), 6, "{again:?}");
}
