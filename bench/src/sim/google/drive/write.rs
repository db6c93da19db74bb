//! Making, changing, copying and deleting files.

use serde_json::{Map, Value, json};

use super::super::{Outcome, done};
use super::{Drive, file_not_found};
use crate::sim::wire::{Reply, google_error, google_error_at};
use crate::sim::world::{Drive as Files, File, Permission, ROOT, SHARED_DRIVE, file_kind};

/// Ids that one call may ask for.
const IDS_MAX: usize = 1_000;
/// Files of one user.
const FILES_MAX: usize = 100_000;
/// Fields of a file that are kept as they are sent.
const KEPT: [&str; 8] = [
    "description",
    "properties",
    "appProperties",
    "folderColorRgb",
    "copyRequiresWriterPermission",
    "contentHints",
    "writersCanShare",
    "shortcutDetails",
];

impl Drive<'_> {
    fn fresh_id(&self) -> String {
        let luck = &self.request.state.luck;
        format!("1{:016x}{:016x}", luck.next(), luck.next())
    }

    pub(super) fn generate_ids(&self) -> Outcome {
        let count = self.request.call.query.size("count", 10, usize::MAX)?;
        if count > IDS_MAX {
            let message = format!("Invalid value '{count}'. Values must be within the range: [1, {IDS_MAX}]");
            return Err(google_error_at(400, "invalidParameter", &message, Some("count")));
        }
        let ids: Vec<String> = (0..count).map(|_| self.fresh_id()).collect();
        self.user.drive().reserved.extend(ids.iter().cloned());
        Ok(json!({"kind": "drive#generatedIds", "space": "drive", "ids": ids}).into())
    }

    pub(super) fn create(&self) -> Outcome {
        let mut drive = self.user.drive();
        let id = match self.request.body["id"].as_str() {
            None => self.fresh_id(),
            Some(id) if drive.position(id).is_some() || drive.removed.iter().any(|(gone, _)| gone == id) => {
                let message = "A file already exists with the provided ID.";
                return Err(google_error(409, "fileIdInUse", message));
            }
            Some(id) if drive.reserved.contains(id) => id.to_owned(),
            Some(_) => {
                return Err(google_error_at(
                    400,
                    "invalid",
                    "The provided file ID is not usable.",
                    Some("file.id"),
                ));
            }
        };
        if drive.files.len() >= FILES_MAX {
            return Err(google_error(
                403,
                "storageQuotaExceeded",
                "The user's Drive storage quota has been exceeded.",
            ));
        }
        let now = self.request.state.clock.now();
        let kind = self.request.media.as_ref().map(|media| media.content_type.as_str());
        let kind = kind.filter(|kind| !kind.is_empty()).unwrap_or("application/octet-stream");
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let owner = self.user.person.clone();
        let mut file = File::new(id, "Untitled".to_owned(), kind.to_owned(), owner.clone(), now);
        file.permissions = vec![Permission::owner(&owner)];
        file.parents = vec![ROOT.to_owned()];
        self.change(&mut file, &drive)?;
        Ok(self.show(drive.put(file)).into())
    }

    pub(super) fn update(&self, id: &str) -> Outcome {
        let holder = self.holder(id);
        let mut drive = holder.drive();
        let position = self.position(&drive, id)?;
        let mut file = drive.files[position].clone();
        let body = &self.request.body;
        if file.id == ROOT {
            return Err(google_error(
                403,
                "insufficientFilePermissions",
                "The root folder cannot be changed.",
            ));
        }
        let trashes = !body["trashed"].is_null();
        if !self.can_edit(&file) || (trashes && file.owner.email != self.user.person.email) {
            return Err(no_permission());
        }
        if !body["parents"].is_null() {
            let message = "The parents field is not directly writable in update requests. Use the addParents and \
                           removeParents parameters instead.";
            return Err(google_error(403, "fieldNotWritable", message));
        }
        for parent in list(self.request.param("removeParents")) {
            file.parents.retain(|known| *known != parent);
        }
        for parent in list(self.request.param("addParents")) {
            self.check_parent(&drive, &parent)?;
            self.check_given_folder(&drive, &parent, &file)?;
            // A file is in one folder.
            file.parents = vec![parent];
        }
        file.modified = self.request.state.clock.now();
        self.change(&mut file, &drive)?;
        Ok(self.show(drive.put(file)).into())
    }

    pub(super) fn copy(&self, id: &str) -> Outcome {
        let mut source = None;
        self.with_file(id, |file| {
            source = Some(file.clone());
            done()
        })?;
        let source = source.ok_or_else(|| file_not_found(id))?;
        let mut drive = self.user.drive();
        if source.mime_type == file_kind::FOLDER {
            return Err(google_error(403, "cannotCopyFile", "This file cannot be copied by the user."));
        }
        let owner = self.user.person.clone();
        let now = self.request.state.clock.now();
        let mut file = File {
            id: self.fresh_id(),
            name: format!("Copy of {}", source.name),
            // What others gave lies in no folder of the user's.
            parents: if drive.position(&source.id).is_some() {
                source.parents.clone()
            } else {
                vec![ROOT.to_owned()]
            },
            owner: owner.clone(),
            created: now,
            modified: now,
            starred: false,
            permissions: vec![Permission::owner(&owner)],
            version: 0,
            ..source
        };
        self.change(&mut file, &drive)?;
        Ok(self.show(drive.put(file)).into())
    }

    /// Takes over what the request says of a file.
    fn change(&self, file: &mut File, drive: &Files) -> Result<(), Reply> {
        let body = &self.request.body;
        if let Some(name) = body["name"].as_str() {
            name.clone_into(&mut file.name);
        }
        if let Some(kind) = body["mimeType"].as_str() {
            kind.clone_into(&mut file.mime_type);
        }
        if let Some(starred) = body["starred"].as_bool() {
            file.starred = starred;
        }
        if let Some(trashed) = body["trashed"].as_bool() {
            file.trashed = trashed;
        }
        if let Some(parents) = body["parents"].as_array().filter(|parents| !parents.is_empty()) {
            if parents.len() > 1 {
                let message = "A file cannot have multiple parents.";
                return Err(google_error_at(400, "invalid", message, Some("parents")));
            }
            let parent = parents[0].as_str().unwrap_or_default();
            let parent = if parent == "root" { ROOT } else { parent };
            self.check_parent(drive, parent)?;
            file.parents = vec![parent.to_owned()];
        }
        for (field, into) in [("createdTime", &mut file.created), ("modifiedTime", &mut file.modified)] {
            if let Some(at) = body[field].as_str().and_then(|text| text.parse().ok()) {
                *into = at;
            }
        }
        for name in KEPT {
            match body.get(name) {
                None => {}
                Some(Value::Null) => {
                    file.rest.remove(name);
                }
                Some(Value::Object(fields)) => {
                    let known = file.rest.entry(name).or_insert_with(|| Value::Object(Map::new()));
                    if let Some(known) = known.as_object_mut() {
                        known.extend(fields.clone());
                        known.retain(|_, value| !value.is_null());
                    }
                }
                Some(value) => {
                    file.rest.insert(name.to_owned(), value.clone());
                }
            }
        }
        if let Some(media) = &self.request.media {
            if !file.is_google_type() && body["mimeType"].is_null() && !media.content_type.is_empty() {
                media.content_type.clone_into(&mut file.mime_type);
            }
            file.set_content(media.bytes.clone());
        }
        file.reindex();
        Ok(())
    }

    fn check_parent(&self, drive: &Files, id: &str) -> Result<(), Reply> {
        let is_folder = drive.position(id).is_some_and(|at| drive.files[at].mime_type == file_kind::FOLDER);
        let is_shared = id == SHARED_DRIVE && self.request.flag("supportsAllDrives");
        if is_folder || is_shared { Ok(()) } else { Err(file_not_found(id)) }
    }

    /// Who was given a file puts it only where they may change something, too: into a folder that they were given.
    fn check_given_folder(&self, drive: &Files, id: &str, file: &File) -> Result<(), Reply> {
        if !self.is_given(file) {
            return Ok(());
        }
        let folder = drive.position(id).map(|at| &drive.files[at]);
        let folder = folder.filter(|folder| self.is_given(folder)).ok_or_else(|| file_not_found(id))?;
        if self.can_edit(folder) { Ok(()) } else { Err(no_permission()) }
    }

    pub(super) fn delete(&self, id: &str) -> Outcome {
        let holder = self.holder(id);
        let mut drive = holder.drive();
        let position = self.position(&drive, id)?;
        let file = &drive.files[position];
        if file.owner.email != self.user.person.email || file.id == ROOT {
            return Err(no_permission());
        }
        let id = file.id.clone();
        drive.delete(&id);
        done()
    }

    pub(super) fn empty_trash(&self) -> Outcome {
        let mut drive = self.user.drive();
        let binned: Vec<String> =
            drive.files.iter().filter(|file| file.trashed).map(|file| file.id.clone()).collect();
        for id in binned {
            drive.delete(&id);
        }
        done()
    }
}

pub(super) fn no_permission() -> Reply {
    let message = "The user does not have sufficient permissions for this file.";
    google_error(403, "insufficientFilePermissions", message)
}

fn list(text: Option<&str>) -> Vec<String> {
    let ids = text.unwrap_or_default().split(',').map(str::trim).filter(|id| !id.is_empty());
    ids.map(|id| if id == "root" { ROOT } else { id }.to_owned()).collect()
}
