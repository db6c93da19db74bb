//! What commands mean: sentences, the session they stand in, and the calls
//! expected of them.

use serde_json::{Value, json};

use super::{Context, check, plan};

/// A Monday afternoon, after mail was found and a file was read.
fn context() -> Value {
    json!({"now": "2026-11-23T15:04", "weekday": "Monday", "time_zone": "Europe/Berlin", "recent": [
        {"turn": 1, "command": "find the file about the roadmap", "items": [
            {"handle": "f1", "kind": "file", "title": "Product roadmap", "person": null, "when": null}]},
        {"turn": 2, "command": "what meetings do I have tomorrow", "items": [
            {"handle": "e1", "kind": "event", "title": "Project sync", "person": "Ben Okafor <ben.okafor@example.com>", "when": "2026-11-24T10:00"},
            {"handle": "e2", "kind": "event", "title": "Call with Anna", "person": null, "when": "2026-11-24T15:30"}]},
        {"turn": 3, "command": "find mail from anna", "items": [
            {"handle": "m1", "kind": "message", "title": "Re: Q4 budget", "person": "Anna Berg <anna.berg@example.com>", "when": "2026-11-21T09:12"},
            {"handle": "m2", "kind": "message", "title": "Team offsite", "person": "Anna Berg <anna.berg@example.com>", "when": "2026-11-07T11:40"},
            {"handle": "m3", "kind": "message", "title": "Welcome Julia", "person": "Anna Berg <anna.berg@example.com>", "when": "2026-10-24T10:02"}]}]})
}

fn planned(text: &str, context: &Value) -> Value {
    let plan = plan(text, &Context::from_json(context)).to_json();
    check(&plan).unwrap_or_else(|reason| panic!("{text:?}: {reason}: {plan}"));
    plan
}

/// A plan on one line: `search(from:anna budget; 5) | create(Title; start; end; attendees; location)`.
fn brief(plan: &Value) -> String {
    if plan["decision"] == "decline" {
        return "decline".to_owned();
    }
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            list.iter().map(|one| one.as_str().unwrap_or_default()).collect::<Vec<_>>().join("+")
        }
        other => other.to_string(),
    };
    let step = |step: &Value| {
        let call = &step["call"];
        let members: &[&str] = match call["operation"].as_str().unwrap_or_default() {
            "gmail.search" => &["query", "limit"],
            "gmail.read" => &["message"],
            "gmail.send" => &["to", "subject", "body"],
            "gmail.reply" => &["message", "body"],
            "calendar.list" => &["from", "to", "query", "limit"],
            "calendar.create" => &["title", "start", "end", "attendees", "location"],
            "calendar.change" => &["event", "title", "start", "end", "add_attendees"],
            "calendar.delete" => &["event"],
            "drive.search" => &["text"],
            "gmail.forward" => &["message", "to", "body"],
            "gmail.draft" => &["to", "subject", "body"],
            "gmail.label" => &["message", "add", "remove"],
            "gmail.trash" => &["message"],
            "calendar.free_busy" => &["from", "to", "people"],
            "drive.create" => &["name", "folder", "text"],
            "drive.share" => &["file", "people", "role"],
            "drive.move" => &["file", "folder"],
            "drive.export" => &["file", "format"],
            _ => &["file"],
        };
        let members: Vec<String> = members.iter().map(|member| text(&call[member])).collect();
        let after = text(&step["after"]);
        let after = if after.is_empty() { after } else { format!("after {after}: ") };
        let name = call["operation"].as_str().unwrap_or_default();
        format!("{after}{name}({})", members.join("; "))
    };
    plan["steps"].as_array().into_iter().flatten().map(step).collect::<Vec<_>>().join(" | ")
}

fn all_mean(cases: &[(&str, &str)], context: &Value) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(text, wanted)| (text, *wanted, brief(&planned(text, context))))
        .filter(|(_, wanted, got)| wanted != got)
        .map(|(text, wanted, got)| format!("{text}\n  wanted {wanted}\n  got    {got}"))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn mail_is_searched_and_read() {
    all_mean(
        &[
            ("Find the mail from Anna about the budget", "gmail.search(from:anna budget; 5)"),
            ("find the budget mail from Anna Berg", "gmail.search(from:(anna berg) budget; 5)"),
            ("show me my unread emails", "gmail.search(is:unread; 5)"),
            (
                "do I have any new mail from ben today?",
                "gmail.search(from:ben is:unread after:2026/11/23; 5)",
            ),
            (
                "search my mail for the invoice from last week",
                "gmail.search(after:2026/11/16 before:2026/11/23 invoice; 5)",
            ),
            (
                "emails from Anna and Ben with attachments",
                "gmail.search(from:(anna OR ben) has:attachment; 5)",
            ),
            ("list the last three mails", "gmail.search(in:inbox; 3)"),
            ("any mail from her about the offsite?", "gmail.search(from:anna.berg@example.com offsite; 5)"),
            ("mails I sent to carla", "gmail.search(to:carla in:sent; 5)"),
            ("read the first one", "gmail.read(#m1)"),
            ("Open the second mail", "gmail.read(#m2)"),
            ("what does it say?", "gmail.read(#m1)"),
            ("read the last one", "gmail.read(#m3)"),
            ("read me the latest email from Ben", "gmail.search(from:ben; 1) | gmail.read($s1[0])"),
            (
                "what did Carla write about the offer",
                "gmail.search(from:carla offer; 5) | gmail.read($s1[0])",
            ),
            ("read Anna's mail about the offsite", "gmail.search(from:anna offsite; 5) | gmail.read($s1[0])"),
            (
                "find the mail about the interview and read it",
                "gmail.search(interview; 5) | gmail.read($s1[0])",
            ),
        ],
        &context(),
    );
}

#[test]
fn mail_and_files_are_passed_on_labelled_made_and_thrown_away() {
    all_mean(
        &[
            ("forward it to Ben", "gmail.search(from:ben; 1) | gmail.forward(#m1; $s1[0].from; )"),
            (
                "forward the second one to kim@x.example saying have a look",
                "gmail.forward(#m2; kim@x.example; Have a look.)",
            ),
            (
                "forward the mail from Anna about the budget to kim@x.example",
                "gmail.search(from:anna budget; 1) | gmail.forward($s1[0]; kim@x.example; )",
            ),
            ("share it with kim@x.example", "drive.share(#f1; kim@x.example; reader)"),
            (
                "share the budget file with kim@x.example so that she can edit it",
                "drive.search(budget) | drive.share($s1[0]; kim@x.example; writer)",
            ),
            ("star it", "gmail.label(#m1; STARRED; )"),
            ("mark the second one as read", "gmail.label(#m2; ; UNREAD)"),
            ("label it as travel", "gmail.label(#m1; Travel; )"),
            ("archive that mail", "gmail.label(#m1; ; INBOX)"),
            ("delete the second mail", "gmail.trash(#m2)"),
            ("delete that file", "drive.trash(#f1)"),
            ("delete the mail from Ben", "gmail.search(from:ben; 1) | gmail.trash($s1[0])"),
            ("delete all mails", "decline"),
            (
                "is kim@x.example free tomorrow",
                "calendar.free_busy(2026-11-24T00:00; 2026-11-25T00:00; kim@x.example)",
            ),
            ("is Anna free", "decline"),
            ("create a folder called Trips", "drive.create(Trips; true; -)"),
            ("move that file to the folder Trips", "drive.search(trips) | drive.move(#f1; $s1[0])"),
            (
                "put the budget file into the Trips folder",
                "drive.search(budget) | drive.search(trips) | drive.move($s1[0]; $s2[0])",
            ),
            ("export that file as PDF", "drive.export(#f1; pdf)"),
            ("export the budget sheet as csv", "drive.search(budget) | drive.export($s1[0]; csv)"),
            ("export that file", "decline"),
            ("make a file called a.txt saying hello", "drive.create(a.txt; false; Hello.)"),
            (
                "draft a mail to kim@x.example saying the offer is ready",
                "gmail.draft(kim@x.example; The offer is ready; The offer is ready.)",
            ),
        ],
        &context(),
    );
}

#[test]
fn mail_is_written() {
    all_mean(
        &[
            (
                "Send a mail to Ben saying I will be ten minutes late",
                "gmail.search(from:ben; 1) | gmail.send($s1[0].from; I will be ten minutes late; I will be ten minutes late.)",
            ),
            (
                "tell Anna that the figures are ready",
                "gmail.search(from:anna; 1) | gmail.send($s1[0].from; The figures are ready; The figures are ready.)",
            ),
            (
                "email carla.mendes@example.com about the offer",
                "gmail.send(carla.mendes@example.com; The offer; Hello,\n\nI am writing to you about the offer.)",
            ),
            (
                "send an email to ben@x.example with subject Lunch and body See you at noon!",
                "gmail.send(ben@x.example; Lunch; See you at noon!)",
            ),
            (
                "Write to Anna and Ben about the offsite saying \"We take the train and stay two nights\"",
                "gmail.search(from:anna; 1) | gmail.search(from:ben; 1) | gmail.send($s1[0].from+$s2[0].from; The offsite; We take the train and stay two nights.)",
            ),
            ("tell her that I agree", "gmail.send(#m1.from; I agree; I agree.)"),
            (
                "let Grace know that we can talk on Friday",
                "gmail.search(from:grace; 1) | gmail.send($s1[0].from; We can talk on Friday; We can talk on Friday.)",
            ),
            (
                "ask Ben whether the release is done",
                "gmail.search(from:ben; 1) | gmail.send($s1[0].from; Whether the release is done; Whether the release is done?)",
            ),
            ("reply to her saying thank you, that helps", "gmail.reply(#m1; Thank you, that helps.)"),
            ("Reply to the second one that I will come", "gmail.reply(#m2; I will come.)"),
            ("reply to that: sounds good", "gmail.reply(#m1; Sounds good.)"),
            (
                "reply to the mail from Carla about the offer saying it looks fine",
                "gmail.search(from:carla offer; 1) | gmail.reply($s1[0]; It looks fine.)",
            ),
            ("reply to her saying thank you", "gmail.reply(#m1; Thank you.)"),
            ("answer Ben saying yes", "gmail.search(from:ben; 1) | gmail.reply($s1[0]; Yes.)"),
            ("send a mail to Anna", "decline"),
            ("forward that", "decline"),
            ("send Anna the roadmap document", "decline"),
        ],
        &context(),
    );
}

#[test]
fn the_calendar_is_read() {
    all_mean(
        &[
            ("what's on my calendar tomorrow?", "calendar.list(2026-11-24T00:00; 2026-11-25T00:00; -; 10)"),
            ("What do I have this week", "calendar.list(2026-11-23T00:00; 2026-11-30T00:00; -; 10)"),
            (
                "show my calendar on friday afternoon",
                "calendar.list(2026-11-27T12:00; 2026-11-27T18:00; -; 10)",
            ),
            (
                "do I have any meetings with Anna this week",
                "calendar.list(2026-11-23T00:00; 2026-11-30T00:00; anna; 10)",
            ),
            ("when is my next meeting", "calendar.list(2026-11-23T15:04; -; -; 1)"),
            ("when is my dentist appointment", "calendar.list(2026-11-23T15:04; -; dentist; 10)"),
            ("am I free on Thursday at three", "calendar.list(2026-11-26T15:00; 2026-11-26T16:00; -; 10)"),
            (
                "tell me what is on my calendar for tomorrow",
                "calendar.list(2026-11-24T00:00; 2026-11-25T00:00; -; 10)",
            ),
        ],
        &context(),
    );
}

#[test]
fn events_are_made_changed_and_removed() {
    all_mean(
        &[
            (
                "put a meeting with Anna on Tuesday at ten",
                "gmail.search(from:anna; 1) | calendar.create(Meeting with Anna; 2026-11-24T10:00; -; $s1[0].from; -)",
            ),
            (
                "schedule lunch tomorrow at 12:30 for 45 minutes",
                "calendar.create(Lunch; 2026-11-24T12:30; 2026-11-24T13:15; ; -)",
            ),
            (
                "Put a meeting with her on Friday from 2 to 3 pm",
                "calendar.create(Meeting with Anna; 2026-11-27T14:00; 2026-11-27T15:00; #m1.from; -)",
            ),
            (
                "add the dentist to my calendar on the 3rd of december at half past four",
                "calendar.create(Dentist; 2026-12-03T16:30; -; ; -)",
            ),
            (
                "create an event called Budget freeze on 2026-12-01",
                "calendar.create(Budget freeze; 2026-12-01; -; ; -)",
            ),
            (
                "remind me to call the bank tomorrow at noon",
                "calendar.create(Call the bank; 2026-11-24T12:00; -; ; -)",
            ),
            (
                "set up a call with ben@x.example about the release tomorrow at 9 in room 4",
                "calendar.create(Call with ben@x.example about release; 2026-11-24T09:00; -; ben@x.example; room 4)",
            ),
            ("schedule a meeting with Anna", "decline"),
            ("move it to 3pm", "calendar.change(#e1; -; 2026-11-24T15:00; -; )"),
            ("move the second event to Friday", "calendar.change(#e2; -; 2026-11-27T15:30; -; )"),
            (
                "move my meeting with Ben tomorrow to Thursday at half past four",
                "calendar.list(2026-11-24T00:00; 2026-11-25T00:00; ben; 10) | calendar.change($s1[0]; -; 2026-11-26T16:30; -; )",
            ),
            ("rename the meeting to Release sync", "calendar.change(#e1; Release sync; -; -; )"),
            (
                "invite Anna to the meeting",
                "gmail.search(from:anna; 1) | calendar.change(#e1; -; -; -; $s1[0].from)",
            ),
            ("cancel it", "calendar.delete(#e1)"),
            ("cancel that meeting", "calendar.delete(#e1)"),
            (
                "cancel my dentist appointment on friday",
                "calendar.list(2026-11-27T00:00; 2026-11-28T00:00; dentist; 10) | calendar.delete($s1[0])",
            ),
            ("delete the second meeting", "calendar.delete(#e2)"),
            ("delete all my meetings", "decline"),
        ],
        &context(),
    );
}

#[test]
fn files_are_found_and_read() {
    all_mean(
        &[
            ("find the file about the roadmap", "drive.search(roadmap)"),
            ("search my drive for the q4 budget", "drive.search(q4 budget)"),
            ("open that file", "drive.read(#f1)"),
            ("read the security audit document", "drive.search(security audit) | drive.read($s1[0])"),
            ("find the meeting notes", "drive.search(meeting)"),
            ("where is the travel policy pdf", "drive.search(travel policy)"),
        ],
        &context(),
    );
}

#[test]
fn several_commands_in_one_refer_to_each_other() {
    all_mean(
        &[
            (
                "Find the mail from Anna about the budget and put a meeting with her on Tuesday at ten",
                "gmail.search(from:anna budget; 5) | calendar.create(Meeting with Anna; 2026-11-24T10:00; -; $s1[0].from; -)",
            ),
            (
                "what's on my calendar tomorrow and find the file about the roadmap; show unread mail",
                "calendar.list(2026-11-24T00:00; 2026-11-25T00:00; -; 10) | drive.search(roadmap) | gmail.search(is:unread; 5)",
            ),
            (
                "cancel that meeting and then tell Ben that I am ill",
                "calendar.delete(#e1) | after s1: gmail.search(from:ben; 1) | gmail.send($s2[0].from; I am ill; I am ill.)",
            ),
            (
                "find the roadmap document, then read it and tell anna that it looks good",
                "drive.search(roadmap) | drive.read($s1[0]) | gmail.search(from:anna; 1) | gmail.send($s3[0].from; It looks good; It looks good.)",
            ),
            ("find mail from ben and read the sixth one", "decline"),
            (
                "search mail from Ben and reply to the second one saying see you there",
                "gmail.search(from:ben; 5) | gmail.reply($s1[1]; See you there.)",
            ),
        ],
        &context(),
    );
}

#[test]
fn the_rest_is_declined_politely() {
    let cases: Vec<(&str, &str)> = [
        "what's the weather like tomorrow",
        "tell me a joke",
        "turn the lights off at ten",
        "play some jazz",
        "set an alarm for seven",
        "add milk to my shopping list",
        "order a pizza tomorrow at eight",
        "delete all mails from Anna",
        "who is the president of france",
        "",
        "!!!",
        "and then",
        "what time is it in tokyo",
        "call me a taxi at nine",
        "make coffee at seven",
        "remove this alarm",
        "put a taxi in my calendar list",
        "tell apple in a tweet that I am happy",
        "how many calories has a dinner",
        "inform me about the news",
    ]
    .into_iter()
    .map(|text| (text, "decline"))
    .collect();
    all_mean(&cases, &context());
}

#[test]
fn without_a_session_nothing_is_referred_to() {
    let empty = json!({"now": "2026-11-23T15:04", "recent": []});
    for text in [
        "read the second one",
        "reply to her saying hi",
        "open that file",
        "move it to 3pm",
        "cancel that meeting",
        "tell her that I agree",
    ] {
        assert_eq!(brief(&planned(text, &empty)), "decline", "{text}");
    }
    assert_eq!(
        brief(&planned("what's on my calendar today", &json!(null))),
        "calendar.list(2026-01-05T00:00; 2026-01-06T00:00; -; 10)"
    );
}

#[test]
fn whatever_is_said_the_plan_is_valid() {
    // Words of the grammar in any order must neither panic nor make a bad plan.
    const WORDS: [&str; 60] = [
        "find",
        "send",
        "mail",
        "to",
        "anna",
        "and",
        "then",
        "put",
        "a",
        "meeting",
        "with",
        "her",
        "on",
        "tuesday",
        "at",
        "ten",
        "half",
        "past",
        "four",
        "reply",
        "saying",
        "that",
        "move",
        "it",
        "from",
        "3",
        "pm",
        "cancel",
        "second",
        "one",
        "file",
        "about",
        "roadmap",
        "read",
        "\"",
        ":",
        ";",
        ",",
        "last",
        "twenty",
        "week",
        "next",
        "in",
        "for",
        "minutes",
        "invite",
        "ben@x.example",
        "subject",
        "remind",
        "me",
        "called",
        "rename",
        "31st",
        "february",
        "the",
        "of",
        "what",
        "'s",
        "\u{2019}",
        "\u{df}\u{130}",
    ];
    let mut dice = crate::sim::chance::Dice::new(11);
    for _ in 0..20_000 {
        let count = 1 + dice.below(12);
        let text: Vec<&str> = (0..count).map(|_| WORDS[usize::try_from(dice.below(60)).unwrap()]).collect();
        planned(&text.join(" "), &context());
    }
}
