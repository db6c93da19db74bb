//! How long a link, a state and a connection are good, by a clock that the test moves.

use std::rc::Rc;
use std::sync::Arc;

use sluice_core::{CoreId, Reactor, ReactorConfig};
use sluice_net::egress::{Egress, EgressConfig, PerUpstream, UpstreamConfig};
use sluice_protocols::api::{ConnectionReason, ConnectionStatus, ConnectionView};
use sluice_protocols::ids::ShardCount;
use sluice_store::record::encode;
use sluice_store::vault::Keyring;
use sluice_store::{CoreStore, Store, StoreConfig, Vault};

use super::super::{EXPIRING_MS, LINK_LIFE_MS, Means};
use super::*;
use crate::clock::Clock;
use crate::env::{Env, RunConfig};
use crate::mint::Mint;

const NOW_MS: u64 = 1_795_442_700_000;
const USER: UserId = UserId::from_bytes([5; 16]);

struct Stage {
    connections: Rc<Connections>,
    clock: Clock,
    shard: ShardId,
    store: Store,
    vault: Vault,
}

/// Runs something with the connections of a user, none of which is there yet.
fn on_stage<F: Future<Output = ()> + 'static>(body: impl FnOnce(Stage) -> F + 'static) {
    let directory = tempfile::tempdir().expect("a directory");
    let count = ShardCount::new(1).expect("a count");
    let store = Store::open(StoreConfig::new(directory.path().join("data"), count)).expect("a store");
    let vault = Vault::open(&store, Keyring::generate().expect("keys")).expect("a vault");
    // Nobody is asked anything.
    let nobody = || UpstreamConfig::new("http://127.0.0.1:9");
    let egress = EgressConfig::new(PerUpstream {
        openai: nobody(),
        oauth: nobody(),
        gmail: nobody(),
        calendar: nobody(),
        drive: nobody(),
    });
    let egress = Egress::start(egress).expect("the pool");
    let shard = ShardId::of(&USER, count);
    let user = UserRecord {
        id: USER,
        name: "ada".to_owned(),
        email: "ada@example.com".to_owned(),
        time_zone: "UTC".to_owned(),
        created_ms: 1,
        disabled: false,
        role: 0,
        tokens_since_ms: 0,
    };
    let mut batch = Batch::new(shard);
    batch.put(&Key::user(&USER), encode(&user).expect("encoded").as_bytes());
    store.write_blocking(vec![batch]).expect("written");
    let reactor = Reactor::new(ReactorConfig::new(CoreId::new(0))).expect("a reactor");
    let run = async move {
        let clock = Clock::manual(NOW_MS);
        let config = RunConfig::new("sk-test", "model", "client", "secret");
        let env = Env::new(CoreStore::new(&store), vault.clone(), egress, config, clock.clone());
        let limits = Arc::new(crate::limit::Limits::new(crate::limit::LimitConfig::default()));
        let limiter = Rc::new(crate::limit::Limiter::new(limits, Arc::default()));
        let (mint, metrics) = (Rc::new(Mint::new()), Arc::default());
        let connections = Connections::new(Means { env, mint, metrics, limiter });
        body(Stage { connections, clock, shard, store, vault }).await;
    };
    reactor.block_on(run).expect("the ring works");
}

/// What a browser has, that was sent to the provider.
struct Sent {
    state: String,
    cookie: String,
}

impl Stage {
    fn ticket(&self) -> Ticket {
        Ticket {
            user: USER,
            wanted: consent::wantable().bits(),
            connection: None,
            login_hint: String::new(),
            return_url: String::new(),
            expires_ms: NOW_MS + LINK_LIFE_MS,
        }
    }

    async fn step(&self, step: Step, head: &RequestHead) -> Response {
        self.connections.serve(self.shard, USER, step, head, Author::gateway()).await
    }

    /// Presses the button of the link's page.
    async fn press(&self) -> Response {
        self.press_of(self.ticket(), "https://localhost").await
    }

    /// Presses the button of a link's page, as a page of this origin.
    async fn press_of(&self, ticket: Ticket, origin: &str) -> Response {
        let head = RequestHead::build("POST", "/", "localhost").with("origin", origin);
        self.step(Step::Go(Box::new(ticket)), &head).await
    }

    async fn sent(&self) -> Sent {
        let pressed = self.press().await;
        assert_eq!(pressed.status, 303);
        let location = pressed.header("location").expect("a location");
        let state = location.split(['?', '&']).find_map(|pair| pair.strip_prefix("state=")).expect("a state");
        let cookie = pressed.header("set-cookie").expect("a cookie").split(';').next().expect("a pair");
        Sent { state: state.to_owned(), cookie: cookie.to_owned() }
    }

    /// Comes back from the provider, where the person did not agree: that the state is good is told all the same.
    async fn back(&self, sent: &Sent) -> &'static str {
        let error = Some("access_denied".to_owned());
        let callback = Callback { state: sent.state.clone(), code: None, error };
        let head = RequestHead::build("GET", "/", "localhost").with("cookie", &sent.cookie);
        let page = self.step(Step::Back(Box::new(callback)), &head).await;
        let text = String::from_utf8_lossy(&page.body).into_owned();
        assert_eq!(page.status, 400, "{text}");
        match (text.contains("You did not agree"), text.contains("used already, or came too late")) {
            (true, false) => "good",
            (false, true) => "over",
            _ => panic!("{text}"),
        }
    }

    /// Puts an account into the default place that its provider ends at this moment.
    fn connected_until(&self, expires_ms: u64) -> ConnectionId {
        let account = Account { shard: self.shard, user: USER, slot: 0 };
        let token = self.vault.seal_blocking(&account.place(), "token").expect("sealed");
        let given = ConnectionRecord::given(USER, "ada@example.com", token, "", NOW_MS);
        let record = ConnectionRecord { expires_ms, ..given };
        let mut batch = Batch::new(self.shard);
        batch.put(&account.key(), encode(&record).expect("encoded").as_bytes());
        self.store.write_blocking(vec![batch]).expect("written");
        record.id
    }

    async fn shown(&self, id: ConnectionId, at_ms: u64) -> ConnectionView {
        self.clock.set(at_ms);
        self.connections.get(self.shard, &USER, id).await.expect("it is there")
    }
}

#[test]
fn a_state_is_good_for_ten_minutes_and_not_a_moment_longer() {
    on_stage(async |stage: Stage| {
        for (after_ms, expected) in [(0, "good"), (599_999, "good"), (600_000, "over"), (3_600_000, "over")] {
            stage.clock.set(NOW_MS);
            let sent = stage.sent().await;
            stage.clock.set(NOW_MS + after_ms);
            assert_eq!(stage.back(&sent).await, expected, "{after_ms} ms later");
            // It is good once.
            assert_eq!(stage.back(&sent).await, "over");
        }
    });
}

#[test]
fn a_state_that_is_over_makes_room_and_takes_no_other_along() {
    on_stage(async |stage: Stage| {
        let first = stage.sent().await;
        stage.clock.set(NOW_MS + 599_999);
        let second = stage.sent().await;
        stage.clock.set(NOW_MS + 600_000);
        let third = stage.sent().await;
        let pending = async || stage.connections.pending(stage.shard, &USER).await.expect("read").len();
        assert_eq!(pending().await, 2);
        assert_eq!(stage.back(&first).await, "over");
        assert_eq!((stage.back(&second).await, stage.back(&third).await), ("good", "good"));
        assert_eq!(pending().await, 0);
        assert!(!stage.connections.is_consenting(stage.shard, &USER).await);
    });
}

#[test]
fn a_link_is_good_for_an_hour() {
    on_stage(async |stage: Stage| {
        for (after_ms, status) in [(LINK_LIFE_MS - 1, 303), (LINK_LIFE_MS, 400)] {
            stage.clock.set(NOW_MS + after_ms);
            assert_eq!(stage.press().await.status, status, "{after_ms} ms later");
        }
    });
}

#[test]
fn a_connection_is_shown_as_expiring_in_its_last_three_days_and_as_expired_after_them() {
    on_stage(async |stage: Stage| {
        let ends_ms = NOW_MS + 7 * 24 * 60 * 60 * 1_000;
        let id = stage.connected_until(ends_ms);
        for (at_ms, status) in [
            (NOW_MS, ConnectionStatus::Connected),
            (ends_ms - EXPIRING_MS - 1, ConnectionStatus::Connected),
            (ends_ms - EXPIRING_MS, ConnectionStatus::Expiring),
            (ends_ms - 1, ConnectionStatus::Expiring),
            (ends_ms, ConnectionStatus::NeedsReauth),
            (ends_ms + 1, ConnectionStatus::NeedsReauth),
        ] {
            let shown = stage.shown(id, at_ms).await;
            assert_eq!(shown.status, status, "{at_ms}");
            assert_eq!(shown.expires.expect("an end").as_millisecond().unsigned_abs(), ends_ms);
            // The user can mend it as soon as it is shown, and only then is told why.
            assert_eq!(shown.link.is_some(), status != ConnectionStatus::Connected, "{at_ms}");
            let expired = (status == ConnectionStatus::NeedsReauth).then_some(ConnectionReason::Expired);
            assert_eq!(shown.reason, expired, "{at_ms}");
        }
        // One whose provider names no end has none.
        let id = stage.connected_until(0);
        let shown = stage.shown(id, ends_ms).await;
        assert_eq!((shown.status, shown.expires), (ConnectionStatus::Connected, None));
    });
}

#[test]
fn what_is_refused_all_the_same_takes_nothing_of_what_the_user_may_begin() {
    on_stage(async |stage: Stage| {
        let over = || Ticket { expires_ms: NOW_MS, ..stage.ticket() };
        for _ in 0..30 {
            assert_eq!(stage.press_of(over(), "https://localhost").await.status, 400);
            assert_eq!(stage.press_of(stage.ticket(), "https://elsewhere.example").await.status, 403);
        }
        for _ in 0..20 {
            assert_eq!(stage.press().await.status, 303);
        }
        // A person is told so by a page, as of whatever else is refused.
        let refused = loop {
            let answer = stage.press().await;
            if answer.status != 303 {
                break answer;
            }
        };
        assert_eq!(refused.status, 429);
        assert_eq!(refused.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(refused.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok()));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"consent-minute\";q=20;w=60"));
        assert!(
            refused.header("ratelimit").is_some_and(|state| state.starts_with("\"consent-minute\";r=0;t="))
        );
    });
}
