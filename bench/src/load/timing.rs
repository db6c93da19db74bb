//! Where the server says a request's time went: `Server-Timing`, as the gateway tells it.

use std::time::Duration;

/// What the metrics of the field add up to, over all answers of a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// The server's own: the metric `own`.
    pub(super) own: Duration,
    /// What it waited for others: all other metrics.
    pub(super) upstream: Duration,
}

impl Spent {
    /// Adds what one answer says; `false` when it does not say what its own time was.
    pub(super) fn add(&mut self, field: &str) -> bool {
        let mut is_told = false;
        for metric in field.split(',') {
            let mut parts = metric.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let told = parts.find_map(|part| part.strip_prefix("dur="));
            let told = told.and_then(|ms| ms.parse::<f64>().ok());
            let Some(took) = told.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()) else { continue };
            if name == "own" {
                is_told = true;
                self.own += took;
            } else {
                self.upstream += took;
            }
        }
        is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_time_is_told_from_waiting() {
        let mut spent = Spent::default();
        assert!(spent.add("own;dur=1.234, openai;dur=200.007, google;dur=0.500"));
        assert!(spent.add("google;desc=x;dur=1,own;dur=0.001"));
        let micros = Duration::from_micros;
        assert_eq!(spent, Spent { own: micros(1_235), upstream: micros(201_507) });
    }

    #[test]
    fn a_field_without_own_time_says_so() {
        for field in ["", "cache;dur=3", "own", "own;dur=x", "own;dur=-1", "own;dur=1e300"] {
            assert!(!Spent::default().add(field), "{field}");
        }
    }
}
