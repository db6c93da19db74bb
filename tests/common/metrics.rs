//! The metrics page, read from outside.

use std::time::Duration;

use super::Gateway;

/// One number of the page with its labels.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// A page as it was at one moment.
#[derive(Debug)]
pub struct Metrics {
    pub text: String,
    samples: Vec<Sample>,
}

impl Metrics {
    /// Reads the OpenMetrics text format, as far as the gateway writes it: no label holds a quote or a comma.
    pub fn parse(text: String) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(sample).collect();
        Self { text, samples }
    }

    /// The sum of all numbers of this name whose labels include these.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
        };
        let found: Vec<f64> = self.samples.iter().filter(fits).map(|sample| sample.value).collect();
        assert!(!found.is_empty(), "no {name} with {labels:?} on the page");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a short test")]
        let sum = found.iter().sum::<f64>() as u64;
        sum
    }

    /// The number of this name for one core, summed over its other labels.
    pub fn of_core(&self, name: &str, core: usize) -> u64 {
        self.sum(name, &[("core", &core.to_string())])
    }

    /// The number of this name and these labels for each core.
    pub fn by_core(&self, name: &str, labels: &[(&str, &str)], cores: usize) -> Vec<u64> {
        let of = |core: usize| self.sum(name, &[labels, &[("core", &*core.to_string())]].concat());
        (0..cores).map(of).collect()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a line of two parts: {line}"));
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter(|part| !part.is_empty()).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or_else(|| panic!("a label: {line}"));
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    let value = value.parse().unwrap_or_else(|_| panic!("a number: {line}"));
    Sample { name: name.to_owned(), labels: labels.collect(), value }
}

impl Gateway {
    /// `GET` on the administrative address: status, content type and body.
    pub async fn admin_get(&self, path: &str) -> (u16, String, String) {
        let response = reqwest::get(format!("{}{path}", self.metrics)).await.expect("the address answers");
        let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        (response.status().as_u16(), content_type, response.text().await.expect("a text"))
    }

    /// The metrics page now.
    pub async fn page(&self) -> Metrics {
        let (status, _, text) = self.admin_get("/metrics").await;
        assert_eq!(status, 200);
        Metrics::parse(text)
    }

    /// Waits until the page fulfils a condition; for what the gateway notes only after it has answered.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
        for _ in 0..2_000 {
            let page = self.page().await;
            if is_so(&page) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come to this: {what}");
    }
}
