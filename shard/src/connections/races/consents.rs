//! A consent without a refresh token beside a refresh that brings one: Google gives none to who has consented before, so the
//! consent keeps what is stored, which the refresh is about to replace.

use sluice_protocols::google::consent::Account as GoogleAccount;
use sluice_protocols::google::oauth::TokenResponse;
use sluice_store::record::{ConsentRecord, PlainText, StoredSecret};

use super::*;

/// What the user grants beyond what there was.
const GRANTED: &str = "https://www.googleapis.com/auth/drive";
const WANTED: u16 = 1;

impl Node {
    /// Stores what a consent brought, as is done when the browser comes back from the provider.
    pub(super) fn consent(&self, account: Account) -> Wish {
        let (connections, wish) = (Rc::clone(&self.connections), Wish::default());
        let (end, gate) = (Rc::clone(&wish), Rc::clone(&self.gate));
        let body = format!(
            r#"{{"access_token":"more","expires_in":3600,"token_type":"Bearer","scope":"{GRANTED}"}}"#
        );
        let answer = TokenResponse::parse(body.as_bytes()).expect("an answer");
        let consent = ConsentRecord {
            state_hash: [0; 32],
            browser_hash: [0; 32],
            // What proves a consent was looked at before.
            secret: StoredSecret::Plain(PlainText::from(String::new())),
            wanted: WANTED,
            connection: [0; 16],
            return_url: String::new(),
            created_ms: NOW_MS,
        };
        let google = GoogleAccount { subject: "1".to_owned(), email: "me@example.com".to_owned() };
        sluice_core::spawn(async move {
            let _turn = connections.holds.take(account.user).await;
            let (shard, user) = (account.shard, account.user);
            let stored = connections
                .store(shard, user, &consent, &answer, google, GRANTED.to_owned(), Author::gateway())
                .await;
            *end.borrow_mut() =
                Some(stored.map_or_else(
                    |refusal| panic!("it was refused with {}", refusal.status),
                    |_| End::Changed,
                ));
            gate.wake();
        });
        wish
    }
}

/// A consent that was acknowledged is there, whatever a refresh wrote.
pub(super) fn assert_stored(record: &ConnectionRecord, said: &str) {
    assert_eq!((record.wanted, &*record.scope, &*record.subject), (WANTED, GRANTED, "1"), "{said}");
}

#[test]
fn a_consent_without_a_refresh_token_keeps_the_one_that_a_refresh_beside_it_brings() {
    for rotation in [Rotation::Overlapping, Rotation::Strict] {
        let rig = Rig::new(rotation);
        let mut steps = REFRESH.to_vec();
        // It takes a commit of its own.
        steps.extend([Step::Consent, Step::Commit(0)]);
        let tally = rig.check_all(&steps);
        assert!(tally.works > 60 && tally.revoked == 0, "{tally:?}");
        // Only what dies with the process is lost, and only where the provider ends the old token at once.
        assert_eq!(tally.works + tally.mendable, tally.schedules, "{tally:?}");
        assert_eq!(rotation == Rotation::Strict, tally.mendable > 0, "{tally:?}");
    }
}
