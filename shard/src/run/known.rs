//! What references mean: the results of earlier steps and the items of the session.

use std::cell::OnceCell;

use sluice_protocols::plan::{EmailAddress, Item, ItemKind, ItemRef, Operation, Person, Recipient, StepId};
use sluice_protocols::problem::{Problem, ProblemKind};
use sluice_protocols::workflow::{Found, Graph, Node};
use sluice_store::record::ItemRecord;

use super::codes;
use super::seen::Seen;
use crate::sessions::Recent;

/// Everything a reference of this task can point to.
pub(super) struct Known<'a> {
    graph: &'a Graph,
    recent: &'a Recent,
    /// By the numbers of the steps.
    results: Vec<OnceCell<Brought>>,
}

/// What a step brought.
struct Brought {
    /// The operation as it was carried out, where it was filled in when it began.
    call: Option<Operation>,
    items: Vec<Seen>,
    text: Option<String>,
}

impl<'a> Known<'a> {
    pub(super) fn new(graph: &'a Graph, recent: &'a Recent) -> Self {
        let results = (0..StepId::NUMBER_MAX).map(|_| OnceCell::new()).collect();
        Self { graph, recent, results }
    }

    /// Makes the results of a finished step known, with its operation where that was filled in when it began. Later
    /// calls for the same step change nothing.
    pub(super) fn add(&self, step: StepId, call: Option<Operation>, items: Vec<Seen>, text: Option<String>) {
        let _known = self.results[step.index()].set(Brought { call, items, text });
    }

    /// What a step that is done found or made.
    pub(super) fn items(&self, step: StepId) -> Option<&[Seen]> {
        self.results[step.index()].get().map(|brought| brought.items.as_slice())
    }

    fn brought(&self, place: usize) -> Option<&Brought> {
        self.results[self.graph.nodes().get(place)?.id().index()].get()
    }

    /// The item meant.
    ///
    /// # Errors
    /// `unresolved-reference`, in words that say what was not found.
    pub(super) fn item(&self, reference: ItemRef) -> Result<Item, Problem> {
        match reference {
            ItemRef::Session(handle) => {
                let name = handle.to_string();
                let mut items = self.recent.turns().iter().rev().flat_map(|turn| &turn.items);
                let found = items.find(|item| item.handle == name).and_then(item_of);
                found.ok_or_else(|| {
                    let kind = handle.kind();
                    unresolved(match self.recent.is_elsewhere(&name) {
                        true => format!("the {kind} {name} is of another account than this command"),
                        false => format!("this conversation has no {kind} {name}"),
                    })
                })
            }
            ItemRef::Result { step, index } => {
                let brought = self.results[step.index()].get();
                let items = brought.map(|brought| brought.items.as_slice()).unwrap_or_default();
                let found = items.get(usize::from(index)).map(|item| (**item).clone());
                found.ok_or_else(|| unresolved(self.nothing_found(step, index, items.len())))
            }
        }
    }

    /// Everyone meant, each once.
    ///
    /// # Errors
    /// `unresolved-reference` when an item is not there, or has nobody who can be written to.
    pub(super) fn addresses(&self, recipients: &[Recipient]) -> Result<Vec<EmailAddress>, Problem> {
        let mut addresses: Vec<EmailAddress> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            let address = match recipient {
                Recipient::Address(address) => address.clone(),
                Recipient::PersonOf(reference) => address_of(&self.item(*reference)?)?,
            };
            if !addresses.iter().any(|known| known.as_str().eq_ignore_ascii_case(address.as_str())) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    fn nothing_found(&self, step: StepId, index: u8, count: usize) -> String {
        let planned = || self.graph.nodes().iter().find(|node| node.id() == step).map(Node::call);
        let filled = self.results[step.index()].get().and_then(|brought| brought.call.as_ref());
        let call = filled.or_else(planned);
        let what = call.map_or_else(|| "item".to_owned(), sought);
        if count == 0 {
            return format!("no {what} was found");
        }
        format!("there is no {} {what}: only {count} found", ordinal(index))
    }
}

impl Found for Known<'_> {
    fn item(&self, step: usize, index: u8) -> Option<Item> {
        self.brought(step)?.items.get(usize::from(index)).map(|item| (**item).clone())
    }

    fn count(&self, step: usize) -> usize {
        self.brought(step).map_or(0, |brought| brought.items.len())
    }

    fn text(&self, step: usize) -> Option<String> {
        self.brought(step)?.text.clone()
    }
}

/// What a step looks for, in words: `message from Anna about “budget”`.
pub(super) fn sought(call: &Operation) -> String {
    match call {
        Operation::GmailSearch { query, .. } => mail_sought(query),
        Operation::CalendarList { query: Some(query), .. } => format!("event with “{query}”"),
        Operation::CalendarList { .. } => "event in that time".to_owned(),
        Operation::DriveSearch { text, .. } => format!("file with “{text}”"),
        Operation::GmailRead { .. }
        | Operation::GmailSend { .. }
        | Operation::GmailReply { .. }
        | Operation::GmailForward { .. }
        | Operation::GmailLabel { .. }
        | Operation::GmailDraft { .. }
        | Operation::GmailTrash { .. } => "message".to_owned(),
        Operation::CalendarCreate { .. }
        | Operation::CalendarFreeBusy { .. }
        | Operation::CalendarChange { .. }
        | Operation::CalendarDelete { .. } => "event".to_owned(),
        Operation::DriveRead { .. }
        | Operation::DriveCreate { .. }
        | Operation::DriveShare { .. }
        | Operation::DriveExport { .. }
        | Operation::DriveMove { .. }
        | Operation::DriveTrash { .. } => "file".to_owned(),
    }
}

/// Reads the two commonest forms of a Gmail query, a sender and plain words; whatever else it holds is quoted.
fn mail_sought(query: &str) -> String {
    let mut senders = Vec::new();
    let mut rest = Vec::new();
    let narrowing = |word: &str| word.starts_with("after:") || word.starts_with("before:");
    // Seconds since 1970 tell nobody anything.
    for word in query.split_whitespace().filter(|word| !narrowing(word)) {
        match word.strip_prefix("from:").filter(|name| !name.is_empty() && !name.starts_with(['(', '"'])) {
            Some(name) => senders.push(name),
            None => rest.push(word),
        }
    }
    match (senders.as_slice(), rest.is_empty()) {
        ([], true) => "message".to_owned(),
        ([sender], true) => format!("message from {}", name(sender)),
        ([sender], false) => format!("message from {} matching “{}”", name(sender), rest.join(" ")),
        _ if senders.is_empty() => format!("message matching “{}”", rest.join(" ")),
        _ => format!("message matching “{}”", query.trim()),
    }
}

/// A name as it is written: `anna` becomes `Anna`, an address stays.
fn name(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !text.contains('@') => first.to_uppercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

fn ordinal(index: u8) -> String {
    const FIRST: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
    FIRST
        .get(usize::from(index))
        .map_or_else(|| format!("{}th", u16::from(index) + 1), |word| (*word).to_owned())
}

fn address_of(item: &Item) -> Result<EmailAddress, Problem> {
    let person = item.person.as_ref();
    let address = person.and_then(|person| person.address.parse().ok());
    address.ok_or_else(|| {
        unresolved(format!("{} “{}” names nobody who can be written to", the(item.kind), item.title))
    })
}

fn the(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Message => "the message",
        ItemKind::Event => "the event",
        ItemKind::File => "the file",
    }
}

/// A reference that leads nowhere.
pub(super) fn unresolved(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::UnresolvedReference, detail)
}

/// An item out of a session.
pub(super) fn item_of(record: &ItemRecord) -> Option<Item> {
    let person = record.person_address.clone();
    Some(Item {
        kind: codes::item_kind(record.kind)?,
        id: record.id.clone(),
        title: record.title.clone(),
        person: person.map(|address| Person { name: record.person_name.clone(), address }),
        when: record.when.clone(),
        thread_id: record.thread_id.clone(),
        message_id_header: record.message_id_header.clone(),
        snippet: record.snippet.clone(),
    })
}

/// An item for a session, under the name later commands can call it by.
pub(super) fn record_of(item: &Item, handle: String) -> ItemRecord {
    let person = item.person.as_ref();
    ItemRecord {
        handle,
        kind: codes::of_item_kind(item.kind),
        id: item.id.clone(),
        title: item.title.clone(),
        person_name: person.and_then(|person| person.name.clone()),
        person_address: person.map(|person| person.address.clone()),
        when: item.when.clone(),
        thread_id: item.thread_id.clone(),
        message_id_header: item.message_id_header.clone(),
        snippet: item.snippet.clone(),
    }
}

#[cfg(test)]
mod tests {
    use sluice_protocols::plan::Plan;

    use sluice_protocols::ids::ConnectionId;
    use sluice_store::record::{ActingAccount, TurnRecord};

    use super::*;

    fn item(address: Option<&str>) -> Item {
        Item {
            kind: ItemKind::Message,
            id: "1".to_owned(),
            title: "Budget".to_owned(),
            person: address.map(|address| Person { name: None, address: address.to_owned() }),
            when: None,
            thread_id: None,
            message_id_header: None,
            snippet: None,
        }
    }

    fn plan(query: &str) -> Graph {
        let plan = Plan::from_model_json(
            &serde_json::json!({"decision": "act", "reason": null, "steps": [
            {"id": "s1", "after": [], "call": {"operation": "gmail.search", "query": query, "limit": 5}}]})
            .to_string(),
        )
        .expect("a plan");
        Graph::of_plan(&plan)
    }

    fn turn(handle: &str, title: &str) -> TurnRecord {
        TurnRecord {
            number: 1,
            task: sluice_protocols::ids::TaskId::from_bytes([0; 16]),
            command: String::new(),
            answer: None,
            state: 3,
            at_ms: 0,
            items: vec![record_of(&Item { title: title.to_owned(), ..item(None) }, handle.to_owned())],
            account: None,
        }
    }

    #[test]
    fn what_another_account_found_is_not_what_a_handle_names() {
        let account = |number| Some(ActingAccount::Connected(ConnectionId::from_bytes([number; 16])));
        let of = |handle: &str, account| TurnRecord { account, ..turn(handle, handle) };
        let turns = vec![of("m1", account(1)), of("m2", account(2)), of("m3", None)];
        let plan = plan("from:anna");
        let found = |asking| {
            let recent = Recent::from(turns.clone()).of_account(asking);
            let known = Known::new(&plan, &recent);
            let item = |name: &str| match known.item(ItemRef::Session(name.parse().expect("a handle"))) {
                Ok(item) => item.title,
                Err(problem) => problem.detail().to_owned(),
            };
            (["m1", "m2", "m3", "m4"].map(item), recent.has_items())
        };
        let own = |name: &str| name.to_owned();
        let other = |name: &str| format!("the message {name} is of another account than this command");
        let none = own("this conversation has no message m4");
        assert_eq!(found(account(1)), ([own("m1"), other("m2"), own("m3"), none.clone()], true));
        assert_eq!(found(account(2)), ([other("m1"), own("m2"), own("m3"), none.clone()], true));
        assert_eq!(found(None), ([own("m1"), own("m2"), own("m3"), none], true));
        // Nor does the newest turn offer it.
        let recent = Recent::from(vec![of("m1", account(1))]).of_account(account(2));
        assert!(!recent.has_items() && recent.last().expect("a turn").items.is_empty());
    }

    #[test]
    fn what_was_not_found_is_said_in_words() {
        for (query, words) in [
            ("from:anna", "no message from Anna was found"),
            ("from:anna budget 2026", "no message from Anna matching “budget 2026” was found"),
            ("from:anna@example.com", "no message from anna@example.com was found"),
            ("", "no message was found"),
            ("is:unread after:1795561200", "no message matching “is:unread” was found"),
            ("from:(a OR b)", "no message matching “from:(a OR b)” was found"),
        ] {
            let plan = plan(query);
            let recent = Recent::default();
            let known = Known::new(&plan, &recent);
            let problem = known.item("$s1[0]".parse().expect("a reference")).expect_err("nothing");
            assert_eq!((problem.kind(), problem.detail()), (ProblemKind::UnresolvedReference, words));
        }
    }

    #[test]
    fn an_index_beyond_the_results_says_how_many_there_are() {
        let plan = plan("budget");
        let recent = Recent::default();
        let known = Known::new(&plan, &recent);
        known.add(StepId::new(1).expect("a step"), None, vec![item(None).into()], None);
        let problem = known.item("$s1[1]".parse().expect("a reference")).expect_err("one only");
        assert_eq!(problem.detail(), "there is no second message matching “budget”: only 1 found");
    }

    #[test]
    fn the_newest_turn_wins_when_handles_come_round_again() {
        let plan = plan("");
        let turns = Recent::from(vec![turn("m1", "old"), turn("m1", "new")]);
        let known = Known::new(&plan, &turns);
        assert_eq!(known.item("#m1".parse().expect("a handle")).expect("found").title, "new");
        let problem = known.item("#e7".parse().expect("a handle")).expect_err("unknown");
        assert_eq!(problem.detail(), "this conversation has no event e7");
    }

    #[test]
    fn recipients_are_resolved_once_each_and_hostile_addresses_refused() {
        let plan = plan("");
        let recent = Recent::default();
        let known = Known::new(&plan, &recent);
        let items = [item(Some("Anna@example.com")), item(Some("a@b.example, c@d.example")), item(None)];
        known.add(StepId::new(1).expect("a step"), None, items.map(Seen::from).to_vec(), None);
        let to = |texts: &[&str]| {
            let recipients: Vec<Recipient> =
                texts.iter().map(|text| text.parse().expect("a recipient")).collect();
            known.addresses(&recipients)
        };
        assert_eq!(to(&["anna@example.com", "$s1[0].from"]).expect("resolved").len(), 1);
        assert!(to(&["$s1[1].from"]).is_err());
        let problem = to(&["$s1[2].from"]).expect_err("nobody");
        assert_eq!(problem.detail(), "the message “Budget” names nobody who can be written to");
    }
}
