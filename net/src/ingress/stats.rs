//! What one core's ingress counts.

use sluice_core::Counter;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters and gauges of one core's ingress; its thread is the only writer.
        #[derive(Debug, Default)]
        pub struct IngressStats { $($(#[$doc])* pub $name: Counter,)+ }

        impl IngressStats {
            /// Every value with its name, in declaration order.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Connections open now (gauge).
    connections,
    /// Connections accepted.
    connections_accepted,
    /// Connections refused: at the bound, or shutting down.
    connections_refused,
    /// Connections refused since as many handshakes were under way as there may be, whoever had begun them.
    handshakes_refused,
    /// Connections refused or closed since their client's address had as many as it may have.
    connections_crowded,
    /// Connections closed since they had no request for too long, whatever else they sent.
    connections_unused,
    /// Connection attempts asked to prove their address first.
    connections_retried,
    /// Connection attempts that were malformed.
    connections_rejected,
    /// Connections closed, for whatever reason.
    connections_closed,
    /// Handshakes not done in time, and ended.
    handshakes_timed_out,
    /// Connections closed by us over an HTTP/3 error.
    connections_failed,
    /// Connections closed since their client broke the rules of QUIC itself.
    connections_invalid,
    /// Connections closed since their client retired connection IDs and took no new ones.
    connection_ids_hoarded,
    /// Handshakes finished with certificate and signature.
    handshakes_full,
    /// Handshakes finished that went on with an earlier session.
    handshakes_resumed,
    /// Finished handshakes whose client's early data (0-RTT) was taken.
    early_data_accepted,
    /// Finished handshakes whose client's early data was not taken: a session unknown, used before, or not fresh.
    early_data_rejected,
    /// Requests that came as early data and were handed to the service.
    requests_early,
    /// Requests refused with 425 since their method is not safe and they came, or may have come, as early data.
    requests_too_early,
    /// Requests that were handed to the service: when they had arrived whole, or with their bodies still to come.
    requests,
    /// Those of them whose bodies came in pieces.
    requests_streamed,
    /// Requests being answered now (gauge).
    requests_in_flight,
    /// Answers the transport has taken, refusals of requests among them.
    responses,
    /// Answers with bodies in pieces that were begun.
    responses_streamed,
    /// Those of them that the service broke off, and whose streams were reset.
    responses_broken,
    /// Answers that came to nothing since their client had gone.
    responses_undeliverable,
    /// Streams reset by us over a malformed request.
    streams_failed,
    /// Unidirectional streams of unknown types, and those that ended before they had one.
    streams_unknown,
    /// Streams the client gave up.
    streams_abandoned,
    /// Requests answered on their header section alone, without the service's
    /// call: by its admission, or since their method is not spoken.
    requests_answered_early,
    /// Field sections that referred to their client's dynamic table.
    qpack_sections,
    /// Connections closed since the client made no room for what its dynamic
    /// table requires us to say.
    qpack_overdue,
    /// Requests refused for too large a header section.
    requests_headers_too_large,
    /// Requests refused for too large a body.
    requests_body_too_large,
    /// Requests that did not arrive whole in time, and were answered 408.
    requests_timed_out,
    /// Answers given up since their client took none of their bytes for too long.
    responses_stalled,
    /// Answers given up since too much already waited for the client to read it.
    responses_over_bound,
    /// Requests refused since the connection winds up.
    requests_refused_draining,
    /// Datagrams passed on to the core that owns their connection.
    forwarded_out,
    /// Datagrams received from another core.
    forwarded_in,
    /// Datagrams lost since the owner's mailbox was full.
    forwarded_lost,
    /// Datagrams too short to belong to anyone.
    datagrams_unroutable,
    /// Datagrams that named a connection at another of our ports and were not
    /// from its client.
    datagrams_forged,
    /// Packets sent without a connection: version negotiations, stateless resets,
    /// refusals and demands to prove an address.
    stateless_sent,
    /// Version negotiations among them.
    versions_told,
    /// Stateless resets among them.
    resets_sent,
    /// Such packets not sent for want of a send slot.
    stateless_lost,
    /// Times that the keys of a connection were changed, by whichever end; counted when it ends, as the next two are.
    key_updates,
    /// Frames that asked whether we are there (PATH_CHALLENGE).
    path_challenges,
    /// Frames of the TLS handshake (CRYPTO): a few a connection, unless it is cut in pieces.
    crypto_frames,
}
