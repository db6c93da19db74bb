//! A mixed load of all services, and a kill whenever chance has it: nothing acknowledged is lost, nothing is done twice,
//! the queues drain, and dead letters are those of the one user whom the fault plan dooms.
//!
//! `crash.rs` kills at every step of a command; here everything goes on at once: commands that wait, queued ones of all
//! priorities, batches, previews that are confirmed, cancellations, runs of workflows (one that is done, one that fails and is taken
//! back), and mail, events and files without a command: made, changed, cancelled, shared, thrown away. Commands and runs do everything that can be done: they
//! search and ask who is free, send, forward, draft, label and throw away mail, make events, make, share and throw away files. Whatever has no answer is sent again
//! with its `Idempotency-Key`, what goes without a command as well, so that each must be done exactly once. A preview that nobody confirmed has
//! done nothing, and a task whose cancellation was acknowledged has ended as that said it would.
//!
//! `SLUICE_TEST_KILLS` says how many kills, `SLUICE_TEST_SEED` from which seed: `./dev kills --count 200 --seed 1`.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::asker::{Asker, text};
use common::lot::Lot;
use common::scene::guard;
use common::{Gateway, Sim};
use http::Request;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Kills when nothing else is asked for.
const KILLS: usize = 25;
const USERS: usize = 6;
/// The user whose drive does not answer.
const DOOMED: usize = USERS;
/// The most that is sent between two kills.
const ACTS_MAX: u64 = 8;
/// A kill comes at most so long after the first request.
const LIFE_US_MAX: u64 = 120_000;

const SETTINGS: [&str; 7] = [
    // As it comes: what rules understand needs no model, and what the model planned is remembered.
    "intent.local=true",
    "intent.pattern_ttl_s=86400",
    "server.cores=2",
    "server.shards=16",
    "log.level=error",
    // Kills hold tasks up; what is tested is not how fast they are.
    "limits.command_timeout_ms=600000",
    // What one user does here in a minute is the work of a day.
    "quota.gmail_user_units_per_minute=1000000",
];

/// Latencies, errors before and after the effect, and the doomed user: what is asked to wait for longer than its deadline
/// is a dead letter at once.
const PLAN: &str = r#"
error_rate = 0.02
[latency]
openai = { median_ms = 6, sigma = 0.5 }
gmail = { median_ms = 8, sigma = 0.5 }
calendar = { median_ms = 6, sigma = 0.5 }
drive = { median_ms = 8, sigma = 0.5 }
[[fault]]
service = "drive"
kind = "status"
status = 503
user = "user-6"
retry_after_s = 300
"#;
const DOOMED_DEADLINE_MS: u64 = 20_000;

/// What was done, or is to be: how often each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effects {
    sends: usize,
    inserts: usize,
    /// Drafts that are left.
    drafts: usize,
    /// Messages with the label of this name, or with the one that runs give.
    labelled: usize,
    /// Files of this name.
    files: usize,
    /// Who was given a file.
    shared: usize,
    /// What is in the trash.
    binned: usize,
}

impl Effects {
    const NONE: Self = Self { sends: 0, inserts: 0, drafts: 0, labelled: 0, files: 0, shared: 0, binned: 0 };

    fn each(self) -> [usize; 7] {
        let Self { sends, inserts, drafts, labelled, files, shared, binned } = self;
        [sends, inserts, drafts, labelled, files, shared, binned]
    }

    fn is_within(self, most: Self) -> bool {
        self.each().into_iter().zip(most.each()).all(|(done, most)| done <= most)
    }
}

/// What a command is about, besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Nothing,
    /// A file that was made before, `ABOUT` for its name.
    File,
    /// A mail that was sent before, `ABOUT` for its subject.
    Mail,
}

const SEND: Effects = Effects { sends: 1, ..Effects::NONE };

/// Commands, with `MARK` for the mark, and what each does.
const COMMANDS: [(&str, On, Effects); 15] = [
    ("find the mail from Anna about the budget", On::Nothing, Effects::NONE),
    ("is kim@example.com free tomorrow", On::Nothing, Effects::NONE),
    ("send a mail to kim@example.com saying code MARK is valid", On::Nothing, SEND),
    (
        "create an event called Review MARK tomorrow at ten",
        On::Nothing,
        Effects { inserts: 1, ..Effects::NONE },
    ),
    (
        "create an event called Slot MARK tomorrow at noon and send a mail to kim@example.com saying code MARK is free",
        On::Nothing,
        Effects { inserts: 1, ..SEND },
    ),
    (
        "find the file about the roadmap and find the mail from Anna about the budget and then \
         send a mail to kim@example.com saying code MARK is done",
        On::Nothing,
        SEND,
    ),
    ("forward the mail from Anna about the budget to MARK@example.com saying here it is", On::Nothing, SEND),
    (
        "draft a mail to kim@example.com saying code MARK is kept",
        On::Nothing,
        Effects { drafts: 1, ..Effects::NONE },
    ),
    (
        "label the mail from Anna about the budget as MARK",
        On::Nothing,
        Effects { labelled: 1, ..Effects::NONE },
    ),
    ("make a file called MARK saying zebras are striped", On::Nothing, Effects { files: 1, ..Effects::NONE }),
    ("create a folder called MARK", On::Nothing, Effects { files: 1, ..Effects::NONE }),
    ("share the file about ABOUT with MARK@example.com", On::File, Effects { shared: 1, ..Effects::NONE }),
    ("delete the file about ABOUT", On::File, Effects { binned: 1, ..Effects::NONE }),
    ("delete the mail from me about ABOUT", On::Mail, Effects { binned: 1, ..Effects::NONE }),
    (
        "share the file about ABOUT with MARK@example.com so that he can edit it",
        On::File,
        Effects { shared: 1, ..Effects::NONE },
    ),
];

/// How something is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sync,
    Async,
    Batch,
    Preview,
    Mail,
    Event,
    File,
    /// A run of [`trial`].
    Run,
    /// A run of [`fall`].
    Fall,
    /// What was made before and acknowledged: an event is changed or cancelled, a file shared or thrown away.
    Change,
    Cancel,
    Share,
    Bin,
    /// A preview is confirmed.
    Confirm,
    /// A queued command or a preview is cancelled.
    Stop,
}

/// What is drawn from.
const WAYS: [Way; 18] = [
    Way::Sync,
    Way::Async,
    Way::Async,
    Way::Batch,
    Way::Preview,
    Way::Confirm,
    Way::Stop,
    Way::Stop,
    Way::Run,
    Way::Run,
    Way::Fall,
    Way::Mail,
    Way::Event,
    Way::File,
    Way::Change,
    Way::Cancel,
    Way::Share,
    Way::Bin,
];

/// A workflow that can be done: all that a workflow can do.
fn trial() -> Value {
    json!({"input": {"mark": {"type": "text"}, "friend": {"type": "address"}}, "steps": [
        {"id": "find", "operation": "gmail.search", "with": {"query": "from:anna budget", "limit": 2}},
        {"id": "free", "operation": "calendar.free_busy", "with": {"from": "2031-03-05", "to": "2031-03-05"}},
        {"id": "book", "operation": "calendar.create", "after": ["free"],
         "with": {"title": "Talk ${input.mark}", "start": "2031-03-05T10:00", "description": "${steps.find.messages[0].subject}"}},
        {"id": "note", "operation": "drive.create", "with": {"name": "$input.mark", "text": "About ${input.mark}."}},
        {"id": "share", "operation": "drive.share", "with": {"file": "$steps.note.files[0]", "people": ["$input.friend"]}},
        {"id": "spare", "operation": "drive.create", "with": {"name": "${input.mark}-spare"}},
        {"id": "bin", "operation": "drive.trash", "with": {"file": "$steps.spare.files[0]"}},
        {"id": "box", "operation": "drive.create", "with": {"name": "${input.mark}-box", "folder": true}},
        {"id": "move", "operation": "drive.move", "with": {"file": "$steps.note.files[0]", "folder": "$steps.box.files[0]"}},
        {"id": "keep", "operation": "gmail.draft",
         "with": {"to": ["kim@example.com"], "subject": "Kept ${input.mark}", "body": "Not yet."}},
        {"id": "pass", "operation": "gmail.forward",
         "with": {"message": "$steps.find.messages[0]", "to": ["kim@example.com"], "body": "Code ${input.mark} is passed."}},
        {"id": "label", "operation": "gmail.label", "with": {"message": "$steps.pass.messages[0]", "add": ["Runs"]}},
        {"id": "tell", "operation": "gmail.send", "after": ["book"],
         "with": {"to": ["kim@example.com"], "subject": "Talk ${input.mark}", "body": "See ${steps.note.files[0].title}."}},
        {"id": "drop", "operation": "gmail.trash", "with": {"message": "$steps.tell.messages[0]"}},
    ]})
}

/// What [`trial`] does; its other files, and where the first is, are looked for by themselves.
const TRIAL: Effects =
    Effects { sends: 2, inserts: 1, drafts: 1, labelled: 1, files: 1, shared: 1, binned: 1 };

/// One that comes to a mail that nobody wrote, after it did all that can be taken back, and sent a mail, which cannot.
fn fall() -> Value {
    json!({"input": {"mark": {"type": "text"}, "friend": {"type": "address"}}, "steps": [
        {"id": "find", "operation": "gmail.search", "with": {"query": "from:nobody.at.all ${input.mark}"}},
        {"id": "book", "operation": "calendar.create", "with": {"title": "Talk ${input.mark}", "start": "2031-03-06T10:00"}},
        {"id": "shift", "operation": "calendar.change",
         "with": {"event": "$steps.book.events[0]", "title": "Later ${input.mark}", "start": "2031-03-07T10:00"}},
        {"id": "draft", "operation": "gmail.draft",
         "with": {"to": ["kim@example.com"], "subject": "Talk ${input.mark}", "body": "See you."}},
        {"id": "note", "operation": "drive.create", "with": {"name": "$input.mark"}},
        {"id": "share", "operation": "drive.share", "with": {"file": "$steps.note.files[0]", "people": ["$input.friend"]}},
        {"id": "spare", "operation": "drive.create", "with": {"name": "${input.mark}-spare"}},
        {"id": "bin", "operation": "drive.trash", "with": {"file": "$steps.spare.files[0]"}},
        {"id": "box", "operation": "drive.create", "with": {"name": "${input.mark}-box", "folder": true}},
        {"id": "move", "operation": "drive.move", "with": {"file": "$steps.note.files[0]", "folder": "$steps.box.files[0]"}},
        {"id": "tell", "operation": "gmail.send",
         "with": {"to": ["kim@example.com"], "subject": "Code ${input.mark}", "body": "See you."}},
        {"id": "label", "operation": "gmail.label", "with": {"message": "$steps.tell.messages[0]", "add": ["Runs"]}},
        {"id": "drop", "operation": "gmail.trash", "with": {"message": "$steps.tell.messages[0]"}, "after": ["label"]},
        {"id": "read", "operation": "gmail.read", "after": ["shift", "draft", "share", "bin", "move", "drop"],
         "with": {"message": "$steps.find.messages[0]"}},
    ]})
}

/// What is left of [`fall`] when it came as far as it can: the event, the file and the other file were made, and are
/// deleted or in the trash.
const FALL: Effects = Effects { inserts: 1, files: 1, ..SEND };

/// Something that was sent; by its mark its effects are told from all others.
#[derive(Clone, Debug)]
struct Act {
    way: Way,
    user: usize,
    mark: String,
    body: Value,
    does: Effects,
    /// What it is done to, for what is done to something: the id at Google or of the task, and of a mail its subject.
    target: Option<String>,
    /// What in the trash is its doing: the name of the file, or the subject of the mail.
    about: Option<(On, String)>,
    /// The task it was promised as, or what was made, when there was no task; of what is done to a task, how that stood then.
    acknowledged: Option<Value>,
}

impl Act {
    fn is_command(&self) -> bool {
        let is_worded = matches!(self.way, Way::Sync | Way::Async | Way::Batch | Way::Preview);
        is_worded || matches!(self.way, Way::Run | Way::Fall)
    }

    /// Whether it is done to a task.
    fn is_wish(&self) -> bool {
        matches!(self.way, Way::Confirm | Way::Stop)
    }

    fn request(&self) -> (&'static str, String) {
        let target = self.target.as_deref().unwrap_or_default();
        match self.way {
            Way::Sync | Way::Async | Way::Preview => ("POST", "/command".to_owned()),
            Way::Batch => ("POST", "/commands".to_owned()),
            Way::Mail => ("POST", "/gmail/messages".to_owned()),
            Way::Event => ("POST", "/calendar/events?send_updates=none".to_owned()),
            Way::File => ("POST", "/drive/files".to_owned()),
            Way::Run => ("POST", "/workflows/trial/runs".to_owned()),
            Way::Fall => ("POST", "/workflows/fall/runs".to_owned()),
            Way::Change => ("PATCH", format!("/calendar/events/{target}?send_updates=none")),
            Way::Cancel => ("DELETE", format!("/calendar/events/{target}?send_updates=none")),
            Way::Share => ("POST", format!("/drive/files/{target}/permissions?notify=false")),
            Way::Bin => ("PATCH", format!("/drive/files/{target}")),
            Way::Confirm => ("POST", format!("/tasks/{target}/confirm")),
            Way::Stop => ("POST", format!("/tasks/{target}/cancel")),
        }
    }

    /// Whom a file is shared with.
    fn friend(&self) -> String {
        format!("{}@example.com", self.mark)
    }

    /// What an answer promises, if anything.
    fn acknowledgement(&self, status: u16, answer: &Value) -> Option<Value> {
        match (self.way, status) {
            (Way::Async | Way::Run | Way::Fall, 202) => Some(answer["id"].clone()),
            (Way::Sync | Way::Preview | Way::Run | Way::Fall | Way::Event | Way::File, 200) => {
                Some(answer["id"].clone())
            }
            (Way::Confirm, 202) => Some(json!(true)),
            // It was confirmed, or cancelled, by the request whose answer was lost.
            (Way::Confirm, 409) if is_settled(answer) => Some(json!(true)),
            (Way::Stop, 200 | 202) => Some(answer["state"].clone()),
            (Way::Stop, 409) if is_settled(answer) => Some(Value::Null),
            // It failed, and says as what task.
            (Way::Sync | Way::Preview | Way::Run | Way::Fall, _) => {
                Some(answer["task"]["id"].clone()).filter(Value::is_string)
            }
            (Way::Batch, 207) => Some(answer["items"][0]["task"]["id"].clone()).filter(Value::is_string),
            (Way::Mail | Way::Change | Way::Share | Way::Bin, 200) | (Way::Cancel, 204) => Some(json!(true)),
            _ => None,
        }
    }
}

/// Whether nothing is left to confirm or to cancel; in any other conflict with a task it is asked again.
fn is_settled(answer: &Value) -> bool {
    let details = ["the task has ended", "the task does not wait for a confirmation"];
    details.iter().any(|detail| answer["detail"] == *detail)
}

struct Trial {
    lot: Lot,
    sim: Sim,
    gateway: Gateway,
    keys: Vec<String>,
    acts: Vec<Act>,
    repeated: usize,
    recovered: usize,
}

impl Trial {
    fn draw(&mut self) -> Act {
        let mark = format!("q{:05}x", self.acts.len());
        if self.lot.below(12) == 0 {
            let body = json!({"command": "find the file about the roadmap", "mode": "async", "deadline_ms": DOOMED_DEADLINE_MS});
            return Act {
                way: Way::Async,
                user: DOOMED,
                mark,
                body,
                does: Effects::NONE,
                target: None,
                about: None,
                acknowledged: None,
            };
        }
        let user = self.lot.index(USERS);
        let mut way = WAYS[self.lot.index(WAYS.len())];
        let target = match way {
            Way::Change | Way::Cancel => self.target(user, Way::Event),
            Way::Share | Way::Bin => self.target(user, Way::File),
            Way::Confirm => self.target(user, Way::Preview),
            Way::Stop if self.lot.below(4) == 0 => self.target(user, Way::Preview),
            Way::Stop => self.target(user, Way::Async),
            _ => None,
        };
        // There is nothing yet that it could be done to.
        match way {
            Way::Change | Way::Cancel if target.is_none() => way = Way::Event,
            Way::Share | Way::Bin if target.is_none() => way = Way::File,
            Way::Confirm if target.is_none() => way = Way::Preview,
            Way::Stop if target.is_none() => way = Way::Async,
            _ => {}
        }
        let (mut command, on, mut does) = COMMANDS[self.lot.index(COMMANDS.len())];
        let is_command = matches!(way, Way::Sync | Way::Async | Way::Batch | Way::Preview);
        let about = if is_command { self.about(user, on) } else { None };
        if on != On::Nothing && about.is_none() {
            (command, _, does) = COMMANDS[0];
        }
        let target = about.as_ref().map(|(id, _)| id.clone()).or(target);
        let about = about.map(|(_, name)| (on, name));
        let priority = ["high", "normal", "batch"][self.lot.index(3)];
        let name = about.as_ref().map_or("", |(_, name)| name);
        let command = command.replace("MARK", &mark).replace("ABOUT", name);
        let command = json!({"command": command, "priority": priority});
        let (body, does) = match way {
            Way::Batch => (json!({"commands": [command]}), does),
            Way::Sync | Way::Async | Way::Preview => {
                let mode = match way {
                    Way::Sync => "sync",
                    Way::Async => "async",
                    _ => "preview",
                };
                let mut body = command;
                body["mode"] = json!(mode);
                (body, does)
            }
            Way::Mail => (json!({"to": ["kim@example.com"], "subject": mark, "body": "Hello."}), SEND),
            Way::Event => {
                let time = |hour| json!({"dateTime": format!("2031-03-04T{hour}:00:00Z")});
                (
                    json!({"summary": mark, "start": time(10), "end": time(11)}),
                    Effects { inserts: 1, ..Effects::NONE },
                )
            }
            Way::File => (json!({"name": mark, "mimeType": "text/plain"}), Effects::NONE),
            Way::Run | Way::Fall => {
                let mode = ["sync", "async"][self.lot.index(2)];
                let input = json!({"mark": mark, "friend": format!("{mark}@example.com")});
                let body = json!({"input": input, "mode": mode, "priority": priority});
                (body, if way == Way::Run { TRIAL } else { FALL })
            }
            Way::Change => (json!({"description": mark}), Effects::NONE),
            Way::Cancel | Way::Confirm | Way::Stop => (Value::Null, Effects::NONE),
            Way::Share => {
                let friend = format!("{mark}@example.com");
                (json!({"type": "user", "role": "reader", "emailAddress": friend}), Effects::NONE)
            }
            Way::Bin => (json!({"trashed": true}), Effects::NONE),
        };
        Act { way, user, mark, body, does, target, about, acknowledged: None }
    }

    /// Something for a command to be about: what tells it from all else, and what it is called.
    fn about(&mut self, user: usize, on: On) -> Option<(String, String)> {
        match on {
            On::Nothing => None,
            On::File => {
                let id = self.target(user, Way::File)?;
                let is_it = |act: &&Act| act.way == Way::File && act.acknowledged == Some(json!(id));
                let name = self.acts.iter().find(is_it).map(|act| act.mark.clone());
                Some((id, name.expect("it was made")))
            }
            On::Mail => {
                let taken: BTreeSet<&str> =
                    self.acts.iter().filter_map(|act| act.target.as_deref()).collect();
                let sent = self.acts.iter().filter(|act| act.user == user && act.way == Way::Mail);
                let sent = sent.filter(|act| act.acknowledged.is_some() && !taken.contains(&*act.mark));
                let subjects: Vec<String> = sent.map(|act| act.mark.clone()).collect();
                let subject =
                    (!subjects.is_empty()).then(|| subjects[self.lot.index(subjects.len())].clone())?;
                Some((subject.clone(), subject))
            }
        }
    }

    /// Something of a user's that is known to be there, and to which nothing was done yet.
    fn target(&mut self, user: usize, way: Way) -> Option<String> {
        let taken: BTreeSet<&str> = self.acts.iter().filter_map(|act| act.target.as_deref()).collect();
        let made = self.acts.iter().filter(|act| act.user == user && act.way == way);
        let ids = made.filter_map(|act| act.acknowledged.as_ref()?.as_str());
        let ids: Vec<String> = ids.filter(|id| !taken.contains(id)).map(str::to_owned).collect();
        (!ids.is_empty()).then(|| ids[self.lot.index(ids.len())].clone())
    }

    /// Sends these acts at once; gives what was acknowledged before `life` was over and the gateway killed.
    async fn round(mut self, acts: Vec<usize>, life: Duration) -> Self {
        let asker = Arc::new(Asker::of(&self.gateway, "").await);
        let mut calls = JoinSet::new();
        for index in acts {
            let act = self.acts[index].clone();
            let key = self.keys[act.user].clone();
            let asker = Arc::clone(&asker);
            calls.spawn(async move {
                let (method, path) = act.request();
                let mut request = Request::builder()
                    .method(method)
                    .uri(format!("https://localhost/api/v1{path}"))
                    .header("authorization", format!("Bearer {key}"))
                    .header("idempotency-key", &act.mark);
                if !act.body.is_null() {
                    request = request.header("content-type", "application/json");
                }
                let request = request.body(()).expect("a valid request");
                let body = if act.body.is_null() { Vec::new() } else { act.body.to_string().into_bytes() };
                // An error is the kill.
                let answer = asker.caller.http.send(request, body.into()).await.ok()?;
                let value = answer.json().unwrap_or_default();
                let acknowledged = act.acknowledgement(answer.status.as_u16(), &value)?;
                Some((index, acknowledged))
            });
        }
        tokio::time::sleep(life).await;
        // SIGKILL first; what was answered before has been sent.
        let gateway = self.gateway;
        self.gateway = gateway.crash_and_restart();
        asker.caller.http.close();
        while let Some(answer) = guard(calls.join_next()).await {
            if let Some((index, acknowledged)) = answer.expect("no panic") {
                self.acts[index].acknowledged = Some(acknowledged);
            }
        }
        let recovered = self.gateway.page().await.sum("sluice_tasks_recovered_total", &[]);
        self.recovered += usize::try_from(recovered).expect("few");
        self
    }

    fn unanswered(&self) -> Vec<usize> {
        (0..self.acts.len()).filter(|index| self.acts[*index].acknowledged.is_none()).collect()
    }

    async fn askers(&self) -> Vec<Asker> {
        let mut askers = Vec::new();
        for key in &self.keys {
            askers.push(Asker::of(&self.gateway, key).await);
        }
        askers
    }

    /// Sends what has no answer yet until it has one.
    async fn answer_all(&mut self) {
        let askers = self.askers().await;
        for index in self.unanswered() {
            let act = self.acts[index].clone();
            for _ in 0..3_000 {
                let fields = [("idempotency-key", &*act.mark)];
                let (method, path) = act.request();
                let answer = askers[act.user].with(method, &path, &fields, &act.body).await;
                // A deletion is answered without a body.
                let value = if answer.body.is_empty() { Value::Null } else { answer.value() };
                let acknowledged = act.acknowledgement(answer.status.as_u16(), &value);
                if acknowledged.is_some() {
                    self.acts[index].acknowledged = acknowledged;
                    break;
                }
                // In flight: the first one goes on since the restart. Or Google failed without a command that is tried again.
                let is_plain = !act.is_command() && !act.is_wish();
                let may_pass = match answer.status.as_u16() {
                    409 | 503 => true,
                    502 | 504 => is_plain,
                    _ => false,
                };
                assert!(may_pass, "{act:?}: {:?}", answer.body);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(self.acts[index].acknowledged.is_some(), "never answered: {act:?}");
        }
    }

    async fn check(&mut self) -> Tally {
        self.answer_all().await;
        let askers = self.askers().await;
        let mut tally = Tally::default();
        let mut doomed = BTreeSet::new();
        let mut ends = Vec::new();
        let wishes = |way: Way, id: &Value| {
            let those = self.acts.iter().filter(move |act| act.way == way);
            those.filter(move |act| act.target.as_deref() == id.as_str()).collect::<Vec<_>>()
        };
        for act in self.acts.iter().filter(|act| act.is_command()) {
            let id = act.acknowledged.as_ref().expect("all are answered");
            let is_held = || wishes(Way::Confirm, id).is_empty() && wishes(Way::Stop, id).is_empty();
            if act.way == Way::Preview && is_held() {
                let task = askers[act.user].task(id).await;
                if task["state"] == "awaiting_confirmation" {
                    ends.push((act, task));
                    continue;
                }
            }
            let task = askers[act.user].ended(id).await;
            if act.user == DOOMED {
                assert_eq!(task["state"], "failed", "{task:#}");
                doomed.insert(text(id).to_owned());
            }
            ends.push((act, task));
        }
        self.gateway
            .until("nothing is queued or runs", |page| {
                page.sum("sluice_tasks_queued", &[]) + page.sum("sluice_tasks_running", &[]) == 0
            })
            .await;
        let state = self.settled().await;
        assert_eq!(state["duplicates"], json!({"messages": [], "events": []}));
        for (act, task) in &ends {
            let asker = &askers[act.user];
            let done = done_by(asker, &state, act, task).await;
            tally.add(done);
            if matches!(act.way, Way::Run | Way::Fall) {
                check_run(asker, &state, act, task, done).await;
                tally.runs += 1;
                tally.taken_back += usize::from(task["state"] == "failed");
                continue;
            }
            let id = &task["id"];
            if act.way == Way::Preview && wishes(Way::Confirm, id).is_empty() {
                assert_eq!(done, Effects::NONE, "nobody confirmed {act:?}: {task:#}");
                tally.unconfirmed += 1;
                continue;
            }
            let mut is_stopped = false;
            for stop in wishes(Way::Stop, id) {
                let told = stop.acknowledged.as_ref().expect("all are answered");
                let state = text(&task["state"]);
                match told.as_str() {
                    // It had ended before.
                    None => assert_ne!(state, "cancelled", "{act:?}: {task:#}"),
                    Some("queued" | "running") => assert_eq!(state, "cancelled", "{act:?}: {task:#}"),
                    Some(told) => assert_eq!(state, told, "{act:?}: {task:#}"),
                }
                is_stopped |= state == "cancelled";
            }
            // One that waits for its answer is not tried again and again.
            let excused =
                act.user == DOOMED || is_stopped || act.way == Way::Sync && task["state"] == "failed";
            if excused {
                assert!(done.is_within(act.does), "{done:?} {act:?}: {task:#}");
                tally.stopped += usize::from(is_stopped);
                tally.failed += usize::from(act.user != DOOMED && !is_stopped);
                continue;
            }
            assert_eq!(task["state"], "done", "{act:?}: {task:#}");
            assert_eq!(done, act.does, "{act:?}: {task:#}");
            tally.done += 1;
        }
        for act in self.acts.iter().filter(|act| !act.is_command() && !act.is_wish()) {
            let seen = match act.way {
                Way::File => files(&askers[act.user], &act.mark).await.len(),
                Way::Change | Way::Cancel | Way::Share | Way::Bin => done_to(&askers[act.user], act).await,
                _ => {
                    let user = user_of(&state, act);
                    count(user, "sends", act) + count(user, "inserts", act)
                }
            };
            assert_eq!(seen, 1, "lost, or done twice: {act:?}");
            tally.plain += seen;
        }
        for (user, asker) in askers.iter().enumerate() {
            let (dead, _) = asker.pages("/dead-letters?limit=100", "dead_letters").await;
            let dead: BTreeSet<String> = dead.iter().map(|dead| text(&dead["id"]).to_owned()).collect();
            let expected = if user == DOOMED { doomed.clone() } else { BTreeSet::new() };
            assert_eq!(dead, expected, "dead letters of user-{user}");
        }
        tally.dead = doomed.len();
        tally
    }

    async fn settled(&self) -> Value {
        for _ in 0..3_000 {
            let state = self.sim.state().await;
            if state["under_way"] == 0 {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the simulator is never idle");
    }
}

#[derive(Debug, Default)]
struct Tally {
    done: usize,
    failed: usize,
    plain: usize,
    /// Tasks that were cancelled, and previews that nobody confirmed.
    stopped: usize,
    unconfirmed: usize,
    dead: usize,
    runs: usize,
    /// Runs that failed, as some must.
    taken_back: usize,
    /// By commands and runs: sent, events made, drafts, labelled, files made, shared, thrown away.
    effects: [usize; 7],
}

impl Tally {
    fn add(&mut self, done: Effects) {
        for (sum, count) in self.effects.iter_mut().zip(done.each()) {
            *sum += count;
        }
    }
}

fn count(user: &Value, kind: &str, act: &Act) -> usize {
    let all = user[kind].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|effect| effect.to_string().contains(&act.mark)).count()
}

fn user_of<'a>(state: &'a Value, act: &Act) -> &'a Value {
    &state["users"][format!("user-{}", act.user)]
}

/// What a command or a run has done.
async fn done_by(asker: &Asker, state: &Value, act: &Act, task: &Value) -> Effects {
    let user = user_of(state, act);
    let is_run = matches!(act.way, Way::Run | Way::Fall);
    let mut done = Effects {
        sends: count(user, "sends", act),
        inserts: count(user, "inserts", act),
        drafts: count(user, "drafts", act),
        ..Effects::NONE
    };
    if act.does.files > 0 {
        done.files = files(asker, &act.mark).await.len();
    }
    if act.does.labelled > 0 || is_run {
        let name = if is_run { "Runs" } else { &act.mark };
        let labels = asker.get("/gmail/labels").await["labels"].as_array().cloned().unwrap_or_default();
        let labels = labels.iter().filter(|label| text(&label["name"]).eq_ignore_ascii_case(name));
        let ids: Vec<&str> = labels.map(|label| text(&label["id"])).collect();
        assert!(ids.len() <= 1, "made twice: {act:?}: {task:#}");
        if let Some(id) = ids.first() {
            let of_run = if is_run { format!("&q={}", act.mark) } else { String::new() };
            done.labelled = messages(asker, &format!("label={id}{of_run}")).await;
        }
    }
    done.shared = match (&act.target, act.way) {
        (Some(file), Way::Sync | Way::Async | Way::Batch | Way::Preview) if act.does.shared > 0 => {
            permissions(asker, file, act).await
        }
        (_, Way::Run | Way::Fall) => match files(asker, &act.mark).await.first() {
            Some(file) => permissions(asker, text(&file["id"]), act).await,
            None => 0,
        },
        _ => 0,
    };
    done.binned = match &act.about {
        Some((On::File, name)) if act.does.binned > 0 => {
            files(asker, name).await.iter().filter(|file| file["trashed"] == true).count()
        }
        Some((On::Mail, subject)) => messages(asker, &format!("q=in%3Atrash%20{subject}")).await,
        _ if is_run => messages(asker, &format!("q=in%3Atrash%20{}", act.mark)).await,
        _ => 0,
    };
    done
}

/// One that is done did all it should, once; one that failed has left nothing behind but the mail that was sent.
async fn check_run(asker: &Asker, state: &Value, act: &Act, task: &Value, done: Effects) {
    let deletes = count(user_of(state, act), "deletes", act);
    let (notes, spare) = (files(asker, &act.mark).await, files(asker, &format!("{}-spare", act.mark)).await);
    assert!(spare.len() <= 1 && spare.iter().all(|file| file["trashed"] == true), "{act:?}: {task:#}");
    if act.way == Way::Run && task["state"] == "done" {
        assert_eq!((done, deletes, spare.len()), (TRIAL, 0, 1), "{act:?}: {task:#}");
        assert_eq!(notes[0]["trashed"], false, "{task:#}");
        let folder = files(asker, &format!("{}-box", act.mark)).await;
        assert_eq!((folder.len(), &notes[0]["parents"]), (1, &json!([folder[0]["id"]])), "{task:#}");
        return;
    }
    assert_eq!(task["state"], "failed", "{act:?}: {task:#}");
    let most = Effects { drafts: 0, labelled: 0, shared: 0, binned: 0, ..act.does };
    assert!(done.is_within(most), "{done:?} is left by {act:?}: {task:#}");
    assert_eq!(deletes, done.inserts, "an event is left: {task:#}");
    let deleted = user_of(state, act)["deletes"].as_array().into_iter().flatten();
    let later = format!("Later {}", act.mark);
    assert_eq!(
        deleted.filter(|event| event["summary"] == later).count(),
        0,
        "it was not changed back first: {task:#}"
    );
    assert!(notes.iter().all(|file| file["trashed"] == true), "a file is left: {task:#}");
    let folder = files(asker, &format!("{}-box", act.mark)).await;
    assert!(folder.len() <= 1 && folder.iter().all(|file| file["trashed"] == true), "{act:?}: {task:#}");
    let is_in = |file: &Value| folder.iter().any(|folder| file["parents"] == json!([folder["id"]]));
    assert!(!notes.iter().any(is_in), "not moved back: {act:?}: {task:#}");
    if act.way == Way::Fall && text(&task["error"]["type"]) == "/problems/unresolved-reference" {
        assert_eq!((done, spare.len()), (FALL, 1), "{act:?}: {task:#}");
    }
}

/// The files of this name, those in the trash as well.
async fn files(asker: &Asker, name: &str) -> Vec<Value> {
    let path =
        format!("/drive/files?q=name%20%3D%20%27{name}%27&fields=files(id%2Cname%2Ctrashed%2Cparents)");
    asker.get(&path).await["files"].as_array().cloned().unwrap_or_default()
}

/// How many messages a search finds.
async fn messages(asker: &Asker, search: &str) -> usize {
    asker.get(&format!("/gmail/messages?{search}")).await["messages"].as_array().map_or(0, Vec::len)
}

/// How often somebody of this mark has a file.
async fn permissions(asker: &Asker, file: &str, act: &Act) -> usize {
    let path = format!("/drive/files/{file}/permissions?fields=permissions(emailAddress)");
    let permissions = asker.get(&path).await["permissions"].as_array().cloned().unwrap_or_default();
    permissions.iter().filter(|one| one["emailAddress"] == json!(act.friend())).count()
}

/// How often it was done to what was there, where that can be counted; of a state that was set, whether it is so.
async fn done_to(asker: &Asker, act: &Act) -> usize {
    let target = act.target.as_deref().expect("it is done to something");
    match act.way {
        Way::Share => permissions(asker, target, act).await,
        Way::Bin => {
            let file = asker.get(&format!("/drive/files/{target}?fields=trashed")).await;
            usize::from(file["trashed"] == true)
        }
        _ => {
            let event = asker.get(&format!("/calendar/events/{target}")).await;
            let is_so = match act.way {
                Way::Change => event["description"] == json!(act.mark),
                _ => event["status"] == "cancelled",
            };
            usize::from(is_so)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_done_twice_however_often_the_gateway_is_killed() {
    let kills = std::env::var("SLUICE_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let lot = Lot::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let plan = directory.path().join("plan.toml");
    std::fs::write(&plan, PLAN).expect("a file");
    let sim = Sim::start(&["--plan", plan.to_str().expect("UTF-8")]);
    let gateway = Gateway::start(&sim, &directory.path().join("data"), &SETTINGS);
    let keys: Vec<String> = (0..=USERS).map(|number| gateway.user(&format!("user-{number}"))).collect();
    for key in &keys {
        let asker = Asker::of(&gateway, key).await;
        asker.expect(201, "PUT", "/workflows/trial", &trial()).await;
        asker.expect(201, "PUT", "/workflows/fall", &fall()).await;
    }
    let mut trial = Trial { lot, sim, gateway, keys, acts: Vec::new(), repeated: 0, recovered: 0 };
    for _ in 0..kills {
        // What was lost in the round before is sent again now and then, beside what is new.
        let mut now = if trial.lot.below(2) == 0 { trial.unanswered() } else { Vec::new() };
        now.truncate(8);
        trial.repeated += now.len();
        for _ in 0..=trial.lot.below(ACTS_MAX) {
            let act = trial.draw();
            now.push(trial.acts.len());
            trial.acts.push(act);
        }
        let life = trial.lot.micros(LIFE_US_MAX);
        trial = trial.round(now, life).await;
    }
    let tally = trial.check().await;
    println!(
        "{kills} kills; {} requests, {} of them repeated with their key; {} tasks taken up again; {tally:?}",
        trial.acts.len(),
        trial.repeated,
        trial.recovered
    );
    // Every kind of effect was among them, so each was looked for.
    assert!(tally.effects.iter().all(|count| *count > 0), "{tally:?}");
    // Otherwise the kills came too late or too early to mean anything.
    assert!(trial.recovered * 2 >= kills, "only {} tasks were taken up again", trial.recovered);
    trial.gateway.stop();
}
