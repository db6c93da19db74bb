//! Conditions on a result, such as `p99<10ms`, that decide the exit status.

use std::str::FromStr;

use anyhow::{Context, bail, ensure};

use super::result::{Latency, LoadResult, Threshold};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Metric {
    /// Per cent, or infinity for the largest value.
    Percentile(f64),
    Mean,
    Errors,
    Dropped,
    /// Completed requests a second.
    Rate,
    /// The server's CPU time a request.
    Cpu,
    /// The server's memory, a minute.
    MemorySlope,
    Stalls,
    ClientBusy,
}

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Unit {
    /// A plain number.
    Count,
    /// Of all intended requests (or of the time, for a share of it).
    Percent,
    /// This many microseconds.
    Micros(f64),
    /// This many bytes.
    Bytes(f64),
}

/// A parsed condition: `[SCENARIO:]METRIC(<|<=|>|>=)NUMBER[UNIT]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    text: String,
    scenario: Option<String>,
    metric: Metric,
    is_upper: bool,
    is_strict: bool,
    bound: f64,
    unit: Unit,
}

impl FromStr for Condition {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Self::parse(text).with_context(|| format!("threshold {text:?}"))
    }
}

impl Condition {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let at = text.find(['<', '>']).context("there is no < or >")?;
        let (left, right) = text.split_at(at);
        let is_upper = right.starts_with('<');
        let right = &right[1..];
        let (is_strict, right) = match right.strip_prefix('=') {
            Some(rest) => (false, rest),
            None => (true, right),
        };
        let (scenario, name) = match left.split_once(':') {
            Some((scenario, name)) => (Some(scenario.trim().to_owned()), name.trim()),
            None => (None, left.trim()),
        };
        let metric = metric(name)?;
        ensure!(
            scenario.is_none() || matches!(metric, Metric::Percentile(_) | Metric::Mean | Metric::Errors),
            "{name} is not counted by scenario"
        );
        let right = right.trim();
        let end = right.find(|c: char| !(c.is_ascii_digit() || ".+-e".contains(c))).unwrap_or(right.len());
        let (number, unit) = right.split_at(end);
        let bound: f64 = number.parse().with_context(|| format!("{number:?} is no number"))?;
        ensure!(bound.is_finite(), "{number:?} is no number");
        let unit = unit_of(unit.trim(), metric)?;
        Ok(Self { text: text.to_owned(), scenario, metric, is_upper, is_strict, bound, unit })
    }

    /// The name of the scenario it is about, if it is about one.
    pub(super) fn scenario(&self) -> Option<&str> {
        self.scenario.as_deref()
    }

    /// Holds it against a result. What was not measured does not pass.
    pub(super) fn judge(&self, result: &LoadResult) -> Threshold {
        let value = self.value(result);
        let passed = value.is_some_and(|value| match (self.is_upper, self.is_strict) {
            (true, true) => value < self.bound,
            (true, false) => value <= self.bound,
            (false, true) => value > self.bound,
            (false, false) => value >= self.bound,
        });
        Threshold { expression: self.text.clone(), value, passed }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn value(&self, result: &LoadResult) -> Option<f64> {
        let scenario = match &self.scenario {
            Some(name) => Some(result.scenarios.iter().find(|scenario| scenario.name == *name)?),
            None => None,
        };
        let latency = scenario.map_or(&result.latency.corrected, |scenario| &scenario.latency.corrected);
        let totals = &result.totals;
        let of_all = |count: u64, all: u64| match self.unit {
            Unit::Percent => (all > 0).then(|| count as f64 / all as f64 * 100.0),
            _ => Some(count as f64),
        };
        let in_unit = |value: f64| match self.unit {
            Unit::Micros(unit) | Unit::Bytes(unit) => value / unit,
            Unit::Percent => value * 100.0,
            Unit::Count => value,
        };
        match self.metric {
            Metric::Percentile(percent) => percentile_us(latency, percent).map(in_unit),
            Metric::Mean => (latency.count > 0).then(|| in_unit(latency.mean_us)),
            Metric::Errors => match scenario {
                Some(scenario) => of_all(scenario.errors, scenario.errors + scenario.requests),
                None => of_all(totals.errors, totals.intended),
            },
            Metric::Dropped => of_all(totals.dropped, totals.intended),
            Metric::Rate => Some(totals.requests_per_s),
            Metric::Cpu => result.cpu.server_us_per_request.map(in_unit),
            Metric::MemorySlope => result.memory.as_ref().map(|memory| in_unit(memory.slope_bytes_per_min)),
            Metric::Stalls => result.stalls.as_ref().map(|stalls| stalls.over_1ms as f64),
            Metric::ClientBusy => Some(in_unit(result.cpu.client_busy)),
        }
    }
}

fn metric(name: &str) -> anyhow::Result<Metric> {
    Ok(match name {
        "max" => Metric::Percentile(f64::INFINITY),
        "mean" => Metric::Mean,
        "errors" => Metric::Errors,
        "dropped" => Metric::Dropped,
        "rate" => Metric::Rate,
        "cpu" => Metric::Cpu,
        "memory-slope" => Metric::MemorySlope,
        "stalls" => Metric::Stalls,
        "client-busy" => Metric::ClientBusy,
        _ => {
            let percent = name.strip_prefix('p').and_then(|rest| rest.parse::<f64>().ok());
            match percent {
                Some(percent) if percent > 0.0 && percent <= 100.0 => Metric::Percentile(percent),
                _ => bail!(
                    "{name:?} is none of pNN, mean, max, errors, dropped, rate, cpu, memory-slope, stalls, \
                     client-busy"
                ),
            }
        }
    })
}

fn unit_of(text: &str, metric: Metric) -> anyhow::Result<Unit> {
    let time = match text {
        "us" | "µs" => Some(1.0),
        "ms" => Some(1e3),
        "s" => Some(1e6),
        _ => None,
    };
    let bytes = match text {
        "B" | "B/min" => Some(1.0),
        "KB" | "KB/min" => Some(1e3),
        "MB" | "MB/min" => Some(1e6),
        _ => None,
    };
    let unit = match metric {
        Metric::Percentile(_) | Metric::Mean | Metric::Cpu => time.map(Unit::Micros),
        Metric::MemorySlope => bytes.map(Unit::Bytes),
        Metric::Errors | Metric::Dropped if text == "%" => Some(Unit::Percent),
        Metric::ClientBusy if text == "%" => Some(Unit::Percent),
        Metric::Rate if text == "/s" => Some(Unit::Count),
        Metric::Errors | Metric::Dropped | Metric::Rate | Metric::Stalls if text.is_empty() => {
            Some(Unit::Count)
        }
        _ => None,
    };
    unit.with_context(|| format!("{text:?} is no unit for it (us, ms, s; %; KB/min, MB/min; /s or none)"))
}

/// A percentile of the whole distribution: the highest value of the bucket it falls into.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
pub(super) fn percentile_us(latency: &Latency, percent: f64) -> Option<f64> {
    if latency.count == 0 {
        return None;
    }
    if percent > 100.0 {
        return Some(latency.max_us);
    }
    let wanted = (percent / 100.0 * latency.count as f64).ceil().max(1.0);
    let mut seen = 0.0;
    for (value, count) in &latency.buckets_ns {
        seen += *count as f64;
        if seen >= wanted {
            return Some(*value as f64 / 1e3);
        }
    }
    Some(latency.max_us)
}

#[cfg(test)]
mod tests {
    use super::super::record::histogram;
    use super::super::result::{Memory, Scenario};
    use super::*;

    fn result() -> LoadResult {
        let mut latencies = histogram();
        for ms in 1..=1_000 {
            latencies.record(ms * 1_000_000).unwrap();
        }
        let mut result = LoadResult::default();
        result.latency.corrected = Latency::of(&latencies);
        (result.totals.intended, result.totals.errors, result.totals.requests_per_s) = (2_000, 3, 812.5);
        result.memory = Some(Memory { slope_bytes_per_min: 12_000.0, ..Memory::default() });
        let mut drive = Scenario { name: "drive".into(), requests: 9, errors: 1, ..Scenario::default() };
        drive.latency.corrected = Latency { count: 1, mean_us: 5.0, max_us: 5.0, ..Latency::default() };
        result.scenarios = vec![drive];
        result
    }

    fn judge(text: &str) -> (Option<f64>, bool) {
        let threshold = text.parse::<Condition>().unwrap().judge(&result());
        (threshold.value.map(|value| (value * 10.0).round() / 10.0), threshold.passed)
    }

    #[test]
    fn conditions_are_judged_in_their_own_unit() {
        assert!(judge("p50<501ms").1);
        assert!(!judge("p50<500ms").1);
        assert!(!judge("p99<900ms").1);
        assert_eq!(judge("p99.9 <= 1.1 s"), (Some(1.0), true));
        assert!(!judge("max<1s").1);
        assert!(judge("mean>400000us").1);
        assert_eq!(judge("errors<0.2%"), (Some(0.2), true));
        assert_eq!(judge("errors<3"), (Some(3.0), false));
        assert_eq!(judge("errors<=3"), (Some(3.0), true));
        assert_eq!(judge("dropped<=0"), (Some(0.0), true));
        assert_eq!(judge("rate>800/s"), (Some(812.5), true));
        assert_eq!(judge("memory-slope<10KB/min"), (Some(12.0), false));
        assert_eq!(judge("drive:mean<6us"), (Some(5.0), true));
        assert_eq!(judge("drive:errors<5%"), (Some(10.0), false));
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        assert_eq!(judge("cpu<1s"), (None, false));
        assert_eq!(judge("stalls<1"), (None, false));
        assert_eq!(judge("stalls>=0"), (None, false));
        assert_eq!(judge("nobody:p99<1s"), (None, false));
        let nothing = "p99<1s".parse::<Condition>().unwrap().judge(&LoadResult::default());
        assert!(!nothing.passed, "no answer at all is no low latency");
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "",
            "p99",
            "p99=5ms",
            "p99<",
            "p99<5",
            "p99<5%",
            "p0<5ms",
            "p101<5ms",
            "errors<5ms",
            "speed<5ms",
            "rate>5%",
            "drive:rate>5",
            "p99<ms",
            "p99<infms",
            "memory-slope<5",
        ] {
            assert!(text.parse::<Condition>().is_err(), "{text:?} was taken");
        }
    }
}
