//! Drive v3: finding, reading, writing and sharing files.
//! <https://developers.google.com/workspace/drive/api/reference/rest/v3>

mod given;
mod read;
mod share;
mod write;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::drive_query::Query;
use super::{Outcome, Request, unknown_path};
use crate::sim::chance::{hash, mix};
use crate::sim::wire::{Reply, google_error_at, page};
use crate::sim::world::{Drive as Files, File, ROOT, SHARED_DRIVE, User, file_kind, md5_hex, permission_id};

/// What Drive gives of a resource when no mask says otherwise.
pub(super) fn usual_fields(method: &str) -> Option<&'static str> {
    match method {
        "drive.files.list" => Some("kind,incompleteSearch,nextPageToken,files(kind,id,name,mimeType)"),
        "drive.files.get" | "drive.files.create" | "drive.files.update" | "drive.files.copy" => {
            Some("kind,id,name,mimeType")
        }
        "drive.permissions.list" => Some("kind,nextPageToken,permissions(kind,id,type,role)"),
        "drive.permissions.get" | "drive.permissions.create" | "drive.permissions.update" => {
            Some("kind,id,type,role")
        }
        "drive.changes.list" => Some(
            "kind,nextPageToken,newStartPageToken,\
             changes(kind,changeType,type,time,removed,fileId,file(kind,id,name,mimeType))",
        ),
        _ => None,
    }
}

/// Answers a request below `/drive/v3/`.
pub(super) fn serve(request: &Request<'_>) -> Outcome {
    let drive = Drive { request, user: request.user };
    let id = request.route.id("fileId");
    match request.method() {
        "about.get" => drive.about(),
        "changes.getStartPageToken" => drive.start_page_token(),
        "changes.list" => drive.changes(),
        "files.list" => drive.list(),
        "files.get" if request.param("alt") == Some("media") => {
            drive.with_file(id, |file| drive.download(file))
        }
        "files.get" => drive.with_file(id, |file| Ok(drive.show(file).into())),
        "files.export" => drive.with_file(id, |file| drive.export(file)),
        "files.generateIds" => drive.generate_ids(),
        "files.create" => drive.create(),
        "files.update" => drive.update(id),
        "files.copy" => drive.copy(id),
        "files.delete" => drive.delete(id),
        "files.emptyTrash" => drive.empty_trash(),
        "permissions.list" => drive.list_permissions(id),
        "permissions.get" => drive.get_permission(id),
        "permissions.create" => drive.share(id),
        "permissions.update" => drive.change_permission(id),
        "permissions.delete" => drive.unshare(id),
        _ => Err(unknown_path(&request.call.path)),
    }
}

/// Whether a list has what is in shared drives.
enum Shared {
    Hidden,
    Too,
    Alone,
}

struct Drive<'a> {
    request: &'a Request<'a>,
    user: &'a User,
}

impl Drive<'_> {
    fn list(&self) -> Outcome {
        let params = &self.request.call.query;
        let (size, offset) = (params.size("pageSize", 100, 1_000)?, params.page_offset()?);
        let query = Query::parse(params.get("q").unwrap_or_default())
            .ok_or_else(|| google_error_at(400, "invalid", "Invalid Value", Some("q")))?;
        let shared = self.shared_drives_asked_for()?;
        let given = self.given();
        let drive = self.user.drive();
        let mut found: Vec<&File> = drive
            .files
            .iter()
            .chain(&given)
            .filter(|file| file.id != ROOT && query.matches(file, &self.user.person.email))
            .filter(|file| match shared {
                Shared::Hidden => !file.is_shared_drives(),
                Shared::Too => true,
                Shared::Alone => file.is_shared_drives(),
            })
            .collect();
        found.sort_by_key(|file| std::cmp::Reverse(file.modified));
        order(&mut found, params.get("orderBy").unwrap_or_default())?;
        let (found, next) = page(found, offset, size);
        let files: Vec<Value> = found.into_iter().map(|file| self.show(file)).collect();
        let mut answer = json!({"kind": "drive#fileList", "incompleteSearch": false, "files": files});
        if let Some(next) = next {
            answer["nextPageToken"] = next.into();
        }
        Ok(answer.into())
    }

    /// What a list says of shared drives, and whether that goes together.
    fn shared_drives_asked_for(&self) -> Result<Shared, Reply> {
        let invalid = |place| google_error_at(400, "invalid", "Invalid Value", Some(place));
        let knows = self.request.flag("supportsAllDrives") && self.request.flag("includeItemsFromAllDrives");
        let drive = self.request.param("driveId").unwrap_or_default();
        match self.request.param("corpora").unwrap_or(if drive.is_empty() { "user" } else { "drive" }) {
            "user" | "domain" if drive.is_empty() => Ok(if knows { Shared::Too } else { Shared::Hidden }),
            "allDrives" if knows && drive.is_empty() => Ok(Shared::Too),
            "drive" if knows && drive == SHARED_DRIVE => Ok(Shared::Alone),
            "drive" if knows => {
                let message = format!("Shared drive not found: {drive}");
                Err(google_error_at(404, "notFound", &message, Some("driveId")))
            }
            "allDrives" | "drive" => Err(invalid("includeItemsFromAllDrives")),
            _ => Err(invalid("corpora")),
        }
    }

    fn with_file(&self, id: &str, answer: impl FnOnce(&File) -> Outcome) -> Outcome {
        let holder = self.holder(id);
        let drive = holder.drive();
        let position = self.position(&drive, id)?;
        answer(&drive.files[position])
    }

    fn position(&self, drive: &Files, id: &str) -> Result<usize, Reply> {
        let id = if id == "root" { ROOT } else { id };
        let is_seen =
            |at: &usize| !drive.files[*at].is_shared_drives() || self.request.flag("supportsAllDrives");
        // An export asks for no such leave.
        let is_export = self.request.method() == "files.export";
        let found = drive.position(id).filter(|at| is_export || is_seen(at));
        found.ok_or_else(|| file_not_found(id))
    }

    fn owner_of(&self, file: &File) -> Value {
        json!({"kind": "drive#user", "displayName": file.owner.name, "me": file.owner.email == self.user.person.email,
            "permissionId": permission_id(&file.owner.email), "emailAddress": file.owner.email})
    }

    fn show(&self, file: &File) -> Value {
        let owned_by_me = file.owner.email == self.user.person.email;
        let can_edit = self.can_edit(file);
        let owner = self.owner_of(file);
        let place = match file.mime_type.as_str() {
            file_kind::DOC => "https://docs.google.com/document/d",
            file_kind::SHEET => "https://docs.google.com/spreadsheets/d",
            file_kind::SLIDES => "https://docs.google.com/presentation/d",
            file_kind::FOLDER => "https://drive.google.com/drive/folders",
            _ => "https://drive.google.com/file/d",
        };
        let mut value = json!({
            "kind": "drive#file", "id": file.id, "name": file.name, "mimeType": file.mime_type,
            "starred": file.starred, "trashed": file.trashed, "explicitlyTrashed": file.trashed,
            "parents": self.parents(file), "spaces": ["drive"], "version": file.version.to_string(),
            "webViewLink": format!("{place}/{}/view", file.id), "viewedByMe": true, "createdTime": time(file.created),
            "modifiedTime": time(file.modified), "modifiedByMe": owned_by_me, "owners": [owner.clone()],
            "lastModifyingUser": owner, "shared": !owned_by_me || file.permissions.len() > 1,
            "ownedByMe": owned_by_me,
            "capabilities": {"canDownload": true, "canEdit": can_edit, "canShare": can_edit, "canCopy": true,
                "canTrash": owned_by_me, "canDelete": owned_by_me, "canRename": can_edit},
            "writersCanShare": true, "isAppAuthorized": true,
        });
        if file.mime_type != file_kind::FOLDER {
            let content = file.content();
            value["size"] = content.len().to_string().into();
            value["quotaBytesUsed"] = content.len().to_string().into();
            if !file.is_google_type() {
                value["md5Checksum"] = md5_hex(&content).into();
                value["sha256Checksum"] = Sha256::digest(&content)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect::<String>()
                    .into();
                let extension = file.name.rsplit_once('.').map(|(_, end)| end);
                let usual = if file.mime_type == file_kind::PDF { "pdf" } else { "txt" };
                value["fileExtension"] = extension.unwrap_or(usual).into();
                value["originalFilename"] = file.name.as_str().into();
                value["headRevisionId"] = format!("0B{:016x}", mix(hash(&file.id) ^ file.version)).into();
                value["webContentLink"] =
                    format!("https://drive.google.com/uc?id={}&export=download", file.id).into();
            }
        }
        // Who has it is told to those alone who may give it to others.
        if can_edit {
            value["permissions"] = file.permissions.iter().map(|permission| permission.show()).collect();
            value["permissionIds"] = file.permissions.iter().map(|one| one.id.as_str()).collect();
        }
        let own = file.permissions.iter().find(|permission| permission.is_of(&self.user.person.email));
        if let Some(given) = own.and_then(|own| own.given).filter(|_| !owned_by_me) {
            value["sharedWithMeTime"] = time(given).into();
        }
        if file.is_shared_drives() {
            value["driveId"] = SHARED_DRIVE.into();
        }
        for (name, given) in &file.rest {
            value[name] = given.clone();
        }
        value
    }

    fn can_edit(&self, file: &File) -> bool {
        let me = &self.user.person.email;
        let writes = |role: &str| matches!(role, "owner" | "writer" | "organizer" | "fileOrganizer");
        file.owner.email == *me || file.permissions.iter().any(|one| one.is_of(me) && writes(&one.role))
    }
}

fn file_not_found(id: &str) -> Reply {
    google_error_at(404, "notFound", &format!("File not found: {id}."), Some("fileId"))
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
            "quotaBytesUsed" => files.sort_by_key(|file| file.content().len()),
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
