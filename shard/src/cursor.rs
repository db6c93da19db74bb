//! Cursors of lists: where a page ended, in a form that callers cannot make or change.
//!
//! ```text
//! cursor := base64url( position[16] | first 16 bytes of HMAC-SHA256(secret, user[16] | list | position[16]) )
//! ```
//! Invariants: a cursor is taken from the user and for the list it was given for, and from no other. The secret is
//! made with the process, so cursors end with it: a list that was begun before a restart is begun again.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use sluice_protocols::ids::{TaskId, UserId};

/// The block of SHA-256, which HMAC pads its key to (RFC 2104).
const BLOCK_BYTES: usize = 64;
const TAG_BYTES: usize = 16;

/// Makes and reads cursors.
pub(crate) struct Cursors {
    secret: [u8; 32],
}

impl Cursors {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// The cursor behind `last`, in a user's list of this name.
    pub(crate) fn make(&self, user: &UserId, list: &str, last: &TaskId) -> String {
        let tag = self.tag(user, list, last);
        URL_SAFE_NO_PAD.encode([last.as_bytes().as_slice(), &tag].concat())
    }

    /// Where a cursor stands; `None` when it is none of this list.
    pub(crate) fn read(&self, user: &UserId, list: &str, cursor: &str) -> Option<TaskId> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (position, tag) = bytes.split_at_checked(16)?;
        let position = TaskId::from_bytes(position.try_into().ok()?);
        // Compared as a whole: how much of a forged tag is right does not show in the time it takes.
        let wrong = self.tag(user, list, &position).iter().zip(tag).fold(0, |all, (a, b)| all | (a ^ b));
        (tag.len() == TAG_BYTES && wrong == 0).then_some(position)
    }

    fn tag(&self, user: &UserId, list: &str, position: &TaskId) -> [u8; TAG_BYTES] {
        let whole = hmac(&self.secret, &[user.as_bytes(), list.as_bytes(), position.as_bytes()]);
        whole[..TAG_BYTES].try_into().expect("a digest is longer")
    }
}

/// HMAC-SHA256 (RFC 2104) with a key no longer than a block.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let padded = |with: u8| {
        let mut block = [with; BLOCK_BYTES];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let mut inner = Sha256::new_with_prefix(padded(0x36));
    parts.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(padded(0x5c)).chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_one_of_the_rfc() {
        // RFC 4231, test case 2, its key padded with zeros to 32 bytes, which HMAC does anyway.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let tag = hmac(&key, &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(tag[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
    }

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
