//! Questions to the HTTP APIs of monitoring servers.

use reqwest::{RequestBuilder, Url};
use serde::de::DeserializeOwned;

use crate::{
    probe::{
        Class, Health,
        http::{HttpAnswer, Server, exchange, shown},
        net::short,
    },
    secret::Secret,
    system::MonitoringServer,
};

/// Asks a path of the API, and reads the answer as JSON. The error is already the probe's answer.
pub(super) async fn get<T: DeserializeOwned>(
    server: &MonitoringServer,
    path: &str,
    query: &[(&str, &str)],
) -> Result<T, Health> {
    let answer = fetch(server, path, query).await?;
    if answer.truncated {
        return Err(Health::inconclusive(format!("`{path}`: the answer is larger than 1 MiB")));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|e| Health::inconclusive(format!("`{path}`: the answer has another form: {e}")))
}

/// Asks a path of the API.
pub(super) async fn fetch(server: &MonitoringServer, path: &str, query: &[(&str, &str)]) -> Result<HttpAnswer, Health> {
    let credentials = Credentials::of(server).await?;
    let unusable = |why: String| Health::inconclusive(format!("`{}`: {why}", shown(&server.url)));
    let mut url: Url =
        format!("{}{path}", server.url.trim_end_matches('/')).parse().map_err(|e| unusable(format!("no URL: {e}")))?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    let to = Server { ca_file: server.ca_file.as_deref(), connect_to: server.connect_to };
    let answer = exchange(&to, url.as_str(), |client, url| credentials.sign(client.get(url)))
        .await
        .map_err(|e| e.into_health(unusable))?;
    match answer.status {
        200 => Ok(answer),
        401 | 403 => Err(Health::inconclusive(format!("status {}: our credentials are refused", answer.status))
            .class(Class::Authentication)),
        status => Err(Health::down(format!(
            "`{path}`: status {status}: {}",
            short(&String::from_utf8_lossy(&answer.body), 200)
        ))
        .class(Class::HttpStatus)),
    }
}

enum Credentials {
    None,
    Token(Secret),
    Basic(String, Secret),
}

impl Credentials {
    async fn of(server: &MonitoringServer) -> Result<Self, Health> {
        let unread = |e| Health::inconclusive(format!("no credentials: {e}")).class(Class::Secret);
        Ok(match (&server.token, &server.user, &server.password) {
            (Some(token), _, _) => Self::Token(token.resolve().await.map_err(unread)?),
            (None, Some(user), Some(password)) => Self::Basic(user.clone(), password.resolve().await.map_err(unread)?),
            _ => Self::None,
        })
    }

    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Token(token) => request.bearer_auth(token.expose()),
            Self::Basic(user, password) => request.basic_auth(user, Some(password.expose())),
        }
    }
}
