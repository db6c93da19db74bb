//! Line and bar charts as SVG text: axes with units, a legend, and a title on every
//! mark that a browser shows under the pointer. Colours come from the page's style.

use std::fmt::Write;

use sluice_protocols::markup::escape;

use super::format::short;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;
/// Ticks an axis has about.
const TICKS: f64 = 6.0;
/// Most points drawn of a line: more than the pixels it has say nothing.
const POINTS_MAX: usize = 600;
/// Marks are drawn where a line has at most this many points.
const MARKS_MAX: usize = 60;

/// How an axis counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten.
    Log,
    /// Percentiles: a value x stands for 1 - 1/x, drawn logarithmically.
    Percentile,
}

/// One axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) scale: Scale,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    /// Which of the page's colours, 1 to 4.
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart of lines.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    pub(super) title: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// Horizontal lines with a name each.
    pub(super) limits: Vec<(f64, String)>,
}

/// One bar; without a value its place stays empty and says so.
#[derive(Debug, Clone)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: Option<f64>,
    pub(super) label: String,
}

/// A chart of bars.
#[derive(Debug, Clone)]
pub(super) struct Bars {
    pub(super) title: &'static str,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) bars: Vec<Bar>,
}

/// An axis with its bounds, mapping values to places.
struct Mapped {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Mapped {
    fn new(scale: Scale, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let high = values.clone().fold(0.0, f64::max);
        match scale {
            Scale::Linear => {
                let step = step(high);
                let high = if high > 0.0 { (high / step).ceil() * step } else { 1.0 };
                Self { scale, low: 0.0, high, from, to }
            }
            Scale::Log | Scale::Percentile => {
                let low = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                let low = if low.is_finite() { low } else { 1.0 };
                let low = if scale == Scale::Percentile { 1.0 } else { down(low) };
                let high = if scale == Scale::Percentile { high.max(10.0) } else { up(high.max(low * 1.01)) };
                Self { scale, low, high, from, to }
            }
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            _ => (value.max(self.low) / self.low).log10() / (self.high / self.low).log10(),
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => {
                let step = step(self.high);
                let count = (self.high / step).round();
                let values = (0..100).map(f64::from).take_while(|n| *n <= count).map(|n| n * step);
                values.map(|value| (value, short(value))).collect()
            }
            Scale::Percentile => {
                let marks = [(1.0, "0 %"), (2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1e3, "99.9 %")];
                let rare = [(1e4, "99.99 %"), (1e5, "99.999 %"), (1e6, "99.9999 %")];
                let all = marks.into_iter().chain(rare).filter(|(value, _)| *value <= self.high * 1.001);
                all.map(|(value, text)| (value, text.to_owned())).collect()
            }
            Scale::Log => {
                let decades = (self.high / self.low).log10();
                let parts: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let first = 10f64.powf(self.low.log10().floor());
                let values = (0..20).flat_map(|n| parts.iter().map(move |part| first * 10f64.powi(n) * part));
                let inside = values.filter(|v| *v >= self.low * 0.999 && *v <= self.high * 1.001);
                inside.map(|value| (value, short(value))).collect()
            }
        }
    }
}

/// A step of 1, 2 or 5 times a power of ten that makes about [`TICKS`] ticks.
fn step(high: f64) -> f64 {
    if high <= 0.0 || !high.is_finite() {
        return 1.0;
    }
    let raw = high / TICKS;
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| raw <= factor * power * 1.000_001).unwrap_or(10.0);
    factor * power
}

/// The next 1, 2 or 5 times a power of ten below, and above.
fn down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [5.0, 2.0].into_iter().map(|factor| factor * power).find(|bound| *bound <= value).unwrap_or(power)
}

fn up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|f| f * power).find(|bound| *bound >= value).unwrap_or(power * 10.0)
}

impl Lines {
    /// The chart with its legend, or nothing when there is nothing to draw.
    pub(super) fn svg(&self) -> Option<String> {
        let all = self.series.iter().flat_map(|series| series.points.iter());
        all.clone().next()?;
        let x = Mapped::new(self.x.scale, all.clone().map(|point| point.0), LEFT, WIDTH - RIGHT);
        let limits = self.limits.iter().map(|limit| limit.0);
        let y = Mapped::new(self.y.scale, all.map(|point| point.1).chain(limits), HEIGHT - BOTTOM, TOP);
        let mut out = open(self.title);
        grid(&mut out, &y, self.y.label);
        for (value, text) in x.ticks() {
            x_tick(&mut out, x.at(value), &text);
        }
        x_label(&mut out, self.x.label);
        for (value, name) in &self.limits {
            let (at, right) = (y.at(*value), WIDTH - RIGHT);
            let _ =
                write!(out, r#"<line class="limit" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#);
            let _ = write!(
                out,
                r#"<text class="tick" text-anchor="end" x="{right}" y="{:.1}">{}</text>"#,
                at - 3.0,
                escape(name)
            );
        }
        for series in &self.series {
            line(&mut out, series, &x, &y, self);
        }
        out.push_str("</svg>");
        out.push_str(&legend(&self.series));
        Some(out)
    }
}

fn line(out: &mut String, series: &Series, x: &Mapped, y: &Mapped, chart: &Lines) {
    let points = thinned(&series.points);
    let place = |(px, py): (f64, f64)| (x.at(px), y.at(py));
    let path: Vec<_> =
        points.iter().map(|point| place(*point)).map(|(px, py)| format!("{px:.1},{py:.1}")).collect();
    let colour = series.colour;
    let _ = write!(out, r#"<polyline class="line c{colour}" points="{}"/>"#, path.join(" "));
    // Where marks would run into each other, they are there for the pointer only.
    let class = if points.len() > MARKS_MAX { "mark hidden" } else { "mark" };
    for point in &points {
        let (px, py) = place(*point);
        let shown = match chart.x.scale {
            Scale::Percentile => format!("{} %", super::format::digits((1.0 - 1.0 / point.0) * 100.0)),
            _ => short(point.0),
        };
        let _ = write!(
            out,
            r#"<circle class="{class} c{colour}" cx="{px:.1}" cy="{py:.1}" r="3"><title>{}: {} at {} ({} over {})</title></circle>"#,
            escape(&series.name),
            short(point.1),
            shown,
            escape(chart.y.label),
            escape(chart.x.label)
        );
    }
}

/// Fewer points of the same look: of each stretch the highest stays, so no peak is lost.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(POINTS_MAX).max(1);
    let highest = |part: &[(f64, f64)]| part.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(stretch).filter_map(highest).collect()
}

impl Bars {
    /// The chart, or nothing when there is nothing to draw.
    #[allow(clippy::cast_precision_loss, reason = "a few bars")]
    pub(super) fn svg(&self) -> Option<String> {
        self.bars.iter().find(|bar| bar.value.is_some())?;
        let values = self.bars.iter().filter_map(|bar| bar.value);
        let y = Mapped::new(Scale::Linear, values, HEIGHT - BOTTOM, TOP + 14.0);
        let mut out = open(self.title);
        grid(&mut out, &y, self.y);
        let slot = (WIDTH - LEFT - RIGHT) / self.bars.len() as f64;
        for (index, bar) in self.bars.iter().enumerate() {
            let middle = LEFT + slot * (index as f64 + 0.5);
            x_tick(&mut out, middle, &bar.name);
            let (top, bottom) = (y.at(bar.value.unwrap_or(0.0)), HEIGHT - BOTTOM);
            let width = (slot * 0.5).min(90.0);
            let _ = write!(
                out,
                r#"<rect class="bar c1" x="{:.1}" y="{top:.1}" width="{width:.1}" height="{:.1}" rx="2"><title>{}: {}</title></rect>"#,
                middle - width / 2.0,
                bottom - top,
                escape(&bar.name),
                escape(&bar.label)
            );
            let (at, label) = (top - 5.0, escape(&bar.label));
            let _ = write!(
                out,
                r#"<text class="value" text-anchor="middle" x="{middle:.1}" y="{at:.1}">{label}</text>"#
            );
        }
        x_label(&mut out, self.x);
        out.push_str("</svg>");
        Some(out)
    }
}

fn open(title: &str) -> String {
    let title = escape(title);
    format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"><title>{title}</title>"#)
}

/// Horizontal lines with the numbers of the vertical axis.
fn grid(out: &mut String, y: &Mapped, label: &str) {
    for (value, text) in y.ticks() {
        let (at, right) = (y.at(value), WIDTH - RIGHT);
        let _ = write!(out, r#"<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1}" y2="{at:.1}"/>"#);
        let (x, below) = (LEFT - 6.0, at + 4.0);
        let _ = write!(
            out,
            r#"<text class="tick" text-anchor="end" x="{x}" y="{below:.1}">{}</text>"#,
            escape(&text)
        );
    }
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    let label = escape(label);
    let _ = write!(
        out,
        r#"<text class="axis" text-anchor="middle" transform="translate(14,{middle}) rotate(-90)">{label}</text>"#
    );
}

fn x_tick(out: &mut String, at: f64, text: &str) {
    let (bottom, below) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 17.0);
    let _ =
        write!(out, r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{bottom}" y2="{}"/>"#, bottom + 4.0);
    let text = escape(text);
    let _ = write!(out, r#"<text class="tick" text-anchor="middle" x="{at:.1}" y="{below}">{text}</text>"#);
}

fn x_label(out: &mut String, label: &str) {
    let (middle, at) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 8.0);
    let label = escape(label);
    let _ = write!(out, r#"<text class="axis" text-anchor="middle" x="{middle}" y="{at}">{label}</text>"#);
}

fn legend(series: &[Series]) -> String {
    let keys = series
        .iter()
        .map(|series| format!(r#"<span><i class="c{}"></i>{}</span>"#, series.colour, escape(&series.name)));
    format!(r#"<p class="legend">{}</p>"#, keys.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let mapped = Mapped::new(Scale::Linear, [3.0, 0.0, 87.0].into_iter(), 0.0, 100.0);
        assert_eq!(mapped.high, 100.0);
        let ticks: Vec<_> = mapped.ticks().into_iter().map(|tick| tick.1).collect();
        assert_eq!(ticks, ["0", "20", "40", "60", "80", "100"]);
        let mapped = Mapped::new(Scale::Log, [0.3, 42.0].into_iter(), 0.0, 100.0);
        assert_eq!((mapped.low, mapped.high), (0.2, 50.0));
        assert_eq!(mapped.at(0.2), 0.0);
        assert_eq!(mapped.at(50.0), 100.0);
    }

    #[test]
    fn odd_values_stay_inside() {
        for values in [vec![0.0], vec![0.0, 0.0], vec![1e-9], vec![1e12, 1.0]] {
            for scale in [Scale::Linear, Scale::Log, Scale::Percentile] {
                let mapped = Mapped::new(scale, values.iter().copied(), 0.0, 100.0);
                assert!(mapped.ticks().len() < 100, "{scale:?} {values:?}");
                for value in &values {
                    assert!((0.0..=100.0).contains(&mapped.at(*value)), "{scale:?} {value}");
                }
            }
        }
    }

    #[test]
    fn thinning_keeps_every_peak() {
        let mut points: Vec<_> = (0..6_000).map(|n| (f64::from(n), 1.0)).collect();
        points[3_333].1 = 99.0;
        let few = thinned(&points);
        assert!(few.len() <= POINTS_MAX);
        assert!(few.contains(&(3_333.0, 99.0)));
    }
}
