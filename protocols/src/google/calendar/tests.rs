use proptest::prelude::*;

use super::*;

const ZONE: &str = "Europe/Berlin";

fn id() -> (TaskId, StepId) {
    (TaskId::new(1_795_000_000_000, [255; 10]), StepId::new(2).expect("a step"))
}

fn local(text: &str) -> DateTimeLocal {
    text.parse().expect("a time")
}

fn address(text: &str) -> EmailAddress {
    text.parse().expect("an address")
}

fn body(call: &ApiCall) -> Value {
    serde_json::from_slice(&call.body).expect("json")
}

fn event(extra: Value) -> Event {
    let mut event = json!({
        "kind": "calendar#event", "id": "e1", "status": "confirmed", "summary": "Review",
        "start": {"dateTime": "2026-11-24T10:00:00+01:00", "timeZone": ZONE},
        "end": {"dateTime": "2026-11-24T10:45:00+01:00", "timeZone": ZONE},
    });
    for (name, value) in extra.as_object().expect("an object") {
        event[name] = value.clone();
    }
    serde_json::from_value(event).expect("an event")
}

#[test]
fn event_ids_are_base32hex_of_task_and_step() {
    let of = |bytes: [u8; 16]| event_id(TaskId::from_bytes(bytes), StepId::new(8).expect("a step"));
    // The padding of the last group is at its low end (RFC 4648 section 6).
    assert_eq!(of([0xFF; 16]), "vvvvvvvvvvvvvvvvvvvvvvvvvs8");
    assert_eq!(of([0; 16]), "000000000000000000000000008");
    assert_eq!(of(*b"foobarfoobarfoob"), "cpnmuoj1e9j6urr2c5p6crrfc88");
    let other = event_id(id().0, StepId::new(3).expect("a step"));
    assert_ne!(event_id(id().0, id().1), other);
}

#[test]
fn lists_are_single_events_in_order() {
    let call = list_events(&ListEvents {
        from: Some("2026-11-23T00:00:00Z".parse().expect("a time")),
        to: None,
        query: Some("review & co"),
        results_max: 5,
        time_zone: ZONE,
    });
    assert_eq!(call.method, "GET");
    assert_eq!(
        call.path,
        "/calendar/v3/calendars/primary/events?singleEvents=true&orderBy=startTime&maxResults=5\
         &timeZone=Europe%2FBerlin&timeMin=2026-11-23T00%3A00%3A00Z&q=review%20%26%20co"
    );
}

#[test]
fn ids_cannot_reach_other_calendars() {
    assert_eq!(
        delete_event("../../other/events/x?y").path,
        "/calendar/v3/calendars/primary/events/..%2F..%2Fother%2Fevents%2Fx%3Fy?sendUpdates=all"
    );
    assert_eq!(get_event("..", "UTC").path, "/calendar/v3/calendars/primary/events/_?timeZone=UTC");
}

#[test]
fn an_event_without_an_end_lasts_an_hour_or_a_day() {
    let timed = insert_event(&NewEvent::new(id(), "Meeting", local("2026-11-24T23:30"), None, ZONE));
    assert_eq!(timed.path, "/calendar/v3/calendars/primary/events?sendUpdates=all");
    let timed = body(&timed);
    assert_eq!(timed["start"], json!({"dateTime": "2026-11-24T23:30:00", "timeZone": ZONE}));
    assert_eq!(timed["end"], json!({"dateTime": "2026-11-25T00:30:00", "timeZone": ZONE}));
    assert_eq!(timed["id"], event_id(id().0, id().1));
    assert!(timed.get("attendees").is_none() && timed.get("location").is_none());
    let day = body(&insert_event(&NewEvent::new(id(), "Holiday", local("2026-12-31"), None, ZONE)));
    assert_eq!(
        (&day["start"], &day["end"]),
        (&json!({"date": "2026-12-31"}), &json!({"date": "2027-01-01"}))
    );
}

#[test]
fn the_last_day_of_whole_days_is_included() {
    let event = NewEvent::new(id(), "Trip", local("2026-11-24"), Some(local("2026-11-26")), ZONE);
    assert_eq!(body(&insert_event(&event))["end"], json!({"date": "2026-11-27"}));
}

#[test]
fn everything_said_about_an_event_is_sent() {
    let event =
        NewEvent::new(id(), "Meeting", local("2026-11-24T10:00"), Some(local("2026-11-24T12:00")), ZONE)
            .with_attendees(&[address("anna@example.com")])
            .with_location(Some("Room 1"))
            .with_description(Some("Bring numbers"));
    assert_eq!(
        body(&insert_event(&event)),
        json!({
            "id": event.id(), "summary": "Meeting", "location": "Room 1", "description": "Bring numbers",
            "start": {"dateTime": "2026-11-24T10:00:00", "timeZone": ZONE},
            "end": {"dateTime": "2026-11-24T12:00:00", "timeZone": ZONE},
            "attendees": [{"email": "anna@example.com"}],
        })
    );
}

fn patch(existing: &Event, change: EventChange<'_>) -> Value {
    body(&patch_event("e1", &EventPatch::new(existing, &change, ZONE).expect("a patch")))
}

#[test]
fn a_new_start_keeps_the_duration() {
    let moved = patch(
        &event(json!({})),
        EventChange { start: Some(local("2026-11-25T09:30")), ..EventChange::default() },
    );
    assert_eq!(
        moved,
        json!({
            "start": {"dateTime": "2026-11-25T09:30:00", "timeZone": ZONE, "date": null},
            "end": {"dateTime": "2026-11-25T10:15:00", "timeZone": ZONE, "date": null},
        })
    );
    let days = event(json!({"start": {"date": "2026-11-24"}, "end": {"date": "2026-11-27"}}));
    let moved = patch(&days, EventChange { start: Some(local("2026-12-01")), ..EventChange::default() });
    assert_eq!(moved["end"], json!({"date": "2026-12-04", "dateTime": null, "timeZone": null}));
}

#[test]
fn a_duration_of_another_kind_or_without_sense_is_not_kept() {
    let days = event(json!({"start": {"date": "2026-11-24"}, "end": {"date": "2026-11-27"}}));
    let timed =
        patch(&days, EventChange { start: Some(local("2026-11-25T09:30")), ..EventChange::default() });
    assert_eq!(timed["end"]["dateTime"], "2026-11-25T10:30:00");
    let backwards = event(json!({"end": {"dateTime": "2026-11-24T09:00:00+01:00"}}));
    let moved =
        patch(&backwards, EventChange { start: Some(local("2026-11-25T09:30")), ..EventChange::default() });
    assert_eq!(moved["end"]["dateTime"], "2026-11-25T10:30:00");
}

#[test]
fn a_new_end_alone_must_be_of_the_same_kind() {
    let longer = EventChange { end: Some(local("2026-11-24T11:30")), ..EventChange::default() };
    assert_eq!(
        patch(&event(json!({})), longer),
        json!({"end": {"dateTime": "2026-11-24T11:30:00", "timeZone": ZONE, "date": null}})
    );
    let day = EventChange { end: Some(local("2026-11-24")), ..EventChange::default() };
    assert_eq!(EventPatch::new(&event(json!({})), &day, ZONE), Err(ChangeError::EndKind));
}

#[test]
fn adding_people_keeps_those_who_are_there_as_they_are() {
    let there =
        json!({"email": "Bob@example.com", "responseStatus": "accepted", "optional": true, "comment": "ok"});
    let existing = event(json!({"attendees": [there]}));
    let people = [address("anna@example.com"), address("bob@example.com")];
    let change = EventChange { add_attendees: &people, ..EventChange::default() };
    assert_eq!(patch(&existing, change), json!({"attendees": [there, {"email": "anna@example.com"}]}));
    let known = EventChange { add_attendees: &people[1..], ..EventChange::default() };
    assert!(EventPatch::new(&existing, &known, ZONE).expect("a patch").is_empty());
}

#[test]
fn a_change_that_is_made_already_is_nothing_to_do() {
    let existing = event(json!({"location": "Room 1", "summary": "Review"}));
    let whole = |start: &str, end: Option<&str>| EventChange {
        title: Some("Review"),
        location: Some("Room 1"),
        start: Some(local(start)),
        end: end.map(local),
        ..EventChange::default()
    };
    let is_made = |event: &Event, change| EventPatch::new(event, &change, ZONE).expect("a patch").is_empty();
    assert!(is_made(&existing, whole("2026-11-24T10:00", None)));
    assert!(!is_made(&existing, whole("2026-11-24T10:01", None)));
    // Another end alone is sent together with its start.
    let longer = patch(&existing, whole("2026-11-24T10:00", Some("2026-11-24T14:00")));
    assert_eq!(longer.as_object().expect("an object").keys().collect::<Vec<_>>(), ["end", "start"]);
    let days =
        event(json!({"start": {"date": "2026-11-24"}, "end": {"date": "2026-11-25"}, "location": "Room 1"}));
    assert!(is_made(&days, whole("2026-11-24", None)));
    assert!(!is_made(&days, whole("2026-11-25", None)) && !is_made(&days, whole("2026-11-24T00:00", None)));
    let utc = event(json!({"start": {"dateTime": "2026-11-24T10:00:00Z"}, "location": "Room 1",
        "end": {"dateTime": "2026-11-24T11:00:00Z"}}));
    assert!(is_made(&utc, whole("2026-11-24T10:00", Some("2026-11-24T11:00"))));
}

#[test]
fn an_event_becomes_an_item() {
    let item = event(json!({
        "organizer": {"email": "anna@example.com", "displayName": "Anna Berg"}, "location": "Room 1",
    }))
    .to_item();
    assert_eq!((item.kind, item.id.as_str(), item.title.as_str()), (ItemKind::Event, "e1", "Review"));
    assert_eq!(item.person.expect("a person").to_string(), "Anna Berg <anna@example.com>");
    assert_eq!(item.when.as_deref(), Some("2026-11-24T10:00:00+01:00"));
    assert_eq!(item.snippet.as_deref(), Some("Room 1"));
    let day = event(json!({"start": {"date": "2026-11-24"}, "summary": null})).to_item();
    assert_eq!((day.when.as_deref(), day.title.as_str()), (Some("2026-11-24"), ""));
}

#[test]
fn the_person_of_an_own_event_is_the_first_guest() {
    let own = event(json!({
        "organizer": {"email": "me@example.com", "self": true},
        "attendees": [{"email": "me@example.com", "self": true}, {"email": "anna@example.com"}],
    }));
    assert_eq!(own.person().expect("a person").address, "anna@example.com");
    assert_eq!(event(json!({"organizer": {"email": "me@example.com", "self": true}})).person(), None);
}

#[test]
fn a_cancelled_event_has_little_but_is_read() {
    let gone: Event = serde_json::from_str(r#"{"id": "e1", "status": "cancelled"}"#).expect("an event");
    assert!(gone.is_cancelled());
    assert_eq!(gone.to_item().when, None);
}

proptest! {
    #[test]
    fn arbitrary_times_never_panic(start in "\\PC{0,30}", end in "\\PC{0,30}", whole: bool) {
        let time = |text: &str| if whole { json!({"date": text}) } else { json!({"dateTime": text}) };
        let existing = event(json!({"start": time(&start), "end": time(&end)}));
        for start in ["2026-11-25", "2199-12-31", "2199-12-31T23:59"] {
            let change = EventChange { start: Some(local(start)), ..EventChange::default() };
            let _ = EventPatch::new(&existing, &change, ZONE);
        }
        let _ = existing.to_item();
    }

    #[test]
    fn extreme_but_valid_times_never_panic(a in -9999i16..=9999, b in -9999i16..=9999) {
        let day = |year: i16| jiff::civil::date(year, 6, 15).to_string();
        let existing = event(json!({"start": {"date": day(a)}, "end": {"date": day(b)}}));
        let change = EventChange { start: Some(local("2199-12-31")), ..EventChange::default() };
        prop_assert!(EventPatch::new(&existing, &change, ZONE).is_ok());
    }

    #[test]
    fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = serde_json::from_slice::<Event>(&body);
        let _ = serde_json::from_slice::<EventList>(&body);
    }

    #[test]
    fn event_ids_are_distinct_and_of_the_alphabet(a: [u8; 16], b: [u8; 16], step in 1u8..=8) {
        let step = StepId::new(step).expect("a step");
        let (first, second) = (event_id(TaskId::from_bytes(a), step), event_id(TaskId::from_bytes(b), step));
        prop_assert!(first.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'v').contains(&byte)));
        prop_assert_eq!(first == second, a == b);
    }
}

/// What a patch makes of an event, as Google merges it; the clock of what is set by zone is that of winter.
fn patched(event: &Value, patch: &EventPatch) -> Value {
    let mut event = event.clone();
    for (name, value) in patch.0.as_object().expect("an object") {
        event[name] = value.clone();
        if let Some(time) = value["dateTime"].as_str().filter(|time| !time.ends_with("+01:00")) {
            event[name]["dateTime"] = json!(format!("{time}+01:00"));
        }
    }
    event
}

fn raw() -> Value {
    json!({
        "id": "e1", "etag": "\"1\"", "status": "confirmed", "summary": "Review", "location": "Room 1",
        "start": {"dateTime": "2026-11-24T10:00:00+01:00", "timeZone": "Europe/Lisbon"},
        "end": {"dateTime": "2026-11-24T10:45:00+01:00", "timeZone": "Europe/Lisbon"},
        "attendees": [{"email": "kim@example.com", "responseStatus": "needsAction"}],
    })
}

fn read(event: &Value) -> Event {
    serde_json::from_value(event.clone()).expect("an event")
}

#[test]
fn a_change_is_taken_back_field_by_field_and_leaves_what_others_did() {
    let invited = [address("ben@x.example"), address("KIM@example.com")];
    let change = EventChange {
        title: Some("Talk"),
        start: Some(local("2026-11-25T12:00")),
        location: Some("Room 2"),
        add_attendees: &invited,
        ..EventChange::default()
    };
    let patch = EventPatch::new(&read(&raw()), &change, ZONE).expect("a patch");
    // It outlives a process.
    let noted = serde_json::to_string(&Reversal::of(&read(&raw()), &patch)).expect("json");
    let reversal: Reversal = serde_json::from_str(&noted).expect("a reversal");
    let mut now = patched(&raw(), &patch);
    // Kim has answered, and somebody wrote down what it is about.
    now["attendees"][0]["responseStatus"] = json!("accepted");
    now["description"] = json!("Bring the figures");
    let back = reversal.back(&read(&now)).expect("nothing is overtaken");
    let mut restored = patched(&now, &back);
    assert_eq!(restored["attendees"], json!([{"email": "kim@example.com", "responseStatus": "accepted"}]));
    assert_eq!(restored["description"], "Bring the figures");
    for name in ["start", "end"] {
        // The form that was not there is unset.
        assert_eq!(restored[name].as_object_mut().expect("a time").remove("date"), Some(Value::Null));
    }
    for name in ["summary", "location", "start", "end"] {
        assert_eq!(restored[name], raw()[name], "{name}");
    }
    // Twice is once.
    assert!(reversal.back(&read(&restored)).expect("so already").is_empty());
    // What somebody has set anew since stays, and so does the rest.
    for (name, value) in [
        ("summary", json!("Their title")),
        ("location", json!("Their room")),
        ("start", json!({"dateTime": "2026-11-25T11:00:00+01:00"})),
        ("end", json!({"date": "2026-11-26"})),
    ] {
        let mut theirs = now.clone();
        theirs[name] = value;
        assert_eq!(reversal.back(&read(&theirs)), Err(ReversalError::Overtaken(name)));
    }
}

#[test]
fn a_change_made_twice_is_taken_back_to_what_each_field_was_when_it_was_last_set() {
    let change = EventChange { title: Some("Talk"), location: Some("Room 2"), ..EventChange::default() };
    let first = EventPatch::new(&read(&raw()), &change, ZONE).expect("a patch");
    let before = Reversal::of(&read(&raw()), &first);
    let mut theirs = patched(&raw(), &first);
    theirs["summary"] = json!("Their title");
    let second = EventPatch::new(&read(&theirs), &change, ZONE).expect("a patch");
    let both = Reversal::of(&read(&theirs), &second).or(before.clone());
    let back = both.back(&read(&patched(&theirs, &second))).expect("a way back");
    assert_eq!(back.0, json!({"summary": "Their title", "location": raw()["location"]}));
    assert_eq!(Reversal::default().or(before.clone()), before);
}

#[test]
fn what_was_empty_is_emptied_and_a_day_becomes_a_day_again() {
    let mut day = raw();
    day["location"] = Value::Null;
    (day["start"], day["end"]) = (json!({"date": "2026-11-24"}), json!({"date": "2026-11-25"}));
    let change = EventChange {
        location: Some("Room 2"),
        start: Some(local("2026-11-24T12:00")),
        ..EventChange::default()
    };
    let patch = EventPatch::new(&read(&day), &change, ZONE).expect("a patch");
    let back = Reversal::of(&read(&day), &patch).back(&read(&patched(&day, &patch))).expect("a way back");
    let unset = |date: &str| json!({"dateTime": null, "date": date, "timeZone": null});
    let wanted = json!({"location": null, "start": unset("2026-11-24"), "end": unset("2026-11-25")});
    assert_eq!(back.0, wanted);
}

#[test]
fn a_cancelled_event_is_restored_whole_and_one_of_a_series_by_its_state() {
    let mut cancelled = raw();
    cancelled["status"] = json!("cancelled");
    let call = restore_event(&cancelled).expect("a call");
    assert_eq!((call.method, call.if_match.as_deref()), ("PUT", Some("\"1\"")));
    assert_eq!(call.path, "/calendar/v3/calendars/primary/events/e1?sendUpdates=all");
    assert_eq!(body(&call), raw());
    let instance = json!({"id": "e1_20261124", "status": "cancelled", "recurringEventId": "e1"});
    let call = restore_event(&instance).expect("a call");
    assert_eq!((call.method, body(&call)), ("PATCH", json!({"status": "confirmed"})));
    // All that is sure of what somebody else cancelled.
    assert_eq!(restore_event(&json!({"id": "e1", "status": "cancelled"})), None);
}
