//! Drive v3: finding and reading files.
//! <https://developers.google.com/workspace/drive/api/reference/rest/v3/files>

use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::drive_query::Query;
use super::unknown_path;
use crate::sim::chance::{hash, mix};
use crate::sim::wire::{Call, Mask, Reply, google_error, google_error_at, invalid_fields, page};
use crate::sim::world::{File, User, file_kind};

/// Fields of a file that Drive knows; others in a mask are refused.
const FILE_FIELDS: [&str; 33] = [
    "*",
    "kind",
    "id",
    "name",
    "mimeType",
    "description",
    "starred",
    "trashed",
    "explicitlyTrashed",
    "parents",
    "spaces",
    "version",
    "webContentLink",
    "webViewLink",
    "iconLink",
    "thumbnailLink",
    "viewedByMe",
    "viewedByMeTime",
    "createdTime",
    "modifiedTime",
    "modifiedByMe",
    "modifiedByMeTime",
    "owners",
    "lastModifyingUser",
    "shared",
    "ownedByMe",
    "capabilities",
    "permissions",
    "size",
    "md5Checksum",
    "fileExtension",
    "exportLinks",
    "quotaBytesUsed",
];
/// What Drive gives when no mask says otherwise.
const FILE_FIELDS_DEFAULT: &str = "kind,id,name,mimeType";

/// Answers a request below `/drive/v3/`.
pub(super) fn serve(user: &Arc<User>, call: &Call) -> (&'static str, Reply) {
    let segments = call.segments("/drive/v3/");
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let drive = Drive { user, call };
    let (endpoint, reply) = match (&call.method, segments.as_slice()) {
        (&Method::GET, ["files"]) => ("drive.files.list", drive.list()),
        (&Method::GET, ["files", id]) if call.query.get("alt") == Some("media") => {
            ("drive.files.download", drive.with_file(id, |file| drive.download(file)))
        }
        (&Method::GET, ["files", id]) => ("drive.files.get", drive.with_file(id, |file| drive.get(file))),
        (&Method::GET, ["files", id, "export"]) => {
            ("drive.files.export", drive.with_file(id, |file| drive.export(file)))
        }
        _ => ("unknown", Err(unknown_path(&call.path))),
    };
    (endpoint, reply.unwrap_or_else(|refusal| refusal))
}

/// `Err` is an answer too: a refusal.
type Outcome = Result<Reply, Reply>;

struct Drive<'a> {
    user: &'a User,
    call: &'a Call,
}

impl Drive<'_> {
    fn list(&self) -> Outcome {
        let params = &self.call.query;
        let (size, offset) = (params.size("pageSize", 100, 1_000)?, params.page_offset()?);
        let query = Query::parse(params.get("q").unwrap_or_default())
            .ok_or_else(|| google_error_at(400, "invalid", "Invalid Value", Some("q")))?;
        let text = params
            .get("fields")
            .unwrap_or("kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType)");
        let mask = Mask::parse(text).ok_or_else(|| invalid_fields(text))?;
        for name in mask.names() {
            if !matches!(name, "*" | "kind" | "incompleteSearch" | "nextPageToken" | "files") {
                return Err(invalid_fields(name));
            }
        }
        check_fields(mask.below("files"))?;
        let drive = self.user.drive();
        let mut found: Vec<&File> =
            drive.files.iter().filter(|file| query.matches(file, &self.user.person.email)).collect();
        order(&mut found, params.get("orderBy").unwrap_or_default())?;
        let (found, next) = page(found, offset, size);
        let files: Vec<Value> = found.into_iter().map(|file| self.show(file)).collect();
        let mut answer = json!({"kind": "drive#fileList", "incompleteSearch": false, "files": files});
        if let Some(next) = next {
            answer["nextPageToken"] = next.into();
        }
        Ok(Reply::json(200, &mask.apply(answer)))
    }

    fn with_file(&self, id: &str, answer: impl FnOnce(&File) -> Outcome) -> Outcome {
        let drive = self.user.drive();
        match drive.files.iter().find(|file| file.id == id) {
            Some(file) => answer(file),
            None => Err(google_error_at(404, "notFound", &format!("File not found: {id}."), Some("fileId"))),
        }
    }

    fn get(&self, file: &File) -> Outcome {
        let text = self.call.query.get("fields").unwrap_or(FILE_FIELDS_DEFAULT);
        let mask = Mask::parse(text).ok_or_else(|| invalid_fields(text))?;
        check_fields(mask.names())?;
        Ok(Reply::json(200, &mask.apply(self.show(file))))
    }

    fn download(&self, file: &File) -> Outcome {
        if file.is_google_type() {
            let message =
                "Only files with binary content can be downloaded. Use Export with Docs Editors files.";
            return Err(google_error_at(403, "fileNotDownloadable", message, Some("alt")));
        }
        Ok(Reply::bytes(file.mime_type, file.content()))
    }

    fn export(&self, file: &File) -> Outcome {
        let Some(wanted) = self.call.query.get("mimeType") else {
            return Err(google_error_at(400, "required", "Required parameter: mimeType", Some("mimeType")));
        };
        if !file.is_google_type() {
            return Err(google_error(403, "fileNotExportable", "Export only supports Docs Editors files."));
        }
        match wanted {
            "application/pdf" => Ok(Reply::bytes(wanted, crate::sim::world::pdf(&file.name, &file.text))),
            "text/csv" | "text/tab-separated-values" if file.mime_type == file_kind::SHEET => {
                let text =
                    if wanted == "text/csv" { file.text.clone() } else { file.text.replace(',', "\t") };
                Ok(Reply::bytes(wanted, text))
            }
            "text/plain" | "text/markdown" if file.mime_type != file_kind::SHEET => {
                // Google starts exported text with a byte order mark.
                Ok(Reply::bytes(wanted, format!("\u{feff}{}", file.text.replace('\n', "\r\n"))))
            }
            "text/html" => Ok(Reply::bytes(wanted, html(file))),
            _ => Err(google_error_at(
                400,
                "badRequest",
                "The requested conversion is not supported.",
                Some("convertTo"),
            )),
        }
    }

    fn show(&self, file: &File) -> Value {
        let owned_by_me = file.owner.email == self.user.person.email;
        let owner = json!({"kind": "drive#user", "displayName": file.owner.name, "me": owned_by_me,
            "permissionId": (mix(hash(&file.owner.email)) >> 4).to_string(), "emailAddress": file.owner.email});
        let place = match file.mime_type {
            file_kind::DOC => "https://docs.google.com/document/d",
            file_kind::SHEET => "https://docs.google.com/spreadsheets/d",
            file_kind::SLIDES => "https://docs.google.com/presentation/d",
            _ => "https://drive.google.com/file/d",
        };
        let mut value = json!({
            "kind": "drive#file", "id": file.id, "name": file.name, "mimeType": file.mime_type,
            "starred": file.starred, "trashed": false, "explicitlyTrashed": false, "parents": ["0AAroot"],
            "spaces": ["drive"], "version": "7", "webViewLink": format!("{place}/{}/view", file.id),
            "viewedByMe": true, "createdTime": time(file.created), "modifiedTime": time(file.modified),
            "owners": [owner.clone()], "lastModifyingUser": owner, "shared": !owned_by_me, "ownedByMe": owned_by_me,
            "capabilities": {"canDownload": true, "canEdit": owned_by_me},
            "size": file.content().len().to_string(), "quotaBytesUsed": file.content().len().to_string(),
        });
        if !file.is_google_type() {
            value["md5Checksum"] = format!("{:016x}{:016x}", mix(hash(&file.text)), hash(&file.id)).into();
            value["fileExtension"] = if file.mime_type == file_kind::PDF { "pdf" } else { "txt" }.into();
        }
        value
    }
}

fn html(file: &File) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let body: String = file.text.lines().map(|line| format!("<p>{}</p>", escape(line))).collect();
    format!(
        "<!DOCTYPE html><html><head><title>{}</title></head><body>{body}</body></html>",
        escape(&file.name)
    )
}

fn check_fields<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<(), Reply> {
    names.find(|name| !FILE_FIELDS.contains(name)).map_or(Ok(()), |name| Err(invalid_fields(name)))
}

/// Sorts by the keys of `orderBy`; files come newest change first.
fn order(files: &mut [&File], keys: &str) -> Result<(), Reply> {
    for key in keys.split(',').rev().map(str::trim).filter(|key| !key.is_empty()) {
        let (name, descending) = key.strip_suffix(" desc").map_or((key, false), |name| (name, true));
        match name {
            "name" | "name_natural" => files.sort_by_cached_key(|file| file.name.to_lowercase()),
            "modifiedTime" | "modifiedByMeTime" | "recency" | "viewedByMeTime" => {
                files.sort_by_key(|file| file.modified)
            }
            "createdTime" => files.sort_by_key(|file| file.created),
            "quotaBytesUsed" => files.sort_by_key(|file| file.text.len()),
            "folder" => {}
            "starred" => files.sort_by_key(|file| file.starred),
            _ => return Err(google_error_at(400, "invalid", "Invalid Value", Some("orderBy"))),
        }
        if descending {
            files.reverse();
        }
    }
    Ok(())
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}
