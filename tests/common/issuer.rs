//! An identity provider of another make (tests/python/issuer.py), and a gateway that trusts it.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Gateway, Process, Sim, python};

/// The provider's process.
pub struct Issuer {
    _process: Process,
    /// Its name in tokens, and where it listens.
    pub url: String,
    client: reqwest::Client,
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

impl Issuer {
    /// Starts it; `None` when the test is to be skipped.
    pub fn start() -> Option<Self> {
        let python = python::interpreter("jwt")?;
        let mut command = Command::new(python);
        command.arg(python::program("issuer"));
        let (process, url) = Process::start(&mut command, "issuer is ready:").expect("the issuer starts");
        Some(Self { _process: process, url, client: reqwest::Client::new() })
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let response = self.client.post(format!("{}{path}", self.url)).json(body).send().await;
        response.expect("the issuer answers").json().await.expect("JSON")
    }

    /// What a token of an ordinary user says.
    pub fn claims(&self, subject: &str) -> Value {
        json!({
            "iss": self.url,
            "aud": "sluice",
            "sub": subject,
            "email": format!("{subject}@example.com"),
            "email_verified": true,
            "iat": now_s(),
            "exp": now_s() + 600,
        })
    }

    /// A token, made as `asked` says (see the program) around the claims of this subject with these changes; `null`
    /// leaves a claim out.
    pub async fn token(&self, subject: &str, changes: Value, asked: Value) -> String {
        let mut claims = self.claims(subject);
        for (name, value) in changes.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        let mut body = asked;
        body["claims"] = claims;
        self.post("/sign", &body).await["token"].as_str().expect("a token").to_owned()
    }

    /// A good token.
    pub async fn good(&self, subject: &str) -> String {
        self.token(subject, json!({}), json!({})).await
    }

    /// Serves these keys from now on.
    pub async fn rotate(&self, keys: &[&str]) {
        self.post("/rotate", &json!({ "keys": keys })).await;
    }

    /// How often its keys were fetched.
    pub async fn fetched(&self) -> u64 {
        let response = self.client.get(format!("{}/count", self.url)).send().await.expect("it answers");
        response.json::<Value>().await.expect("JSON")["fetched"].as_u64().expect("a number")
    }

    /// A gateway that trusts it, with these keys in its table beside issuer and audience.
    pub fn gateway(&self, sim: &Sim, directory: &Path, table: &str, options: &[&str]) -> Gateway {
        let file = directory.with_extension("toml");
        let text = format!(
            "[[identity.providers]]\nissuer = \"{}\"\naudiences = [\"sluice\"]\n\
             algorithms = [\"RS256\", \"ES256\", \"EdDSA\"]\n{table}\n",
            self.url
        );
        std::fs::write(&file, text).expect("writable");
        let all = [&["server.cores=2", "server.shards=16"], options].concat();
        Gateway::start_with(sim, directory, &all, &[], |command| {
            command.env("SLUICE_CONFIG", &file);
        })
    }
}
