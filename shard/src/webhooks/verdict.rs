//! What becomes of a message after an attempt, and when the next one is made. Pure: time and randomness are handed in.

use std::time::Duration;

use sluice_net::egress::{OutwardAnswer, OutwardError};
use sluice_protocols::api::{AttemptOutcome, WebhookEvent};

use super::config::WebhookConfig;

/// Each wait is at most so many times the one before.
const GROWTH: u32 = 4;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Delivered,
    /// It is sent again after this long.
    Again(Duration),
    GivenUp,
    /// It is given up, and so is the webhook.
    Gone,
}

impl Verdict {
    pub(super) fn outcome(self) -> AttemptOutcome {
        match self {
            Self::Delivered => AttemptOutcome::Delivered,
            Self::Again(_) => AttemptOutcome::Retrying,
            Self::GivenUp | Self::Gone => AttemptOutcome::GivenUp,
        }
    }
}

/// When messages are sent again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    attempts_max: u32,
    base: Duration,
    max: Duration,
}

impl Schedule {
    pub(super) fn new(config: &WebhookConfig) -> Self {
        Self { attempts_max: config.attempts_max, base: config.retry_base, max: config.retry_max }
    }

    /// Judges attempt `number` (from 1).
    pub(super) fn judge(
        self,
        event: WebhookEvent,
        number: u32,
        outcome: &Result<OutwardAnswer, OutwardError>,
        random: u64,
    ) -> Verdict {
        let asked = match outcome {
            Ok(OutwardAnswer { status: 200..300, .. }) => return Verdict::Delivered,
            Ok(OutwardAnswer { status: 410, .. }) => return Verdict::Gone,
            Ok(answer) => answer.retry_after,
            Err(_) => None,
        };
        // Whoever tries a webhook wants to know now.
        if number >= self.attempts_max || event == WebhookEvent::Ping {
            return Verdict::GivenUp;
        }
        Verdict::Again(self.wait(number, random, asked))
    }

    /// The wait after `number` failed attempts: drawn evenly from nothing to a ceiling that grows, and no less than what
    /// was asked for.
    fn wait(self, number: u32, random: u64, asked: Option<Duration>) -> Duration {
        match asked {
            // The draw comes on top, so that messages that were told the same spread out.
            Some(asked) => asked.saturating_add(draw(self.base, random)),
            None => draw(self.ceiling(number), random),
        }
    }

    fn ceiling(self, number: u32) -> Duration {
        self.base.saturating_mul(GROWTH.saturating_pow(number.saturating_sub(1))).min(self.max)
    }
}

fn draw(ceiling: Duration, random: u64) -> Duration {
    let millis = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX - 1);
    Duration::from_millis(random % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: WebhookEvent = WebhookEvent::TaskDone;

    fn schedule() -> Schedule {
        Schedule::new(&WebhookConfig::default())
    }

    fn answer(status: u16, retry_after_s: Option<u64>) -> Result<OutwardAnswer, OutwardError> {
        let retry_after = retry_after_s.map(Duration::from_secs);
        Ok(OutwardAnswer { status, retry_after })
    }

    #[test]
    fn the_schedule_is_the_one_the_documents_state() {
        let ceilings: Vec<u64> = (1..10).map(|number| schedule().ceiling(number).as_secs()).collect();
        assert_eq!(ceilings, [5, 20, 80, 320, 1_280, 5_120, 20_480, 28_800, 28_800]);
        assert!(ceilings.iter().sum::<u64>() < 24 * 60 * 60);
        assert_eq!(schedule().ceiling(u32::MAX), Duration::from_secs(28_800));
    }

    #[test]
    fn a_wait_covers_the_whole_range() {
        let second = |random| schedule().wait(1, random, None).as_millis();
        assert_eq!((second(0), second(5_000), second(5_001)), (0, 5_000, 0));
    }

    #[test]
    fn any_2xx_is_a_success_and_everything_else_is_tried_again() {
        for status in [200, 202, 204, 299] {
            assert_eq!(schedule().judge(TOLD, 1, &answer(status, None), 0), Verdict::Delivered, "{status}");
        }
        let again = Verdict::Again(Duration::ZERO);
        for status in [100, 199, 300, 301, 302, 307, 400, 401, 404, 429, 500, 503] {
            assert_eq!(schedule().judge(TOLD, 1, &answer(status, None), 0), again, "{status}");
        }
        for error in [OutwardError::Forbidden, OutwardError::NoConnection, OutwardError::TimedOut] {
            assert_eq!(schedule().judge(TOLD, 9, &Err(error), 0), again);
            assert_eq!(schedule().judge(TOLD, 10, &Err(error), 0), Verdict::GivenUp);
        }
    }

    #[test]
    fn who_is_gone_is_not_asked_again() {
        assert_eq!(schedule().judge(TOLD, 1, &answer(410, None), 0), Verdict::Gone);
    }

    #[test]
    fn a_wait_that_was_asked_for_is_never_cut_short() {
        for random in [0, 1, u64::MAX / 3, u64::MAX] {
            let Verdict::Again(wait) = schedule().judge(TOLD, 1, &answer(429, Some(3_600)), random) else {
                panic!("it is tried again")
            };
            assert!((3_600..=3_605).contains(&wait.as_secs()), "{wait:?}");
        }
    }

    #[test]
    fn a_ping_is_sent_once() {
        assert_eq!(schedule().judge(WebhookEvent::Ping, 1, &answer(500, None), 0), Verdict::GivenUp);
        assert_eq!(schedule().judge(WebhookEvent::Ping, 1, &answer(204, None), 0), Verdict::Delivered);
    }
}
