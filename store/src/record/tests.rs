mod tasks;

use proptest::prelude::*;
use rkyv::{Deserialize, Serialize};
use sluice_protocols::ids::{
    BrowserSessionId, ConnectionId, DeliveryId, GenerationId, KeyId, SessionId, SnapshotId, TaskId, UserId,
    WebhookId,
};
use xxhash_rust::xxh3::xxh3_64;

use super::*;

fn user() -> UserRecord {
    UserRecord {
        id: UserId::from_bytes([1; 16]),
        name: "Anna Berg".to_owned(),
        email: "anna@example.com".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
        created_ms: 1_763_900_000_000,
        disabled: false,
        role: 0,
        tokens_since_ms: 0,
    }
}

fn item(handle: &str) -> ItemRecord {
    ItemRecord {
        handle: handle.to_owned(),
        kind: 1,
        id: "18c2f0".to_owned(),
        title: "Budget".to_owned(),
        person_name: Some("Anna Berg".to_owned()),
        person_address: Some("anna@example.com".to_owned()),
        when: None,
        thread_id: Some("18c2f0".to_owned()),
        message_id_header: None,
        snippet: Some("Please find attached".to_owned()),
    }
}

fn turn(number: u32) -> TurnRecord {
    TurnRecord {
        number,
        task: TaskId::new(1_763_900_000_000, [9; 10]),
        command: "find the mail from Anna".to_owned(),
        answer: Some("One message.".to_owned()),
        state: 3,
        at_ms: 1_763_900_000_001,
        items: vec![item("m1"), item("m2")],
        account: Some(ActingAccount::Delegated([8; 16])),
    }
}

/// The turn above as the first schema had it.
fn turn_v1(number: u32) -> TurnRecordV1 {
    let TurnRecord { number, task, command, answer, state, at_ms, items, account: _ } = turn(number);
    TurnRecordV1 { number, task, command, answer, state, at_ms, items }
}

#[test]
fn a_turn_of_schema_1_is_read_as_one_of_no_known_account() {
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&turn_v1(1)).unwrap().to_vec();
    bytes.push(1);
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0xe666_e6bd_0c73_2a84);
    let read = Loaded::<TurnRecord>::new(Value::copy_of(&bytes)).unwrap().to_record();
    assert_eq!(read, TurnRecord { account: None, ..turn(1) });
}

fn session() -> SessionRecord {
    SessionRecord {
        id: SessionId::from_bytes([2; 16]),
        user: UserId::from_bytes([1; 16]),
        created_ms: 1,
        expires_ms: 86_400_001,
        next_turn: 3,
        handles: [2, 0, 0],
        turns: vec![turn_v1(1), turn_v1(2)],
    }
}

fn task() -> TaskRecord {
    TaskRecord {
        id: TaskId::new(5, [3; 10]),
        user: UserId::from_bytes([1; 16]),
        session: SessionId::from_bytes([2; 16]),
        command: "send it".to_owned(),
        mode: 1,
        state: 2,
        priority: 2,
        time_zone: "UTC".to_owned(),
        created_ms: 5,
        deadline_ms: 60_005,
        deadline_asked: false,
        confirmed: false,
        finished_ms: Some(77),
        attempts: 1,
        retries: 0,
        not_before_ms: 0,
        last_error_json: None,
        plan_json: Some("{}".to_owned()),
        steps: vec![StepRecord {
            intent: Some("draft:r-1".to_owned()),
            text: Some("text".to_owned()),
            calls_json: Some("[]".to_owned()),
            ..StepRecord::new("s1".to_owned(), 2)
        }],
        answer: None,
        error_json: None,
        openai_us: 1,
        google_us: 2,
        total_us: 3,
        events: vec![0x0100, 0x0301],
        account: Some(ActingAccount::Connected(ConnectionId::from_bytes([7; 16]))),
        waits: WaitsRecord { turn_us: 4, queue_us: 5, quota_us: 6, shared_us: 7 },
        cancel_asked: true,
    }
}

fn key() -> KeyRecord {
    KeyRecord {
        id: KeyId::from_bytes([4; 8]),
        user: UserId::from_bytes([1; 16]),
        hash: [5; 32],
        label: "laptop".to_owned(),
        created_ms: 6,
        scopes: 0b11,
        expires_ms: 7,
        prefix: "sk_0".to_owned(),
    }
}

fn identity() -> IdentityRecord {
    IdentityRecord {
        issuer: "https://id.example.com".to_owned(),
        subject: "7".to_owned(),
        user: UserId::from_bytes([1; 16]),
        created_ms: 8,
    }
}

fn browser_session() -> BrowserSessionRecord {
    BrowserSessionRecord {
        id: BrowserSessionId::from_bytes([6; 16]),
        user: UserId::from_bytes([1; 16]),
        key: Some([4; 8]),
        role: 1,
        scopes: 0b11,
        created_ms: 6,
        expires_ms: 7,
        ended_ms: 8,
        signer: Some([9; 16]),
    }
}

#[test]
fn a_browsers_session_of_schema_1_is_one_of_no_known_signer() {
    let BrowserSessionRecord { id, user, key, role, scopes, created_ms, expires_ms, ended_ms, signer: _ } =
        browser_session();
    let old =
        account::BrowserSessionRecordV1 { id, user, key, role, scopes, created_ms, expires_ms, ended_ms };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(1);
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0x20df_12da_54e8_37ee);
    let read = Loaded::<BrowserSessionRecord>::new(Value::copy_of(&bytes)).unwrap().to_record();
    assert_eq!(read, BrowserSessionRecord { signer: None, ..browser_session() });
}

fn activity() -> ActivityRecord {
    let keys = vec![KeyUse { key: KeyId::from_bytes([4; 8]), used_ms: 9 }];
    ActivityRecord { active_ms: 10, keys }
}

/// The layouts of before there were roles, scopes and ends, as they were pinned when they were written.
#[test]
fn users_and_keys_of_schema_1_are_ordinary_ones_without_an_end() {
    let UserRecord { id, name, email, time_zone, created_ms, disabled, .. } = user();
    let old = account::UserRecordV1 { id, name, email, time_zone, created_ms, disabled };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap();
    bytes.push(1);
    assert_eq!(xxh3_64(&bytes), 0x816e_5e31_70c1_86dd);
    assert_eq!(Loaded::<UserRecord>::new(Value::copy_of(&bytes)).unwrap().to_record(), user());
    let KeyRecord { id, user, hash, label, created_ms, .. } = key();
    let old = account::KeyRecordV1 { id, user, hash, label, created_ms };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap();
    bytes.push(1);
    assert_eq!(xxh3_64(&bytes), 0x23ba_abba_08de_8c38);
    let read = Loaded::<KeyRecord>::new(Value::copy_of(&bytes)).unwrap().to_record();
    let scopes = sluice_protocols::access::Scopes::USER.bits();
    assert_eq!(read, KeyRecord { scopes, expires_ms: 0, prefix: String::new(), ..key() });
}

fn connection() -> ConnectionRecord {
    let token = StoredSecret::Sealed(Sealed::from_bytes(vec![1, 2, 3]));
    let user = UserId::from_bytes([1; 16]);
    let given = ConnectionRecord::given(user, "anna@example.com", token, "gmail calendar", 7);
    ConnectionRecord { state: ConnectionState::NeedsReauth, ..given }
}

/// The connection above as the first schema had it, with a token as it is.
fn connection_v1() -> Vec<u8> {
    let ConnectionRecord { user, provider, email, scope, state, updated_ms, .. } = connection();
    let refresh_token = "1//secret".to_owned();
    let old =
        connection::ConnectionRecordV1 { user, provider, email, refresh_token, scope, state, updated_ms };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(1);
    bytes
}

#[test]
fn a_token_that_an_older_version_left_as_it_is_can_be_read_and_not_written_again() {
    let bytes = connection_v1();
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0x6039_88c3_86ba_4b9b);
    assert_eq!(bytes, include_bytes!("../../tests/data/connection_v1.bin"));
    let record = Loaded::<ConnectionRecord>::new(Value::copy_of(&bytes)).unwrap().to_record();
    let StoredSecret::Plain(token) = &record.refresh_token else { panic!("{record:?}") };
    assert_eq!(token.expose(), "1//secret");
    assert!(!format!("{record:?}").contains("secret"));
    let refused = RecordError::Unsealed { record: "connection" };
    assert_eq!(encode(&record).unwrap_err(), refused);
    assert_eq!(Loaded::of(&record).unwrap_err(), refused);
    let shard = sluice_protocols::ids::ShardCount::new(1).unwrap().shards().next().unwrap();
    let mut batch = crate::Batch::new(shard);
    assert_eq!(batch.put_record(&crate::Key::connection(&record.user, 1), &record).unwrap_err(), refused);
    assert!(batch.is_empty());
    let sealed = ConnectionRecord { refresh_token: connection().refresh_token, ..record };
    assert_eq!(sealed, connection());
    round_trips(&sealed);
}

#[test]
fn a_connection_of_schema_2_becomes_its_users_default_account() {
    let ConnectionRecord { user, provider, email, refresh_token, scope, state, updated_ms, .. } =
        connection();
    let old =
        connection::ConnectionRecordV2 { user, provider, email, refresh_token, scope, state, updated_ms };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(2);
    // The layout that was pinned when it was written.
    assert_eq!(xxh3_64(&bytes), 0x63b6_0fee_b969_3550);
    let read = Loaded::<ConnectionRecord>::new(Value::copy_of(&bytes)).unwrap().to_record();
    assert_eq!(read, connection());
    assert_eq!(read.id.as_bytes(), user.as_bytes());
}

fn consents() -> ConsentsRecord {
    let secret = StoredSecret::Sealed(Sealed::from_bytes(vec![4, 5]));
    let return_url = "https://app.example.com/".to_owned();
    let (state_hash, browser_hash, connection) = ([1; 32], [2; 32], [3; 16]);
    let consent =
        ConsentRecord { state_hash, browser_hash, secret, wanted: 5, connection, return_url, created_ms: 9 };
    ConsentsRecord { pending: vec![consent] }
}

#[test]
fn a_consent_with_a_secret_as_it_is_is_not_written() {
    let mut plain = consents();
    plain.pending[0].secret = StoredSecret::Plain(PlainText::from("v".to_owned()));
    assert_eq!(encode(&plain).unwrap_err(), RecordError::Unsealed { record: "consents" });
}

fn data_key() -> DataKeyRecord {
    DataKeyRecord {
        user: UserId::from_bytes([1; 16]),
        version: 2,
        wrapped: Some(Sealed::from_bytes(vec![4, 5, 6])),
        created_ms: 9,
    }
}

fn history() -> HistoryRecord {
    HistoryRecord {
        task: TaskId::new(5, [3; 10]),
        at_ms: 5,
        command: "send it".to_owned(),
        state: 2,
        answer: None,
        services: 0b101,
        operations: vec!["gmail.send".to_owned(), "drive.read".to_owned()],
    }
}

fn preferences() -> PreferencesRecord {
    PreferencesRecord {
        user: UserId::from_bytes([1; 16]),
        updated_ms: 9,
        time_zone: Some("Europe/Berlin".to_owned()),
        language: None,
        priority: 3,
        confirm: vec!["gmail.send".to_owned()],
        custom_json: "{\"a\":1}".to_owned(),
    }
}

fn webhook() -> WebhookRecord {
    WebhookRecord {
        id: WebhookId::from_bytes([6; 16]),
        user: UserId::from_bytes([1; 16]),
        url: "https://example.com/hook".to_owned(),
        events: 0b110,
        description: Some("build".to_owned()),
        secret: StoredSecret::Sealed(Sealed::from_bytes(vec![1, 2, 3])),
        previous_secret: Some(StoredSecret::Sealed(Sealed::from_bytes(vec![4, 5, 6]))),
        previous_until_ms: 11,
        enabled: false,
        disabled_reason: 2,
        created_ms: 8,
        updated_ms: 9,
    }
}

fn delivery() -> DeliveryRecord {
    DeliveryRecord {
        id: DeliveryId::from_bytes([7; 16]),
        webhook: WebhookId::from_bytes([6; 16]),
        user: UserId::from_bytes([1; 16]),
        event: 1,
        body: "{}".to_owned(),
        created_ms: 8,
        attempts: 2,
        not_before_ms: 9,
    }
}

fn attempts() -> AttemptsRecord {
    let attempt = AttemptRecord {
        message: DeliveryId::from_bytes([7; 16]),
        event: 1,
        number: 2,
        at_ms: 9,
        took_ms: 3,
        status: 503,
        error: 0,
        outcome: 2,
    };
    AttemptsRecord { failures: 1, attempts: vec![attempt] }
}

#[test]
fn a_webhook_with_a_secret_as_it_is_is_not_written() {
    let plain = StoredSecret::Plain(PlainText::from("whsec_secret".to_owned()));
    let refused = RecordError::Unsealed { record: "webhook" };
    let now = WebhookRecord { secret: plain.clone(), ..webhook() };
    let before = WebhookRecord { previous_secret: Some(plain), ..webhook() };
    for record in [now, before] {
        assert_eq!(encode(&record).unwrap_err(), refused);
        assert!(!format!("{record:?}").contains("secret\""));
    }
}

fn name() -> NameRecord {
    NameRecord { user: UserId::from_bytes([1; 16]), created_ms: 8 }
}

fn round_trips<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
    let value = encode(record).unwrap();
    assert_eq!(value.as_bytes().last(), Some(&R::SCHEMA));
    // Through plain bytes, as the store would.
    let loaded = Loaded::<R>::new(Value::copy_of(value.as_bytes())).unwrap();
    assert_eq!(&loaded.to_record(), record);
    assert_eq!(loaded.as_bytes(), value.as_bytes());
}

fn idempotency() -> IdempotencyRecord {
    IdempotencyRecord {
        user: UserId::from_bytes([1; 16]),
        request: [7; 32],
        created_ms: 5,
        answer_json: None,
        tasks: vec![KeyedTask {
            id: TaskId::new(5, [3; 10]),
            session: SessionId::from_bytes([2; 16]),
            mode: 2,
            created_ms: 5,
        }],
    }
}

fn workflow() -> WorkflowRecord {
    WorkflowRecord {
        user: UserId::from_bytes([1; 16]),
        name: "digest".to_owned(),
        version: 2,
        created_ms: 5,
        updated_ms: 6,
        definition_json: "{}".to_owned(),
    }
}

fn document() -> ContextDocumentRecord {
    ContextDocumentRecord {
        user: UserId::from_bytes([1; 16]),
        key: "notes".to_owned(),
        generation: GenerationId::from_bytes([6; 16]),
        bytes: 70_000,
        stored_bytes: 20_000,
        chunk_bytes: 32_768,
        media_type: "text/plain".to_owned(),
        ttl_s: 60,
        created_ms: 5,
        changed_ms: 6,
        expires_ms: 60_006,
    }
}

fn orphan() -> ContextOrphanRecord {
    ContextOrphanRecord { generation: GenerationId::from_bytes([6; 16]), chunks_max: 3 }
}

fn chunk() -> ContextChunkRecord {
    ContextChunkRecord { form: 1, bytes: 9, checksum: 7, data: vec![1, 2, 3] }
}

fn snapshot() -> ContextSnapshotRecord {
    ContextSnapshotRecord {
        id: SnapshotId::from_bytes([7; 16]),
        user: UserId::from_bytes([1; 16]),
        label: Some("before".to_owned()),
        created_ms: 5,
        expires_ms: 9,
        documents: vec![document()],
    }
}

#[test]
fn every_record_comes_back_as_it_was() {
    round_trips(&user());
    round_trips(&name());
    round_trips(&key());
    round_trips(&connection());
    round_trips(&data_key());
    round_trips(&webhook());
    round_trips(&delivery());
    round_trips(&attempts());
    round_trips(&session());
    round_trips(&turn(1));
    round_trips(&task());
    round_trips(&history());
    round_trips(&preferences());
    round_trips(&idempotency());
    round_trips(&workflow());
    round_trips(&document());
    round_trips(&orphan());
    round_trips(&chunk());
    round_trips(&snapshot());
    round_trips(&identity());
    round_trips(&activity());
    round_trips(&browser_session());
    round_trips(&consents());
    round_trips(&RevocationRecord { since_ms: 3 });
    round_trips(&erasure());
}

fn erasure() -> ErasureRecord {
    let user = UserId::from_bytes([1; 16]);
    ErasureRecord { user, begun_ms: 4, removed: vec![(1, 2), (9, 3)], homes: vec![7], revoked: Some((2, 1)) }
}

#[test]
fn an_erasure_of_schema_1_is_one_that_gave_nothing_back_yet() {
    let ErasureRecord { user, begun_ms, removed, homes, revoked: _ } = erasure();
    let old = account::ErasureRecordV1 { user, begun_ms, removed, homes };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap().to_vec();
    bytes.push(1);
    let read = Loaded::<ErasureRecord>::new(Value::copy_of(&bytes)).unwrap().to_record();
    assert_eq!(read, ErasureRecord { revoked: None, ..erasure() });
}

/// The layouts on disk. When this fails, a record's fields changed: raise its SCHEMA and read the old one in
/// `upgrade`, then pin the new layout here.
#[test]
fn layouts_on_disk_are_pinned() {
    fn pin<R: Record>(record: &R) -> (&'static str, u8, u64) {
        (R::NAME, R::SCHEMA, xxh3_64(encode(record).unwrap().as_bytes()))
    }
    let pins = [
        pin(&user()),
        pin(&name()),
        pin(&key()),
        pin(&connection()),
        pin(&data_key()),
        pin(&session()),
        pin(&task()),
        pin(&history()),
        pin(&idempotency()),
        pin(&workflow()),
        pin(&turn(1)),
        pin(&preferences()),
        pin(&document()),
        pin(&orphan()),
        pin(&chunk()),
        pin(&snapshot()),
        pin(&identity()),
        pin(&activity()),
        pin(&browser_session()),
        pin(&webhook()),
        pin(&delivery()),
        pin(&attempts()),
        pin(&consents()),
        pin(&RevocationRecord { since_ms: 3 }),
    ];
    assert_eq!(pins, PINNED);
}

const PINNED: [(&str, u8, u64); 24] = [
    ("user", 2, 0xfd74_0d53_a088_88ad),
    ("name", 1, 0xa370_4705_df0d_773a),
    ("key", 2, 0x6058_dfa5_af9e_10e4),
    ("connection", 3, 0xc034_15ce_8e0a_3e4b),
    ("data key", 1, 0xc790_48d9_1363_8dce),
    ("session", 2, 0xa57f_1f4c_5602_fe44),
    ("task", 7, 0x2241_b94f_331a_57e5),
    ("history", 2, 0x21bb_504d_b991_b7b4),
    ("idempotency", 1, 0x52ed_5707_42d6_7000),
    ("workflow", 1, 0x5992_67ef_9f34_f8b7),
    ("turn", 2, 0x75f4_4fa8_d0d4_3763),
    ("preferences", 1, 0x6099_3bc4_728f_a856),
    ("context document", 1, 0xd0e7_148b_890f_ffe3),
    ("context orphan", 1, 0x4e05_5e97_d74b_fef5),
    ("context chunk", 1, 0x4958_83c0_3c76_60d5),
    ("context snapshot", 1, 0x113a_d35f_5b17_ff3e),
    ("identity", 1, 0x0c00_d6e5_66fa_d2bf),
    ("activity", 1, 0x064e_b422_90a4_c9db),
    ("browser session", 2, 0x1a98_01cc_d578_114b),
    ("webhook", 1, 0x7c32_92b4_c325_aead),
    ("delivery", 1, 0x02a2_62b4_6b4b_a8b0),
    ("attempts", 1, 0x5508_865a_f24a_5245),
    ("consents", 1, 0xe1d4_16a3_9c9d_23c0),
    ("revocation", 1, 0xdeb5_2ab7_8798_8436),
];

#[test]
fn fields_are_read_in_place() {
    let loaded = Loaded::of(&session()).unwrap();
    let archived = loaded.get();
    assert_eq!(archived.turns[1].items[0].handle.as_str(), "m1");
    assert_eq!(archived.user, [1; 16]);
    assert_eq!(archived.expires_ms.to_native(), 86_400_001);
}

#[test]
fn a_session_keeps_its_last_turns_only() {
    let mut record = SessionRecord { turns: Vec::new(), next_turn: 1, ..session() };
    let mut live = crate::Session::new(Loaded::of(&record).unwrap(), []).unwrap();
    for number in 1..=25 {
        record.next_turn = number + 1;
        live = live.with_turn(Loaded::of(&record).unwrap(), Loaded::of(&turn(number)).unwrap());
    }
    let numbers =
        |session: &crate::Session| session.turns().map(|turn| turn.number.to_native()).collect::<Vec<_>>();
    assert_eq!(numbers(&live), (16..=25).collect::<Vec<_>>());
    assert_eq!(record.first_turn(), 16);
    // As it comes from the store: in any order, with what was forgotten and is not removed yet.
    let loaded = (9..=25).rev().map(|number| Loaded::of(&turn(number)).unwrap());
    let again = crate::Session::new(Loaded::of(&record).unwrap(), loaded).unwrap();
    assert_eq!(numbers(&again), numbers(&live));
}

#[test]
fn a_session_of_schema_1_brings_its_turns_along() {
    let SessionRecord { id, user, created_ms, expires_ms, next_turn, turns, .. } = session();
    let old = types::SessionRecordV1 { id, user, created_ms, expires_ms, next_turn, turns };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap();
    bytes.push(1);
    let loaded = Loaded::<SessionRecord>::new(Value::copy_of(&bytes)).unwrap();
    assert_eq!(loaded.to_record(), session());
    let live = crate::Session::new(loaded, []).unwrap();
    assert_eq!(live.turns().map(|turn| turn.number.to_native()).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn limit_states_of_older_schemas_lack_what_was_not_known() {
    let state = LimitStateRecord {
        minute_full_ms: 60_001,
        hour_full_ms: 7,
        minute_count: 100,
        hour_count: 1_000,
        minute_over_ms: 5,
        hour_over_ms: 6,
    };
    round_trips(&state);
    let read = |mut bytes: AlignedVec, schema: u8| {
        bytes.push(schema);
        Loaded::<LimitStateRecord>::new(Value::copy_of(&bytes)).unwrap().to_record()
    };
    let LimitStateRecord { minute_full_ms, hour_full_ms, minute_count, hour_count, .. } = state;
    let second = types::LimitStateRecordV2 { minute_full_ms, hour_full_ms, minute_count, hour_count };
    let without_over = LimitStateRecord { minute_over_ms: 0, hour_over_ms: 0, ..state };
    assert_eq!(read(rkyv::to_bytes::<rancor::Error>(&second).unwrap(), 2), without_over);
    let first = types::LimitStateRecordV1 { minute_full_ms, hour_full_ms };
    let without_counts = LimitStateRecord { minute_count: 0, hour_count: 0, ..without_over };
    assert_eq!(read(rkyv::to_bytes::<rancor::Error>(&first).unwrap(), 1), without_counts);
}

#[test]
fn a_history_entry_of_schema_1_is_read_without_operations() {
    let HistoryRecord { task, at_ms, command, state, answer, services, .. } = history();
    let old = types::HistoryRecordV1 { task, at_ms, command, state, answer, services };
    let mut bytes = rkyv::to_bytes::<rancor::Error>(&old).unwrap();
    bytes.push(1);
    let loaded = Loaded::<HistoryRecord>::new(Value::copy_of(&bytes)).unwrap();
    assert_eq!(loaded.to_record(), HistoryRecord { operations: Vec::new(), ..history() });
}

#[test]
fn a_record_of_a_newer_schema_is_refused_not_guessed_at() {
    let mut bytes = encode(&user()).unwrap().as_bytes().to_vec();
    *bytes.last_mut().unwrap() = UserRecord::SCHEMA + 1;
    let error = Loaded::<UserRecord>::new(Value::copy_of(&bytes)).unwrap_err();
    assert_eq!(error, RecordError::Newer { record: "user", found: 3, known: 2 });
    assert!(error.to_string().contains("run the version that wrote it"));
}

#[test]
fn a_record_too_large_to_store_is_refused_before_it_is_written() {
    let mut large = user();
    large.name = "x".repeat(VALUE_BYTES_MAX);
    assert!(matches!(encode(&large), Err(RecordError::TooLarge { record: "user", .. })));
}

/// How a record changes: `Pet` had a name only, in schema 1; schema 2 added the legs.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, Serialize, Deserialize)]
struct Pet {
    name: String,
    legs: u32,
}

#[derive(rkyv::Archive, Serialize, Deserialize)]
struct PetV1 {
    name: String,
}

impl Record for Pet {
    const NAME: &'static str = "pet";
    const KINDS: &'static [Kind] = &[Kind::User];
    const SCHEMA: u8 = 2;

    fn upgrade(schema: u8, archive: &[u8]) -> Option<Result<Self, rancor::Error>> {
        (schema == 1).then(|| {
            rkyv::from_bytes::<PetV1, rancor::Error>(archive).map(|old| Self { name: old.name, legs: 4 })
        })
    }
}

fn pet_v1() -> Vec<u8> {
    let mut bytes =
        rkyv::to_bytes::<rancor::Error>(&PetV1 { name: "a name longer than eight".to_owned() }).unwrap();
    bytes.push(1);
    bytes.to_vec()
}

#[test]
fn an_older_schema_stays_readable() {
    let loaded = Loaded::<Pet>::new(Value::copy_of(&pet_v1())).unwrap();
    assert_eq!(loaded.to_record(), Pet { name: "a name longer than eight".to_owned(), legs: 4 });
    assert_eq!(loaded.as_bytes().last(), Some(&2), "in memory it is today's schema");
}

#[test]
fn a_damaged_record_of_an_older_schema_is_damaged() {
    let mut bytes = pet_v1();
    let middle = bytes.len() - 5;
    bytes[middle] ^= 0xff;
    bytes[middle + 1] ^= 0xff;
    assert!(matches!(Loaded::<Pet>::new(Value::copy_of(&bytes)), Err(RecordError::Damaged { .. })));
}

#[test]
fn a_schema_that_never_was_is_damage() {
    let mut bytes = pet_v1();
    *bytes.last_mut().unwrap() = 0;
    assert!(matches!(Loaded::<Pet>::new(Value::copy_of(&bytes)), Err(RecordError::Damaged { .. })));
    assert!(matches!(Loaded::<Pet>::new(Value::copy_of(&[])), Err(RecordError::Damaged { .. })));
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,40}"
}

fn any_turn() -> impl Strategy<Value = TurnRecordV1> {
    (any::<u32>(), any::<[u8; 16]>(), text(), proptest::option::of(text()), any::<u64>(), 0usize..4).prop_map(
        |(number, task, command, answer, at_ms, items)| TurnRecordV1 {
            number,
            task: TaskId::from_bytes(task),
            command,
            answer,
            state: 1,
            at_ms,
            items: (0..items).map(|index| item(&format!("m{index}"))).collect(),
        },
    )
}

proptest! {
    #[test]
    fn sessions_round_trip(turns in proptest::collection::vec(any_turn(), 0..10), next_turn in any::<u32>()) {
        round_trips(&SessionRecord { turns, next_turn, ..session() });
    }

    /// Whatever a disk does to bytes: an error or a record, never a crash, and a record can be read through.
    #[test]
    fn damage_never_crashes(flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
                            cut in proptest::option::of(any::<proptest::sample::Index>())) {
        let mut bytes = encode(&session()).unwrap().as_bytes().to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len() - 1);
            bytes[at] ^= value;
        }
        if let Some(cut) = cut {
            let cut = cut.index(bytes.len());
            bytes.drain(cut..);
        }
        if let Ok(loaded) = Loaded::<SessionRecord>::new(Value::copy_of(&bytes)) {
            let _ = format!("{:?}", loaded.to_record());
        }
    }
}
