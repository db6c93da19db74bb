//! Time zones by name, read once a core.

use std::cell::RefCell;

use hashbrown::HashMap;
use jiff::tz::TimeZone;

/// The IANA database has some 600 names; anything beyond is not kept.
const ZONES_MAX: usize = 1_024;

/// Time zones by name. None is read from a file: the database is part of the program.
#[derive(Default)]
pub(crate) struct Zones(RefCell<HashMap<String, TimeZone, foldhash::fast::RandomState>>);

impl Zones {
    /// The zone of this name, with the name as the IANA database writes it; UTC when there is no such zone.
    pub(crate) fn get(&self, name: &str) -> (TimeZone, String) {
        if let Some(zone) = self.0.borrow().get(name) {
            return named(zone.clone());
        }
        let Ok(zone) = TimeZone::get(name) else {
            tracing::warn!(zone = name, "an unknown time zone, UTC is used");
            return named(TimeZone::UTC);
        };
        let mut zones = self.0.borrow_mut();
        if zones.len() < ZONES_MAX {
            zones.insert(name.to_owned(), zone.clone());
        }
        named(zone)
    }
}

fn named(zone: TimeZone) -> (TimeZone, String) {
    let name = zone.iana_name().unwrap_or("UTC").to_owned();
    (zone, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_zone_is_utc_by_name_too() {
        let zones = Zones::default();
        assert_eq!(zones.get("Mars/Olympus").1, "UTC");
        assert_eq!(zones.get("Europe/Berlin").1, "Europe/Berlin");
        assert_eq!(zones.get("europe/berlin").1, "Europe/Berlin");
        assert_eq!(zones.get("Europe/Berlin").0.iana_name(), Some("Europe/Berlin"));
    }
}
