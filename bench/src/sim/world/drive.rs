//! A drive: files with text in them.

use jiff::Timestamp;

use super::Person;

/// MIME types of the files that are made.
pub(crate) mod kind {
    /// A Google document.
    pub(crate) const DOC: &str = "application/vnd.google-apps.document";
    /// A Google spreadsheet.
    pub(crate) const SHEET: &str = "application/vnd.google-apps.spreadsheet";
    /// A Google presentation.
    pub(crate) const SLIDES: &str = "application/vnd.google-apps.presentation";
    /// A PDF file.
    pub(crate) const PDF: &str = "application/pdf";
    /// A text file.
    pub(crate) const TEXT: &str = "text/plain";
}

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mime_type: &'static str,
    /// The text; for a spreadsheet its CSV, for a PDF what is printed on it.
    pub(crate) text: String,
    pub(crate) owner: Person,
    pub(crate) created: Timestamp,
    pub(crate) modified: Timestamp,
    pub(crate) starred: bool,
    /// Searchable words of the name and of the text.
    pub(crate) name_index: String,
    pub(crate) text_index: String,
}

impl File {
    /// Whether the content exists only through export.
    pub(crate) fn is_google_type(&self) -> bool {
        self.mime_type.starts_with("application/vnd.google-apps.")
    }

    /// The bytes of the file itself.
    pub(crate) fn content(&self) -> Vec<u8> {
        if self.mime_type == kind::PDF { pdf(&self.name, &self.text) } else { self.text.clone().into_bytes() }
    }
}

/// One user's files.
#[derive(Debug, Default)]
pub(crate) struct Drive {
    /// Newest change first.
    pub(crate) files: Vec<File>,
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
