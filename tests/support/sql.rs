//! Questions to the stack's database, past the library that is under test.

use std::sync::Arc;

use chom_recovery::backend::{Backend, BackendExt, Endpoint};
use mysql_async::prelude::Queryable;

use crate::Stack;

/// A connection as root.
#[derive(Debug)]
pub struct Sql {
    connection: mysql_async::Conn,
    _endpoint: Endpoint,
}

impl Sql {
    /// Connects to the service `mysql`.
    ///
    /// # Panics
    /// It cannot be reached.
    pub async fn open(stack: &Stack, backend: &Arc<dyn Backend>) -> Self {
        let container = backend.service_containers("mysql").await.unwrap().remove(0);
        let endpoint = backend.endpoint(&container.name, 3306).await.unwrap();
        let password = std::fs::read_to_string(&stack.db_root_password_file).unwrap();
        let options = mysql_async::OptsBuilder::default()
            .ip_or_hostname(endpoint.host.clone())
            .tcp_port(endpoint.port)
            .user(Some("root"))
            .pass(Some(password.trim_end()))
            .prefer_socket(false);
        let connection = mysql_async::Conn::new(options).await.unwrap();
        Self { connection, _endpoint: endpoint }
    }

    /// Reads one value as text.
    ///
    /// # Panics
    /// The statement fails or returns no row.
    pub async fn text(&mut self, statement: &str) -> String {
        self.connection.query_first(statement).await.unwrap().expect("a row")
    }

    /// Reads the second value of the only row as text, as of a `SHOW CREATE`.
    ///
    /// # Panics
    /// The statement fails or returns no such row.
    pub async fn second(&mut self, statement: &str) -> String {
        let row: mysql_async::Row = self.connection.query_first(statement).await.unwrap().expect("a row");
        row.get(1).expect("a second value")
    }

    /// Runs a statement.
    ///
    /// # Panics
    /// It fails.
    pub async fn run(&mut self, statement: &str) {
        self.connection.query_drop(statement).await.unwrap();
    }
}
