//! Drive v3: finding files and reading their text.

use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::{ApiCall, PathAndQuery, Segment};
use crate::plan::{ExportFormat, Item, ItemKind, Person, Service, ShareRole, clip};

const FILES: &str = "/drive/v3/files";
/// The fields asked for of each file.
const FILE_FIELDS: &str =
    "id,name,mimeType,description,modifiedTime,size,webViewLink,owners(displayName,emailAddress,me)";
/// Without it Drive answers as if there were no shared drives.
pub(super) const ALL_DRIVES: (&str, bool) = ("supportsAllDrives", true);
/// The largest file that is fetched to be read; an export has the same limit at Google's side.
pub const READ_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Finds files that hold all of these words, or have them in their names, best match first.
#[must_use]
pub fn search_files(text: &str, results_max: u8) -> ApiCall {
    let query = format!("fullText contains '{}' and trashed = false", escape(text));
    let path = PathAndQuery::new(FILES)
        .with("q", query)
        .with("pageSize", results_max)
        .with(ALL_DRIVES.0, ALL_DRIVES.1)
        .with("includeItemsFromAllDrives", true)
        .with("fields", format!("nextPageToken,files({FILE_FIELDS})"));
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Gets what is known of a file.
#[must_use]
pub fn get_file(id: &str) -> ApiCall {
    let path = PathAndQuery::new(file_path(id)).with(ALL_DRIVES.0, ALL_DRIVES.1).with("fields", FILE_FIELDS);
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Gets the bytes of a file.
#[must_use]
pub fn download_file(id: &str) -> ApiCall {
    let path = PathAndQuery::new(file_path(id)).with("alt", "media").with(ALL_DRIVES.0, ALL_DRIVES.1);
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Gets a Google document in another form.
#[must_use]
pub fn export_file(id: &str, mime_type: &str) -> ApiCall {
    let path = PathAndQuery::new(format!("{}/export", file_path(id))).with("mimeType", mime_type);
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// The media type of a folder.
const FOLDER: &str = "application/vnd.google-apps.folder";

/// Asks for an id that a file may be made under later: a file is made once under an id, so that a repeat is harmless.
#[must_use]
pub fn generate_id() -> ApiCall {
    let path = PathAndQuery::new(format!("{FILES}/generateIds")).with("count", 1);
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Makes a file without content, or a folder, under an id of [`generate_id`]. 409 when it was made before.
#[must_use]
pub fn create_file(id: &str, name: &str, folder: bool) -> ApiCall {
    let mut file = json!({"id": id, "name": name});
    if folder {
        file["mimeType"] = json!(FOLDER);
    }
    let path = PathAndQuery::new(FILES).with(ALL_DRIVES.0, ALL_DRIVES.1).with("fields", FILE_FIELDS);
    ApiCall::json(Service::Drive, "POST", path.finish(), &file)
}

/// As [`create_file`], with a text in it; `None` when the text cannot be told from what stands around it.
#[must_use]
pub fn create_text(id: &str, name: &str, text: &str) -> Option<ApiCall> {
    // One of them is in no text that was not written to have both.
    const BOUNDARIES: [(&str, &str); 2] = [
        ("multipart/related; boundary=c3d6a1f2b7e84c50", "--c3d6a1f2b7e84c50"),
        ("multipart/related; boundary=9f02be417ad35c68", "--9f02be417ad35c68"),
    ];
    let (content_type, line) = BOUNDARIES.into_iter().find(|(_, line)| !text.contains(line))?;
    let file = json!({"id": id, "name": name, "mimeType": "text/plain"});
    let body = format!(
        "{line}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{file}\r\n\
         {line}\r\nContent-Type: text/plain; charset=UTF-8\r\n\r\n{text}\r\n{line}--\r\n"
    );
    let path = PathAndQuery::new(format!("/upload{FILES}"))
        .with("uploadType", "multipart")
        .with(ALL_DRIVES.0, ALL_DRIVES.1)
        .with("fields", FILE_FIELDS);
    let content_type = Some(content_type);
    Some(ApiCall { content_type, body: body.into(), ..ApiCall::bare(Service::Drive, "POST", path.finish()) })
}

/// Lists with whom a file is shared: a hundred, from the beginning or from where an answer said that it goes on.
#[must_use]
pub fn list_permissions(id: &str, page: Option<&str>) -> ApiCall {
    let mut path = PathAndQuery::new(format!("{}/permissions", file_path(id)))
        .with(ALL_DRIVES.0, ALL_DRIVES.1)
        .with("fields", "nextPageToken,permissions(id,type,role,emailAddress)")
        .with("pageSize", 100);
    if let Some(page) = page {
        path = path.with("pageToken", page);
    }
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Gives somebody a file, or more to do with one that they have, and tells them by mail.
#[must_use]
pub fn share_file(id: &str, address: &str, role: ShareRole) -> ApiCall {
    let path = PathAndQuery::new(format!("{}/permissions", file_path(id)))
        .with(ALL_DRIVES.0, ALL_DRIVES.1)
        .with("sendNotificationEmail", true);
    let body = json!({"type": "user", "role": role.name(), "emailAddress": address});
    ApiCall::json(Service::Drive, "POST", path.finish(), &body)
}

/// Takes a file from somebody. 404 when they do not have it.
#[must_use]
pub fn unshare_file(id: &str, permission: &str) -> ApiCall {
    let path = PathAndQuery::new(format!("{}/permissions/{}", file_path(id), Segment(permission)))
        .with(ALL_DRIVES.0, ALL_DRIVES.1);
    ApiCall::bare(Service::Drive, "DELETE", path.finish())
}

/// Gives a permission another role, and tells nobody of it. To repeat it changes nothing.
#[must_use]
pub fn set_role(id: &str, permission: &str, role: &str) -> ApiCall {
    let path = PathAndQuery::new(format!("{}/permissions/{}", file_path(id), Segment(permission)))
        .with(ALL_DRIVES.0, ALL_DRIVES.1);
    ApiCall::json(Service::Drive, "PATCH", path.finish(), &json!({"role": role}))
}

/// The reply to [`list_permissions`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionList {
    /// Who has the file.
    #[serde(default)]
    pub permissions: Vec<Permission>,
    /// Where to go on.
    pub next_page_token: Option<String>,
}

/// What somebody may do with a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// Its id.
    pub id: String,
    /// Whose it is: none for those of everybody.
    pub email_address: Option<String>,
    /// Drive's name for what they may do.
    #[serde(default)]
    pub role: String,
}

impl Permission {
    /// Whether it is that of this person.
    #[must_use]
    pub fn is_of(&self, address: &str) -> bool {
        self.email_address.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(address))
    }

    /// Whether it allows at least as much as this.
    #[must_use]
    pub fn allows(&self, role: ShareRole) -> bool {
        let own = match self.role.as_str() {
            // Owners and organizers may do more.
            "fileOrganizer" | "organizer" | "owner" => Some(ShareRole::Writer),
            name => ShareRole::of_name(name),
        };
        own.is_some_and(|own| own >= role)
    }
}

/// Moves a file to the trash, or takes it out again. To repeat it changes nothing.
#[must_use]
pub fn trash_file(id: &str, trashed: bool) -> ApiCall {
    let path = PathAndQuery::new(file_path(id)).with(ALL_DRIVES.0, ALL_DRIVES.1).with("fields", FILE_FIELDS);
    ApiCall::json(Service::Drive, "PATCH", path.finish(), &json!({"trashed": trashed}))
}

/// Asks whether a file is in the trash.
#[must_use]
pub fn get_trashed(id: &str) -> ApiCall {
    let path = PathAndQuery::new(file_path(id)).with(ALL_DRIVES.0, ALL_DRIVES.1).with("fields", "trashed");
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Gets the folders that a file is in.
#[must_use]
pub fn get_parents(id: &str) -> ApiCall {
    let path = PathAndQuery::new(file_path(id)).with(ALL_DRIVES.0, ALL_DRIVES.1).with("fields", "parents");
    ApiCall::bare(Service::Drive, "GET", path.finish())
}

/// Puts a file into folders and takes it out of others; nothing of it changes besides.
#[must_use]
pub fn move_file(id: &str, into: &[&str], out_of: &[&str]) -> ApiCall {
    let mut path = PathAndQuery::new(file_path(id)).with(ALL_DRIVES.0, ALL_DRIVES.1);
    for (name, folders) in [("addParents", into), ("removeParents", out_of)] {
        if !folders.is_empty() {
            path = path.with(name, folders.join(","));
        }
    }
    ApiCall::json(Service::Drive, "PATCH", path.with("fields", FILE_FIELDS).finish(), &json!({}))
}

/// The reply to [`get_parents`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Parents {
    /// The ids of the folders; none of a file that others own and share.
    #[serde(default)]
    pub parents: Vec<String>,
}

/// The reply to [`generate_id`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GeneratedIds {
    /// The ids.
    #[serde(default)]
    pub ids: Vec<String>,
}

fn file_path(id: &str) -> String {
    format!("{FILES}/{}", Segment(id))
}

/// A text as it stands between the quotes of a Drive query. Quotes of the other sort would ask for the exact
/// phrase: plain words are meant, so they become spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '\'' => escaped.extend(['\\', letter]),
            '"' => escaped.push(' '),
            _ => escaped.push(letter),
        }
    }
    escaped
}

/// The reply to [`search_files`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileList {
    /// The files.
    #[serde(default)]
    pub files: Vec<File>,
    /// Where to go on.
    pub next_page_token: Option<String>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Its id.
    pub id: String,
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// Its media type; Google's own documents have `application/vnd.google-apps.` ones.
    #[serde(default)]
    pub mime_type: String,
    /// What its owner says about it.
    pub description: Option<String>,
    /// When it was last changed, RFC 3339.
    pub modified_time: Option<String>,
    /// Its size in bytes, which Google gives as text; none for Google's own documents.
    #[serde(default, deserialize_with = "size")]
    pub size: Option<u64>,
    /// Where a browser shows it.
    pub web_view_link: Option<String>,
    /// Who owns it.
    #[serde(default)]
    pub owners: Vec<Owner>,
}

/// Who owns a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The name.
    pub display_name: Option<String>,
    /// The address.
    pub email_address: Option<String>,
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// Why the text of a file cannot be had; the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is a folder, a picture or something else without text.
    #[error("the file has no text that can be read")]
    NoText,
    /// It is larger than [`READ_BYTES_MAX`].
    #[error("the file is too large to be read: {0} bytes")]
    TooLarge(u64),
}

impl File {
    /// The call that gets its text: an export for Google's own documents, else its bytes when they are text.
    ///
    /// # Errors
    /// When there is no text in it, or too much.
    pub fn read_call(&self) -> Result<ApiCall, Unreadable> {
        if let Some(kind) = self.mime_type.strip_prefix("application/vnd.google-apps.") {
            let mime_type = match kind {
                "document" | "presentation" => "text/plain",
                "spreadsheet" => "text/csv",
                _ => return Err(Unreadable::NoText),
            };
            return Ok(export_file(&self.id, mime_type));
        }
        if !is_text(&self.mime_type) {
            return Err(Unreadable::NoText);
        }
        match self.size {
            Some(size) if size > READ_BYTES_MAX => Err(Unreadable::TooLarge(size)),
            _ => Ok(download_file(&self.id)),
        }
    }

    /// The path at this gateway from which it is fetched in this form; `None` when it cannot be had so.
    #[must_use]
    pub fn path_as(&self, format: ExportFormat) -> Option<String> {
        let path = format!("/api/v1/drive/files/{}", Segment(&self.id));
        if self.is_exported_as(format) {
            let path = PathAndQuery::new(path + "/export").with("mime_type", format.media_type());
            return Some(path.finish());
        }
        // It is of that form already.
        (self.mime_type == format.media_type()).then(|| path + "/content")
    }

    /// Whether Google converts it into this form.
    fn is_exported_as(&self, format: ExportFormat) -> bool {
        use ExportFormat::{Csv, Docx, Pdf, Pptx, Txt, Xlsx};
        let forms: &[ExportFormat] = match self.mime_type.strip_prefix("application/vnd.google-apps.") {
            Some("document") => &[Pdf, Docx, Txt],
            Some("spreadsheet") => &[Pdf, Xlsx, Csv],
            Some("presentation") => &[Pdf, Pptx, Txt],
            Some("drawing") => &[Pdf],
            _ => &[],
        };
        forms.contains(&format)
    }

    /// Whether files can be in it.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.mime_type == FOLDER
    }

    /// What later steps and turns need of it.
    #[must_use]
    pub fn to_item(&self) -> Item {
        let owner = self.owners.first();
        let person = owner.and_then(|owner| {
            let address = owner.email_address.as_deref().map(clip)?;
            Some(Person { name: owner.display_name.as_deref().map(clip), address })
        });
        Item {
            kind: ItemKind::File,
            id: self.id.clone(),
            title: clip(&self.name),
            person,
            when: self.modified_time.as_deref().map(clip),
            thread_id: None,
            message_id_header: None,
            snippet: self.description.as_deref().map(clip),
        }
    }
}

fn is_text(mime_type: &str) -> bool {
    let main = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    const TEXTS: [&str; 5] = [
        "application/json",
        "application/xml",
        "application/yaml",
        "application/x-yaml",
        "application/javascript",
    ];
    main.starts_with("text/")
        || TEXTS.contains(&main.as_str())
        || main.ends_with("+json")
        || main.ends_with("+xml")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_had_in_the_forms_that_google_converts_it_into_and_a_file_in_its_own() {
        use ExportFormat::{Csv, Docx, Pdf, Txt};
        let path = |mime_type: &str, format| file(mime_type, None).path_as(format);
        assert_eq!(
            path("application/vnd.google-apps.document", Pdf).as_deref(),
            Some("/api/v1/drive/files/1aB/export?mime_type=application%2Fpdf")
        );
        assert_eq!(path("application/vnd.google-apps.document", Csv), None);
        assert_eq!(path("application/vnd.google-apps.folder", Pdf), None);
        assert_eq!(path("application/pdf", Pdf).as_deref(), Some("/api/v1/drive/files/1aB/content"));
        assert_eq!((path("application/pdf", Docx), path("text/html", Txt)), (None, None));
    }

    fn file(mime_type: &str, size: Option<&str>) -> File {
        serde_json::from_value(json!({
            "kind": "drive#file", "id": "1aB", "name": "Budget", "mimeType": mime_type, "size": size,
            "modifiedTime": "2026-11-20T09:12:00.000Z", "trashed": false,
            "owners": [{"displayName": "Anna Berg", "emailAddress": "anna@example.com", "me": false}],
        }))
        .expect("a file")
    }

    #[test]
    fn a_search_asks_for_words_and_for_no_more_fields_than_needed() {
        assert_eq!(
            search_files("budget 2026", 3).path,
            "/drive/v3/files?q=fullText%20contains%20%27budget%202026%27%20and%20trashed%20%3D%20false&pageSize=3\
             &supportsAllDrives=true&includeItemsFromAllDrives=true&fields=nextPageToken%2Cfiles%28id%2Cname%2CmimeType%2Cdescription%2CmodifiedTime%2Csize%2CwebViewLink\
             %2Cowners%28displayName%2CemailAddress%2Cme%29%29"
        );
    }

    #[test]
    fn words_cannot_end_the_query() {
        assert_eq!(escape("it's"), "it\\'s");
        assert_eq!(escape("\\' or name contains '"), "\\\\\\' or name contains \\'");
        assert_eq!(escape("the \"plan\""), "the  plan ");
    }

    #[test]
    fn google_documents_are_exported_and_texts_downloaded() {
        let path = |mime_type| file(mime_type, None).read_call().map(|call| call.path);
        let export = |mime| Ok(format!("/drive/v3/files/1aB/export?mimeType={mime}"));
        assert_eq!(path("application/vnd.google-apps.document"), export("text%2Fplain"));
        assert_eq!(path("application/vnd.google-apps.presentation"), export("text%2Fplain"));
        assert_eq!(path("application/vnd.google-apps.spreadsheet"), export("text%2Fcsv"));
        for text in ["text/plain", "text/markdown; charset=utf-8", "application/json", "application/atom+xml"]
        {
            assert_eq!(
                path(text),
                Ok("/drive/v3/files/1aB?alt=media&supportsAllDrives=true".to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_text_or_too_much_is_not_fetched() {
        for mime_type in ["application/vnd.google-apps.folder", "image/png", "application/pdf", ""] {
            assert_eq!(file(mime_type, Some("5")).read_call(), Err(Unreadable::NoText), "{mime_type}");
        }
        let large = file("text/plain", Some("10485761"));
        assert_eq!(large.read_call(), Err(Unreadable::TooLarge(10_485_761)));
        assert!(file("text/plain", Some("10485760")).read_call().is_ok());
    }

    #[test]
    fn ids_cannot_reach_other_endpoints() {
        assert_eq!(
            download_file("../about?x").path,
            "/drive/v3/files/..%2Fabout%3Fx?alt=media&supportsAllDrives=true"
        );
        assert!(get_file("..").path.starts_with("/drive/v3/files/_?supportsAllDrives=true&fields="));
    }

    #[test]
    fn a_file_becomes_an_item() {
        let item = file("text/plain", Some("77")).to_item();
        assert_eq!((item.kind, item.id.as_str(), item.title.as_str()), (ItemKind::File, "1aB", "Budget"));
        assert_eq!(item.person.expect("a person").to_string(), "Anna Berg <anna@example.com>");
        assert_eq!(item.when.as_deref(), Some("2026-11-20T09:12:00.000Z"));
    }

    #[test]
    fn a_size_that_is_no_number_is_no_size() {
        assert_eq!(file("text/plain", Some("many")).size, None);
        assert_eq!(file("text/plain", Some("77")).size, Some(77));
        let bare: File = serde_json::from_str(r#"{"id": "x"}"#).expect("a file");
        assert_eq!(bare.size, None);
        assert_eq!(bare.to_item().person, None);
    }

    #[test]
    fn a_text_comes_between_boundaries_that_are_not_in_it() {
        let call = create_text("1aB", "a.txt", "one\r\ntwo").expect("a call");
        let body = String::from_utf8(call.body.to_vec()).expect("a text");
        let boundary = call.content_type.and_then(|kind| kind.split("boundary=").nth(1)).expect("a boundary");
        let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4, "{body}");
        assert!(parts[2].ends_with("\r\n\r\none\r\ntwo\r\n"), "{body}");
        let other = create_text("1aB", "a.txt", &format!("--{boundary}")).expect("a call");
        assert_ne!(other.content_type, call.content_type);
        let both = format!(
            "--{boundary}{}",
            other.content_type.unwrap_or_default().replace("multipart/related; boundary=", "--")
        );
        assert_eq!(create_text("1aB", "a.txt", &both), None);
    }

    #[test]
    fn what_a_permission_allows_is_what_its_role_says() {
        let of = |role: &str| Permission {
            id: "1".to_owned(),
            email_address: Some("A@b.c".to_owned()),
            role: role.to_owned(),
        };
        for (role, allowed) in
            [("reader", 1), ("commenter", 2), ("writer", 3), ("owner", 3), ("organizer", 3), ("x", 0)]
        {
            let count = ShareRole::ALL.into_iter().filter(|wanted| of(role).allows(*wanted)).count();
            assert_eq!(count, allowed, "{role}");
        }
        assert!(of("reader").is_of("a@B.c") && !of("reader").is_of("b@b.c"));
        assert!(!Permission { email_address: None, ..of("reader") }.is_of("a@b.c"));
    }

    proptest! {
        #[test]
        fn quotes_in_searches_are_always_escaped(text in "['\\\\\"a ]{0,20}") {
            let escaped = escape(&text);
            let mut letters = escaped.chars();
            while let Some(letter) = letters.next() {
                prop_assert!(letter != '\'');
                if letter == '\\' {
                    prop_assert!(matches!(letters.next(), Some('\\' | '\'')));
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = serde_json::from_slice::<FileList>(&body);
        }
    }
}
