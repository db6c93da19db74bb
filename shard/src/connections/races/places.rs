//! Two accounts change places while an operator connects one: the cores then forget what they know of the user's accounts,
//! and what is under way of the other account must not get lost by that.

use super::*;

const SECOND: ConnectionId = ConnectionId::from_bytes([0xee; 16]);
/// How often it is looked for what must not come. What comes all the same comes at once.
const LOOKS: usize = 50;

impl Rig {
    /// A second account of the user, in the second place.
    fn second(&self, first: &Account) -> Account {
        let account = Account { slot: 1, ..*first };
        let token = format!("{}-second", account.user);
        let sealed = self.vault.seal_blocking(&account.place(), &token).expect("sealed");
        let given = ConnectionRecord::given(account.user, "two@example.com", sealed, "", 0);
        let mut batch = Batch::new(account.shard);
        batch.put_record(&account.key(), &ConnectionRecord { id: SECOND, ..given }).expect("encoded");
        self.store.write_blocking(vec![batch]).expect("written");
        self.provider.book().live.insert(token, account.user.to_string());
        account
    }
}

impl Node {
    /// Has the second account be the default one.
    fn choose_second(&self, account: Account) -> Wish {
        let (connections, wish) = (Rc::clone(&self.connections), Wish::default());
        let (end, gate) = (Rc::clone(&wish), Rc::clone(&self.gate));
        sluice_core::spawn(async move {
            let (shard, user) = (account.shard, account.user);
            let chosen = connections.make_default(shard, user, Author::gateway(), SECOND, || false).await;
            assert!(chosen.expect("it is chosen").is_default);
            *end.borrow_mut() = Some(End::Changed);
            gate.wake();
        });
        wish
    }

    /// Whether the token of a place is now that of this account.
    async fn serves(&self, account: Account, id: ConnectionId) -> bool {
        let limit = sluice_core::now() + Duration::from_secs(60);
        let token = self.env.tokens.get(&self.env, account, limit, limit).await.token;
        token.expect("a token").acting() == ActingAccount::Connected(id)
    }
}

async fn look(is_there: impl Fn() -> bool) -> bool {
    for _ in 0..LOOKS {
        if is_there() {
            return true;
        }
        sluice_core::sleep(Duration::from_millis(1)).await;
    }
    false
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sluice_core::sleep(Duration::from_micros(200)).await;
    }
}

/// Both accounts are still connected: what is stored of them is what the provider takes.
fn stored_tokens_are_live(rig: &Rig, first: Account, second: Account) {
    let live = rig.provider.live(&first.user);
    let stored = [first, second].map(|account| rig.stored_token(&account));
    assert!(stored.iter().all(|token| live.contains(token)), "{stored:?} of {live:?}");
}

#[test]
fn an_account_is_not_moved_away_from_under_a_refresh_that_was_forgotten() {
    let rig = Rig::new(Rotation::Strict);
    let first = rig.account();
    let second = rig.second(&first);
    let (parts, provider) = (rig.parts(), rig.provider.clone());
    rig.on_core(async move {
        let node = Rig::node(parts);
        node.gate.open();
        let asked = node.ask(second);
        until(|| provider.oldest(|stage| matches!(stage, Stage::Arrived)).is_some()).await;
        // The old token is good for nothing from here on, and the new one is on its way.
        provider.perform();
        node.env.tokens.forget(&first.user);
        let chosen = node.choose_second(second);
        assert!(!look(|| chosen.borrow().is_some()).await, "it waits for the refresh");
        provider.open();
        node.ended(&asked).await;
        node.ended(&chosen).await;
        assert!(node.serves(first, SECOND).await);
        assert!(node.serves(second, ConnectionId::from_bytes(*first.user.as_bytes())).await);
    });
    stored_tokens_are_live(&rig, first, second);
}

#[test]
fn no_refresh_begins_while_accounts_change_places_though_the_user_is_forgotten() {
    let rig = Rig::new(Rotation::Strict);
    let first = rig.account();
    let second = rig.second(&first);
    let (parts, provider) = (rig.parts(), rig.provider.clone());
    rig.on_core(async move {
        let node = Rig::node(parts);
        let chosen = node.choose_second(second);
        until(|| node.gate.is_waited_at()).await;
        // An operator has connected something: both are seized, and stay so.
        node.env.tokens.forget(&first.user);
        let asked = [first, second].map(|account| node.ask(account));
        assert!(!look(|| !provider.book().requests.is_empty()).await, "it waits for the account's place");
        node.gate.open();
        provider.open();
        node.ended(&chosen).await;
        for wish in &asked {
            assert!(matches!(node.ended(wish).await, End::Token(_)));
        }
        assert!(node.serves(first, SECOND).await);
        assert!(node.serves(second, ConnectionId::from_bytes(*first.user.as_bytes())).await);
    });
    stored_tokens_are_live(&rig, first, second);
}

/// What nobody waits for any more is not taken for what the account has now.
#[test]
fn who_asks_after_the_user_was_forgotten_gets_a_token_of_their_own() {
    let rig = Rig::new(Rotation::Overlapping);
    let account = rig.account();
    let (parts, provider) = (rig.parts(), rig.provider.clone());
    let ends = rig.on_core(async move {
        let node = Rig::node(parts);
        node.gate.open();
        let before = node.ask(account);
        until(|| provider.oldest(|stage| matches!(stage, Stage::Arrived)).is_some()).await;
        node.env.tokens.forget(&account.user);
        let after = node.ask(account);
        assert!(!look(|| provider.book().requests.len() > 1).await, "one refresh at a time");
        provider.open();
        let ends =
            [node.ended(&before).await, node.ended(&after).await, node.ended(&node.ask(account)).await];
        assert_eq!(provider.book().requests.len(), 2);
        ends
    });
    assert_ne!(ends[0], ends[1]);
    assert_eq!(ends[1], ends[2], "the later one is kept");
    assert!(ends.iter().all(|end| matches!(end, End::Token(_))), "{ends:?}");
}
