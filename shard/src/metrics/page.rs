//! The page of metrics: what is counted, under the names operators see.

mod limits;

use std::borrow::Cow;
use std::fmt::Error;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use sluice_core::Counter;
use sluice_core::mailbox::MailboxStats;
use sluice_net::egress::{Egress, LATENCY_BOUNDS_MS, OutwardError, Reason, Upstream, UpstreamSnapshot};
use sluice_protocols::api::Priority;
use sluice_protocols::problem::ProblemKind;
use sluice_store::Store;
use sluice_store::stats::HistogramSnapshot;

use super::cells::{
    CLASSES, CoreMetrics, EndState, Growth, LATENCY_US_BOUNDS, PriorityCells, RouteLabel, SINGLE,
};
use crate::cache::CacheStats;
use crate::clock::Clock;
use crate::limit::Limits;
use crate::quota::{DoorStats, Quotas};

/// Microseconds in a second. Dividing by it gives the nearest number to the decimal one means; multiplying by its
/// inverse would not.
const MICROS: f64 = 1e6;

/// Names of reactor and ingress counters that are no totals.
const GAUGES: [&str; 3] = ["stall_longest_us", "connections", "requests_in_flight"];

/// Everything the page shows.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) cores: Arc<[Arc<CoreMetrics>]>,
    pub(super) store: Store,
    pub(super) egress: Egress,
    /// What the cores share of the quotas, once they run.
    pub(super) quotas: Arc<OnceLock<Arc<Quotas>>>,
    /// And of the limits on requests.
    pub(super) limits: Arc<OnceLock<Arc<Limits>>>,
}

type DoorRead = fn(&DoorStats) -> u64;
type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

/// The number of a metric: an integer, or seconds.
#[derive(Clone, Copy)]
enum Number {
    Count(u64),
    Seconds(f64),
}

struct HistogramRow {
    sum: f64,
    /// Upper bound and count of each bucket alone; the last bound is infinite.
    buckets: Vec<(f64, u64)>,
}

impl HistogramRow {
    /// Of what is counted by [`LATENCY_US_BOUNDS`].
    fn of(counts: &[Counter; LATENCY_US_BOUNDS.len() + 1], sum_us: &Counter) -> Self {
        let bounds = LATENCY_US_BOUNDS.iter().map(|us| *us as f64 / MICROS).chain([f64::INFINITY]);
        let buckets = bounds.zip(counts.iter().map(Counter::get)).collect();
        Self { sum: sum_us.get() as f64 / MICROS, buckets }
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

fn write_number(metric: &mut MetricEncoder<'_>, growth: Growth, number: Number) -> Result<(), Error> {
    match (growth, number) {
        (Growth::Total, Number::Count(n)) => metric.encode_counter::<NoLabelSet, _, u64>(&n, None),
        (Growth::Total, Number::Seconds(s)) => metric.encode_counter::<NoLabelSet, _, f64>(&s, None),
        (Growth::Gauge, Number::Count(n)) => metric.encode_gauge(&n),
        (Growth::Gauge, Number::Seconds(s)) => metric.encode_gauge(&s),
    }
}

fn write_histogram(metric: &mut MetricEncoder<'_>, row: &HistogramRow) -> Result<(), Error> {
    metric.encode_histogram::<NoLabelSet>(row.sum, row.count(), &row.buckets, None)
}

/// Writes families of metrics; those without labels have one row.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn numbers<const N: usize>(
        &mut self,
        growth: Growth,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<N>, Number)>,
    ) -> Result<(), Error> {
        let kind = match growth {
            Growth::Total => MetricType::Counter,
            Growth::Gauge => MetricType::Gauge,
        };
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, number) in rows {
            if N == 0 {
                write_number(&mut metric, growth, number)?;
            } else {
                write_number(&mut metric.encode_family(&labels)?, growth, number)?;
            }
        }
        Ok(())
    }

    fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<N>, HistogramRow)>,
    ) -> Result<(), Error> {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, row) in rows {
            if N == 0 {
                write_histogram(&mut metric, &row)?;
            } else {
                write_histogram(&mut metric.encode_family(&labels)?, &row)?;
            }
        }
        Ok(())
    }

    /// One number without labels.
    fn number(&mut self, growth: Growth, name: &str, help: &str, number: Number) -> Result<(), Error> {
        self.numbers::<0>(growth, name, help, [([], number)])
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut writer = Writer(encoder);
        self.requests(&mut writer)?;
        self.single(&mut writer)?;
        self.cores(&mut writer)?;
        self.mailboxes(&mut writer)?;
        self.ingress(&mut writer)?;
        self.runs(&mut writer)?;
        self.caches(&mut writer)?;
        self.quotas(&mut writer)?;
        self.limits(&mut writer)?;
        self.commits(&mut writer)?;
        self.reads(&mut writer)?;
        self.upstreams(&mut writer)?;
        self.outward(&mut writer)
    }
}

impl Page {
    /// Each core with its number.
    fn each_core(&self) -> impl Iterator<Item = (Cow<'static, str>, &CoreMetrics)> {
        self.cores.iter().enumerate().map(|(index, core)| (Cow::from(index.to_string()), &**core))
    }

    fn requests(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let routes = || {
            self.each_core().flat_map(|(core, metrics)| {
                let cells = RouteLabel::ALL.into_iter().zip(&metrics.routes);
                cells.map(move |(route, cells)| (core.clone(), route.name(), cells))
            })
        };
        let rows = routes().flat_map(|(core, route, cells)| {
            CLASSES.iter().zip(&cells.classes).map(move |(class, count)| {
                let labels = [("core", core.clone()), ("route", route.into()), ("status", (*class).into())];
                (labels, Number::Count(count.get()))
            })
        });
        writer.numbers(Growth::Total, "requests", "Requests answered, by class of status", rows)?;
        let rows = routes().map(|(core, route, cells)| {
            (
                [("core", core), ("route", route.into())],
                HistogramRow::of(&cells.latency, &cells.latency_sum_us),
            )
        });
        let help = "From the turn a request was complete in to its answer";
        writer.histograms("request_duration_seconds", help, rows)?;
        let rows = self.each_core().flat_map(|(core, metrics)| {
            ProblemKind::ALL.iter().zip(&metrics.problems).map(move |(kind, count)| {
                ([("core", core.clone()), ("kind", kind.slug().into())], Number::Count(count.get()))
            })
        });
        writer.numbers(Growth::Total, "problems", "Problem documents answered, by kind", rows)
    }

    fn single(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        for (index, (name, help, growth)) in SINGLE.iter().enumerate() {
            let rows = self
                .each_core()
                .map(|(core, metrics)| ([("core", core)], Number::Count(metrics.single()[index])));
            writer.numbers(*growth, name, help, rows)?;
        }
        let rows = self.each_core().flat_map(|(core, metrics)| {
            EndState::ALL.into_iter().zip(&metrics.ended).map(move |(state, count)| {
                ([("core", core.clone()), ("state", state.name().into())], Number::Count(count.get()))
            })
        });
        writer.numbers(Growth::Total, "tasks_ended", "Tasks ended, by how", rows)?;
        self.priorities(writer)?;
        let rows = self.each_core().map(|(core, metrics)| {
            let is_ready = metrics.state() == super::CoreState::Ready;
            ([("core", core)], Number::Count(u64::from(is_ready)))
        });
        writer.numbers(
            Growth::Gauge,
            "core_ready",
            "Whether the core serves (1) or starts or drains (0)",
            rows,
        )
    }

    /// What waits and runs of each priority.
    fn priorities(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let rows = |read: fn(&PriorityCells) -> u64| {
            self.each_core().flat_map(move |(core, metrics)| {
                Priority::ALL.into_iter().zip(&metrics.priorities).map(move |(priority, cells)| {
                    ([("core", core.clone()), ("priority", priority.name().into())], read(cells))
                })
            })
        };
        let counts = |read| rows(read).map(|(labels, count)| (labels, Number::Count(count)));
        let help = "Tasks waiting to be run, by priority";
        writer.numbers(Growth::Gauge, "tasks_waiting", help, counts(|cells| cells.queued.get()))?;
        let help = "Tasks running, by the priority they count as";
        writer.numbers(Growth::Gauge, "tasks_at_work", help, counts(|cells| cells.running.get()))?;
        let now_ms = Clock::system().unix_ms();
        let ages = rows(|cells| cells.oldest_ms.get()).map(|(labels, oldest_ms)| {
            let age_ms = if oldest_ms == 0 { 0 } else { now_ms.saturating_sub(oldest_ms) };
            (labels, Number::Seconds(age_ms as f64 / 1e3))
        });
        let help = "How long ago the oldest waiting task was accepted, by priority; 0 when none waits";
        writer.numbers(Growth::Gauge, "tasks_oldest_age_seconds", help, ages)?;
        let rows = self.each_core().flat_map(|(core, metrics)| {
            Priority::ALL.into_iter().zip(&metrics.priorities).map(move |(priority, cells)| {
                let labels = [("core", core.clone()), ("priority", priority.name().into())];
                (labels, HistogramRow::of(&cells.waits, &cells.waits_sum_us))
            })
        });
        let help = "From the arrival of a command to its beginning, by priority; it is written in between unless its caller waits";
        writer.histograms("task_wait_seconds", help, rows)
    }

    fn cores(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.each_named(writer, "core", "Counter of the core's reactor", |core| {
            core.reactor().each().collect()
        })
    }

    fn ingress(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.each_named(writer, "ingress", "Counter of the core's ingress", |core| {
            core.ingress().each().collect()
        })
    }

    fn runs(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        self.each_named(writer, "run", "Counter of the core's running tasks", |core| {
            core.run().each().collect()
        })
    }

    /// A set of counters that names its own, for each core. Times in microseconds become seconds.
    fn each_named(
        &self,
        writer: &mut Writer<'_>,
        prefix: &str,
        help: &str,
        read: impl Fn(&CoreMetrics) -> Vec<(&'static str, u64)>,
    ) -> Result<(), Error> {
        let Some(names) = self.cores.first().map(|core| read(core)) else { return Ok(()) };
        for (index, (name, _)) in names.iter().enumerate() {
            let growth = if GAUGES.contains(name) { Growth::Gauge } else { Growth::Total };
            let seconds = name.strip_suffix("_us");
            let full = match seconds {
                Some(name) => format!("{prefix}_{name}_seconds"),
                None => format!("{prefix}_{name}"),
            };
            let rows = self.each_core().map(|(core, metrics)| {
                let value = read(metrics)[index].1;
                let number = if seconds.is_some() {
                    Number::Seconds(value as f64 / MICROS)
                } else {
                    Number::Count(value)
                };
                ([("core", core)], number)
            });
            writer.numbers(growth, &full, &format!("{help}: {}", name.replace('_', " ")), rows)?;
        }
        Ok(())
    }

    /// The mailboxes for requests and those for datagrams.
    fn mailboxes(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        type Read = fn(&MailboxStats) -> u64;
        let families: [(Growth, &str, &str, Read); 6] = [
            (Growth::Total, "mailbox_sent", "Messages sent to other cores", |lane| lane.sent.get()),
            (Growth::Total, "mailbox_refused", "Messages refused since a lane was full", |lane| {
                lane.refused_full.get()
            }),
            (Growth::Total, "mailbox_received", "Messages received from other cores", |lane| {
                lane.received.get()
            }),
            (Growth::Total, "mailbox_expired", "Messages dropped as their deadline had passed", |lane| {
                lane.expired.get()
            }),
            (Growth::Total, "mailbox_replies", "Replies received from other cores", |lane| {
                lane.replies.get()
            }),
            (Growth::Gauge, "mailbox_depth", "Messages waiting in the fullest lane", |lane| lane.depth.get()),
        ];
        for (growth, name, help, read) in families {
            let rows = self.each_core().flat_map(|(core, metrics)| {
                let lanes = [("requests", metrics.mailbox()), ("datagrams", metrics.forward())];
                lanes.map(|(lane, stats)| {
                    ([("core", core.clone()), ("lane", lane.into())], Number::Count(read(stats)))
                })
            });
            writer.numbers(growth, name, help, rows)?;
        }
        Ok(())
    }

    /// The caches of reads, by kind.
    fn caches(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let kinds = || {
            self.each_core().flat_map(|(core, metrics)| {
                CacheStats::KINDS.into_iter().map(move |kind| (core.clone(), kind, metrics.cache().of(kind)))
            })
        };
        let rows = kinds().flat_map(|(core, kind, stats)| {
            stats.totals().into_iter().map(move |(event, count)| {
                let labels = [("core", core.clone()), ("kind", kind.name().into()), ("event", event.into())];
                (labels, Number::Count(count))
            })
        });
        writer.numbers(Growth::Total, "cache_reads", "Cached reads, by what became of them", rows)?;
        let rows = kinds().map(|(core, kind, stats)| {
            ([("core", core), ("kind", kind.name().into())], Number::Count(stats.bytes.get()))
        });
        writer.numbers(Growth::Gauge, "cache_bytes", "Memory of cached reads", rows)?;
        let rows = self.each_core().map(|(core, metrics)| {
            ([("core", core)], Number::Count(metrics.cache().refreshes_refused.get()))
        });
        let help = "Stale reads not renewed since too many renewals were under way";
        writer.numbers(Growth::Total, "cache_refreshes_refused", help, rows)
    }

    /// The brokers, and the budgets they share.
    fn quotas(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let doors = || {
            self.each_core().flat_map(|(core, metrics)| {
                let each = Upstream::ALL.into_iter();
                each.map(move |upstream| (core.clone(), upstream.name(), metrics.quota().of(upstream)))
            })
        };
        let families: [(Growth, &str, &str, DoorRead); 10] = [
            (Growth::Total, "quota_calls", "Calls asked for, repeats not counted", |s| s.calls.get()),
            (Growth::Total, "quota_units", "Units spent", |s| s.units.get()),
            (Growth::Total, "quota_waited", "Calls that waited for units or a place", |s| s.waited.get()),
            (Growth::Gauge, "quota_waiting", "Calls waiting for units or a place", |s| s.waiting.get()),
            (Growth::Gauge, "quota_under_way", "Calls under way", |s| s.under_way.get()),
            (Growth::Gauge, "quota_places", "Places of commands and requests held", |s| s.places.get()),
            (Growth::Total, "quota_retries", "Calls made again", |s| s.retries.get()),
            (Growth::Total, "quota_hedges", "Second copies of slow reads", |s| s.hedges.get()),
            (Growth::Total, "quota_hedges_won", "Second copies that were answered first", |s| {
                s.hedges_won.get()
            }),
            (
                Growth::Total,
                "quota_retries_over_budget",
                "Calls not made again, the budget being spent",
                |s| s.retries_over_budget.get(),
            ),
        ];
        for (growth, name, help, read) in families {
            let rows = doors().map(|(core, upstream, stats)| {
                ([("core", core), ("upstream", upstream.into())], Number::Count(read(stats)))
            });
            writer.numbers(growth, name, help, rows)?;
        }
        let reasons: [(&str, DoorRead); 5] = [
            ("limited", |s| s.denied_limited.get()),
            ("open", |s| s.denied_open.get()),
            ("full", |s| s.denied_full.get()),
            ("late", |s| s.denied_late.get()),
            ("crowded", |s| s.denied_crowded.get()),
        ];
        self.doors(writer, "quota_denied", "Calls not made, by reason", "reason", &reasons)?;
        let scopes: [(&str, DoorRead); 2] =
            [("project", |s| s.limited_project.get()), ("user", |s| s.limited_user.get())];
        let help = "Answers that limit us, by whom they limit";
        self.doors(writer, "quota_limited", help, "scope", &scopes)?;
        let opened: [(&str, DoorRead); 2] =
            [("read", |s| s.breakers[0].1.get()), ("write", |s| s.breakers[1].1.get())];
        self.doors(writer, "breaker_opened", "Times a breaker opened", "class", &opened)?;
        let rows = doors().flat_map(|(core, upstream, stats)| {
            let cells = ["read", "write"].into_iter().zip(&stats.breakers);
            cells.map(move |(class, cell)| {
                let labels = [("core", core.clone()), ("upstream", upstream.into()), ("class", class.into())];
                (labels, Number::Count(cell.0.get()))
            })
        });
        let help = "How a breaker stands: 0 closed, 1 half open, 2 open, as of the last call";
        writer.numbers(Growth::Gauge, "breaker_state", help, rows)?;
        self.budgets(writer)
    }

    fn doors(
        &self,
        writer: &mut Writer<'_>,
        name: &str,
        help: &str,
        label: &'static str,
        reads: &[(&'static str, DoorRead)],
    ) -> Result<(), Error> {
        let rows = self.each_core().flat_map(|(core, metrics)| {
            Upstream::ALL.into_iter().flat_map(move |upstream| {
                let core = core.clone();
                reads.iter().map(move |(value, read)| {
                    let labels = [
                        ("core", core.clone()),
                        ("upstream", upstream.name().into()),
                        (label, (*value).into()),
                    ];
                    (labels, Number::Count(read(metrics.quota().of(upstream))))
                })
            })
        });
        writer.numbers(Growth::Total, name, help, rows)
    }

    fn budgets(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let Some(quotas) = self.quotas.get() else { return Ok(()) };
        let now = Instant::now();
        let all: Vec<_> = Upstream::ALL
            .into_iter()
            .flat_map(|upstream| {
                quotas.budgets(upstream, now).into_iter().map(move |budget| (upstream, budget))
            })
            .collect();
        let labels = |upstream: Upstream, budget: &'static str| {
            [("upstream", Cow::from(upstream.name())), ("budget", budget.into())]
        };
        let rows = all.iter().map(|(of, (name, limit, _))| (labels(*of, name), Number::Count(*limit)));
        writer.numbers(Growth::Gauge, "quota_limit", "What may be spent in a window", rows)?;
        let rows = all.iter().map(|(of, (name, _, used))| (labels(*of, name), Number::Count(*used)));
        let help = "What is spent of the window that ends now, the cores' small holds included";
        writer.numbers(Growth::Gauge, "quota_used", help, rows)
    }

    fn commits(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let commit = &self.store.stats().commit;
        let totals = [
            ("commit_groups", "Groups of batches written, each by one write and sync", commit.groups.get()),
            ("commit_batches", "Batches written", commit.batches.get()),
            ("commit_bytes", "Bytes of batches written", commit.bytes.get()),
            (
                "commit_refused_full",
                "Submissions refused since the queue was full",
                commit.refused_full.get(),
            ),
            (
                "commit_refused_stopped",
                "Submissions refused since an earlier write failed; restart",
                commit.refused_stopped.get(),
            ),
            ("commit_held_back", "Records not written since their user was erased", commit.held_back.get()),
            ("commit_failures", "Writes that failed", commit.failures.get()),
        ];
        for (name, help, value) in totals {
            writer.number(Growth::Total, name, help, Number::Count(value))?;
        }
        let seconds = |ns: u64| Number::Seconds(ns as f64 / 1e9);
        let help = "Time spent in writes, syncs included";
        writer.number(Growth::Total, "commit_write_seconds", help, seconds(commit.write_ns.get()))?;
        let help = "The longest write, sync included";
        writer.number(
            Growth::Gauge,
            "commit_write_longest_seconds",
            help,
            seconds(commit.write_ns_max.get()),
        )?;
        let help = "Submissions waiting for the commit writer";
        writer.number(Growth::Gauge, "commit_depth", help, Number::Count(self.store.log().depth() as u64))?;
        let latency = stored_histogram(&commit.latency_us.snapshot(), MICROS);
        let help = "From handing a turn's batches over to their receipt";
        writer.histograms::<0>("commit_duration_seconds", help, [([], latency)])?;
        let sizes = stored_histogram(&commit.group_batches.snapshot(), 1.0);
        writer.histograms::<0>("commit_group_batches", "Batches in a group", [([], sizes)])
    }

    fn reads(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let (stats, reads, memory) =
            (self.store.stats(), self.store.stats().reads(), self.store.memory_use());
        let (block_hits, block_misses) = self.store.block_cache_reads();
        let totals = [
            ("store_block_cache_hits", "Blocks of tables found in the block cache", block_hits),
            ("store_block_cache_misses", "Blocks of tables read from the disk", block_misses),
            ("store_reads_inline", "Reads answered from memory on the core", reads.inline),
            ("store_reads_pooled", "Reads handed to the reader pool", reads.pooled),
            ("store_scans", "Scans by the reader pool", stats.reader.scans.get()),
            (
                "store_reads_refused",
                "Reads refused since the pool's queue was full",
                stats.reader.refused_full.get(),
            ),
            ("store_read_failures", "Reads that failed on the disk", stats.reader.failures.get()),
            ("store_records_damaged", "Reads that met a damaged record", stats.records.damaged.get()),
            ("store_records_quarantined", "Damaged records copied aside", stats.records.quarantined.get()),
        ];
        for (name, help, value) in totals {
            writer.number(Growth::Total, name, help, Number::Count(value))?;
        }
        let gauges = [
            ("store_reader_depth", "Reads waiting for the reader pool", self.store.reader_depth()),
            ("store_block_cache_bytes", "Memory of the block cache", memory.block_cache_bytes),
            ("store_write_buffer_bytes", "Memory of the write buffers", memory.write_buffer_bytes),
        ];
        for (name, help, value) in gauges {
            writer.number(Growth::Gauge, name, help, Number::Count(value as u64))?;
        }
        Ok(())
    }

    fn upstreams(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let all: Vec<_> = Upstream::ALL
            .into_iter()
            .map(|upstream| (upstream.name(), self.egress.stats(upstream)))
            .collect();
        type Read = fn(&UpstreamSnapshot) -> u64;
        let families: [(Growth, &str, &str, Read); 11] = [
            (Growth::Total, "egress_requests", "Calls asked for", |s| s.requests),
            (Growth::Total, "egress_attempts", "Attempts made", |s| s.attempts),
            (Growth::Total, "egress_retries", "Attempts beyond the first of their call", |s| s.retries),
            (Growth::Total, "egress_retries_over_budget", "Retries not made, the budget being spent", |s| {
                s.retries_over_budget
            }),
            (Growth::Total, "egress_cancelled", "Calls whose caller went away", |s| s.cancelled),
            (Growth::Total, "egress_transfers", "Answers that came in pieces", |s| s.transfers),
            (Growth::Total, "egress_transfer_bytes", "Bytes of those", |s| s.piece_bytes),
            (Growth::Total, "egress_transfers_broken", "Of those, broken off, too long or too slow", |s| {
                s.transfers_broken
            }),
            (Growth::Total, "egress_transfers_left", "Of those, left by their reader", |s| s.transfers_left),
            (Growth::Gauge, "egress_queued", "Calls waiting for a free place", |s| s.queued),
            (Growth::Gauge, "egress_in_flight", "Attempts under way", |s| s.in_flight),
        ];
        for (growth, name, help, read) in families {
            let rows = all
                .iter()
                .map(|(upstream, stats)| ([("upstream", Cow::from(*upstream))], Number::Count(read(stats))));
            writer.numbers(growth, name, help, rows)?;
        }
        let rows = all.iter().flat_map(|(upstream, stats)| {
            let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(stats.responses);
            classes.map(|(class, count)| {
                ([("upstream", Cow::from(*upstream)), ("status", class.into())], Number::Count(count))
            })
        });
        writer.numbers(Growth::Total, "egress_responses", "Answers, by class of status", rows)?;
        let rows = all.iter().flat_map(|(upstream, stats)| {
            Reason::ALL.into_iter().map(|reason| {
                let labels = [("upstream", Cow::from(*upstream)), ("reason", reason.name().into())];
                (labels, Number::Count(stats.failures(reason)))
            })
        });
        writer.numbers(
            Growth::Total,
            "egress_failures",
            "Calls that ended without an answer, by reason",
            rows,
        )?;
        let rows = all.iter().map(|(upstream, stats)| {
            let bounds = LATENCY_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).chain([f64::INFINITY]);
            let row = HistogramRow {
                sum: stats.latency_sum.as_secs_f64(),
                buckets: bounds.zip(stats.latency).collect(),
            };
            ([("upstream", Cow::from(*upstream))], row)
        });
        writer.histograms("egress_duration_seconds", "From a call to its answer, waits included", rows)
    }

    /// What the pool sent to webhooks. Each attempt is counted once: answered, failed, or cancelled.
    fn outward(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let stats = self.egress.outward_stats();
        let number = |count| Number::Count(count);
        writer.number(
            Growth::Gauge,
            "outward_in_flight",
            "Attempts at webhooks under way",
            number(stats.in_flight),
        )?;
        writer.number(
            Growth::Total,
            "outward_cancelled",
            "Attempts whose caller went away",
            number(stats.cancelled),
        )?;
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(stats.answered);
        let rows = classes.map(|(class, count)| ([("status", class.into())], number(count)));
        writer.numbers(Growth::Total, "outward_answered", "Answers of webhooks, by class of status", rows)?;
        let rows = OutwardError::ALL.into_iter();
        let rows = rows.map(|error| ([("reason", error.name().into())], number(stats.failed(error))));
        writer.numbers(
            Growth::Total,
            "outward_failed",
            "Attempts at webhooks without an answer, by reason",
            rows,
        )
    }
}

/// A histogram of the store, its values divided by `unit`.
fn stored_histogram(snapshot: &HistogramSnapshot, unit: f64) -> HistogramRow {
    let bound = |bound: Option<u64>| bound.map_or(f64::INFINITY, |bound| bound as f64 / unit);
    HistogramRow {
        sum: snapshot.sum as f64 / unit,
        buckets: snapshot.buckets.iter().map(|(upper, count)| (bound(*upper), *count)).collect(),
    }
}
