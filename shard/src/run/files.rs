//! Files: searching, reading, making and throwing away.
//!
//! A file is made under an id that Google gave out before and that is journaled first: made again under it, it is
//! refused as being there.

use sluice_net::egress::EgressError;
use sluice_protocols::google::drive::{self, File, FileList, GeneratedIds};
use sluice_protocols::google::{UpstreamFault, text_of};
use sluice_protocols::plan::{ExportFormat, Item, ItemKind, ItemRef, Service};
use sluice_protocols::problem::{Problem, ProblemKind};

use super::known::unresolved;
use super::seen::Listed;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

/// The longest id of a file that is taken.
const FILE_ID_BYTES_MAX: usize = 256;
/// What a file's id in a step's intent begins with.
const INTENT_FILE: &str = "file:";

impl StepRun<'_> {
    pub(super) async fn drive_create(
        &self,
        name: &str,
        folder: bool,
        text: Option<&str>,
    ) -> Result<Done, Problem> {
        let intent = self.shared.journal.read(|task| task.steps[self.index].intent.clone());
        let noted = intent.as_deref().and_then(|intent| intent.strip_prefix(INTENT_FILE)).map(str::to_owned);
        let is_noted = noted.is_some();
        let id = match noted {
            Some(id) => id,
            None => self.new_file_id().await?,
        };
        if !is_noted {
            self.note_intent(format!("{INTENT_FILE}{id}")).await?;
        }
        let create = match text {
            None => drive::create_file(&id, name, folder),
            Some(text) => drive::create_text(&id, name, text).ok_or_else(|| {
                Problem::new(ProblemKind::InvalidField, "the text cannot be put into a file")
            })?,
        };
        match self.settle(&create, "the file was made").await?.0 {
            Ok(reply) if !reply.body.is_empty() => {
                let made: Option<File> = serde_json::from_slice(&reply.body).ok();
                Ok(Done::items([made.map_or_else(|| planned(&id, name), |file| file.to_item())]))
            }
            Ok(_) => Ok(Done::items([planned(&id, name)])),
            // Ours: nobody else uses that id.
            Err(error) if error.fault() == Some(UpstreamFault::Conflict) => {
                let made = self.google.read_fresh::<File>(&drive::get_file(&id), self.limit()).await;
                Ok(Done::items([made.map_or_else(|_| planned(&id, name), |file| file.to_item())]))
            }
            Err(error) => Err(self.problem(&error)),
        }
    }

    async fn new_file_id(&self) -> Result<String, Problem> {
        let given = self.google.read_fresh::<GeneratedIds>(&drive::generate_id(), self.deadline()).await;
        let given = given.map_err(|error| self.problem(&error))?;
        let id = given.ids.into_iter().find(|id| !id.is_empty() && id.len() <= FILE_ID_BYTES_MAX);
        id.ok_or_else(|| self.problem(&CallError::Nonsense { service: Service::Drive }))
    }

    pub(super) async fn drive_trash(&self, file: ItemRef) -> Result<Done, Problem> {
        let item = self.shared.known.item(file)?;
        self.note_file(&item).await?;
        let trash = drive::trash_file(&item.id, true);
        match self.settle(&trash, "the file was moved to the trash").await?.0 {
            Ok(_) => Ok(Done::items([item])),
            Err(error) if error.is_not_found() => {
                Err(unresolved(format!("the file “{}” is not there any more", item.title)))
            }
            Err(error) => Err(self.problem(&error)),
        }
    }

    pub(super) async fn drive_export(&self, file: ItemRef, format: ExportFormat) -> Result<Done, Problem> {
        let item = self.shared.known.item(file)?;
        let file: File = match self.google.read(&drive::get_file(&item.id)).await {
            Ok(file) => file,
            Err(error) if error.is_not_found() => {
                return Err(unresolved(format!("the file “{}” is not there any more", item.title)));
            }
            Err(error) => return Err(self.problem(&error)),
        };
        let Some(path) = file.path_as(format) else {
            return Err(unresolved(format!("“{}” cannot be had as {}", file.name, format.name())));
        };
        Ok(Done { text: Some(path), ..Done::items([file.to_item()]) })
    }

    pub(super) async fn drive_search(&self, text: &str, limit: u8) -> Result<Done, Problem> {
        let listed = |found: FileList| Listed(found.files.iter().map(|file| file.to_item().into()).collect());
        let found = self.google.read_made(&drive::search_files(text, limit), listed).await;
        let found = found.map_err(|error| self.problem(&error))?;
        Ok(Done::items(found.0.iter().take(usize::from(limit)).cloned()))
    }

    pub(super) async fn drive_read(&self, file: ItemRef) -> Result<Done, Problem> {
        let item = self.shared.known.item(file)?;
        let problem = |error: CallError| {
            if error.is_not_found() {
                return unresolved(format!("the file “{}” is not there any more", item.title));
            }
            self.problem(&error)
        };
        let file: File = self.google.read(&drive::get_file(&item.id)).await.map_err(problem)?;
        let text = match file.read_call() {
            Err(unreadable) => instead(&file, &unreadable.to_string()),
            Ok(call) => match self.google.bytes(&call).await {
                Ok(bytes) => text_of(&bytes),
                Err(CallError::Lost { error: EgressError::BodyTooLarge { .. }, .. }) => {
                    instead(&file, "the file is too large to be read")
                }
                Err(error) => return Err(problem(error)),
            },
        };
        Ok(Done { text: Some(text), ..Done::items([file.to_item()]) })
    }
}

/// A file that was made, in the words of the workflow.
fn planned(id: &str, name: &str) -> Item {
    Item {
        kind: ItemKind::File,
        id: id.to_owned(),
        title: name.to_owned(),
        person: None,
        when: None,
        thread_id: None,
        message_id_header: None,
        snippet: None,
    }
}

/// What stands in the place of a text that cannot be had.
fn instead(file: &File, why: &str) -> String {
    match file.web_view_link.as_deref().filter(|link| link.starts_with("https://") && link.len() < 2_048) {
        Some(link) => format!("“{}” cannot be shown here: {why}. It can be opened at {link}", file.name),
        None => format!("“{}” cannot be shown here: {why}.", file.name),
    }
}
