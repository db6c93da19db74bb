//! A drive: files with text in them, or with what was uploaded.
//!
//! Invariant: whatever changes a file gives it the number of the change, under the same lock.

use std::collections::HashSet;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Person, index_text};
use crate::sim::chance::{hash, mix};

/// MIME types of the files that are made.
pub(crate) mod kind {
    /// A Google document.
    pub(crate) const DOC: &str = "application/vnd.google-apps.document";
    /// A Google spreadsheet.
    pub(crate) const SHEET: &str = "application/vnd.google-apps.spreadsheet";
    /// A Google presentation.
    pub(crate) const SLIDES: &str = "application/vnd.google-apps.presentation";
    /// A folder.
    pub(crate) const FOLDER: &str = "application/vnd.google-apps.folder";
    /// A PDF file.
    pub(crate) const PDF: &str = "application/pdf";
    /// A text file.
    pub(crate) const TEXT: &str = "text/plain";
}

/// The id of the folder that everything is in.
pub(crate) const ROOT: &str = "0AAroot";

/// The id of a shared drive that every user may write to. A request that does not say that it knows of shared drives
/// (`supportsAllDrives`) sees nothing in it.
pub(crate) const SHARED_DRIVE: &str = "0AAshared";

/// The id of a permission for this address, or domain, in whatever case it is written.
pub(crate) fn permission_id(address: &str) -> String {
    (mix(hash(&address.to_lowercase())) >> 4).to_string()
}

/// Who may do what with a file.
#[derive(Debug, Clone)]
pub(crate) struct Permission {
    pub(crate) id: String,
    /// `user`, `group`, `domain` or `anyone`.
    pub(crate) kind: String,
    pub(crate) role: String,
    pub(crate) email: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) name: Option<String>,
    /// When it was given; not known of what was there from the start.
    pub(crate) given: Option<Timestamp>,
}

impl Permission {
    /// The owner's.
    pub(crate) fn owner(person: &Person) -> Self {
        Self {
            id: permission_id(&person.email),
            kind: "user".to_owned(),
            role: "owner".to_owned(),
            email: Some(person.email.clone()),
            domain: None,
            name: Some(person.name.clone()),
            given: None,
        }
    }

    /// Whether it is that of the person with this address.
    pub(crate) fn is_of(&self, address: &str) -> bool {
        self.kind == "user" && self.email.as_deref().is_some_and(|email| email.eq_ignore_ascii_case(address))
    }

    /// As Drive shows it.
    pub(crate) fn show(&self) -> Value {
        let mut shown =
            json!({"kind": "drive#permission", "id": self.id, "type": self.kind, "role": self.role});
        for (field, value) in
            [("emailAddress", &self.email), ("domain", &self.domain), ("displayName", &self.name)]
        {
            if let Some(value) = value {
                shown[field] = value.as_str().into();
            }
        }
        shown
    }
}

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mime_type: String,
    /// The text of a seeded file; for a spreadsheet its CSV, for a PDF what is printed on it.
    pub(crate) seeded: String,
    /// What was uploaded, instead of the text.
    pub(crate) uploaded: Option<Bytes>,
    pub(crate) owner: Person,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
    pub(crate) starred: bool,
    pub(crate) trashed: bool,
    pub(crate) parents: Vec<String>,
    pub(crate) permissions: Vec<Permission>,
    pub(crate) version: u64,
    /// The number of its last change.
    pub(crate) changed: u64,
    /// Fields the simulator has no use for, as they were sent.
    pub(crate) rest: Map<String, Value>,
    /// Searchable words of the name and of the text.
    pub(crate) name_index: String,
    pub(crate) text_index: String,
}

impl File {
    /// An empty file.
    pub(crate) fn new(id: String, name: String, mime_type: String, owner: Person, now: Timestamp) -> Self {
        Self {
            id,
            name,
            mime_type,
            seeded: String::new(),
            uploaded: None,
            owner,
            created: now,
            modified: now,
            starred: false,
            trashed: false,
            parents: Vec::new(),
            permissions: Vec::new(),
            version: 1,
            changed: 0,
            rest: Map::new(),
            name_index: String::new(),
            text_index: String::new(),
        }
    }

    /// Makes the index; to be called once the file is complete.
    pub(crate) fn reindex(&mut self) {
        self.name_index = index_text(&self.name);
        self.text_index = index_text(&self.text());
    }

    /// Whether it lies in the shared drive, at its top: what lies in folders there does not count.
    pub(crate) fn is_shared_drives(&self) -> bool {
        self.parents.iter().any(|parent| parent == SHARED_DRIVE)
    }

    /// Whether the content exists only through export.
    pub(crate) fn is_google_type(&self) -> bool {
        self.mime_type.starts_with("application/vnd.google-apps.")
    }

    /// Puts content in the place of what was there.
    pub(crate) fn set_content(&mut self, bytes: Bytes) {
        self.seeded.clear();
        self.uploaded = Some(bytes);
    }

    /// The words in it; of uploaded bytes only where they are text.
    pub(crate) fn text(&self) -> String {
        match &self.uploaded {
            None => self.seeded.clone(),
            Some(bytes) if self.is_google_type() || self.mime_type.starts_with("text/") => {
                String::from_utf8_lossy(bytes).into_owned()
            }
            Some(_) => String::new(),
        }
    }

    /// The bytes of the file itself.
    pub(crate) fn content(&self) -> Bytes {
        match &self.uploaded {
            Some(bytes) => bytes.clone(),
            None if self.mime_type == kind::PDF => pdf(&self.name, &self.seeded).into(),
            None => self.seeded.clone().into(),
        }
    }
}

/// One user's files.
#[derive(Debug, Default)]
pub(crate) struct Drive {
    pub(crate) files: Vec<File>,
    /// Ids given out for files that are to be made.
    pub(crate) reserved: HashSet<String>,
    /// Deleted files, with the number of the change.
    pub(crate) removed: Vec<(String, u64)>,
    changes: u64,
    floor: u64,
}

impl Drive {
    pub(crate) fn new(files: Vec<File>) -> Self {
        Self { files, ..Self::default() }
    }

    pub(crate) fn position(&self, id: &str) -> Option<usize> {
        self.files.iter().position(|file| file.id == id)
    }

    /// The number of the last change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Changes up to this number are forgotten.
    pub(crate) fn changes_floor(&self) -> u64 {
        self.floor
    }

    /// From now on tokens given before are too old.
    pub(crate) fn forget_changes(&mut self) {
        self.changes += 1;
        self.floor = self.changes;
    }

    /// Adds a file, or puts it in the place of the one with its id.
    pub(crate) fn put(&mut self, mut file: File) -> &File {
        self.changes += 1;
        file.changed = self.changes;
        file.version += 1;
        let at = match self.position(&file.id) {
            Some(at) => {
                self.files[at] = file;
                at
            }
            None => {
                self.files.push(file);
                self.files.len() - 1
            }
        };
        &self.files[at]
    }

    /// Deletes a file, and what is in it when it is a folder.
    pub(crate) fn delete(&mut self, id: &str) {
        let mut doomed = vec![id.to_owned()];
        while let Some(id) = doomed.pop() {
            let Some(at) = self.position(&id) else { continue };
            self.files.remove(at);
            self.changes += 1;
            self.removed.push((id.clone(), self.changes));
            let within = self.files.iter().filter(|file| file.parents.contains(&id));
            doomed.extend(within.map(|file| file.id.clone()));
        }
    }
}

/// MD5 (RFC 1321) in hexadecimal: Drive names it for every file, and clients compare it.
pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let sines: Vec<u32> =
        (1..=64_u32).map(|step| floor_u32(f64::from(step).sin().abs() * 4_294_967_296.0)).collect();
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if padded.len() < bytes.len() + 9 {
        padded.resize(padded.len() + 64, 0);
    }
    let length = padded.len();
    let bits = u64::try_from(bytes.len()).unwrap_or(0).wrapping_mul(8);
    padded[length - 8..].copy_from_slice(&bits.to_le_bytes());
    for block in padded.chunks_exact(64) {
        let words: Vec<u32> = block
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64 {
            let (mixed, word) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), (7 * step) % 16),
            };
            let turned = a.wrapping_add(mixed).wrapping_add(sines[step]).wrapping_add(words[word]);
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(turned.rotate_left(SHIFTS[step / 16][step % 4]));
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(part);
        }
    }
    state.iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it lies between 0 and 2^32")]
fn floor_u32(value: f64) -> u32 {
    value as u32
}

/// A PDF of one page with these lines on it.
pub(crate) fn pdf(title: &str, text: &str) -> Vec<u8> {
    let escape = |line: &str| -> String {
        line.chars()
            .map(|c| if c.is_ascii() && !c.is_ascii_control() { c } else { '?' })
            .flat_map(|c| if matches!(c, '(' | ')' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect()
    };
    let mut page = format!("BT /F1 16 Tf 72 770 Td ({}) Tj /F1 11 Tf", escape(title));
    for line in text.lines().take(48) {
        page.push_str(&format!(" 0 -16 Td ({}) Tj", escape(line)));
    }
    page.push_str(" ET");
    let objects = [
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>"
            .to_owned(),
        format!("<</Length {}>>\nstream\n{page}\nendstream", page.len()),
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>".to_owned(),
    ];
    let mut out = "%PDF-1.4\n".to_owned();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        out.push_str(&format!("{} 0 obj\n{object}\nendobj\n", index + 1));
    }
    let start = out.len();
    out.push_str(&format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1));
    for offset in offsets {
        out.push_str(&format!("{offset:010} 00000 n \n"));
    }
    out.push_str(&format!("trailer<</Size {}/Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n", objects.len() + 1));
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_that_of_the_rfc() {
        assert_eq!(md5_hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(md5_hex(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
        let digits = b"1234567890".repeat(8);
        assert_eq!(md5_hex(&digits), "57edf4a22be3c955ac49da2e2107b67a");
        assert_eq!(md5_hex(&digits[..60]).len(), 32);
    }

    #[test]
    fn a_permission_has_one_id_in_whatever_case_its_address_is() {
        assert_eq!(permission_id("Ben@X.example"), permission_id("ben@x.example"));
        assert_ne!(permission_id("ben@x.example"), permission_id("bea@x.example"));
    }

    #[test]
    fn a_pdf_points_at_its_objects() {
        let bytes = pdf("Offer (draft)", "one\ntwo");
        let text = String::from_utf8(bytes).unwrap();
        let start: usize = text.lines().rev().nth(1).unwrap().parse().unwrap();
        assert!(text[start..].starts_with("xref"));
        let first: usize = text[start..].lines().nth(3).unwrap()[..10].parse().unwrap();
        assert!(text[first..].starts_with("1 0 obj"));
        assert!(text.contains("(Offer \\(draft\\)) Tj"));
    }
}
