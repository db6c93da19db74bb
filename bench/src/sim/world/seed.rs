//! Makes a user's mailbox, calendar and drive out of the corpus.

use jiff::civil::{Date, Weekday};
use jiff::{Timestamp, ToSpan as _};

use super::corpus::{By, CITIES, COMPANIES, CONTACTS, EVENTS, EventSeed, FILES, MAIL, MailSeed, SENDERS};
use super::{
    Attachment, Attendee, Calendar, Drive, Event, File, MailBox, Message, Moment, Permission, Person, ROOT,
};
use crate::sim::chance::{Clock, Dice, mix};

/// What fills the gaps in the texts of one user.
struct Filling {
    me: String,
    company: &'static str,
    city: &'static str,
    amount: String,
    number: String,
}

impl Filling {
    fn new(owner: &Person, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let pick = |list: &[&'static str], draw: u64| list[usize::try_from(draw).unwrap_or(0) % list.len()];
        Self {
            me: owner.name.clone(),
            company: pick(&COMPANIES, dice.next() >> 8),
            city: pick(&CITIES, dice.next() >> 8),
            amount: format!("{}", 4_000 + dice.below(56) * 250),
            number: format!("{}", 20_000 + dice.below(70_000)),
        }
    }

    fn fill(&self, text: &str) -> String {
        if !text.contains('{') {
            return text.to_owned();
        }
        text.replace("{me}", &self.me)
            .replace("{company}", self.company)
            .replace("{city}", self.city)
            .replace("{amount}", &self.amount)
            .replace("{number}", &self.number)
    }
}

fn contact(index: usize) -> Person {
    let (first, last, domain) = CONTACTS[index];
    Person {
        name: format!("{first} {last}"),
        email: format!("{}.{}@{domain}", first.to_lowercase(), last.to_lowercase()),
    }
}

fn instant(clock: &Clock, date: Date, hour: i8, minute: i8) -> Timestamp {
    clock.zone().to_timestamp(date.at(hour, minute, 0, 0)).unwrap_or_else(|_| clock.now())
}

fn days_from(date: Date, days: i64) -> Date {
    date.checked_add(days.days()).unwrap_or(date)
}

/// The mailbox of `owner`, newest message last.
pub(super) fn mailbox(owner: &Person, seed: u64, clock: &Clock) -> MailBox {
    let filling = Filling::new(owner, seed);
    let mut dice = Dice::new(mix(seed ^ 0x6d61_696c));
    let mut mailbox = MailBox::new(mix(seed ^ 0x6964));
    let mut threads: Vec<(u8, String, String)> = Vec::new();
    for seed in MAIL {
        let id = mailbox.fresh_id();
        let known = threads.iter().rev().find(|(thread, ..)| seed.thread != 0 && *thread == seed.thread);
        let (thread_id, in_reply_to) = known
            .map_or_else(|| (id.clone(), None), |(_, id, previous)| (id.clone(), Some(previous.clone())));
        let message_id = format!("<{id}.{}@mail.example.com>", dice.below(1_000_000));
        threads.push((seed.thread, thread_id.clone(), message_id.clone()));
        let message = message(seed, owner, &filling, written(seed, &mut dice, clock));
        mailbox.messages.push(
            Message { id, thread_id, message_id, references: in_reply_to.clone(), in_reply_to, ..message }
                .indexed(),
        );
    }
    mailbox.messages.sort_by_key(|message| message.date);
    mailbox
}

/// When a message was written: within working hours, and never after now.
fn written(seed: &MailSeed, dice: &mut Dice, clock: &Clock) -> Timestamp {
    let now = clock.now();
    let hour = 8 + i8::try_from(dice.below(10)).unwrap_or(0);
    let minute = i8::try_from(dice.below(60)).unwrap_or(0);
    let date = days_from(clock.now_civil().date(), -i64::from(seed.days_ago));
    let latest = now.checked_sub(i64::try_from(2 + dice.below(30)).unwrap_or(2).minutes()).unwrap_or(now);
    instant(clock, date, hour, minute).min(latest)
}

fn message(seed: &MailSeed, owner: &Person, filling: &Filling, date: Timestamp) -> Message {
    let (from, to) = match seed.by {
        By::Contact(index) => (contact(index), owner.clone()),
        By::Me(index) => (owner.clone(), contact(index)),
        By::Sender(index) => {
            let (name, email) = SENDERS[index];
            (Person { name: name.to_owned(), email: email.to_owned() }, owner.clone())
        }
    };
    let mut labels = vec![if matches!(seed.by, By::Me(_)) { "SENT" } else { "INBOX" }.to_owned()];
    if seed.unread {
        labels.push("UNREAD".to_owned());
    }
    if matches!(seed.by, By::Sender(3)) {
        labels.push("CATEGORY_PROMOTIONS".to_owned());
    } else if matches!(seed.by, By::Contact(_)) {
        labels.push("IMPORTANT".to_owned());
    }
    let attachments = seed.attachment.map(|(filename, mime_type)| Attachment {
        filename: filename.to_owned(),
        mime_type: mime_type.to_owned(),
        size: 18_000 + filename.len() * 1_111,
        content: None,
    });
    Message {
        id: String::new(),
        thread_id: String::new(),
        labels,
        from,
        to: vec![to],
        cc: Vec::new(),
        bcc: Vec::new(),
        subject: filling.fill(seed.subject),
        date,
        body: filling.fill(seed.body),
        message_id: String::new(),
        in_reply_to: None,
        references: None,
        attachments: attachments.into_iter().collect(),
        index: super::mail::Index::default(),
        raw: None,
        history_id: 100_000,
    }
}

/// The calendar of `owner`.
pub(super) fn calendar(owner: &Person, seed: u64, clock: &Clock) -> Calendar {
    let filling = Filling::new(owner, seed);
    let mut dice = Dice::new(mix(seed ^ 0x63_616c));
    let today = clock.now_civil().date();
    let events = EVENTS.iter().map(|seed| event(seed, owner, &filling, today, &mut dice, clock)).collect();
    Calendar::new(events)
}

fn event(
    seed: &EventSeed,
    owner: &Person,
    filling: &Filling,
    today: Date,
    dice: &mut Dice,
    clock: &Clock,
) -> Event {
    let date = days_from(today, i64::from(seed.day));
    let shift = match date.weekday() {
        Weekday::Saturday if seed.workday => 2,
        Weekday::Sunday if seed.workday => 1,
        _ => 0,
    };
    let date = days_from(date, shift);
    let (start, end) = match seed.start {
        None => (Moment::Day(date), Moment::Day(days_from(date, 1))),
        Some((hour, minute)) => {
            let start = instant(clock, date, hour, minute);
            let end = start.checked_add(i64::from(seed.minutes).minutes()).unwrap_or(start);
            let zone = Some(clock.zone_name().to_owned());
            (Moment::At(start, zone.clone()), Moment::At(end, zone))
        }
    };
    let mut attendees: Vec<Attendee> = seed
        .with
        .iter()
        .map(|index| contact(*index))
        .map(|person| Attendee {
            email: person.email,
            name: Some(person.name),
            response: "accepted".to_owned(),
            rest: Default::default(),
        })
        .collect();
    if !attendees.is_empty() {
        attendees.push(Attendee {
            email: owner.email.clone(),
            name: Some(owner.name.clone()),
            response: "accepted".to_owned(),
            rest: Default::default(),
        });
    }
    let created = instant(clock, days_from(today, -20), 9, 0);
    Event {
        id: base32hex(dice.next(), dice.next()),
        summary: filling.fill(seed.summary),
        description: seed.description.map(|text| filling.fill(text)),
        location: seed.location.map(str::to_owned),
        start,
        end,
        attendees,
        cancelled: false,
        created,
        updated: created,
        sequence: 0,
        calendar: String::new(),
        changed: 0,
        of: None,
        rest: Default::default(),
    }
}

/// 26 characters of Google's alphabet for event ids.
pub(super) fn base32hex(high: u64, low: u64) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    [high, low]
        .into_iter()
        .flat_map(|number| {
            (0..13).map(move |i| char::from(ALPHABET[usize::try_from((number >> (5 * i)) & 31).unwrap_or(0)]))
        })
        .collect()
}

/// The drive of `owner`, newest change first.
pub(super) fn drive(owner: &Person, seed: u64, clock: &Clock) -> Drive {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let filling = Filling::new(owner, seed);
    let mut dice = Dice::new(mix(seed ^ 0x6472_6976));
    let today = clock.now_civil().date();
    let mut files: Vec<File> = FILES
        .iter()
        .map(|seed| {
            let id: String =
                (0..32).map(|_| char::from(ALPHABET[usize::try_from(dice.below(64)).unwrap_or(0)])).collect();
            let name = filling.fill(seed.name);
            let text = filling.fill(seed.text);
            let hour = 8 + i8::try_from(dice.below(9)).unwrap_or(0);
            let modified =
                instant(clock, days_from(today, -i64::from(seed.days_ago)), hour, 5).min(clock.now());
            let owner = seed.owner.map_or_else(|| owner.clone(), contact);
            let mut file = File::new(format!("1{id}"), name, seed.mime_type.to_owned(), owner, modified);
            file.seeded = text;
            file.created = modified.checked_sub((24 * 14).hours()).unwrap_or(modified);
            file.starred = dice.below(8) == 0;
            file.parents = vec![ROOT.to_owned()];
            file.permissions = vec![Permission::owner(&file.owner)];
            file.reindex();
            file
        })
        .collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.modified));
    let kind = super::file_kind::FOLDER.to_owned();
    let long_ago = instant(clock, days_from(today, -900), 9, 0);
    let mut root = File::new(ROOT.to_owned(), "My Drive".to_owned(), kind, owner.clone(), long_ago);
    root.permissions = vec![Permission::owner(owner)];
    root.reindex();
    files.push(root);
    Drive::new(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (Person, Clock) {
        let owner = Person { name: "Ada".to_owned(), email: "ada@example.com".to_owned() };
        (owner, Clock::new(Some(jiff::civil::date(2026, 11, 23)), "Europe/Berlin").unwrap())
    }

    #[test]
    fn the_seed_alone_decides_what_a_mailbox_holds() {
        let (owner, clock) = world();
        let ids = |seed| {
            mailbox(&owner, seed, &clock).messages.into_iter().map(|m| (m.id, m.subject)).collect::<Vec<_>>()
        };
        assert_eq!(ids(1), ids(1));
        assert_ne!(ids(1), ids(2));
        assert!(ids(1).len() >= 40);
    }

    #[test]
    fn a_thread_shares_its_id_and_refers_back() {
        let (owner, clock) = world();
        let mailbox = mailbox(&owner, 1, &clock);
        let thread: Vec<_> = mailbox.messages.iter().filter(|m| m.subject.ends_with("Q4 budget")).collect();
        assert_eq!(thread.len(), 3);
        assert!(thread.iter().all(|m| m.thread_id == thread[0].id));
        assert_eq!(thread[2].in_reply_to.as_ref(), Some(&thread[1].message_id));
        assert!(mailbox.messages.iter().all(|m| m.date < clock.now()));
    }

    #[test]
    fn every_user_has_a_meeting_tomorrow_and_a_roadmap() {
        let (owner, clock) = world();
        let calendar = calendar(&owner, 9, &clock);
        let tomorrow = clock.now_civil().date().tomorrow().unwrap();
        let on =
            |event: &Event| event.start.instant(clock.zone()).to_zoned_datetime(clock.zone().clone()).date();
        assert!(calendar.events.iter().any(|e| e.summary == "Project sync" && on(e) == tomorrow));
        assert!(calendar.events.len() >= 25);
        let drive = drive(&owner, 9, &clock);
        assert!(drive.files.iter().any(|f| f.name_index.contains(" roadmap ")));
        assert!(drive.files.len() >= 30);
        assert!(drive.files.iter().all(|f| !f.text().contains('{') && !f.name.contains('{')));
    }
}
