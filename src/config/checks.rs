//! Bounds of single values, and combinations that cannot work.

use sluice_protocols::workflow::operation_names;
use sluice_shard::upstream::Delegation;

use super::{Config, Origin, Problem};

/// No machine we run on has more CPUs for one process, and every pair of cores has mailboxes of its own.
const CORES_MAX: u64 = 256;
const SHARDS_MAX: u64 = 4096;
const RATE_MAX: u64 = sluice_shard::limit::COUNT_MAX as u64;
/// All of them are read at the start, and looked at again and again.
const CERTIFICATES_MAX: usize = 256;
const DELEGATED_DOMAINS_MAX: usize = 100;
const DELEGATED_SCOPES_MAX: usize = 32;

/// Collects what is wrong.
pub(super) struct Checks<'a> {
    pub(super) config: &'a Config,
    pub(super) problems: Vec<Problem>,
}

impl Checks<'_> {
    pub(super) fn refuse(&mut self, key: &str, text: String) {
        self.problems.push(Problem { origin: self.config.origin(key), key: key.to_owned(), text });
    }

    fn within(&mut self, key: &str, found: u64, min: u64, max: u64) {
        if !(min..=max).contains(&found) {
            self.refuse(key, format!("{found} is out of bounds; allowed is {min} to {max}"));
        }
    }

    pub(super) fn bounds(&mut self) {
        let Config {
            server,
            listen,
            tls,
            limits,
            rate,
            tasks,
            context,
            webhooks,
            store,
            egress,
            google,
            cache,
            quota,
            intent,
            ..
        } = self.config;
        for (key, found, min, max) in [
            ("server.cores", server.cores, 0, CORES_MAX),
            ("server.shards", server.shards, 1, SHARDS_MAX),
            ("server.shutdown_grace_ms", server.shutdown_grace_ms.0, 0, 600_000),
            ("listen.socket_buffer_bytes", listen.socket_buffer_bytes, 65_536, 268_435_456),
            ("tls.watch_interval_s", tls.watch_interval_s, 0, 3_600),
            ("limits.body_bytes_max", limits.body_bytes_max, 1_024, 16_777_216),
            ("limits.transfer_bytes_max", limits.transfer_bytes_max, 65_536, 5 << 40),
            ("limits.transfers_per_core_max", limits.transfers_per_core_max, 1, 10_000),
            ("limits.connections_max", limits.connections_max, 1, 10_000_000),
            ("limits.tcp_connections_max", limits.tcp_connections_max, 1, 1_000_000),
            ("limits.connections_per_address_max", limits.connections_per_address_max, 0, 10_000_000),
            ("limits.streams_max", limits.streams_max, 1, 1_024),
            ("limits.idle_timeout_ms", limits.idle_timeout_ms.0, 1_000, 600_000),
            ("limits.unused_timeout_ms", limits.unused_timeout_ms.0, 0, 86_400_000),
            ("limits.request_timeout_ms", limits.request_timeout_ms.0, 1_000, 600_000),
            ("limits.handshake_timeout_ms", limits.handshake_timeout_ms.0, 1_000, 60_000),
            ("limits.handshakes_per_core_max", limits.handshakes_per_core_max, 0, 1_000_000),
            ("limits.command_timeout_ms", limits.command_timeout_ms.0, 1_000, 600_000),
            ("limits.tasks_queued_per_core_max", limits.tasks_queued_per_core_max, 1, 1_000_000),
            ("limits.tasks_running_per_core_max", limits.tasks_running_per_core_max, 1, 100_000),
            ("limits.tasks_running_per_user_max", limits.tasks_running_per_user_max, 1, 1_000),
            ("rate.user_per_minute", rate.user_per_minute, 0, RATE_MAX),
            ("rate.user_per_hour", rate.user_per_hour, 0, RATE_MAX),
            ("rate.user_concurrent_max", rate.user_concurrent_max, 0, RATE_MAX),
            ("rate.key_per_minute", rate.key_per_minute, 0, RATE_MAX),
            ("rate.key_per_hour", rate.key_per_hour, 0, RATE_MAX),
            ("rate.commands_per_minute", rate.commands_per_minute, 0, RATE_MAX),
            ("rate.commands_per_hour", rate.commands_per_hour, 0, RATE_MAX),
            ("rate.reads_per_minute", rate.reads_per_minute, 0, RATE_MAX),
            ("rate.reads_per_hour", rate.reads_per_hour, 0, RATE_MAX),
            ("rate.google_per_minute", rate.google_per_minute, 0, RATE_MAX),
            ("rate.google_per_hour", rate.google_per_hour, 0, RATE_MAX),
            ("rate.administration_per_minute", rate.administration_per_minute, 0, RATE_MAX),
            ("rate.administration_per_hour", rate.administration_per_hour, 0, RATE_MAX),
            ("rate.address_per_minute", rate.address_per_minute, 0, RATE_MAX),
            ("rate.address_per_hour", rate.address_per_hour, 0, RATE_MAX),
            ("rate.unauthorized_per_minute", rate.unauthorized_per_minute, 0, RATE_MAX),
            ("rate.unauthorized_per_hour", rate.unauthorized_per_hour, 0, RATE_MAX),
            ("rate.users_tracked_per_core", rate.users_tracked_per_core, 16, 1 << 24),
            ("rate.addresses_tracked", rate.addresses_tracked, 16, 1 << 24),
            ("tasks.attempts_max", tasks.attempts_max, 1, 100),
            ("tasks.retry_base_ms", tasks.retry_base_ms.0, 1, 3_600_000),
            ("tasks.retry_max_ms", tasks.retry_max_ms.0, tasks.retry_base_ms.0, 86_400_000),
            ("tasks.unconfirmed_life_s", tasks.unconfirmed_life_s, 60, 2_592_000),
            ("tasks.idempotency_life_s", tasks.idempotency_life_s, 60, 2_592_000),
            ("context.bytes_per_user_max", context.bytes_per_user_max, 65_536, 104_857_600),
            ("context.ttl_s", context.ttl_s, 60, context.ttl_max_s),
            ("context.ttl_max_s", context.ttl_max_s, 60, 31_536_000),
            ("webhooks.per_user_max", webhooks.per_user_max, 1, 100),
            ("webhooks.pending_per_user_max", webhooks.pending_per_user_max, 1, 1_000_000),
            ("webhooks.pending_per_core_max", webhooks.pending_per_core_max, 1, 10_000_000),
            ("webhooks.running_per_core_max", webhooks.running_per_core_max, 1, 10_000),
            ("webhooks.running_per_user_max", webhooks.running_per_user_max, 1, 10_000),
            ("webhooks.running_per_receiver_max", webhooks.running_per_receiver_max, 1, 10_000),
            ("webhooks.connect_timeout_ms", webhooks.connect_timeout_ms.0, 10, 60_000),
            ("webhooks.attempt_timeout_ms", webhooks.attempt_timeout_ms.0, 100, 600_000),
            ("webhooks.attempts_max", webhooks.attempts_max, 1, 100),
            ("webhooks.retry_base_ms", webhooks.retry_base_ms.0, 1, 3_600_000),
            ("webhooks.retry_max_ms", webhooks.retry_max_ms.0, webhooks.retry_base_ms.0, 86_400_000),
            ("webhooks.disable_after", webhooks.disable_after, 1, 100_000),
            ("webhooks.rotation_overlap_s", webhooks.rotation_overlap_s, 0, 2_592_000),
            ("store.block_cache_mib", store.block_cache_mib, 8, 1_048_576),
            ("store.write_buffer_mib", store.write_buffer_mib, 8, 65_536),
            ("store.reader_threads", store.reader_threads, 1, 64),
            ("egress.threads", egress.threads, 1, 32),
            (
                "google.delegated_signatures_max",
                google.delegated_signatures_max,
                0,
                Delegation::SIGNED_AT_ONCE_MAX as u64,
            ),
            ("egress.openai_concurrency_max", egress.openai_concurrency_max, 1, 65_536),
            ("egress.google_concurrency_max", egress.google_concurrency_max, 1, 65_536),
            ("egress.queue_max", egress.queue_max, 1, 1_000_000),
            ("egress.connect_timeout_ms", egress.connect_timeout_ms.0, 10, 60_000),
            ("egress.attempt_timeout_ms", egress.attempt_timeout_ms.0, 100, 600_000),
            ("egress.idle_timeout_ms", egress.idle_timeout_ms.0, 1_000, 3_600_000),
            ("egress.response_bytes_max", egress.response_bytes_max, 65_536, 1_073_741_824),
            ("egress.retry_attempts_max", egress.retry_attempts_max, 1, 10),
            ("egress.retry_backoff_base_ms", egress.retry_backoff_base_ms.0, 1, 60_000),
            ("egress.retry_backoff_max_ms", egress.retry_backoff_max_ms.0, 1, 600_000),
            ("egress.retry_budget_percent", egress.retry_budget_percent, 0, 100),
            ("egress.retry_budget_per_second", egress.retry_budget_per_second, 0, 10_000),
            ("egress.hedge_after_min_ms", egress.hedge_after_min_ms.0, 1, 60_000),
            ("egress.breaker_failures_in_a_row", egress.breaker_failures_in_a_row, 1, 10_000),
            ("egress.breaker_failure_percent", egress.breaker_failure_percent, 1, 100),
            ("egress.breaker_calls_min", egress.breaker_calls_min, 1, 100_000),
            ("egress.breaker_open_ms", egress.breaker_open_ms.0, 10, 600_000),
            ("egress.breaker_open_max_ms", egress.breaker_open_max_ms.0, egress.breaker_open_ms.0, 3_600_000),
            ("cache.read_bytes_per_core", cache.read_bytes_per_core, 0, 1 << 40),
            ("cache.read_fresh_ms", cache.read_fresh_ms.0, 0, 86_400_000),
            ("cache.read_stale_ms", cache.read_stale_ms.0, 0, 86_400_000),
            ("cache.settle_ms", cache.settle_ms.0, 0, 600_000),
            ("quota.normal_percent", quota.normal_percent, 1, 100),
            ("quota.batch_percent", quota.batch_percent, 1, quota.normal_percent),
            ("quota.user_concurrent_max", quota.user_concurrent_max, 1, 1_000),
            ("quota.waiting_per_core_max", quota.waiting_per_core_max, 1, 1_000_000),
            ("quota.places_percent", quota.places_percent, 1, 100),
            ("quota.slack_ms", quota.slack_ms.0, 0, 60_000),
            ("quota.cool_down_ms", quota.cool_down_ms.0, 1, 60_000),
            ("identity.refresh_s", self.config.identity.refresh_s, 10, 86_400),
            ("identity.refetch_s", self.config.identity.refetch_s, 1, 3_600),
            ("identity.key_wait_ms", self.config.identity.key_wait_ms.0, 0, 10_000),
            ("identity.browser_session_life_s", self.config.identity.browser_session_life_s, 300, 2_592_000),
            ("intent.pattern_ttl_s", intent.pattern_ttl_s, 0, 604_800),
            ("intent.pattern_cache_bytes_per_core", intent.pattern_cache_bytes_per_core, 0, 1_073_741_824),
        ] {
            self.within(key, found, min, max);
        }
        if !(0.0..=1.0).contains(&intent.confidence_min) {
            let text = format!("{} is out of bounds; allowed is 0 to 1", intent.confidence_min);
            self.refuse("intent.confidence_min", text);
        }
    }

    pub(super) fn listen(&mut self) {
        let Config { server, listen, .. } = self.config;
        if !(1..=16).contains(&listen.addresses.len()) {
            let text = format!("{} addresses; allowed is 1 to 16", listen.addresses.len());
            self.refuse("listen.addresses", text);
        }
        for (index, address) in listen.addresses.iter().enumerate() {
            if listen.addresses[..index].contains(address) {
                self.refuse("listen.addresses", format!("{address} is there twice; each may be once"));
            }
        }
        // With cores = 0 their number is the host's; then at least one port must be there.
        let cores = server.cores.clamp(1, CORES_MAX);
        if u64::from(listen.alt_svc_core_port_base) + (cores - 1) > 65_535 {
            let text = format!(
                "{cores} cores need as many ports from here; allowed is a base up to {}",
                65_536 - cores
            );
            self.refuse("listen.alt_svc_core_port_base", text);
        }
        if listen.port == 0 && listen.core_port_base == 0 {
            return;
        }
        let first = listen.core_port_first().map_or(u64::MAX, u64::from);
        let last = first.saturating_add(cores - 1);
        if last > 65_535 {
            let text = format!(
                "{cores} cores need as many ports from here; allowed is a base up to {}",
                65_536 - cores
            );
            self.refuse("listen.core_port_base", text);
        } else if (first..=last).contains(&u64::from(listen.port)) {
            let text = format!("the cores' ports {first} to {last} take the shared port {}", listen.port);
            self.refuse("listen.core_port_base", text);
        }
    }

    pub(super) fn tls(&mut self) {
        let tls = &self.config.tls;
        if tls.certificates.len() > CERTIFICATES_MAX {
            let text = format!("{} certificates; allowed are {CERTIFICATES_MAX}", tls.certificates.len());
            self.refuse("tls.certificates", text);
        }
        if !tls.certificates.is_empty() && tls.certificate.get().is_none() {
            let text = "needs tls.certificate beside it, for clients that ask for no name or another";
            self.refuse("tls.certificates", text.to_owned());
        }
        match (tls.certificate.get(), tls.key.get()) {
            (Some(_), None) => self.refuse("tls.certificate", "needs tls.key beside it".to_owned()),
            (None, Some(_)) => self.refuse("tls.key", "needs tls.certificate beside it".to_owned()),
            (None, None) if !tls.development => {
                let text =
                    "false leaves no certificate; set tls.certificate and tls.key, or allow true".to_owned();
                self.refuse("tls.development", text);
            }
            (Some(_), Some(_))
                if tls.development && self.config.origin("tls.development") != Origin::Default =>
            {
                let text = "true does not go with tls.certificate; leave one of them out".to_owned();
                self.refuse("tls.development", text);
            }
            _ => {}
        }
    }

    pub(super) fn combinations(&mut self) {
        let Config { server, limits, tasks, webhooks, egress, openai, google, .. } = self.config;
        if server.data_dir.as_os_str().is_empty() {
            self.refuse("server.data_dir", "is empty; allowed is the path of a directory".to_owned());
        }
        if server.cores > server.shards && server.shards > 0 {
            let text = format!(
                "{} cores cannot share {} shards; allowed is at most one core a shard",
                server.cores, server.shards
            );
            self.refuse("server.cores", text);
        }
        if limits.tasks_running_per_user_max > limits.tasks_running_per_core_max {
            let text = format!(
                "allowed is at most tasks_running_per_core_max ({})",
                limits.tasks_running_per_core_max
            );
            self.refuse("limits.tasks_running_per_user_max", text);
        }
        if webhooks.ports.contains(&0) {
            self.refuse("webhooks.ports", "0 is no port; allowed is 1 to 65535".to_owned());
        }
        for name in tasks.confirm.iter().filter(|name| !operation_names().any(|known| known == name.as_str()))
        {
            let known: Vec<&str> = operation_names().collect();
            self.refuse(
                "tasks.confirm",
                format!("{name:?} is no operation; allowed are {}", known.join(", ")),
            );
        }
        self.master_keys();
        if egress.retry_backoff_max_ms.0 < egress.retry_backoff_base_ms.0 {
            let text =
                format!("allowed is at least retry_backoff_base_ms ({})", egress.retry_backoff_base_ms.0);
            self.refuse("egress.retry_backoff_max_ms", text);
        }
        if openai.api_key.expose().is_some() && openai.api_key_file.get().is_some() {
            self.refuse(
                "openai.api_key_file",
                "openai.api_key is set too; allowed is one of them".to_owned(),
            );
        }
        if openai.model.is_empty() {
            self.refuse("openai.model", "is empty; allowed is the name of a model".to_owned());
        }
        if google.client_secret.expose().is_some() && google.client_secret_file.get().is_some() {
            let text = "google.client_secret is set too; allowed is one of them".to_owned();
            self.refuse("google.client_secret_file", text);
        }
        self.delegation();
    }

    fn delegation(&mut self) {
        let google = &self.config.google;
        let domains = &google.delegated_domains;
        match (google.service_account_file.get().is_some(), domains.is_empty()) {
            (true, true) => {
                let text = "needs google.delegated_domains beside it: for whose addresses it may act";
                self.refuse("google.service_account_file", text.to_owned());
            }
            (false, false) => {
                self.refuse(
                    "google.delegated_domains",
                    "needs google.service_account_file beside it".to_owned(),
                );
            }
            _ => {}
        }
        let is_domain = |text: &String| {
            let fits = |part: &str| {
                !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            text.contains('.') && text.len() <= 253 && text.split('.').all(fits)
        };
        if let Some(wrong) = domains.iter().find(|domain| !is_domain(domain)) {
            let text = format!("{wrong:?} is no domain; allowed is a name such as \"example.com\"");
            self.refuse("google.delegated_domains", text);
        }
        if domains.len() > DELEGATED_DOMAINS_MAX {
            let text = format!("{} domains; allowed are {DELEGATED_DOMAINS_MAX}", domains.len());
            self.refuse("google.delegated_domains", text);
        }
        let scopes = &google.delegated_scopes;
        let is_scope = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !(1..=DELEGATED_SCOPES_MAX).contains(&scopes.len()) || !scopes.iter().all(is_scope) {
            let text = format!("allowed are 1 to {DELEGATED_SCOPES_MAX} scopes, each without blanks");
            self.refuse("google.delegated_scopes", text);
        }
    }

    fn master_keys(&mut self) {
        let vault = &self.config.vault;
        if vault.keys.expose().is_some() {
            if vault.key_file.get().is_some() {
                self.refuse("vault.key_file", "vault.keys is set too; allowed is one of them".to_owned());
            }
            if !matches!(self.config.origin("vault.keys"), Origin::Environment(_)) {
                let text = "allowed is the environment alone, for others may see a command line and copy this file; \
                            name a file in vault.key_file";
                self.refuse("vault.keys", text.to_owned());
            }
        }
        if vault.credential.contains('/') || vault.credential.starts_with('.') {
            let text =
                format!("{:?} is no name of a credential; allowed is the name of a file", vault.credential);
            self.refuse("vault.credential", text);
        }
    }

    pub(super) fn urls(&mut self) {
        let Config { openai, google, .. } = self.config;
        for (key, url) in [
            ("openai.base_url", &openai.base_url),
            ("google.token_url", &google.token_url),
            ("google.auth_url", &google.auth_url),
            ("google.issuer", &google.issuer),
            ("google.gmail_url", &google.gmail_url),
            ("google.calendar_url", &google.calendar_url),
            ("google.drive_url", &google.drive_url),
        ] {
            if !is_base_url(url) {
                let text =
                    format!("{url:?} is no base URL; allowed is http:// or https://, a host, and a path");
                self.refuse(key, text);
            }
        }
        self.places_of_consent();
    }

    /// Where users' browsers go and come from.
    fn places_of_consent(&mut self) {
        let Config { listen, google, .. } = self.config;
        let origins = google.return_origins.iter().map(|origin| ("google.return_origins", origin));
        let own = Some(("listen.public_url", &listen.public_url)).filter(|(_, url)| !url.is_empty());
        for (key, url) in origins.chain(own) {
            if !is_origin(url.trim_end_matches('/')) || (key != "listen.public_url" && url.ends_with('/')) {
                let text =
                    format!("{url:?} is no origin; allowed is https://, a host in small letters, and a port");
                self.refuse(key, text);
            }
        }
        let revoke_url = google.revocation_url();
        let is_given = !google.revoke_url.is_empty();
        // What is wrong with the token endpoint is told by itself.
        if (is_given && !is_base_url(&revoke_url))
            || (is_base_url(&google.token_url) && origin(&revoke_url) != origin(&google.token_url))
        {
            let text = format!(
                "{revoke_url:?} is no URL of the origin of google.token_url ({:?})",
                google.token_url
            );
            self.refuse("google.revoke_url", text);
        }
    }
}

/// Scheme, host and port of a base URL.
fn origin(url: &str) -> &str {
    let host_at = url.find("://").map_or(0, |at| at + 3);
    let end = url[host_at..].find('/').map_or(url.len(), |length| host_at + length);
    &url[..end]
}

/// Whether a text is an origin as browsers write it; over TLS, for a cookie and codes go there.
fn is_origin(text: &str) -> bool {
    is_base_url(text)
        && text.starts_with("https://")
        && origin(text) == text
        && !text.bytes().any(|byte| byte.is_ascii_uppercase())
        && !text.ends_with(":443")
}

pub(super) fn is_base_url(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
        return false;
    };
    let host = rest.split('/').next().unwrap_or_default();
    !host.is_empty() && !rest.contains(['?', '#', '@']) && !rest.contains(|c: char| c.is_whitespace())
}
