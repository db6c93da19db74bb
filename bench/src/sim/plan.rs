//! The plan file: latencies, quotas, faults and the manners of the token endpoint and of OpenAI, as TOML.
//!
//! It is given at the start (`--plan FILE`) or while running (`POST /_sim/plan`), where it takes the place of the
//! one before. What it leaves out is as the command line says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::SimConfig;
use super::fault::Fault;
use super::quota::Limits;
use super::wire::Service;

/// A plan as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    error_rate: Option<f64>,
    /// By service (`gmail`) or by operation (`"gmail.messages.send"`).
    #[serde(default)]
    latency: BTreeMap<String, LatencyEntry>,
    #[serde(default)]
    quota: QuotaEntry,
    #[serde(default)]
    oauth: OAuthPlan,
    #[serde(default)]
    openai: OpenAiPlan,
    #[serde(default)]
    fault: Vec<Fault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyEntry {
    median_ms: f64,
    sigma: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuotaEntry {
    /// All three services have Google's limits; what stands below replaces them one by one.
    #[serde(default)]
    google: bool,
    #[serde(default)]
    gmail: Limits,
    #[serde(default)]
    calendar: Limits,
    #[serde(default)]
    drive: Limits,
}

/// How tokens are given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuthPlan {
    /// A refresh gives a new refresh token and ends the old one.
    #[serde(default)]
    pub(crate) rotate_refresh_tokens: bool,
    /// Life of an access token.
    pub(crate) token_lifetime_s: Option<u64>,
    /// Life of a refresh token, told with it and not kept to; without it nothing is told, as Google does for clients that are
    /// not being tested.
    pub(crate) refresh_token_lifetime_s: Option<u64>,
    /// The scopes users grant of those they are asked for, and those that `sim-refresh-NAME` stands for.
    pub(crate) grant: Option<Vec<String>>,
}

/// OpenAI's limits and pace.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpenAiPlan {
    /// Requests a minute; the bucket fills evenly.
    pub(crate) requests_per_minute: Option<u64>,
    /// Tokens a minute; the bucket fills evenly.
    pub(crate) tokens_per_minute: Option<u64>,
    /// Tokens until the account has no more credit (`insufficient_quota`).
    pub(crate) credit_tokens: Option<u64>,
    /// Time between two streamed pieces of text.
    pub(crate) piece_ms: Option<u64>,
    /// Share of requests (0 to 1) that are answered with a refusal.
    #[serde(default)]
    pub(crate) refusal_rate: f64,
}

impl OpenAiPlan {
    /// The pause before a streamed piece.
    pub(crate) fn piece(&self) -> Duration {
        Duration::from_millis(self.piece_ms.unwrap_or(0))
    }
}

/// What a plan says, ready to be asked for each request.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) error_rate: f64,
    latency: BTreeMap<String, (Duration, f64)>,
    gmail: Limits,
    calendar: Limits,
    drive: Limits,
    none: Limits,
    pub(crate) oauth: OAuthPlan,
    pub(crate) openai: OpenAiPlan,
}

impl Plan {
    /// What the command line alone says.
    pub(crate) fn plain(config: &SimConfig) -> Self {
        let services = [
            (Service::OpenAi, config.latencies.openai),
            (Service::OAuth, config.latencies.oauth),
            (Service::Gmail, config.latencies.gmail),
            (Service::Calendar, config.latencies.calendar),
            (Service::Drive, config.latencies.drive),
        ];
        let latency =
            services.map(|(service, median)| (service.name().to_owned(), (median, config.latency_sigma)));
        Self { error_rate: config.error_rate, latency: latency.into(), ..Self::default() }
    }

    /// Reads a plan file; the second of the pair are its faults.
    ///
    /// # Errors
    /// When it is no TOML, has a key that is not known, or a value out of its range.
    pub(crate) fn read(text: &str, config: &SimConfig) -> anyhow::Result<(Self, Vec<Fault>)> {
        let file: File = toml::from_str(text)?;
        let mut plan = Self::plain(config);
        for (key, entry) in file.latency {
            let sigma = entry.sigma.unwrap_or(config.latency_sigma);
            anyhow::ensure!((0.0..=600_000.0).contains(&entry.median_ms), "latency.{key}: median_ms");
            anyhow::ensure!((0.0..=3.0).contains(&sigma), "latency.{key}: sigma must lie between 0 and 3");
            let service = key.split('.').next().unwrap_or_default();
            anyhow::ensure!(plan.latency.contains_key(service), "latency.{key}: there is no such service");
            plan.latency.insert(key, (Duration::from_secs_f64(entry.median_ms / 1_000.0), sigma));
        }
        for (name, rate) in [
            ("error_rate", file.error_rate.unwrap_or(0.0)),
            ("openai.refusal_rate", file.openai.refusal_rate),
        ] {
            anyhow::ensure!((0.0..=1.0).contains(&rate), "{name} must lie between 0 and 1");
        }
        for fault in &file.fault {
            fault.check().map_err(anyhow::Error::msg)?;
        }
        let quota = file.quota;
        let limits = |own: Limits, service| {
            if quota.google { own.over(Limits::google(service)) } else { own }
        };
        plan.error_rate = file.error_rate.unwrap_or(plan.error_rate);
        plan.gmail = limits(quota.gmail, Service::Gmail);
        plan.calendar = limits(quota.calendar, Service::Calendar);
        plan.drive = limits(quota.drive, Service::Drive);
        for limits in [&plan.gmail, &plan.calendar, &plan.drive] {
            let sound = matches!(limits.rate_status, None | Some(403 | 429));
            anyhow::ensure!(sound, "quota: rate_status is 403 or 429");
        }
        plan.oauth = file.oauth;
        plan.openai = file.openai;
        Ok((plan, file.fault))
    }

    /// Median and sigma of an operation, or of its service.
    pub(crate) fn latency(&self, service: Service, operation: &str) -> (Duration, f64) {
        let found = self.latency.get(operation).or_else(|| self.latency.get(service.name()));
        found.copied().unwrap_or_default()
    }

    /// The quotas of a service.
    pub(crate) fn limits(&self, service: Service) -> &Limits {
        match service {
            Service::Gmail => &self.gmail,
            Service::Calendar => &self.calendar,
            Service::Drive => &self.drive,
            Service::OAuth | Service::OpenAi => &self.none,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<(Plan, Vec<Fault>)> {
        Plan::read(text, &SimConfig { latency_sigma: 0.2, ..SimConfig::default() })
    }

    #[test]
    fn an_operation_has_its_own_latency_or_that_of_its_service() {
        let (plan, _) = read(
            "[latency]\ngmail = {median_ms = 80}\n\"gmail.messages.send\" = {median_ms = 250.5, sigma = 0.5}\n",
        )
        .expect("a plan");
        let of = |operation| plan.latency(Service::Gmail, operation);
        assert_eq!(of("gmail.messages.list"), (Duration::from_millis(80), 0.2));
        assert_eq!(of("gmail.messages.send"), (Duration::from_micros(250_500), 0.5));
        assert_eq!(plan.latency(Service::Drive, "drive.files.get").0, Duration::ZERO);
    }

    #[test]
    fn googles_quotas_are_switched_on_and_changed_one_by_one() {
        let (plan, faults) = read(
            "[quota]\ngoogle = true\n[quota.gmail]\nuser_units_per_minute = 50\n[quota.gmail.units]\n\"messages.get\" = 5\n\
             [[fault]]\nservice = \"drive\"\nkind = \"down\"\nshare = 0.5\n",
        )
        .expect("a plan");
        let gmail = plan.limits(Service::Gmail);
        assert_eq!((gmail.user_units_per_minute, gmail.daily_units), (Some(50), Some(80_000_000)));
        assert_eq!(gmail.units_of("gmail.messages.get"), 5);
        assert_eq!(plan.limits(Service::Calendar), &Limits::google(Service::Calendar));
        assert_eq!((faults.len(), plan.limits(Service::OAuth)), (1, &Limits::default()));
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused() {
        for text in [
            "colour = 1",
            "[latency]\nfax = {median_ms = 1}",
            "[latency]\ngmail = {median_ms = -1}",
            "[latency]\ngmail = {median_ms = 1, sigma = 9}",
            "error_rate = 2.0",
            "[quota.gmail]\nrate_status = 500",
            "[[fault]]\nservice = \"drive\"\nkind = \"slow\"",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
