//! Cursors of lists: where a page ended, in a form that callers cannot make or change.
//!
//! ```text
//! cursor := base64url( position[N] | HMAC-SHA256(key, user[16] | list | position[N]) )
//! ```
//! A list has positions of one length N (16 bytes, but 24 in the history), and no list with positions of another length
//! has a name that begins like its own. A list by name has names (1 to 128 bytes) as positions, and its own name is signed
//! with a zero at its end, which no other has: so no two cursors sign the same bytes.
//!
//! Invariants: a cursor is taken from the user and for the list it was given for, and from no other. The key follows
//! from the node's secret, so a list that was begun before a restart goes on after it.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sluice_protocols::ids::{TaskId, UserId};

/// Makes and reads cursors.
pub(crate) struct Cursors {
    key: hmac::Key,
}

impl Cursors {
    /// Cursors of the node with this secret.
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        // A key of its own: what is signed for another purpose is no cursor.
        let own = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), b"cursors of lists");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, own.as_ref()) }
    }

    /// The cursor behind `last`, in a user's list of this name.
    pub(crate) fn make(&self, user: &UserId, list: &str, last: &[u8]) -> String {
        let tag = hmac::sign(&self.key, &signed(user, list, last));
        URL_SAFE_NO_PAD.encode([last, tag.as_ref()].concat())
    }

    /// Where a cursor stands; `None` when it is none of this list.
    pub(crate) fn read<const N: usize>(&self, user: &UserId, list: &str, cursor: &str) -> Option<[u8; N]> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (position, tag) = bytes.split_first_chunk::<N>()?;
        // In constant time: how much of a forged tag is right does not show.
        hmac::verify(&self.key, &signed(user, list, position), tag).ok()?;
        Some(*position)
    }

    /// As [`Self::read`], in a list whose positions are tasks.
    pub(crate) fn read_task(&self, user: &UserId, list: &str, cursor: &str) -> Option<TaskId> {
        self.read(user, list, cursor).map(TaskId::from_bytes)
    }

    /// As [`Self::make`], for a list by name.
    pub(crate) fn make_text(&self, user: &UserId, list: &str, last: &str) -> String {
        let tag = hmac::sign(&self.key, &signed_text(user, list, last.as_bytes()));
        URL_SAFE_NO_PAD.encode([last.as_bytes(), tag.as_ref()].concat())
    }

    /// As [`Self::read`], for a list by name.
    pub(crate) fn read_text(&self, user: &UserId, list: &str, cursor: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (last, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG_BYTES)?)?;
        hmac::verify(&self.key, &signed_text(user, list, last), tag).ok()?;
        String::from_utf8(last.to_vec()).ok()
    }
}

/// Bytes of HMAC-SHA256.
const TAG_BYTES: usize = 32;

/// What is signed of a list by name: no list's name holds a zero, so no two cursors share it.
fn signed_text(user: &UserId, list: &str, last: &[u8]) -> Vec<u8> {
    [user.as_bytes(), list.as_bytes(), &[0], last].concat()
}

/// What is signed.
fn signed(user: &UserId, list: &str, position: &[u8]) -> Vec<u8> {
    [user.as_bytes(), list.as_bytes(), position].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_of_names_is_good_for_its_user_and_list_alone() {
        let cursors = Cursors::new([7; 32]);
        let (anna, bert) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let cursor = cursors.make_text(&anna, "context", "notes.md");
        assert_eq!(cursors.read_text(&anna, "context", &cursor).as_deref(), Some("notes.md"));
        assert_eq!(cursors.read_text(&bert, "context", &cursor), None);
        assert_eq!(cursors.read_text(&anna, "contextn", &cursor), None);
        assert_eq!(cursors.read_task(&anna, "context", &cursor), None);
        assert_eq!(cursors.read_text(&anna, "context", &cursor[1..]), None);
        assert_eq!(cursors.read_text(&anna, "context", ""), None);
    }

    #[test]
    fn a_cursor_is_good_for_its_user_and_list_alone() {
        let cursors = Cursors::new([7; 32]);
        let (anna, bert) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let last = TaskId::new(5, [9; 10]);
        let cursor = cursors.make(&anna, "tasks", last.as_bytes());
        assert_eq!(cursors.read_task(&anna, "tasks", &cursor), Some(last));
        assert_eq!(Cursors::new([7; 32]).read_task(&anna, "tasks", &cursor), Some(last));
        assert_eq!(cursors.read_task(&bert, "tasks", &cursor), None);
        assert_eq!(cursors.read_task(&anna, "dead-letters", &cursor), None);
        assert_eq!(Cursors::new([8; 32]).read_task(&anna, "tasks", &cursor), None);
        assert_eq!(cursors.read::<24>(&anna, "tasks", &cursor), None);
        for wrong in ["", "x", &cursor[1..], &cursor[..22], &format!("BBBB{}", &cursor[4..])] {
            assert_eq!(cursors.read_task(&anna, "tasks", wrong), None, "{wrong}");
        }
    }
}
