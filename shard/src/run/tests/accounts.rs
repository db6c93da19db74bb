//! A task keeps to one account, whatever becomes of the user's accounts meanwhile.

use sluice_protocols::ids::ConnectionId;
use sluice_store::record::ActingAccount;

use super::fake::Kill;
use super::*;
use crate::upstream::Account;

const OTHER: ConnectionId = ConnectionId::from_bytes([8; 16]);

impl Rig {
    /// Puts an account in a place, which is the default one's for slot 0.
    fn place_account(&self, slot: u8, id: ConnectionId, state: ConnectionState, refresh_token: &str) {
        let account = Account { shard: self.shard, user: self.user, slot };
        let token = self.vault.seal_blocking(&account.place(), refresh_token).expect("sealed");
        let given = ConnectionRecord::given(self.user, "me@example.com", token, "all", 0);
        let mut batch = Batch::new(self.shard);
        let record = ConnectionRecord { id, state, ..given };
        batch.put(&account.key(), encode(&record).expect("encoded").as_bytes());
        self.store.write_blocking(vec![batch]).expect("written");
    }

    /// Accepts a task and kills the process when its draft is there and about to be sent.
    fn killed_before_sending(&self) -> TaskRecord {
        let task = self.accept(1);
        // What is to be done, a token, the draft; then its sending, which is not done.
        self.fake.kill_at(Kill { at: 3, done: false });
        assert!(self.run_until_killed(task.clone()).is_none(), "it was to be killed");
        let log = self.fake.world().log.clone();
        assert!(log[3].ends_with("drafts/send"), "{log:?}");
        self.fake.revive();
        let task = self.journaled(&task);
        assert!(task.steps[0].intent.is_some() && self.fake.world().sends.is_empty());
        task
    }
}

fn mail() -> Rig {
    Rig::planning(json!([send("s1", &[], "a@example.com")]))
}

#[test]
fn a_mail_that_was_never_sent_is_not_taken_for_sent_by_the_mailbox_of_another_account() {
    let rig = mail();
    let first = rig.connection().id;
    let task = rig.killed_before_sending();
    assert_eq!(task.account, Some(ActingAccount::Connected(first)), "the journal says whose it is");
    // The user gives the account up, and another takes its place. There the draft is not to be found.
    rig.place_account(0, OTHER, ConnectionState::Active, "refresh-0");
    rig.fake.world().drafts.clear();
    let asked = rig.fake.world().log.len();
    let view = view_of(&rig.run_after(recovered(task), Vec::new()));
    assert_eq!((view.state, states(&view)), (TaskState::Failed, vec![StepState::Failed]));
    let error = view.error.expect("an error");
    assert_eq!((error.kind(), error.is_retryable()), (ProblemKind::AccountGone, false));
    assert!(error.detail().starts_with("it is not known whether the mail was sent"), "{error}");
    assert!(error.detail().contains(&first.to_string()), "{error}");
    assert_eq!(rig.fake.world().log.len(), asked, "the other account was asked");
}

#[test]
fn a_task_finds_its_account_wherever_that_stands() {
    let rig = mail();
    let first = rig.connection().id;
    let task = rig.killed_before_sending();
    // The default account is another one, which nothing answers for.
    rig.place_account(0, OTHER, ConnectionState::Active, "another");
    rig.place_account(3, first, ConnectionState::Active, "refresh-0");
    let task = rig.run_after(recovered(task), Vec::new());
    let view = view_of(&task);
    assert_eq!(view.state, TaskState::Done, "{:?}", view.error);
    assert_eq!(rig.fake.world().sends.values().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(task.account, Some(ActingAccount::Connected(first)));
}

#[test]
fn an_account_that_was_given_up_is_told_with_the_way_to_mend_it() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let first = rig.connection().id;
    let task = TaskRecord { account: Some(ActingAccount::Connected(first)), ..rig.accept(1) };
    for state in [ConnectionState::Revoking, ConnectionState::Revoked] {
        rig.place_account(0, first, state, "refresh-0");
        let view = view_of(&rig.run_after(task.clone(), Vec::new()));
        let error = view.error.expect("an error");
        assert_eq!((view.state, error.kind()), (TaskState::Failed, ProblemKind::AccountGone));
        assert!(error.link().is_some(), "{error}");
    }
    // One that must be connected again is still the user's.
    rig.place_account(0, first, ConnectionState::NeedsReauth, "refresh-0");
    let error = view_of(&rig.run_after(task.clone(), Vec::new())).error.expect("an error");
    assert_eq!(error.kind(), ProblemKind::NeedsReauth);
    rig.place_account(0, first, ConnectionState::Active, "refresh-0");
    assert_eq!(view_of(&rig.run_after(task, Vec::new())).state, TaskState::Done);
}

#[test]
fn an_account_that_goes_while_its_task_runs_is_not_stood_in_for() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let (store, shard, key) = (rig.store.clone(), rig.shard, rig.connection_key());
    let other = ConnectionRecord { id: OTHER, ..rig.connection() };
    // Another takes its place when its token has been asked for; that token is refused, and the next is the other's.
    rig.fake.world().on_refresh = Some(Box::new(move || {
        let mut batch = Batch::new(shard);
        batch.put(&key, encode(&other).expect("encoded").as_bytes());
        store.write_blocking(vec![batch]).expect("written");
    }));
    rig.fake.fault("GET /gmail/v1/users/me/messages", 1, Fault::Status(401, json!({})));
    let view = rig.run();
    assert_eq!(view.error.expect("an error").kind(), ProblemKind::AccountGone);
    assert_eq!(rig.fake.count("POST /token"), 2);
    assert_eq!(rig.fake.count("GET /gmail"), 1, "the other account was asked");
}

#[test]
fn a_task_of_an_older_version_settles_its_account_with_its_first_step() {
    let rig = Rig::planning(json!([search("s1", "", 1)]));
    let task = rig.run_after(TaskRecord { account: None, ..rig.accept(1) }, Vec::new());
    assert_eq!(task.account, Some(ActingAccount::Connected(rig.connection().id)));
    // Where nothing is connected there is nothing to keep to.
    rig.place_account(0, OTHER, ConnectionState::Revoked, "");
    let task = rig.run_after(rig.accept(2), Vec::new());
    assert_eq!(task.account, None);
    assert_eq!(view_of(&task).error.expect("an error").kind(), ProblemKind::NotConnected);
}

#[test]
fn what_was_read_of_an_account_is_not_told_of_another_in_its_place() {
    let mut rig = Rig::planning(json!([search("s1", "", 1)]));
    // Every use of a token renews it.
    rig.config.token_refresh_ahead = Duration::from_secs(10_000);
    let (store, shard, key, fake) = (rig.store.clone(), rig.shard, rig.connection_key(), rig.fake.clone());
    let account = Account { shard, user: rig.user, slot: 0 };
    let other = ConnectionRecord { id: OTHER, ..rig.connection() };
    let [first, second, third] = [1, 2, 3].map(|number| rig.accept(number));
    let asked = rig.on_core(async move |env| {
        let asked = async |task: TaskRecord| {
            let before = fake.count("GET /gmail/v1/users/me/messages");
            let end = run(&env, shard, task, &Recent::default(), &Cancel::default()).await;
            assert!(matches!(end, RunEnd::Final(..)));
            fake.count("GET /gmail/v1/users/me/messages") - before
        };
        let (new, known) = (asked(first).await, asked(second).await);
        // An operator puts another account in its place.
        let mut batch = Batch::new(shard);
        batch.put(&key, encode(&other).expect("encoded").as_bytes());
        store.write_blocking(vec![batch]).expect("written");
        let wanted = Some(ActingAccount::Connected(OTHER));
        for _ in 0..10_000 {
            if env.tokens.connected(&account) == wanted {
                break;
            }
            let limit = sluice_core::now() + Duration::from_secs(10);
            env.tokens.get(&env, account, limit, limit).await.token.expect("a token");
            sluice_core::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(env.tokens.connected(&account), wanted);
        [new, known, asked(third).await]
    });
    assert_eq!(asked, [1, 0, 1]);
}
