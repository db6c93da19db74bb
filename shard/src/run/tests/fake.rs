//! A small Google and OpenAI on the loopback: enough of mail, calendar, files, tokens and plans to run tasks
//! against, with faults on demand. It counts what may happen only once.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};

use crate::test_http::{self, Request};

/// Ends a test that has already failed.
const HANG_MAX: Duration = Duration::from_secs(30);

/// What a fault does to the request it hits.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Answers with this and does nothing.
    Status(u16, Value),
    /// Does it, then answers with this.
    StatusAfter(u16, Value),
    /// Does nothing and closes the connection.
    Break,
    /// Does it and closes the connection.
    BreakAfter,
    /// Does it once so many requests wait at such a fault.
    Together(usize),
    /// Does it once the test says so.
    Hold,
    /// Does it after somebody else did this.
    Meanwhile(fn(&mut World)),
    /// The gateway is killed at it, and it is done or not.
    Kill { done: bool },
}

/// A fault for requests to come.
struct Planned {
    target: String,
    fault: Fault,
    times: usize,
}

/// When the gateway is killed: at its request number `at` (from 0), which is done or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kill {
    pub(super) at: usize,
    pub(super) done: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    pub(super) id: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) subject: String,
    pub(super) message_id: String,
    pub(super) thread: String,
    pub(super) labels: Vec<&'static str>,
    pub(super) body: String,
}

#[derive(Default)]
pub(super) struct World {
    /// `METHOD /path`, in the order of arrival.
    pub(super) log: Vec<String>,
    pub(super) mails: Vec<Mail>,
    pub(super) drafts: BTreeMap<String, Mail>,
    /// How often each draft was sent: must never pass one.
    pub(super) sends: BTreeMap<String, usize>,
    pub(super) events: BTreeMap<String, Value>,
    /// Inserts that made an event.
    pub(super) inserts: usize,
    pub(super) deletes: usize,
    /// Changes of events, and events that were brought back.
    pub(super) patches: usize,
    pub(super) restored: usize,
    /// Files that were made, by their ids.
    pub(super) made_files: BTreeMap<String, Value>,
    /// How often a file was moved to the trash.
    pub(super) trashed: usize,
    /// Name, media type, text.
    pub(super) files: Vec<(&'static str, &'static str, &'static str)>,
    /// What the model answers, in turn; the last one for ever.
    pub(super) plans: Vec<Value>,
    pub(super) plan_requests: Vec<Value>,
    /// The refresh token that is good now.
    pub(super) refresh_token: String,
    /// Every refresh brings a new refresh token.
    pub(super) rotates: bool,
    pub(super) refreshes: usize,
    /// Access tokens that are accepted.
    pub(super) tokens: Vec<String>,
    /// Looks at the store when a Google call comes in.
    pub(super) watch: Option<Box<dyn Fn() -> String + Send>>,
    pub(super) watched: Vec<String>,
    /// Does something when a refresh comes in, once.
    pub(super) on_refresh: Option<Box<dyn FnOnce() + Send>>,
    faults: Vec<Planned>,
    waiting_together: usize,
    /// What was held goes on.
    is_released: bool,
    kill: Option<Kill>,
    killed: bool,
    killed_waker: Option<Waker>,
    next_id: usize,
}

/// A handle on the server; it lives as long as the process.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) base_url: String,
    shared: Arc<(Mutex<World>, Condvar)>,
}

type Answer = (u16, Value);

impl Fake {
    pub(super) fn start() -> Self {
        let world = World { refresh_token: "refresh-0".to_owned(), ..World::default() };
        let mut fake =
            Self { base_url: String::new(), shared: Arc::new((Mutex::new(world), Condvar::new())) };
        let server = fake.clone();
        fake.base_url = test_http::serve(move |request| {
            let (status, body) = server.answer(request)?;
            Some(match body {
                Value::String(text) => (status, text),
                other => (status, other.to_string()),
            })
        });
        fake
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hits the next `times` requests whose `METHOD /path` starts with `target`.
    pub(super) fn fault(&self, target: &str, times: usize, fault: Fault) {
        self.world().faults.push(Planned { target: target.to_owned(), fault, times });
    }

    /// From now on, requests are counted anew, and the gateway is killed at one of them.
    pub(super) fn kill_at(&self, kill: Kill) {
        let mut world = self.world();
        world.log.clear();
        world.kill = Some(kill);
        world.killed = false;
    }

    /// Lives again.
    pub(super) fn revive(&self) {
        let mut world = self.world();
        world.kill = None;
        world.killed = false;
    }

    /// Lets requests go on that a fault holds.
    pub(super) fn release(&self) {
        self.world().is_released = true;
        self.shared.1.notify_all();
    }

    /// Resolves when the gateway is to be killed.
    pub(super) async fn killed(&self) {
        std::future::poll_fn(|cx| {
            let mut world = self.world();
            if world.killed {
                return Poll::Ready(());
            }
            world.killed_waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(super) fn count(&self, target: &str) -> usize {
        self.world().log.iter().filter(|line| line.starts_with(target)).count()
    }

    fn answer(&self, request: &Request) -> Option<Answer> {
        let line = format!("{} {}", request.method, request.path);
        let mut world = self.world();
        if world.killed {
            return None;
        }
        world.log.push(line.clone());
        if let Some(kill) = world.kill
            && world.log.len() == kill.at + 1
        {
            world.kill_gateway(request, kill.done);
            return None;
        }
        match world.take_fault(&line) {
            None => Some(world.perform(request)),
            Some(Fault::Status(status, body)) => Some((status, body)),
            Some(Fault::StatusAfter(status, body)) => {
                world.perform(request);
                Some((status, body))
            }
            Some(Fault::Break) => None,
            Some(Fault::BreakAfter) => {
                world.perform(request);
                None
            }
            Some(Fault::Together(count)) => {
                world.waiting_together += 1;
                self.shared.1.notify_all();
                let met =
                    self.shared.1.wait_timeout_while(world, HANG_MAX, |world| world.waiting_together < count);
                let (mut world, timeout) = met.unwrap_or_else(PoisonError::into_inner);
                if timeout.timed_out() {
                    return Some((500, json!({"error": {"message": "nobody else came"}})));
                }
                Some(world.perform(request))
            }
            Some(Fault::Hold) => {
                let held = self.shared.1.wait_timeout_while(world, HANG_MAX, |world| !world.is_released);
                let (mut world, timeout) = held.unwrap_or_else(PoisonError::into_inner);
                if timeout.timed_out() {
                    return Some((500, json!({"error": {"message": "nobody released it"}})));
                }
                Some(world.perform(request))
            }
            Some(Fault::Meanwhile(act)) => {
                act(&mut world);
                Some(world.perform(request))
            }
            Some(Fault::Kill { done }) => {
                world.kill_gateway(request, done);
                None
            }
        }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex: String = rest.by_ref().take(2).map(char::from).collect();
            bytes.push(u8::from_str_radix(&hex, 16).unwrap_or(b'?'));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Request {
    fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| decoded(value))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn limit(&self, name: &str) -> usize {
        self.parameter(name).and_then(|limit| limit.parse().ok()).unwrap_or(100)
    }
}

fn google_error(status: u16, reason: &str) -> Answer {
    (status, json!({"error": {"code": status, "message": reason, "errors": [{"reason": reason}]}}))
}

impl World {
    fn kill_gateway(&mut self, request: &Request, done: bool) {
        if done {
            self.perform(request);
        }
        self.killed = true;
        if let Some(waker) = self.killed_waker.take() {
            waker.wake();
        }
    }

    fn take_fault(&mut self, line: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|planned| line.starts_with(&planned.target))?;
        self.faults[at].times -= 1;
        let fault = self.faults[at].fault.clone();
        if self.faults[at].times == 0 {
            self.faults.remove(at);
        }
        Some(fault)
    }

    fn new_id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}{}", self.next_id)
    }

    /// A received mail.
    pub(super) fn receive(&mut self, from: &str, subject: &str, body: &str) {
        let id = self.new_id("mail");
        let message_id = format!("<{id}@example.com>");
        let mail = Mail {
            thread: format!("thread-{id}"),
            from: from.to_owned(),
            to: "me@example.com".to_owned(),
            subject: subject.to_owned(),
            labels: vec!["INBOX"],
            body: body.to_owned(),
            message_id,
            id,
        };
        self.mails.push(mail);
    }

    pub(super) fn sent(&self) -> Vec<&Mail> {
        self.mails.iter().filter(|mail| mail.labels.contains(&"SENT")).collect()
    }

    fn perform(&mut self, request: &Request) -> Answer {
        match request.path.as_str() {
            "/v1/responses" => return self.plan(request),
            "/token" => return self.refresh(request),
            _ => {}
        }
        if let Some(watch) = &self.watch {
            let seen = watch();
            self.watched.push(seen);
        }
        if !request.token.as_ref().is_some_and(|token| self.tokens.contains(token)) {
            return google_error(401, "authError");
        }
        let (service, rest) = request.path[1..].split_once('/').unwrap_or_default();
        match service {
            "gmail" => self.gmail(request, rest.strip_prefix("v1/users/me/").unwrap_or_default()),
            "calendar" => {
                self.calendar(request, rest.strip_prefix("v3/calendars/primary/events").unwrap_or_default())
            }
            "drive" => self.drive(request, rest.strip_prefix("v3/files").unwrap_or_default()),
            "batch" => self.batch(request),
            _ => google_error(404, "notFound"),
        }
    }

    fn plan(&mut self, request: &Request) -> Answer {
        self.plan_requests.push(request.json());
        let plan = if self.plans.len() > 1 { self.plans.remove(0) } else { self.plans[0].clone() };
        let content = match plan {
            Value::String(refusal) => json!({"type": "refusal", "refusal": refusal}),
            plan => json!({"type": "output_text", "text": plan.to_string()}),
        };
        (200, json!({"status": "completed", "output": [{"type": "message", "content": [content]}]}))
    }

    fn refresh(&mut self, request: &Request) -> Answer {
        self.refreshes += 1;
        if let Some(act) = self.on_refresh.take() {
            act();
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let given = body.split('&').find_map(|pair| pair.strip_prefix("refresh_token=")).map(decoded);
        if given.as_deref() != Some(&self.refresh_token) {
            return (400, json!({"error": "invalid_grant"}));
        }
        let token = format!("access-{}", self.refreshes);
        self.tokens.push(token.clone());
        let mut answer =
            json!({"access_token": token, "expires_in": 3600, "scope": "all", "token_type": "Bearer"});
        if self.rotates {
            self.refresh_token = format!("refresh-{}", self.refreshes);
            answer["refresh_token"] = json!(self.refresh_token);
        }
        (200, answer)
    }

    /// The reads of a batch, one after another.
    fn batch(&mut self, request: &Request) -> Answer {
        let mut out = String::new();
        let lines = String::from_utf8_lossy(&request.body).into_owned();
        let urls = lines.lines().filter_map(|line| line.strip_prefix("GET ")?.strip_suffix(" HTTP/1.1"));
        for (index, url) in urls.enumerate() {
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let rest = path.strip_prefix("/gmail/v1/users/me/").unwrap_or_default();
            let part = Request {
                method: "GET".to_owned(),
                path: path.to_owned(),
                query: query.to_owned(),
                token: request.token.clone(),
                if_match: None,
                body: Vec::new(),
            };
            let (status, body) = self.gmail(&part, rest);
            out += &format!(
                "--b\r\nContent-ID: <response-part-{index}>\r\n\r\nHTTP/1.1 {status} X\r\n\r\n{body}\r\n"
            );
        }
        (200, Value::String(out + "--b--"))
    }

    fn gmail(&mut self, request: &Request, rest: &str) -> Answer {
        let query = request.parameter("q").unwrap_or_default();
        match (request.method.as_str(), rest) {
            ("GET", "messages") => {
                let found = self.mails.iter().rev().filter(|mail| matches_query(mail, &query));
                let refs = found
                    .take(request.limit("maxResults"))
                    .map(|mail| json!({"id": mail.id, "threadId": mail.thread}));
                (200, json!({"messages": refs.collect::<Vec<_>>()}))
            }
            ("GET", "drafts") => {
                let found = self.drafts.iter().filter(|(_, mail)| matches_query(mail, &query));
                let refs = found.map(|(id, mail)| json!({"id": id, "message": {"id": mail.id}}));
                (200, json!({"drafts": refs.collect::<Vec<_>>()}))
            }
            ("POST", "drafts") => self.create_draft(&request.json()),
            ("POST", "drafts/send") => self.send_draft(&request.json()),
            ("DELETE", _) => match rest.strip_prefix("drafts/").and_then(|id| self.drafts.remove(id)) {
                Some(_) => {
                    self.deletes += 1;
                    (204, json!(""))
                }
                None => google_error(404, "notFound"),
            },
            ("GET", _) => match rest.split_once('/') {
                Some(("messages", id)) => match self.mails.iter().find(|mail| mail.id == id) {
                    Some(mail) => (200, message_json(mail)),
                    None => google_error(404, "notFound"),
                },
                Some(("drafts", id)) if self.drafts.contains_key(id) => (200, json!({"id": id})),
                _ => google_error(404, "notFound"),
            },
            _ => google_error(404, "notFound"),
        }
    }

    fn create_draft(&mut self, body: &Value) -> Answer {
        let raw = body["message"]["raw"].as_str().unwrap_or_default();
        let mime = String::from_utf8(URL_SAFE.decode(raw).expect("base64url")).expect("text");
        let header = |name: &str| {
            let mut lines = mime.lines();
            let start =
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default();
            start.trim().to_owned()
        };
        let (draft, id) = (self.new_id("draft"), self.new_id("mail"));
        let mail = Mail {
            from: "me@example.com".to_owned(),
            to: header("To"),
            subject: header("Subject"),
            message_id: header("Message-ID"),
            thread: body["message"]["threadId"].as_str().unwrap_or("new-thread").to_owned(),
            labels: vec!["DRAFT"],
            body: mime.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned(),
            id,
        };
        let answer = json!({"id": draft, "message": {"id": mail.id, "threadId": mail.thread}});
        self.drafts.insert(draft, mail);
        (200, answer)
    }

    fn send_draft(&mut self, body: &Value) -> Answer {
        let id = body["id"].as_str().unwrap_or_default();
        let Some(mut mail) = self.drafts.remove(id) else { return google_error(404, "notFound") };
        mail.id = self.new_id("mail");
        mail.labels = vec!["SENT"];
        *self.sends.entry(mail.message_id.clone()).or_default() += 1;
        let answer = json!({"id": mail.id, "threadId": mail.thread, "labelIds": ["SENT"]});
        self.mails.push(mail);
        (200, answer)
    }

    fn calendar(&mut self, request: &Request, rest: &str) -> Answer {
        let id = rest.trim_start_matches('/');
        match (request.method.as_str(), id) {
            ("GET", "") => {
                let events: Vec<&Value> =
                    self.events.values().filter(|event| event["status"] != "cancelled").collect();
                (200, json!({"items": events}))
            }
            ("POST", "") => {
                let mut event = request.json();
                let id = event["id"].as_str().unwrap_or_default().to_owned();
                if self.events.contains_key(&id) {
                    return google_error(409, "duplicate");
                }
                event["status"] = json!("confirmed");
                event["etag"] = json!("\"0\"");
                self.inserts += 1;
                self.events.insert(id, event.clone());
                (200, event)
            }
            _ => self.event(request, id),
        }
    }

    fn event(&mut self, request: &Request, id: &str) -> Answer {
        let Some(event) = self.events.get_mut(id) else { return google_error(404, "notFound") };
        let is_cancelled = event["status"] == "cancelled";
        if request.method != "GET" {
            let tag = event["etag"].as_str().unwrap_or_default().to_owned();
            if request.if_match.as_ref().is_some_and(|wanted| *wanted != tag) {
                return google_error(412, "conditionNotMet");
            }
            let number: usize = tag.trim_matches('"').parse().unwrap_or_default();
            event["etag"] = json!(format!("\"{}\"", number + 1));
        }
        match request.method.as_str() {
            "GET" => (200, event.clone()),
            "PATCH" => {
                for (name, value) in request.json().as_object().expect("a patch") {
                    event[name] = value.clone();
                }
                // On the clock of Berlin in winter.
                for name in ["start", "end"] {
                    if let Some(time) = event[name]["dateTime"].as_str().filter(|time| time.len() == 19) {
                        event[name]["dateTime"] = json!(format!("{time}+01:00"));
                    }
                }
                self.patches += 1;
                (200, event.clone())
            }
            "PUT" => {
                let tag = event["etag"].clone();
                *event = request.json();
                event["etag"] = tag;
                self.restored += 1;
                (200, event.clone())
            }
            "DELETE" if is_cancelled => google_error(410, "deleted"),
            "DELETE" => {
                event["status"] = json!("cancelled");
                self.deletes += 1;
                (204, json!(""))
            }
            _ => google_error(404, "notFound"),
        }
    }

    fn make_file(&mut self, body: &Value) -> Answer {
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        if self.made_files.contains_key(&id) {
            return google_error(409, "fileIdInUse");
        }
        self.made_files.insert(id, body.clone());
        (200, body.clone())
    }

    fn drive(&mut self, request: &Request, rest: &str) -> Answer {
        let file = |(name, kind, _): &(&str, &str, &str)| {
            json!({"id": name, "name": name, "mimeType": kind, "modifiedTime": "2026-11-20T09:00:00Z",
                   "webViewLink": format!("https://drive.example.com/{name}")})
        };
        let mut parts = rest.trim_start_matches('/').split('/');
        let id = parts.next().unwrap_or_default();
        match (request.method.as_str(), id) {
            ("GET", "generateIds") => return (200, json!({"ids": [self.new_id("file")]})),
            ("POST", "") => return self.make_file(&request.json()),
            ("PATCH", id) if self.made_files.contains_key(id) => {
                let trashed = request.json()["trashed"] == true;
                self.trashed += usize::from(trashed);
                let file = self.made_files.get_mut(id).expect("it is there");
                file["trashed"] = json!(trashed);
                return (200, file.clone());
            }
            ("GET", id) if self.made_files.contains_key(id) => return (200, self.made_files[id].clone()),
            _ => {}
        }
        if id.is_empty() {
            return (200, json!({"files": self.files.iter().map(file).collect::<Vec<_>>()}));
        }
        let Some(found) = self.files.iter().find(|found| found.0 == id) else {
            return google_error(404, "notFound");
        };
        let wants_text =
            parts.next() == Some("export") || request.parameter("alt").as_deref() == Some("media");
        if wants_text { (200, json!(found.2)) } else { (200, file(found)) }
    }
}

fn matches_query(mail: &Mail, query: &str) -> bool {
    query.split_whitespace().all(|word| match word.split_once(':') {
        Some(("rfc822msgid", id)) => mail.message_id.contains(id),
        Some(("from", name)) => mail.from.to_lowercase().contains(name),
        Some(("in", "sent")) => mail.labels.contains(&"SENT"),
        _ => mail.subject.contains(word),
    })
}

fn message_json(mail: &Mail) -> Value {
    let headers = [
        ("From", &mail.from),
        ("To", &mail.to),
        ("Subject", &mail.subject),
        ("Message-ID", &mail.message_id),
    ];
    let headers: Vec<Value> =
        headers.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "id": mail.id, "threadId": mail.thread, "labelIds": mail.labels, "snippet": mail.body,
        "internalDate": "1795435500000",
        "payload": {"mimeType": "text/plain", "headers": headers, "body": {"data": URL_SAFE.encode(&mail.body)}},
    })
}
