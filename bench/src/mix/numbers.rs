//! A metrics page as numbers that can be taken from each other.

use std::collections::BTreeMap;

/// The numbers of a page, by name and labels as they stand there.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    /// Reads a page in the OpenMetrics text format; what is no number is left out.
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok().filter(|value: &f64| value.is_finite())?))
        });
        Self(pairs.collect())
    }

    /// What was added to each number since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let added = |(name, value): (&String, &f64)| {
            (name.clone(), value - before.0.get(name).copied().unwrap_or(0.0))
        };
        Self(self.0.iter().map(added).collect())
    }

    /// The sum of a counter over all its rows that have these labels, such as `kind="gmail"`.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters")]
    pub(crate) fn count(&self, name: &str, labels: &[&str]) -> u64 {
        let full = format!("sluice_{name}_total");
        let of = |row: &str| match row.split_once('{') {
            Some((found, rest)) => found == full && labels.iter().all(|label| rest.contains(label)),
            None => row == full && labels.is_empty(),
        };
        self.0.iter().filter(|(row, _)| of(row)).map(|(_, value)| *value).sum::<f64>().max(0.0).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE sluice_reads counter\n\
        sluice_reads_total{core=\"0\",kind=\"gmail\"} 3\nsluice_reads_total{core=\"1\",kind=\"gmail\"} 4\n\
        sluice_reads_total{core=\"0\",kind=\"drive\"} 10\nsluice_reads_more_total 7\nsluice_other_total NaN\n# EOF\n";

    #[test]
    fn rows_are_summed_by_label_and_taken_from_each_other() {
        let page = Numbers::read(PAGE);
        assert_eq!(page.count("reads", &["kind=\"gmail\""]), 7);
        assert_eq!(page.count("reads", &[]), 17);
        assert_eq!(
            (page.count("reads_more", &[]), page.count("other", &[]), page.count("none", &[])),
            (7, 0, 0)
        );
        let later = Numbers::read(&PAGE.replace(" 10\n", " 15\n"));
        assert_eq!(later.since(&page).count("reads", &[]), 5);
        // A row that is new counts from nothing.
        assert_eq!(later.since(&Numbers::default()).count("reads", &[]), 22);
    }
}
