//! Tasks as older schemas had them.

use super::*;

fn old_steps(task: &TaskRecord) -> Vec<types::StepRecordV1> {
    let old = |step: &StepRecord| types::StepRecordV1 {
        id: step.id.clone(),
        state: step.state,
        intent: step.intent.clone(),
        outcome_json: step.outcome_json.clone(),
        text: step.text.clone(),
        error_json: step.error_json.clone(),
        calls_json: step.calls_json.clone(),
    };
    task.steps.iter().map(old).collect()
}

/// The task as the sixth schema had it.
fn task_v6() -> Vec<u8> {
    let task = task();
    let old = task::TaskRecordV6 {
        id: task.id,
        user: task.user,
        session: task.session,
        command: task.command,
        mode: task.mode,
        state: task.state,
        priority: task.priority,
        time_zone: task.time_zone,
        created_ms: task.created_ms,
        deadline_ms: task.deadline_ms,
        deadline_asked: task.deadline_asked,
        confirmed: task.confirmed,
        finished_ms: task.finished_ms,
        attempts: task.attempts,
        retries: task.retries,
        not_before_ms: task.not_before_ms,
        last_error_json: task.last_error_json,
        plan_json: task.plan_json,
        steps: task.steps,
        answer: task.answer,
        error_json: task.error_json,
        openai_us: task.openai_us,
        google_us: task.google_us,
        total_us: task.total_us,
        events: task.events,
        account: task.account,
        waits: task.waits,
    };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(6);
    bytes
}

#[test]
fn a_task_of_the_sixth_schema_is_read_as_one_that_nobody_wished_to_cancel() {
    let bytes = task_v6();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0xac69_b847_8568_846f);
    assert_eq!(Loaded::<TaskRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), unwished());
}

/// The task before it was kept that it is to be cancelled.
fn unwished() -> TaskRecord {
    TaskRecord { cancel_asked: false, ..task() }
}

/// The task as the fifth schema had it.
fn task_v5() -> Vec<u8> {
    let task = task();
    let old = task::TaskRecordV5 {
        id: task.id,
        user: task.user,
        session: task.session,
        command: task.command,
        mode: task.mode,
        state: task.state,
        priority: task.priority,
        time_zone: task.time_zone,
        created_ms: task.created_ms,
        deadline_ms: task.deadline_ms,
        deadline_asked: task.deadline_asked,
        confirmed: task.confirmed,
        finished_ms: task.finished_ms,
        attempts: task.attempts,
        retries: task.retries,
        not_before_ms: task.not_before_ms,
        last_error_json: task.last_error_json,
        plan_json: task.plan_json,
        steps: task.steps,
        answer: task.answer,
        error_json: task.error_json,
        openai_us: task.openai_us,
        google_us: task.google_us,
        total_us: task.total_us,
        events: task.events,
        account: task.account,
    };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(5);
    bytes
}

#[test]
fn a_task_of_the_fifth_schema_is_read_as_one_that_waited_for_nobody_else() {
    let bytes = task_v5();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0x60d9_2ce9_eeb1_bcd4);
    assert_eq!(Loaded::<TaskRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), unwaited());
}

/// The task before it was kept what else it waited for.
fn unwaited() -> TaskRecord {
    TaskRecord { waits: WaitsRecord::default(), ..unwished() }
}

/// The task as the fourth schema had it.
fn task_v4() -> Vec<u8> {
    let task = task();
    let old = task::TaskRecordV4 {
        id: task.id,
        user: task.user,
        session: task.session,
        command: task.command,
        mode: task.mode,
        state: task.state,
        priority: task.priority,
        time_zone: task.time_zone,
        created_ms: task.created_ms,
        deadline_ms: task.deadline_ms,
        deadline_asked: task.deadline_asked,
        confirmed: task.confirmed,
        finished_ms: task.finished_ms,
        attempts: task.attempts,
        retries: task.retries,
        not_before_ms: task.not_before_ms,
        last_error_json: task.last_error_json,
        plan_json: task.plan_json,
        steps: task.steps,
        answer: task.answer,
        error_json: task.error_json,
        openai_us: task.openai_us,
        google_us: task.google_us,
        total_us: task.total_us,
        events: task.events,
    };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(4);
    bytes
}

#[test]
fn a_task_of_the_fourth_schema_is_read_as_one_whose_account_is_not_settled() {
    let bytes = task_v4();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0x43e2_24c6_722c_a31a);
    assert_eq!(Loaded::<TaskRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), unbound());
}

/// The task before tasks kept to one account.
fn unbound() -> TaskRecord {
    TaskRecord { account: None, ..unwaited() }
}

/// The task as the third schema had it.
fn task_v3() -> Vec<u8> {
    let task = task();
    let old = task::TaskRecordV3 {
        id: task.id,
        user: task.user,
        session: task.session,
        command: task.command,
        mode: task.mode,
        state: task.state,
        priority: task.priority,
        time_zone: task.time_zone,
        created_ms: task.created_ms,
        deadline_ms: task.deadline_ms,
        deadline_asked: task.deadline_asked,
        confirmed: task.confirmed,
        finished_ms: task.finished_ms,
        attempts: task.attempts,
        retries: task.retries,
        not_before_ms: task.not_before_ms,
        last_error_json: task.last_error_json,
        plan_json: task.plan_json,
        steps: task.steps,
        answer: task.answer,
        error_json: task.error_json,
        openai_us: task.openai_us,
        google_us: task.google_us,
        total_us: task.total_us,
    };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(3);
    bytes
}

#[test]
fn a_task_of_the_third_schema_is_read_as_one_of_which_nothing_was_told() {
    let bytes = task_v3();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0x5f1f_ff9f_5a6e_02bb);
    assert_eq!(Loaded::<TaskRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), untold());
}

/// The task before anything was told of it.
fn untold() -> TaskRecord {
    TaskRecord { events: Vec::new(), ..unbound() }
}

/// The task as the second schema had it.
fn task_v2() -> Vec<u8> {
    let task = task();
    let old = task::TaskRecordV2 {
        steps: old_steps(&task),
        id: task.id,
        user: task.user,
        session: task.session,
        command: task.command,
        mode: task.mode,
        state: task.state,
        priority: task.priority,
        time_zone: task.time_zone,
        created_ms: task.created_ms,
        deadline_ms: task.deadline_ms,
        deadline_asked: task.deadline_asked,
        confirmed: task.confirmed,
        finished_ms: task.finished_ms,
        attempts: task.attempts,
        retries: task.retries,
        not_before_ms: task.not_before_ms,
        last_error_json: task.last_error_json,
        plan_json: task.plan_json,
        answer: task.answer,
        error_json: task.error_json,
        openai_us: task.openai_us,
        google_us: task.google_us,
        total_us: task.total_us,
    };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(2);
    bytes
}

#[test]
fn a_task_of_the_second_schema_is_read_as_it_was() {
    let bytes = task_v2();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0xdf95_c343_7b8f_5e60);
    assert_eq!(Loaded::<TaskRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), untold());
}

/// The task as the first schema had it.
fn task_v1() -> Vec<u8> {
    let task = task();
    let old = task::TaskRecordV1 {
        steps: old_steps(&task),
        id: task.id,
        user: task.user,
        session: task.session,
        command: task.command,
        mode: task.mode,
        state: task.state,
        time_zone: task.time_zone,
        created_ms: task.created_ms,
        deadline_ms: task.deadline_ms,
        finished_ms: task.finished_ms,
        attempts: task.attempts,
        plan_json: task.plan_json,
        answer: task.answer,
        error_json: task.error_json,
        openai_us: task.openai_us,
        google_us: task.google_us,
        total_us: task.total_us,
    };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(1);
    bytes
}

#[test]
fn a_task_of_the_first_schema_is_read_as_a_usual_one() {
    let bytes = task_v1();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0xa077_cdbd_7014_9798);
    assert_eq!(Loaded::<TaskRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), untold());
}
