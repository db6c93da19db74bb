//! The counters of one core.
//!
//! Invariant: only the core's own thread writes; readers see a recent value.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::mailbox::MailboxStats;
use sluice_core::{CoreStats, Counter};
use sluice_net::ingress::IngressStats;
use sluice_protocols::api::{Priority, TaskState};
use sluice_protocols::plan::Service;
use sluice_protocols::problem::ProblemKind;

use super::{CoreState, Lent, StateCell};
use crate::cache::CacheStats;
use crate::env::{EnvStats, RunStats};
use crate::limit::LimitStats;
use crate::quota::QuotaStats;

/// Upper bounds of request latency in microseconds: from a session read to the longest wait.
pub(crate) const LATENCY_US_BOUNDS: [u64; 19] = [
    20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 15_000_000, 60_000_000,
];

/// Classes of status: 2xx, 3xx, 4xx, 5xx.
pub(crate) const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What a request was counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteLabel {
    /// `POST /api/v1/command`
    Command,
    /// `POST /api/v1/commands`
    Commands,
    /// `GET /api/v1/tasks/{id}`
    TaskGet,
    /// `GET /api/v1/tasks`
    TaskList,
    /// `POST /api/v1/tasks/{id}/cancel` and `/confirm`
    TaskChange,
    /// Everything below `/api/v1/dead-letters`
    DeadLetters,
    /// `GET /api/v1/tasks/{id}/events`
    TaskEvents,
    /// `GET /api/v1/sessions/{id}`
    SessionGet,
    /// `DELETE /api/v1/sessions/{id}`
    SessionDelete,
    /// `GET` and `POST /api/v1/sessions`
    Sessions,
    /// `/api/v1/preferences`
    Preferences,
    /// `GET /api/v1/history`
    History,
    /// `/api/v1/gmail/...`
    Gmail,
    /// `/api/v1/calendar/...`
    Calendar,
    /// `/api/v1/drive/...`
    Drive,
    /// `POST /api/v1/cache/invalidate`
    CacheInvalidate,
    /// `/api/v1/workflows/...`
    Workflows,
    /// `/api/v1/context/...`
    Context,
    /// `/api/v1/webhooks/...`
    Webhooks,
    /// `/api/v1/browser-sessions/...` and `/sign-in`
    BrowserSessions,
    /// `/api/v1/connections/...` and `/oauth/google/...`
    Connections,
    /// `POST /api/v1/intents/parse`
    IntentParse,
    /// `/api/v1/keys/...`
    Keys,
    /// `/api/v1/users/...`
    Users,
    /// `GET /livez` and `GET /readyz`
    Health,
    /// `GET /metrics`
    Metrics,
    /// Everything else: unknown paths, wrong methods, OPTIONS.
    Other,
}

impl RouteLabel {
    /// Every label, in declaration order.
    pub const ALL: [Self; 27] = [
        Self::Command,
        Self::Commands,
        Self::TaskGet,
        Self::TaskList,
        Self::TaskChange,
        Self::DeadLetters,
        Self::TaskEvents,
        Self::SessionGet,
        Self::SessionDelete,
        Self::Sessions,
        Self::Preferences,
        Self::History,
        Self::Gmail,
        Self::Calendar,
        Self::Drive,
        Self::CacheInvalidate,
        Self::Workflows,
        Self::Context,
        Self::Webhooks,
        Self::BrowserSessions,
        Self::Connections,
        Self::IntentParse,
        Self::Keys,
        Self::Users,
        Self::Health,
        Self::Metrics,
        Self::Other,
    ];

    /// The plain surface of a service.
    pub(crate) const fn of_service(service: Service) -> Self {
        match service {
            Service::Gmail => Self::Gmail,
            Service::Calendar => Self::Calendar,
            Service::Drive => Self::Drive,
        }
    }

    /// The value of the label `route`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Commands => "commands",
            Self::TaskGet => "task_get",
            Self::TaskList => "task_list",
            Self::TaskChange => "task_change",
            Self::DeadLetters => "dead_letters",
            Self::TaskEvents => "task_events",
            Self::SessionGet => "session_get",
            Self::SessionDelete => "session_delete",
            Self::Sessions => "sessions",
            Self::Preferences => "preferences",
            Self::History => "history",
            Self::Gmail => "gmail",
            Self::Calendar => "calendar",
            Self::Drive => "drive",
            Self::CacheInvalidate => "cache_invalidate",
            Self::Workflows => "workflows",
            Self::Context => "context",
            Self::Webhooks => "webhooks",
            Self::BrowserSessions => "browser_sessions",
            Self::Connections => "connections",
            Self::IntentParse => "intent_parse",
            Self::Keys => "keys",
            Self::Users => "users",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Other => "other",
        }
    }
}

/// How a task ended, for the label `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// Everything was done.
    Done,
    /// Something went wrong.
    Failed,
    /// Politely refused.
    Declined,
    /// Given up at the user's wish.
    Cancelled,
    /// Left on disk for the next start.
    Left,
}

impl EndState {
    /// Every state, in declaration order.
    pub const ALL: [Self; 5] = [Self::Done, Self::Failed, Self::Declined, Self::Cancelled, Self::Left];

    /// The value of the label `state`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Declined => "declined",
            Self::Cancelled => "cancelled",
            Self::Left => "left",
        }
    }
}

impl From<TaskState> for EndState {
    /// The end of a final task; one that is not final is left.
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Done => Self::Done,
            TaskState::Failed => Self::Failed,
            TaskState::Declined => Self::Declined,
            TaskState::Cancelled => Self::Cancelled,
            TaskState::Queued | TaskState::Running | TaskState::AwaitingConfirmation => Self::Left,
        }
    }
}

/// Requests of one route.
#[derive(Debug, Default)]
pub(crate) struct RouteCells {
    pub(crate) classes: [Counter; CLASSES.len()],
    /// By latency; the last takes what is over every bound.
    pub(crate) latency: [Counter; LATENCY_US_BOUNDS.len() + 1],
    pub(crate) latency_sum_us: Counter,
}

/// Tasks of one priority.
#[derive(Debug, Default)]
pub(crate) struct PriorityCells {
    pub(crate) queued: Counter,
    /// Those that count as of it: a task runs as the most urgent one that waits behind it in its session.
    pub(crate) running: Counter,
    /// When the oldest that waits was accepted, in milliseconds since 1970; 0 when none waits.
    pub(crate) oldest_ms: Counter,
    /// Commands by the time from their arrival to their beginning; the last takes what is over every bound.
    pub(crate) waits: [Counter; LATENCY_US_BOUNDS.len() + 1],
    pub(crate) waits_sum_us: Counter,
}

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    Total,
    Gauge,
}

macro_rules! cells {
    ($($growth:ident $name:ident $help:literal,)+) => {
        /// The counters of one core.
        #[derive(Debug)]
        pub struct CoreMetrics {
            pub(crate) lent: Lent,
            pub(crate) state: StateCell,
            pub(crate) routes: [RouteCells; RouteLabel::ALL.len()],
            pub(crate) problems: [Counter; ProblemKind::ALL.len()],
            pub(crate) ended: [Counter; EndState::ALL.len()],
            pub(crate) priorities: [PriorityCells; Priority::ALL.len()],
            $(#[doc = $help] pub(crate) $name: Counter,)+
        }

        impl Default for CoreMetrics {
            fn default() -> Self {
                Self {
                    lent: Lent::default(),
                    state: StateCell::default(),
                    routes: std::array::from_fn(|_| RouteCells::default()),
                    problems: std::array::from_fn(|_| Counter::default()),
                    ended: std::array::from_fn(|_| Counter::default()),
                    priorities: std::array::from_fn(|_| PriorityCells::default()),
                    $($name: Counter::default(),)+
                }
            }
        }

        /// Name, help and kind of each single number.
        pub(crate) const SINGLE: &[(&str, &str, Growth)] =
            &[$((stringify!($name), $help, Growth::$growth),)+];

        impl CoreMetrics {
            /// The single numbers, in the order of [`SINGLE`].
            pub(crate) fn single(&self) -> [u64; SINGLE.len()] {
                [$(self.$name.get(),)+]
            }
        }
    };
}

cells! {
    Total commands_accepted "Commands promised to be done: their task is on disk",
    Total commands_refused_full "Commands refused since the queue was full; add cores or raise limits.tasks_queued_per_core_max",
    Total tasks_recovered "Pending tasks taken up again after a start",
    Total tasks_unreadable "Pending tasks that could not be read and stay where they are; look at the log",
    Total tasks_retried "Times a task was taken up again after its storage failed for a moment",
    Total tasks_put_back "Times a task that failed in a way that may pass was put back to be tried again",
    Total tasks_cancel_asked "Wishes to cancel a task that was running",
    Gauge tasks_unconfirmed "Tasks waiting for their user's confirmation",
    Total dead_letters_made "Tasks set aside as dead letters, their attempts or their time used up; their users see them at /api/v1/dead-letters",
    Total dead_letters_redriven "Dead letters made tasks again",
    Total dead_letters_purged "Dead letters thrown away by their users",
    Total idempotency_hits "Requests with an idempotency key that was used before",
    Total context_documents_written "Context documents written",
    Total context_bytes_received "Bytes of content written for context documents, those of uploads that were refused at their end included",
    Total context_bytes_stored "Bytes they were stored as, compressed",
    Total context_bytes_sent "Bytes of content of context documents sent",
    Total context_downloads_broken "Contents of context documents whose answer was broken off: damaged, or their reader went or read no further",
    Total exports_sent "Exports of users that were sent whole",
    Total exports_broken "Exports of users that broke off",
    Total context_refused_full "Writes of context documents refused since their user has all the bytes there may be",
    Total context_chunks_damaged "Reads that met a damaged or missing piece of a context document; look at the disk",
    Total context_documents_expired "Context documents removed, their time being over",
    Total context_snapshots_taken "Snapshots of context documents taken",
    Total context_snapshots_restored "Snapshots of context documents restored",
    Total context_snapshots_expired "Snapshots of context documents removed, their time being over",
    Total context_generations_removed "Contents of context documents removed since nothing referred to them: replaced, deleted, over, broken off or left by a crash",
    Gauge webhooks "Webhooks of users",
    Gauge webhook_messages_pending "Messages to webhooks that wait to be delivered",
    Gauge webhook_messages_running "Messages to webhooks under way",
    Total webhook_messages_made "Messages to webhooks made, each in the batch of what it tells of",
    Total webhook_messages_recovered "Messages to webhooks taken up again after a start",
    Total webhook_messages_refused_user "Messages not made since too many of their user's waited; webhooks.pending_per_user_max",
    Total webhook_messages_refused_core "Messages not made since too many of the core's waited; webhooks.pending_per_core_max",
    Total webhook_messages_delivered "Messages that their receivers took",
    Total webhook_messages_given_up "Messages given up: attempts used up, webhook disabled or deleted",
    Total webhook_attempts_failed "Attempts at messages that failed and will be made again",
    Total webhook_attempts_postponed "Attempts not made for want of a place in the egress pool",
    Total webhook_records_unreadable "Webhooks and messages that could not be read and stay where they are; look at the log",
    Total webhooks_disabled "Webhooks disabled since their receivers answered 410, or too many messages in a row were given up",
    Total consents_begun "Browsers sent to Google to consent",
    Total consents_displaced "Consents under way that made room for a newer one of their user's, who had five",
    Total consents_refused "Consents that came to nothing: refused, too late, of another browser, or not stored",
    Total connections_made "Accounts connected, or connected anew",
    Total connections_given_up "Connections given up by their users",
    Total connections_revoked "Connections given up of which Google knows",
    Total connections_untold "Connections given up of which Google was never told: their tokens cannot be opened, or it did not hear for 30 days",
    Gauge tasks_queued "Tasks waiting to be run",
    Gauge tasks_running "Tasks running",
    Gauge waits "Requests waiting for the end of a task",
    Total waits_refused "Requests answered at once since too many waited",
    Gauge event_streams "Streams of events that are open",
    Total event_streams_refused "Streams of events refused since too many were open",
    Total event_streams_left "Streams of events whose clients went before the end",
    Total event_streams_withdrawn "Streams of events that ended since the caller's credential was taken back, or was over",
    Total events_sent "Events told of tasks",
    Total events_overtaken "Answers in part that were not told, for a newer one was there when the client had room",
    Total finished_hits "Polls answered from finished tasks in memory",
    Total keys_hits "API keys believed from the cache",
    Total keys_misses "API keys checked against the store",
    Total keys_refused "Requests without a valid API key",
    Total requests_forbidden "Requests whose credential is good and does not allow what they ask for",
    Total audit_refusals_told "Administrative acts that were refused and are told in the audit log",
    Total audit_refusals_left_out_user "Refused administrative acts that are not told since enough is told of their user in this hour",
    Total audit_refusals_left_out_core "Refused administrative acts that are not told since enough is told of the core's users in this hour",
    Total audit_refusals_left_out_storage "Refused administrative acts that are not told since the store did not take their entry",
    Total tokens_hits "Tokens of identity providers believed from the cache",
    Total tokens_misses "Tokens of identity providers checked",
    Total tokens_refused "Requests with a token that is not accepted",
    Total browsers_hits "Cookies of sessions of browsers believed from the cache",
    Total browsers_misses "Cookies of sessions of browsers looked up in the store",
    Total browsers_refused "Requests with a cookie that is not ours, or of a session that is over",
    Total browsers_cross_site "Requests with the cookie of a browser's session that were refused since another site's page may have sent them",
    Gauge browsers_cached "Sessions of browsers in the cache",
    Gauge tokens_cached "Tokens of identity providers in the cache",
    Total activity_skipped "Uses of credentials that were not noted in the store, for too many notes were under way; later ones are",
    Gauge keys_cached "API keys in the cache",
    Gauge sessions_active "Sessions in memory",
    Gauge session_cache_bytes "Memory of the session cache",
    Total session_cache_hits "Sessions read from the cache",
    Total session_cache_misses "Sessions not found in the cache",
    Total session_cache_evictions "Sessions given up for others",
    Total session_cache_expired "Sessions dropped since their time was over",
    Total session_cache_refused "Sessions too large for the cache",
    Total sessions_created "Sessions begun",
    Total sessions_ended "Sessions ended by their user",
    Total sessions_refused "Sessions not begun since their user had too many",
    Total history_read "Entries of the history looked at for lists",
    Total hops_sent "Requests passed on to the core that owns their user",
    Total hops_refused "Requests refused since the owner's mailbox was full",
    Total hops_unanswered "Requests the owner did not answer in time",
    Total hops_served "Requests of own users that came over another core",
}

impl CoreMetrics {
    /// The counters of the core's reactor; make the reactor with them.
    pub fn reactor(&self) -> &Arc<CoreStats> {
        &self.lent.reactor
    }

    /// The counters of the mailboxes by which the core's ingress passes datagrams on.
    pub fn forward(&self) -> &Arc<MailboxStats> {
        &self.lent.forward
    }

    /// The counters of the mailboxes by which the core passes requests on.
    pub fn mailbox(&self) -> &Arc<MailboxStats> {
        &self.lent.mailbox
    }

    /// The counters of the core's ingress; start the ingress with them.
    pub fn ingress(&self) -> &Arc<IngressStats> {
        &self.lent.ingress
    }

    /// The counters of the core's running tasks.
    pub fn run(&self) -> &Arc<RunStats> {
        &self.lent.env.run
    }

    /// All counters of what the core's tasks do; make their [`Env`](crate::env::Env) with them.
    pub fn env(&self) -> EnvStats {
        self.lent.env.clone()
    }

    /// The counters of the core's cache of reads.
    pub fn cache(&self) -> &CacheStats {
        &self.lent.env.cache
    }

    /// The counters of the core's broker.
    pub fn quota(&self) -> &QuotaStats {
        &self.lent.env.quota
    }

    /// The counters of the core's limits on requests.
    pub fn limits(&self) -> &Arc<LimitStats> {
        &self.lent.limits
    }

    /// How the core stands.
    pub fn state(&self) -> CoreState {
        self.state.get()
    }

    /// How many requests of `route` were answered with a status of this class (2 to 5).
    pub fn answered(&self, route: RouteLabel, class: u16) -> u64 {
        self.routes[route as usize].classes[class_index(class * 100)].get()
    }

    /// How many problems of this kind were answered.
    pub fn problems(&self, kind: ProblemKind) -> u64 {
        self.problems[kind as usize].get()
    }

    pub(crate) fn answer(&self, route: RouteLabel, status: u16, took: Duration) {
        let cells = &self.routes[route as usize];
        cells.classes[class_index(status)].add(1);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        cells.latency[LATENCY_US_BOUNDS.partition_point(|bound| *bound < took_us)].add(1);
        cells.latency_sum_us.add(took_us);
    }

    /// A command that arrived so long ago is begun.
    pub(crate) fn waited(&self, priority: Priority, waited_us: u64) {
        let cells = &self.priorities[priority as usize];
        cells.waits[LATENCY_US_BOUNDS.partition_point(|bound| *bound < waited_us)].add(1);
        cells.waits_sum_us.add(waited_us);
    }

    pub(crate) fn problem(&self, kind: ProblemKind) {
        self.problems[kind as usize].add(1);
    }

    pub(crate) fn end(&self, state: EndState) {
        self.ended[state as usize].add(1);
    }
}

fn class_index(status: u16) -> usize {
    usize::from(status / 100).clamp(2, 5) - 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_where_their_numbers_say() {
        for (index, route) in RouteLabel::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
        for (index, state) in EndState::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, index);
        }
        for (index, kind) in ProblemKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn an_answer_is_counted_by_class_and_by_time() {
        let metrics = CoreMetrics::default();
        metrics.answer(RouteLabel::Command, 202, Duration::from_micros(20));
        metrics.answer(RouteLabel::Command, 503, Duration::from_micros(21));
        metrics.answer(RouteLabel::Command, 504, Duration::from_secs(3_600));
        let cells = &metrics.routes[RouteLabel::Command as usize];
        assert_eq!(
            (metrics.answered(RouteLabel::Command, 2), metrics.answered(RouteLabel::Command, 5)),
            (1, 2)
        );
        assert_eq!((cells.latency[0].get(), cells.latency[1].get()), (1, 1));
        assert_eq!(cells.latency[LATENCY_US_BOUNDS.len()].get(), 1);
        assert!(LATENCY_US_BOUNDS.is_sorted());
    }
}
