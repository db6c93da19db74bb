//! Reading content, and what has changed.

use serde_json::{Value, json};

use super::super::{Answer, Outcome};
use super::{Drive, time};
use crate::sim::wire::{Reply, google_error, google_error_at};
use crate::sim::world::{Drive as Files, File, file_kind, pdf};

/// What an export may yield.
const EXPORT_BYTES_MAX: usize = 10 << 20;

impl Drive<'_> {
    /// The content, or the range of it that is asked for.
    pub(super) fn download(&self, file: &File) -> Outcome {
        if file.is_google_type() {
            let message =
                "Only files with binary content can be downloaded. Use Export with Docs Editors files.";
            return Err(google_error_at(403, "fileNotDownloadable", message, Some("alt")));
        }
        let content = file.content();
        let whole = content.len();
        let range = self.request.call.header("range");
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return Ok(Answer::Raw(Reply::bytes(&file.mime_type, content)));
        };
        let first: usize = first.parse().unwrap_or(0);
        if first >= whole {
            let refusal =
                google_error_at(416, "requestedRangeNotSatisfiable", "Request range not satisfiable", None);
            return Err(refusal.with("content-range", format!("bytes */{whole}")));
        }
        let last = last.parse::<usize>().unwrap_or(whole - 1).clamp(first, whole - 1);
        let part = Reply::bytes(&file.mime_type, content.slice(first..=last));
        let part = Reply { status: 206, ..part };
        Ok(Answer::Raw(part.with("content-range", format!("bytes {first}-{last}/{whole}"))))
    }

    pub(super) fn export(&self, file: &File) -> Outcome {
        let wanted = self.request.param("mimeType").unwrap_or_default();
        if !file.is_google_type() || file.mime_type == file_kind::FOLDER {
            return Err(google_error(403, "fileNotExportable", "Export only supports Docs Editors files."));
        }
        let text = file.text();
        let exported: Vec<u8> = match wanted {
            "application/pdf" => pdf(&file.name, &text),
            "text/csv" if file.mime_type == file_kind::SHEET => text.into_bytes(),
            "text/tab-separated-values" if file.mime_type == file_kind::SHEET => {
                text.replace(',', "\t").into_bytes()
            }
            // Google starts exported text with a byte order mark.
            "text/plain" | "text/markdown" if file.mime_type != file_kind::SHEET => {
                format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes()
            }
            "text/html" => html(&file.name, &text).into_bytes(),
            _ => {
                let message = "The requested conversion is not supported.";
                return Err(google_error_at(400, "badRequest", message, Some("convertTo")));
            }
        };
        if exported.len() > EXPORT_BYTES_MAX {
            return Err(google_error(
                403,
                "exportSizeLimitExceeded",
                "This file is too large to be exported.",
            ));
        }
        Ok(Answer::Raw(Reply::bytes(wanted, exported)))
    }

    pub(super) fn about(&self) -> Outcome {
        if self.request.param("fields").is_none_or(str::is_empty) {
            let message = "The 'fields' parameter is required for this method.";
            return Err(google_error_at(400, "required", message, Some("fields")));
        }
        let drive = self.user.drive();
        let used = |file: &&File| if file.is_google_type() { 0 } else { file.content().len() };
        let usage: usize = drive.files.iter().map(|file| used(&file)).sum();
        let in_trash: usize = drive.files.iter().filter(|file| file.trashed).map(|file| used(&file)).sum();
        let person = &self.user.person;
        let text = json!(["application/pdf", "text/plain", "text/html", "text/markdown"]);
        Ok(json!({"kind": "drive#about",
            "user": {"kind": "drive#user", "displayName": person.name, "me": true, "emailAddress": person.email,
                "permissionId": super::permission_id(&person.email)},
            "storageQuota": {"limit": "16106127360", "usage": usage.to_string(), "usageInDrive": usage.to_string(),
                "usageInDriveTrash": in_trash.to_string()},
            "maxUploadSize": "5242880000000", "appInstalled": true, "canCreateDrives": false,
            "importFormats": {"text/plain": [file_kind::DOC], "text/csv": [file_kind::SHEET]},
            "exportFormats": {file_kind::DOC: text, file_kind::SLIDES: text,
                file_kind::SHEET: ["application/pdf", "text/csv", "text/tab-separated-values"]},
        })
        .into())
    }

    pub(super) fn start_page_token(&self) -> Outcome {
        let token = self.user.drive().changes().to_string();
        Ok(json!({"kind": "drive#startPageToken", "startPageToken": token}).into())
    }

    /// Files changed since the token, each once, in the order of their last change.
    pub(super) fn changes(&self) -> Outcome {
        let params = &self.request.call.query;
        let size = params.size("pageSize", 100, 1_000)?;
        let with_removed = params.get("includeRemoved") != Some("false");
        let drive = self.user.drive();
        let since = params.get("pageToken").and_then(|token| token.parse::<u64>().ok());
        let since = since.filter(|since| (drive.changes_floor()..=drive.changes()).contains(since));
        let since =
            since.ok_or_else(|| google_error_at(400, "invalid", "Invalid Value", Some("pageToken")))?;
        let mut found = self.changed_since(&drive, since, with_removed);
        found.sort_by_key(|(number, _)| *number);
        let more = found.len() > size;
        found.truncate(size);
        let mut answer = json!({"kind": "drive#changeList"});
        match found.last() {
            Some((last, _)) if more => answer["nextPageToken"] = last.to_string().into(),
            _ => answer["newStartPageToken"] = drive.changes().to_string().into(),
        }
        answer["changes"] = found.into_iter().map(|(_, change)| change).collect();
        Ok(answer.into())
    }

    fn changed_since(&self, drive: &Files, since: u64, with_removed: bool) -> Vec<(u64, Value)> {
        let now = time(self.request.state.clock.now());
        let change = |id: &str| json!({"kind": "drive#change", "changeType": "file", "type": "file", "time": now, "fileId": id});
        let files = drive.files.iter().filter(|file| file.changed > since).map(|file| {
            let mut shown = change(&file.id);
            shown["removed"] = false.into();
            shown["file"] = self.show(file);
            (file.changed, shown)
        });
        let removed = drive.removed.iter().filter(|(_, number)| with_removed && *number > since);
        let removed = removed.map(|(id, number)| {
            let mut shown = change(id);
            shown["removed"] = true.into();
            (*number, shown)
        });
        files.chain(removed).collect()
    }
}

fn html(name: &str, text: &str) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
    let body: String = text.lines().map(|line| format!("<p>{}</p>", escape(line))).collect();
    format!("<!DOCTYPE html><html><head><title>{}</title></head><body>{body}</body></html>", escape(name))
}
