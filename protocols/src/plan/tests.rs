use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn step(id: &str, after: &[&str], call: Value) -> Value {
    json!({"id": id, "after": after, "call": call})
}

fn act(steps: &[Value]) -> String {
    json!({"decision": "act", "reason": null, "steps": steps}).to_string()
}

fn read(steps: &[Value]) -> Result<Plan, PlanError> {
    Plan::from_model_json(&act(steps))
}

fn search(limit: u8) -> Value {
    json!({"operation": "gmail.search", "query": "from:anna budget", "limit": limit})
}

fn read_message(message: &str) -> Value {
    json!({"operation": "gmail.read", "message": message})
}

fn send(to: &[&str], subject: &str, body: &str) -> Value {
    json!({"operation": "gmail.send", "to": to, "subject": subject, "body": body})
}

fn create(start: &str, end: Option<&str>) -> Value {
    json!({
        "operation": "calendar.create", "title": "Meeting", "start": start, "end": end,
        "attendees": [], "location": null, "description": null,
    })
}

fn id(number: u8) -> StepId {
    StepId::new(number).expect("a step number")
}

/// One of each operation, all correct.
fn every_operation() -> Vec<Value> {
    vec![
        step("s1", &[], search(5)),
        step("s2", &[], read_message("$s1[0]")),
        step("s3", &["s2"], send(&["anna@example.com", "$s1[0].from"], "Hello", "Line one\nline two")),
        step("s4", &[], json!({"operation": "gmail.reply", "message": "#m1", "body": "Yes."})),
        step(
            "s5",
            &[],
            json!({"operation": "calendar.list", "from": "2026-11-23", "to": null, "query": null, "limit": 20}),
        ),
        step("s6", &[], create("2026-11-24T10:00", None)),
        step(
            "s7",
            &[],
            json!({
                "operation": "calendar.change", "event": "$s6[0]", "title": null, "start": "2026-11-24T11:00",
                "end": null, "location": null, "add_attendees": ["#m1.from"],
            }),
        ),
        step("s8", &["s7"], json!({"operation": "calendar.delete", "event": "$s5[19]"})),
    ]
}

#[test]
fn the_names_of_operations_are_those_of_the_operations() {
    let plan = read(&every_operation()).expect("a plan");
    let mut used: Vec<&str> = plan.steps().iter().map(|step| step.call.name()).collect();
    used.sort_unstable();
    used.dedup();
    let mut names = Operation::NAMES;
    names.sort_unstable();
    assert!(used.iter().all(|name| names.contains(name)), "{used:?}");
    for name in names {
        assert!(schema::plan().to_string().contains(&format!("\"{name}\"")), "{name}");
    }
}

#[test]
fn every_operation_is_read_and_written_back() {
    let mut steps = every_operation();
    let drive = vec![
        step("s1", &[], json!({"operation": "drive.search", "text": "budget 2026", "limit": 3})),
        step("s2", &[], json!({"operation": "drive.read", "file": "$s1[2]"})),
    ];
    for steps in [std::mem::take(&mut steps), drive] {
        let text = act(&steps);
        let plan = Plan::from_model_json(&text).expect("a valid plan");
        let written = serde_json::to_value(&plan).expect("serialises");
        assert_eq!(written, serde_json::from_str::<Value>(&text).expect("json"));
        for (step, given) in plan.steps().iter().zip(&steps) {
            assert_eq!(json!(step.call.name()), given["call"]["operation"]);
            assert!(step.call.name().starts_with(step.call.service().name()));
        }
    }
}

#[test]
fn what_is_done_to_mail_and_files_besides_is_read_and_held_to_its_bounds() {
    let share = |people: Value| json!({"operation": "drive.share", "file": "#f1", "people": people, "role": "reader"});
    let label = |add: Value, remove: Value| json!({"operation": "gmail.label", "message": "#m1", "add": add, "remove": remove});
    let busy = |to: &str| json!({"operation": "calendar.free_busy", "from": "2026-11-24", "to": to, "people": ["#m1.from"]});
    let make = |folder: bool, text: Value| json!({"operation": "drive.create", "name": "a", "folder": folder, "text": text});
    let forward = |to: Value| json!({"operation": "gmail.forward", "message": "#m1", "to": to, "body": ""});
    let good = [
        share(json!(["#m1.from", "kim@example.com"])),
        label(json!(["Travel"]), json!(["UNREAD"])),
        busy("2026-11-24"),
        make(true, Value::Null),
        make(false, json!("one\ntwo")),
        forward(json!(["kim@example.com"])),
    ];
    for call in good {
        let text = act(&[step("s1", &[], call.clone())]);
        let plan = Plan::from_model_json(&text).unwrap_or_else(|error| panic!("{call}: {error}"));
        assert_eq!(
            serde_json::to_value(&plan).expect("serialises"),
            serde_json::from_str::<Value>(&text).expect("json")
        );
        assert_eq!(
            plan.steps()[0].call.is_side_effect(),
            plan.steps()[0].call.name() != "calendar.free_busy"
        );
    }
    let bad = [
        (share(json!([])), "people"),
        (label(json!([]), json!([])), "call"),
        (label(json!(["a\nb"]), json!([])), "add"),
        (label(json!([]), json!([" "])), "remove"),
        (label(json!(vec!["a"; LABELS_MAX + 1]), json!([])), "add"),
        (busy("2026-11-23"), "to"),
        (make(true, json!("x")), "text"),
        (forward(json!([])), "to"),
    ];
    for (call, wrong) in bad {
        match read(&[step("s1", &[], call.clone())]) {
            Err(PlanError::Field { field, .. }) => assert_eq!(field, wrong, "{call}"),
            other => panic!("{call}: {other:?}"),
        }
    }
    let role =
        json!({"operation": "drive.share", "file": "#f1", "people": ["kim@example.com"], "role": "owner"});
    assert!(matches!(read(&[step("s1", &[], role)]), Err(PlanError::Malformed(_))));
    for format in ExportFormat::ALL {
        let export = json!({"operation": "drive.export", "file": "#f1", "format": format.name()});
        let plan = read(&[step("s1", &[], export)]).unwrap();
        assert!(
            matches!(plan.steps()[0].call, Operation::DriveExport { format: read, .. } if read == format)
        );
    }
    let place = step("s1", &[], json!({"operation": "drive.move", "file": "#f1", "folder": "#e1"}));
    assert!(matches!(read(&[place]), Err(PlanError::WrongKind { wanted: ItemKind::File, .. })));
    let waits = json!({"operation": "drive.move", "file": "#f1", "folder": "$s1[0]"});
    let folder = json!({"operation": "drive.create", "name": "x", "folder": true, "text": null});
    let plan = read(&[step("s1", &[], folder), step("s2", &[], waits)]).unwrap();
    assert_eq!(plan.steps()[1].dependencies(), [id(1)]);
    let kind = step("s1", &[], json!({"operation": "drive.trash", "file": "#m1"}));
    assert!(matches!(read(&[kind]), Err(PlanError::WrongKind { .. })));
}

#[test]
fn dependencies_are_the_steps_waited_for_and_the_steps_used() {
    let plan = read(&every_operation()).expect("a valid plan");
    let of = |number| plan.step(id(number)).expect("the step").dependencies();
    assert_eq!(of(1), []);
    assert_eq!(of(3), [id(1), id(2)]);
    assert_eq!(of(4), [], "items of the session are no dependency");
    assert_eq!(of(8), [id(5), id(7)]);
}

#[test]
fn a_refusal_has_a_reason_and_no_steps() {
    let text = json!({"decision": "decline", "reason": "I do not play music.", "steps": []}).to_string();
    assert_eq!(Plan::from_model_json(&text), Ok(Plan::decline("I do not play music.")));
    let silent = json!({"decision": "decline", "reason": null, "steps": []}).to_string();
    assert_eq!(Plan::from_model_json(&silent), Ok(Plan::decline(REASON_DEFAULT)));
    let both =
        json!({"decision": "decline", "reason": "no", "steps": [step("s1", &[], search(1))]}).to_string();
    assert_eq!(Plan::from_model_json(&both), Err(PlanError::DeclinedWithSteps));
    let long = json!({"decision": "decline", "reason": "x".repeat(1_001), "steps": []}).to_string();
    assert_eq!(Plan::from_model_json(&long), Err(PlanError::Reason("is too long")));
}

#[test]
fn the_number_of_steps_is_bounded() {
    assert_eq!(read(&[]), Err(PlanError::NoSteps));
    let nine: Vec<Value> = (0..9).map(|_| step("s1", &[], search(1))).collect();
    assert_eq!(read(&nine), Err(PlanError::TooManySteps(9)));
    let twice = [step("s1", &[], search(1)), step("s1", &[], search(1))];
    assert_eq!(read(&twice), Err(PlanError::DuplicateStep(id(1))));
}

#[test]
fn steps_that_do_not_exist_are_named() {
    let unknown = |on| Err(PlanError::UnknownStep { step: id(1), on: id(on) });
    assert_eq!(read(&[step("s1", &["s4"], search(1))]), unknown(4));
    assert_eq!(read(&[step("s1", &[], read_message("$s2[0]"))]), unknown(2));
    assert_eq!(read(&[step("s1", &[], send(&["$s3[0].from"], "x", "y"))]), unknown(3));
}

#[test]
fn a_step_may_use_a_later_listed_one() {
    let plan = read(&[step("s2", &[], read_message("$s1[0]")), step("s1", &[], search(1))]);
    assert!(plan.is_ok(), "{plan:?}");
}

#[test]
fn cycles_are_refused_and_blamed_on_a_step_of_the_cycle() {
    assert_eq!(read(&[step("s1", &["s1"], search(1))]), Err(PlanError::Cycle(id(1))));
    assert_eq!(read(&[step("s1", &[], read_message("$s1[0]"))]), Err(PlanError::Cycle(id(1))));
    let waits_for_a_cycle = [
        step("s1", &["s2"], search(1)),
        step("s2", &["s3"], search(1)),
        step("s3", &[], read_message("$s2[0]")),
    ];
    assert_eq!(read(&waits_for_a_cycle), Err(PlanError::Cycle(id(2))));
}

#[test]
fn results_of_the_wrong_kind_are_refused() {
    let files = step("s1", &[], json!({"operation": "drive.search", "text": "budget", "limit": 5}));
    let reference: ItemRef = "$s1[0]".parse().expect("a reference");
    assert_eq!(
        read(&[files.clone(), step("s2", &[], read_message("$s1[0]"))]),
        Err(PlanError::WrongKind { step: id(2), reference, wanted: ItemKind::Message })
    );
    let session: ItemRef = "#f1".parse().expect("a reference");
    assert_eq!(
        read(&[step("s1", &[], read_message("#f1"))]),
        Err(PlanError::WrongKind { step: id(1), reference: session, wanted: ItemKind::Message })
    );
    let owner = [files, step("s2", &[], send(&["$s1[0].from"], "Your file", "Thanks"))];
    assert!(read(&owner).is_ok(), "the owner of a file is a person too");
}

#[test]
fn results_that_cannot_be_there_are_refused() {
    let reference = |text: &str| text.parse::<ItemRef>().expect("a reference");
    assert_eq!(
        read(&[step("s1", &[], search(5)), step("s2", &[], read_message("$s1[5]"))]),
        Err(PlanError::IndexOutOfRange { step: id(2), reference: reference("$s1[5]"), count_max: 5 })
    );
    assert_eq!(
        read(&[
            step("s1", &[], create("2026-11-24", None)),
            step("s2", &[], send(&["$s1[1].from"], "x", "y"))
        ]),
        Err(PlanError::IndexOutOfRange { step: id(2), reference: reference("$s1[1]"), count_max: 1 })
    );
    let delete = step("s1", &[], json!({"operation": "calendar.delete", "event": "#e1"}));
    assert_eq!(
        read(&[delete, step("s2", &[], send(&["$s1[0].from"], "x", "y"))]),
        Err(PlanError::NoResults { step: id(2), reference: reference("$s1[0]") })
    );
}

fn field_error(call: Value) -> (&'static str, &'static str) {
    match read(&[step("s1", &[], call.clone())]) {
        Err(PlanError::Field { step, field, problem }) => {
            assert_eq!(step, id(1));
            (field, problem)
        }
        other => panic!("{call} gave {other:?}"),
    }
}

#[test]
fn subjects_and_titles_cannot_inject_headers() {
    for evil in ["Hi\r\nBcc: all@example.com", "Hi\nX", "Hi\0", "Hi\u{85}X", "Hi\u{2028}X", "tab\there"] {
        let to = ["anna@example.com"];
        assert_eq!(field_error(send(&to, evil, "body")), ("subject", "has control characters"), "{evil:?}");
        let mut event = create("2026-11-24T10:00", None);
        event["title"] = json!(evil);
        assert_eq!(field_error(event), ("title", "has control characters"), "{evil:?}");
    }
    let injected = read(&[step("s1", &[], send(&["a@example.com\r\nBcc: b@example.com"], "x", "y"))]);
    assert!(matches!(injected, Err(PlanError::Malformed(_))), "{injected:?}");
}

#[test]
fn texts_and_lists_have_limits() {
    let to = ["anna@example.com"];
    assert_eq!(field_error(send(&to, &"x".repeat(501), "y")), ("subject", "is too long"));
    assert_eq!(field_error(send(&to, "x", &"y".repeat(20_001))), ("body", "is too long"));
    assert_eq!(field_error(send(&[], "x", "y")), ("to", "is empty"));
    assert_eq!(field_error(send(&["a@example.com"; 21], "x", "y")), ("to", "has more than 20 entries"));
    assert_eq!(field_error(search(0)), ("limit", "is not in 1 to 20"));
    assert_eq!(field_error(search(21)), ("limit", "is not in 1 to 20"));
    assert_eq!(
        field_error(json!({"operation": "drive.search", "text": " ", "limit": 1})),
        ("text", "is empty")
    );
    // Characters count, not bytes.
    assert!(read(&[step("s1", &[], send(&to, &"\u{e9}".repeat(500), "y"))]).is_ok());
}

#[test]
fn events_end_after_they_start() {
    assert_eq!(
        field_error(create("2026-11-24T10:00", Some("2026-11-24T10:00"))),
        ("end", "is not after `start`")
    );
    assert_eq!(field_error(create("2026-11-24", Some("2026-11-23"))), ("end", "is not after `start`"));
    assert_eq!(field_error(create("2026-11-24", Some("2026-11-24T10:00"))).0, "end");
    assert!(read(&[step("s1", &[], create("2026-11-24", Some("2026-11-24")))]).is_ok(), "one whole day");
    let backwards = json!({"operation": "calendar.list", "from": "2026-11-24", "to": "2026-11-23", "query": null, "limit": 1});
    assert_eq!(field_error(backwards), ("to", "is not after `from`"));
}

#[test]
fn a_change_changes_something() {
    let nothing = json!({
        "operation": "calendar.change", "event": "#e1", "title": null, "start": null, "end": null,
        "location": null, "add_attendees": [],
    });
    assert_eq!(field_error(nothing), ("call", "changes nothing"));
}

#[test]
fn unknown_operations_and_fields_are_malformed() {
    for call in [
        json!({"operation": "gmail.burn", "message": "#m1"}),
        json!({"operation": "gmail.read", "message": "#m1", "format": "raw"}),
        json!({"operation": "gmail.search", "query": "x", "limit": 300}),
        json!({"operation": "gmail.read"}),
    ] {
        let plan = read(&[step("s1", &[], call.clone())]);
        assert!(matches!(plan, Err(PlanError::Malformed(_))), "{call} gave {plan:?}");
    }
    assert!(matches!(Plan::from_model_json("Sure! Here is the plan"), Err(PlanError::Malformed(_))));
    let huge = " ".repeat(MODEL_JSON_BYTES_MAX + 1);
    assert!(matches!(Plan::from_model_json(&huge), Err(PlanError::Malformed(_))));
}

#[test]
fn side_effects_are_those_that_change_something_outside() {
    let plan = read(&every_operation()).expect("a valid plan");
    let effects: Vec<&str> =
        plan.steps().iter().filter(|step| step.call.is_side_effect()).map(|step| step.call.name()).collect();
    assert_eq!(
        effects,
        ["gmail.send", "gmail.reply", "calendar.create", "calendar.change", "calendar.delete"]
    );
}

/// Walks a schema and fails where strict structured outputs would.
fn assert_strict(schema: &Value, path: &str) {
    const KEYWORDS: [&str; 13] = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "anyOf",
        "pattern",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "description",
    ];
    let object = schema.as_object().unwrap_or_else(|| panic!("{path} is no schema"));
    for keyword in object.keys() {
        assert!(KEYWORDS.contains(&keyword.as_str()), "{path} uses {keyword}");
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        for (index, choice) in choices.iter().enumerate() {
            assert_strict(choice, &format!("{path}/anyOf/{index}"));
        }
        return;
    }
    match &schema["type"] {
        Value::String(name) if name == "object" => {
            assert_eq!(schema["additionalProperties"], json!(false), "{path}");
            let properties =
                schema["properties"].as_object().unwrap_or_else(|| panic!("{path} has no properties"));
            let mut required: Vec<&str> =
                schema["required"].as_array().expect("required").iter().filter_map(Value::as_str).collect();
            required.sort_unstable();
            let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, required, "{path}");
            for (name, property) in properties {
                assert_strict(property, &format!("{path}/{name}"));
            }
        }
        Value::String(name) if name == "array" => assert_strict(&schema["items"], &format!("{path}/items")),
        Value::String(name) => {
            assert!(["string", "integer", "boolean"].contains(&name.as_str()), "{path} is a {name}")
        }
        Value::Array(names) => assert_eq!(names, &[json!("string"), json!("null")], "{path}"),
        other => panic!("{path} has the type {other}"),
    }
}

#[test]
fn the_schema_is_strict_everywhere() {
    let schema = Plan::json_schema();
    assert_eq!(schema["type"], json!("object"), "the root must be an object, not a choice");
    assert_strict(&schema, "");
}

#[test]
fn the_schema_has_exactly_the_operations_and_fields_of_the_type() {
    let schema = Plan::json_schema();
    let choices =
        schema["properties"]["steps"]["items"]["properties"]["call"]["anyOf"].as_array().expect("choices");
    let mut samples: Vec<Value> = every_operation().into_iter().map(|step| step["call"].clone()).collect();
    samples.push(json!({"operation": "drive.search", "text": "x", "limit": 1}));
    samples.push(json!({"operation": "drive.read", "file": "#f1"}));
    samples.extend([
        json!({"operation": "gmail.forward", "message": "#m1", "to": ["a@b.c"], "body": ""}),
        json!({"operation": "gmail.draft", "to": ["a@b.c"], "subject": "x", "body": "x"}),
        json!({"operation": "gmail.label", "message": "#m1", "add": [], "remove": ["UNREAD"]}),
        json!({"operation": "gmail.trash", "message": "#m1"}),
        json!({"operation": "calendar.free_busy", "from": "2026-11-24", "to": "2026-11-24", "people": []}),
        json!({"operation": "drive.create", "name": "x", "folder": false, "text": null}),
        json!({"operation": "drive.share", "file": "#f1", "people": ["a@b.c"], "role": "reader"}),
        json!({"operation": "drive.export", "file": "#f1", "format": "pdf"}),
        json!({"operation": "drive.move", "file": "#f1", "folder": "#f2"}),
        json!({"operation": "drive.trash", "file": "#f1"}),
    ]);
    assert_eq!((choices.len(), samples.len()), (Operation::NAMES.len(), Operation::NAMES.len()));
    for sample in samples {
        let choice = choices
            .iter()
            .find(|choice| choice["properties"]["operation"]["enum"][0] == sample["operation"])
            .unwrap_or_else(|| panic!("no schema for {sample}"));
        let fields: Vec<&String> = sample.as_object().expect("an object").keys().collect();
        let described: Vec<&String> = choice["properties"].as_object().expect("properties").keys().collect();
        assert_eq!(fields, described);
        assert!(serde_json::from_value::<Operation>(sample.clone()).is_ok(), "{sample}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_is_no_plan_and_no_panic(text in "\\PC{0,200}") {
        prop_assert!(Plan::from_model_json(&text).is_err());
    }

    #[test]
    fn plans_of_random_dependencies_are_accepted_only_when_they_can_finish(
        edges in proptest::collection::vec((1u8..=8, 1u8..=8), 0..16)
    ) {
        let steps: Vec<Step> = (1..=8)
            .map(|number| Step {
                id: id(number),
                after: edges.iter().filter(|(from, _)| *from == number).map(|(_, to)| id(*to)).collect(),
                call: Operation::GmailSearch { query: String::new(), limit: 1 },
            })
            .collect();
        // The model: take away steps that nothing unfinished blocks, one at a time.
        let mut left: Vec<&Step> = steps.iter().collect();
        while let Some(at) = left.iter().position(|step| !step.after.iter().any(|on| left.iter().any(|s| s.id == *on))) {
            left.remove(at);
        }
        prop_assert_eq!(Plan::act(steps.clone()).validate().is_ok(), left.is_empty());
    }

    #[test]
    fn mangled_plans_never_panic(at in 0usize..2_000, byte: u8) {
        let mut text = act(&every_operation()).into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(text) = String::from_utf8(text) {
            let _ = Plan::from_model_json(&text);
        }
    }
}
