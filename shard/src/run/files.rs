//! Files: searching and reading.

use sluice_net::egress::EgressError;
use sluice_protocols::google::drive::{self, File, FileList};
use sluice_protocols::google::text_of;
use sluice_protocols::plan::ItemRef;
use sluice_protocols::problem::Problem;

use super::known::unresolved;
use super::step::{Done, StepRun};
use crate::upstream::CallError;

impl StepRun<'_> {
    pub(super) async fn drive_search(&self, text: &str, limit: u8) -> Result<Done, Problem> {
        let found: FileList = self
            .google
            .read(&drive::search_files(text, limit))
            .await
            .map_err(|error| self.problem(&error))?;
        Ok(Done::items(found.files.iter().take(usize::from(limit)).map(File::to_item)))
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

/// What stands in the place of a text that cannot be had.
fn instead(file: &File, why: &str) -> String {
    match file.web_view_link.as_deref().filter(|link| link.starts_with("https://") && link.len() < 2_048) {
        Some(link) => format!("“{}” cannot be shown here: {why}. It can be opened at {link}", file.name),
        None => format!("“{}” cannot be shown here: {why}.", file.name),
    }
}
