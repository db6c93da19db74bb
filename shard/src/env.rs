//! What a running task may use on its core: storage, the egress pool, the clock, settings and counters.

use std::cell::OnceCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use sluice_core::Counter;
use sluice_net::egress::Egress;
use sluice_protocols::api::WebhookEvent;
use sluice_store::record::ConnectionRecord;
use sluice_store::{Batch, CoreStore, CoreVault, Vault};
use zeroize::Zeroizing;

use crate::cache::{CacheConfig, CacheStats, ReadCache};
use crate::clock::Clock;
use crate::connections::{ConnectConfig, Links};
use crate::intent::{CacheLimits, IntentConfig, PatternCache};
use crate::preferences::PreferenceCache;
use crate::quota::{Broker, QuotaConfig, QuotaStats, Quotas};
use crate::run::Zones;
use crate::run::replay::Recorded;
use crate::upstream::{Delegation, TokenCache};
use crate::watch::Watches;
use crate::webhooks::{Announced, Webhooks};

/// Counters of what the tasks of a core do.
#[derive(Clone, Debug, Default)]
pub struct EnvStats {
    /// Of the tasks.
    pub run: Arc<RunStats>,
    /// Of the cache of reads.
    pub cache: Arc<CacheStats>,
    /// Of the broker.
    pub quota: Arc<QuotaStats>,
}

/// What a running task may use. Cheap to clone; clones share everything. `!Send`: one a core.
#[derive(Clone)]
pub struct Env {
    /// This core's access to the store.
    pub store: CoreStore,
    /// This core's way to its users' secrets.
    pub vault: CoreVault,
    /// The egress pool through this core's mailbox ([`Egress::for_core`]).
    pub egress: Egress,
    /// Settings.
    pub config: Rc<RunConfig>,
    /// The wall clock.
    pub clock: Clock,
    /// Counters, for metrics.
    pub stats: Arc<RunStats>,
    /// Access tokens of this core's users.
    pub tokens: Rc<TokenCache>,
    /// Links by which users mend their connections.
    pub(crate) links: Rc<Links>,
    /// What this core remembers of its users' reads.
    pub reads: Rc<ReadCache>,
    /// This core's way to the upstreams.
    pub broker: Rc<Broker>,
    /// Patterns of commands, learned from the model.
    pub patterns: Rc<PatternCache>,
    /// What this core's users prefer.
    pub(crate) preferences: Rc<PreferenceCache>,
    pub(crate) zones: Rc<Zones>,
    /// Who tells users' webhooks; none where there are no users' webhooks.
    pub(crate) webhooks: Rc<OnceCell<Weak<Webhooks>>>,
    /// The record that a replay follows instead of calling upstreams.
    pub(crate) recorded: Option<Rc<Recorded>>,
    /// Who looks on while tasks run.
    pub(crate) watches: Rc<Watches>,
}

impl Env {
    /// Puts together what the tasks of one core use.
    pub fn new(store: CoreStore, vault: Vault, egress: Egress, config: RunConfig, clock: Clock) -> Self {
        Self::counting(store, vault, egress, config, clock, EnvStats::default())
    }

    /// As [`Self::new`], with counters of the caller's.
    pub fn counting(
        store: CoreStore,
        vault: Vault,
        egress: Egress,
        config: RunConfig,
        clock: Clock,
        stats: EnvStats,
    ) -> Self {
        let config = Rc::new(config);
        let vault = CoreVault::new(vault, store.clone(), config.data_keys_max);
        let tokens = Rc::new(TokenCache::new(config.tokens_max));
        let links = Rc::new(Links::new(&config.connect));
        let reads = Rc::new(ReadCache::new(config.cache, stats.cache));
        let broker = Rc::new(Broker::new(Arc::clone(&config.quotas), stats.quota));
        let limits =
            CacheLimits { bytes_max: config.intent.pattern_cache_bytes_max, ttl: config.intent.pattern_ttl };
        let patterns = Rc::new(PatternCache::new(limits));
        let preferences = Rc::new(PreferenceCache::new(
            store.clone(),
            config.preferences_cached_max,
            config.preferences_life,
            Arc::clone(&stats.run),
        ));
        Self {
            store,
            vault,
            egress,
            config,
            clock,
            stats: stats.run,
            tokens,
            links,
            reads,
            broker,
            patterns,
            preferences,
            zones: Rc::default(),
            webhooks: Rc::default(),
            recorded: None,
            watches: Rc::default(),
        }
    }

    /// Writes into a batch what users' webhooks are to be told of a connection that it changes.
    pub(crate) fn announce_connection(
        &self,
        batch: &mut Batch,
        record: &ConnectionRecord,
        event: WebhookEvent,
    ) -> Option<Announced> {
        let webhooks = self.webhooks.get()?.upgrade()?;
        let now_ms = self.clock.unix_ms();
        let notice = || self.links.notice(record, event, now_ms);
        Some(webhooks.announce(batch, record.user, event, now_ms, notice))
    }

    /// Whether runs end here, whatever is still to be done: the process stops, or the record of a replay says no more.
    pub(crate) fn is_ending(&self) -> bool {
        self.egress.is_closing() || self.recorded.as_ref().is_some_and(|recorded| recorded.is_over())
    }
}

/// Settings of running tasks. Where the upstreams are is the egress pool's to know.
#[derive(Clone)]
pub struct RunConfig {
    /// The operator's key for OpenAI.
    pub openai_api_key: Zeroizing<String>,
    /// The model that makes plans.
    pub openai_model: String,
    /// The operator's OAuth client at Google.
    pub google_client_id: String,
    /// Its secret.
    pub google_client_secret: Zeroizing<String>,
    /// The operator's service account, which acts for users without a connection. Default none.
    pub delegation: Option<Delegation>,
    /// Longest wait for one plan, a second try included. Default 20 s.
    pub parse_timeout: Duration,
    /// Longest wait for one call to Google, its repeats included. Default 15 s.
    pub call_timeout: Duration,
    /// How long a command may take when its caller does not say, and how long a task that is taken up again
    /// after a restart gets. Default 60 s.
    pub command_deadline_default: Duration,
    /// After the deadline: how long a task goes on to find out whether something it sent off was done.
    /// Default 30 s.
    pub unknown_outcome_grace: Duration,
    /// Operations that are never carried out before their user has seen the plan and agreed, such as `gmail.send`.
    /// Default none.
    pub confirm: Vec<String>,
    /// Users whose preferences are remembered on a core, without what only their programs read. Default 65,536 (some
    /// 10 MiB).
    pub preferences_cached_max: usize,
    /// How long preferences are used before they are read from the store again. Default 1 h.
    pub preferences_life: Duration,
    /// Access tokens kept on a core. Default 50,000.
    pub tokens_max: usize,
    /// Data keys of users kept unwrapped on a core. Default 4,096 (some 1 MiB).
    pub data_keys_max: usize,
    /// Where accounts are connected.
    pub connect: ConnectConfig,
    /// How long before its end an access token is renewed. Default 5 min.
    pub token_refresh_ahead: Duration,
    /// What a core remembers of its users' reads.
    pub cache: CacheConfig,
    /// What the upstreams allow, shared by all cores.
    pub quotas: Arc<Quotas>,
    /// What is understood without the model.
    pub intent: IntentConfig,
    /// Content that is too large to be held.
    pub transfer: TransferConfig,
}

/// Settings of content on its way to and from files.
#[derive(Clone, Copy, Debug)]
pub struct TransferConfig {
    /// Most bytes of one file, either way. Default 5 GiB.
    pub bytes_max: u64,
    /// What has at most so many bytes is read whole, and may be kept. Default 256 KiB.
    pub whole_bytes_max: usize,
    /// Bytes of a chunk of an upload, all of which are held until Google has them: a multiple of 256 KiB. Default 1 MiB.
    pub chunk_bytes: usize,
    /// Uploads and downloads under way on a core. Default 64.
    pub at_once_max: usize,
    /// Longest wait for the next piece, from either side. Default 30 s.
    pub idle: Duration,
    /// Longest time for one of them. Default 1 h.
    pub time_max: Duration,
}

impl Default for TransferConfig {
    fn default() -> Self {
        Self {
            bytes_max: 5 << 30,
            whole_bytes_max: 256 << 10,
            chunk_bytes: 1 << 20,
            at_once_max: 64,
            idle: Duration::from_secs(30),
            time_max: Duration::from_secs(3_600),
        }
    }
}

impl RunConfig {
    /// The defaults around the operator's accounts.
    pub fn new(
        openai_api_key: impl Into<String>,
        openai_model: impl Into<String>,
        google_client_id: impl Into<String>,
        google_client_secret: impl Into<String>,
    ) -> Self {
        Self {
            openai_api_key: Zeroizing::new(openai_api_key.into()),
            openai_model: openai_model.into(),
            google_client_id: google_client_id.into(),
            google_client_secret: Zeroizing::new(google_client_secret.into()),
            delegation: None,
            parse_timeout: Duration::from_secs(20),
            call_timeout: Duration::from_secs(15),
            command_deadline_default: Duration::from_secs(60),
            unknown_outcome_grace: Duration::from_secs(30),
            confirm: Vec::new(),
            preferences_cached_max: 65_536,
            preferences_life: Duration::from_secs(60 * 60),
            tokens_max: 50_000,
            data_keys_max: 4_096,
            connect: ConnectConfig::default(),
            token_refresh_ahead: Duration::from_secs(300),
            cache: CacheConfig::default(),
            quotas: Quotas::new(QuotaConfig::default(), 1),
            intent: IntentConfig::default(),
            transfer: TransferConfig::default(),
        }
    }
}

impl std::fmt::Debug for RunConfig {
    /// Leaves the secrets out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunConfig")
            .field("openai_model", &self.openai_model)
            .field("google_client_id", &self.google_client_id)
            .field("delegation", &self.delegation)
            .field("parse_timeout", &self.parse_timeout)
            .field("call_timeout", &self.call_timeout)
            .field("command_deadline_default", &self.command_deadline_default)
            .field("unknown_outcome_grace", &self.unknown_outcome_grace)
            .field("confirm", &self.confirm)
            .field("tokens_max", &self.tokens_max)
            .field("data_keys_max", &self.data_keys_max)
            .field("token_refresh_ahead", &self.token_refresh_ahead)
            .field("intent", &self.intent)
            .finish_non_exhaustive()
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What the tasks of one core did. Totals since the start; written by the core, read by anyone.
        #[derive(Debug, Default)]
        pub struct RunStats { $($(#[$doc])* pub $name: Counter,)+ }

        impl RunStats {
            /// Every counter with its name, in declaration order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Commands understood by rules.
    intents_local,
    /// Commands the rules had a guess for that was not sure enough.
    intents_unsure,
    /// Commands understood by a pattern learned before.
    intents_pattern,
    /// Commands the model made a plan for.
    intents_model,
    /// Commands that could have been of a pattern, of none that is known.
    patterns_missed,
    /// Patterns learned from the model's plans.
    patterns_learned,
    /// Plans of the model that could not be proved to hold for other commands.
    patterns_unfit,
    /// Patterns that made room for newer ones.
    patterns_evicted,
    /// Plans asked of the model.
    plans_asked,
    /// Plans asked for a second time, since the first answer was none.
    plans_asked_again,
    /// Commands that ended without a plan, for the model gave none.
    plans_missing,
    /// Tasks taken up again after a restart.
    tasks_resumed,
    /// Tasks that ended with everything done.
    tasks_done,
    /// Tasks that ended with an error.
    tasks_failed,
    /// Tasks that were politely refused.
    tasks_declined,
    /// Tasks left for the next start, since this process stops or its storage fails.
    tasks_interrupted,
    /// Steps done.
    steps_done,
    /// Steps that went wrong.
    steps_failed,
    /// Steps not begun, since one before them went wrong.
    steps_skipped,
    steps_retried,
    steps_taken_back,
    steps_not_taken_back,
    /// Preferences used from memory.
    preferences_hits,
    /// Preferences read from the store.
    preferences_misses,
    /// Preferences changed by their users.
    preferences_changed,
    /// Journal entries committed.
    journal_commits,
    /// Times something sent off had an unknown outcome at first.
    outcomes_unknown,
    /// Times the outcome was still unknown in the end, and the user was told so.
    outcomes_unresolved,
    /// Calls that found a good access token in memory.
    access_tokens_hits,
    /// Calls that waited for one to be fetched.
    access_tokens_misses,
    /// Access tokens fetched.
    token_refreshes,
    /// Of these, those that the operator's service account got.
    tokens_delegated,
    /// Access tokens not asked for, for too many signatures of the operator's service account were waiting.
    tokens_unsigned,
    /// Fetches of an access token that failed.
    token_refresh_failures,
    /// Refresh tokens that were replaced by the provider and stored.
    token_rotations,
    /// Access tokens that Google refused before their time.
    tokens_rejected,
    /// Access tokens dropped, for the cache was full.
    tokens_evicted,
    /// Connections found dead; their users must connect again.
    connections_lost,
}
