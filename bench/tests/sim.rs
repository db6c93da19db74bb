//! The simulator as its clients see it, over HTTP.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use sluice_bench::sim::{Sim, SimConfig, start};

/// A simulator and one user of it.
struct World {
    sim: Sim,
    client: Client,
    token: String,
}

async fn world_with(config: SimConfig) -> World {
    let today = Some(jiff::civil::date(2026, 11, 23));
    let sim = start(SimConfig { today, ..config }).await.unwrap();
    let client = Client::new();
    let token = access_token(&sim, &client, "ada").await;
    World { sim, client, token }
}

async fn world() -> World {
    world_with(SimConfig::default()).await
}

async fn refresh(sim: &Sim, client: &Client, form: &[(&str, &str)]) -> Response {
    client.post(format!("{}/token", sim.base_url())).form(form).send().await.unwrap()
}

async fn access_token(sim: &Sim, client: &Client, user: &str) -> String {
    let token = format!("sim-refresh-{user}");
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &token),
        ("client_id", "c"),
        ("client_secret", "s"),
    ];
    let answer: Value = refresh(sim, client, &form).await.json().await.unwrap();
    answer["access_token"].as_str().unwrap().to_owned()
}

impl World {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Response {
        let mut request =
            self.client.request(method, format!("{}{path}", self.sim.base_url())).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// Status and JSON body; `null` when the body is empty.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.send(method, path, body).await;
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.call(Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call(Method::POST, path, Some(body)).await
    }

    async fn state(&self) -> Value {
        self.get("/_sim/state").await
    }

    async fn fault(&self, fault: Value) {
        let (status, answer) = self.post("/_sim/faults", fault).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn draft(&self, message_id: &str) -> String {
        let raw = raw_message(message_id);
        let (status, draft) = self.post("/gmail/v1/users/me/drafts", json!({"message": {"raw": raw}})).await;
        assert_eq!(status, 200, "{draft}");
        draft["id"].as_str().unwrap().to_owned()
    }

    async fn send_draft(&self, id: &str) -> u16 {
        self.post("/gmail/v1/users/me/drafts/send", json!({"id": id})).await.0
    }

    /// The response of the Responses API for a command.
    async fn respond(&self, body: &Value) -> (u16, Value) {
        let url = format!("{}/v1/responses", self.sim.base_url());
        let answer = self.client.post(url).bearer_auth("sk-test").json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

fn raw_message(message_id: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!(
        "From: Ada <ada@example.com>\r\nTo: =?UTF-8?Q?J=C3=BCrgen?= <j@x.example>, b@x.example\r\nSubject: Hello\r\n\
         Message-ID: <{message_id}>\r\nIn-Reply-To: <first@x.example>\r\nReferences: <zero@x.example> <first@x.example>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nGood day.\r\n"
    ))
}

fn reason(error: &Value) -> &str {
    error["error"]["errors"][0]["reason"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn tokens_are_given_for_good_refresh_tokens_only() {
    let World { sim, client, .. } = world().await;
    let good = [
        ("grant_type", "refresh_token"),
        ("refresh_token", "sim-refresh-ada"),
        ("client_id", "c"),
        ("client_secret", "s"),
    ];
    let answer: Value = refresh(&sim, &client, &good).await.json().await.unwrap();
    assert_eq!((&answer["expires_in"], &answer["token_type"]), (&json!(3_599), &json!("Bearer")));
    assert!(answer["scope"].as_str().unwrap().contains("gmail"));
    for (index, value, error) in [
        (1, "sim-revoked-ada", "invalid_grant"),
        (1, "whatever", "invalid_grant"),
        (1, "sim-refresh-", "invalid_grant"),
        (0, "password", "unsupported_grant_type"),
        (0, "authorization_code", "invalid_request"),
        (2, "", "invalid_request"),
    ] {
        let mut form = good;
        form[index].1 = value;
        let refused = refresh(&sim, &client, &form).await;
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["error"], error, "{value}");
    }
}

#[tokio::test]
async fn services_refuse_missing_wrong_expired_and_revoked_tokens() {
    let mut world = world().await;
    let path = "/gmail/v1/users/me/messages";
    assert_eq!(world.send(Method::GET, path, None).await.status(), StatusCode::OK);
    let good = std::mem::replace(&mut world.token, "ya29.nonsense".to_owned());
    let (status, error) = world.call(Method::GET, path, None).await;
    assert_eq!(
        (status, reason(&error), &error["error"]["status"]),
        (401, "authError", &json!("UNAUTHENTICATED"))
    );
    let bare = world.client.get(format!("{}{path}", world.sim.base_url())).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    world.token = good;
    world.post("/_sim/revoke", json!({"user": "ada"})).await;
    assert_eq!(world.send(Method::GET, path, None).await.status(), StatusCode::UNAUTHORIZED);

    let brief = world_with(SimConfig { token_lifetime: Duration::ZERO, ..SimConfig::default() }).await;
    assert_eq!(brief.send(Method::GET, path, None).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn mail_is_listed_in_pages_and_shown_in_every_format() {
    let world = world().await;
    let all = world.get("/gmail/v1/users/me/messages?maxResults=500").await;
    let count = all["messages"].as_array().unwrap().len();
    assert!(count >= 40 && all["resultSizeEstimate"] == count);
    let first = world.get("/gmail/v1/users/me/messages?maxResults=30").await;
    let token = first["nextPageToken"].as_str().unwrap();
    let second = world.get(&format!("/gmail/v1/users/me/messages?maxResults=30&pageToken={token}")).await;
    assert_eq!(second["messages"].as_array().unwrap().len(), count - 30);
    assert!(second.get("nextPageToken").is_none());

    let found = world.get("/gmail/v1/users/me/messages?q=from%3Aanna+budget&maxResults=5").await;
    let id = found["messages"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/gmail/v1/users/me/messages/{id}");
    let full = world.get(&format!("{path}?format=full")).await;
    assert_eq!(full["payload"]["mimeType"], "multipart/mixed");
    let text = full["payload"]["parts"][0]["body"]["data"].as_str().unwrap();
    let text = base64::engine::general_purpose::URL_SAFE.decode(text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("budget"));
    assert!(full["labelIds"].as_array().unwrap().contains(&json!("UNREAD")));
    let metadata =
        world.get(&format!("{path}?format=metadata&metadataHeaders=from&metadataHeaders=Subject")).await;
    let headers = metadata["payload"]["headers"].as_array().unwrap();
    assert_eq!(headers.len(), 2);
    assert!(headers.contains(&json!({"name": "From", "value": "Anna Berg <anna.berg@example.com>"})));
    assert!(world.get(&format!("{path}?format=minimal")).await.get("payload").is_none());
    assert_eq!(world.call(Method::GET, &format!("{path}?format=odd"), None).await.0, 400);
    let (status, error) = world.call(Method::GET, "/gmail/v1/users/me/messages/none", None).await;
    assert_eq!((status, reason(&error)), (404, "notFound"));
    let none = world.get("/gmail/v1/users/me/messages?q=zebra").await;
    assert_eq!(none, json!({"resultSizeEstimate": 0}));
    assert_eq!(world.call(Method::GET, "/gmail/v1/users/bob/messages", None).await.0, 403);
}

#[tokio::test]
async fn a_draft_is_sent_once_and_is_gone_then() {
    let world = world().await;
    let id = world.draft("t1.s1@sluice.invalid").await;
    let draft = world.get(&format!("/gmail/v1/users/me/drafts/{id}?format=metadata")).await;
    let header = |name: &str, message: &Value| {
        let headers = message["payload"]["headers"].as_array().unwrap().clone();
        headers
            .into_iter()
            .find(|h| h["name"] == name)
            .map(|h| h["value"].as_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    assert_eq!(header("Message-ID", &draft["message"]), "<t1.s1@sluice.invalid>");
    assert_eq!(header("In-Reply-To", &draft["message"]), "<first@x.example>");
    assert_eq!(header("References", &draft["message"]), "<zero@x.example> <first@x.example>");
    assert_eq!(header("To", &draft["message"]), "J\u{fc}rgen <j@x.example>, b@x.example");
    let listed = world.get("/gmail/v1/users/me/drafts?q=rfc822msgid:t1.s1@sluice.invalid").await;
    assert_eq!(listed["drafts"][0]["id"], id);

    let world = Arc::new(world);
    let sends: Vec<_> = (0..8)
        .map(|_| {
            let (world, id) = (Arc::clone(&world), id.clone());
            tokio::spawn(async move { world.send_draft(&id).await })
        })
        .collect();
    let mut statuses = Vec::new();
    for send in sends {
        statuses.push(send.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404, 404, 404, 404, 404, 404, 404]);
    assert_eq!(world.call(Method::GET, &format!("/gmail/v1/users/me/drafts/{id}"), None).await.0, 404);
    let sent =
        world.get("/gmail/v1/users/me/messages?q=rfc822msgid:%3Ct1.s1@sluice.invalid%3E+in:sent").await;
    assert_eq!(sent["resultSizeEstimate"], 1);
    let state = world.state().await;
    let user = &state["users"]["ada"];
    assert_eq!(user["sends"].as_array().unwrap().len(), 1);
    assert_eq!(user["sends"][0]["to"], json!(["j@x.example", "b@x.example"]));
    assert_eq!((&user["drafts_created"], &user["drafts_left"]), (&json!(1), &json!(0)));
    assert_eq!(state["duplicates"]["messages"], json!([]));
    assert_eq!(state["requests"]["gmail.drafts.send"], 8);
}

#[tokio::test]
async fn the_same_message_sent_twice_is_reported() {
    let world = world().await;
    for _ in 0..2 {
        let (status, sent) = world
            .post("/gmail/v1/users/me/messages/send", json!({"raw": raw_message("twice@sluice.invalid")}))
            .await;
        assert_eq!((status, &sent["labelIds"]), (200, &json!(["SENT"])));
    }
    let duplicates = &world.state().await["duplicates"]["messages"];
    assert_eq!(*duplicates, json!([{"user": "ada", "message_id": "<twice@sluice.invalid>", "count": 2}]));
}

#[tokio::test]
async fn messages_that_cannot_be_sent_are_refused() {
    let world = world().await;
    let post = |body: Value| world.post("/gmail/v1/users/me/drafts", body);
    assert_eq!(post(json!({"message": {}})).await.0, 400);
    assert_eq!(post(json!({"message": {"raw": "%%%"}})).await.0, 400);
    assert_eq!(post(json!({"message": {"raw": raw_message("a@b"), "threadId": "none"}})).await.0, 404);
    let nobody = URL_SAFE_NO_PAD.encode("Subject: x\r\n\r\nbody");
    let (status, draft) = post(json!({"message": {"raw": nobody}})).await;
    assert_eq!(status, 200);
    assert_eq!(world.send_draft(draft["id"].as_str().unwrap()).await, 400);
    assert_eq!(world.state().await["totals"]["sends"], 0);

    let thread = world.get("/gmail/v1/users/me/messages?q=from:anna&maxResults=1").await;
    let thread = &thread["messages"][0]["threadId"];
    let (status, draft) = post(json!({"message": {"raw": raw_message("c@d"), "threadId": thread}})).await;
    assert_eq!((status, &draft["message"]["threadId"]), (200, thread));
}

#[tokio::test]
async fn an_event_is_inserted_once_and_deleted_once() {
    let world = world().await;
    let events = "/calendar/v3/calendars/primary/events";
    let event = json!({"id": "abc123", "summary": "Talk", "start": {"dateTime": "2026-11-24T10:00:00", "timeZone": "Europe/Berlin"},
        "end": {"dateTime": "2026-11-24T10:30:00+01:00"}, "attendees": [{"email": "b@x.example"}]});
    let (status, made) = world.post(&format!("{events}?sendUpdates=all"), event.clone()).await;
    assert_eq!((status, &made["start"]["dateTime"]), (200, &json!("2026-11-24T10:00:00+01:00")));
    let (status, error) = world.post(events, event.clone()).await;
    assert_eq!((status, reason(&error)), (409, "duplicate"));
    let (status, patched) =
        world.call(Method::PATCH, &format!("{events}/abc123"), Some(json!({"summary": "Long talk"}))).await;
    assert_eq!(
        (status, &patched["summary"], &patched["attendees"][0]["email"]),
        (200, &json!("Long talk"), &json!("b@x.example"))
    );
    assert_eq!(world.call(Method::DELETE, &format!("{events}/abc123"), None).await.0, 204);
    let (status, error) = world.call(Method::DELETE, &format!("{events}/abc123"), None).await;
    assert_eq!((status, reason(&error)), (410, "deleted"));
    assert_eq!(world.get(&format!("{events}/abc123")).await["status"], "cancelled");
    assert_eq!(world.post(events, event).await.0, 409);
    assert_eq!(world.call(Method::DELETE, &format!("{events}/none0"), None).await.0, 404);
    let state = world.state().await;
    let counts =
        ["inserts", "patches", "deletes"].map(|kind| state["users"]["ada"][kind].as_array().unwrap().len());
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(state["duplicates"]["events"], json!([]));
}

#[tokio::test]
async fn events_that_make_no_sense_are_refused() {
    let world = world().await;
    let events = "/calendar/v3/calendars/primary/events";
    let at = |hour: u8| json!({"dateTime": format!("2026-11-24T{hour:02}:00:00Z")});
    for (event, wanted) in [
        (json!({"id": "ABC!", "start": at(9), "end": at(10)}), "invalid"),
        (json!({"summary": "x", "start": at(9)}), "required"),
        (json!({"start": at(10), "end": at(9)}), "timeRangeEmpty"),
        (json!({"start": at(9), "end": {"date": "2026-11-25"}}), "invalid"),
        (json!({"start": {"dateTime": "2026-11-24T09:00:00"}, "end": at(10)}), "required"),
        (json!({"start": at(9), "end": at(10), "attendees": [{"email": "anna"}]}), "invalid"),
    ] {
        let (status, error) = world.post(events, event.clone()).await;
        assert_eq!((status, reason(&error)), (400, wanted), "{event}");
    }
    for query in [
        "timeMin=2026-11-24",
        "orderBy=startTime",
        "timeMin=2026-11-24T00:00:00Z&timeMax=2026-11-23T00:00:00Z",
        "timeZone=Mars",
        "maxResults=0",
    ] {
        assert_eq!(world.call(Method::GET, &format!("{events}?{query}"), None).await.0, 400, "{query}");
    }
}

#[tokio::test]
async fn events_are_listed_by_time_and_words() {
    let world = world().await;
    let events = "/calendar/v3/calendars/primary/events?singleEvents=true&orderBy=startTime";
    let tomorrow = "timeMin=2026-11-24T00:00:00%2B01:00&timeMax=2026-11-25T00:00:00%2B01:00";
    let list = world.get(&format!("{events}&{tomorrow}")).await;
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|e| e["summary"].as_str().unwrap()).collect();
    assert_eq!(names, ["Project sync", "Call with Anna"]);
    assert_eq!(list["items"][0]["start"]["dateTime"], "2026-11-24T10:00:00+01:00");
    let list = world.get(&format!("{events}&{tomorrow}&q=anna&timeZone=UTC")).await;
    assert_eq!(list["items"][0]["start"]["dateTime"], "2026-11-24T14:30:00Z");
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let page = world.get(&format!("{events}&maxResults=20")).await;
    let token = page["nextPageToken"].as_str().unwrap();
    let rest = world.get(&format!("{events}&maxResults=20&pageToken={token}")).await;
    assert!(page["items"].as_array().unwrap().len() + rest["items"].as_array().unwrap().len() >= 25);
}

#[tokio::test]
async fn files_are_found_described_and_read() {
    let world = world().await;
    let q = "name+contains+%27roadmap%27+and+trashed+%3D+false";
    let found = world
        .get(&format!("/drive/v3/files?q={q}&fields=files(id,name,mimeType,modifiedTime),nextPageToken"))
        .await;
    let file = &found["files"][0];
    assert_eq!(file["name"], "Product roadmap");
    assert!(file.get("kind").is_none() && file.get("modifiedTime").is_some());
    let id = file["id"].as_str().unwrap();
    let text =
        world.send(Method::GET, &format!("/drive/v3/files/{id}/export?mimeType=text/plain"), None).await;
    assert!(text.text().await.unwrap().contains("mobile application"));
    let (status, error) = world.call(Method::GET, &format!("/drive/v3/files/{id}?alt=media"), None).await;
    assert_eq!((status, reason(&error)), (403, "fileNotDownloadable"));
    assert_eq!(world.get(&format!("/drive/v3/files/{id}")).await.as_object().unwrap().len(), 4);

    let pdf = world.get("/drive/v3/files?q=mimeType%3D%27application/pdf%27&pageSize=1").await;
    let (id, token) = (pdf["files"][0]["id"].as_str().unwrap(), pdf["nextPageToken"].as_str().unwrap());
    let bytes = world
        .send(Method::GET, &format!("/drive/v3/files/{id}?alt=media"), None)
        .await
        .bytes()
        .await
        .unwrap();
    assert!(bytes.starts_with(b"%PDF-1.4"));
    assert_eq!(
        world.call(Method::GET, &format!("/drive/v3/files/{id}/export?mimeType=text/plain"), None).await.0,
        403
    );
    let next = world
        .get(&format!("/drive/v3/files?q=mimeType%3D%27application/pdf%27&pageSize=1&pageToken={token}"))
        .await;
    assert_ne!(next["files"][0]["id"], *id);
    for path in [
        "/drive/v3/files?q=nonsense",
        "/drive/v3/files?fields=files(colour)",
        "/drive/v3/files?orderBy=colour",
    ] {
        assert_eq!(world.call(Method::GET, path, None).await.0, 400, "{path}");
    }
    assert_eq!(world.call(Method::GET, "/drive/v3/files/none", None).await.0, 404);
}

/// A strict schema of plans, as a client of the Responses API might write it.
fn plan_schema() -> Value {
    let object = |properties: Value| {
        let required: Vec<String> = properties.as_object().unwrap().keys().cloned().collect();
        json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties})
    };
    let text = json!({"type": "string"});
    let maybe = json!({"type": ["string", "null"]});
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 20});
    let name = |name: &str| json!({"type": "string", "enum": [name]});
    let calls = [
        json!({"operation": name("gmail.search"), "query": text, "limit": limit}),
        json!({"operation": name("gmail.read"), "message": text}),
        json!({"operation": name("gmail.send"), "to": texts, "subject": text, "body": text}),
        json!({"operation": name("gmail.reply"), "message": text, "body": text}),
        json!({"operation": name("calendar.list"), "from": maybe, "to": maybe, "query": maybe, "limit": limit}),
        json!({"operation": name("calendar.create"), "title": text, "start": text, "end": maybe, "attendees": texts, "location": maybe, "description": maybe}),
        json!({"operation": name("calendar.change"), "event": text, "title": maybe, "start": maybe, "end": maybe, "location": maybe, "add_attendees": texts}),
        json!({"operation": name("calendar.delete"), "event": text}),
        json!({"operation": name("drive.search"), "text": text, "limit": limit}),
        json!({"operation": name("drive.read"), "file": text}),
    ]
    .map(object);
    let step = object(json!({"id": text, "after": texts, "call": {"anyOf": calls}}));
    object(
        json!({"decision": {"type": "string", "enum": ["act", "decline"]}, "reason": maybe, "steps": {"type": "array", "items": step}}),
    )
}

fn request(command: &str) -> Value {
    let context =
        json!({"now": "2026-11-23T15:04", "weekday": "Monday", "time_zone": "Europe/Berlin", "recent": []});
    json!({"model": "gpt-5-mini", "store": false, "instructions": "Make a plan.",
        "input": [{"role": "developer", "content": format!("Context: {context}")}, {"role": "user", "content": command}],
        "text": {"format": {"type": "json_schema", "name": "plan", "schema": plan_schema(), "strict": true}},
        "prompt_cache_key": "sluice-plan-v2", "safety_identifier": "ab12"})
}

#[tokio::test]
async fn a_command_is_answered_with_a_plan_in_a_response() {
    let world = world().await;
    let (status, response) = world
        .respond(&request(
            "find the mail from Anna about the budget and put a meeting with her on Tuesday at ten",
        ))
        .await;
    assert_eq!(
        (status, &response["status"], &response["object"]),
        (200, &json!("completed"), &json!("response"))
    );
    let text = response["output"][0]["content"][0]["text"].as_str().unwrap();
    let plan: Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        plan["steps"][0]["call"],
        json!({"operation": "gmail.search", "query": "from:anna budget", "limit": 5})
    );
    assert_eq!(plan["steps"][1]["call"]["attendees"], json!(["$s1[0].from"]));
    assert_eq!(plan["steps"][1]["call"]["start"], "2026-11-24T10:00");
    let usage = &response["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap()
    );
    assert_eq!(world.state().await["requests"]["openai.responses"], 1);
}

#[tokio::test]
async fn refusals_nonsense_and_cut_answers_come_when_asked_for() {
    let world = world().await;
    let content = |response: &Value| response["output"][0]["content"][0].clone();
    let refused = world.respond(&request("!refuse this")).await.1;
    assert_eq!(content(&refused)["type"], "refusal");
    let nonsense = world.respond(&request("!nonsense")).await.1;
    assert!(serde_json::from_str::<Value>(content(&nonsense)["text"].as_str().unwrap()).is_err());
    let cut = world.respond(&request("!incomplete")).await.1;
    assert_eq!(
        (&cut["status"], &cut["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    let declined = world.respond(&request("what's the weather like")).await.1;
    assert!(content(&declined)["text"].as_str().unwrap().contains("\"decline\""));
}

#[tokio::test]
async fn requests_that_openai_would_refuse_are_refused() {
    let world = world().await;
    for (pointer, value, param) in [
        ("/model", json!(null), "model"),
        ("/input", json!(null), "input"),
        ("/input", json!([]), "input"),
        ("/input/1/role", json!("robot"), "input[1].role"),
        ("/input/1/content", json!(7), "input[1].content"),
        ("/input/1/content", json!([{"type": "text", "text": "hi"}]), "input[1].content[0]"),
        ("/store", json!("no"), "store"),
        ("/safety_identifier", json!("x".repeat(65)), "safety_identifier"),
        ("/text/format/type", json!("json"), "text.format.type"),
        ("/text/format/name", json!("my plan"), "text.format.name"),
        ("/text/format/strict", json!(false), "text.format.strict"),
        ("/text/format/schema/additionalProperties", json!(true), "text.format.schema"),
        ("/text/format/schema/required", json!(["decision"]), "text.format.schema"),
        (
            "/text/format/schema/properties/steps/items/properties/after",
            json!({"type": "array"}),
            "text.format.schema",
        ),
    ] {
        let mut body = request("read it");
        *body.pointer_mut(pointer).unwrap() = value;
        let (status, error) = world.respond(&body).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!(param)), "{pointer}: {error}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    let mut unknown = request("read it");
    unknown["max_tokens"] = json!(5);
    assert_eq!(world.respond(&unknown).await.1["error"]["code"], "unknown_parameter");
    let url = format!("{}/v1/responses", world.sim.base_url());
    let answer = world.client.post(&url).bearer_auth("pk-1").json(&request("read it")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(
        answer.headers().contains_key("x-request-id")
            && answer.headers().contains_key("x-ratelimit-remaining-tokens")
    );
}

#[tokio::test]
async fn a_plan_that_does_not_fit_the_schema_asked_for_is_not_hidden() {
    let world = world().await;
    let mut body = request("what's on my calendar tomorrow");
    body["text"]["format"]["schema"]["properties"]["decision"]["enum"] = json!(["do", "decline"]);
    let (status, error) = world.respond(&body).await;
    assert_eq!((status, &error["error"]["type"]), (500, &json!("server_error")));
    assert_eq!(world.state().await["plans_unfit"], 1);
}

#[tokio::test]
async fn faults_strike_in_the_shape_of_their_service() {
    let world = world().await;
    let messages = "/gmail/v1/users/me/messages";
    world
        .fault(json!({"service": "gmail", "kind": "status", "status": 429, "retry_after_s": 7, "count": 1}))
        .await;
    let answer = world.send(Method::GET, messages, None).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    assert_eq!(reason(&answer.json().await.unwrap()), "rateLimitExceeded");
    assert_eq!(world.send(Method::GET, messages, None).await.status(), StatusCode::OK);

    world.fault(json!({"service": "openai", "kind": "status", "status": 500, "count": 1})).await;
    assert_eq!(world.respond(&request("hi")).await.1["error"]["type"], "server_error");
    world.fault(json!({"service": "gmail", "kind": "garbage", "count": 1})).await;
    let garbage = world.send(Method::GET, messages, None).await;
    assert_eq!(garbage.status(), StatusCode::OK);
    assert!(garbage.json::<Value>().await.is_err());
    world.fault(json!({"service": "drive", "kind": "down", "user": "ada"})).await;
    let url = format!("{}/drive/v3/files", world.sim.base_url());
    for _ in 0..2 {
        assert!(world.client.get(&url).bearer_auth(&world.token).send().await.is_err());
    }
    world.send(Method::DELETE, "/_sim/faults", None).await;
    assert_eq!(world.send(Method::GET, "/drive/v3/files", None).await.status(), StatusCode::OK);
    assert_eq!(world.state().await["faults_fired"], 5);
    assert_eq!(world.post("/_sim/faults", json!({"service": "gmail", "kind": "status"})).await.0, 400);
}

#[tokio::test]
async fn a_hanging_request_ends_when_faults_are_cleared() {
    let world = Arc::new(world().await);
    world.fault(json!({"service": "calendar", "kind": "hang"})).await;
    let hanging = {
        let world = Arc::clone(&world);
        let url = format!("{}/calendar/v3/calendars/primary/events", world.sim.base_url());
        tokio::spawn(async move { world.client.get(url).bearer_auth(&world.token).send().await.is_err() })
    };
    while world.state().await["faults_fired"] != 1 {
        tokio::task::yield_now().await;
    }
    assert!(!hanging.is_finished());
    // The request may not be waiting yet when the faults are cleared.
    while !hanging.is_finished() {
        world.send(Method::DELETE, "/_sim/faults", None).await;
    }
    assert!(hanging.await.unwrap());
}

#[tokio::test]
async fn an_effect_happens_though_the_answer_is_lost() {
    let world = world().await;
    let id = world.draft("lost@sluice.invalid").await;
    world.fault(json!({"service": "gmail", "kind": "down", "count": 1, "path_contains": "/drafts/send", "after_effect": true})).await;
    let url = format!("{}/gmail/v1/users/me/drafts/send", world.sim.base_url());
    let lost = world.client.post(url).bearer_auth(&world.token).json(&json!({"id": id})).send().await;
    assert!(lost.is_err());
    assert_eq!(world.send_draft(&id).await, 404);
    assert_eq!(world.state().await["totals"]["sends"], 1);
}

#[tokio::test]
async fn an_effect_happens_though_the_client_went_away() {
    let mut config = SimConfig::default();
    config.latencies.calendar = Duration::from_millis(200);
    let world = world_with(config).await;
    let event = json!({"id": "gone0", "summary": "x", "start": {"date": "2026-11-24"}, "end": {"date": "2026-11-25"}});
    let url = format!("{}/calendar/v3/calendars/primary/events", world.sim.base_url());
    let request =
        world.client.post(url).bearer_auth(&world.token).json(&event).timeout(Duration::from_millis(50));
    assert!(request.send().await.is_err());
    // It ends when the effect has been seen, however long that takes.
    while world.state().await["totals"]["inserts"] != 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn random_errors_strike_on_both_sides_of_the_effect() {
    let world = world().await;
    let flaky = start(SimConfig { error_rate: 0.5, seed: 4, ..SimConfig::default() }).await.unwrap();
    let url = format!("{}/gmail/v1/users/me/messages/send", flaky.base_url());
    let mut token = String::new();
    while token.is_empty() {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", "sim-refresh-ada"),
            ("client_id", "c"),
            ("client_secret", "s"),
        ];
        let answer: Value = refresh(&flaky, &world.client, &form).await.json().await.unwrap();
        token = answer["access_token"].as_str().unwrap_or_default().to_owned();
    }
    let mut acknowledged = 0;
    for index in 0..200 {
        let body = json!({"raw": raw_message(&format!("m{index}@sluice.invalid"))});
        let answer = world.client.post(&url).bearer_auth(&token).json(&body).send().await.unwrap();
        acknowledged += u64::from(answer.status().is_success());
    }
    let state: Value = world
        .client
        .get(format!("{}/_sim/state", flaky.base_url()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let sends = state["totals"]["sends"].as_u64().unwrap();
    let [before, after] =
        ["before_effect", "after_effect"].map(|side| state["errors_injected"][side].as_u64().unwrap());
    assert!(before > 20 && after > 20 && acknowledged > 50, "{state}");
    assert!(sends > acknowledged && sends < 200, "{sends} {acknowledged}");
}

#[tokio::test]
async fn users_do_not_share_anything_and_a_reset_forgets_them() {
    let mut world = world().await;
    let path = "/gmail/v1/users/me/messages?q=from:anna&maxResults=1";
    let ada = world.get(path).await["messages"][0]["id"].as_str().unwrap().to_owned();
    world.draft("x@sluice.invalid").await;
    world.token = access_token(&world.sim, &world.client, "bob").await;
    assert_ne!(world.get(path).await["messages"][0]["id"], ada);
    assert_eq!(world.call(Method::GET, &format!("/gmail/v1/users/me/messages/{ada}"), None).await.0, 404);
    assert_eq!(world.get("/gmail/v1/users/me/drafts").await["resultSizeEstimate"], 0);
    assert_eq!(world.state().await["totals"]["drafts_left"], 1);
    assert_eq!(world.get("/_sim/state?user=bob").await["totals"]["drafts_left"], 0);
    world.post("/_sim/reset", json!({})).await;
    assert_eq!(world.state().await["totals"]["drafts_left"], 0);
    assert_eq!(world.call(Method::GET, "/nowhere", None).await.0, 404);
}
