//! What a call that makes something leaves behind, so that its repeat can tell.
//!
//! Invariant: nothing here changes anything; every call it gives is a read.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::drive::ALL_DRIVES;
use super::{ApiCall, PathAndQuery, Segment};

/// What tells permissions apart; Drive leaves the address out unless it is asked for.
const PERMISSION_FIELDS: &str = "permissions(id,type,role,emailAddress,domain,kind)";

/// The resource `body` describes under `id`, or under the one it has already, which is given beside it; `None` for what
/// is no object, or has an id that is no text.
#[must_use]
pub fn named(body: &[u8], id: &str) -> Option<(Bytes, String)> {
    let mut fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let given = fields.entry("id").or_insert_with(|| id.into()).as_str()?.to_owned();
    Some((Value::Object(fields).to_string().into(), given))
}

/// The id a resource is described under, if it is.
#[must_use]
pub fn id_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        id: Option<String>,
    }
    serde_json::from_slice::<Named>(body).ok()?.id
}

/// Reads what `call` made under `id`, with the fields it was asked for.
#[must_use]
pub fn made(call: &ApiCall, id: &str) -> ApiCall {
    let (path, query) = call.path.split_once('?').unwrap_or((&call.path, ""));
    let path = path.strip_prefix("/upload").unwrap_or(path);
    let mut path = format!("{path}/{}", Segment(id));
    // Encoded already.
    let is_kept = |pair: &&str| pair.starts_with("fields=") || pair.starts_with(ALL_DRIVES.0);
    for (index, pair) in query.split('&').filter(is_kept).enumerate() {
        path.push(if index == 0 { '?' } else { '&' });
        path.push_str(pair);
    }
    ApiCall::bare(call.service, "GET", path)
}

/// Lists what there is where `call` makes a label.
#[must_use]
pub fn labels(call: &ApiCall) -> ApiCall {
    ApiCall::bare(call.service, "GET", call.path_only().to_owned())
}

/// Lists what there is where `call` makes a permission: the first hundred.
#[must_use]
pub fn permissions(call: &ApiCall) -> ApiCall {
    let path = PathAndQuery::new(call.path_only())
        .with(ALL_DRIVES.0, ALL_DRIVES.1)
        .with("fields", PERMISSION_FIELDS)
        .with("pageSize", 100);
    ApiCall::bare(call.service, "GET", path.finish())
}

/// The label of `list` that `wanted` describes.
#[must_use]
pub fn find_label(list: &[u8], wanted: &[u8]) -> Option<Bytes> {
    find(list, "labels", wanted, &["name"])
}

/// The permission of `list` that `wanted` describes.
#[must_use]
pub fn find_permission(list: &[u8], wanted: &[u8]) -> Option<Bytes> {
    find(list, "permissions", wanted, &["type", "role", "emailAddress", "domain"])
}

fn find(list: &[u8], member: &str, wanted: &[u8], by: &[&str]) -> Option<Bytes> {
    let wanted: Value = serde_json::from_slice(wanted).ok()?;
    let list: Value = serde_json::from_slice(list).ok()?;
    let same = |one: &Value, field: &str| match (wanted[field].as_str(), one[field].as_str()) {
        (Some(wanted), Some(had)) => wanted.eq_ignore_ascii_case(had),
        (wanted, _) => wanted.is_none(),
    };
    let is_it = |one: &&Value| by.iter().all(|field| same(one, field));
    Some(list[member].as_array()?.iter().find(is_it)?.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Service;

    #[test]
    fn a_resource_gets_an_id_unless_it_has_one() {
        let (body, id) = named(br#"{"summary": "x"}"#, "i1").unwrap();
        assert_eq!((&body[..], &*id), (&br#"{"id":"i1","summary":"x"}"#[..], "i1"));
        let (body, id) = named(br#"{"id": "own"}"#, "i1").unwrap();
        assert_eq!((&body[..], &*id), (&br#"{"id":"own"}"#[..], "own"));
        assert!(named(b"[]", "i1").is_none() && named(br#"{"id": 1}"#, "i1").is_none());
        assert_eq!(id_of(br#"{"id": "own"}"#).as_deref(), Some("own"));
        assert_eq!(id_of(br#"{"name": "x"}"#), None);
    }

    #[test]
    fn what_was_made_is_read_where_it_was_made() {
        let of = |path: &str| made(&ApiCall::bare(Service::Drive, "POST", path.to_owned()), "a/b").path;
        assert_eq!(of("/drive/v3/files"), "/drive/v3/files/a%2Fb");
        let upload = "/upload/drive/v3/files?uploadType=resumable&supportsAllDrives=true&fields=id%2Cname";
        assert_eq!(of(upload), "/drive/v3/files/a%2Fb?supportsAllDrives=true&fields=id%2Cname");
    }

    #[test]
    fn a_permission_is_known_by_whom_it_is_for_and_what_it_allows() {
        let list =
            br#"{"permissions": [{"id": "1", "type": "user", "role": "owner", "emailAddress": "a@b.c"},
            {"id": "2", "type": "user", "role": "reader", "emailAddress": "D@b.c"}]}"#;
        let find = |wanted: &str| find_permission(list, wanted.as_bytes());
        assert!(find(r#"{"type": "user", "role": "reader", "emailAddress": "d@b.c"}"#).is_some());
        assert!(find(r#"{"type": "user", "role": "writer", "emailAddress": "d@b.c"}"#).is_none());
        assert!(find(r#"{"type": "domain", "role": "reader", "domain": "b.c"}"#).is_none());
        assert!(find_label(br#"{"labels": [{"name": "Work"}]}"#, br#"{"name": "work"}"#).is_some());
    }
}
