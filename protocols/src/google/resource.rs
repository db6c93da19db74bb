//! What a call reads and what it changes, as caches need to know it.
//!
//! A resource is a service and the path below its API's root, such as `messages/18f` in Gmail. A [`Tag`] is a service
//! and the beginning of such a path, in whole segments; it stands for every resource that begins so.

use std::fmt;
use std::str::FromStr;

use super::ApiCall;
use crate::plan::Service;

/// The longest tag that is taken, in bytes: Drive and Calendar ids stay far below.
pub const TAG_BYTES_MAX: usize = 1_200;

const GMAIL_ROOT: &str = "/gmail/v1/users/me/";
const CALENDAR_ROOT: &str = "/calendar/v3/";
const DRIVE_ROOT: &str = "/drive/v3/";

/// Some of a user's resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    service: Service,
    /// Empty for all of the service.
    prefix: Box<str>,
}

/// Why a text is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tag is gmail, calendar or drive, alone or followed by a colon and the beginning of a path, such as gmail:messages"
)]
pub struct TagError;

impl Tag {
    /// Everything of a service.
    #[must_use]
    pub fn whole(service: Service) -> Self {
        Self { service, prefix: Box::default() }
    }

    /// Whether the resource at `path`, below the root of `service`, is one of these.
    #[must_use]
    pub fn covers(&self, service: Service, path: &str) -> bool {
        self.service == service
            && path
                .strip_prefix(&*self.prefix)
                .is_some_and(|rest| self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let (service, prefix) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let service = match service {
            "gmail" => Service::Gmail,
            "calendar" => Service::Calendar,
            "drive" => Service::Drive,
            _ => return Err(TagError),
        };
        let prefix = match prefix.map(|prefix| prefix.trim_end_matches('/')) {
            None => "",
            Some(prefix) if !prefix.is_empty() && text.len() <= TAG_BYTES_MAX => prefix,
            Some(_) => return Err(TagError),
        };
        Ok(Self { service, prefix: prefix.into() })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = match self.service {
            Service::Gmail => "gmail",
            Service::Calendar => "calendar",
            Service::Drive => "drive",
        };
        let colon = if self.prefix.is_empty() { "" } else { ":" };
        write!(f, "{service}{colon}{}", self.prefix)
    }
}

/// What may read differently once a call with an effect was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dirt {
    /// Everything of the service.
    Service(Service),
    /// Lists, searches, threads and drafts of Gmail. What a message says and who wrote it does not change when
    /// another is drafted or sent.
    MailLists,
}

impl Dirt {
    /// Whether the resource at `path`, below the root of `service`, may read differently.
    #[must_use]
    pub fn covers(self, service: Service, path: &str) -> bool {
        match self {
            Self::Service(dirty) => dirty == service,
            Self::MailLists => service == Service::Gmail && !path.starts_with("messages/"),
        }
    }

    /// The service.
    #[must_use]
    pub const fn service(self) -> Service {
        match self {
            Self::Service(service) => service,
            Self::MailLists => Service::Gmail,
        }
    }
}

/// The path below the root of its API, without the query; the whole path when it is elsewhere.
#[must_use]
pub fn below_root(service: Service, path: &str) -> &str {
    let path = path.split('?').next().unwrap_or_default();
    let root = match service {
        Service::Gmail => GMAIL_ROOT,
        Service::Calendar => CALENDAR_ROOT,
        Service::Drive => DRIVE_ROOT,
    };
    path.strip_prefix(root).unwrap_or(path)
}

impl ApiCall {
    /// The resource it is about: its path below the API's root, without the query.
    #[must_use]
    pub fn resource(&self) -> &str {
        below_root(self.service, &self.path)
    }

    /// Whether it changes nothing, whatever its method: a `GET`, or Calendar's question for busy times.
    #[must_use]
    pub fn is_question(&self) -> bool {
        self.method == "GET" || (self.service == Service::Calendar && self.resource() == "freeBusy")
    }

    /// What its effect, if it has one, may make read differently.
    #[must_use]
    pub fn dirt(&self) -> Dirt {
        let resource = self.resource();
        let is_new_mail = matches!(resource, "drafts" | "drafts/send" | "messages/send");
        match self.service {
            Service::Gmail if is_new_mail && self.method == "POST" => Dirt::MailLists,
            service => Dirt::Service(service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gmail;
    use super::*;

    #[test]
    fn a_tag_covers_whole_segments_of_its_own_service() {
        let tag: Tag = "gmail:messages".parse().expect("a tag");
        assert!(tag.covers(Service::Gmail, "messages") && tag.covers(Service::Gmail, "messages/18f"));
        assert!(!tag.covers(Service::Gmail, "messagesx") && !tag.covers(Service::Drive, "messages"));
        assert!(!tag.covers(Service::Gmail, "threads/1"));
        let all: Tag = "drive".parse().expect("a tag");
        assert!(all.covers(Service::Drive, "files/1") && !all.covers(Service::Gmail, "files/1"));
        assert_eq!(all, Tag::whole(Service::Drive));
        assert_eq!("gmail:messages/".parse::<Tag>().map(|tag| tag.to_string()), Ok("gmail:messages".into()));
        for text in
            ["", "mail", "gmail:", "gmail:/", "Gmail", &format!("gmail:{}", "x".repeat(TAG_BYTES_MAX))]
        {
            assert_eq!(text.parse::<Tag>(), Err(TagError), "{text}");
        }
    }

    #[test]
    fn a_new_mail_leaves_what_messages_say_and_any_other_change_leaves_nothing() {
        let send = gmail::send_draft("d1");
        assert_eq!(send.dirt(), Dirt::MailLists);
        assert!(send.dirt().covers(Service::Gmail, gmail::list_messages("x", 3).resource()));
        assert!(
            !send.dirt().covers(Service::Gmail, gmail::get_message("m1", gmail::Format::Full).resource())
        );
        assert!(send.dirt().covers(Service::Gmail, "threads/t1"));
        let trash = ApiCall::bare(Service::Gmail, "POST", "/gmail/v1/users/me/messages/m1/trash".to_owned());
        assert!(trash.dirt().covers(Service::Gmail, "messages/m2"));
        assert!(gmail::get_draft("d").is_question() && !trash.is_question());
        let deletion = super::super::calendar::delete_event("e1");
        assert_eq!(deletion.dirt(), Dirt::Service(Service::Calendar));
    }
}
