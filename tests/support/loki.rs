//! A stand-in for Loki, which no archive packages: it speaks the part of its HTTP API that is asked, with one line in it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{TimeDelta, Utc};

/// A server on a port of this host, until the test's process ends.
#[derive(Debug)]
pub struct Loki {
    port: u16,
    /// Seconds since the newest line; negative: there is none.
    age: Arc<AtomicI64>,
}

impl Loki {
    /// Starts it, with a line of this moment in each answer.
    ///
    /// # Panics
    /// No port is free.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let age = Arc::new(AtomicI64::new(0));
        let told = age.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(&stream, told.load(Ordering::Relaxed));
            }
        });
        Self { port, age }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets how many seconds ago the newest line was written; `None`: there is no line.
    pub fn newest(&self, seconds_ago: Option<i64>) {
        self.age.store(seconds_ago.unwrap_or(-1), Ordering::Relaxed);
    }
}

fn answer(stream: &TcpStream, age: i64) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // To the empty line: an answer before the end of the request would look like a fault of the line.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let body = if path == "/ready" {
        "ready\n".to_owned()
    } else if path.starts_with("/loki/api/v1/query_range?") && path.contains("query=%7B") {
        let at = (Utc::now() - TimeDelta::seconds(age)).timestamp_nanos_opt().unwrap_or_default();
        let stream = format!(r#"{{"stream":{{"job":"shop"}},"values":[["{at}","a line"]]}}"#);
        let result = if age < 0 { String::new() } else { stream };
        format!(r#"{{"status":"success","data":{{"resultType":"streams","result":[{result}],"stats":{{}}}}}}"#)
    } else {
        return write!(&mut &*stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    };
    let length = body.len();
    write!(&mut &*stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}
