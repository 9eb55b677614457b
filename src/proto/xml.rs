//! The XML envelope of every answer: one `root` element on one line.
//!
//! It only writes; nothing a client sends is ever read as XML. No whitespace stands between elements,
//! because one Android parser takes each text node for content. Source: moonlight-android NvHTTP.java.
use super::http::Response;

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n";

/// A document being written. Names are ours and are not escaped; values are.
#[derive(Clone, Debug)]
pub struct Document {
    text: String,
    /// The start tag of `root` still takes attributes.
    open: bool,
}

impl Document {
    /// Starts a `root` with its mandatory `status_code`: 200 is success, anything else an error that the
    /// client shows; 4294967295 is read as -1.
    pub fn new(status: u32) -> Self {
        Self { text: format!("{DECLARATION}<root status_code=\"{status}\""), open: true }
    }

    /// Adds an attribute to `root`. Only before the first element; later it would be no XML and is left out.
    pub fn attribute(mut self, name: &'static str, value: &str) -> Self {
        debug_assert!(self.open, "attributes come first");
        if self.open {
            self.text.extend([" ", name, "=\""]);
            escape(value, &mut self.text);
            self.text.push('"');
        }
        self
    }

    /// Adds `<name>value</name>`.
    pub fn element(mut self, name: &'static str, value: &str) -> Self {
        self.close_start_tag();
        self.text.extend(["<", name, ">"]);
        escape(value, &mut self.text);
        self.text.extend(["</", name, ">"]);
        self
    }

    /// Adds `<name>`, what `children` adds, `</name>`.
    pub fn group(mut self, name: &'static str, children: impl FnOnce(Self) -> Self) -> Self {
        self.close_start_tag();
        self.text.extend(["<", name, ">"]);
        let mut inner = children(self);
        inner.text.extend(["</", name, ">"]);
        inner
    }

    /// The whole document.
    pub fn finish(mut self) -> String {
        self.text.push_str(if self.open { "/>" } else { "</root>" });
        self.text
    }

    /// The whole document as an answer, HTTP 200 whatever the `status_code`: clients turn other HTTP
    /// statuses into network errors and do not look at the body.
    pub fn response(self) -> Response {
        Response::xml(self.finish())
    }

    fn close_start_tag(&mut self) {
        if std::mem::take(&mut self.open) {
            self.text.push('>');
        }
    }
}

/// Appends `value` so that any text is well-formed in elements and attributes. Tab, line feed and
/// carriage return survive as references; characters that XML 1.0 cannot carry become U+FFFD.
fn escape(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' => out.push_str("&#9;"),
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_envelope() {
        assert_eq!(
            Document::new(404).finish(),
            format!("{DECLARATION}<root status_code=\"404\"/>")
        );
        let text = Document::new(200)
            .attribute("query", "/a\"b")
            .group("App", |d| d.element("AppTitle", "Tom & \"Jerry's\" <3 ]]>").element("ID", "1"))
            .element("empty", "")
            .finish();
        assert_eq!(
            text,
            format!(
                "{DECLARATION}<root status_code=\"200\" query=\"/a&quot;b\"><App><AppTitle>Tom &amp; \
                 &quot;Jerry&apos;s&quot; &lt;3 ]]&gt;</AppTitle><ID>1</ID></App><empty></empty></root>"
            )
        );
    }

    proptest! {
        #[test]
        fn any_value_is_carried(value: String) {
            let text = Document::new(200).element("v", &value).finish();
            let inner = text.strip_prefix(&format!("{DECLARATION}<root status_code=\"200\"><v>")).unwrap();
            let inner = inner.strip_suffix("</v></root>").unwrap();
            let illegal = |c: char| c.is_control() || ['<', '>', '"', '\'', '\u{ffff}'].contains(&c);
            prop_assert!(!inner.chars().any(illegal));
            let mut back = inner.to_owned();
            for (reference, character) in [
                ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#9;", "\t"),
                ("&#10;", "\n"), ("&#13;", "\r"), ("&amp;", "&"),
            ] {
                back = back.replace(reference, character);
            }
            let carried = |c: char| match c {
                '\t' | '\n' | '\r' => c,
                c if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) => '\u{fffd}',
                c => c,
            };
            prop_assert_eq!(back, value.chars().map(carried).collect::<String>());
        }
    }
}
