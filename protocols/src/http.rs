//! HTTP messages as the rest of Sluice sees them, whichever wire they came over.
//!
//! Invariants:
//! - A head owns **one** byte buffer (the arena); a field is two end offsets into it, so that decoding a
//!   request costs two allocations and moving its head to another core costs none. Heads are `Send`.
//! - A head that exists has passed the rules of RFC 9114 sections 4.2 and 4.3: [`HeadBuilder`] is the only
//!   way to make one, and it refuses what the RFC calls malformed.
//! - Field names are lower-case tokens. Field values hold no control character except a tab inside, and
//!   neither start nor end with white space; they may hold bytes that are no UTF-8 (RFC 9110 section 5.5,
//!   obs-text), which is why each accessor says whether it yields bytes or text.

mod build;
pub mod conditional;
mod fields;
mod head;
pub(crate) mod query;
pub mod range;
mod response;
#[cfg(test)]
mod tests;

pub(crate) use build::{Checked, PseudoName, is_valid_line};
pub use build::{HeadBuilder, HeadFault, Limits, Malformed, TooLarge};
pub use fields::Fields;
pub(crate) use fields::{is_connection_specific, is_valid_name, is_valid_value};
pub use head::{Method, RequestHead, ResponseHead};
pub use query::form_fields;
pub use response::Response;
