//! Google's quotas: units a minute by project and by user, units a day, requests at once by user.
//!
//! Usage is always counted, so that a test can see what a client spends; it is limited only where a plan says so.
//!
//! Invariants:
//! - A minute is a window that slides by the second: in no 60 seconds on end are more units admitted than the limit.
//! - A refused request costs nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::wire::{Reply, Service, google_error};

const SECONDS: usize = 60;
const DAY_S: u64 = 86_400;

/// The limits of one service; an absent one does not limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// Units in any 60 seconds, all users together.
    pub(crate) project_units_per_minute: Option<u64>,
    /// Units in any 60 seconds, each user.
    pub(crate) user_units_per_minute: Option<u64>,
    /// Units in a day (UTC), all users together.
    pub(crate) daily_units: Option<u64>,
    /// Requests of one user that may be under way at once.
    pub(crate) user_concurrent_max: Option<u32>,
    /// The status of a refusal for its rate: 403 (the default) or 429.
    pub(crate) rate_status: Option<u16>,
    /// Units of a method, such as `messages.get`, where they are not the usual.
    #[serde(default)]
    pub(crate) units: BTreeMap<String, u64>,
}

impl Limits {
    /// Those of a project made since May 2026, with room for ten requests at once by user.
    pub(crate) fn google(service: Service) -> Self {
        let (project, user, daily) = match service {
            Service::Gmail => (1_200_000, 6_000, 80_000_000),
            Service::Calendar => (10_000, 600, 1_000_000),
            Service::Drive => (1_000_000, 325_000, 400_000_000),
            Service::OAuth | Service::OpenAi => return Self::default(),
        };
        Self {
            project_units_per_minute: Some(project),
            user_units_per_minute: Some(user),
            daily_units: Some(daily),
            user_concurrent_max: Some(10),
            rate_status: None,
            units: BTreeMap::new(),
        }
    }

    /// These limits, and those of `usual` where these say nothing.
    pub(crate) fn over(self, usual: Self) -> Self {
        Self {
            project_units_per_minute: self.project_units_per_minute.or(usual.project_units_per_minute),
            user_units_per_minute: self.user_units_per_minute.or(usual.user_units_per_minute),
            daily_units: self.daily_units.or(usual.daily_units),
            user_concurrent_max: self.user_concurrent_max.or(usual.user_concurrent_max),
            rate_status: self.rate_status.or(usual.rate_status),
            units: self.units,
        }
    }

    /// Units that a method costs. Google publishes Gmail's; Drive's are assumed here.
    pub(crate) fn units_of(&self, operation: &str) -> u64 {
        let (service, method) = operation.split_once('.').unwrap_or((operation, ""));
        if let Some(units) = self.units.get(method) {
            return *units;
        }
        match service {
            "gmail" => gmail_units(method),
            "drive" => match method {
                "files.list" | "changes.list" => 100,
                "files.download" | "files.export" => 200,
                "files.create" | "files.update" | "files.copy" | "files.delete" | "files.emptyTrash" => 50,
                "permissions.create" | "permissions.update" | "permissions.delete" => 50,
                _ => 5,
            },
            _ => 1,
        }
    }
}

fn gmail_units(method: &str) -> u64 {
    match method {
        "messages.send" | "drafts.send" => 100,
        "messages.batchModify" | "messages.batchDelete" => 50,
        "threads.get" => 40,
        "messages.insert" => 25,
        "messages.get" | "messages.attachments.get" | "threads.delete" => 20,
        "drafts.update" => 15,
        "drafts.create" | "drafts.delete" | "messages.delete" | "threads.list" | "threads.modify"
        | "threads.trash" | "threads.untrash" => 10,
        "history.list" => 2,
        "getProfile" | "labels.list" | "labels.get" => 1,
        _ => 5,
    }
}

/// Units admitted in the last 60 seconds.
#[derive(Debug)]
struct Window {
    /// Units of each second, at its number modulo 60.
    seconds: [u64; SECONDS],
    /// The second last written or read.
    last_s: u64,
    sum: u64,
    peak: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { seconds: [0; SECONDS], last_s: 0, sum: 0, peak: 0 }
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % 60).unwrap_or(0)
}

impl Window {
    fn advance(&mut self, now_s: u64) {
        let passed = now_s.saturating_sub(self.last_s).min(60);
        for back in 0..passed {
            let slot = slot(now_s - back);
            self.sum -= std::mem::take(&mut self.seconds[slot]);
        }
        self.last_s = self.last_s.max(now_s);
    }

    fn spend(&mut self, units: u64) {
        self.seconds[slot(self.last_s)] += units;
        self.sum += units;
        self.peak = self.peak.max(self.sum);
    }

    /// Seconds until `units` fit below `limit`, at most 60.
    fn wait_s(&self, units: u64, limit: u64) -> u64 {
        let mut sum = self.sum;
        for ahead in 1..=60 {
            sum -= self.seconds[slot(self.last_s + ahead)];
            if sum + units <= limit {
                return ahead;
            }
        }
        60
    }
}

#[derive(Debug, Default)]
struct UserUsage {
    window: Window,
    under_way: u32,
}

/// What has been used of one service.
#[derive(Debug, Default)]
struct Usage {
    project: Window,
    users: HashMap<String, UserUsage>,
    day: u64,
    day_units: u64,
    units: u64,
    refused: BTreeMap<&'static str, u64>,
}

/// What has been used of all.
#[derive(Debug, Default)]
pub(crate) struct Quotas {
    services: [Arc<Mutex<Usage>>; 3],
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Daily,
    /// Too many units of the project, until so many seconds have passed.
    Project(u64),
    /// Too many units of the user, until so many seconds have passed.
    User(u64),
    Concurrent,
}

impl Refusal {
    fn reason(&self) -> &'static str {
        match self {
            Self::Daily => "dailyLimitExceeded",
            Self::Project(_) => "rateLimitExceeded",
            Self::User(_) => "userRateLimitExceeded",
            Self::Concurrent => "concurrent",
        }
    }

    /// As Google words it; `now` for the time that stands in the message alone.
    pub(crate) fn reply(&self, limits: &Limits, now: jiff::Timestamp) -> Reply {
        let status = limits.rate_status.unwrap_or(403);
        let at = |wait_s: &u64| {
            let wait = jiff::SignedDuration::from_secs(i64::try_from(*wait_s).unwrap_or(60));
            let at = now.checked_add(wait).unwrap_or(now);
            at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
        };
        match self {
            Self::Daily => google_error(403, "dailyLimitExceeded", "Daily Limit Exceeded"),
            Self::Project(wait_s) => google_error(
                status,
                "rateLimitExceeded",
                &format!("Rate Limit Exceeded. Retry after {}", at(wait_s)),
            ),
            Self::User(wait_s) => {
                let message = format!("User-rate limit exceeded. Retry after {}", at(wait_s));
                google_error(status, "userRateLimitExceeded", &message)
            }
            Self::Concurrent => {
                google_error(429, "rateLimitExceeded", "Too many concurrent requests for user.")
            }
        }
    }
}

/// A request under way; dropping it makes room for another of its user.
#[derive(Debug)]
pub(crate) struct Slot {
    usage: Arc<Mutex<Usage>>,
    user: String,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = usage.users.get_mut(&self.user) {
            user.under_way = user.under_way.saturating_sub(1);
        }
    }
}

impl Quotas {
    fn of(&self, service: Service) -> Option<&Arc<Mutex<Usage>>> {
        match service {
            Service::Gmail => self.services.first(),
            Service::Calendar => self.services.get(1),
            Service::Drive => self.services.get(2),
            Service::OAuth | Service::OpenAi => None,
        }
    }

    /// Takes a place among the user's requests at once. Services without quotas give none.
    pub(crate) fn enter(
        &self,
        service: Service,
        user: &str,
        limits: &Limits,
    ) -> Result<Option<Slot>, Refusal> {
        let Some(shared) = self.of(service) else { return Ok(None) };
        let mut usage = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = &mut usage.users.entry(user.to_owned()).or_default().under_way;
        if limits.user_concurrent_max.is_some_and(|max| *under_way >= max) {
            *usage.refused.entry(Refusal::Concurrent.reason()).or_default() += 1;
            return Err(Refusal::Concurrent);
        }
        *under_way += 1;
        Ok(Some(Slot { usage: Arc::clone(shared), user: user.to_owned() }))
    }

    /// Spends the units of one request at `now_s`, seconds since 1970.
    pub(crate) fn spend(
        &self,
        service: Service,
        user: &str,
        units: u64,
        limits: &Limits,
        now_s: u64,
    ) -> Result<(), Refusal> {
        let Some(shared) = self.of(service) else { return Ok(()) };
        let mut guard = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = &mut *guard;
        if usage.day != now_s / DAY_S {
            (usage.day, usage.day_units) = (now_s / DAY_S, 0);
        }
        usage.project.advance(now_s);
        let of_user = usage.users.entry(user.to_owned()).or_default();
        of_user.window.advance(now_s);
        let over = |limit: Option<u64>, used: u64| limit.filter(|limit| used + units > *limit);
        let refusal = if over(limits.daily_units, usage.day_units).is_some() {
            Some(Refusal::Daily)
        } else if let Some(limit) = over(limits.user_units_per_minute, of_user.window.sum) {
            Some(Refusal::User(of_user.window.wait_s(units, limit)))
        } else {
            over(limits.project_units_per_minute, usage.project.sum)
                .map(|limit| Refusal::Project(usage.project.wait_s(units, limit)))
        };
        if let Some(refusal) = refusal {
            *usage.refused.entry(refusal.reason()).or_default() += 1;
            return Err(refusal);
        }
        usage.day_units += units;
        usage.units += units;
        usage.project.spend(units);
        of_user.window.spend(units);
        Ok(())
    }

    /// Units and refusals by service, as `GET /_sim/state` shows them.
    pub(crate) fn snapshot(&self) -> Value {
        let services = [Service::Gmail, Service::Calendar, Service::Drive];
        let all = services.into_iter().filter_map(|service| {
            let usage = self.of(service)?.lock().unwrap_or_else(PoisonError::into_inner);
            let user_peak = usage.users.values().map(|user| user.window.peak).max().unwrap_or(0);
            let shown = json!({"units": usage.units, "minute_peak": usage.project.peak,
                "user_minute_peak": user_peak, "refused": usage.refused});
            Some((service.name().to_owned(), shown))
        });
        Value::Object(all.collect())
    }

    /// Forgets what was used. Requests under way stay counted.
    pub(crate) fn reset(&self) {
        for shared in &self.services {
            let mut usage = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let users = std::mem::take(&mut usage.users).into_iter();
            let busy = users.filter(|(_, user)| user.under_way > 0);
            let busy = busy
                .map(|(name, user)| (name, UserUsage { under_way: user.under_way, ..UserUsage::default() }));
            *usage = Usage { users: busy.collect(), ..Usage::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn no_minute_admits_more_than_the_limit() {
        let quotas = Quotas::default();
        let limits = Limits { user_units_per_minute: Some(100), ..Limits::default() };
        let spend = |units, now| quotas.spend(Service::Gmail, "ada", units, &limits, now);
        assert_eq!(spend(60, NOW), Ok(()));
        assert_eq!(spend(40, NOW + 30), Ok(()));
        assert_eq!(spend(1, NOW + 59), Err(Refusal::User(1)));
        assert_eq!(spend(60, NOW + 60), Ok(()));
        assert_eq!(spend(1, NOW + 61), Err(Refusal::User(29)));
        assert_eq!(spend(40, NOW + 90), Ok(()));
        assert_eq!(spend(100, NOW + 1_000), Ok(()));
        assert_eq!(quotas.spend(Service::Gmail, "bob", 100, &limits, NOW + 1_000), Ok(()));
        assert_eq!(quotas.snapshot()["gmail"]["user_minute_peak"], 100);
        assert_eq!(quotas.snapshot()["gmail"]["refused"], json!({"userRateLimitExceeded": 2}));
    }

    #[test]
    fn project_and_day_are_limited_over_all_users() {
        let quotas = Quotas::default();
        let limits =
            Limits { project_units_per_minute: Some(10), daily_units: Some(15), ..Limits::default() };
        let spend = |user, now| quotas.spend(Service::Drive, user, 6, &limits, now);
        let midnight = NOW - NOW % DAY_S;
        assert_eq!(spend("ada", midnight), Ok(()));
        assert_eq!(spend("bob", midnight), Err(Refusal::Project(60)));
        assert_eq!(spend("bob", midnight + 60), Ok(()));
        assert_eq!(spend("ada", midnight + 200), Err(Refusal::Daily));
        assert_eq!(spend("ada", midnight + DAY_S), Ok(()));
    }

    #[test]
    fn a_user_has_so_many_requests_at_once() {
        let quotas = Quotas::default();
        let limits = Limits { user_concurrent_max: Some(1), ..Limits::default() };
        let first = quotas.enter(Service::Calendar, "ada", &limits).expect("room");
        assert_eq!(quotas.enter(Service::Calendar, "ada", &limits).unwrap_err(), Refusal::Concurrent);
        assert!(quotas.enter(Service::Calendar, "bob", &limits).is_ok());
        quotas.reset();
        assert!(quotas.enter(Service::Calendar, "ada", &limits).is_err());
        drop(first);
        assert!(quotas.enter(Service::Calendar, "ada", &limits).is_ok());
    }

    #[test]
    fn a_search_costs_what_google_says() {
        let limits = Limits::default();
        assert_eq!(limits.units_of("gmail.messages.list") + 10 * limits.units_of("gmail.messages.get"), 205);
        assert_eq!(limits.units_of("calendar.events.list"), 1);
        let dearer = Limits { units: [("messages.get".to_owned(), 7)].into(), ..Limits::default() };
        assert_eq!(dearer.units_of("gmail.messages.get"), 7);
    }
}
