//! Threads: messages with one thread id, oldest first.

use serde_json::{Value, json};

use super::{Gmail, Outcome, done, listed, not_found, show_sent};
use crate::sim::wire::Reply;
use crate::sim::world::{MailBox, Message};

fn of_thread<'m>(mail: &'m MailBox, id: &str) -> Result<Vec<&'m Message>, Reply> {
    let drafts = mail.drafts.iter().map(|draft| &draft.message);
    let found: Vec<&Message> =
        mail.messages.iter().chain(drafts).filter(|message| message.thread_id == id).collect();
    if found.is_empty() { Err(not_found()) } else { Ok(found) }
}

fn history_of(messages: &[&Message]) -> String {
    messages.iter().map(|message| message.history_id).max().unwrap_or(0).to_string()
}

impl Gmail<'_> {
    /// Threads of which a message fits, that with the newest first.
    pub(super) fn list_threads(&self) -> Outcome {
        let (size, offset) = self.page_of()?;
        let mail = self.mail();
        let mut threads: Vec<&Message> = Vec::new();
        for message in self.found(&mail)? {
            if !threads.iter().any(|known| known.thread_id == message.thread_id) {
                threads.push(message);
            }
        }
        let show = |newest: &&Message| {
            let messages = of_thread(&mail, &newest.thread_id).unwrap_or_default();
            json!({"id": newest.thread_id, "snippet": newest.snippet(), "historyId": history_of(&messages)})
        };
        Ok(listed("threads", threads, offset, size, show))
    }

    pub(super) fn get_thread(&self, id: &str) -> Outcome {
        let mail = self.mail();
        let messages = of_thread(&mail, id)?;
        let shown: Result<Vec<Value>, Reply> = messages.iter().map(|message| self.show(message)).collect();
        Ok(json!({"id": id, "historyId": history_of(&messages), "messages": shown?}).into())
    }

    pub(super) fn modify_thread(&self, id: &str) -> Outcome {
        let (add, remove) = self.changes(&self.mail())?;
        self.relabel_thread(id, &add, &remove)
    }

    pub(super) fn relabel_thread(&self, id: &str, add: &[String], remove: &[String]) -> Outcome {
        let mut mail = self.mail();
        let ids: Vec<String> = of_thread(&mail, id)?.iter().map(|message| message.id.clone()).collect();
        for message in ids {
            mail.relabel(&message, add, remove);
        }
        let messages = of_thread(&mail, id)?;
        let shown: Vec<Value> = messages.iter().map(|message| show_sent(message)).collect();
        Ok(json!({"id": id, "historyId": history_of(&messages), "messages": shown}).into())
    }

    pub(super) fn delete_thread(&self, id: &str) -> Outcome {
        let mut mail = self.mail();
        let ids: Vec<String> = of_thread(&mail, id)?.iter().map(|message| message.id.clone()).collect();
        for message in ids {
            mail.delete(&message);
        }
        done()
    }
}
