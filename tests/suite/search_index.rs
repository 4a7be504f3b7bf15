//! The example of a service of one's own: planned, recovered, rolled back, on a real search index.

use chom_recovery::{
    Recovery,
    probe::{HealthProbe, Status},
    recovery::{Report, RunOptions},
};
use chom_recovery_examples::search_index::{Documents, IndexProbe, SearchIndex};
use chom_recovery_tests::cli::Bench;

/// A second redis in the project; it is removed at the end, however that comes.
struct Search<'a>(&'a Bench, String);

impl<'a> Search<'a> {
    fn start(bench: &'a Bench) -> Self {
        let file = bench.folder().join("search.yaml");
        std::fs::write(&file, "services:\n  search:\n    image: chom/redis:latest\n    networks: [backend]\n").unwrap();
        let search = Self(bench, file.to_str().unwrap().to_owned());
        search.compose(&["up", "--detach", "--no-deps", "--no-recreate", "search"]);
        search
    }

    fn compose(&self, arguments: &[&str]) {
        let compose = self.0.stack().compose.to_str().unwrap();
        self.0.docker(&[&["compose", "-f", compose, "-f", &self.1], arguments].concat());
    }
}

impl Drop for Search<'_> {
    fn drop(&mut self) {
        self.compose(&["rm", "--stop", "--force", "--volumes", "search"]);
    }
}

#[tokio::test]
async fn a_service_of_ones_own_is_planned_recovered_and_rolled_back() {
    let Some(bench) = Bench::open("a_service_of_ones_own_is_planned_recovered_and_rolled_back") else { return };
    let _search = Search::start(&bench);
    let recovery = Recovery::open(bench.system()).await.unwrap().with_procedure(SearchIndex);
    let probe = IndexProbe(recovery.backend().clone());
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while probe.check().await.summary != "the index is empty" {
        assert!(std::time::Instant::now() < deadline, "{:?}", probe.check().await);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let file = bench.folder().join("documents.txt");
    std::fs::write(&file, "a red bicycle\na \"blue\" one\n").unwrap();
    let options = || RunOptions { operator: Some("ada".into()), ..RunOptions::default() };

    let plan = recovery.plan_recovery(&SearchIndex, &Documents(file.clone()), &options()).await.unwrap();
    assert!(format!("{plan:?}").contains("build-beside"), "{plan:?}");
    assert_eq!(probe.check().await.status, Status::Down, "a plan does nothing");
    let going = recovery.recover(SearchIndex, Documents(file.clone()), options()).await.unwrap();
    let id = going.id();
    let Report::Recovered(report) = going.finish().await.unwrap() else { panic!("another report") };
    assert_eq!(report.done, ["2 documents are searchable"]);
    assert_eq!(probe.check().await.summary, "2 documents");
    let undone = recovery.roll_back(id, "a test", options()).await.unwrap();
    assert!(undone.contains(&"swap".to_owned()), "{undone:?}");
    assert_eq!(probe.check().await.summary, "the index is empty");
}
