use std::future::Future as _;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use sluice_protocols::google::{GoogleError, gmail};

use super::*;

const FRESH: Duration = Duration::from_secs(300);
const STALE: Duration = Duration::from_secs(60);

fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 16])
}

fn cache(bytes_max: usize) -> Rc<ReadCache> {
    let config = CacheConfig { bytes_max, fresh: FRESH, stale: STALE, settle: Duration::from_secs(3) };
    Rc::new(ReadCache::new(config, Arc::default()))
}

fn search(words: &str) -> ApiCall {
    gmail::list_messages(words, 10)
}

fn body(text: &str) -> Result<ReadBody, CallError> {
    Ok(ReadBody(Bytes::copy_from_slice(text.as_bytes())))
}

fn make(cache: &Rc<ReadCache>, user: UserId, call: &ApiCall, now: Instant) -> Ticket {
    match cache.read(user, call, now) {
        Read::Make(ticket) => ticket,
        Read::Kept(..) => panic!("kept"),
        Read::Join(_) => panic!("joined"),
    }
}

fn keep(cache: &Rc<ReadCache>, user: UserId, call: &ApiCall, text: &str, now: Instant) {
    make(cache, user, call, now).land(&body(text), now);
}

/// What is kept, if anything; and whether it should be read anew.
fn kept(cache: &Rc<ReadCache>, user: UserId, call: &ApiCall, now: Instant) -> Option<(String, bool)> {
    match cache.read(user, call, now) {
        Read::Kept(body, ticket) => {
            Some((String::from_utf8(body.into_bytes().to_vec()).expect("text"), ticket.is_some()))
        }
        Read::Make(_) | Read::Join(_) => None,
    }
}

fn poll(joined: Joined) -> Poll<Landed> {
    std::pin::pin!(joined.land()).as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_read_is_fresh_then_stale_then_gone_and_another_users_is_never_given() {
    let (cache, start) = (cache(1 << 20), Instant::now());
    keep(&cache, user(1), &search("a"), "mine", start);
    let at = |seconds| kept(&cache, user(1), &search("a"), start + Duration::from_secs(seconds));
    assert_eq!(at(299), Some(("mine".to_owned(), false)));
    assert_eq!(kept(&cache, user(2), &search("a"), start), None);
    assert_eq!(kept(&cache, user(1), &search("b"), start), None);
    assert_eq!(at(300), Some(("mine".to_owned(), true)));
    assert_eq!(at(360), None);
    assert!(cache.is_empty());
}

#[test]
fn a_stale_read_is_made_anew_by_one_alone() {
    let (cache, start) = (cache(1 << 20), Instant::now());
    keep(&cache, user(1), &search("a"), "old", start);
    let later = start + FRESH;
    let Read::Kept(_, Some(refresh)) = cache.read(user(1), &search("a"), later) else { panic!("no refresh") };
    assert_eq!(kept(&cache, user(1), &search("a"), later), Some(("old".to_owned(), false)));
    refresh.land(&body("new"), later);
    assert_eq!(kept(&cache, user(1), &search("a"), later), Some(("new".to_owned(), false)));
}

#[test]
fn the_same_read_is_made_once_and_its_answer_shared() {
    let (cache, now) = (cache(1 << 20), Instant::now());
    let ticket = make(&cache, user(1), &search("a"), now);
    let Read::Join(joined) = cache.read(user(1), &search("a"), now) else { panic!("not joined") };
    ticket.land(&body("found"), now);
    let Poll::Ready(Some(Ok(found))) = poll(joined) else { panic!("no answer") };
    assert_eq!(found, body("found").expect("a body"));
}

#[test]
fn who_waits_for_a_read_that_was_given_up_looks_again_and_a_refusal_is_shared() {
    let (cache, now) = (cache(1 << 20), Instant::now());
    let ticket = make(&cache, user(1), &search("a"), now);
    let Read::Join(joined) = cache.read(user(1), &search("a"), now) else { panic!("not joined") };
    drop(ticket);
    assert!(matches!(poll(joined), Poll::Ready(None)));
    for (status, is_shared) in [(404, true), (503, false), (429, false)] {
        let ticket = make(&cache, user(1), &search("a"), now);
        let Read::Join(joined) = cache.read(user(1), &search("a"), now) else { panic!("not joined") };
        let error = GoogleError::classify(status, b"", None);
        ticket.land(&Err(CallError::Refused { service: Service::Gmail, error, retry_after: None }), now);
        let Poll::Ready(landed) = poll(joined) else { panic!("waits") };
        assert_eq!(landed.is_some(), is_shared, "{status}");
    }
    assert!(cache.is_empty());
}

#[test]
fn a_change_drops_what_it_made_wrong_and_what_was_on_its_way() {
    let (cache, now) = (cache(1 << 20), Instant::now());
    let message = gmail::get_message("m1", gmail::Format::Full);
    keep(&cache, user(1), &message, "text", now);
    keep(&cache, user(1), &search("a"), "list", now);
    keep(&cache, user(2), &search("a"), "theirs", now);
    let on_its_way = make(&cache, user(1), &search("b"), now);
    cache.changed(user(1), gmail::send_draft("d").dirt(), now);
    on_its_way.land(&body("from before"), now);
    assert_eq!(kept(&cache, user(1), &search("a"), now), None);
    assert_eq!(kept(&cache, user(1), &search("b"), now), None);
    assert!(kept(&cache, user(1), &message, now).is_some());
    assert!(kept(&cache, user(2), &search("a"), now).is_some());
    // Google's search lags behind: what it says in the next moments is not kept.
    keep(&cache, user(1), &search("a"), "without the new one", now);
    assert_eq!(kept(&cache, user(1), &search("a"), now), None);
    let settled = now + Duration::from_secs(3);
    keep(&cache, user(1), &search("a"), "with it", settled);
    assert!(kept(&cache, user(1), &search("a"), settled).is_some());
}

#[test]
fn tags_drop_a_users_own_reads_alone() {
    let (cache, now) = (cache(1 << 20), Instant::now());
    for number in [1, 2] {
        keep(&cache, user(number), &search("a"), "list", now);
        keep(&cache, user(number), &gmail::get_message("m1", gmail::Format::Full), "text", now);
    }
    let tag = |text: &str| vec![text.parse::<Tag>().expect("a tag")];
    assert_eq!(cache.invalidate(user(1), &tag("drive")), 0);
    assert_eq!(cache.invalidate(user(1), &tag("gmail:messages/m1")), 1);
    assert_eq!(cache.invalidate(user(1), &tag("gmail")), 1);
    assert_eq!((cache.forget(user(1)), cache.len()), (0, 2));
}

#[test]
fn nothing_is_kept_without_a_budget_and_no_effect_ever() {
    let (cache, now) = (cache(0), Instant::now());
    keep(&cache, user(1), &search("a"), "list", now);
    assert_eq!(kept(&cache, user(1), &search("a"), now), None);
    assert_eq!(ReadBody::of(&gmail::send_draft("d"), Bytes::new()), None);
}

#[test]
fn a_long_walk_through_many_things_does_not_push_out_what_is_used() {
    let (cache, now) = (cache(64 << 10), Instant::now());
    let used = |number: usize| search(&format!("used {number}"));
    for number in 0..20 {
        keep(&cache, user(1), &used(number), &"x".repeat(1_000), now);
        assert!(kept(&cache, user(1), &used(number), now).is_some());
    }
    for number in 0..500 {
        keep(&cache, user(2), &search(&format!("once {number}")), &"y".repeat(1_000), now);
    }
    let left = (0..20).filter(|number| kept(&cache, user(1), &used(*number), now).is_some()).count();
    assert_eq!(left, 20);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u16),
    Get(u8, u8),
    Drop(u8),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4u8, 0..40u8, 0..3_000u16).prop_map(|(user, name, size)| Step::Put(user, name, size)),
        6 => (0..4u8, 0..40u8).prop_map(|(user, name)| Step::Get(user, name)),
        1 => (0..4u8).prop_map(Step::Drop),
        1 => (0..200u16).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_budget_holds_and_what_is_given_is_the_last_that_was_kept(steps in steps()) {
        let (cache, mut now) = (cache(24 << 10), Instant::now());
        let mut model: HashMap<(u8, u8), (u16, Instant)> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(number, name, size) => {
                    let call = search(&name.to_string());
                    if let Read::Make(ticket) = cache.read(user(number), &call, now) {
                        let bytes = Bytes::from(vec![name; usize::from(size)]);
                        ticket.land(&Ok(ReadBody(bytes)), now);
                        model.insert((number, name), (size, now));
                    }
                }
                Step::Get(number, name) => {
                    let call = search(&name.to_string());
                    if let Read::Kept(found, _) = cache.read(user(number), &call, now) {
                        let (size, at) = model[&(number, name)];
                        prop_assert_eq!(found.into_bytes(), vec![name; usize::from(size)]);
                        prop_assert!(now < at + FRESH + STALE);
                    }
                }
                Step::Drop(number) => {
                    cache.forget(user(number));
                    model.retain(|(owner, _), _| *owner != number);
                }
                Step::Wait(seconds) => now += Duration::from_secs(u64::from(seconds)),
            }
            cache.store.borrow().check();
            let kinds = CacheStats::KINDS.iter().map(|kind| cache.stats.of(*kind).bytes.get());
            prop_assert_eq!(kinds.sum::<u64>(), cache.bytes() as u64);
        }
    }
}
