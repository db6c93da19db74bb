//! The gateway's configuration: one TOML file, over it the environment, over that the command line.
//!
//! Invariants:
//! - Every key is declared once, below, with its default and its meaning; `print`, the reference in
//!   `docs/configuration.md` and the lists of allowed keys in messages are made from that declaration.
//! - Nothing is guessed: an unknown key, a bad value or an impossible combination is refused, with where it came
//!   from, the key, and what is allowed.
//! - A secret is never shown, neither printed nor in `Debug` output.

mod checks;
mod identity;
mod sources;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format, Toml};
use serde::{Deserialize, Serialize};
use sluice_net::egress::IpNet;
use sluice_net::tcp::AltSvc;
use sluice_shard::upstream::Delegation;
use zeroize::Zeroizing;

use checks::Checks;
pub(crate) use identity::{IdentityProvider, UserBy, is_safe_url};
use sources::{FLAG_NAME, Pairs, Source, read_toml};
pub(crate) use values::{
    CertificatePair, Durability, IoMode, LogFormat, LogLevel, MaybePath, Milliseconds, SandboxMode, Secret,
};

/// Variables that begin so are configuration: `SLUICE_LISTEN__PORT` is `listen.port`.
pub(crate) const ENV_PREFIX: &str = "SLUICE_";

/// Declares a section: its struct, its defaults, and the text of every key.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $name {
            $($(#[doc = $doc])+ pub(crate) $key: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl Described for $name {
            const ABOUT: &'static [&'static str] = &[$($about),+];
            const KEYS: &'static [KeyText] = &[$(KeyText {
                key: stringify!($key),
                lines: &[$($doc),+],
                #[cfg(test)]
                type_name: stringify!($type),
            }),+];
        }
    };
}

trait Described {
    const ABOUT: &'static [&'static str];
    const KEYS: &'static [KeyText];
}

struct KeyText {
    key: &'static str,
    lines: &'static [&'static str],
    #[cfg(test)]
    type_name: &'static str,
}

struct SectionText {
    name: &'static str,
    about: &'static [&'static str],
    keys: &'static [KeyText],
}

/// Declares the whole: one field for each section, in the order of the file.
macro_rules! sections {
    ($($name:ident: $type:ty,)+) => {
        /// The whole configuration, checked.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct Config {
            $(pub(crate) $name: $type,)+
            #[serde(skip)]
            origins: BTreeMap<String, Origin>,
        }

        const SECTIONS: &[SectionText] = &[$(SectionText {
            name: stringify!($name),
            about: <$type as Described>::ABOUT,
            keys: <$type as Described>::KEYS,
        }),+];
    };
}

sections! {
    server: Server,
    listen: Listen,
    tls: Tls,
    limits: Limits,
    rate: Rate,
    tasks: Tasks,
    context: Context,
    webhooks: Webhooks,
    store: Store,
    vault: Vault,
    egress: Egress,
    cache: Cache,
    quota: Quota,
    intent: Intent,
    openai: OpenAi,
    google: Google,
    identity: Identity,
    admin: Admin,
    log: Log,
}

section! {
    /// The process and its data.
    Server {
        /// Directory of everything that is kept. Made when missing. Relative paths start at the working directory.
        data_dir: PathBuf = PathBuf::from("data"),
        /// Shard cores, each with a thread of its own, 0 to 256; 0 takes every CPU the process may use.
        cores: u64 = 0,
        /// Whether each core's thread is bound to a CPU.
        pin: bool = true,
        /// How the cores do I/O: "uring", "epoll", or "auto": uring, and epoll where it is forbidden.
        io: IoMode = IoMode::Auto,
        /// Shards a new data directory is divided into, 1 to 4096. Fixed for the life of the directory.
        shards: u64 = 256,
        /// What the process gives up that it has no use for: "auto" what the host lets it, "require" all of it or no start,
        /// "off" nothing.
        sandbox: SandboxMode = SandboxMode::Auto,
        /// After a request to stop: how long the end may take, in milliseconds, up to 600000. Commands under way may finish
        /// until two seconds before, or half of it.
        shutdown_grace_ms: Milliseconds = Milliseconds(8_000),
    }
}

section! {
    /// Where clients come in: HTTP/3 over UDP, and HTTP/2 and HTTP/1.1 over TCP.
    Listen {
        /// IP addresses to listen on, 1 to 16 of them.
        addresses: Vec<IpAddr> = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        /// The port that all cores share, 0 to 65535; 0 lets the system choose it and the cores' own.
        port: u16 = 4433,
        /// Core i also has port core_port_base + i to itself; 0 means port + 1.
        core_port_base: u16 = 0,
        /// Where browsers reach the gateway, such as "https://sluice.example.com", without a path: links lead there, and Google
        /// sends browsers back there. Empty for https://localhost and the port.
        public_url: String = String::new(),
        /// Whether answers tell clients by Alt-Svc where HTTP/3 is, so that browsers move there.
        alt_svc: bool = true,
        /// The port they name over TCP where it is another from outside, as behind a container's or a router's mapping; 0 for
        /// the port as it is bound. With it the cores' own ports are named only if alt_svc_core_port_base is given.
        alt_svc_port: u16 = 0,
        /// What answers from another core name for core i is this plus i; 0 for its port as it is bound.
        alt_svc_core_port_base: u16 = 0,
        /// Whether HTTP/2 and HTTP/1.1 are served over TLS on the shared port number of TCP.
        tcp: bool = true,
        /// Kernel buffers of each UDP socket in bytes, 65536 to 268435456; the kernel's own limit still holds.
        socket_buffer_bytes: u64 = 8 << 20,
    }
}

section! {
    /// Who the gateway is. Without certificate it makes a development authority of its own in the data directory.
    Tls {
        /// PEM file with the certificate chain, leaf first; empty for none.
        certificate: MaybePath = MaybePath::default(),
        /// PEM file with the private key of the certificate; empty for none.
        key: MaybePath = MaybePath::default(),
        /// Whether a development certificate may be used when no certificate is given.
        development: bool = true,
        /// Further certificates, each with chain and key, such as [[tls.certificates]] chain = "a.pem" key = "a.key"; as one
        /// text "a.pem:a.key". A client is given the one that names the host it asks for, or else tls.certificate.
        certificates: Vec<CertificatePair> = Vec::new(),
        /// How often files are looked at for a new certificate, in seconds, 0 to 3600; 0 leaves it to SIGHUP.
        watch_interval_s: u64 = 10,
        /// File with the secrets of session tickets, 64 hexadecimal digits a line, so that clients resume after a restart
        /// and on other machines with the same file; empty for secrets that end with the process.
        ticket_key_file: MaybePath = MaybePath::default(),
        /// Whether returning clients may send safe requests with their first packet (0-RTT).
        early_data: bool = false,
    }
}

section! {
    /// What one client, one user and one core may take.
    Limits {
        /// Largest request body in bytes, 1024 to 16777216.
        body_bytes_max: u64 = 65_536,
        /// Largest content of a file in bytes, up or down, 65536 to 5497558138880; it passes in pieces.
        transfer_bytes_max: u64 = 5 << 30,
        /// Contents on their way on one core at once, 1 to 10000. Each upload holds 1 MiB.
        transfers_per_core_max: u64 = 64,
        /// HTTP/3 connections open at once in the whole process, 1 to 10000000.
        connections_max: u64 = 100_000,
        /// TCP connections open at once in the whole process, 1 to 1000000; half the files it may open at most.
        tcp_connections_max: u64 = 10_000,
        /// Connections of one client at once over HTTP/3, and as many over TCP, 0 to 10000000; 0 is no bound. A client is an
        /// IPv4 address or an IPv6 network of 64 bits. Over HTTP/3 each core has its part of it.
        connections_per_address_max: u64 = 4_096,
        /// Requests open at once on one connection, 1 to 1024.
        streams_max: u64 = 128,
        /// A connection this long without a packet, over TCP without a request, is closed; milliseconds, 1000 to
        /// 600000.
        idle_timeout_ms: Milliseconds = Milliseconds(30_000),
        /// An HTTP/3 connection this long without a request is closed, whatever packets come, to the eighth; milliseconds, 0
        /// to 86400000, and no less than idle_timeout_ms; 0 lets it stay.
        unused_timeout_ms: Milliseconds = Milliseconds(30_000),
        /// Longest time in which a request must have arrived whole, and in which a client must take some of an answer that
        /// waits for it, in milliseconds, 1000 to 600000. Over HTTP/3 it is kept to a quarter.
        request_timeout_ms: Milliseconds = Milliseconds(30_000),
        /// Longest handshake in milliseconds, 1000 to 60000.
        handshake_timeout_ms: Milliseconds = Milliseconds(10_000),
        /// HTTP/3 handshakes under way on one core above which clients must prove their address first (Retry), 0 to
        /// 1000000; 0 asks all of them to. Above twice as many, and 1024, nobody begins another.
        handshakes_per_core_max: u64 = 4_096,
        /// Longest time for one command in milliseconds, upstream calls included, 1000 to 600000.
        command_timeout_ms: Milliseconds = Milliseconds(60_000),
        /// Tasks that may wait on one core, 1 to 1000000.
        tasks_queued_per_core_max: u64 = 10_000,
        /// Tasks that may run at once on one core, 1 to 100000.
        tasks_running_per_core_max: u64 = 1_024,
        /// Tasks of one user that may run at once, 1 to 1000; no more than tasks_running_per_core_max.
        tasks_running_per_user_max: u64 = 8,
    }
}

section! {
    /// How many requests are taken a minute and an hour, 0 to 10000000 each; 0 is no limit. Each number is also how many
    /// may come at once; then they come back evenly.
    Rate {
        /// Requests of a user a minute, unless `sluice user limit` says otherwise for one.
        user_per_minute: u64 = 100,
        /// Requests of a user an hour, as above.
        user_per_hour: u64 = 1_000,
        /// Requests of a user under way at once, as above; streams of events among them.
        user_concurrent_max: u64 = 128,
        /// Requests with one API key a minute; with 0 all keys share what the user has.
        key_per_minute: u64 = 0,
        /// Requests with one API key an hour.
        key_per_hour: u64 = 0,
        /// Of a user's requests, commands, confirmations and runs of workflows a minute.
        commands_per_minute: u64 = 0,
        /// The same an hour.
        commands_per_hour: u64 = 0,
        /// Of a user's requests, reads of tasks, sessions and dead letters a minute.
        reads_per_minute: u64 = 0,
        /// The same an hour.
        reads_per_hour: u64 = 0,
        /// Of a user's requests, those for mail, calendar and files as they are a minute.
        google_per_minute: u64 = 0,
        /// The same an hour.
        google_per_hour: u64 = 0,
        /// Of a user's requests, all others a minute: changes of what is kept here.
        administration_per_minute: u64 = 0,
        /// The same an hour.
        administration_per_hour: u64 = 0,
        /// Requests from an IPv4 address or an IPv6 network of 64 bits a minute, whoever sends them.
        address_per_minute: u64 = 6_000,
        /// The same an hour.
        address_per_hour: u64 = 100_000,
        /// Requests from such an address a minute whose API key nobody has, or whose token is not accepted; then such
        /// keys and tokens are not looked at.
        unauthorized_per_minute: u64 = 20,
        /// The same an hour.
        unauthorized_per_hour: u64 = 200,
        /// Users, and as many keys, that each core can count at a time, 16 to 16777216; rounded up to a power of two. 56
        /// bytes each.
        users_tracked_per_core: u64 = 131_072,
        /// Addresses that the process can count at a time, 16 to 16777216; rounded up to a power of two. 48 bytes each.
        addresses_tracked: u64 = 65_536,
    }
}

section! {
    /// Commands once they are accepted.
    Tasks {
        /// Attempts at a queued command that fails in a way that may pass, the first included, 1 to 100; then it is a dead
        /// letter.
        attempts_max: u64 = 5,
        /// Upper end of the wait before the second attempt, in milliseconds, 1 to 3600000; it doubles with each.
        retry_base_ms: Milliseconds = Milliseconds(1_000),
        /// Upper end of any wait between attempts, in milliseconds, retry_base_ms to 86400000.
        retry_max_ms: Milliseconds = Milliseconds(30_000),
        /// Operations that are never carried out before their user has confirmed the plan, such as "gmail.send".
        confirm: Vec<String> = Vec::new(),
        /// How long a plan waits to be confirmed before it is cancelled, in seconds, 60 to 2592000.
        unconfirmed_life_s: u64 = 86_400,
        /// How long an Idempotency-Key is remembered, in seconds, 60 to 2592000.
        idempotency_life_s: u64 = 86_400,
    }
}

section! {
    /// Documents that users keep for some days, and snapshots of them.
    Context {
        /// Bytes of all documents of one user, and of what snapshots keep besides, 65536 to 104857600; a document may have all
        /// of them.
        bytes_per_user_max: u64 = 10 << 20,
        /// How long a document or snapshot lives that does not say, in seconds, 60 to ttl_max_s; writing a document renews it.
        ttl_s: u64 = 604_800,
        /// The longest life that may be asked for, in seconds, 60 to 31536000.
        ttl_max_s: u64 = 2_592_000,
    }
}

section! {
    /// Messages to places that users name, when their tasks end.
    Webhooks {
        /// Whether http:// is taken beside https://; for receivers in a network of your own.
        allow_http: bool = false,
        /// Ports that receivers may have, 1 to 65535 each; [] takes all.
        ports: Vec<u16> = vec![443, 8443],
        /// Networks that receivers may be in although they are not of the public Internet, such as "10.1.0.0/16" or "fd00:1::/32".
        allow: Vec<IpNet> = Vec::new(),
        /// Webhooks of one user, 1 to 100.
        per_user_max: u64 = 10,
        /// Messages of one user that may wait to be delivered, 1 to 1000000; what happens beyond is not told.
        pending_per_user_max: u64 = 1_000,
        /// The same of all users of a core, 1 to 10000000.
        pending_per_core_max: u64 = 50_000,
        /// Attempts at once on a core, 1 to 10000.
        running_per_core_max: u64 = 128,
        /// Attempts at once for one user, 1 to 10000.
        running_per_user_max: u64 = 8,
        /// Attempts of a core at once at one receiver, that is host and port, 1 to 10000.
        running_per_receiver_max: u64 = 8,
        /// Longest wait for name, TCP and TLS together in milliseconds, 10 to 60000.
        connect_timeout_ms: Milliseconds = Milliseconds(5_000),
        /// Longest attempt in milliseconds, 100 to 600000.
        attempt_timeout_ms: Milliseconds = Milliseconds(15_000),
        /// Attempts at one message, the first included, before it is given up, 1 to 100.
        attempts_max: u64 = 10,
        /// Upper end of the wait before the second attempt, in milliseconds, 1 to 3600000; it grows fourfold with each.
        retry_base_ms: Milliseconds = Milliseconds(5_000),
        /// Upper end of any wait that the receiver did not ask for, in milliseconds, retry_base_ms to 86400000.
        retry_max_ms: Milliseconds = Milliseconds(28_800_000),
        /// Messages given up in a row after which a webhook is disabled, 1 to 100000.
        disable_after: u64 = 10,
        /// How long the old secret of a webhook signs beside a new one, in seconds, 0 to 2592000.
        rotation_overlap_s: u64 = 86_400,
    }
}

section! {
    /// The embedded storage.
    Store {
        /// When a promise is given: "fsync" once the change is on the disk, "os" once the operating system has it.
        durability: Durability = Durability::Fsync,
        /// Cache of blocks read from the disk in MiB, 8 to 1048576, for the whole process.
        block_cache_mib: u64 = 256,
        /// Changes kept in memory before they are written as files in MiB, 8 to 65536, for the whole process.
        write_buffer_mib: u64 = 64,
        /// Threads that read what is not cached, 1 to 64.
        reader_threads: u64 = 2,
    }
}

section! {
    /// What seals users' tokens at rest. A start without a master key is refused; `sluice vault keygen` makes one.
    Vault {
        /// File with the master keys, a line VERSION:KEY each, outside the data directory and readable by its owner alone; empty
        /// for none.
        key_file: MaybePath = MaybePath::default(),
        /// Name of the systemd credential with the same content, used when there is neither file nor keys.
        credential: String = "sluice-master-keys".to_owned(),
        /// The master keys themselves, parted by commas, from the environment alone (SLUICE_VAULT__KEYS); key_file is the safer
        /// place.
        keys: Secret = Secret::default(),
        /// Whether the system may write the process's memory to a core file, and debuggers of the same user may look at it.
        core_dumps: bool = false,
    }
}

section! {
    /// Calls to OpenAI and Google.
    Egress {
        /// Threads that make the calls, 1 to 32.
        threads: u64 = 1,
        /// Calls to OpenAI under way at once, 1 to 65536.
        openai_concurrency_max: u64 = 256,
        /// Calls under way at once to each of Google's services, 1 to 65536.
        google_concurrency_max: u64 = 256,
        /// Calls that may wait for each service, 1 to 1000000.
        queue_max: u64 = 10_000,
        /// Longest time to connect in milliseconds, 10 to 60000.
        connect_timeout_ms: Milliseconds = Milliseconds(3_000),
        /// Longest single attempt of a call that may be repeated, in milliseconds, 100 to 600000.
        attempt_timeout_ms: Milliseconds = Milliseconds(20_000),
        /// How long an unused connection is kept, in milliseconds, 1000 to 3600000.
        idle_timeout_ms: Milliseconds = Milliseconds(90_000),
        /// Largest answer in bytes, 65536 to 1073741824.
        response_bytes_max: u64 = 4 << 20,
        /// Attempts for one call, the first included, 1 to 10.
        retry_attempts_max: u64 = 3,
        /// Upper end of the wait before the first retry, in milliseconds, 1 to 60000; it doubles with each.
        retry_backoff_base_ms: Milliseconds = Milliseconds(100),
        /// Upper end of any wait that the service did not ask for, in milliseconds, up to 600000.
        retry_backoff_max_ms: Milliseconds = Milliseconds(5_000),
        /// Retries allowed for each hundred calls, 0 to 100.
        retry_budget_percent: u64 = 20,
        /// Retries allowed each second on top of that, 0 to 10000.
        retry_budget_per_second: u64 = 10,
        /// Whether a read from Google that takes longer than 95 of 100 of its kind is asked for a second time, within the
        /// budget of retries; the first answer counts.
        hedge_reads: bool = true,
        /// The shortest wait before that, in milliseconds, 1 to 60000.
        hedge_after_min_ms: Milliseconds = Milliseconds(20),
        /// Failures in a row after which a core leaves an operation of a service alone, 1 to 10000; after as many of different
        /// ones all reads, or all changes.
        breaker_failures_in_a_row: u64 = 10,
        /// The same by the share of failures in the last 10 s, in percent, 1 to 100.
        breaker_failure_percent: u64 = 50,
        /// Calls in the last 10 s below which that share says nothing, 1 to 100000.
        breaker_calls_min: u64 = 20,
        /// How long a service is left alone at first, in milliseconds, 10 to 600000; it doubles while probes fail.
        breaker_open_ms: Milliseconds = Milliseconds(2_000),
        /// The longest a service is left alone, in milliseconds, breaker_open_ms to 3600000.
        breaker_open_max_ms: Milliseconds = Milliseconds(30_000),
    }
}

section! {
    /// What each core remembers of reads from Gmail, Calendar and Drive.
    Cache {
        /// Memory of each core in bytes, 0 to 1099511627776; 0 remembers nothing.
        read_bytes_per_core: u64 = 32 << 20,
        /// How long a read is fresh, in milliseconds, 0 to 86400000.
        read_fresh_ms: Milliseconds = Milliseconds(300_000),
        /// How long after that it may be used while it is read anew, in milliseconds, 0 to 86400000.
        read_stale_ms: Milliseconds = Milliseconds(60_000),
        /// How long after a change of a user's nothing of the changed service is remembered, in milliseconds, 0 to 600000:
        /// searches lag behind changes.
        settle_ms: Milliseconds = Milliseconds(3_000),
    }
}

section! {
    /// What the upstreams allow this project, and what calls cost. 0 is no limit. Defaults are Google's for projects made
    /// since May 2026; Drive's units by method are not published and are guessed high.
    Quota {
        /// Units of Gmail in any minute, all users together.
        gmail_project_units_per_minute: u64 = 1_200_000,
        /// Units of Gmail in any minute, each user.
        gmail_user_units_per_minute: u64 = 6_000,
        /// Units of Gmail in any 24 hours.
        gmail_units_per_day: u64 = 80_000_000,
        /// Requests to Calendar in any minute, all users together.
        calendar_project_units_per_minute: u64 = 10_000,
        /// Requests to Calendar in any minute, each user.
        calendar_user_units_per_minute: u64 = 600,
        /// Requests to Calendar in any 24 hours.
        calendar_units_per_day: u64 = 1_000_000,
        /// Units of Drive in any minute, all users together.
        drive_project_units_per_minute: u64 = 1_000_000,
        /// Units of Drive in any minute, each user.
        drive_user_units_per_minute: u64 = 325_000,
        /// Units of Drive in any 24 hours.
        drive_units_per_day: u64 = 400_000_000,
        /// Units of finding messages, drafts or threads.
        gmail_list_units: u64 = 5,
        /// Units of getting a message or a draft.
        gmail_get_units: u64 = 20,
        /// Units of getting a thread.
        gmail_thread_units: u64 = 40,
        /// Units of asking what changed.
        gmail_history_units: u64 = 2,
        /// Units of making, changing or deleting a draft.
        gmail_draft_units: u64 = 10,
        /// Units of sending.
        gmail_send_units: u64 = 100,
        /// Units of changing labels; a thread costs twice, deleting four times, a batch ten times as much.
        gmail_modify_units: u64 = 5,
        /// Units of a request to Calendar.
        calendar_units: u64 = 1,
        /// Units of finding files.
        drive_list_units: u64 = 100,
        /// Units of what is known of a file.
        drive_get_units: u64 = 5,
        /// Units of a file's content.
        drive_read_units: u64 = 200,
        /// Units of changing a file.
        drive_write_units: u64 = 50,
        /// Requests to OpenAI in any minute.
        openai_requests_per_minute: u64 = 30_000,
        /// Tokens of OpenAI in any minute; accounts differ.
        openai_tokens_per_minute: u64 = 0,
        /// Tokens an answer is taken to have until it is there.
        openai_answer_tokens: u64 = 500,
        /// What normal and batch work may use of a project's budget, in percent, 1 to 100.
        normal_percent: u64 = 95,
        /// What batch work may use of it, in percent, 1 to normal_percent.
        batch_percent: u64 = 75,
        /// Calls of one user under way at once to one service, 1 to 1000.
        user_concurrent_max: u64 = 10,
        /// Calls of one core that may wait for one upstream, 1 to 1000000.
        waiting_per_core_max: u64 = 10_000,
        /// What one upstream may hold of a core's places for commands (tasks_running_per_core_max) while it is asked or waited for and
        /// no other upstream holds any, in percent, 1 to 100; several that hang share more than this, never all; requests of the
        /// plain surface count as well.
        places_percent: u64 = 75,
        /// Added to every window, for the time between the spending of units here and their counting there, in
        /// milliseconds, 0 to 60000.
        slack_ms: Milliseconds = Milliseconds(2_000),
        /// The wait after a refusal for its rate that names none, in milliseconds, 1 to 60000; it doubles up to a minute.
        cool_down_ms: Milliseconds = Milliseconds(1_000),
    }
}

section! {
    /// What commands mean, worked out without the model.
    Intent {
        /// Whether common commands are read by rules; what they do not wholly understand goes to the model.
        local: bool = true,
        /// How sure the rules must be to read, 0 to 1; to send, make, change or cancel anything they must be sure to 0.95
        /// at least, whatever stands here.
        confidence_min: f64 = 0.9,
        /// How long a pattern learned from a plan of the model is used, in seconds, 0 to 604800; 0 learns none.
        pattern_ttl_s: u64 = 86_400,
        /// Bytes of patterns kept on each core, 0 to 1073741824; 0 learns none.
        pattern_cache_bytes_per_core: u64 = 4 << 20,
    }
}

section! {
    /// The model that turns commands into plans.
    OpenAi {
        /// Base URL of the API; the path /v1/responses is added.
        base_url: String = "https://api.openai.com".to_owned(),
        /// API key; api_key_file is the safer place.
        api_key: Secret = Secret::default(),
        /// File with the API key; empty for none.
        api_key_file: MaybePath = MaybePath::default(),
        /// Name of the model.
        model: String = "gpt-5-mini".to_owned(),
    }
}

section! {
    /// Google's services and our OAuth client there.
    Google {
        /// The OAuth token endpoint.
        token_url: String = "https://oauth2.googleapis.com/token".to_owned(),
        /// The OAuth authorization endpoint, where users consent.
        auth_url: String = "https://accounts.google.com/o/oauth2/v2/auth".to_owned(),
        /// The OAuth revocation endpoint, of the same origin as token_url; empty for `revoke` in the place of the last part of
        /// that.
        revoke_url: String = String::new(),
        /// Who must have made the ID tokens that say whose account it is.
        issuer: String = "https://accounts.google.com".to_owned(),
        /// Origins that a user may be led on to when an account is connected, such as "https://app.example.com".
        return_origins: Vec<String> = Vec::new(),
        /// Base URL of Gmail.
        gmail_url: String = "https://gmail.googleapis.com".to_owned(),
        /// Base URL of Calendar.
        calendar_url: String = "https://www.googleapis.com".to_owned(),
        /// Base URL of Drive.
        drive_url: String = "https://www.googleapis.com".to_owned(),
        /// OAuth client ID.
        client_id: String = String::new(),
        /// OAuth client secret; client_secret_file is the safer place.
        client_secret: Secret = Secret::default(),
        /// File with the OAuth client secret; empty for none.
        client_secret_file: MaybePath = MaybePath::default(),
        /// Key file (JSON) of a service account with domain-wide delegation, which acts for users who have connected no account
        /// of their own and whose address is of a domain in delegated_domains; empty for none.
        service_account_file: MaybePath = MaybePath::default(),
        /// Domains of those addresses, such as "example.com"; those below them are not meant. 1 to 100 with a service account.
        delegated_domains: Vec<String> = Vec::new(),
        /// What the service account may do for them, as the domain's administrator has allowed it. 1 to 32 scopes.
        delegated_scopes: Vec<String> = vec![
            "https://www.googleapis.com/auth/gmail.modify".to_owned(),
            "https://www.googleapis.com/auth/calendar".to_owned(),
            "https://www.googleapis.com/auth/drive".to_owned(),
        ],
        /// Signatures of the service account made at once, 0 to 256; 0 for one on each core. Each takes a thread and about a
        /// millisecond of CPU; a user needs one an hour.
        delegated_signatures_max: u64 = 0,
    }
}

section! {
    /// Whose tokens are accepted beside API keys.
    Identity {
        /// Identity providers, each a table: [[identity.providers]] issuer = "https://id.example.com" audiences = ["sluice"];
        /// docs/auth.md describes all its keys. At most 16.
        providers: Vec<IdentityProvider> = Vec::new(),
        /// How often the providers' keys are fetched, in seconds, 10 to 86400.
        refresh_s: u64 = 300,
        /// The least time between two fetches that tokens with unknown keys cause, in seconds, 1 to 3600.
        refetch_s: u64 = 10,
        /// How long a request waits for the key that its token names, in milliseconds, 0 to 10000.
        key_wait_ms: Milliseconds = Milliseconds(2_000),
        /// The longest that the session of a browser lasts, in seconds, 300 to 2592000. Those that are begun keep their end.
        browser_session_life_s: u64 = 43_200,
    }
}

section! {
    /// What operators see. Neither place asks who is calling: keep both private.
    Admin {
        /// Address of metrics and health over HTTP/1.1.
        listen: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464),
        /// Unix socket for administration; empty means admin.sock in the data directory.
        socket: MaybePath = MaybePath::default(),
    }
}

section! {
    /// The log on standard error.
    Log {
        /// Least level that is logged: "error", "warn", "info", "debug" or "trace".
        level: LogLevel = LogLevel::Info,
        /// "text" for people, "json" for machines.
        format: LogFormat = LogFormat::Text,
    }
}

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag => f.write_str(FLAG_NAME),
        }
    }
}

/// One thing that is wrong, with all that is needed to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where the value came from.
    pub(crate) origin: Origin,
    /// The key, with its section.
    pub(crate) key: String,
    /// What is wrong and what is allowed.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.key, self.text)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file cannot be read; check path and permissions.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{} is not valid TOML: {problem}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where it fails.
        problem: String,
    },
    /// Keys or values are refused.
    #[error("the configuration is refused:{}", listed(.0))]
    Refused(Vec<Problem>),
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Config {
    /// Reads the file (if any), then the environment, then the flags, and checks the whole.
    ///
    /// A flag is a key with its section and a text, like `("listen.port", "4433")`. Lists are written
    /// `a,b` or as in TOML.
    ///
    /// # Errors
    /// The file cannot be read, or anything in the three is refused.
    pub(crate) fn load(file: Option<&Path>, flags: &[(String, String)]) -> Result<Self, ConfigError> {
        // What is not UTF-8 becomes a value that is refused, rather than one passed over.
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        Self::load_from(file, environment, flags)
    }

    fn load_from(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            figment = figment.merge(Toml::string(&read_toml(path)?));
        }
        let environment = Pairs::environment(environment);
        let flags = Pairs::flags(flags);
        let mut misspelt = environment.misspelt();
        misspelt.extend(flags.misspelt());
        figment = figment.merge(environment).merge(flags);
        let source = Source { figment: &figment, file };
        refuse_if_any(misspelt.into_iter().chain(source.unknown_keys()).collect())?;
        let mut config: Self = figment.extract().map_err(|error| source.refuse(error))?;
        config.origins = source.origins();
        config.check().map_err(ConfigError::Refused)?;
        Ok(config)
    }

    /// Where the value of `section.key` came from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or_default()
    }

    /// Bounds and combinations.
    ///
    /// # Errors
    /// Everything that is out of bounds or cannot go together.
    pub(crate) fn check(&self) -> Result<(), Vec<Problem>> {
        let mut checks = Checks { config: self, problems: Vec::new() };
        checks.bounds();
        checks.listen();
        checks.tls();
        checks.combinations();
        checks.identity();
        checks.urls();
        if checks.problems.is_empty() { Ok(()) } else { Err(checks.problems) }
    }

    /// What serving needs besides: credentials for upstreams reached over https.
    ///
    /// # Errors
    /// Everything that is missing.
    pub(crate) fn check_credentials(&self) -> Result<(), Vec<Problem>> {
        let mut checks = Checks { config: self, problems: Vec::new() };
        let has_key = self.openai.api_key.expose().is_some() || self.openai.api_key_file.get().is_some();
        if self.openai.base_url.starts_with("https:") && !has_key {
            checks.refuse("openai.api_key", "missing; set it or openai.api_key_file".to_owned());
        }
        let google = &self.google;
        // A service account needs no client.
        if google.token_url.starts_with("https:") && google.service_account_file.get().is_none() {
            if google.client_id.is_empty() {
                checks.refuse("google.client_id", "missing; it comes from Google's console".to_owned());
            }
            if google.client_secret.expose().is_none() && google.client_secret_file.get().is_none() {
                checks.refuse(
                    "google.client_secret",
                    "missing; set it or google.client_secret_file".to_owned(),
                );
            }
        }
        if checks.problems.is_empty() { Ok(()) } else { Err(checks.problems) }
    }

    /// The service account from its key file, or `None` when there is none; for a gateway of so many cores.
    ///
    /// # Errors
    /// The file cannot be read, is no key file, or is for another token endpoint.
    pub(crate) fn resolve_delegation(&self, cores: usize) -> Result<Option<Delegation>, ConfigError> {
        let google = &self.google;
        let Some(path) = google.service_account_file.get() else { return Ok(None) };
        let refuse = |text: String| {
            let key = "google.service_account_file";
            ConfigError::Refused(vec![Problem { origin: self.origin(key), key: key.to_owned(), text }])
        };
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let signed_at_once = NonZeroUsize::new(google.signed_at_once(cores)).unwrap_or(NonZeroUsize::MIN);
        let (domains, scopes) = (&google.delegated_domains, &google.delegated_scopes);
        let found = Delegation::new(&text, domains, scopes, signed_at_once)
            .map_err(|error| refuse(format!("{}: {error}", path.display())))?;
        if found.token_uri() != google.token_url {
            let (theirs, ours) = (found.token_uri(), &google.token_url);
            return Err(refuse(format!(
                "{} is for the token endpoint {theirs}, but google.token_url is {ours}; allowed is the same",
                path.display()
            )));
        }
        Ok(Some(found))
    }

    /// The effective configuration as TOML, with the meaning and origin of every key and without secrets.
    pub(crate) fn print(&self) -> String {
        let values = values_of(self);
        let mut text = String::new();
        for section in SECTIONS {
            for line in section.about {
                text.push_str(&format!("#{line}\n"));
            }
            text.push_str(&format!("[{}]\n", section.name));
            for KeyText { key, lines, .. } in section.keys {
                let path = format!("{}.{key}", section.name);
                for line in *lines {
                    text.push_str(&format!("#{line}\n"));
                }
                text.push_str(&format!("{key} = {}  # {}\n", values[&path], self.origin(&path)));
            }
            text.push('\n');
        }
        text.pop();
        text
    }
}

/// Every key with its value in TOML notation.
fn values_of(config: &Config) -> BTreeMap<String, String> {
    let table = toml::Table::try_from(config).unwrap_or_default();
    let mut values = BTreeMap::new();
    for (section, keys) in &table {
        for (key, value) in keys.as_table().into_iter().flatten() {
            values.insert(format!("{section}.{key}"), value.to_string());
        }
    }
    values
}

/// The part of `docs/configuration.md` that lists the keys.
#[cfg(test)]
fn reference() -> String {
    let defaults = values_of(&Config::default());
    let mut text = String::new();
    for section in SECTIONS {
        text.push_str(&format!("\n## [{}]\n\n", section.name));
        text.push_str(&format!("{}\n\n| key | default | meaning |\n|---|---|---|\n", joined(section.about)));
        for KeyText { key, lines, .. } in section.keys {
            let default = &defaults[&format!("{}.{key}", section.name)];
            text.push_str(&format!("| `{key}` | `{default}` | {} |\n", joined(lines)));
        }
    }
    text
}

/// The keys that name files or directories, sorted.
#[cfg(test)]
pub(crate) fn path_keys() -> Vec<String> {
    let names_path = |key: &&KeyText| {
        ["Path", "CertificatePair", "IdentityProvider"].iter().any(|part| key.type_name.contains(part))
    };
    let keys_of = |section: &SectionText| {
        let keys = section.keys.iter().filter(names_path);
        keys.map(|key| format!("{}.{}", section.name, key.key)).collect::<Vec<_>>()
    };
    let mut keys: Vec<String> = SECTIONS.iter().flat_map(keys_of).collect();
    keys.sort();
    keys
}

#[cfg(test)]
fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

impl Listen {
    /// The shared addresses, each with the shared port.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|address| SocketAddr::new(*address, self.port))
    }

    /// The first of the cores' own ports, or `None` when there is none left above the shared one. Of no meaning
    /// where the system chooses.
    pub(crate) fn core_port_first(&self) -> Option<u16> {
        if self.core_port_base == 0 { self.port.checked_add(1) } else { Some(self.core_port_base) }
    }
}

impl Listen {
    /// What answers over TCP say of HTTP/3.
    pub(crate) fn alt_svc_shared(&self) -> AltSvc {
        match NonZeroU16::new(self.alt_svc_port) {
            _ if !self.alt_svc => AltSvc::Nothing,
            None => AltSvc::PortAsBound,
            Some(port) => AltSvc::Port(port),
        }
    }

    /// The port of each core that answers may name, given those that are bound; none where clients would not reach them.
    pub(crate) fn alt_svc_core_ports(&self, bound: &[u16]) -> Vec<u16> {
        match (self.alt_svc_core_port_base, self.alt_svc_port) {
            _ if !self.alt_svc => Vec::new(),
            (0, 0) => bound.to_vec(),
            // Whoever maps one port has not said that others are mapped.
            (0, _) => Vec::new(),
            (base, _) => (base..=u16::MAX).take(bound.len()).collect(),
        }
    }
}

impl Admin {
    /// The socket's path; beside the data unless it is given.
    pub(crate) fn socket_path(&self, server: &Server) -> PathBuf {
        self.socket.get().map_or_else(|| server.data_dir.join("admin.sock"), Path::to_owned)
    }
}

impl OpenAi {
    /// The API key from its place, or `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn resolve_key(&self) -> Result<Option<String>, ConfigError> {
        resolve(&self.api_key, &self.api_key_file)
    }
}

impl Listen {
    /// Where browsers reach the gateway: an origin.
    pub(crate) fn public_origin(&self) -> String {
        match (self.public_url.trim_end_matches('/'), self.port) {
            ("", 0 | 443) => "https://localhost".to_owned(),
            ("", port) => format!("https://localhost:{port}"),
            (url, _) => url.to_owned(),
        }
    }
}

impl Google {
    /// Signatures that the service account makes at once in a gateway of so many cores; 0 where there is none.
    pub(crate) fn signed_at_once(&self, cores: usize) -> usize {
        let wanted = usize::try_from(self.delegated_signatures_max).unwrap_or(usize::MAX);
        match self.service_account_file.get() {
            None => 0,
            Some(_) if wanted == 0 => cores.min(Delegation::SIGNED_AT_ONCE_MAX),
            Some(_) => wanted,
        }
    }

    /// The revocation endpoint: as it is given, or beside the token endpoint.
    pub(crate) fn revocation_url(&self) -> String {
        if !self.revoke_url.is_empty() {
            return self.revoke_url.clone();
        }
        let token_url = self.token_url.trim_end_matches('/');
        let (beside, _) = token_url.rsplit_once('/').unwrap_or((token_url, ""));
        format!("{beside}/revoke")
    }

    /// The OAuth client secret from its place, or `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn resolve_client_secret(&self) -> Result<Option<String>, ConfigError> {
        resolve(&self.client_secret, &self.client_secret_file)
    }
}

fn resolve(secret: &Secret, file: &MaybePath) -> Result<Option<String>, ConfigError> {
    let Some(path) = file.get() else { return Ok(secret.expose().map(str::to_owned)) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    Ok(Some(text.trim().to_owned()))
}

fn refuse_if_any(problems: Vec<Problem>) -> Result<(), ConfigError> {
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Refused(problems)) }
}
