//! One call to an upstream, through the broker: units and places first, limits and failures learned from what comes
//! back, and repeats for what may be repeated.
//!
//! Invariants:
//! - Every attempt that may reach the upstream has paid for itself.
//! - A call that must not be done twice leaves once.
//! - A read that is slow for its kind may be asked for twice at once, never more often, and never one whose answer comes in
//!   pieces; the copy that is not needed any more is given up.
//! - An answer in pieces keeps its place among the calls under way until its last piece.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use sluice_net::egress::{AnswerBody, EgressError, EgressRequest, EgressResponse, Retry};

use super::meter::{Meter, Under, Wait};
use crate::env::Env;
use crate::quota::{Ask, Class, Denied, Operation, Permit, Verdict, retry_wait};

/// A call that was given up after less than this without an answer says nothing about its upstream.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a call brought no answer.
#[derive(Clone, Debug)]
pub(crate) enum Unanswered {
    /// It was not made.
    Denied(Denied),
    /// It was, or there was no way to.
    Lost(EgressError),
}

impl From<Denied> for Unanswered {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Full => Self::Lost(EgressError::Overloaded),
            Denied::Late => Self::Lost(EgressError::DeadlineExceeded { sent: false }),
            Denied::Limited(_) | Denied::Open(_) | Denied::Crowded => Self::Denied(denied),
        }
    }
}

/// Whom an answer limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    Nobody,
    /// The user alone.
    User,
    /// All of us.
    Project,
}

/// What an answer means for calls to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged {
    /// Whether the same call may succeed later.
    pub(crate) is_passing: bool,
    /// Whether it says that the service fails.
    pub(crate) is_failure: bool,
    pub(crate) limited: Limited,
    /// How long to wait.
    pub(crate) wait: Option<Duration>,
    /// What it took, where that is known.
    pub(crate) tokens: Option<u64>,
}

impl Judged {
    /// An answer that is just that.
    pub(crate) const fn good() -> Self {
        Self { is_passing: false, is_failure: false, limited: Limited::Nobody, wait: None, tokens: None }
    }
}

/// A call.
pub(crate) struct Outgoing<'a> {
    pub(crate) env: &'a Env,
    /// `request.retry` says whether it may be repeated, `request.deadline` until when.
    pub(crate) request: EgressRequest,
    pub(crate) class: Class,
    pub(crate) operation: Operation,
    /// Whether a second copy of it may be made when it is slow.
    pub(crate) is_hedged: bool,
    pub(crate) ask: Ask,
    pub(crate) judge: &'a dyn Fn(&EgressResponse) -> Judged,
    /// Where it is told what is waited for, and whose answer that is; `None` where nobody asks.
    pub(crate) told: Option<(&'a Meter, Wait)>,
}

/// How it ended, and how many attempts it took.
pub(crate) struct Ended {
    pub(crate) answer: Result<EgressResponse, Unanswered>,
    pub(crate) attempts: u32,
    /// The place of a call whose answer comes in pieces: to be kept until they have ended.
    pub(crate) place: Option<Permit>,
}

impl Outgoing<'_> {
    /// Makes the call.
    pub(crate) async fn run(self) -> Ended {
        let Outgoing { env, mut request, class, operation, is_hedged, ask, judge, told } = self;
        let is_repeatable = request.retry == Retry::Safe;
        if is_repeatable {
            // Each repeat pays for itself, so it comes back here.
            request.retry = Retry::ByCaller;
        }
        let is_hedged = is_hedged && is_repeatable && matches!(request.answer, AnswerBody::Whole);
        let request = Arc::new(request);
        let kind = (class, operation);
        Attempts { env, request, is_repeatable, kind, is_hedged, ask, judge, told }.run().await
    }
}

/// A call being made, as often as it takes.
struct Attempts<'a> {
    env: &'a Env,
    /// Shared with the egress pool, so that repeating it costs no copy.
    request: Arc<EgressRequest>,
    is_repeatable: bool,
    kind: (Class, Operation),
    is_hedged: bool,
    ask: Ask,
    judge: &'a dyn Fn(&EgressResponse) -> Judged,
    told: Option<(&'a Meter, Wait)>,
}

/// What one attempt came to.
struct Attempt {
    answer: Result<EgressResponse, Unanswered>,
    /// How to wait, when another attempt may help.
    again: Option<Again>,
    place: Option<Permit>,
}

impl Attempt {
    fn is_good(&self) -> bool {
        self.answer.is_ok() && self.again.is_none()
    }
}

impl Attempts<'_> {
    async fn run(self) -> Ended {
        let limits = self.env.broker.quotas().config().retry;
        self.env.broker.count_call(self.request.upstream);
        let (mut attempts, mut repeats) = (0, 0);
        loop {
            let Attempt { answer, again, place } = self.attempt(&mut attempts).await;
            let Some(wait) = again else { return Ended { answer, attempts, place } };
            let lot = getrandom::u32().unwrap_or(u32::MAX);
            let until = sluice_core::now() + retry_wait(&limits, repeats, wait.asked, lot);
            repeats += 1;
            let goes_on = repeats < limits.attempts_max
                && until < self.request.deadline
                && self.env.broker.may_retry(self.request.upstream);
            if !goes_on {
                return Ended { answer, attempts, place };
            }
            // It is the upstream that makes us wait.
            let _waiting = self.waiting_for_answer();
            sluice_core::sleep_until(until).await;
        }
    }

    fn waiting_for_answer(&self) -> Option<Under<'_>> {
        self.told.map(|(meter, wait)| meter.begin(wait))
    }

    async fn enter(&self) -> Result<Permit, Denied> {
        let (upstream, deadline) = (self.request.upstream, self.request.deadline);
        let entered = self.env.broker.enter(upstream, self.kind, self.ask, deadline);
        match self.told {
            Some((meter, _)) => meter.during(Wait::Quota, entered).await,
            None => entered.await,
        }
    }

    async fn attempt(&self, attempts: &mut u32) -> Attempt {
        let permit = match self.enter().await {
            Ok(permit) => permit,
            Err(denied) => return Attempt { answer: Err(denied.into()), again: None, place: None },
        };
        let _waiting = self.waiting_for_answer();
        let upstream = self.request.upstream;
        let (began, first) = (Instant::now(), self.copy(permit));
        let broker = &self.env.broker;
        let operation = Some(self.kind.1).filter(|_| self.is_hedged);
        let after = operation.and_then(|operation| broker.hedge_after(upstream, operation));
        let (attempt, made) = match after {
            None => first.await,
            Some(after) => self.hedged(first, after).await,
        };
        *attempts += made;
        if let (Some(operation), true) = (operation, attempt.is_good()) {
            broker.answered(upstream, operation, began.elapsed());
        }
        attempt
    }

    /// Waits for an answer, and after a while for that of a second copy, too: the first good one, or the first copy's.
    async fn hedged(&self, first: impl Future<Output = (Attempt, u32)>, after: Duration) -> (Attempt, u32) {
        let (broker, upstream) = (&self.env.broker, self.request.upstream);
        let mut first = pin!(first);
        if let Ok(ended) = sluice_core::timeout_at(sluice_core::now() + after, first.as_mut()).await {
            return ended;
        }
        let Some(permit) = broker.enter_hedge(upstream, self.kind.1, &self.ask) else { return first.await };
        let mut second = pin!(self.copy(permit));
        let (mut failed, mut is_second_over) = (None, false);
        poll_fn(|cx| {
            if failed.is_none()
                && let Poll::Ready((attempt, made)) = first.as_mut().poll(cx)
            {
                if attempt.is_good() || is_second_over {
                    return Poll::Ready((attempt, made + 1));
                }
                failed = Some((attempt, made));
            }
            if !is_second_over && let Poll::Ready((attempt, made)) = second.as_mut().poll(cx) {
                is_second_over = true;
                if attempt.is_good() {
                    broker.hedge_won(upstream);
                    return Poll::Ready((attempt, made + 1));
                }
                if let Some((attempt, made)) = failed.take() {
                    return Poll::Ready((attempt, made + 1));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// One copy of the call on its way; how many attempts the pool made of it.
    async fn copy(&self, mut permit: Permit) -> (Attempt, u32) {
        permit.sent();
        let began = Instant::now();
        let answer = self.env.egress.call(Arc::clone(&self.request)).await;
        match answer {
            Ok(response) => {
                let made = response.attempts;
                let judged = (self.judge)(&response);
                let verdict = if judged.is_failure { Verdict::Bad } else { Verdict::Good };
                permit.judge(verdict, true, judged.tokens);
                self.learn(&judged);
                let again = (self.is_repeatable && judged.is_passing).then_some(Again { asked: judged.wait });
                let place = response.pieces.is_some().then_some(permit);
                (Attempt { answer: Ok(response), again, place }, made)
            }
            Err(error) => {
                let now = sluice_core::now();
                permit.judge(self.verdict(&error, began.elapsed()), was_sent(&error), None);
                let again = self.is_repeatable && is_passing(&error) && now < self.request.deadline;
                let again = again.then_some(Again { asked: None });
                (Attempt { answer: Err(Unanswered::Lost(error)), again, place: None }, 1)
            }
        }
    }

    fn learn(&self, judged: &Judged) {
        let broker = &self.env.broker;
        match judged.limited {
            Limited::Nobody if judged.is_failure => {}
            Limited::Nobody => broker.not_limited(self.request.upstream),
            Limited::User => broker.limited(self.request.upstream, self.ask.user, judged.wait),
            Limited::Project => broker.limited(self.request.upstream, None, judged.wait),
        }
    }

    fn verdict(&self, error: &EgressError, took: Duration) -> Verdict {
        match error {
            // What ends because we end says nothing about the service.
            _ if self.env.egress.is_closing() => Verdict::Nothing,
            EgressError::Connect(_) | EgressError::Broken(_) => Verdict::Bad,
            // A caller in a hurry says nothing about the service; one who waited for a while does.
            EgressError::DeadlineExceeded { sent: true } if took >= PATIENCE => Verdict::Bad,
            _ => Verdict::Nothing,
        }
    }
}

/// How to wait before another attempt.
struct Again {
    asked: Option<Duration>,
}

/// Whether the upstream may have seen the call, and counted it.
fn was_sent(error: &EgressError) -> bool {
    match error {
        EgressError::DeadlineExceeded { sent } => *sent,
        EgressError::Broken(_) | EgressError::BodyTooLarge { .. } => true,
        EgressError::Overloaded
        | EgressError::Connect(_)
        | EgressError::ShuttingDown
        | EgressError::Invalid(_) => false,
    }
}

/// Whether another attempt may fare better. Where there is no connection, the pool has tried again already.
fn is_passing(error: &EgressError) -> bool {
    matches!(error, EgressError::Broken(_) | EgressError::DeadlineExceeded { sent: true })
}
