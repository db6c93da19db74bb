//! The words of an HTML mail, for when there is no plain text: tags dropped, entities decoded, blocks on lines
//! of their own. One pass, linear in the input; it is no renderer and need not be right about layout.

use super::TEXT_BYTES_MAX;

/// Elements whose content is not text.
const HIDDEN: [&str; 4] = ["script", "style", "head", "title"];
/// Elements that start a new line.
const BLOCKS: [&str; 14] =
    ["br", "p", "div", "tr", "li", "ul", "ol", "table", "h1", "h2", "h3", "h4", "blockquote", "hr"];
/// The longest entity that is decoded, with `&` and `;`.
const ENTITY_BYTES_MAX: usize = 12;

/// The text of `html`, at most [`TEXT_BYTES_MAX`] bytes.
pub(super) fn to_text(html: &str) -> String {
    let mut text = Text::default();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        text.push(&rest[..open]);
        rest = after_markup(&rest[open..], &mut text);
        if text.out.len() >= TEXT_BYTES_MAX {
            break;
        }
    }
    text.push(rest);
    text.finish()
}

/// Passes over the tag or comment that `rest` starts with, and over the content of hidden elements.
fn after_markup<'a>(rest: &'a str, text: &mut Text) -> &'a str {
    if let Some(comment) = rest.strip_prefix("<!--") {
        return comment.find("-->").map_or("", |end| &comment[end + 3..]);
    }
    let name_start = rest[1..].trim_start_matches('/');
    if !name_start.starts_with(|first: char| first.is_ascii_alphabetic() || first == '!' || first == '?') {
        text.push("<");
        return &rest[1..];
    }
    let closing = rest.starts_with("</");
    let name_end =
        name_start.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(name_start.len());
    let name = name_start[..name_end].to_ascii_lowercase();
    if BLOCKS.contains(&name.as_str()) {
        text.line();
    }
    let after = tag_end(rest);
    if HIDDEN.contains(&name.as_str()) && !closing { after_element(after, &name) } else { after }
}

/// What follows the tag that `rest` starts with; a `>` within quotes does not end it.
fn tag_end(rest: &str) -> &str {
    let mut quote = None;
    for (at, letter) in rest.char_indices() {
        match (quote, letter) {
            (None, '>') => return &rest[at + 1..],
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
    }
    ""
}

/// What follows the closing tag of the element `name`.
fn after_element<'a>(rest: &'a str, name: &str) -> &'a str {
    let mut from = 0;
    while let Some(at) = rest[from..].find("</") {
        let tag = from + at;
        let named = rest.as_bytes()[tag + 2..].get(..name.len());
        if named.is_some_and(|given| given.eq_ignore_ascii_case(name.as_bytes())) {
            return tag_end(&rest[tag..]);
        }
        from = tag + 2;
    }
    ""
}

/// Text with runs of white space made one.
#[derive(Default)]
struct Text {
    out: String,
    space: bool,
    lines: bool,
}

impl Text {
    fn push(&mut self, raw: &str) {
        let mut rest = raw;
        while let Some(letter) = rest.chars().next() {
            if self.out.len() >= TEXT_BYTES_MAX {
                return;
            }
            if let Some((decoded, after)) = entity(rest) {
                self.letter(decoded);
                rest = after;
            } else {
                self.letter(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }

    fn letter(&mut self, letter: char) {
        if letter.is_whitespace() {
            self.space = true;
            return;
        }
        if letter.is_control() {
            return;
        }
        if !self.out.is_empty() {
            if self.lines {
                self.out.push('\n');
            } else if self.space {
                self.out.push(' ');
            }
        }
        self.space = false;
        self.lines = false;
        self.out.push(letter);
    }

    fn line(&mut self) {
        self.lines = true;
    }

    fn finish(mut self) -> String {
        super::truncate(&mut self.out);
        self.out
    }
}

/// The texts of a snippet, which Gmail gives with entities.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if let Some((decoded, after)) = entity(rest) {
            out.push(decoded);
            rest = after;
        } else {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    out
}

/// The character of the entity that `text` starts with, and what follows it.
fn entity(text: &str) -> Option<(char, &str)> {
    let name = text.strip_prefix('&')?;
    let end = name.bytes().take(ENTITY_BYTES_MAX).position(|byte| byte == b';')?;
    let (name, after) = (&name[..end], &name[end + 1..]);
    let letter = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        "ndash" => '\u{2013}',
        "mdash" => '\u{2014}',
        "hellip" => '\u{2026}',
        "lsquo" => '\u{2018}',
        "rsquo" => '\u{2019}',
        "ldquo" => '\u{201c}',
        "rdquo" => '\u{201d}',
        "euro" => '\u{20ac}',
        _ => numeric(name.strip_prefix('#')?)?,
    };
    Some((letter, after))
}

fn numeric(digits: &str) -> Option<char> {
    let code = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    code.ok().and_then(char::from_u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_stay_and_markup_goes() {
        let html = "<html><head><title>T</title></head><body><p>Hello <b>Anna</b>,</p>\n\n<div>see   you&nbsp;at 10</div></body></html>";
        assert_eq!(to_text(html), "Hello Anna,\nsee you at 10");
    }

    #[test]
    fn scripts_styles_and_comments_are_hidden() {
        let html = "a<script>if (x < 5) alert('</p>')</SCRIPT>b<style>p{}</style>c<!-- <p>no</p> -->d";
        assert_eq!(to_text(html), "abcd");
    }

    #[test]
    fn entities_are_decoded_once() {
        assert_eq!(
            to_text("1 &lt; 2 &amp;amp; 3 &#8364;&#x41; &bogus; &"),
            "1 < 2 &amp; 3 \u{20ac}A &bogus; &"
        );
        assert_eq!(unescape("Don&#39;t &amp; won&#39;t"), "Don't & won't");
    }

    #[test]
    fn attributes_may_hold_a_bracket() {
        assert_eq!(to_text("<a title=\"a > b\" href='x'>link</a>"), "link");
    }

    #[test]
    fn a_lone_bracket_is_text() {
        assert_eq!(to_text("1 < 2 and 3 > 2"), "1 < 2 and 3 > 2");
    }

    #[test]
    fn unfinished_markup_ends_the_text() {
        assert_eq!(to_text("a<b"), "a");
        assert_eq!(to_text("a<!-- b"), "a");
        assert_eq!(to_text("a<script>b"), "a");
    }

    #[test]
    fn the_text_is_bounded() {
        assert!(to_text(&"<p>\u{20ac} x".repeat(100_000)).len() <= TEXT_BYTES_MAX);
    }

    #[test]
    fn many_unclosed_tags_take_linear_time() {
        // Quadratic work would be 10^11 steps here and never end.
        let html = "<style></".repeat(150_000);
        assert_eq!(to_text(&html), "");
        assert_eq!(to_text(&"<!-".repeat(300_000)), "");
    }

    proptest! {
        #[test]
        fn arbitrary_html_never_panics(html in "[<>/!&;#x\"'a-c \\-\u{e9}\u{20ac}]{0,80}") {
            let _ = to_text(&html);
            let _ = unescape(&html);
        }
    }
}
