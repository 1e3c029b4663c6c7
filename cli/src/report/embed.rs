//! Putting text into HTML so that it stays text.

/// Text for an element's content or a quoted attribute.
pub(super) fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// JSON for the content of a script element.
///
/// Such content ends at `</script` and changes its meaning at `<!--`, whatever the JSON says. Outside its strings
/// JSON has none of the characters replaced here, and inside them the escapes mean the same characters: the value
/// stays what it was. U+2028 and U+2029 end a line in old JavaScript.
pub(super) fn escape_script_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `template` with each `{{name}}` replaced by its part; an unknown name stays as it is.
///
/// One pass: what is put in is never searched for names again, so that no text of a sweep can pull in a part.
pub(super) fn fill(template: &str, parts: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        let part = after.split_once("}}").and_then(|(name, behind)| {
            parts.iter().find(|(known, _)| *known == name).map(|(_, part)| (*part, behind))
        });
        match part {
            Some((part, behind)) => {
                filled.push_str(part);
                rest = behind;
            }
            None => {
                filled.push_str("{{");
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// RFC 4648 base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            if position <= chunk.len() {
                text.push(char::from(ALPHABET[(group >> (18 - 6 * position) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4648, section 10.
    #[test]
    fn base64_agrees_with_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn escaped_json_has_no_markup_and_the_same_value() {
        let hostile = "</script><img onerror=x> <!-- <script ]]> & \u{2028}\u{2029} \" \\ \\u003c é";
        let json = serde_json::to_string(hostile).expect("a string");
        let escaped = escape_script_json(&json);
        assert!(!escaped.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).expect("still JSON"), hostile);
    }

    #[test]
    fn what_is_filled_in_is_not_filled_again() {
        let parts = [("a", "{{b}}"), ("b", "secret")];
        assert_eq!(fill("<{{a}}|{{c}}|{{", &parts), "<{{b}}|{{c}}|{{");
        assert_eq!(escape_html("<a href=\"x\">'&"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}
