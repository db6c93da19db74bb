//! One request being answered: what every answer carries, and what is counted about it.
//!
//! Invariant: an exchange is answered at most once, and whatever it answers is counted exactly once, on the core
//! that answered.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use sluice_net::{Answer, BodyWriter, Responder};
use sluice_protocols::api::Timing;
use sluice_protocols::http::{RequestHead, Response};
use sluice_protocols::problem::{self, Problem, ProblemKind};

use super::browser;
use crate::limit::{Entered, LimitFields, Place, Refused};
use crate::metrics::{CoreMetrics, RouteLabel};
use crate::mint::Mint;

/// RFC 6750 section 3; a cookie has no scheme of its own (RFC 9110 section 11.1).
const CHALLENGE: &str = "Bearer realm=\"sluice\"";
/// Longest request id taken from a caller.
const REQUEST_ID_CHARS_MAX: usize = 64;

/// What is known about a request apart from where its answer goes.
pub(crate) struct Context {
    route: RouteLabel,
    request_id: String,
    arrived: Instant,
    metrics: Arc<CoreMetrics>,
    /// What is told of the limits on requests.
    limits: Option<LimitFields>,
    /// Whether the request has proven who asks by a cookie, which caches do not know for a credential.
    by_cookie: bool,
    /// Whether a person waits for the answer, to whom a problem document says little.
    is_for_people: bool,
}

impl Context {
    pub(crate) fn new(
        head: &RequestHead,
        route: RouteLabel,
        arrived: Instant,
        mint: &Mint,
        metrics: &Arc<CoreMetrics>,
    ) -> Self {
        let request_id = match head.header("x-request-id") {
            Some(theirs) if is_request_id(theirs) => theirs.to_owned(),
            _ => mint.request(),
        };
        Self {
            route,
            request_id,
            arrived,
            metrics: Arc::clone(metrics),
            limits: None,
            by_cookie: false,
            is_for_people: false,
        }
    }

    /// When the request was whole.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The request's id: its caller's, or one of ours.
    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Notes that the answer is for whoever has this cookie.
    pub(crate) fn answer_by_cookie(&mut self) {
        self.by_cookie = true;
    }

    /// Notes that what goes wrong is to be told on the page with the form.
    pub(crate) fn answer_people(&mut self) {
        self.is_for_people = true;
    }

    /// Makes an answer complete, and counts it. For HEAD it is the same as for GET: what sends it leaves the body
    /// out and tells its length (RFC 9110 section 9.3.2).
    pub(crate) fn finish(self, response: Response) -> Response {
        self.metrics.answer(self.route, response.status, self.arrived.elapsed());
        let response = match self.limits {
            Some(limits) => limits.put_on(response),
            None => response,
        };
        // RFC 9111 section 3.5 keeps shared caches from answers to `Authorization` alone.
        let response = match self.by_cookie && response.header("cache-control").is_none() {
            true => response.with_field("cache-control", "no-store"),
            false => response,
        };
        response.with_field("x-request-id", self.request_id)
    }

    /// The answer to a request that a limit refused.
    pub(crate) fn refused(mut self, refused: &Refused) -> Response {
        let (problem, fields) = refused.told();
        self.limits = fields;
        let response = self.problem(problem);
        self.finish(response)
    }

    /// The answer for a problem.
    pub(crate) fn problem(&self, problem: Problem) -> Response {
        self.metrics.problem(problem.kind());
        if self.is_for_people {
            return problem_page(&problem);
        }
        problem_response(problem, &self.request_id)
    }
}

/// A [`Context`] with the place its answer goes to.
pub(crate) struct Exchange {
    pub(crate) context: Context,
    responder: Responder,
    /// Held until the exchange is answered, or dropped.
    place: Option<Place>,
}

impl Exchange {
    pub(crate) fn new(context: Context, responder: Responder) -> Self {
        Self { context, responder, place: None }
    }

    /// Notes that the limits have let the request in.
    pub(crate) fn entered(&mut self, entered: Entered) {
        self.place = entered.place;
        self.context.limits = entered.fields;
    }

    /// Notes what is to be told of the limits instead.
    pub(crate) fn tell_limits(&mut self, fields: Option<LimitFields>) {
        self.context.limits = fields;
    }

    /// Answers that a limit refused the request.
    pub(crate) fn limited(self, refused: &Refused) {
        let response = self.context.refused(refused);
        self.responder.send(response);
    }

    /// Answers.
    pub(crate) fn reply(self, response: Response) {
        let response = self.context.finish(response);
        self.responder.send(response);
    }

    /// Answers with a body that is still to come, and gives the request's place with it, to be held until that has
    /// ended. The answer is counted with its head.
    pub(crate) fn stream(self, head: Response) -> (BodyWriter, Option<Place>) {
        let head = self.context.finish(head);
        (self.responder.stream(head), self.place)
    }

    /// Answers, whole or in pieces.
    pub(crate) fn answer(self, answer: Answer) {
        let Self { context, responder, place: _held } = self;
        responder.answer(answer.map_head(|head| context.finish(head)));
    }

    /// Answers with a problem.
    pub(crate) fn refuse(self, problem: Problem) {
        let response = self.context.problem(problem);
        self.reply(response);
    }

    /// Gives the responder back unanswered and uncounted: another core will answer.
    pub(crate) fn into_responder(self) -> Responder {
        self.responder
    }
}

/// Ids that are safe in fields, logs and documents.
fn is_request_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=REQUEST_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// A problem of the form of the page by which browsers sign in, as that page.
fn problem_page(problem: &Problem) -> Response {
    let fields = problem.errors().iter().map(|error| error.detail.as_str());
    let said: Vec<&str> = std::iter::once(problem.detail()).chain(fields).collect();
    let mut page = browser::sign_in_page(problem.status(), Some(&said.join(": ")));
    if problem.kind() == ProblemKind::Unauthorized {
        page = page.with_field("www-authenticate", CHALLENGE);
    }
    match problem.retry_after_s() {
        Some(seconds) => page.with_field("retry-after", seconds.to_string()),
        None => page,
    }
}

/// A problem as a response: with the request's id, and the fields that go with the kind.
fn problem_response(mut problem: Problem, request_id: &str) -> Response {
    let status = problem.status();
    if status == 503 && problem.retry_after_s().is_none() {
        problem = problem.with_retry_after_s(1);
    }
    let problem = problem.with_request_id(request_id).with_instance(request_id);
    let mut response = Response::new(status).json_as(problem::CONTENT_TYPE, &problem);
    if let Some(seconds) = problem.retry_after_s() {
        response = response.with_field("retry-after", seconds.to_string());
    }
    // RFC 6750 section 3: an error code only when a key was shown at all, which the detail tells.
    if problem.kind() == ProblemKind::Unauthorized {
        response = response.with_field("www-authenticate", CHALLENGE);
    }
    response
}

/// Where the time of a command went, for `Server-Timing`: milliseconds, as the header has them. Waits for other things than
/// an upstream's answer are told where there were any.
pub(crate) fn server_timing(timing: &Timing) -> Cow<'static, str> {
    let mut text = String::with_capacity(96);
    let &Timing { own_us, openai_us, google_us, turn_us, queue_us, quota_us, shared_us, .. } = timing;
    let always = [("own", own_us), ("openai", openai_us), ("google", google_us)];
    let waits = [("turn", turn_us), ("queue", queue_us), ("quota", quota_us), ("shared", shared_us)];
    for (name, us) in always.into_iter().chain(waits.into_iter().filter(|(_, us)| *us > 0)) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{name};dur={}.{:03}", us / 1_000, us % 1_000);
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(head: &RequestHead, metrics: &Arc<CoreMetrics>) -> Context {
        Context::new(head, RouteLabel::Command, Instant::now(), &Mint::new(), metrics)
    }

    #[test]
    fn a_callers_request_id_is_kept_when_it_is_harmless() {
        let metrics = Arc::default();
        for (sent, kept) in [("abc-1.2:3_X", true), ("", false), ("a b", false), ("<script>", false)] {
            let head = RequestHead::build("GET", "/", "h").with("x-request-id", sent);
            let answer = context(&head, &metrics).finish(Response::new(200));
            assert_eq!(answer.header("x-request-id") == Some(sent), kept, "{sent}");
        }
        let long = "x".repeat(REQUEST_ID_CHARS_MAX + 1);
        let head = RequestHead::build("GET", "/", "h").with("x-request-id", &long);
        assert_ne!(context(&head, &metrics).finish(Response::new(200)).header("x-request-id"), Some(&*long));
    }

    #[test]
    fn a_problem_carries_the_fields_of_its_kind() {
        let metrics: Arc<CoreMetrics> = Arc::default();
        let head = RequestHead::build("GET", "/", "h").with("x-request-id", "r1");
        let full = context(&head, &metrics).problem(Problem::new(ProblemKind::Overloaded, "full"));
        assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
        let problem: Problem = serde_json::from_slice(&full.body).unwrap();
        assert_eq!((problem.request_id(), problem.instance()), (Some("r1"), Some("r1")));
        assert_eq!(problem.retry_after_s(), Some(1));
        let unknown = context(&head, &metrics).problem(Problem::new(ProblemKind::Unauthorized, "no"));
        assert!(unknown.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert_eq!(metrics.problems(ProblemKind::Overloaded), 1);
    }

    #[test]
    fn times_are_told_in_milliseconds() {
        let timing = Timing { openai_us: 200_007, ..Timing::default() }.of_total(201_241);
        assert_eq!(server_timing(&timing), "own;dur=1.234, openai;dur=200.007, google;dur=0.000");
        let waits = Timing { turn_us: 1, queue_us: 2, quota_us: 3, shared_us: 4, ..Timing::default() };
        assert_eq!(
            server_timing(&waits.of_total(11)),
            "own;dur=0.001, openai;dur=0.000, google;dur=0.000, turn;dur=0.001, queue;dur=0.002, quota;dur=0.003, \
             shared;dur=0.004"
        );
    }
}
