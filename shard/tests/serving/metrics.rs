//! The page of metrics is what scrapers read, and counts what happened.

use std::collections::HashSet;

use crate::common::{World, config};
use serde_json::json;
use sluice_protocols::http::RequestHead;

/// Checks the page as the OpenMetrics text format demands it, and gives its series.
fn series(page: &str) -> HashSet<String> {
    assert!(page.ends_with("# EOF\n"));
    let mut seen = HashSet::new();
    let mut families = HashSet::new();
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name.to_owned()), "twice: {line}");
            name.clone_into(&mut family);
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&family), "{line} in {family}");
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
            let name = series.split('{').next().unwrap();
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            assert!(seen.insert(series.to_owned()), "twice: {line}");
        }
    }
    seen
}

#[test]
fn the_page_parses_and_counts() {
    let world = World::new();
    let anna = world.user("anna");
    world.run(config(), |gateway| async move {
        gateway.command(&anna, json!({"command": "one"})).await;
        gateway.command(&anna, json!({"command": "fail it"})).await;
        gateway.command(&anna, json!({"command": "decline it"})).await;
        let page = gateway.send(RequestHead::build("GET", "/metrics", "localhost"), "").await;
        assert!(page.header("content-type").unwrap().starts_with("application/openmetrics-text"));
        let series = series(std::str::from_utf8(&page.body).unwrap());
        for expected in [
            "sluice_core_turns_total{core=\"0\"}",
            "sluice_core_busy_seconds_total{core=\"0\"}",
            "sluice_core_stall_longest_seconds{core=\"0\"}",
            "sluice_ingress_connections{core=\"0\"}",
            "sluice_run_plans_asked_total{core=\"0\"}",
            "sluice_commit_duration_seconds_bucket{le=\"0.0032\"}",
            "sluice_request_duration_seconds_bucket{le=\"0.00002\",core=\"0\",route=\"session_get\"}",
            "sluice_commit_group_batches_sum",
            "sluice_egress_requests_total{upstream=\"gmail\"}",
            "sluice_egress_failures_total{upstream=\"openai\",reason=\"deadline\"}",
            "sluice_session_cache_bytes{core=\"0\"}",
            "sluice_core_ready{core=\"0\"}",
        ] {
            assert!(series.contains(expected), "{expected} is not in {series:#?}");
        }
        let count = |name: &str| gateway.metric(&format!("sluice_{name}"));
        assert_eq!(count("requests_total{core=\"0\",route=\"command\",status=\"2xx\"}"), 2);
        assert_eq!(count("requests_total{core=\"0\",route=\"command\",status=\"5xx\"}"), 1);
        assert_eq!(count("request_duration_seconds_count{core=\"0\",route=\"command\"}"), 3);
        assert_eq!(count("request_duration_seconds_bucket{le=\"+Inf\",core=\"0\",route=\"command\"}"), 3);
        assert_eq!(count("problems_total{core=\"0\",kind=\"upstream-unavailable\"}"), 1);
        for state in ["done", "failed", "declined"] {
            assert_eq!(count(&format!("tasks_ended_total{{core=\"0\",state=\"{state}\"}}")), 1);
        }
        assert_eq!(count("commands_accepted_total{core=\"0\"}"), 3);
        assert_eq!(count("sessions_active{core=\"0\"}"), 1);
        // Each command is two commits: its promise and its end.
        assert!(count("commit_batches_total") >= 6);
    });
}
