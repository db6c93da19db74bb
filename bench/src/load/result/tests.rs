//! What is kept in a file, and a fixed result that the reports are tested with.

use super::*;

/// A result with every part filled, the same each time.
pub(crate) fn example() -> LoadResult {
    let mut histogram = Histogram::<u64>::new_with_max(60_000_000_000, 3).unwrap();
    let mut waited = histogram.clone();
    for n in 1..=10_000u64 {
        histogram.record(100_000 + n * 50).unwrap();
        waited.record(150_000 + n * n * 3).unwrap();
    }
    let latency = Latencies::of(&waited, &histogram);
    let seconds = (0..10u32)
        .map(|at_s| Second {
            at_s,
            intended: 1000,
            completed: 990 + u64::from(at_s),
            errors: u64::from(at_s == 4),
            dropped: u64::from(at_s == 5) * 9,
            p50_us: 300.0 + f64::from(at_s),
            p99_us: 900.0 + 100.0 * f64::from(at_s),
            max_us: 2500.0,
            server_cpu_us: Some(2.5),
        })
        .collect();
    let step = |rate: f64, p99_us: f64| Step {
        rate_per_s: rate,
        requests_per_s: rate,
        p50_us: p99_us / 4.0,
        p99_us,
        p999_us: p99_us * 2.0,
        server_cpu_us: Some(2.0),
        lost: 0,
        client_busy: 0.5,
    };
    LoadResult {
        format: FORMAT.into(),
        run: RunInfo {
            command: ["sluice-bench", "load", "--rate", "1000"].map(String::from).to_vec(),
            started_at: "2026-01-02T03:04:05Z".into(),
            duration_s: 10.0,
            warmup_s: 1.0,
            profile: "steps".into(),
            protocol: "h3".into(),
            mode: "open".into(),
            mix: "standard".into(),
            target: "https://127.0.0.1:4433".into(),
            connections: 16,
            users: 1000,
            threads: 1,
        },
        machine: Machine {
            cpu_model: "Example <CPU> & co".into(),
            cpus: 2,
            kernel: "6.1.0".into(),
            arch: "x86_64".into(),
            memory_bytes: 8 << 30,
            governor: String::new(),
            is_virtual: true,
        },
        build: Build {
            version: "0.1.0".into(),
            commit: Some("0123456789ab".into()),
            rustc: "rustc 1.95.0".into(),
            profile: "release, opt-level 3".into(),
        },
        pinning: Pinning { client_cpus: vec![1], server_cpus: vec![0] },
        stalls: Some(Stalls { over_1ms: 2, longest_us: 1_500.0, ..Stalls::default() }),
        totals: Totals {
            saturated: 0,
            intended: 10_000,
            started: 9_991,
            completed: 9_990,
            dropped: 9,
            errors: 1,
            requests_per_s: 999.0,
            connections: 16,
            first_error: Some("status 503 for GET /a?b=<c>&d".into()),
        },
        latency: latency.clone(),
        cpu: Cpu {
            server_us_per_request: Some(2.5),
            client_us_per_request: 4.25,
            server_busy: Some(0.3),
            client_busy: 0.4,
        },
        scenarios: vec![
            Scenario {
                name: "intent".into(),
                weight: 50.0,
                requests: 6_000,
                errors: 1,
                statuses: [(200, 6_000), (503, 1)].into(),
                failures: BTreeMap::new(),
                latency: latency.clone(),
                own: Some(latency.corrected.clone()),
                beside_upstream: None,
                spent: BTreeMap::new(),
            },
            Scenario {
                name: "<script>alert(\"x\")</script> & 'more'".into(),
                weight: 30.0,
                requests: 3_990,
                latency: latency.clone(),
                ..Scenario::default()
            },
        ],
        seconds,
        memory: Some(Memory::of(vec![(0.0, 100 << 20), (5.0, 101 << 20), (10.0, 102 << 20)])),
        steps: vec![step(1e3, 400.0), step(2e3, 900.0), step(4e3, 4_000.0), step(8e3, 45_000.0)],
        frontier: [(1.0, Some(2e3)), (5.0, Some(4e3)), (10.0, None), (50.0, Some(8e3))]
            .map(|(limit, rate)| FrontierPoint {
                p99_limit_ms: limit,
                requests_per_s: rate,
                p99_us: rate.map(|_| limit * 900.0),
                server_cpu_us: rate.map(|_| 2.0),
                is_lower_bound: limit > 20.0,
            })
            .to_vec(),
        levels: [20.0, 50.0, 80.0]
            .map(|percent| Level {
                percent,
                requests_per_s: percent * 80.0,
                latency: Latency { p50_us: percent * 4.0, p99_us: percent * 20.0, ..Latency::default() },
                server_cpu_us: Some(2.0),
            })
            .to_vec(),
        handshakes: vec![Handshake {
            kind: "resumed".into(),
            count: 12,
            failed: 1,
            fallbacks: 2,
            connect: latency.corrected.clone(),
            first_answer: latency.corrected,
        }],
        client_limited: ClientLimited { limited: false, evidence: vec!["client 40 % busy".into()] },
        thresholds: vec![
            Threshold { expression: "p99<5ms".into(), value: Some(0.297), passed: true },
            Threshold { expression: "errors<1".into(), value: Some(1.0), passed: false },
        ],
    }
}

#[test]
fn a_result_survives_its_file() {
    let result = example();
    let read = LoadResult::from_json(&result.to_json()).unwrap();
    assert_eq!(read, result);
    assert!(!read.passed());
}

#[test]
fn files_that_are_no_results_are_refused_with_the_reason() {
    let refused = |text: &str| LoadResult::from_json(text).unwrap_err().to_string();
    assert!(refused("{").contains("not a readable result"));
    assert!(refused("[]").contains("no \"format\""));
    assert!(refused(r#"{"format":"sluice-load/9"}"#).contains("sluice-load/9"));
    assert!(refused(r#"{"format":"sluice-load/1"}"#).contains("missing field"));
    let mut result = example();
    result.latency.corrected.buckets_ns.swap(0, 1);
    assert!(refused(&result.to_json()).contains("ascending"));
}

#[test]
fn fields_added_later_do_not_hide_older_ones() {
    let mut value = serde_json::to_value(example()).unwrap();
    value["something_new"] = 7.into();
    value.as_object_mut().unwrap().remove("handshakes");
    let read = LoadResult::from_json(&value.to_string()).unwrap();
    assert!(read.handshakes.is_empty());
    assert_eq!(read.totals, example().totals);
}

#[test]
fn percentiles_and_buckets_agree_with_the_histogram() {
    let latency = example().latency.uncorrected;
    assert_eq!(latency.count, 10_000);
    assert!((latency.p50_us - 350.0).abs() < 0.5, "{}", latency.p50_us);
    assert!((latency.p99_us - 595.0).abs() < 0.5, "{}", latency.p99_us);
    assert_eq!(latency.buckets_ns.iter().map(|(_, count)| count).sum::<u64>(), 10_000);
    assert_eq!(Latency::of(&Histogram::<u64>::new(3).unwrap()), Latency::default());
}

#[test]
fn memory_that_grows_has_a_slope() {
    let grows = Memory::of((0..60).map(|s| (f64::from(s), 1_000_000 + 100 * s as u64)).collect());
    assert!((grows.slope_bytes_per_min - 6_000.0).abs() < 1e-6);
    assert!(grows.slope_ci95_bytes_per_min.unwrap() < 1e-3, "it grows evenly");
    assert_eq!(Memory::of(vec![(0.0, 5)]).slope_bytes_per_min, 0.0);
    assert_eq!(Memory::of(vec![]).slope_bytes_per_min, 0.0);
}

#[test]
fn a_slope_in_noise_says_how_sure_it_is() {
    // By hand, with three degrees of freedom: t is 3.182.
    let samples: Vec<(f64, u64)> =
        [100, 200, 100, 200, 100].iter().zip(0u32..).map(|(b, s)| (f64::from(s), *b)).collect();
    let memory = Memory::of(samples);
    // Mean 140, slope 0, sum of squared residuals 12,000, sum of squared times 10.
    let expected = 3.182 * (12_000.0f64 / 3.0 / 10.0).sqrt() * 60.0;
    assert!(memory.slope_bytes_per_min.abs() < 1e-9);
    let found = memory.slope_ci95_bytes_per_min.unwrap();
    assert!((found / expected - 1.0).abs() < 0.04, "{found} for {expected}");
    assert_eq!(Memory::of(vec![(0.0, 5), (1.0, 6)]).slope_ci95_bytes_per_min, None);
}
