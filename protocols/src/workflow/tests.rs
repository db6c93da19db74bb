use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::StepState;
use crate::plan::{Item, ItemKind, Operation, Person, Plan};

fn step(id: &str, operation: &str, with: Value) -> Value {
    json!({"id": id, "operation": operation, "with": with})
}

fn find() -> Value {
    step("find", "gmail.search", json!({"query": "from:${input.who} is:unread", "limit": 3}))
}

fn definition(steps: Value) -> Value {
    json!({
        "input": {
            "who": {"type": "text", "default": "anna"},
            "to": {"type": "address"},
            "many": {"type": "addresses", "default": []},
            "start": {"type": "time", "default": "2026-11-24T10:00"},
            "most": {"type": "integer", "default": 5},
            "loud": {"type": "boolean", "default": false},
        },
        "steps": steps,
    })
}

fn checked(steps: Value) -> Workflow {
    Workflow::check(&definition(steps)).expect("a workflow")
}

/// The first fault: step, place and what is said.
fn fault(definition: &Value) -> (Option<String>, String, String) {
    let fault = Workflow::check(definition).expect_err("refused").0.swap_remove(0);
    (fault.step, fault.pointer, fault.detail)
}

fn refused(steps: Value, step: &str, pointer: &str, words: &str) {
    let (at_fault, place, detail) = fault(&definition(steps));
    assert_eq!((at_fault.as_deref(), place.as_str()), (Some(step), pointer), "{detail}");
    assert!(detail.contains(words), "{detail}");
}

#[derive(Default)]
struct Brought(HashMap<usize, (Vec<Item>, Option<String>)>);

impl Found for Brought {
    fn item(&self, step: usize, index: u8) -> Option<Item> {
        self.0.get(&step)?.0.get(usize::from(index)).cloned()
    }

    fn count(&self, step: usize) -> usize {
        self.0.get(&step).map_or(0, |(items, _)| items.len())
    }

    fn text(&self, step: usize) -> Option<String> {
        self.0.get(&step)?.1.clone()
    }
}

fn message(title: &str) -> Item {
    Item {
        kind: ItemKind::Message,
        id: "18c2".to_owned(),
        title: title.to_owned(),
        person: Some(Person { name: None, address: "anna@example.com".to_owned() }),
        when: None,
        thread_id: None,
        message_id_header: None,
        snippet: None,
    }
}

fn input(workflow: &Workflow) -> Input {
    workflow.input(&json!({"to": "bert@example.com"})).expect("an input")
}

#[test]
fn references_become_dependencies_and_places() {
    let workflow = checked(json!([
        find(),
        step("read", "gmail.read", json!({"message": "$steps.find.messages[1].id"})),
        step(
            "tell",
            "gmail.send",
            json!({
                "to": ["$input.to", "$steps.find.messages[0].from", "c@example.com"],
                "subject": "Re: ${steps.find.messages[0].subject}, $$5",
                "body": "$steps.read.text",
            })
        ),
    ]));
    let nodes = workflow.graph.nodes();
    assert_eq!(nodes[0].before(), [0usize; 0]);
    assert_eq!((nodes[1].before(), nodes[2].before()), (&[0][..], &[0, 1][..]));
    assert!(!nodes[1].has_places() && nodes[2].has_places());
    let mut brought = Brought::default();
    brought.0.insert(0, (vec![message("Budget\r\nBcc: all")], None));
    brought.0.insert(1, (Vec::new(), Some("first\nsecond\u{7}".to_owned())));
    let call = nodes[2].fill(&input(&workflow), &brought).expect("filled");
    assert_eq!(
        serde_json::to_value(call).unwrap(),
        json!({
            "operation": "gmail.send",
            "to": ["bert@example.com", "$s1[0].from", "c@example.com"],
            "subject": "Re: Budget  Bcc: all, $5",
            "body": "first\nsecond",
        })
    );
    let call = nodes[0].fill(&input(&workflow), &brought).expect("filled");
    assert!(matches!(call, Operation::GmailSearch { query, limit: 3 } if query == "from:anna is:unread"));
}

#[test]
fn what_is_not_there_is_said_and_nothing_is_made_up() {
    let workflow = checked(json!([
        find(),
        step(
            "tell",
            "gmail.send",
            json!({
            "to": ["$input.to"], "subject": "$steps.find.messages[2].title", "body": "x"})
        ),
    ]));
    let error = workflow.graph.nodes()[1].fill(&input(&workflow), &Brought::default()).unwrap_err();
    assert_eq!(error.to_string(), "subject refers to the title of message 3 of step 1, which is not there");
}

#[test]
fn texts_that_are_too_long_are_cut_where_they_are_put_together() {
    let workflow = checked(json!([
        find(),
        step(
            "meet",
            "calendar.create",
            json!({"title": "${steps.find.messages[0].title}!", "start": "$input.start"})
        ),
    ]));
    let mut brought = Brought::default();
    brought.0.insert(0, (vec![message(&"x".repeat(600))], None));
    let call = workflow.graph.nodes()[1].fill(&input(&workflow), &brought).expect("filled");
    let Operation::CalendarCreate { title, start, .. } = call else { panic!("another operation") };
    assert_eq!((title.chars().count(), title.ends_with('…')), (500, true));
    assert_eq!(start.to_string(), "2026-11-24T10:00");
}

#[test]
fn a_cycle_is_refused_by_the_names_of_its_steps() {
    let mut first = step("first", "drive.search", json!({"text": "x"}));
    first["after"] = json!(["third"]);
    let steps = json!([
        find(),
        first,
        step("second", "drive.read", json!({"file": "$steps.first.files[0]"})),
        step("third", "gmail.send", json!({"to": "$input.to", "subject": "s", "body": "$steps.second.text"})),
        {"id": "last", "operation": "gmail.search", "with": {"query": ""}, "after": ["third"]},
    ]);
    let (at_fault, pointer, detail) = fault(&definition(steps));
    assert_eq!((at_fault.as_deref(), pointer.as_str()), (Some("first"), "/steps/1"));
    assert_eq!(detail, "depends on itself: first -> third -> second -> first");
    let own = json!([step("a", "gmail.search", json!({"query": "$steps.a.messages[0].title"}))]);
    assert_eq!(fault(&definition(own)).2, "depends on itself: a -> a");
}

#[test]
fn what_is_unknown_is_refused_by_step_and_place() {
    let read = |message: &str| step("read", "gmail.read", json!({"message": message}));
    refused(
        json!([find(), read("$steps.fnd.messages[0]")]),
        "read",
        "/steps/1/with/message",
        "no step `fnd`",
    );
    refused(json!([find(), read("$input.what")]), "read", "/steps/1/with/message", "no input `what`");
    refused(
        json!([find(), step("go", "gmail.erase", json!({}))]),
        "go",
        "/steps/1/operation",
        "no such operation",
    );
    refused(
        json!([step("find", "gmail.search", json!({"query": "", "size": 3}))]),
        "find",
        "/steps/0/with/size",
        "takes: query, limit",
    );
    refused(json!([find(), find()]), "find", "/steps/1/id", "twice");
    let mut after = find();
    after["after"] = json!(["nobody"]);
    refused(json!([after]), "find", "/steps/0/after/0", "no step `nobody`");
    let mut more = find();
    more["retries"] = json!(3);
    refused(json!([more]), "find", "/steps/0/retries", "no such field");
}

#[test]
fn what_is_mistyped_is_refused_by_step_and_place() {
    let with = |operation: &str, with: Value| json!([find(), step("x", operation, with)]);
    for (steps, pointer, words) in [
        (
            with("drive.read", json!({"file": "$steps.find.messages[0]"})),
            "/with/file",
            "must be a reference to a file",
        ),
        (
            with("gmail.read", json!({"message": "$steps.find.files[0]"})),
            "/with/message",
            "brings messages, not files",
        ),
        (
            with("gmail.read", json!({"message": "$steps.find.messages[3]"})),
            "/with/message",
            "at most 3 results",
        ),
        (
            with("gmail.read", json!({"message": "$steps.find.messages[0].title"})),
            "/with/message",
            "must be a reference",
        ),
        (with("gmail.read", json!({"message": "18c2"})), "/with/message", "must be a reference"),
        (with("gmail.read", json!({"message": "#m1"})), "/with/message", "must be a reference"),
        (with("gmail.read", json!({})), "/with/message", "is missing"),
        (with("gmail.search", json!({"query": "$steps.find.text"})), "/with/query", "reads no text"),
        (with("gmail.search", json!({"query": "$steps.find.messages[0]"})), "/with/query", "is no text"),
        (with("gmail.search", json!({"query": 7})), "/with/query", "must be a text"),
        (with("gmail.search", json!({"query": "", "limit": 21})), "/with/limit", "1 to 20"),
        (with("gmail.search", json!({"query": "", "limit": "$input.who"})), "/with/limit", "type integer"),
        (with("calendar.list", json!({"from": "$input.to"})), "/with/from", "type time"),
        (with("calendar.list", json!({"from": "tomorrow"})), "/with/from", "must be a time"),
        (with("drive.create", json!({"name": "n", "folder": "yes"})), "/with/folder", "true or false"),
        (
            with("gmail.send", json!({"to": ["$input.who"], "subject": "", "body": ""})),
            "/with/to",
            "addresses",
        ),
        (with("gmail.send", json!({"to": ["nobody"], "subject": "", "body": ""})), "/with/to", "addresses"),
        (
            with("gmail.send", json!({"to": ["$steps.find.messages[0].title"], "subject": "", "body": ""})),
            "/with/to",
            "addresses",
        ),
        (with("gmail.send", json!({"to": [], "subject": "", "body": ""})), "/with", "to is empty"),
        (with("gmail.search", json!({"query": "$step.find.text"})), "/with/query", "a reference is"),
        (with("gmail.search", json!({"query": "${steps.find"})), "/with/query", "ends with }"),
        (
            with("calendar.create", json!({"title": "t", "start": "2026-11-24", "end": "2026-11-23"})),
            "/with",
            "end is not after",
        ),
    ] {
        refused(steps, "x", &format!("/steps/1{pointer}"), words);
    }
}

#[test]
fn conditions_are_checked_and_decide() {
    let when = |when: Value| {
        let mut read = step("read", "gmail.read", json!({"message": "$steps.find.messages[0]"}));
        read["when"] = when;
        json!([find(), read])
    };
    let mut brought = Brought::default();
    brought.0.insert(0, (vec![message("Invoice 7")], None));
    for (condition, full, empty) in [
        (json!({"exists": "$steps.find.messages[0]"}), true, false),
        (json!({"greater": ["$steps.find.count", 0]}), true, false),
        (json!({"less": ["$steps.find.count", "$input.most"]}), true, true),
        (json!({"contains": ["$steps.find.messages[0].title", "invoice"]}), true, false),
        (json!({"equals": ["$steps.find.messages[0].from", "ANNA@example.com"]}), true, false),
        (json!({"equals": ["$input.loud", false]}), true, true),
        (json!({"not": {"exists": "$steps.find.messages[0]"}}), false, true),
        (
            json!({"all": [{"equals": ["$input.who", "anna"]}, {"equals": ["$input.who", "bert"]}]}),
            false,
            false,
        ),
        (
            json!({"any": [{"equals": ["$input.who", "anna"]}, {"equals": ["$input.who", "bert"]}]}),
            true,
            true,
        ),
    ] {
        let workflow = checked(when(condition.clone()));
        let node = &workflow.graph.nodes()[1];
        assert_eq!(node.is_wanted(&input(&workflow), &brought), full, "{condition}");
        assert_eq!(node.is_wanted(&input(&workflow), &Brought::default()), empty, "{condition}");
    }
    for (condition, pointer, words) in [
        (json!({"exists": "$steps.fnd.count"}), "/exists", "no step `fnd`"),
        (json!({"greater": ["$steps.find.count", "3"]}), "/greater", "two whole numbers"),
        (json!({"contains": ["$steps.find.count", "3"]}), "/contains", "two texts"),
        (json!({"equals": ["$input.loud", "no"]}), "/equals", "compares"),
        (json!({"equals": ["$steps.find.messages[0]", "x"]}), "/equals", "compares"),
        (json!({"matches": ["a", "b"]}), "", "must be an object with one of"),
        (json!({"all": [{"exists": 7}]}), "/all/0", "must be an object"),
    ] {
        refused(when(condition), "read", &format!("/steps/1/when{pointer}"), words);
    }
    // A condition makes its step wait, too.
    let mut apart = step("apart", "drive.search", json!({"text": "x"}));
    apart["when"] = json!({"exists": "$steps.find.messages[0]"});
    assert_eq!(checked(json!([find(), apart])).graph.nodes()[1].before(), [0]);
}

#[test]
fn inputs_are_checked_by_name_and_type() {
    let workflow = checked(json!([find()]));
    for (given, pointer) in [
        (json!({}), "/input/to"),
        (json!({"to": "nobody"}), "/input/to"),
        (json!({"to": "a@b.c", "most": "5"}), "/input/most"),
        (json!({"to": "a@b.c", "what": 1}), "/input/what"),
        (json!({"to": "a@b.c", "start": "soon"}), "/input/start"),
        (json!({"to": "a@b.c", "many": ["a@b.c", "x"]}), "/input/many"),
        (json!([1]), "/input"),
    ] {
        let faults = workflow.input(&given).unwrap_err();
        assert_eq!(faults.0[0].pointer, pointer, "{given}");
    }
    let whole = workflow.input(&json!({"to": "a@b.c", "who": null})).unwrap().to_value();
    assert_eq!((&whole["who"], &whole["most"]), (&json!("anna"), &json!(5)));
    // What is whole stays as it is: a restart checks the record again.
    assert_eq!(workflow.input(&whole).unwrap().to_value(), whole);
}

#[test]
fn bounds_are_kept() {
    let search = |index: usize, after: &[String]| json!({"id": format!("s{index}"), "operation": "gmail.search", "with": {"query": ""}, "after": after});
    let wide = |count: usize| definition(Value::Array((0..count).map(|index| search(index, &[])).collect()));
    assert!(Workflow::check(&wide(STEPS_MAX)).is_ok());
    assert_eq!(fault(&wide(STEPS_MAX + 1)).1, "/steps");
    assert_eq!(fault(&wide(0)).1, "/steps");
    let long = |count: usize| {
        let after =
            |index: usize| (index > 0).then(|| format!("s{}", index - 1)).into_iter().collect::<Vec<_>>();
        definition(Value::Array((0..count).map(|index| search(index, &after(index))).collect()))
    };
    assert!(Workflow::check(&long(DEPTH_MAX)).is_ok());
    assert_eq!(fault(&long(DEPTH_MAX + 1)).0.as_deref(), Some("s32"));
    let mut large = wide(1);
    large["description"] = json!("x".repeat(DEFINITION_BYTES_MAX));
    assert!(fault(&large).2.contains("bytes"));
    for (field, value) in [
        ("timeout_ms", json!(99)),
        ("retry", json!({"attempts": 0})),
        ("retry", json!({"wait_ms": 30_001})),
        ("compensate", json!("yes")),
    ] {
        let mut one = find();
        one[field] = value;
        assert!(fault(&definition(json!([one]))).1.starts_with(&format!("/steps/0/{field}")), "{field}");
    }
}

#[test]
fn what_can_be_taken_back_is_unless_its_author_says_otherwise() {
    let steps = || {
        let mut kept = step("kept", "drive.create", json!({"name": "n"}));
        kept["compensate"] = json!(false);
        json!([
            step("meet", "calendar.create", json!({"title": "t", "start": "2026-11-24"})),
            step("tell", "gmail.send", json!({"to": "$input.to", "subject": "", "body": ""})),
            kept,
        ])
    };
    let undone =
        |workflow: &Workflow| -> Vec<bool> { workflow.graph.nodes().iter().map(Node::is_undone).collect() };
    assert_eq!(undone(&checked(steps())), [true, false, false]);
    let mut keep = definition(steps());
    keep["on_failure"] = json!("keep");
    assert_eq!(undone(&Workflow::check(&keep).unwrap()), [false, false, false]);
}

#[test]
fn what_cannot_be_taken_back_is_not_promised_to_be() {
    let promised = |operation: &str, with: Value| {
        let mut one = step("one", operation, with);
        one["compensate"] = json!(true);
        json!([find(), one])
    };
    let mail = json!({"to": "$input.to", "subject": "", "body": ""});
    refused(promised("gmail.send", mail.clone()), "one", "/steps/1/compensate", "cannot be taken back");
    let read = json!({"message": "$steps.find.messages[0]"});
    refused(promised("gmail.read", read), "one", "/steps/1/compensate", "changes nothing");
    let file = json!({"name": "n"});
    assert!(checked(promised("drive.create", file)).graph.nodes()[1].is_undone());
    // What was stored when nobody was told so is run as it was.
    let stored = Workflow::stored(&definition(promised("gmail.send", mail))).expect("as it was");
    assert!(!stored.graph.nodes()[1].is_undone());
}

#[test]
fn labels_roles_and_forms_may_be_filled_in_and_are_checked_then() {
    let workflow = checked(json!([
        find(),
        step("read", "gmail.read", json!({"message": "$steps.find.messages[0]"})),
        step(
            "label",
            "gmail.label",
            json!({"message": "$steps.find.messages[0]",
            "add": ["Mail of ${input.who}", "STARRED", "US$$", "${input.who} US$$"], "remove": "$steps.find.messages[0].title"})
        ),
        step("file", "drive.search", json!({"text": "x"})),
        step(
            "share",
            "drive.share",
            json!({"file": "$steps.file.files[0]", "people": "$input.to", "role": "$input.who"})
        ),
        step("export", "drive.export", json!({"file": "$steps.file.files[0]", "format": "$steps.read.text"})),
    ]));
    let nodes = workflow.graph.nodes();
    assert_eq!(nodes[5].before(), [1, 3], "what it refers to comes first");
    let mut brought = Brought::default();
    brought.0.insert(0, (vec![message("INBOX")], None));
    brought.0.insert(1, (Vec::new(), Some(" PDF\n".to_owned())));
    let input = |who: &str| workflow.input(&json!({"who": who, "to": "kim@example.com"})).expect("an input");
    let filled = |index: usize, who: &str| {
        nodes[index].fill(&input(who), &brought).map(|call| serde_json::to_value(call).expect("json"))
    };
    let label = filled(2, "anna").expect("filled");
    assert_eq!(
        (&label["add"], &label["remove"]),
        (&json!(["Mail of anna", "STARRED", "US$$", "anna US$"]), &json!(["INBOX"]))
    );
    assert_eq!(filled(4, "Writer").expect("filled")["role"], "writer");
    assert_eq!(filled(5, "x").expect("filled")["format"], "pdf");
    let wrong = filled(4, "boss").expect_err("no role").to_string();
    assert_eq!(wrong, "role came out as “boss”, which is none of reader, commenter, writer");
    assert!(filled(2, &"x".repeat(300)).is_err(), "no label is so long");
    // What is written out, and what cannot give a text, is refused at once.
    let share = |role: Value| {
        json!([
            find(),
            step("file", "drive.search", json!({"text": "x"})),
            step(
                "share",
                "drive.share",
                json!({"file": "$steps.file.files[0]", "people": "kim@example.com", "role": role})
            )
        ])
    };
    for role in [json!("boss"), json!("Reader"), json!(7)] {
        refused(share(role), "share", "/steps/2/with/role", "must be one of reader, commenter, writer");
    }
    refused(share(json!("$input.many")), "share", "/steps/2/with/role", "is no text");
    refused(share(json!("$input.none")), "share", "/steps/2/with/role", "there is no input");
    refused(share(json!("$steps.share.files[0].name")), "share", "/steps/2", "depends on itself");
    let labels = |add: Value| {
        json!([
            find(),
            step("label", "gmail.label", json!({"message": "$steps.find.messages[0]", "add": add}))
        ])
    };
    refused(labels(json!(["$input.many"])), "label", "/steps/1/with/add", "is no text");
    refused(labels(json!([7])), "label", "/steps/1/with/add", "names of labels");
    refused(labels(json!(vec!["$input.who"; 11])), "label", "/steps/1/with", "more than 10");
}

#[test]
fn names_of_labels_stored_before_they_had_places_are_what_they_were() {
    let names = ["Cost ${x}", "US$$", "$money", "Half ${", "${steps.find.count} of ${x}", "${input.many}"];
    let steps = json!([
        find(),
        step(
            "label",
            "gmail.label",
            json!({"message": "$steps.find.messages[0]", "add": names, "remove": "$x"})
        ),
    ]);
    let workflow = Workflow::stored(&definition(steps)).expect("as it was");
    let label = &workflow.graph.nodes()[1];
    assert!(!label.has_places());
    let label = serde_json::to_value(label.call()).expect("json");
    assert_eq!((&label["add"], &label["remove"]), (&json!(names), &json!(["$x"])));
    // What is a reference is one there, too.
    let add = json!(["of ${input.who}, US$$", "Cost ${x}"]);
    let with = json!({"message": "$steps.find.messages[0]", "add": add});
    let workflow = Workflow::stored(&definition(json!([find(), step("label", "gmail.label", with.clone())])));
    let workflow = workflow.expect("as it was");
    let mut brought = Brought::default();
    brought.0.insert(0, (vec![message("x")], None));
    let filled = workflow.graph.nodes()[1].fill(&input(&workflow), &brought).expect("filled");
    let filled = serde_json::to_value(filled).expect("json");
    assert_eq!(filled["add"][1], "Cost ${x}");
    assert!(filled["add"][0].as_str().is_some_and(|name| name.ends_with(", US$")), "{filled}");
    // Nobody stores such a one anew.
    refused(json!([find(), step("label", "gmail.label", with)]), "label", "/steps/1/with/add", "`$x`");
}

#[test]
fn every_fault_is_told_at_once_and_none_too_many() {
    let steps: Vec<Value> = (0..40).map(|index| step(&format!("s{index}"), "gmail.eat", json!({}))).collect();
    let faults = Workflow::check(&definition(Value::Array(steps))).unwrap_err();
    assert_eq!(faults.0.len(), FAULTS_MAX);
    let problem = serde_json::to_value(faults.to_problem("the workflow")).unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("step `s0`"), "{problem}");
    assert_eq!(problem["errors"][1]["pointer"], "/steps/1/operation");
}

#[test]
fn names_are_plain() {
    for name in ["digest", "2-a_b", &"x".repeat(64)] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", "-a", "A", "a b", "check", "a/b", "a.b", &"x".repeat(65)] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn a_plan_is_a_graph_of_the_same_form() {
    let plan = json!({"decision": "act", "reason": null, "steps": [
        {"id": "s2", "after": [], "call": {"operation": "gmail.read", "message": "$s1[0]"}},
        {"id": "s1", "after": [], "call": {"operation": "gmail.search", "query": "", "limit": 2}},
    ]});
    let graph = Graph::of_plan(&Plan::from_model_json(&plan.to_string()).unwrap());
    assert_eq!((graph.nodes()[0].before(), graph.in_order()), (&[1][..], vec![1, 0]));
    let turn = |states: [StepState; 2]| graph.turn(0, |index| states[index]);
    use StepState::{Done, Failed, Pending, Running};
    assert_eq!(turn([Pending, Done]), Turn::MayBegin);
    assert_eq!(turn([Pending, Running]), Turn::Waits);
    assert_eq!(turn([Pending, Failed]), Turn::IsSkipped);
}

/// Workflows of searches and reads whose references go anywhere, also round in circles.
fn tangled() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (1usize..12)
        .prop_flat_map(|count| proptest::collection::vec(proptest::collection::vec(0..count, 0..3), count))
}

proptest! {
    #[test]
    fn what_passes_has_an_order_in_which_all_stand_behind_what_they_use(edges in tangled()) {
        let steps: Vec<Value> = edges.iter().enumerate().map(|(index, on)| {
            let query: Vec<String> = on.iter().map(|on| format!("${{steps.s{on}.messages[0].title}}")).collect();
            step(&format!("s{index}"), "gmail.search", json!({"query": query.join(" ")}))
        }).collect();
        match Workflow::check(&json!({"steps": steps})) {
            Ok(workflow) => {
                let order = workflow.graph.in_order();
                prop_assert_eq!(order.len(), edges.len());
                for (index, on) in edges.iter().enumerate() {
                    let place = |wanted: usize| order.iter().position(|placed| *placed == wanted);
                    prop_assert!(on.iter().all(|on| place(*on) < place(index)));
                }
            }
            Err(faults) => {
                let name: usize = faults.0[0].step.as_ref().unwrap()[1..].parse().unwrap();
                // The step that is named does reach itself.
                let (mut open, mut seen) = (edges[name].clone(), Vec::new());
                while let Some(next) = open.pop() {
                    if !seen.contains(&next) {
                        seen.push(next);
                        open.extend(&edges[next]);
                    }
                }
                prop_assert!(seen.contains(&name), "{:?}", faults);
            }
        }
    }

    #[test]
    fn a_damaged_definition_is_refused_or_taken_and_never_panics(
        at in any::<proptest::sample::Index>(), piece in "[$\\{\\}\\[\\]a-z0-9\". ,:]{0,6}",
    ) {
        let whole = definition(json!([
            find(),
            {"id": "read", "operation": "gmail.read", "with": {"message": "$steps.find.messages[0].id"},
             "when": {"all": [{"exists": "$steps.find.messages[0]"}, {"not": {"equals": ["$input.who", "x"]}}]},
             "timeout_ms": 500, "retry": {"attempts": 2, "wait_ms": 10}},
        ])).to_string();
        let at = at.index(whole.len());
        let damaged = format!("{}{piece}{}", &whole[..at], &whole[(at + piece.len()).min(whole.len())..]);
        if let Ok(value) = serde_json::from_str::<Value>(&damaged) {
            let _ = Workflow::check(&value);
        }
    }

    #[test]
    fn arbitrary_texts_are_taken_apart_without_a_panic(text in "[$\\{\\}a-z.\\[\\]0-9]{0,30}") {
        let steps = json!([find(), step("x", "gmail.search", json!({"query": text}))]);
        let _ = Workflow::check(&definition(steps));
    }

    #[test]
    fn whatever_is_filled_in_the_operation_is_within_its_bounds(title in "\\PC{0,700}", text in any::<String>()) {
        let workflow = checked(json!([
            find(),
            step("read", "gmail.read", json!({"message": "$steps.find.messages[0]"})),
            step("tell", "gmail.send", json!({
                "to": "$input.to", "subject": "a ${steps.find.messages[0].title}", "body": "$steps.read.text"})),
        ]));
        let mut brought = Brought::default();
        brought.0.insert(0, (vec![message(&title)], None));
        brought.0.insert(1, (Vec::new(), Some(text)));
        let call = workflow.graph.nodes()[2].fill(&input(&workflow), &brought);
        prop_assert!(call.is_ok_and(|call| call.check_fields().is_ok()));
    }
}
