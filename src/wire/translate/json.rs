//! JSON texts and [`Data`]: the only place where request and response JSON is parsed and written.

use std::io;

use serde_json::{Map, Value};

use crate::logical::Data;

/// What absent data looks like, in both directions. An empty text would fail in the host.
pub(super) const NULL: &str = "null";

/// Reads data; `None` for what is no JSON object. The parser's own message may quote the input and
/// is dropped.
pub(super) fn read(text: &str) -> Option<Data> {
    if text.is_empty() || text == NULL {
        return Some(Data::default());
    }
    serde_json::from_str::<Map<String, Value>>(text)
        .ok()
        .map(Data::from_map)
}

/// Writes data; always valid JSON. Into a text of its final size from the start: growing would leave
/// copies of a password behind.
pub(super) fn written(data: &Data) -> String {
    let mut size = Size(0);
    let mut text = Vec::new();
    let written = serde_json::to_writer(&mut size, data.as_map()).and_then(|()| {
        text.reserve_exact(size.0);
        serde_json::to_writer(&mut text, data.as_map())
    });
    match (written, String::from_utf8(text)) {
        (Ok(()), Ok(text)) => text,
        (Err(_), _) | (_, Err(_)) => NULL.to_owned(),
    }
}

/// Counts what is written.
struct Size(usize);

impl io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_never_grows_while_it_is_written() {
        let password = "p\u{e9}\n".repeat(500);
        let data = Data::texts([("password", password.as_str()), ("username", "a")]);
        let text = written(&data);
        assert_eq!(text.capacity(), text.len());
        assert_eq!(read(&text).unwrap(), data);
    }
}
