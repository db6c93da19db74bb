//! Who may do what with a file.

use serde_json::{Value, json};

use super::super::{Outcome, done};
use super::write::no_permission;
use super::{Drive, permission_id};
use crate::sim::wire::{Reply, google_error, google_error_at};
use crate::sim::world::{File, Permission};

/// Permissions of one file, as Drive limits them.
const PERMISSIONS_MAX: usize = 600;

impl Drive<'_> {
    pub(super) fn list_permissions(&self, id: &str) -> Outcome {
        let params = &self.request.call.query;
        let (size, offset) = (params.size("pageSize", 100, 100)?, params.page_offset()?);
        self.with_file(id, |file| {
            if !self.can_edit(file) {
                return Err(no_permission());
            }
            let all: Vec<Value> = file.permissions.iter().map(Permission::show).collect();
            let (found, next) = crate::sim::wire::page(all, offset, size);
            let mut answer = json!({"kind": "drive#permissionList", "permissions": found});
            if let Some(next) = next {
                answer["nextPageToken"] = next.into();
            }
            Ok(answer.into())
        })
    }

    fn permission_at(&self, file: &File) -> Result<usize, Reply> {
        let id = self.request.route.id("permissionId");
        file.permissions.iter().position(|permission| permission.id == id).ok_or_else(|| {
            let message = format!("Permission not found: {id}.");
            google_error_at(404, "notFound", &message, Some("permissionId"))
        })
    }

    pub(super) fn get_permission(&self, id: &str) -> Outcome {
        self.with_file(id, |file| {
            let is_own = |one: &Permission| {
                one.is_of(&self.user.person.email) && one.id == self.request.route.id("permissionId")
            };
            if !self.can_edit(file) && !file.permissions.iter().any(is_own) {
                return Err(no_permission());
            }
            Ok(file.permissions[self.permission_at(file)?].show().into())
        })
    }

    /// Whether the user may give this role: a file is made somebody's own by its owner alone.
    fn may_give(&self, file: &File, role: &str) -> bool {
        let is_owner = file.owner.email.eq_ignore_ascii_case(&self.user.person.email);
        if role == "owner" { is_owner } else { self.can_edit(file) }
    }

    /// That whoever makes another the owner says so twice.
    fn check_transfer(&self, role: Option<&str>) -> Result<(), Reply> {
        if role == Some("owner") && !self.request.flag("transferOwnership") {
            let message =
                "The transferOwnership parameter must be enabled when the permission role is 'owner'.";
            return Err(google_error_at(403, "forbidden", message, Some("transferOwnership")));
        }
        Ok(())
    }

    /// Shares a file. With whom it is shared already gets the new role.
    pub(super) fn share(&self, id: &str) -> Outcome {
        let body = &self.request.body;
        let invalid = |message: &str, place: &str| google_error_at(400, "invalid", message, Some(place));
        let kind = body["type"].as_str().unwrap_or_default();
        let role =
            check_role(body)?.ok_or_else(|| invalid("The role field is required.", "permission.role"))?;
        let (email, domain) = (body["emailAddress"].as_str(), body["domain"].as_str());
        let permission_id = match (kind, email, domain) {
            ("user" | "group", Some(email), _) if email.contains('@') => permission_id(email),
            ("user" | "group", ..) => {
                return Err(invalid(
                    "The specified emailAddress is invalid or not applicable for the given \
                                    permission type.",
                    "permission.emailAddress",
                ));
            }
            ("domain", _, Some(domain)) => format!("{}k", permission_id(domain)),
            ("anyone", ..) => "anyoneWithLink".to_owned(),
            _ => return Err(invalid("The permission type field is required.", "permission.type")),
        };
        self.check_transfer(Some(&role))?;
        let holder = self.holder(id);
        let mut drive = holder.drive();
        let position = self.position(&drive, id)?;
        let mut file = drive.files[position].clone();
        if !self.may_give(&file, &role) {
            return Err(no_permission());
        }
        // What the owner has nobody gives or takes.
        let is_owners = |known: &&Permission| known.role == "owner" && known.id == permission_id;
        if let Some(owners) = file.permissions.iter().find(is_owners) {
            return Ok(owners.show().into());
        }
        let permission = Permission {
            id: permission_id.clone(),
            kind: kind.to_owned(),
            role,
            email: email.filter(|_| matches!(kind, "user" | "group")).map(str::to_owned),
            domain: domain.filter(|_| kind == "domain").map(str::to_owned),
            name: body["displayName"].as_str().map(str::to_owned),
            given: Some(self.request.state.clock.now()),
        };
        file.permissions.retain(|known| known.id != permission_id);
        if file.permissions.len() >= PERMISSIONS_MAX {
            return Err(google_error(403, "sharingRateLimitExceeded", "Too many permissions on this file."));
        }
        let shown = permission.show();
        if let (true, Some(address)) = (permission.kind == "user", &permission.email)
            && !self.request.state.world.gave(&holder, address)
        {
            return Err(google_error(403, "sharingRateLimitExceeded", "Too many people share files."));
        }
        file.permissions.push(permission);
        drive.put(file);
        Ok(shown.into())
    }

    pub(super) fn change_permission(&self, id: &str) -> Outcome {
        let role = check_role(&self.request.body)?;
        self.check_transfer(role.as_deref())?;
        let holder = self.holder(id);
        let mut drive = holder.drive();
        let position = self.position(&drive, id)?;
        let mut file = drive.files[position].clone();
        let at = self.permission_at(&file)?;
        let may = self.can_edit(&file) && role.as_deref().is_none_or(|role| self.may_give(&file, role));
        if !may || file.permissions[at].role == "owner" {
            return Err(no_permission());
        }
        if let Some(role) = role {
            file.permissions[at].role = role;
        }
        let shown = file.permissions[at].show();
        drive.put(file);
        Ok(shown.into())
    }

    pub(super) fn unshare(&self, id: &str) -> Outcome {
        let holder = self.holder(id);
        let mut drive = holder.drive();
        let position = self.position(&drive, id)?;
        let mut file = drive.files[position].clone();
        let at = self.permission_at(&file)?;
        // Whoever was given a file may give it up.
        let is_own = file.permissions[at].is_of(&self.user.person.email);
        if !(is_own || self.can_edit(&file)) || file.permissions[at].role == "owner" {
            return Err(no_permission());
        }
        let gone = file.permissions.remove(at);
        drive.put(file);
        if let (true, Some(address)) = (gone.kind == "user", &gone.email) {
            let has_more = |file: &File| file.permissions.iter().any(|one| one.is_of(address));
            if !drive.files.iter().any(has_more) {
                self.request.state.world.took_back(&holder, address);
            }
        }
        done()
    }
}

fn check_role(body: &Value) -> Result<Option<String>, Reply> {
    match body["role"].as_str() {
        None => Ok(None),
        Some(role @ ("owner" | "organizer" | "fileOrganizer" | "writer" | "commenter" | "reader")) => {
            Ok(Some(role.to_owned()))
        }
        Some(_) => {
            Err(google_error_at(400, "invalid", "The specified role is invalid.", Some("permission.role")))
        }
    }
}
