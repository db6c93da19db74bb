//! Calls to Gmail, Calendar and Drive for one user, with token, measure and error meaning.
//!
//! Invariants:
//! - A call that Google refuses for its token is made once more with a fresh one; such a refusal means that
//!   nothing was done.
//! - Every call is noted for the step it belongs to, with its path but without its query.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use sluice_net::egress::{EgressError, EgressRequest, EgressResponse, Retry, Upstream};
use sluice_protocols::api::CallView;
use sluice_protocols::google::{ApiCall, GoogleError, UpstreamFault};
use sluice_protocols::ids::{ShardId, UserId};
use sluice_protocols::plan::Service;
use sluice_protocols::problem::{Problem, ProblemKind};

use super::lost;
use super::meter::{Meter, micros};
use super::tokens::AccessToken;
use crate::env::Env;

/// Most calls noted for one step: a search makes 21, a hard-fought side effect some dozens.
const CALLS_NOTED_MAX: usize = 128;

/// Calls for one step.
pub(crate) struct Google<'a> {
    env: &'a Env,
    meter: &'a Meter,
    shard: ShardId,
    user: UserId,
    /// The command's own.
    deadline: Instant,
    calls: RefCell<Vec<CallView>>,
}

/// A successful answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) body: Bytes,
}

/// Why a call brought no successful answer.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// Google answered with an error status.
    Refused { service: Service, error: GoogleError, retry_after: Option<Duration> },
    /// There is no answer.
    Lost { service: Service, error: EgressError },
    /// A success whose body cannot be understood.
    Nonsense { service: Service },
    /// There is no token to call with; nothing was sent.
    NoToken(Problem),
}

impl CallError {
    /// Whether what was asked for may have been done all the same.
    pub(crate) fn outcome_unknown(&self) -> bool {
        match self {
            // A server that fails may do so after it has done its work.
            Self::Refused { error, .. } => matches!(error.fault, UpstreamFault::Unavailable { .. }),
            Self::Lost { error, .. } => error.outcome_unknown(),
            Self::Nonsense { .. } => true,
            Self::NoToken(_) => false,
        }
    }

    /// Whether the same call may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { error, .. } => error.fault.is_retryable(),
            Self::Lost { error, .. } => !matches!(error, EgressError::ShuttingDown | EgressError::Invalid(_)),
            Self::Nonsense { .. } => true,
            Self::NoToken(problem) => problem.is_retryable() && problem.kind() != ProblemKind::ShuttingDown,
        }
    }

    /// What Google's error status means, when there is one.
    pub(crate) fn fault(&self) -> Option<UpstreamFault> {
        match self {
            Self::Refused { error, .. } => Some(error.fault),
            _ => None,
        }
    }

    /// How long Google asked callers to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the thing that was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self.fault(), Some(UpstreamFault::NotFound | UpstreamFault::Gone))
    }

    /// What the user is told. `deadline` is the command's own.
    pub(crate) fn to_problem(&self, deadline: Instant) -> Problem {
        match self {
            Self::Refused { service, error, retry_after } => {
                let problem = Problem::new(error.fault.problem_kind(), refusal(*service, error));
                let problem = problem.with_retryable(error.fault.is_retryable());
                super::with_wait(problem, *retry_after)
            }
            Self::Lost { service, error } => lost(title(*service), error, deadline),
            Self::Nonsense { service } => Problem::new(
                ProblemKind::UpstreamInvalid,
                format!("{} answered something that cannot be understood", title(*service)),
            ),
            Self::NoToken(problem) => problem.clone(),
        }
    }
}

/// A service as people call it.
pub(crate) fn title(service: Service) -> &'static str {
    match service {
        Service::Gmail => "Gmail",
        Service::Calendar => "Google Calendar",
        Service::Drive => "Google Drive",
    }
}

fn refusal(service: Service, error: &GoogleError) -> String {
    let name = title(service);
    match error.fault {
        UpstreamFault::Unauthorized => {
            format!("{name} does not accept the connection; connect the account again")
        }
        UpstreamFault::ScopeMissing => {
            format!("the connection does not allow this in {name}; connect the account again")
        }
        UpstreamFault::Forbidden => format!("{name} does not allow this: {}", error.message),
        UpstreamFault::RateLimited { .. } => format!("{name} is limiting requests"),
        UpstreamFault::QuotaExhausted => format!("the daily quota of {name} is used up"),
        UpstreamFault::NotFound => format!("{name} has no such thing any more"),
        UpstreamFault::Gone => format!("it was deleted in {name}"),
        UpstreamFault::Conflict => format!("{name} reports a conflict: {}", error.message),
        UpstreamFault::Invalid => format!("{name} refused the request: {}", error.message),
        UpstreamFault::Unavailable { .. } => format!("{name} is failing at the moment"),
    }
}

fn upstream(service: Service) -> Upstream {
    match service {
        Service::Gmail => Upstream::Gmail,
        Service::Calendar => Upstream::Calendar,
        Service::Drive => Upstream::Drive,
    }
}

impl<'a> Google<'a> {
    pub(crate) fn new(
        env: &'a Env,
        meter: &'a Meter,
        shard: ShardId,
        user: UserId,
        deadline: Instant,
    ) -> Self {
        Self { env, meter, shard, user, deadline, calls: RefCell::default() }
    }

    /// The calls made so far, each with its measure.
    pub(crate) fn into_calls(self) -> Vec<CallView> {
        self.calls.into_inner()
    }

    /// Reads something, repeating as the egress pool sees fit, within the command's deadline.
    pub(crate) async fn read<T: DeserializeOwned>(&self, call: &ApiCall) -> Result<T, CallError> {
        self.read_until(call, self.deadline).await
    }

    /// As [`Self::read`], until `limit`.
    pub(crate) async fn read_until<T: DeserializeOwned>(
        &self,
        call: &ApiCall,
        limit: Instant,
    ) -> Result<T, CallError> {
        let reply = self.send(call, Retry::Safe, limit).await?;
        serde_json::from_slice(&reply.body).map_err(|error| {
            tracing::warn!(path = call.path_only(), %error, "Google's answer cannot be understood");
            CallError::Nonsense { service: call.service }
        })
    }

    /// Reads bytes.
    pub(crate) async fn bytes(&self, call: &ApiCall) -> Result<Bytes, CallError> {
        self.send(call, Retry::Safe, self.deadline).await.map(|reply| reply.body)
    }

    /// Does something once: it is on its way at most once when this returns.
    pub(crate) async fn act(&self, call: &ApiCall, limit: Instant) -> Result<Reply, CallError> {
        self.send(call, Retry::Never, limit).await
    }

    async fn send(&self, call: &ApiCall, retry: Retry, limit: Instant) -> Result<Reply, CallError> {
        let limit = limit.min(sluice_core::now() + self.env.config.call_timeout);
        let _waiting = self.meter.google.begin();
        let token = self.token(limit).await?;
        match self.once(call, retry, &token, limit).await {
            Err(error) if error.fault() == Some(UpstreamFault::Unauthorized) => {
                self.env.stats.tokens_rejected.add(1);
                self.env.tokens.reject(&self.user, &token);
                let token = self.token(limit).await?;
                self.once(call, retry, &token, limit).await
            }
            other => other,
        }
    }

    async fn token(&self, limit: Instant) -> Result<AccessToken, CallError> {
        let granted = self.env.tokens.get(self.env, self.shard, self.user, limit, self.deadline).await;
        granted.calls.into_iter().for_each(|call| self.note(call));
        granted.token.map_err(CallError::NoToken)
    }

    async fn once(
        &self,
        call: &ApiCall,
        retry: Retry,
        token: &AccessToken,
        limit: Instant,
    ) -> Result<Reply, CallError> {
        let request = EgressRequest {
            upstream: upstream(call.service),
            method: call.method,
            url: call.path.clone(),
            bearer: Some(token.expose().to_owned()),
            content_type: call.content_type,
            body: call.body.clone(),
            deadline: limit,
            retry,
        };
        let began = Instant::now();
        let answer = self.env.egress.call(request).await;
        self.note(CallView {
            service: call.service.into(),
            method: call.method.to_owned(),
            path: call.path_only().to_owned(),
            status: answer.as_ref().ok().map(|response| response.status),
            duration_us: micros(began.elapsed()),
            attempts: answer.as_ref().map_or(1, |response| response.attempts),
        });
        match answer {
            Ok(response) if (200..300).contains(&response.status) => Ok(Reply { body: response.body }),
            Ok(response) => Err(self.refused(call.service, &response)),
            Err(error) => Err(CallError::Lost { service: call.service, error }),
        }
    }

    fn refused(&self, service: Service, response: &EgressResponse) -> CallError {
        let error = GoogleError::classify(response.status, &response.body, None);
        // The header was read by the egress pool; Gmail may say the moment in its message alone.
        let said = || error.fault.retry_after().map(|after| after.delay(self.env.clock.timestamp()));
        let retry_after = response.retry_after.or_else(said);
        CallError::Refused { service, error, retry_after }
    }

    fn note(&self, call: CallView) {
        let mut calls = self.calls.borrow_mut();
        if calls.len() < CALLS_NOTED_MAX {
            calls.push(call);
        }
    }
}
