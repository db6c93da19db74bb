//! Faults that a test sets, and those drawn at random.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::watch;

use super::chance::Luck;
use super::wire::{Reply, Service, google_error, openai_error};

/// Faults set at one time; a test needs a handful.
const FAULTS_MAX: usize = 1_000;

/// A hanging request is dropped after this long, so that a forgotten fault does
/// not hold sockets for ever.
pub(crate) const HANG_MAX: Duration = Duration::from_secs(600);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FaultKind {
    /// The connection ends without an answer.
    Down,
    /// An error answer with the code given, in the service's own shape.
    Status,
    /// The answer is right but late.
    Slow,
    /// No answer until faults are cleared.
    Hang,
    /// 200 with a body that is not what it says.
    Garbage,
    /// A streamed answer breaks off; one that is not streamed is cut as by `down`, after its effect.
    Cut,
}

/// A fault as `POST /_sim/faults` takes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    service: Service,
    pub(crate) kind: FaultKind,
    /// Requests it strikes; -1 is all of them.
    #[serde(default = "forever")]
    count: i64,
    /// Only requests of this mailbox.
    user: Option<String>,
    /// Only requests whose path (with query) contains this.
    path_contains: Option<String>,
    /// Only requests of this method, such as `POST`.
    method: Option<String>,
    /// Only this operation, such as `gmail.messages.send`.
    operation: Option<String>,
    /// Strikes so large a share (above 0, to 1) of the requests it fits; all by default.
    share: Option<f64>,
    /// Strikes from so many seconds on after it was set.
    from_s: Option<f64>,
    /// Strikes until so many seconds after it was set.
    until_s: Option<f64>,
    /// The code of kind `status`.
    pub(crate) status: Option<u16>,
    /// The reason in the error body of kind `status`; by default the usual one for the code.
    reason: Option<String>,
    /// `Retry-After` of kind `status`.
    retry_after_s: Option<u64>,
    /// Delay of kind `slow`.
    ms: Option<u64>,
    /// The side effect happens before the fault strikes.
    #[serde(default)]
    pub(crate) after_effect: bool,
    /// Events of a stream that leave before kind `cut` strikes.
    pub(crate) events: Option<usize>,
    /// Clearings before it struck; a hang ends with the next.
    #[serde(skip)]
    clearings: u64,
    #[serde(skip, default = "Instant::now")]
    set_at: Instant,
}

fn forever() -> i64 {
    -1
}

impl Fault {
    /// Whether it says enough, and nothing out of range.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err("share lies above 0 and is at most 1");
        }
        match self.kind {
            FaultKind::Status if !self.status.is_some_and(|code| (400..=599).contains(&code)) => {
                Err("kind status needs a status from 400 to 599")
            }
            FaultKind::Slow if self.ms.is_none() => Err("kind slow needs ms"),
            _ if self.count == 0 || self.count < -1 => Err("count is a positive number or -1"),
            _ => Ok(()),
        }
    }

    fn strikes(&self, struck: &Struck<'_>) -> bool {
        let Struck { service, operation, user, method, target } = *struck;
        let age_s = self.set_at.elapsed().as_secs_f64();
        self.service == service
            && self.operation.as_deref().is_none_or(|wanted| wanted == operation)
            && self.from_s.is_none_or(|from| age_s >= from)
            && self.until_s.is_none_or(|until| age_s < until)
            && self.user.as_deref().is_none_or(|wanted| user == Some(wanted))
            && self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.path_contains.as_deref().is_none_or(|part| target.contains(part))
    }

    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.ms.unwrap_or(0))
    }

    /// The answer of kinds `status` and `garbage`.
    pub(crate) fn reply(&self) -> Reply {
        match self.status {
            Some(code) if self.kind == FaultKind::Status => {
                error_of(self.service, code, self.reason.as_deref())
                    .retry_after(self.retry_after_s.map(Duration::from_secs))
            }
            _ => Reply::bytes("application/json", &b"{\"id\": \"\xff\xfe<html>not what was asked"[..]),
        }
    }
}

/// What a fault may strike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struck<'a> {
    pub(crate) service: Service,
    pub(crate) operation: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) target: &'a str,
}

/// The faults now set.
#[derive(Debug)]
pub(crate) struct Faults {
    set: Mutex<Vec<Fault>>,
    /// Length of `set`, so that the usual request takes no lock.
    count: AtomicUsize,
    fired: AtomicU64,
    /// Counts the clearings; hanging requests wait for the next.
    cleared: watch::Sender<u64>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self {
            set: Mutex::default(),
            count: AtomicUsize::new(0),
            fired: AtomicU64::new(0),
            cleared: watch::channel(0).0,
        }
    }

    pub(crate) fn add(&self, fault: Fault) -> Result<usize, &'static str> {
        fault.check()?;
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        if set.len() >= FAULTS_MAX {
            return Err("too many faults are set");
        }
        set.push(fault);
        self.count.store(set.len(), Ordering::Release);
        Ok(set.len())
    }

    pub(crate) fn clear(&self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.count.store(0, Ordering::Release);
        self.cleared.send_modify(|count| *count += 1);
    }

    /// Faults that have struck since the last reset.
    pub(crate) fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_fired(&self) {
        self.fired.store(0, Ordering::Relaxed);
    }

    /// The oldest fault that strikes this request, used up by one.
    pub(crate) fn strike(&self, struck: &Struck<'_>, luck: &Luck) -> Option<Fault> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let index = set
            .iter()
            .position(|fault| fault.strikes(struck) && fault.share.is_none_or(|share| luck.unit() < share))?;
        self.fired.fetch_add(1, Ordering::Relaxed);
        let mut fault = set[index].clone();
        fault.clearings = *self.cleared.borrow();
        if fault.count > 0 {
            set[index].count -= 1;
            if set[index].count == 0 {
                set.remove(index);
                self.count.store(set.len(), Ordering::Release);
            }
        }
        Some(fault)
    }

    /// Waits until faults have been cleared since `fault` struck, at most [`HANG_MAX`]. They may have been before
    /// the request comes to hang.
    pub(crate) async fn hang(&self, fault: &Fault) {
        let mut cleared = self.cleared.subscribe();
        let since = cleared.wait_for(|clearings| *clearings > fault.clearings);
        let _ = tokio::time::timeout(HANG_MAX, since).await;
    }
}

/// An error in the service's own shape, with the reason usual for its code.
fn error_of(service: Service, code: u16, reason: Option<&str>) -> Reply {
    match service {
        Service::OpenAi => {
            let (kind, usual) = match code {
                401 => ("invalid_request_error", Some("invalid_api_key")),
                429 => ("requests", Some("rate_limit_exceeded")),
                500.. => ("server_error", None),
                _ => ("invalid_request_error", None),
            };
            openai_error(code, kind, reason.or(usual), None, "The simulator was told to fail this request.")
        }
        Service::OAuth => {
            let error = reason.unwrap_or(match code {
                400 => "invalid_grant",
                401 => "invalid_client",
                _ => "internal_failure",
            });
            let body = serde_json::json!({"error": error, "error_description": "Told to fail."});
            Reply::json(code, &body)
        }
        Service::Gmail | Service::Calendar | Service::Drive => {
            let usual = match code {
                400 => "badRequest",
                401 => "authError",
                403 => "insufficientPermissions",
                404 => "notFound",
                429 => "rateLimitExceeded",
                _ => "backendError",
            };
            google_error(code, reason.unwrap_or(usual), "The simulator was told to fail this request.")
        }
    }
}

/// A random failure of one request, when the error rate has it so.
#[derive(Debug)]
pub(crate) struct Mishap {
    pub(crate) after_effect: bool,
    pub(crate) reply: Reply,
}

/// Draws a mishap: half strike before the side effect, half after it. A refusal
/// for its rate (429) is never given after an effect, since the real services
/// never do that either.
pub(crate) fn mishap(luck: &Luck, rate: f64, service: Service) -> Option<Mishap> {
    if rate == 0.0 || luck.unit() >= rate {
        return None;
    }
    let draw = luck.next();
    let after_effect = draw & 1 == 1;
    let code = match (draw >> 1) % 4 {
        0 => 500,
        1 => 502,
        2 if !after_effect => 429,
        _ => 503,
    };
    Some(Mishap { after_effect, reply: error_of(service, code, None) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: serde_json::Value) -> Fault {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_counted_fault_strikes_that_often_and_only_what_it_names() {
        let faults = Faults::new();
        let json = serde_json::json!({"service": "gmail", "kind": "status", "status": 503, "count": 2,
            "user": "ada", "path_contains": "/drafts", "method": "post"});
        faults.add(fault(json)).unwrap();
        let luck = Luck::new(1);
        let strike = |service, user, method, target| {
            faults.strike(&Struck { service, operation: "x", user, method, target }, &luck).is_some()
        };
        assert!(!strike(Service::Drive, Some("ada"), "POST", "/drafts"));
        assert!(!strike(Service::Gmail, Some("bob"), "POST", "/drafts"));
        assert!(!strike(Service::Gmail, Some("ada"), "GET", "/drafts"));
        assert!(!strike(Service::Gmail, Some("ada"), "POST", "/messages"));
        assert!(strike(Service::Gmail, Some("ada"), "POST", "/drafts/send"));
        assert!(strike(Service::Gmail, Some("ada"), "POST", "/drafts"));
        assert!(!strike(Service::Gmail, Some("ada"), "POST", "/drafts"));
        assert_eq!(faults.fired(), 2);
    }

    #[test]
    fn a_fault_that_says_too_little_is_refused() {
        let faults = Faults::new();
        for json in [
            serde_json::json!({"service": "gmail", "kind": "status"}),
            serde_json::json!({"service": "gmail", "kind": "slow"}),
            serde_json::json!({"service": "gmail", "kind": "down", "count": 0}),
            serde_json::json!({"service": "gmail", "kind": "down", "share": 0.0}),
        ] {
            assert!(faults.add(fault(json)).is_err());
        }
        assert!(serde_json::from_str::<Fault>(r#"{"service":"fax","kind":"down"}"#).is_err());
    }

    #[test]
    fn a_fault_may_strike_a_share_one_operation_and_for_a_time() {
        let (faults, luck) = (Faults::new(), Luck::new(5));
        let json = serde_json::json!({"service": "drive", "kind": "down", "share": 0.25, "operation": "drive.files.list"});
        faults.add(fault(json)).unwrap();
        faults.add(fault(serde_json::json!({"service": "gmail", "kind": "down", "from_s": 1e6}))).unwrap();
        faults.add(fault(serde_json::json!({"service": "gmail", "kind": "down", "until_s": 0.0}))).unwrap();
        let count = |service, operation| {
            let struck = Struck { service, operation, user: None, method: "GET", target: "/" };
            (0..1_000).filter(|_| faults.strike(&struck, &luck).is_some()).count()
        };
        assert!((180..320).contains(&count(Service::Drive, "drive.files.list")));
        assert_eq!((count(Service::Drive, "drive.files.get"), count(Service::Gmail, "x")), (0, 0));
    }

    #[test]
    fn mishaps_come_at_their_rate_and_never_refuse_what_was_done() {
        let luck = Luck::new(3);
        let mishaps: Vec<_> = (0..4_000).filter_map(|_| mishap(&luck, 0.25, Service::Gmail)).collect();
        assert!((800..1_200).contains(&mishaps.len()), "{}", mishaps.len());
        let after = mishaps.iter().filter(|m| m.after_effect).count();
        assert!(after * 5 > mishaps.len() * 2 && after * 5 < mishaps.len() * 3);
        assert!(mishaps.iter().all(|m| !(m.after_effect && m.reply.status == 429)));
        assert!(mishaps.iter().any(|m| m.reply.status == 429));
        assert!(mishap(&luck, 0.0, Service::Gmail).is_none());
    }

    #[tokio::test]
    async fn a_hang_ends_even_when_faults_are_cleared_before_it_begins() {
        let faults = Faults::new();
        faults
            .add(fault(serde_json::json!({"service": "openai", "kind": "hang", "count": 1})))
            .expect("sound");
        let asked = Struck {
            service: Service::OpenAi,
            operation: "openai.responses",
            user: None,
            method: "POST",
            target: "/v1/responses",
        };
        let struck = faults.strike(&asked, &Luck::new(1)).expect("it strikes");
        faults.clear();
        let guard = Duration::from_secs(10);
        assert!(tokio::time::timeout(guard, faults.hang(&struck)).await.is_ok());
    }
}
