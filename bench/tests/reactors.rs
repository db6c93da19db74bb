//! Every cell of the reactor matrix does its work, and says so when it cannot. Nothing is timed.

use std::time::Duration;

use sluice_bench::reactors::{PLACES_NONE, Runtime, Work, measure};

/// Long enough for a round of each work.
const SHORT: Duration = Duration::from_millis(100);

fn check(work: Work) {
    for runtime in Runtime::ALL {
        let is_ours = runtime.name().starts_with("sluice");
        match measure(runtime, work, SHORT, PLACES_NONE) {
            Ok(figures) => {
                assert!(figures.units > 0 && figures.cpu_us > 0.0 && figures.per_s > 0.0, "{figures:?}");
                assert_eq!(figures.p50_us.is_some(), work.latency().is_some());
                assert!(figures.p50_us <= figures.p99_us);
            }
            // The other two may be impossible here: no control messages, or too little memory to lock.
            Err(error) => {
                let reason = format!("{error:#}");
                assert!(!is_ours && runtime != Runtime::Tokio, "{}: {reason}", runtime.name());
                let is_known = reason.contains("control messages") || reason.contains("not start");
                assert!(is_known, "{}: {reason}", runtime.name());
            }
        }
    }
}

#[test]
fn every_runtime_echoes_datagrams() {
    check(Work::EchoPlain);
}

#[test]
fn every_runtime_that_can_echoes_trains() {
    check(Work::EchoTrains);
}

#[test]
fn every_runtime_fires_its_timers() {
    check(Work::Timers);
}

#[test]
fn every_runtime_answers_another_core() {
    check(Work::PingPong);
}

#[test]
fn every_runtime_gets_all_messages_of_several_cores() {
    check(Work::FanIn);
}

#[test]
fn every_runtime_is_woken_by_a_plain_thread() {
    check(Work::ForeignWake);
}
