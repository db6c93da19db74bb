//! `/livez`, `/readyz`, `/metrics` and `/openapi.json`: answered by whichever core is asked, for the whole process.

use std::sync::OnceLock;

use bytes::Bytes;
use sluice_protocols::api::{CheckView, HealthStatus, HealthView};
use sluice_protocols::http::{RequestHead, Response};

use super::described;
use crate::metrics::{self, CoreState, Metrics};

/// Whether the process lives: whoever answers does.
pub(crate) fn livez() -> Response {
    Response::new(200).json(&HealthView { status: HealthStatus::Ok, checks: Vec::new() })
}

/// Whether the process should be sent requests: 200, or 503 with the reason in one word. `?verbose` lists what was
/// looked at.
pub(crate) fn readyz(metrics: &Metrics, head: &RequestHead) -> Response {
    let mut checks: Vec<_> =
        metrics.cores().enumerate().map(|(index, state)| core_check(index, state)).collect();
    let stopped = metrics.store_stopped();
    let status = health(metrics.cores(), stopped.is_some());
    checks.push(CheckView {
        name: "store".to_owned(),
        ok: stopped.is_none(),
        detail: stopped.map(|reason| reason.to_string()),
    });
    let is_verbose = head
        .query()
        .is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    if !is_verbose {
        checks.clear();
    }
    let code = if status == HealthStatus::Ok { 200 } else { 503 };
    let response = Response::new(code).json(&HealthView { status, checks });
    if code == 503 { response.with_field("retry-after", "1") } else { response }
}

/// The description of the API, made once.
pub(crate) fn openapi() -> Response {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let made = || Bytes::from(described::document().to_string());
    Response::new(200).with_body("application/json", DOCUMENT.get_or_init(made).clone())
}

/// The page of metrics.
pub(crate) fn page(metrics: &Metrics) -> Response {
    Response::new(200).with_body(metrics::CONTENT_TYPE, Bytes::from(metrics.render()))
}

fn health(cores: impl Iterator<Item = CoreState>, is_stopped: bool) -> HealthStatus {
    let worst = cores.fold(HealthStatus::Ok, |worst, core| match (worst, core) {
        (HealthStatus::Draining, _) | (_, CoreState::Draining) => HealthStatus::Draining,
        (HealthStatus::Starting, _) | (_, CoreState::Starting) => HealthStatus::Starting,
        (_, CoreState::Ready) => worst,
    });
    if is_stopped { HealthStatus::Failing } else { worst }
}

fn core_check(index: usize, state: CoreState) -> CheckView {
    let detail = match state {
        CoreState::Ready => None,
        CoreState::Starting => Some("taking up pending tasks"),
        CoreState::Draining => Some("shutting down"),
    };
    CheckView {
        name: format!("core {index}"),
        ok: state == CoreState::Ready,
        detail: detail.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_as_well_as_its_worst_part() {
        use CoreState::{Draining, Ready, Starting};
        let of = |cores: &[CoreState], is_stopped| health(cores.iter().copied(), is_stopped);
        assert_eq!(of(&[Ready, Ready], false), HealthStatus::Ok);
        assert_eq!(of(&[Ready, Starting], false), HealthStatus::Starting);
        assert_eq!(of(&[Starting, Ready], false), HealthStatus::Starting);
        assert_eq!(of(&[Starting, Draining, Ready], false), HealthStatus::Draining);
        assert_eq!(of(&[Ready], true), HealthStatus::Failing);
    }
}
