//! What upstreams allow, and what calls cost: plain data. The defaults are what Google publishes for projects made since
//! May 2026; where it publishes nothing (Drive's units by method) they are cautious guesses.

use std::time::Duration;

use sluice_protocols::google::ApiCall;
use sluice_protocols::plan::Service;

use super::breaker::BreakerConfig;
use super::hedge::HedgeConfig;

/// Limits of one service; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Units in any minute, all users together.
    pub project_per_minute: u64,
    /// Units in any minute, each user.
    pub user_per_minute: u64,
    /// Units in any 24 hours, all users together.
    pub per_day: u64,
}

/// Units of the kinds of calls we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Gmail: finding messages, drafts or threads.
    pub gmail_list: u64,
    /// Gmail: a message, a draft.
    pub gmail_get: u64,
    /// Gmail: a thread.
    pub gmail_thread: u64,
    /// Gmail: what changed since.
    pub gmail_history: u64,
    /// Gmail: making, changing or deleting a draft.
    pub gmail_draft: u64,
    /// Gmail: sending a message or a draft.
    pub gmail_send: u64,
    /// Gmail: labels and trash.
    pub gmail_modify: u64,
    /// Drive: finding files.
    pub drive_list: u64,
    /// Drive: what is known of a file.
    pub drive_get: u64,
    /// Drive: the content of a file.
    pub drive_read: u64,
    /// Drive: every change.
    pub drive_write: u64,
    /// Calendar: every request.
    pub calendar: u64,
}

impl Default for Units {
    fn default() -> Self {
        Self {
            gmail_list: 5,
            gmail_get: 20,
            gmail_thread: 40,
            gmail_history: 2,
            gmail_draft: 10,
            gmail_send: 100,
            gmail_modify: 5,
            drive_list: 100,
            drive_get: 5,
            drive_read: 200,
            drive_write: 50,
            calendar: 1,
        }
    }
}

impl Units {
    /// What a call costs.
    pub fn of(&self, call: &ApiCall) -> u64 {
        match call.service {
            Service::Gmail => self.gmail(call),
            Service::Calendar => self.calendar,
            Service::Drive => self.drive(call),
        }
    }

    fn gmail(&self, call: &ApiCall) -> u64 {
        let resource = call.resource();
        let (collection, rest) = resource.split_once('/').unwrap_or((resource, ""));
        match (call.method, collection, rest) {
            ("GET", "history", _) => self.gmail_history,
            ("GET", "threads", "") => self.gmail_list * 2,
            ("GET", _, "") => self.gmail_list,
            ("GET", "threads", _) => self.gmail_thread,
            ("GET", ..) => self.gmail_get,
            (_, "messages" | "drafts", "send") => self.gmail_send,
            (_, "drafts", _) => self.gmail_draft,
            // Batches and deletions cost more than a change of labels; a change of a thread too.
            (_, "messages", "batchModify" | "batchDelete") => self.gmail_modify * 10,
            ("DELETE", ..) => self.gmail_modify * 4,
            (_, "threads", _) => self.gmail_modify * 2,
            _ => self.gmail_modify,
        }
    }

    fn drive(&self, call: &ApiCall) -> u64 {
        let resource = call.resource();
        match call.method {
            "GET" if call.is_content() => self.drive_read,
            "GET" if !resource.contains('/') => self.drive_list,
            "GET" => self.drive_get,
            _ => self.drive_write,
        }
    }
}

/// When a call that failed is made again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryLimits {
    /// Attempts for one call, the first included. Default 3.
    pub attempts_max: u32,
    /// Upper end of the wait before the first repeat; it doubles with each. Default 100 ms.
    pub backoff_base: Duration,
    /// Upper end of any wait that was not asked for. Default 5 s.
    pub backoff_max: Duration,
    /// Repeats for each hundred calls. Default 20.
    pub budget_percent: u32,
    /// Repeats each second on top of that, the whole process together. Default 10.
    pub budget_per_second: u32,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            backoff_base: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            budget_percent: 20,
            budget_per_second: 10,
        }
    }
}

/// Everything the broker goes by.
#[derive(Clone, Debug)]
pub struct QuotaConfig {
    /// Gmail's limits.
    pub gmail: Limits,
    /// Calendar's.
    pub calendar: Limits,
    /// Drive's.
    pub drive: Limits,
    /// What calls cost.
    pub units: Units,
    /// Requests to OpenAI in any minute; 0 is no limit. Default 30,000.
    pub openai_requests_per_minute: u64,
    /// Tokens of OpenAI in any minute; 0 is no limit, which is the default, as accounts differ.
    pub openai_tokens_per_minute: u64,
    /// Tokens an answer is taken to have before it is there. Default 500.
    pub openai_answer_tokens: u64,
    /// Share of a project's minute that normal and batch work may use, in percent: the rest is kept for what is more
    /// urgent. Default 95.
    pub normal_percent: u64,
    /// The same of batch work alone. Default 75.
    pub batch_percent: u64,
    /// Calls of one user under way at once to one service. Default 10.
    pub user_concurrent_max: usize,
    /// Calls under way at once to OpenAI from one core. Default 128.
    pub openai_concurrent_max: usize,
    /// The same to each of Google's services. Default 128.
    pub google_concurrent_max: usize,
    /// Calls of a core that may wait for one upstream. Default 10,000.
    pub waiting_max: usize,
    /// Commands of a core that run at once. Default 1,024.
    pub places: usize,
    /// What one upstream may hold of these while it is asked or waited for and no other holds any, in percent, at most 100:
    /// steps of commands, questions to the model and requests count. Default 75.
    pub places_percent: usize,
    /// Users of a core whose last minute is remembered, by service. Default 65,536.
    pub users_max: usize,
    /// Added to every window, for the time a call is on its way. Default 2 s.
    pub slack: Duration,
    /// The wait after a refusal for its rate that names none; doubled while refusals go on, up to a minute.
    /// Default 1 s.
    pub cool_down: Duration,
    /// When a service is left alone.
    pub breaker: BreakerConfig,
    /// When a call is made again.
    pub retry: RetryLimits,
    /// When a read is asked for twice.
    pub hedge: HedgeConfig,
}

impl Default for QuotaConfig {
    fn default() -> Self {
        let limits = |project_per_minute, user_per_minute, per_day| Limits {
            project_per_minute,
            user_per_minute,
            per_day,
        };
        Self {
            gmail: limits(1_200_000, 6_000, 80_000_000),
            calendar: limits(10_000, 600, 1_000_000),
            drive: limits(1_000_000, 325_000, 400_000_000),
            units: Units::default(),
            openai_requests_per_minute: 30_000,
            openai_tokens_per_minute: 0,
            openai_answer_tokens: 500,
            normal_percent: 95,
            batch_percent: 75,
            user_concurrent_max: 10,
            openai_concurrent_max: 128,
            google_concurrent_max: 128,
            waiting_max: 10_000,
            places: 1_024,
            places_percent: 75,
            users_max: 65_536,
            slack: Duration::from_secs(2),
            cool_down: Duration::from_secs(1),
            breaker: BreakerConfig::default(),
            retry: RetryLimits::default(),
            hedge: HedgeConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::google::{calendar, drive, gmail};

    use super::*;

    #[test]
    fn calls_cost_what_google_says() {
        let units = Units::default();
        assert_eq!(units.of(&gmail::list_messages("x", 10)), 5);
        assert_eq!(units.of(&gmail::get_message("m", gmail::Format::Full)), 20);
        assert_eq!(units.of(&gmail::send_draft("d")), 100);
        assert_eq!(units.of(&gmail::get_draft("d")), 20);
        assert_eq!(units.of(&calendar::delete_event("e")), 1);
        assert_eq!(units.of(&drive::search_files("x", 10)), 100);
        assert_eq!(units.of(&drive::get_file("f")), 5);
        assert_eq!(units.of(&drive::download_file("f")), 200);
        assert_eq!(units.of(&drive::export_file("f", "text/plain")), 200);
        let bare = |method, path: &str| ApiCall {
            service: Service::Gmail,
            method,
            path: format!("/gmail/v1/users/me/{path}"),
            content_type: None,
            body: bytes::Bytes::new(),
            if_match: None,
        };
        assert_eq!(units.of(&bare("POST", "drafts")), 10);
        assert_eq!(units.of(&bare("POST", "messages/send")), 100);
        assert_eq!(units.of(&bare("GET", "threads/t")), 40);
        assert_eq!(units.of(&bare("GET", "history")), 2);
        assert_eq!(units.of(&bare("GET", "threads?q=x")), 10);
        assert_eq!(units.of(&bare("POST", "messages/m/modify")), 5);
        assert_eq!(units.of(&bare("POST", "messages/batchModify")), 50);
    }
}
