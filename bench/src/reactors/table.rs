//! The matrix as it is printed.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Runtime, Work};

/// What one runtime needed for one kind of work.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// CPU time of the thread under test for one unit, in microseconds.
    pub cpu_us: f64,
    /// Units a second.
    pub per_s: f64,
    /// Units done.
    pub units: u64,
    /// Median latency in microseconds, where one is measured.
    pub p50_us: Option<f64>,
    /// 99th percentile of the same.
    pub p99_us: Option<f64>,
}

/// One runtime in one row.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Its name.
    pub runtime: &'static str,
    /// The median by CPU time of its runs, or why there is none.
    #[serde(serialize_with = "figures_or_reason", flatten)]
    pub result: Result<Figures, String>,
    /// The CPU time of the first runtime of the row divided by this one's.
    pub ratio: Option<f64>,
}

/// One kind of work.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its name.
    pub work: &'static str,
    /// What CPU time is given for.
    pub unit: &'static str,
    /// What the latency is.
    pub latency: Option<&'static str>,
    /// A cell a runtime.
    pub cells: Vec<Cell>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// What was measured, for the reader.
    pub about: String,
    /// A row a kind of work.
    pub rows: Vec<Row>,
}

fn figures_or_reason<S: Serializer>(
    result: &Result<Figures, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Cannot<'a> {
        cannot: &'a str,
    }
    match result {
        Ok(figures) => figures.serialize(serializer),
        Err(reason) => Cannot { cannot: reason }.serialize(serializer),
    }
}

impl Row {
    pub(super) fn new(
        work: Work,
        results: impl IntoIterator<Item = (Runtime, Vec<anyhow::Result<Figures>>)>,
    ) -> Self {
        let mut cells: Vec<Cell> = results
            .into_iter()
            .map(|(runtime, runs)| Cell { runtime: runtime.name(), result: median(runs), ratio: None })
            .collect();
        let base = cells.first().and_then(|cell| cell.result.as_ref().ok()).map(|figures| figures.cpu_us);
        for cell in cells.iter_mut().skip(1) {
            let Ok(figures) = &cell.result else { continue };
            cell.ratio = base.map(|base| base / figures.cpu_us);
        }
        Self { work: work.name(), unit: work.unit(), latency: work.latency(), cells }
    }
}

fn median(runs: Vec<anyhow::Result<Figures>>) -> Result<Figures, String> {
    let mut figures =
        runs.into_iter().collect::<anyhow::Result<Vec<_>>>().map_err(|error| format!("{error:#}"))?;
    figures.sort_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us));
    figures.get(figures.len() / 2).copied().ok_or_else(|| "not run".to_owned())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        for row in &self.rows {
            let latency = row.latency.map(|what| format!(", latency: {what}")).unwrap_or_default();
            writeln!(f, "\n{} (CPU for a {}{latency})", row.work, row.unit)?;
            writeln!(f, "  runtime          cpu us   ratio        per s    p50 us    p99 us")?;
            for cell in &row.cells {
                write!(f, "  {:<14}", cell.runtime)?;
                match &cell.result {
                    Err(reason) => writeln!(f, "  cannot: {reason}")?,
                    Ok(figures) => {
                        let or_dash = |value: Option<f64>, digits: usize| {
                            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
                        };
                        writeln!(
                            f,
                            " {:>8.3} {:>7} {:>12.0} {:>9} {:>9}",
                            figures.cpu_us,
                            or_dash(cell.ratio, 2),
                            figures.per_s,
                            or_dash(figures.p50_us, 1),
                            or_dash(figures.p99_us, 1),
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(cpu_us: f64) -> anyhow::Result<Figures> {
        Ok(Figures { cpu_us, per_s: 1e6, units: 10, p50_us: Some(1.0), p99_us: None })
    }

    #[test]
    fn the_median_counts_and_ratios_refer_to_the_first() {
        let row = Row::new(
            Work::Timers,
            [
                (Runtime::SluiceUring, vec![figures(3.0), figures(1.0), figures(2.0)]),
                (Runtime::Tokio, vec![figures(4.0)]),
                (Runtime::Glommio, vec![figures(1.0), Err(anyhow::anyhow!("no memory to lock"))]),
            ],
        );
        assert_eq!(row.cells[1].ratio, Some(0.5));
        assert_eq!(row.cells[2].result.as_ref().err().map(String::as_str), Some("no memory to lock"));
        let table = Table { about: "about".into(), rows: vec![row] };
        let json = serde_json::to_value(&table).unwrap();
        assert_eq!(json["rows"][0]["cells"][0]["cpu_us"], 2.0);
        assert_eq!(json["rows"][0]["cells"][2]["cannot"], "no memory to lock");
        assert!(table.to_string().contains("cannot: no memory to lock"));
    }
}
