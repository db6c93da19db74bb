//! The percentile file of HdrHistogram (`.hgrm`), which the usual plotters read:
//! value, percentile, count up to there, and 1/(1-percentile), in milliseconds.

use std::fmt::Write;

use crate::load::result::Latency;

/// Lines for each halving of the distance to 100 %, as the reference does.
const TICKS_PER_HALF_DISTANCE: f64 = 5.0;
/// Values are written in this unit.
const NANOS_PER_UNIT: f64 = 1e6;

/// The file's text; values in milliseconds.
#[allow(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^53")]
pub fn write(latency: &Latency) -> String {
    let mut out =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let total: u64 = latency.buckets_ns.iter().map(|(_, count)| count).sum();
    let mut level = 0.0f64;
    let mut up_to = 0u64;
    let mut last = 0.0;
    for (nanos, count) in &latency.buckets_ns {
        up_to += count;
        last = *nanos as f64 / NANOS_PER_UNIT;
        // The last bucket ends it, whatever level was next.
        while up_to as f64 / total as f64 >= level {
            let inverse = 1.0 / (1.0 - level);
            let _ = writeln!(out, "{last:>12.3} {level:.12} {up_to:>10} {inverse:>14.2}");
            if up_to == total {
                break;
            }
            let halvings = inverse.log2().floor();
            level += 1.0 / (TICKS_PER_HALF_DISTANCE * (halvings + 1.0).exp2());
        }
    }
    if total > 0 {
        let _ = writeln!(out, "{last:>12.3} {:.12} {total:>10}", 1.0);
    }
    let (mean, deviation, max) = (latency.mean_us / 1e3, latency.stdev_us / 1e3, latency.max_us / 1e3);
    let _ = writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]");
    let _ = writeln!(out, "#[Max     = {max:>12.3}, Total count    = {total:>12}]");
    let buckets = latency.buckets_ns.len();
    let _ = writeln!(out, "#[Buckets = {buckets:>12}, SubBuckets     = {:>12}]", 2048);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::result::tests::example;

    /// What a plotter takes from a file.
    fn read(text: &str) -> Vec<(f64, f64, u64)> {
        let mut lines = text.lines();
        let header: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        assert_eq!(header, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let rows = lines.filter(|line| !line.starts_with('#')).map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            assert!(columns.len() == 4 || (columns.len() == 3 && columns[1].starts_with("1.0")), "{line}");
            if let Some(inverse) = columns.get(3) {
                let (inverse, percentile): (f64, f64) =
                    (inverse.parse().unwrap(), columns[1].parse().unwrap());
                assert!((1.0 / (1.0 - percentile) / inverse - 1.0).abs() < 0.01, "{line}");
            }
            (columns[0].parse().unwrap(), columns[1].parse().unwrap(), columns[2].parse().unwrap())
        });
        rows.collect()
    }

    #[test]
    fn the_file_is_read_back_with_the_same_percentiles() {
        let latency = example().latency.uncorrected;
        let text = write(&latency);
        let rows = read(&text);
        assert!(rows.windows(2).all(|w| w[0].0 <= w[1].0 && w[0].1 < w[1].1 && w[0].2 <= w[1].2), "{text}");
        let at = |percentile: f64| rows.iter().find(|row| row.1 >= percentile).unwrap().0 * 1e3;
        assert!((at(0.5) - latency.p50_us).abs() < 5.0, "{} {}", at(0.5), latency.p50_us);
        assert!((at(0.99) - latency.p99_us).abs() < 5.0, "{} {}", at(0.99), latency.p99_us);
        let last = rows.last().unwrap();
        assert_eq!((last.1, last.2), (1.0, 10_000));
        assert!(text.contains("#[Mean    =        0.350, StdDeviation   ="), "{text}");
        assert!(text.contains("Total count    =        10000]"), "{text}");
    }

    #[test]
    fn a_run_without_answers_still_makes_a_readable_file() {
        assert!(read(&write(&Latency::default())).is_empty());
    }
}
