//! Where the server says a request's time went: `Server-Timing`, as the gateway tells it.

use std::time::Duration;

/// What the time can have gone to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The server's own work.
    Own,
    /// The server had no place for it: it is its own lack, too.
    Queue,
    OpenAi,
    Google,
    /// The caller's own earlier request was under way.
    Turn,
    /// Units of a quota, or a place among the calls to an upstream.
    Quota,
    /// A read that was on its way for somebody else.
    Shared,
    /// Anything else that is told.
    Other,
}

impl Part {
    /// All, in the order of [`Spent::parts`].
    pub(super) const ALL: [Self; 8] = [
        Self::Own,
        Self::Queue,
        Self::OpenAi,
        Self::Google,
        Self::Turn,
        Self::Quota,
        Self::Shared,
        Self::Other,
    ];

    /// The metric's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Queue => "queue",
            Self::OpenAi => "openai",
            Self::Google => "google",
            Self::Turn => "turn",
            Self::Quota => "quota",
            Self::Shared => "shared",
            Self::Other => "other",
        }
    }

    fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|part| part.name() == name).unwrap_or(Self::Other)
    }

    /// Whether the server waited for others meanwhile.
    const fn is_others(self) -> bool {
        !matches!(self, Self::Own | Self::Queue)
    }
}

/// What the metrics of the field add up to, over all answers of a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) parts: [Duration; Part::ALL.len()],
}

impl Spent {
    /// Adds what one answer says; `false` when it does not say what its own time was.
    pub(super) fn add(&mut self, field: &str) -> bool {
        let mut is_told = false;
        for metric in field.split(',') {
            let mut parts = metric.split(';').map(str::trim);
            let part = Part::named(parts.next().unwrap_or_default());
            let told = parts.find_map(|part| part.strip_prefix("dur="));
            let told = told.and_then(|ms| ms.parse::<f64>().ok());
            let Some(took) = told.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok()) else { continue };
            is_told |= part == Part::Own;
            self.parts[part as usize] += took;
        }
        is_told
    }

    /// What the server waited for others.
    pub(super) fn others(&self) -> Duration {
        Part::ALL.into_iter().filter(|part| part.is_others()).map(|part| self.parts[part as usize]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_time_is_told_from_waiting() {
        let mut spent = Spent::default();
        assert!(spent.add("own;dur=1.234, openai;dur=200.007, google;dur=0.500"));
        assert!(spent.add(
            "google;desc=x;dur=1,own;dur=0.001, queue;dur=7, turn;dur=2, quota;dur=3, shared;dur=4, db;dur=5"
        ));
        let micros = Duration::from_micros;
        let parts = [1_235, 7_000, 200_007, 1_500, 2_000, 3_000, 4_000, 5_000];
        assert_eq!(spent, Spent { parts: parts.map(micros) });
        assert_eq!(spent.others(), micros(215_507), "all but its own time and its queue");
    }

    #[test]
    fn a_field_without_own_time_says_so() {
        for field in ["", "cache;dur=3", "own", "own;dur=x", "own;dur=-1", "own;dur=1e300"] {
            assert!(!Spent::default().add(field), "{field}");
        }
    }
}
