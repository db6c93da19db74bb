//! The limits on requests, on the page.

use std::fmt::Error;

use super::{Growth, Number, Page, Writer};
use crate::limit::{Class, LimitKind, LimitStats};

type Read = fn(&LimitStats) -> u64;

impl Page {
    /// What the limits let in and refused, and how full their tables are.
    pub(super) fn limits(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let rows = self.each_core().flat_map(|(core, metrics)| {
            Class::ALL.into_iter().map(move |class| {
                let labels = [("core", core.clone()), ("class", class.name().into())];
                (labels, Number::Count(metrics.limits().admitted(class)))
            })
        });
        let help = "Requests in a user's name that every limit let in, by class of routes";
        writer.numbers(Growth::Total, "limit_admitted", help, rows)?;
        let rows = self.each_core().flat_map(|(core, metrics)| {
            LimitKind::ALL.into_iter().flat_map(move |kind| {
                let core = core.clone();
                Class::ALL.into_iter().map(move |class| {
                    let labels = [
                        ("core", core.clone()),
                        ("limit", kind.name().into()),
                        ("class", class.name().into()),
                    ];
                    (labels, Number::Count(metrics.limits().refused(kind, class)))
                })
            })
        });
        let help = "Requests refused by a limit, by class of routes";
        writer.numbers(Growth::Total, "limit_refused", help, rows)?;
        let untracked: [(&str, Read); 3] = [
            ("users", |stats| stats.untracked_users.get()),
            ("keys", |stats| stats.untracked_keys.get()),
            ("addresses", |stats| stats.untracked_addresses.get()),
        ];
        let help = "Requests let in uncounted, for the table had no row: raise rate.users_tracked_per_core or rate.addresses_tracked";
        self.by_table(writer, Growth::Total, "limit_untracked", help, &untracked)?;
        let used: [(&str, Read); 2] =
            [("users", |stats| stats.users.get()), ("keys", |stats| stats.keys.get())];
        let help = "Rows given out; those of full buckets are given to others when they are needed";
        self.by_table(writer, Growth::Gauge, "limit_rows", help, &used)?;
        let families: [(Growth, &str, &str, Read); 5] = [
            (Growth::Gauge, "limit_unsaved", "Users whose used limits are to be written", |s| {
                s.unsaved.get()
            }),
            (Growth::Total, "limit_saved", "Used limits written", |s| s.saved.get()),
            (Growth::Total, "limit_saves_failed", "Used limits not written, to be tried again", |s| {
                s.saves_failed.get()
            }),
            (Growth::Total, "limit_saves_late", "Used limits written late, for too many were due", |s| {
                s.saves_late.get()
            }),
            (Growth::Total, "limit_recalled", "Used limits read that an earlier process wrote", |s| {
                s.recalled.get()
            }),
        ];
        for (growth, name, help, read) in families {
            let rows = self
                .each_core()
                .map(|(core, metrics)| ([("core", core)], Number::Count(read(metrics.limits()))));
            writer.numbers(growth, name, help, rows)?;
        }
        self.limits_shared(writer)
    }

    fn by_table(
        &self,
        writer: &mut Writer<'_>,
        growth: Growth,
        name: &str,
        help: &str,
        reads: &[(&'static str, Read)],
    ) -> Result<(), Error> {
        let rows = self.each_core().flat_map(|(core, metrics)| {
            reads.iter().map(move |(table, read)| {
                let labels = [("core", core.clone()), ("table", (*table).into())];
                (labels, Number::Count(read(metrics.limits())))
            })
        });
        writer.numbers(growth, name, help, rows)
    }

    /// The tables that all cores share.
    fn limits_shared(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        let Some(limits) = self.limits.get() else { return Ok(()) };
        let rows = [("addresses", limits.addresses()), ("unauthorized", limits.unauthorized())];
        let rows = rows.map(|(table, rows)| ([("table", table.into())], Number::Count(rows.used() as u64)));
        let help =
            "Rows of addresses given out; those of full buckets are given to others when they are needed";
        writer.numbers(Growth::Gauge, "limit_address_rows", help, rows)
    }
}
