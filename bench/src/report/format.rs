//! Numbers and names as they are shown.

/// A latency in microseconds, with the unit that reads best and three digits.
pub(crate) fn latency(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{} µs", digits(us)),
        us if us < 1e6 => format!("{} ms", digits(us / 1e3)),
        us => format!("{} s", digits(us / 1e6)),
    }
}

/// Three significant digits, no exponent.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 1.0 => format!("{value:.2}"),
        a if a >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// A whole number with its thousands set apart.
pub(crate) fn count(value: u64) -> String {
    let plain = value.to_string();
    let mut text = String::with_capacity(plain.len() + plain.len() / 3);
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Requests a second, as a whole number.
pub(crate) fn rate(value: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded on the line before")]
    let whole = value.clamp(0.0, 1e15).round() as u64;
    count(whole)
}

/// Bytes with a binary unit.
pub(crate) fn bytes(value: f64) -> String {
    match value.abs() {
        a if a < 1024.0 => format!("{value:.0} B"),
        a if a < 1024.0 * 1024.0 => format!("{} KiB", digits(value / 1024.0)),
        a if a < 1024.0 * 1024.0 * 1024.0 => format!("{} MiB", digits(value / 1024.0 / 1024.0)),
        _ => format!("{} GiB", digits(value / 1024.0 / 1024.0 / 1024.0)),
    }
}

/// A short number for an axis: 1500 is 1.5k.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        a if a >= 1e9 => (value / 1e9, "G"),
        a if a >= 1e6 => (value / 1e6, "M"),
        a if a >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    // Ten digits undo what binary fractions added; the zeros they leave say nothing.
    let text = format!("{scaled:.4}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A figure that may not have been measured.
pub(crate) fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".into())
}

/// CPU numbers, or that there are none.
pub(crate) fn cpus(cpus: &[usize]) -> String {
    if cpus.is_empty() {
        return "not pinned".into();
    }
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// The first few of many sentences, and how many are left out.
pub(crate) fn shown_signs(signs: &[String]) -> Vec<String> {
    const SHOWN_MAX: usize = 5;
    let mut shown: Vec<_> = signs.iter().take(SHOWN_MAX).cloned().collect();
    if signs.len() > SHOWN_MAX {
        shown.push(format!("and {} more, in the result file", signs.len() - SHOWN_MAX));
    }
    shown
}

/// Keeps control characters of foreign names away from the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            (latency(12.34), latency(1_234.0), latency(2e6)),
            ("12.3 µs".into(), "1.23 ms".into(), "2.00 s".into())
        );
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!(
            (short(0.1 + 0.2), short(1_500.0), short(2e6), short(10.0)),
            ("0.3".into(), "1.5k".into(), "2M".into(), "10".into())
        );
        assert_eq!((bytes(512.0), bytes(3.0 * 1024.0 * 1024.0)), ("512 B".into(), "3.00 MiB".into()));
    }

    #[test]
    fn many_sentences_are_cut_short_and_counted() {
        let signs: Vec<_> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(shown_signs(&signs[..5]), signs[..5]);
        assert_eq!(shown_signs(&signs).last().unwrap(), "and 2 more, in the result file");
    }

    #[test]
    fn foreign_names_say_nothing_to_the_terminal() {
        assert_eq!(printable("a\u{1b}[31m"), "a\u{fffd}[31m");
    }
}
