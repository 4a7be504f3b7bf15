//! A service that chom-recovery does not know, with a probe and a recovery of its own: a search index in a second redis.
//! It is built beside the one that serves, and takes its place by one command; `rollback` puts the old one back.
use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use chom_recovery::{
    Error, ErrorKind, Result, System,
    backend::{Backend, BackendExt},
    objective::Objective,
    probe::{Health, HealthProbe},
    procedure::{Parts, Procedure, Recovered, proof},
    run::{Effect, Run, Undo},
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};

/// Sends commands of one line each to the service `search`, and returns the last answer.
async fn ask(backend: &Arc<dyn Backend>, lines: &[String]) -> Result<String> {
    let container = backend.service_containers("search").await?.remove(0);
    let endpoint = backend.endpoint(&container.name, 6379).await?;
    let mut stream = BufStream::new(tokio::net::TcpStream::connect((&*endpoint.host, endpoint.port)).await?);
    let mut answer = String::new();
    for line in lines {
        answer.clear();
        stream.write_all(format!("{line}\r\n").as_bytes()).await?;
        stream.flush().await?;
        stream.read_line(&mut answer).await?;
        if !answer.starts_with([':', '+']) {
            return Err(Error::new(ErrorKind::Failed, format!("search: {}", answer.trim())));
        }
    }
    Ok(answer.trim()[1..].to_owned())
}

/// Whether the index of database 0, which serves, holds documents.
#[derive(Debug)]
pub struct IndexProbe(pub Arc<dyn Backend>);

#[async_trait]
impl HealthProbe for IndexProbe {
    fn name(&self) -> &'static str {
        "search-index"
    }
    async fn check(&self) -> Health {
        match ask(&self.0, &["HLEN index".into()]).await {
            Ok(count) if count == "0" => Health::down("the index is empty"),
            Ok(count) => Health::healthy(format!("{count} documents")),
            Err(error) => Health::down(error.to_string()),
        }
    }
}

/// Makes the index whose mark is wanted the one that serves; doing it again changes nothing.
async fn serve(backend: &Arc<dyn Backend>, mark: String, is_wanted: bool) -> Result<()> {
    let serves = ask(backend, &[format!("EXISTS {mark}")]).await? == "1";
    if serves == is_wanted { Ok(()) } else { ask(backend, &["SWAPDB 0 1".into()]).await.map(drop) }
}

/// Builds the index anew from a file with one document a line.
#[derive(Debug)]
pub struct SearchIndex;

/// That file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Documents(pub PathBuf);

#[async_trait]
impl Procedure for SearchIndex {
    type Request = Documents;
    fn name(&self) -> &'static str {
        "recover-search-index"
    }
    fn objective(&self, system: &System) -> Objective {
        system.objectives.database
    }
    async fn recover(&self, run: &Run, parts: &Parts, request: &Documents) -> Result<Recovered> {
        let began = proof::moment(run, "began").await?;
        let (backend, source, mark) = (parts.backend.clone(), request.0.clone(), format!("built:{}", run.id()));
        let (build, swap, back) = (backend.clone(), backend.clone(), backend.clone());
        let (marked, served, left) = (mark.clone(), mark.clone(), mark);
        let step =
            run.step("build-beside").effect(Effect::Idempotent).predict(String::new).timeout(Duration::from_mins(10));
        let built = step.undo(Undo::Unnecessary("nobody reads what lies beside")).run(async move |_| {
            let text = std::fs::read_to_string(source)?;
            let documents = text.lines().enumerate().map(|(n, line)| format!("HSET index {n} {line:?}"));
            let empty = ["SELECT 1".into(), "FLUSHDB".into(), format!("SET {marked} 1")].into_iter();
            ask(&build, &empty.chain(documents).chain(["HLEN index".into()]).collect::<Vec<_>>()).await
        });
        let count = built.await?;
        let step = run.step("swap").effect(Effect::Idempotent).predict(|| ()).timeout(Duration::from_mins(1));
        let undone = step.undo_with(async move |_, _: Option<()>| serve(&back, left, false).await);
        undone.run(async move |_| serve(&swap, served, true).await).await?;
        run.until_healthy(Arc::new(IndexProbe(backend)), proof::STEADY).await?;
        let mut report = Recovered::new(self.objective(&parts.system), began, proof::moment(run, "proven").await?);
        report.done.push(format!("{count} documents are searchable"));
        Ok(report)
    }
}
