//! What the TCP ingress counts. Its connections live on the threads of the shared runtime, so the counters are
//! atomics, all of them relaxed: none says anything about another.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter or gauge that any thread may change.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }
}

/// The protocol of a connection, as ALPN settled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, also for clients that did not say.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// Both, in the order of their counters.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// As a label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// What is counted for each protocol.
#[derive(Debug, Default)]
pub struct ProtocolStats {
    /// Connections open now (gauge), from the end of the handshake.
    pub connections: Count,
    /// Connections since the start.
    pub connections_total: Count,
    /// Requests whose head arrived whole.
    pub requests: Count,
}

macro_rules! reasons {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// All of them, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As a label value.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

reasons! {
    /// Why a connection ended that its client had not ended.
    Cut {
        /// As many were open as there may be; closed before its handshake.
        Full = "full",
        /// Its client's address had as many as it may; closed before its handshake.
        Crowded = "crowded",
        /// The handshake was not TLS, or had nothing in common with ours.
        Handshake = "handshake",
        /// The handshake took too long.
        HandshakeTimeout = "handshake_timeout",
        /// No request became whole, and none was under way, for too long.
        Idle = "idle",
        /// The client gave up more requests than a client does.
        Load = "load",
        /// What it sent was not HTTP, or it broke off in the midst of a request.
        Broken = "broken",
        /// Time for winding up was over.
        Drained = "drained",
    }
}

reasons! {
    /// Why a request was answered without the service's call.
    Refused {
        /// By the service, on its head.
        Early = "early",
        /// The head breaks HTTP: 400.
        Malformed = "malformed",
        /// CONNECT or an unknown transfer coding: 501.
        NotSpoken = "not_spoken",
        /// Head over its limits: 431.
        HeadersTooLarge = "headers_too_large",
        /// Body over its limit: 413.
        BodyTooLarge = "body_too_large",
        /// The body did not arrive in time: 408.
        BodyTimeout = "body_timeout",
        /// An intermediary had it as early data, and its method is not safe: 425.
        TooEarly = "too_early",
        /// The core had no room: 503.
        CoreFull = "core_full",
        /// The core was ending: 503.
        CoreClosed = "core_closed",
    }
}

/// Counters of the TCP ingress of the process.
#[derive(Debug, Default)]
pub struct TcpStats {
    protocols: [ProtocolStats; Protocol::ALL.len()],
    cut: [Count; Cut::ALL.len()],
    refused: [Count; Refused::ALL.len()],
    /// Connections accepted.
    pub accepted: Count,
    /// Times the kernel would not give a connection: out of files or memory.
    pub accept_failures: Count,
    /// Handshakes that resumed an earlier session.
    pub resumed: Count,
    /// Answers given up since too much already waited for their client to read it.
    pub over_bound: Count,
    /// Answers with bodies in pieces that the service broke off.
    pub broken: Count,
    /// Requests whose client went away before the answer.
    pub abandoned: Count,
}

impl TcpStats {
    /// The counters of one protocol.
    pub fn protocol(&self, protocol: Protocol) -> &ProtocolStats {
        &self.protocols[protocol as usize]
    }

    /// Connections ended for a reason.
    pub fn cut(&self, reason: Cut) -> u64 {
        self.cut[reason as usize].get()
    }

    /// Requests refused for a reason.
    pub fn refused(&self, reason: Refused) -> u64 {
        self.refused[reason as usize].get()
    }

    pub(crate) fn note_cut(&self, reason: Cut) {
        self.cut[reason as usize].add(1);
    }

    pub(crate) fn note_refused(&self, reason: Refused) {
        self.refused[reason as usize].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let stats = TcpStats::default();
        for (index, reason) in Cut::ALL.iter().enumerate() {
            (0..=index).for_each(|_| stats.note_cut(*reason));
        }
        for (index, reason) in Refused::ALL.iter().enumerate() {
            (0..=index).for_each(|_| stats.note_refused(*reason));
        }
        assert!(Cut::ALL.iter().enumerate().all(|(index, reason)| stats.cut(*reason) == index as u64 + 1));
        let refused = |(index, reason): (usize, &Refused)| stats.refused(*reason) == index as u64 + 1;
        assert!(Refused::ALL.iter().enumerate().all(refused));
    }
}
