//! One user's requests below `/api/v1`, and what becomes of their tasks.

use serde_json::{Value, json};

use super::Gateway;
use super::h3::Answer;
use super::scene::{Caller, guard};

/// A caller with an API key.
pub struct Asker {
    pub caller: Caller,
    pub key: String,
}

impl Asker {
    /// Connects to the shared port.
    pub async fn of(gateway: &Gateway, key: &str) -> Self {
        Self { caller: Caller::of(gateway).await, key: key.to_owned() }
    }

    /// Sends a request with these fields; `null` is no body.
    pub async fn with(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(fields);
        if !body.is_null() && !fields.iter().any(|(name, _)| *name == "content-type") {
            all.push(("content-type", "application/json"));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.caller.send(method, &format!("/api/v1{path}"), &all, body).await
    }

    /// Sends a request.
    pub async fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.with(method, path, &[], body).await
    }

    /// `GET`, which must be 200.
    pub async fn get(&self, path: &str) -> Value {
        self.expect(200, "GET", path, &Value::Null).await
    }

    /// A request that must be answered with this status.
    pub async fn expect(&self, status: u16, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {:?}", answer.body);
        if answer.body.is_empty() { Value::Null } else { answer.value() }
    }

    /// Queues a command; what came back is the promise.
    pub async fn queue(&self, body: &Value) -> Value {
        let mut body = body.clone();
        body["mode"] = json!("async");
        self.expect(202, "POST", "/command", &body).await
    }

    /// A task as it is now.
    pub async fn task(&self, id: &Value) -> Value {
        self.get(&format!("/tasks/{}", text(id))).await
    }

    /// A task once it has ended.
    pub async fn ended(&self, id: &Value) -> Value {
        let path = format!("/api/v1/tasks/{}", text(id));
        for _ in 0..10 {
            let answer = guard(self.caller.http.get_waiting(&path, &self.key, 10)).await.expect("an answer");
            assert_eq!(answer.status.as_u16(), 200, "{path}: {:?}", answer.body);
            let task = answer.value();
            if !matches!(task["state"].as_str(), Some("queued" | "running")) {
                return task;
            }
        }
        panic!("{path} does not end");
    }

    /// Waits until a task is in this state.
    pub async fn until(&self, id: &Value, state: &str) -> Value {
        for _ in 0..2_000 {
            let task = self.task(id).await;
            if task["state"] == state {
                return task;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{id} does not come to be {state}: {:#}", self.task(id).await);
    }

    /// All of a list, page by page; gives the number of pages as well.
    pub async fn pages(&self, path: &str, member: &str) -> (Vec<Value>, usize) {
        let (mut all, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let page = self.get(&format!("{path}{cursor}")).await;
            all.extend(page[member].as_array().expect("a list").iter().cloned());
            pages += 1;
            assert!(pages < 1_000, "{path} does not end");
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (all, pages),
            }
        }
    }
}

/// A JSON text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}"))
}
