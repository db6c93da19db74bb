//! A session as callers see it ([`sluice_protocols::api::SessionView`]), written straight from the archived records.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};
use sluice_protocols::ids::{SessionId, TaskId};
use sluice_store::record::{ArchivedItemRecord, ArchivedTurnRecord};

use crate::clock::timestamp_of;
use crate::run::codes;

/// A session of ten short turns, so that the buffer seldom grows.
const JSON_BYTES_USUAL: usize = 2 << 10;

/// The JSON of a session.
pub(super) fn of(session: &sluice_store::Session) -> Bytes {
    let mut json = Vec::with_capacity(JSON_BYTES_USUAL);
    // Writing texts and numbers to memory does not fail; were it to, the caller would see it as cut off.
    if let Err(error) = serde_json::to_writer(&mut json, &Session(session)) {
        tracing::error!(%error, "a session could not be written");
    }
    Bytes::from(json)
}

struct Session<'a>(&'a sluice_store::Session);

impl Serialize for Session<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let session = self.0.record();
        let mut object = serializer.serialize_struct("Session", 4)?;
        object.serialize_field("id", &SessionId::from_bytes(session.id))?;
        object.serialize_field("created", &timestamp_of(session.created_ms.to_native()))?;
        object.serialize_field("expires", &timestamp_of(session.expires_ms.to_native()))?;
        object.serialize_field("turns", &Turns(self.0))?;
        object.end()
    }
}

struct Turns<'a>(&'a sluice_store::Session);

impl Serialize for Turns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut turns = self.0.turns();
        let mut list = serializer.serialize_seq(Some(turns.len()))?;
        turns.try_for_each(|turn| list.serialize_element(&Turn(turn)))?;
        list.end()
    }
}

struct Turn<'a>(&'a ArchivedTurnRecord);

impl Serialize for Turn<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let turn = self.0;
        let mut object = serializer.serialize_struct("Turn", 7)?;
        object.serialize_field("number", &turn.number.to_native())?;
        object.serialize_field("task", &TaskId::from_bytes(turn.task))?;
        object.serialize_field("command", turn.command.as_str())?;
        object.serialize_field("answer", &turn.answer.as_ref().map(|answer| answer.as_str()))?;
        object.serialize_field("state", codes::task_state(turn.state).name())?;
        object.serialize_field("at", &timestamp_of(turn.at_ms.to_native()))?;
        object.serialize_field("items", &Items(&turn.items))?;
        object.end()
    }
}

struct Items<'a>(&'a [ArchivedItemRecord]);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for item in self.0 {
            // An item of a kind this version does not know cannot be shown as one of those it does.
            if let Some(kind) = codes::item_kind(item.kind) {
                list.serialize_element(&Item { kind: kind.name(), item })?;
            }
        }
        list.end()
    }
}

struct Item<'a> {
    kind: &'static str,
    item: &'a ArchivedItemRecord,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let item = self.item;
        let mut object = serializer.serialize_struct("Item", 9)?;
        object.serialize_field("handle", item.handle.as_str())?;
        object.serialize_field("kind", self.kind)?;
        object.serialize_field("id", item.id.as_str())?;
        object.serialize_field("title", item.title.as_str())?;
        let name = item.person_name.as_ref().map(|name| name.as_str());
        let person = item.person_address.as_ref().map(|address| Person { name, address: address.as_str() });
        object.serialize_field("person", &person)?;
        object.serialize_field("when", &item.when.as_ref().map(|text| text.as_str()))?;
        object.serialize_field("thread_id", &item.thread_id.as_ref().map(|text| text.as_str()))?;
        object.serialize_field(
            "message_id_header",
            &item.message_id_header.as_ref().map(|text| text.as_str()),
        )?;
        object.serialize_field("snippet", &item.snippet.as_ref().map(|text| text.as_str()))?;
        object.end()
    }
}

#[derive(serde::Serialize)]
struct Person<'a> {
    name: Option<&'a str>,
    address: &'a str,
}

#[cfg(test)]
mod tests {
    use sluice_protocols::api::{SessionView, TaskState};
    use sluice_protocols::ids::UserId;
    use sluice_protocols::plan::{ItemKind, Person};
    use sluice_store::record::{ItemRecord, Loaded, SessionRecord, TurnRecordV1};

    use super::*;

    fn item(handle: &str, kind: u8, address: Option<&str>) -> ItemRecord {
        ItemRecord {
            handle: handle.to_owned(),
            kind,
            id: "18c2".to_owned(),
            title: "A \"budget\"\n\u{1f600}".to_owned(),
            person_name: Some("Anna".to_owned()),
            person_address: address.map(str::to_owned),
            when: Some("2026-11-23".to_owned()),
            thread_id: None,
            message_id_header: Some("<a@b>".to_owned()),
            snippet: None,
        }
    }

    #[test]
    fn what_is_written_in_place_reads_as_the_view() {
        let turn = TurnRecordV1 {
            number: 4,
            task: TaskId::new(5, [1; 10]),
            command: "find it".to_owned(),
            answer: None,
            state: codes::of_task_state(TaskState::Failed),
            at_ms: 1_795_000_000_123,
            items: vec![item("m1", 1, Some("anna@example.com")), item("f2", 3, None), item("m9", 77, None)],
        };
        let record = SessionRecord {
            id: SessionId::from_bytes([2; 16]),
            user: UserId::from_bytes([1; 16]),
            created_ms: 1_795_000_000_000,
            expires_ms: 1_795_086_400_000,
            next_turn: 5,
            handles: [1, 0, 2],
            turns: vec![turn],
        };
        let json = of(&sluice_store::Session::new(Loaded::of(&record).unwrap(), []).unwrap());
        let view: SessionView = serde_json::from_slice(&json).unwrap();
        assert_eq!((view.id, view.created.as_millisecond()), (record.id, 1_795_000_000_000));
        assert_eq!(view.expires.as_millisecond(), 1_795_086_400_000);
        let turn = &view.turns[0];
        assert_eq!(
            (turn.number, turn.state, turn.at.as_millisecond()),
            (4, TaskState::Failed, 1_795_000_000_123)
        );
        // The item of an unknown kind is left out.
        assert_eq!(turn.items.len(), 2);
        assert_eq!(turn.items[0].item.title, "A \"budget\"\n\u{1f600}");
        let anna = Person { name: Some("Anna".to_owned()), address: "anna@example.com".to_owned() };
        assert_eq!(turn.items[0].item.person, Some(anna));
        assert_eq!((turn.items[1].item.kind, &turn.items[1].item.person), (ItemKind::File, &None));
        // Nothing is written that the view does not have.
        let again = serde_json::to_value(&view).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap(), again);
    }
}
