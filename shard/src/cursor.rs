//! Cursors of lists: where a page ended, in a form that callers cannot make or change.
//!
//! ```text
//! cursor := base64url( position[16] | HMAC-SHA256(key, user[16] | list | position[16]) )
//! ```
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
    pub(crate) fn make(&self, user: &UserId, list: &str, last: &TaskId) -> String {
        let tag = hmac::sign(&self.key, &signed(user, list, last));
        URL_SAFE_NO_PAD.encode([last.as_bytes().as_slice(), tag.as_ref()].concat())
    }

    /// Where a cursor stands; `None` when it is none of this list.
    pub(crate) fn read(&self, user: &UserId, list: &str, cursor: &str) -> Option<TaskId> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (position, tag) = bytes.split_at_checked(16)?;
        let position = TaskId::from_bytes(position.try_into().ok()?);
        // In constant time: how much of a forged tag is right does not show.
        hmac::verify(&self.key, &signed(user, list, &position), tag).ok()?;
        Some(position)
    }
}

/// What is signed. The parts before and after the list have fixed lengths, so no two cursors share it.
fn signed(user: &UserId, list: &str, position: &TaskId) -> Vec<u8> {
    [user.as_bytes(), list.as_bytes(), position.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_user_and_list_alone() {
        let cursors = Cursors::new([7; 32]);
        let (anna, bert) = (UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
        let last = TaskId::new(5, [9; 10]);
        let cursor = cursors.make(&anna, "tasks", &last);
        assert_eq!(cursors.read(&anna, "tasks", &cursor), Some(last));
        assert_eq!(Cursors::new([7; 32]).read(&anna, "tasks", &cursor), Some(last));
        assert_eq!(cursors.read(&bert, "tasks", &cursor), None);
        assert_eq!(cursors.read(&anna, "dead-letters", &cursor), None);
        assert_eq!(Cursors::new([8; 32]).read(&anna, "tasks", &cursor), None);
        for wrong in ["", "x", &cursor[1..], &cursor[..22], &format!("BBBB{}", &cursor[4..])] {
            assert_eq!(cursors.read(&anna, "tasks", wrong), None, "{wrong}");
        }
    }
}
