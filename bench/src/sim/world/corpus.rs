//! The texts the world is made of: who writes, what stands in the mailbox, in the
//! calendar and on the drive.
//!
//! Invariant: every user has mail from Anna Berg about the budget, a meeting
//! tomorrow and a file about the roadmap, so that the same commands work for all.
//!
//! `{me}`, `{company}`, `{city}`, `{amount}` and `{number}` are filled per user.

use super::file_kind as kind;

/// First name, last name and domain of those whom every user knows.
pub(super) const CONTACTS: [(&str, &str, &str); 12] = [
    ("Anna", "Berg", "example.com"),
    ("Ben", "Okafor", "example.com"),
    ("Carla", "Mendes", "example.com"),
    ("David", "Lindqvist", "example.com"),
    ("Emma", "Novak", "example.com"),
    ("Farid", "Haddad", "northwind.example"),
    ("Grace", "Liu", "northwind.example"),
    ("Hannah", "Weiss", "harbour.example"),
    ("Ivan", "Petrov", "harbour.example"),
    ("Julia", "Schmidt", "example.com"),
    ("Kenji", "Tanaka", "lumen.example"),
    ("Laura", "Rossi", "lumen.example"),
];

/// Senders that are no people.
pub(super) const SENDERS: [(&str, &str); 5] = [
    ("Cloudhost Billing", "billing@cloudhost.example"),
    ("Skyrail Travel", "tickets@skyrail.example"),
    ("Parcel Service", "tracking@parcels.example"),
    ("Weekly Digest", "digest@reading.example"),
    ("People Team", "people@example.com"),
];

/// Words to fill in, chosen per user.
pub(super) const COMPANIES: [&str; 6] =
    ["Northwind", "Harbour Labs", "Lumen", "Quarry & Sons", "Fjordline", "Tallgrass"];
pub(super) const CITIES: [&str; 6] = ["Lisbon", "Oslo", "Vienna", "Toronto", "Osaka", "Nairobi"];

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The contact with this index.
    Contact(usize),
    /// The sender with this index.
    Sender(usize),
    /// The owner of the mailbox, to the contact with this index.
    Me(usize),
}

/// A message to be made.
pub(super) struct MailSeed {
    pub(super) by: By,
    /// Messages with the same number (not 0) are one thread.
    pub(super) thread: u8,
    pub(super) days_ago: u8,
    pub(super) unread: bool,
    pub(super) subject: &'static str,
    pub(super) body: &'static str,
    pub(super) attachment: Option<(&'static str, &'static str)>,
}

const fn mail(
    by: By,
    thread: u8,
    days_ago: u8,
    unread: bool,
    subject: &'static str,
    body: &'static str,
) -> MailSeed {
    MailSeed { by, thread, days_ago, unread, subject, body, attachment: None }
}

const fn attached(seed: MailSeed, filename: &'static str, mime_type: &'static str) -> MailSeed {
    MailSeed { attachment: Some((filename, mime_type)), ..seed }
}

use By::{Contact, Me, Sender};

/// The mailbox, about six weeks of it.
pub(super) const MAIL: &[MailSeed] = &[
    mail(
        Contact(0),
        1,
        9,
        false,
        "Q4 budget",
        "Hi {me},\n\nI have started on the Q4 budget. Could you send me the figures for travel by the end of the week?\n\nThanks,\nAnna",
    ),
    mail(
        Me(0),
        1,
        8,
        false,
        "Re: Q4 budget",
        "Hi Anna,\n\nTravel will be about {amount} EUR. The spreadsheet is on the drive.\n\n{me}",
    ),
    attached(
        mail(
            Contact(0),
            1,
            2,
            true,
            "Re: Q4 budget",
            "Hi {me},\n\nThank you. With your figures the budget comes to {amount} EUR; the sheet is attached. Can we go through it on Tuesday?\n\nAnna",
        ),
        "budget-q4.xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    mail(
        Contact(0),
        0,
        16,
        false,
        "Team offsite in {city}",
        "Hello all,\n\nThe offsite will be in {city}. Please tell me about allergies and whether you come by train.\n\nAnna",
    ),
    mail(
        Contact(0),
        0,
        30,
        false,
        "Welcome Julia",
        "Hi everybody,\n\nJulia joins our team on Monday. Her desk is next to the window.\n\nAnna",
    ),
    mail(
        Contact(1),
        2,
        4,
        false,
        "Roadmap review",
        "Hi {me},\n\nthe roadmap for next year is ready for review. I would like your comments on the second quarter before Thursday.\n\nBen",
    ),
    mail(
        Me(1),
        2,
        3,
        false,
        "Re: Roadmap review",
        "Hi Ben,\n\nI will read it tomorrow. The mobile part looks late to me.\n\n{me}",
    ),
    mail(
        Contact(1),
        2,
        1,
        true,
        "Re: Roadmap review",
        "Good point. I moved mobile to the first quarter. Let us talk about it in the project sync.\n\nBen",
    ),
    mail(
        Contact(1),
        0,
        0,
        true,
        "Release notes",
        "Hi {me},\n\ncan you look over the release notes today? They go out at five.\n\nBen",
    ),
    mail(
        Contact(1),
        0,
        21,
        false,
        "Server room key",
        "The key of the server room is at the reception now, under my name.\n\nBen",
    ),
    attached(
        mail(
            Contact(2),
            3,
            12,
            false,
            "Offer for {company}",
            "Hi {me},\n\nattached is the offer for {company}, {amount} EUR in all. They want an answer before the end of the month.\n\nCarla",
        ),
        "offer.pdf",
        "application/pdf",
    ),
    mail(
        Me(2),
        3,
        11,
        false,
        "Re: Offer for {company}",
        "Looks good to me. Please add the support contract.\n\n{me}",
    ),
    mail(
        Contact(2),
        3,
        6,
        true,
        "Re: Offer for {company}",
        "Done, and sent. They will call on Friday.\n\nCarla",
    ),
    mail(
        Contact(2),
        0,
        25,
        false,
        "Trade fair in {city}",
        "Two tickets for the trade fair are left. Would you like to come along?\n\nCarla",
    ),
    mail(
        Contact(3),
        4,
        7,
        false,
        "Interview on Thursday",
        "Hi {me},\n\nthe candidate for the backend position comes on Thursday at two. Would you take the first half hour?\n\nDavid",
    ),
    mail(
        Contact(3),
        4,
        5,
        true,
        "Re: Interview on Thursday",
        "One more thing: her CV is in the hiring folder.\n\nDavid",
    ),
    mail(
        Contact(3),
        0,
        18,
        false,
        "On-call schedule",
        "The on-call schedule for next month is on the drive. You have the second week.\n\nDavid",
    ),
    mail(
        Contact(4),
        0,
        3,
        true,
        "Photos from the party",
        "Hi!\n\nI put the photos of the summer party on the drive. Some are quite funny.\n\nEmma",
    ),
    mail(
        Contact(4),
        5,
        14,
        false,
        "Design of the start page",
        "Here are three drafts of the start page. I like the second one most, what do you think?\n\nEmma",
    ),
    mail(
        Me(4),
        5,
        13,
        false,
        "Re: Design of the start page",
        "The second one, yes. The button could be larger.\n\n{me}",
    ),
    attached(
        mail(
            Contact(5),
            6,
            10,
            false,
            "Invoice {number}",
            "Dear {me},\n\nplease find attached our invoice {number} over {amount} EUR, due within 30 days.\n\nKind regards\nFarid Haddad\nNorthwind",
        ),
        "invoice.pdf",
        "application/pdf",
    ),
    mail(
        Contact(5),
        6,
        1,
        true,
        "Reminder: invoice {number}",
        "Dear {me},\n\nwe have not yet seen a payment for invoice {number}. Has it been lost?\n\nFarid Haddad",
    ),
    mail(
        Contact(6),
        0,
        5,
        false,
        "Contract renewal",
        "Hello {me},\n\nour contract ends in January. I have attached nothing yet, as prices change next week; may I call you?\n\nGrace Liu",
    ),
    attached(
        mail(
            Contact(7),
            0,
            8,
            true,
            "Security audit report",
            "Hi {me},\n\nthe audit is finished: two findings of medium weight, the report is attached.\n\nHannah",
        ),
        "audit-report.pdf",
        "application/pdf",
    ),
    mail(
        Contact(7),
        0,
        28,
        false,
        "Audit dates",
        "Would the second week of the month suit you for the audit?\n\nHannah",
    ),
    mail(
        Contact(8),
        0,
        15,
        false,
        "Data centre move",
        "Hello {me},\n\nwe move the racks on a Saturday night; expect ten minutes without network.\n\nIvan",
    ),
    mail(
        Contact(9),
        0,
        2,
        true,
        "Question about holidays",
        "Hi {me},\n\nwhom do I ask for leave in December? I would like to take the last two weeks.\n\nJulia",
    ),
    mail(Contact(9), 0, 20, false, "Thank you", "Thank you for the friendly welcome and the cake!\n\nJulia"),
    mail(
        Contact(10),
        7,
        17,
        false,
        "Partnership with Lumen",
        "Dear {me},\n\nit was good to meet you in {city}. I would like to set out how Lumen and you could work together.\n\nKenji Tanaka",
    ),
    mail(
        Me(10),
        7,
        16,
        false,
        "Re: Partnership with Lumen",
        "Dear Kenji,\n\nwith pleasure. Would a call next week suit you?\n\n{me}",
    ),
    mail(
        Contact(10),
        7,
        4,
        true,
        "Re: Partnership with Lumen",
        "Dear {me},\n\nWednesday would be best for me. I will bring Laura.\n\nKenji",
    ),
    mail(
        Contact(11),
        0,
        6,
        false,
        "Press release draft",
        "Hi {me},\n\nhere is the draft of the press release about the partnership. Corrections until Monday, please.\n\nLaura",
    ),
    attached(
        mail(
            Sender(0),
            0,
            11,
            false,
            "Your invoice for last month",
            "Your invoice of {amount} EUR is ready. It will be charged to the card on file.",
        ),
        "cloudhost-invoice.pdf",
        "application/pdf",
    ),
    mail(
        Sender(0),
        0,
        1,
        true,
        "Usage alert: 80 % of your budget",
        "Your project has used 80 % of its monthly budget.",
    ),
    attached(
        mail(
            Sender(1),
            0,
            6,
            false,
            "Your trip to {city}",
            "Your booking {number} is confirmed: train to {city}, seat 42, departure 08:12. The ticket is attached.",
        ),
        "ticket.pdf",
        "application/pdf",
    ),
    mail(
        Sender(1),
        0,
        24,
        false,
        "Travel receipt",
        "Thank you for travelling with us. You paid {amount} EUR.",
    ),
    mail(
        Sender(2),
        0,
        0,
        true,
        "Your parcel arrives today",
        "Parcel {number} will be delivered between 14:00 and 16:00.",
    ),
    mail(
        Sender(3),
        0,
        7,
        true,
        "This week: databases, trains and bread",
        "The five articles our readers liked most this week.",
    ),
    mail(
        Sender(3),
        0,
        14,
        false,
        "This week: maps and compilers",
        "The five articles our readers liked most this week.",
    ),
    mail(Sender(4), 0, 13, false, "Payslip available", "Your payslip is available in the portal."),
    mail(
        Sender(4),
        0,
        35,
        false,
        "New travel policy",
        "From next quarter on, trips under four hours are made by train. The policy is on the drive.",
    ),
    mail(
        Contact(4),
        0,
        33,
        false,
        "Lunch on Friday?",
        "There is a new place around the corner. Friday at half past twelve?\n\nEmma",
    ),
];

/// An event to be made.
pub(super) struct EventSeed {
    /// Days from today.
    pub(super) day: i8,
    /// Start as hour and minute; `None` is all day.
    pub(super) start: Option<(i8, i8)>,
    pub(super) minutes: i16,
    /// Moved to Monday when it would fall on a weekend.
    pub(super) workday: bool,
    pub(super) summary: &'static str,
    pub(super) with: &'static [usize],
    pub(super) location: Option<&'static str>,
    pub(super) description: Option<&'static str>,
}

const fn event(
    day: i8,
    start: (i8, i8),
    minutes: i16,
    summary: &'static str,
    with: &'static [usize],
) -> EventSeed {
    EventSeed {
        day,
        start: Some(start),
        minutes,
        workday: true,
        summary,
        with,
        location: None,
        description: None,
    }
}

const fn at(seed: EventSeed, location: &'static str, description: &'static str) -> EventSeed {
    EventSeed { location: Some(location), description: Some(description), ..seed }
}

const fn any_day(seed: EventSeed) -> EventSeed {
    EventSeed { workday: false, ..seed }
}

/// The calendar around today.
pub(super) const EVENTS: &[EventSeed] = &[
    any_day(at(event(1, (10, 0), 60, "Project sync", &[1, 2]), "Room 4", "Roadmap and release")),
    any_day(event(1, (15, 30), 30, "Call with Anna", &[0])),
    any_day(event(0, (16, 0), 45, "Release meeting", &[1, 3])),
    any_day(event(0, (9, 30), 15, "Team standup", &[0, 1, 3, 4])),
    event(2, (9, 30), 15, "Team standup", &[0, 1, 3, 4]),
    at(event(2, (14, 0), 60, "Budget review", &[0, 4]), "Room 2", "Figures of the fourth quarter"),
    event(3, (11, 0), 30, "1:1 with Ben", &[1]),
    at(event(3, (14, 0), 60, "Interview backend position", &[3]), "Room 1", "CV in the hiring folder"),
    any_day(at(
        event(4, (8, 15), 45, "Dentist appointment", &[]),
        "Harbour Street 12",
        "Bring the insurance card",
    )),
    event(4, (12, 30), 60, "Team lunch", &[0, 1, 2, 3, 4]),
    event(5, (15, 0), 30, "Call with Lumen", &[10, 11]),
    event(7, (10, 0), 90, "Roadmap workshop", &[1, 2, 4]),
    event(8, (13, 0), 60, "Security audit follow-up", &[7]),
    event(9, (9, 0), 60, "Contract renewal with Northwind", &[5, 6]),
    any_day(EventSeed { start: None, ..event(10, (0, 0), 0, "Emma's birthday", &[]) }),
    at(event(11, (8, 12), 240, "Train to {city}", &[]), "Central station", "Booking {number}"),
    event(12, (10, 0), 120, "Trade fair", &[2]),
    event(14, (16, 0), 60, "Quarterly review", &[0, 1, 2, 3]),
    event(-1, (10, 0), 30, "Coffee with Julia", &[9]),
    event(-2, (13, 30), 45, "Design review", &[4]),
    event(-3, (15, 0), 60, "Offer for {company}", &[2]),
    any_day(event(-4, (18, 30), 90, "Yoga", &[])),
    event(-5, (9, 0), 60, "Planning", &[0, 1, 3]),
    event(-6, (11, 0), 30, "Call with Hannah", &[7]),
    any_day(event(6, (19, 0), 120, "Dinner with Carla", &[2])),
    any_day(EventSeed { start: None, ..event(13, (0, 0), 0, "Public holiday", &[]) }),
];

/// A file to be made.
pub(super) struct FileSeed {
    pub(super) name: &'static str,
    pub(super) mime_type: &'static str,
    /// Contact that owns it; `None` is the user.
    pub(super) owner: Option<usize>,
    pub(super) days_ago: u8,
    pub(super) text: &'static str,
}

const fn file(
    name: &'static str,
    mime_type: &'static str,
    owner: Option<usize>,
    days_ago: u8,
    text: &'static str,
) -> FileSeed {
    FileSeed { name, mime_type, owner, days_ago, text }
}

/// The drive.
pub(super) const FILES: &[FileSeed] = &[
    file(
        "Product roadmap",
        kind::DOC,
        Some(1),
        1,
        "Product roadmap\n\nFirst quarter: mobile application, faster search.\nSecond quarter: partner interface with Lumen.\nThird quarter: reports and exports.\nFourth quarter: a second data centre in {city}.",
    ),
    file(
        "Roadmap workshop notes",
        kind::DOC,
        None,
        5,
        "Notes of the roadmap workshop\n\n- mobile comes first\n- the partner interface needs an owner\n- next workshop in a week",
    ),
    file(
        "Q4 budget",
        kind::SHEET,
        Some(0),
        2,
        "Post,Planned,Spent\nSalaries,420000,398500\nTravel,{amount},9120\nHosting,36000,31240\nTraining,8000,2150",
    ),
    file(
        "Budget of last year",
        kind::SHEET,
        Some(0),
        40,
        "Post,Planned,Spent\nSalaries,400000,401200\nTravel,15000,17430\nHosting,30000,29870",
    ),
    file(
        "Offer {company}",
        kind::PDF,
        Some(2),
        11,
        "Offer for {company}\nImplementation and support\nTotal {amount} EUR\nValid for 30 days",
    ),
    file("Offer template", kind::DOC, Some(2), 60, "Offer for ...\n\nScope, price, validity, terms."),
    file(
        "Invoice {number}",
        kind::PDF,
        Some(5),
        10,
        "Invoice {number}\nNorthwind\nConsulting, 12 days\n{amount} EUR, due within 30 days",
    ),
    file(
        "Security audit report",
        kind::PDF,
        Some(7),
        8,
        "Security audit\nTwo findings of medium weight\n1. Old TLS versions on the mail relay\n2. Shared account on the build server",
    ),
    file("On-call schedule", kind::SHEET, Some(3), 18, "Week,Person\n1,David\n2,{me}\n3,Emma\n4,Ben"),
    file(
        "Hiring: backend position",
        kind::DOC,
        Some(3),
        7,
        "Backend position\n\nWe look for somebody who likes storage engines and clear writing.\nInterviews on Thursday.",
    ),
    file(
        "Interview questions",
        kind::DOC,
        Some(3),
        26,
        "Questions for interviews\n\n1. What did you build last?\n2. What would you do differently?",
    ),
    file(
        "Team offsite {city}",
        kind::DOC,
        Some(0),
        15,
        "Team offsite in {city}\n\nArrival by train, two nights, one workshop a day and a walk along the river.",
    ),
    file(
        "Travel policy",
        kind::PDF,
        Some(9),
        34,
        "Travel policy\nTrips under four hours are made by train.\nReceipts within two weeks.",
    ),
    file(
        "Travel expenses",
        kind::SHEET,
        None,
        6,
        "Date,Place,Amount\n2026-10-02,{city},{amount}\n2026-10-21,Berlin,118.40",
    ),
    file(
        "Start page drafts",
        kind::SLIDES,
        Some(4),
        14,
        "Start page\nDraft 1: large picture\nDraft 2: search first\nDraft 3: list of news",
    ),
    file(
        "Quarterly review",
        kind::SLIDES,
        Some(0),
        12,
        "Quarterly review\nRevenue up by 12 %\nThree new customers\nOne outage of 14 minutes",
    ),
    file(
        "Partnership with Lumen",
        kind::DOC,
        Some(10),
        16,
        "Partnership\n\nLumen brings sensors, we bring the platform. First joint customer in spring.",
    ),
    file(
        "Press release",
        kind::DOC,
        Some(11),
        6,
        "Press release (draft)\n\nLumen and {me}'s team announce a partnership.",
    ),
    file(
        "Contract Northwind",
        kind::PDF,
        Some(6),
        70,
        "Contract with Northwind\nRuns until January, renewed by one year unless ended in writing.",
    ),
    file(
        "Meeting notes project sync",
        kind::DOC,
        None,
        3,
        "Project sync\n\n- release on time\n- Ben writes the notes\n- budget still open",
    ),
    file(
        "Release notes",
        kind::TEXT,
        Some(1),
        0,
        "Release notes\n\nFaster start, fewer requests, a fix for the calendar view.",
    ),
    file("Release checklist", kind::SHEET, Some(1), 9, "Step,Done\nFreeze,yes\nNotes,no\nAnnounce,no"),
    file(
        "Customer list",
        kind::SHEET,
        Some(2),
        22,
        "Name,City\nNorthwind,Oslo\nHarbour Labs,Hamburg\nLumen,Osaka",
    ),
    file(
        "Data centre move",
        kind::DOC,
        Some(8),
        15,
        "Plan of the move\n\nSaturday 22:00 racks off, 23:30 racks on, ten minutes without network in between.",
    ),
    file(
        "Onboarding",
        kind::DOC,
        Some(9),
        31,
        "Onboarding\n\nFirst day: laptop, accounts, cake. First week: a small change in production.",
    ),
    file(
        "Holiday calendar",
        kind::SHEET,
        Some(9),
        20,
        "Person,From,To\nJulia,2026-12-18,2026-12-31\nEmma,2026-12-24,2026-12-28",
    ),
    file("Training plan", kind::DOC, Some(4), 45, "Training plan\n\nWriting, databases, first aid."),
    file("Insurance policy", kind::PDF, None, 90, "Insurance policy {number}\nLiability up to 5,000,000 EUR"),
    file("Recipes", kind::TEXT, None, 50, "Bread: 500 g flour, 350 ml water, 10 g salt, time."),
    file("Photos summer party", kind::PDF, Some(4), 3, "Photos of the summer party\n24 pictures"),
];
