//! A record as a line of an export: readable, and without what is secret in it.

use serde::Serialize;
use serde_json::{Value as Json, json};
use sluice_protocols::access::{Role, Scopes};
use sluice_protocols::api::ConnectionReason;
use sluice_protocols::hex;
use sluice_protocols::ids::{KeyId, SessionId, UserId};
use sluice_store::record::{
    ActingAccount, ActivityRecord, AttemptsRecord, BrowserSessionRecord, ConnectionRecord, ConnectionState,
    ContextDocumentRecord, ContextSnapshotRecord, DeliveryRecord, HistoryRecord, IdempotencyRecord,
    IdentityRecord, ItemRecord, KeyRecord, LimitRecord, LimitStateRecord, PreferencesRecord, Provider,
    Record, RecordError, RevocationRecord, SessionRecord, TaskRecord, TurnRecord, UserRecord, WebhookRecord,
    WorkflowRecord, decode,
};
use sluice_store::{Key, Kind, Value};

use crate::clock::timestamp_of;
use crate::preferences;
use crate::run::{codes, view_of};
use crate::webhooks;

/// The line of a record that was read while `user` was exported; `None` for what is another's, or says nothing.
pub(super) fn of(key: &Key, value: Value, user: &UserId, began_ms: u64) -> Option<Json> {
    let kind = key.kind();
    let told = match kind {
        Kind::User => read(value, user_of),
        Kind::ApiKey => read(value, key_of),
        Kind::Connection => read(value, connection),
        Kind::Session => read(value, session),
        Kind::Turn => read(value, |turn: TurnRecord| {
            let mut told = turn_of(&turn);
            let session = key.as_bytes().get(17..33).and_then(|bytes| bytes.try_into().ok());
            told["session"] = json!(session.map(SessionId::from_bytes));
            told
        }),
        Kind::TaskPending | Kind::TaskFinished | Kind::DeadLetter => read(value, task),
        Kind::History => read(value, history),
        Kind::Idempotency => read(value, idempotency),
        Kind::Workflow | Kind::WorkflowVersion => read(value, workflow),
        // A generation on its way in or out has no document to tell of.
        Kind::ContextDocument if key.is_context_orphan() => return None,
        Kind::ContextDocument => read(value, |document| self::document(&document, began_ms)),
        Kind::ContextSnapshot => read(value, |snapshot| self::snapshot(&snapshot, began_ms)),
        Kind::Preferences => read(value, |record: PreferencesRecord| json(&preferences::view_of(&record))),
        Kind::Webhook if key.webhook_id().is_some() => {
            read(value, |record: WebhookRecord| json(&webhooks::view(&record, began_ms)))
        }
        Kind::Webhook => read(
            value,
            |record: AttemptsRecord| json!({"attempts": record.attempts.iter().map(webhooks::attempt_view).collect::<Vec<_>>()}),
        ),
        Kind::Delivery => read(value, delivery),
        Kind::Limit if key.as_bytes().last() == Some(&0) => read(value, limit_state),
        Kind::Limit => read(value, limit),
        Kind::Activity => read(value, activity),
        Kind::BrowserSession => read(value, browser_session),
        Kind::Revocation => {
            read(value, |record: RevocationRecord| json!({"at": timestamp_of(record.since_ms)}))
        }
        Kind::Identity => match decode::<IdentityRecord>(value) {
            Ok(identity) if identity.user == *user => Ok(self::identity(&identity)),
            // Whose a damaged one is nobody can say.
            Ok(_) | Err(_) => return None,
        },
        Kind::Applied
        | Kind::Name
        | Kind::ContextChunk
        | Kind::Consent
        | Kind::DataKey
        | Kind::AuditEntry
        | Kind::AuditHead
        | Kind::Erasure
        | Kind::Quarantine => return None,
    };
    let mut line = json!({"kind": kind.word(), "key": hex::encode(key.as_bytes())});
    match told {
        Ok(Json::Object(members)) => line.as_object_mut()?.extend(members),
        Ok(_) => {}
        Err(error) => line["unreadable"] = json!(error.to_string()),
    }
    Some(line)
}

fn read<R: Record>(value: Value, tell: impl FnOnce(R) -> Json) -> Result<Json, RecordError> {
    decode::<R>(value).map(tell)
}

fn json(view: &impl Serialize) -> Json {
    // Views are texts, numbers and lists: to make them a value does not fail.
    serde_json::to_value(view).unwrap_or_default()
}

/// What stands as JSON in a record, as a value; a text where it is none.
fn inner(text: Option<&str>) -> Json {
    text.map_or(Json::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
}

/// 0 is never.
fn maybe_at(ms: u64) -> Json {
    if ms == 0 { Json::Null } else { json!(timestamp_of(ms)) }
}

fn user_of(user: UserRecord) -> Json {
    let UserRecord { id, name, email, time_zone, created_ms, disabled, role, tokens_since_ms } = user;
    json!({
        "id": id, "name": name, "email": email, "time_zone": time_zone, "at": timestamp_of(created_ms),
        "disabled": disabled, "role": Role::from_number(role).name(), "tokens_since": maybe_at(tokens_since_ms),
    })
}

/// Without the hash, and without how its text begins.
fn key_of(key: KeyRecord) -> Json {
    let KeyRecord { id, user: _, hash: _, label, created_ms, scopes, expires_ms, prefix: _ } = key;
    let scopes: Vec<_> = Scopes::from_bits(scopes).names().collect();
    json!({
        "id": id, "name": label, "at": timestamp_of(created_ms), "scopes": scopes, "expires": maybe_at(expires_ms),
    })
}

/// What a webhook is still to be told, as it is sent.
fn delivery(delivery: DeliveryRecord) -> Json {
    let DeliveryRecord { id, webhook, user: _, event, body, created_ms, attempts, not_before_ms } = delivery;
    json!({
        "id": id, "webhook": webhook, "event": webhooks::event_name(event), "body": inner(Some(&body)),
        "at": timestamp_of(created_ms), "attempts": attempts, "not_before": maybe_at(not_before_ms),
    })
}

/// Without the refresh token.
fn connection(connection: ConnectionRecord) -> Json {
    let ConnectionRecord {
        id,
        user: _,
        provider,
        subject,
        email,
        refresh_token: _,
        scope,
        wanted,
        state,
        reason,
        created_ms,
        updated_ms,
        expires_ms,
    } = connection;
    let provider = match provider {
        Provider::Google => "google",
    };
    let state = match state {
        ConnectionState::Active => "active",
        ConnectionState::NeedsReauth => "needs_reauth",
        ConnectionState::Revoking => "revoking",
        ConnectionState::Revoked => "revoked",
    };
    let wanted: Vec<_> = Scopes::from_bits(wanted).names().collect();
    json!({
        "id": id, "provider": provider, "subject": subject, "email": email, "scope": scope, "services": wanted,
        "state": state, "reason": ConnectionReason::from_number(reason), "created": timestamp_of(created_ms),
        "at": timestamp_of(updated_ms), "expires": maybe_at(expires_ms),
    })
}

fn session(session: SessionRecord) -> Json {
    let SessionRecord { id, user: _, created_ms, expires_ms, next_turn, handles: _, turns } = session;
    let turns: Vec<_> = turns.into_iter().map(|turn| turn_of(&turn.into())).collect();
    json!({
        "id": id, "at": timestamp_of(created_ms), "expires": maybe_at(expires_ms), "next_turn": next_turn,
        "turns": turns,
    })
}

fn turn_of(turn: &TurnRecord) -> Json {
    let TurnRecord { number, task, command, answer, state, at_ms, items, account } = turn;
    let items: Vec<_> = items.iter().map(item).collect();
    let account = match account {
        Some(ActingAccount::Connected(id)) => json!(id),
        Some(ActingAccount::Delegated(_)) | None => Json::Null,
    };
    json!({
        "number": number, "task": task, "command": command, "answer": answer,
        "state": codes::task_state(*state).name(), "at": timestamp_of(*at_ms), "items": items,
        "account": account,
    })
}

fn item(item: &ItemRecord) -> Json {
    let ItemRecord {
        handle,
        kind: _,
        id,
        title,
        person_name,
        person_address,
        when,
        thread_id,
        message_id_header,
        snippet,
    } = item;
    json!({
        "handle": handle, "id": id, "title": title, "person_name": person_name, "person_address": person_address,
        "when": when, "thread_id": thread_id, "message_id_header": message_id_header, "snippet": snippet,
    })
}

/// As the API tells of it, and what its steps have read and were about to do.
fn task(task: TaskRecord) -> Json {
    let steps: Vec<_> = task
        .steps
        .iter()
        .map(|step| {
            json!({
                "id": step.id, "intent": step.intent, "call": inner(step.call_json.as_deref()),
                "outcome": inner(step.outcome_json.as_deref()), "text": step.text,
            })
        })
        .collect();
    json!({
        "at": timestamp_of(task.created_ms), "task": json(&view_of(&task)), "time_zone": task.time_zone,
        "journal": steps,
    })
}

fn history(entry: HistoryRecord) -> Json {
    let HistoryRecord { task, at_ms, command, state, answer, services: _, operations } = entry;
    json!({
        "task": task, "at": timestamp_of(at_ms), "command": command, "state": codes::task_state(state).name(),
        "answer": answer, "operations": operations,
    })
}

fn idempotency(record: IdempotencyRecord) -> Json {
    let IdempotencyRecord { user: _, request: _, created_ms, answer_json, tasks } = record;
    let tasks: Vec<_> = tasks.iter().map(|task| json!({"id": task.id, "session": task.session})).collect();
    json!({"at": timestamp_of(created_ms), "answer": inner(answer_json.as_deref()), "tasks": tasks})
}

fn workflow(workflow: WorkflowRecord) -> Json {
    let WorkflowRecord { user: _, name, version, created_ms, updated_ms, definition_json } = workflow;
    json!({
        "name": name, "version": version, "created": timestamp_of(created_ms), "at": timestamp_of(updated_ms),
        "definition": inner(Some(&definition_json)),
    })
}

fn document(document: &ContextDocumentRecord, began_ms: u64) -> Json {
    let mut told = json!({
        "document": document.key, "generation": hex::encode(document.generation.as_bytes()), "bytes": document.bytes,
        "chunk_bytes": document.chunk_bytes, "media_type": document.media_type,
        "created": timestamp_of(document.created_ms), "at": timestamp_of(document.changed_ms),
        "expires": timestamp_of(document.expires_ms),
    });
    if document.changed_ms >= began_ms {
        told["written_meanwhile"] = json!(true);
    }
    told
}

fn snapshot(snapshot: &ContextSnapshotRecord, began_ms: u64) -> Json {
    let documents: Vec<_> = snapshot.documents.iter().map(|kept| document(kept, began_ms)).collect();
    json!({
        "id": snapshot.id, "label": snapshot.label, "at": timestamp_of(snapshot.created_ms),
        "expires": timestamp_of(snapshot.expires_ms), "documents": documents,
    })
}

fn limit_state(state: LimitStateRecord) -> Json {
    json!({
        "minute_full": timestamp_of(state.minute_full_ms), "hour_full": timestamp_of(state.hour_full_ms),
    })
}

fn limit(limit: LimitRecord) -> Json {
    json!({
        "per_minute": limit.per_minute, "per_hour": limit.per_hour, "concurrent": limit.concurrent_max,
    })
}

fn activity(activity: ActivityRecord) -> Json {
    let keys: Vec<_> = activity
        .keys
        .iter()
        .map(|used| json!({"key": used.key, "used": timestamp_of(used.used_ms)}))
        .collect();
    json!({"at": maybe_at(activity.active_ms), "keys": keys})
}

fn browser_session(session: BrowserSessionRecord) -> Json {
    let BrowserSessionRecord {
        id,
        user: _,
        key,
        role: _,
        scopes,
        created_ms,
        expires_ms,
        ended_ms,
        signer: _,
    } = session;
    let scopes: Vec<_> = Scopes::from_bits(scopes).names().collect();
    json!({
        "id": id, "key": key.map(KeyId::from_bytes), "scopes": scopes, "at": timestamp_of(created_ms),
        "expires": timestamp_of(expires_ms), "ended": maybe_at(ended_ms),
    })
}

fn identity(identity: &IdentityRecord) -> Json {
    json!({
        "issuer": identity.issuer, "subject": identity.subject, "at": timestamp_of(identity.created_ms),
    })
}
