//! Texts of others in pages of ours.

use std::fmt::{self, Write as _};

/// A text as it may stand between tags of HTML or SVG and in a quoted attribute. Characters that neither may hold become the
/// replacement character.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                control if control.is_control() && !matches!(control, '\n' | '\t') => {
                    f.write_char(char::REPLACEMENT_CHARACTER)?;
                }
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// As [`Escaped`], as a text of its own.
#[must_use]
pub fn escape(text: &str) -> String {
    Escaped(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_texts_cannot_leave_their_place() {
        assert_eq!(escape("<a b='\"'>&\u{1}\r\n\t"), "&lt;a b=&#39;&quot;&#39;&gt;&amp;\u{fffd}\u{fffd}\n\t");
    }

    proptest! {
        #[test]
        fn nothing_in_any_text_is_a_tag_a_quote_or_a_control_character(text in any::<String>()) {
            let harmful = |letter: char| {
                matches!(letter, '<' | '>' | '"' | '\'') || (letter.is_control() && !matches!(letter, '\n' | '\t'))
            };
            let is_harmless = !escape(&text).contains(harmful);
            prop_assert!(is_harmless);
        }
    }
}
