//! Secrets are taken out of evidence: those that are known by name, and what looks like one.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    backend::{Backend, Container, MountSource},
    secret::{REDACTED, Secret, scrub},
    system::System,
};

/// Longest file that is read for its secrets.
const FILE_LIMIT: u64 = 64 << 10;
/// Words in the name of a variable that say that its value is a secret.
const NAMES: &[&str] = &["PASSWORD", "PASSWD", "SECRET", "TOKEN", "_KEY", "APIKEY", "PRIVATE", "CREDENTIAL", "DSN"];
/// Time for learning, of the whole deadline.
const LEARN: Duration = Duration::from_secs(10);

/// Learns the secrets of the system and of its containers, so that they are found and blanked in what is gathered.
///
/// What cannot be read cannot be looked for; it is not in what is gathered by its name either.
pub(super) async fn learn(system: &System, backend: &Arc<dyn Backend>, until: Instant) {
    let until = until.min(Instant::now() + LEARN);
    let sources = [Some(&system.database.password), system.redis.as_ref().and_then(|r| r.password.as_ref())];
    for source in sources.into_iter().flatten() {
        let _ = tokio::time::timeout_at(until, source.resolve()).await;
    }
    let _ = tokio::time::timeout_at(until, learn_of_containers(backend)).await;
}

async fn learn_of_containers(backend: &Arc<dyn Backend>) {
    let is_local = backend.engine().await.is_ok_and(|engine| engine.is_local);
    for container in backend.containers().await.unwrap_or_default() {
        if let Ok(environment) = backend.environment(&container.name).await {
            for name in environment.names().filter(|name| is_secret(name)) {
                environment.get(name).into_iter().for_each(remember);
            }
        }
        if is_local {
            learn_of_files(&container).await;
        }
    }
}

/// Reads what Compose mounts as secrets, and environment files.
async fn learn_of_files(container: &Container) {
    for mount in &container.mounts {
        let MountSource::HostPath(path) = &mount.source else { continue };
        let is_env = mount.target.rsplit('/').next().is_some_and(|name| name.ends_with(".env"));
        let is_plain = tokio::fs::metadata(path).await.is_ok_and(|m| m.is_file() && m.len() <= FILE_LIMIT);
        if !is_plain || !(mount.target.starts_with("/run/secrets/") || is_env) {
            continue;
        }
        if let Ok(text) = tokio::fs::read_to_string(Path::new(path)).await {
            learn_of_text(&text);
        }
    }
}

/// Learns the values of an environment file, or the whole of a file that is a secret.
fn learn_of_text(text: &str) {
    if text.contains("-----BEGIN ") {
        // Each line by itself, as a log would show it.
        text.lines().filter(|line| line.len() > 20 && !line.starts_with("-----")).for_each(remember);
        return;
    }
    let variables: Vec<_> = text.lines().filter_map(|line| line.trim().split_once('=')).collect();
    if variables.len() < 2 {
        remember(text.trim());
    }
    for (name, value) in variables.iter().filter(|(name, _)| is_secret(name)) {
        let _ = name;
        remember(value.trim().trim_matches(['"', '\'']));
    }
}

fn is_secret(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    // `…_FILE` names a place, not what lies there.
    !upper.ends_with("_FILE") && NAMES.iter().any(|word| upper.contains(word))
}

fn remember(value: &str) {
    let _ = Secret::new(value);
    if let Some(bare) = value.strip_prefix("base64:") {
        let _ = Secret::new(bare);
    }
}

/// Takes every secret out of a file; of JSON, out of each of its texts, so that it stays JSON.
pub(super) fn clean(name: &str, content: &str) -> String {
    let content = scrub(content);
    if name.ends_with(".json")
        && let Ok(mut value) = serde_json::from_str::<serde_json::Value>(&content)
    {
        mask_texts(&mut value);
        return serde_json::to_string_pretty(&value).unwrap_or_default();
    }
    mask(&content)
}

fn mask_texts(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = mask(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(mask_texts),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(mask_texts),
        _ => {}
    }
}

/// Blanks what looks like a secret in a line of text: values of variables with such names, passwords of URLs, bearer
/// tokens, and the piece of an environment file that Laravel shows when it cannot read it.
fn mask(text: &str) -> String {
    text.split_inclusive('\n').map(mask_line).collect()
}

fn mask_line(line: &str) -> String {
    let line = mask_between(line, "Failed to parse dotenv file", "[", "]");
    let line = mask_url(&line);
    let line = mask_after(&line, "Bearer ");
    mask_assignments(&line)
}

/// Blanks what stands between two marks, behind a text.
fn mask_between(line: &str, behind: &str, open: &str, close: &str) -> String {
    let found = line.find(behind).and_then(|at| {
        let begin = at + line[at..].find(open)? + open.len();
        let end = begin + line[begin..].rfind(close)?;
        Some((begin, end))
    });
    match found {
        Some((begin, end)) => format!("{}{REDACTED}{}", &line[..begin], &line[end..]),
        None => line.to_owned(),
    }
}

/// Blanks `user:password@` of URLs.
fn mask_url(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(after.len());
        match after[..authority].rfind('@') {
            Some(end) => {
                out.push_str(REDACTED);
                rest = &after[end..];
            }
            None => rest = after,
        }
    }
    out + rest
}

/// Blanks the word behind a text.
fn mask_after(line: &str, behind: &str) -> String {
    let Some(at) = line.find(behind) else { return line.to_owned() };
    let (before, after) = line.split_at(at + behind.len());
    format!("{before}{REDACTED}{}", &after[value_length(after)..])
}

/// Blanks the values of `name=value`, `name: value`, `"name":"value"` and `name => 'value'` whose names are those of
/// secrets.
fn mask_assignments(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    while let Some(at) = rest.find(['=', ':']) {
        let name: String = rest[..at]
            .trim_end_matches(['"', '\'', ' ', '\\'])
            .chars()
            .rev()
            .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        let value = after.trim_start_matches(['>', ' ', '"', '\'', '\\']);
        let lead = after.len() - value.len();
        let length = value_length(value);
        // `Access denied for user 'x' (using password: YES)` is worth reading.
        if is_secret(&name) && length >= 4 && !value.starts_with(REDACTED) {
            out.push_str(&after[..lead]);
            out.push_str(REDACTED);
            rest = &value[length..];
        } else {
            rest = after;
        }
    }
    out + rest
}

/// Where a value ends.
fn value_length(value: &str) -> usize {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '&' | ')' | '}' | ']' | '\\');
    value.find(ends).unwrap_or(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_blanked_and_what_does_not_is_kept() {
        for (line, wanted) in [
            ("connect mysql://root:hunter22@db:3306/x now", "connect mysql://[redacted]@db:3306/x now"),
            ("Authorization: Bearer abc.def x", "Authorization: Bearer [redacted] x"),
            ("DB_PASSWORD=hunter22 next", "DB_PASSWORD=[redacted] next"),
            (r#"{"api_token":"abcd1234","id":7}"#, r#"{"api_token":"[redacted]","id":7}"#),
            ("'app_key' => 'base64:AAAA'", "'app_key' => '[redacted]'"),
            (
                "Failed to parse dotenv file. Encountered unexpected whitespace at [two words].",
                "Failed to parse dotenv file. Encountered unexpected whitespace at [[redacted]].",
            ),
            (
                "Access denied for user 'chom'@'%' (using password: YES)",
                "Access denied for user 'chom'@'%' (using password: YES)",
            ),
            (
                "2026-01-02T02:00:00Z GET https://shop.example/x 200",
                "2026-01-02T02:00:00Z GET https://shop.example/x 200",
            ),
        ] {
            assert_eq!(mask(line), wanted);
        }
    }

    #[test]
    fn json_stays_json() {
        let text = r#"{"command":["server","--password=hunter22"],"password":null,"n":[1,"token: abcdef"]}"#;
        let clean: serde_json::Value = serde_json::from_str(&clean("containers.json", text)).unwrap();
        let wanted = serde_json::json!({
            "command": ["server", "--password=[redacted]"], "password": null, "n": [1, "token: [redacted]"]
        });
        assert_eq!(clean, wanted);
    }

    #[test]
    fn secrets_of_files_are_learnt() {
        learn_of_text(
            "APP_NAME=shop-canary-1\nAPP_KEY=base64:canary-2-abcdef\nDB_PASSWORD=\"canary-3-abcdef\"\nDB_PASSWORD_FILE=/run/canary-4\n",
        );
        learn_of_text("canary-5-abcdef\n");
        learn_of_text("-----BEGIN PRIVATE KEY-----\ncanary-6-abcdefghijklmnopq\n-----END PRIVATE KEY-----\n");
        let text =
            "shop-canary-1 canary-2-abcdef canary-3-abcdef /run/canary-4 canary-5-abcdef canary-6-abcdefghijklmnopq";
        assert_eq!(scrub(text), "shop-canary-1 [redacted] [redacted] /run/canary-4 [redacted] [redacted]");
    }
}
