//! An item as a step brought it: made once, shared by all who hold it, and written down once.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use sluice_protocols::plan::Item;

use crate::cache::Made;

/// What an item takes beside its texts and its JSON.
const OVERHEAD_BYTES: usize = 256;
/// A line of a list with some first words.
const LINE_BYTES_USUAL: usize = 256;

/// See the module.
#[derive(Clone)]
pub(crate) struct Seen(Rc<Inner>);

struct Inner {
    item: Item,
    json: OnceCell<Box<str>>,
    line: OnceCell<(Box<str>, Box<str>)>,
}

impl Seen {
    /// The item as it stands in a step's outcome.
    pub(super) fn json(&self) -> &str {
        // Strings alone: there is nothing that could fail to serialise.
        self.0.json.get_or_init(|| serde_json::to_string(&self.0.item).unwrap_or_default().into())
    }

    /// The item in a line of an answer, as `write` writes it on the clock of the zone of this name. An item is nearly always
    /// told on one clock.
    pub(super) fn line(&self, zone: &str, out: &mut String, write: impl Fn(&mut String)) {
        let (known, line) = self.0.line.get_or_init(|| {
            let mut line = String::with_capacity(LINE_BYTES_USUAL);
            write(&mut line);
            (zone.into(), line.into())
        });
        if **known == *zone { out.push_str(line) } else { write(out) }
    }
}

impl From<Item> for Seen {
    fn from(item: Item) -> Self {
        Self(Rc::new(Inner { item, json: OnceCell::new(), line: OnceCell::new() }))
    }
}

impl Deref for Seen {
    type Target = Item;

    fn deref(&self) -> &Item {
        &self.0.item
    }
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.0.item == other.0.item
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.item.fmt(f)
    }
}

impl Made for Seen {
    fn bytes(&self) -> usize {
        // Its JSON holds each of its texts once more, and its line less than that.
        OVERHEAD_BYTES + 3 * self.json().len()
    }
}

/// Items that one answer lists.
pub(super) struct Listed(pub(super) Vec<Seen>);

impl Made for Listed {
    fn bytes(&self) -> usize {
        self.0.iter().map(Made::bytes).sum()
    }
}

/// Items as they stand in a step's outcome.
pub(super) fn items_json(items: &[Seen]) -> String {
    let bytes: usize = items.iter().map(|item| item.json().len() + 1).sum();
    let mut json = String::with_capacity(bytes + 2);
    json.push('[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            json.push(',');
        }
        json.push_str(item.json());
    }
    json.push(']');
    json
}
