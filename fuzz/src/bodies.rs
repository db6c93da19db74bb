//! JSON from callers, from the model and from upstreams: what is taken is within its bounds and survives being
//! written and read again. Bodies of the API other than commands are in [`requests`].
//!
//! Input: one byte that chooses the kind of body, and the body.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_protocols::api::{
    COMMAND_CHARS_MAX, CommandRequest, DEADLINE_MS_MAX, DEADLINE_MS_MIN, SessionView, TIME_ZONE_CHARS_MAX,
    TaskView, WAIT_MAX, prefer_wait,
};
use sluice_protocols::google;
use sluice_protocols::google::calendar::Event;
use sluice_protocols::google::drive::File;
use sluice_protocols::google::gmail::Message;
use sluice_protocols::openai::{self, OpenAiError};
use sluice_protocols::plan::{Decision, Plan};
use sluice_protocols::problem::Problem;

use crate::requests;

/// Reads one body, and writes and reads what it said.
pub fn check(data: &[u8]) {
    let [choice, body @ ..] = data else { return };
    match choice % (8 + requests::KINDS) {
        0 => check_command(body),
        1 => check_plan(body),
        2 => check_problem(body),
        3 => check_view::<TaskView>(body),
        4 => check_view::<SessionView>(body),
        5 => check_model_answer(*choice, body),
        6 => check_google(*choice, body),
        7 => check_header(body),
        kind => requests::check(kind - 8, body),
    }
}

/// As JSON.
pub fn write(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("our own types can be written")
}

/// That a command is within its bounds.
pub fn check_request(request: &CommandRequest) {
    let chars = request.command.chars().count();
    assert!((1..=COMMAND_CHARS_MAX).contains(&chars) && !request.command.trim().is_empty());
    assert!(request.time_zone.as_ref().is_none_or(|zone| zone.len() <= TIME_ZONE_CHARS_MAX));
    assert!(request.deadline_ms.is_none_or(|ms| (DEADLINE_MS_MIN..=DEADLINE_MS_MAX).contains(&ms)));
}

fn check_command(body: &[u8]) {
    match CommandRequest::parse(body) {
        Ok(request) => {
            check_request(&request);
            assert_eq!(CommandRequest::parse(&write(&request)), Ok(request));
        }
        Err(problem) => {
            assert_eq!(problem.status() / 100, 4, "a bad body is the caller's fault");
            check_problem_document(&problem);
        }
    }
}

/// That a problem survives being written and read.
pub fn check_problem_document(problem: &Problem) {
    let back: Problem = serde_json::from_slice(&write(problem)).expect("our own problem");
    assert_eq!(&back, problem);
}

fn check_problem(body: &[u8]) {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else { return };
    // What is read is not bounded as what is made: only that it survives.
    check_problem_document(&problem);
}

fn check_plan(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let Ok(plan) = Plan::from_model_json(text) else { return };
    plan.validate().expect("a plan that was read is valid");
    for step in plan.steps() {
        for needed in step.dependencies() {
            assert!(needed != step.id && plan.step(needed).is_some(), "a step that waits for nothing");
        }
        assert_eq!(plan.step(step.id), Some(step), "two steps of one name");
    }
    if let Decision::Decline { reason } = &plan.decision {
        assert!(!reason.trim().is_empty());
    }
    let again = write(&plan);
    let again = std::str::from_utf8(&again).expect("JSON is text");
    assert_eq!(Plan::from_model_json(again), Ok(plan));
}

/// Numbers with a fraction lose a digit on the first way through text, not on the second.
fn check_view<T: DeserializeOwned + Serialize>(body: &[u8]) {
    let Ok(view) = serde_json::from_slice::<T>(body) else { return };
    let written = write(&view);
    let back: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(write(&back), written);
}

fn check_model_answer(choice: u8, body: &[u8]) {
    let _ = openai::parse_response(body);
    let error = OpenAiError::classify(400 + u16::from(choice), body);
    assert!(error.to_string().len() < 4096);
}

fn check_google(choice: u8, body: &[u8]) {
    let _ = google::GoogleError::classify(400 + u16::from(choice), body, None);
    if let Ok(event) = serde_json::from_slice::<Event>(body) {
        let _ = (event.is_cancelled(), event.to_item());
    }
    if let Ok(message) = serde_json::from_slice::<Message>(body) {
        assert!(message.text().is_none_or(|text| text.len() <= google::TEXT_BYTES_MAX));
        let _ = (message.person(), message.received(), message.to_item(), message.is_sent());
    }
    if let Ok(file) = serde_json::from_slice::<File>(body) {
        let _ = (file.read_call(), file.to_item());
    }
}

fn check_header(value: &[u8]) {
    assert!(google::text_of(value).len() <= google::TEXT_BYTES_MAX);
    let Ok(value) = std::str::from_utf8(value) else { return };
    assert!(prefer_wait(value).is_none_or(|wait| wait <= WAIT_MAX));
    let _ = openai::parse_reset(value);
    let _ = sluice_protocols::retry::RetryAfter::from_header(value);
    let _ = sluice_protocols::plan::Person::from_header(value);
}
