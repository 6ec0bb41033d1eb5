//! Makes bytes from outside safe to show: on a terminal, in a log line, in an error.

use std::borrow::Cow;
use std::fmt::Write;

/// Text with everything escaped that could drive a terminal, forge a line or reorder what is read:
/// control characters (but the tab), bytes that are not UTF-8, bidirectional controls, line separators.
/// A control character becomes `\x1b`, another character `\u{202e}`, a stray byte `\xff`.
pub fn escape(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains(is_unsafe)
    {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            // Writing to a String cannot fail.
            let _ = match char {
                '\n' => shown.write_str("\\n"),
                '\r' => shown.write_str("\\r"),
                char if !is_unsafe(char) => shown.write_char(char),
                char if (char as u32) < 0x100 => write!(shown, "\\x{:02x}", char as u32),
                char => write!(shown, "\\u{{{:x}}}", char as u32),
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    Cow::Owned(shown)
}

fn is_unsafe(char: char) -> bool {
    match char {
        '\t' => false,
        // Bidirectional marks, embeddings, overrides and isolates; the two Unicode line separators.
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        char => char.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_shown_as_it_is() {
        assert!(matches!(
            escape("a\tü 😀 \\".as_bytes()),
            Cow::Borrowed("a\tü 😀 \\")
        ));
    }

    #[test]
    fn nothing_shown_can_drive_the_terminal_or_forge_a_line() {
        assert_eq!(escape(b"\x1b]0;title\x07"), "\\x1b]0;title\\x07");
        assert_eq!(escape(b"one\r\ntwo\x7f"), "one\\r\\ntwo\\x7f");
        assert_eq!(escape("\u{9b}31m".as_bytes()), "\\x9b31m", "the 8-bit CSI");
        assert_eq!(escape(b"a\xff\xc3"), "a\\xff\\xc3");
        assert_eq!(escape("\u{202e}txt\u{2028}".as_bytes()), "\\u{202e}txt\\u{2028}");
    }
}
