//! Indexes that are added after the rows, on a connection of their own, while the next tables are filled.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use crate::{
    error::Result,
    mysql::{quote, session::Session},
};

/// A table by schema and name.
pub(super) type Key = (String, String);

/// What one table still lacks.
pub(super) struct Lacking {
    table: Key,
    adds: Vec<Vec<u8>>,
    done: oneshot::Sender<()>,
}

/// Adds indexes until nobody has another table.
pub(super) async fn serve(mut session: Session, mut tables: mpsc::UnboundedReceiver<Lacking>) -> Result<()> {
    while let Some(Lacking { table: (schema, table), adds, done }) = tables.recv().await {
        let alter = format!("ALTER TABLE {} ", quote::qualified(&schema, &table));
        for add in adds {
            let sql = [alter.as_bytes(), &add].concat();
            session.run(sql).await.map_err(|e| e.during(format!("indexes of table `{schema}.{table}`")))?;
        }
        // Nobody waits when the load has failed elsewhere.
        let _ = done.send(());
    }
    session.close().await;
    Ok(())
}

/// Which tables lack indexes, and which get them now.
pub(super) struct Indexes {
    jobs: mpsc::UnboundedSender<Lacking>,
    lacking: BTreeMap<Key, Vec<Vec<u8>>>,
    running: BTreeMap<Key, oneshot::Receiver<()>>,
}

impl Indexes {
    pub(super) fn new(jobs: mpsc::UnboundedSender<Lacking>) -> Self {
        Self { jobs, lacking: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// Notes what a new table lacks.
    pub(super) fn owe(&mut self, table: Key, adds: Vec<Vec<u8>>) {
        self.lacking.insert(table, adds);
    }

    /// Forgets a table that is removed.
    pub(super) async fn forget(&mut self, table: &Key) {
        self.lacking.remove(table);
        self.wait(table).await;
    }

    pub(super) fn is_lacking(&self, table: &Key) -> bool {
        self.lacking.contains_key(table)
    }

    pub(super) fn is_owed(&self) -> bool {
        !self.lacking.is_empty() || !self.running.is_empty()
    }

    /// Begins to add the indexes of a table whose rows are there.
    pub(super) fn begin(&mut self, table: &Key) {
        if let Some(adds) = self.lacking.remove(table) {
            let (done, running) = oneshot::channel();
            let lacking = Lacking { table: table.clone(), adds, done };
            if self.jobs.send(lacking).is_ok() {
                self.running.insert(table.clone(), running);
            }
        }
    }

    /// Waits until a table has all its indexes, if they are being added.
    pub(super) async fn wait(&mut self, table: &Key) {
        if let Some(running) = self.running.remove(table) {
            finished(running).await;
        }
    }

    /// Waits for those that are being added.
    pub(super) async fn wait_all(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            finished(running).await;
        }
    }

    /// Adds all that are owed.
    pub(super) async fn finish(&mut self) {
        for table in self.lacking.keys().cloned().collect::<Vec<_>>() {
            self.begin(&table);
        }
        self.wait_all().await;
    }
}

/// Waits for the other side. When that has failed, its own error ends the load, and this future with it.
pub(super) async fn finished(reply: oneshot::Receiver<()>) {
    if reply.await.is_err() {
        std::future::pending::<()>().await;
    }
}
