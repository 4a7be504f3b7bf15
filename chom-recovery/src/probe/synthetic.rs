//! What a user does: log in, and where that is configured store, read and delete a file.
//!
//! Nothing of the application's own tests is run: they may empty the database that they find.

use async_trait::async_trait;
use reqwest::{RequestBuilder, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{
    Class, Health, HealthProbe,
    http::{HttpAnswer, Server, exchange, shown},
    net::{self, short},
};
use crate::{secret::Secret, system::Synthetic};

/// Name of the probe.
pub const SYNTHETIC: &str = "synthetic-user";

/// Logs the synthetic account in, does what is configured, and logs it out.
#[derive(Debug)]
pub struct SyntheticProbe {
    account: Synthetic,
}

impl SyntheticProbe {
    /// Makes the probe `synthetic-user`.
    pub fn new(account: Synthetic) -> Self {
        Self { account }
    }

    async fn ask(&self) -> Result<Health, Health> {
        let token = self.log_in().await?;
        let stored = match &self.account.upload {
            Some(path) => self.store(path, &token).await,
            None => Ok(None),
        };
        let ended = self
            .exchange(&self.account.logout, "log out", |client, url| client.post(url).bearer_auth(token.expose()))
            .await;
        let stored = stored?;
        wanted("log out", &ended?, is_success)?;
        let what = stored.map_or_else(String::new, |bytes| format!(", stored, read and deleted {bytes} bytes"));
        Ok(Health::healthy(format!("logged in{what}, logged out")).class(Class::Ok))
    }

    async fn log_in(&self) -> Result<Secret, Health> {
        let account = &self.account;
        let password = account
            .password
            .resolve()
            .await
            .map_err(|e| Health::inconclusive(format!("no password: {e}")).class(Class::Secret))?;
        let body = json!({ account.user_field.as_str(): account.user, "password": password.expose() }).to_string();
        let answer = self
            .exchange(&account.login, "log in", |client, url| {
                client
                    .post(url)
                    .header(CONTENT_TYPE, "application/json")
                    .header("accept", "application/json")
                    .body(body)
            })
            .await?;
        if matches!(answer.status, 401 | 403 | 422) {
            return Err(Health::down(format!("log in: status {}: the account is refused", answer.status))
                .class(Class::Authentication));
        }
        wanted("log in", &answer, is_success)?;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match answer[account.token_field.as_str()].as_str() {
            Some(token) if !token.is_empty() => Ok(Secret::new(token)),
            _ => Err(Health::down(format!("log in: the answer has no `{}`", account.token_field)).class(Class::Body)),
        }
    }

    /// Stores a canary, reads it back, deletes it and makes sure that it is gone. Returns its length.
    async fn store(&self, path: &str, token: &Secret) -> Result<Option<usize>, Health> {
        let canary = format!("chom-recovery canary {}", hex::encode(rand::random::<[u8; 16]>()));
        let signed = |request: RequestBuilder| request.bearer_auth(token.expose()).header("accept", "application/json");
        let (kind, body) = form(&self.account.upload_field, &canary);
        let answer = self
            .exchange(path, "upload", |client, url| signed(client.post(url)).header(CONTENT_TYPE, kind).body(body))
            .await?;
        wanted("upload", &answer, is_success)?;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let id = match &answer["id"] {
            Value::String(id) => id.clone(),
            Value::Number(id) => id.to_string(),
            _ => String::new(),
        };
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)) {
            return Err(Health::down("upload: the answer has no `id`").class(Class::Body));
        }
        let one = format!("{}/{id}", path.trim_end_matches('/'));
        let read = self.exchange(&one, "read the upload", |client, url| signed(client.get(url))).await;
        // Deleted before what was read is judged: nothing may stay behind.
        let deleted = self.exchange(&one, "delete the upload", |client, url| signed(client.delete(url))).await;
        let read = read?;
        wanted("read the upload", &read, is_success)?;
        if read.body != canary.as_bytes() {
            return Err(Health::down("the upload came back with other content").class(Class::Body));
        }
        wanted("delete the upload", &deleted?, is_success)?;
        let gone = self.exchange(&one, "read what was deleted", |client, url| signed(client.get(url))).await?;
        wanted("read what was deleted", &gone, |status| matches!(status, 404 | 410))?;
        Ok(Some(canary.len()))
    }

    async fn exchange(
        &self,
        path: &str,
        what: &str,
        request: impl FnOnce(&reqwest::Client, reqwest::Url) -> RequestBuilder,
    ) -> Result<HttpAnswer, Health> {
        let server = Server { ca_file: self.account.ca_file.as_deref(), connect_to: self.account.connect_to };
        let url = format!("{}{path}", self.account.url.trim_end_matches('/'));
        exchange(&server, &url, request).await.map_err(|e| {
            let health = e.into_health(Health::inconclusive);
            Health { summary: format!("{what}: {}", health.summary), ..health }
        })
    }
}

#[async_trait]
impl HealthProbe for SyntheticProbe {
    fn name(&self) -> &str {
        SYNTHETIC
    }

    async fn check(&self) -> Health {
        let asked = async { self.ask().await.unwrap_or_else(|failure| failure) };
        net::bounded(net::WHOLE, asked).await.fact("url", shown(&self.account.url)).fact("user", &self.account.user)
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn wanted(what: &str, answer: &HttpAnswer, is_wanted: impl FnOnce(u16) -> bool) -> Result<(), Health> {
    if is_wanted(answer.status) {
        return Ok(());
    }
    let body = short(&String::from_utf8_lossy(&answer.body), 200);
    Err(Health::down(format!("{what}: status {}: {body}", answer.status)).class(Class::Application))
}

/// A form with one file (RFC 7578).
fn form(field: &str, content: &str) -> (String, String) {
    let boundary = format!("chom-recovery-{}", hex::encode(rand::random::<[u8; 12]>()));
    let body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"canary.txt\"\r\n\
         Content-Type: text/plain\r\n\r\n{content}\r\n--{boundary}--\r\n"
    );
    (format!("multipart/form-data; boundary={boundary}"), body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        probe::{Status, testing},
        secret::SecretSource,
    };

    async fn asked(answer: &str) -> Health {
        let port = testing::http(answer, std::time::Duration::ZERO).await;
        let account: Synthetic = toml::from_str(&format!(
            "url = \"http://127.0.0.1:{port}\"\nuser = \"u\"\npassword = {{ command = [\"echo\", \"pass-of-a-user\"] }}"
        ))
        .unwrap();
        assert_eq!(account.password, SecretSource::Command(vec!["echo".into(), "pass-of-a-user".into()]));
        SyntheticProbe::new(account).check().await
    }

    #[tokio::test]
    async fn a_login_without_a_token_is_no_login() {
        let good = asked("HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n{\"token\":\"abcdef-ghijkl\"}").await;
        assert_eq!(good.status, Status::Healthy, "{good:?}");
        let empty = asked("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        assert_eq!((empty.status, empty.class_of()), (Status::Down, Some(Class::Body)));
        let refused = asked("HTTP/1.1 422 X\r\ncontent-length: 14\r\n\r\npass-of-a-user").await;
        assert_eq!((refused.status, refused.class_of()), (Status::Down, Some(Class::Authentication)));
        let failed = asked("HTTP/1.1 500 X\r\ncontent-length: 14\r\n\r\npass-of-a-user").await;
        assert_eq!(failed.class_of(), Some(Class::Application));
        assert!(!format!("{failed:?}").contains("pass-of-a-user"), "{failed:?}");
    }
}
