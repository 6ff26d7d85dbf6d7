//! Protocol buffers as text, as far as the specification's tests use them.

/// A message: its fields in order.
#[derive(Debug, Default)]
pub(crate) struct Message(pub(crate) Vec<(String, Field)>);

#[derive(Debug)]
pub(crate) enum Field {
    Message(Message),
    /// A text or bytes, without quotation marks.
    Text(Vec<u8>, String),
    /// A number or a name.
    Word(String),
}

impl Message {
    /// The messages of a field.
    pub(crate) fn messages(&self, name: &'static str) -> impl Iterator<Item = &Message> {
        self.0.iter().filter(move |(field, _)| field == name).filter_map(|(_, field)| match field {
            Field::Message(message) => Some(message),
            _ => None,
        })
    }

    pub(crate) fn message(&self, name: &'static str) -> Option<&Message> {
        self.messages(name).next()
    }

    /// The text or the word of a field.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field == name).and_then(|(_, field)| match field {
            Field::Text(_, text) => Some(text.as_str()),
            Field::Word(word) => Some(word.as_str()),
            Field::Message(_) => None,
        })
    }
}

/// Reads a file.
pub(crate) fn parse(text: &str) -> Message {
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    reader.message()
}

struct Reader<'t> {
    text: &'t [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at)? {
                b' ' | b'\n' | b'\t' | b'\r' | b',' | b';' => self.at += 1,
                b'#' => self.at += self.text[self.at..].iter().take_while(|byte| **byte != b'\n').count(),
                byte => return Some(*byte),
            }
        }
    }

    fn message(&mut self) -> Message {
        let mut fields = Vec::new();
        while let Some(byte) = self.peek() {
            if byte == b'}' || byte == b'>' {
                self.at += 1;
                break;
            }
            let name = self.name();
            if self.peek() == Some(b':') {
                self.at += 1;
            }
            if self.peek() == Some(b'[') {
                self.at += 1;
                while self.peek() != Some(b']') {
                    let field = self.field();
                    fields.push((name.clone(), field));
                }
                self.at += 1;
            } else {
                let field = self.field();
                fields.push((name, field));
            }
        }
        Message(fields)
    }

    fn name(&mut self) -> String {
        if self.peek() == Some(b'[') {
            let end =
                self.text[self.at..].iter().position(|byte| *byte == b']').expect("a name in brackets ends");
            let name = String::from_utf8_lossy(&self.text[self.at + 1..self.at + end]).into_owned();
            self.at += end + 1;
            return name;
        }
        self.word()
    }

    fn word(&mut self) -> String {
        self.peek();
        let rest = &self.text[self.at..];
        let length =
            rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"_.+-".contains(byte)).count();
        assert!(
            length > 0,
            "no word at {}: {}",
            self.at,
            String::from_utf8_lossy(&rest[..rest.len().min(40)])
        );
        self.at += length;
        String::from_utf8_lossy(&rest[..length]).into_owned()
    }

    fn field(&mut self) -> Field {
        match self.peek() {
            Some(b'{' | b'<') => {
                self.at += 1;
                Field::Message(self.message())
            }
            Some(b'"' | b'\'') => {
                let mut bytes = Vec::new();
                // Texts beside each other are one.
                while let Some(b'"' | b'\'') = self.peek() {
                    self.quoted(&mut bytes);
                }
                let text = String::from_utf8_lossy(&bytes).into_owned();
                Field::Text(bytes, text)
            }
            _ => Field::Word(self.word()),
        }
    }

    fn quoted(&mut self, into: &mut Vec<u8>) {
        let quote = self.text[self.at];
        self.at += 1;
        loop {
            let byte = self.text[self.at];
            self.at += 1;
            match byte {
                byte if byte == quote => return,
                b'\\' => self.escape(into),
                byte => into.push(byte),
            }
        }
    }

    fn digits(&mut self, most: usize, radix: u32) -> u32 {
        let digits = self.text[self.at..]
            .iter()
            .take(most)
            .take_while(|byte| (**byte as char).is_digit(radix))
            .count();
        let text =
            std::str::from_utf8(&self.text[self.at..self.at + digits]).expect("the file is well formed");
        self.at += digits;
        u32::from_str_radix(text, radix).expect("the file is well formed")
    }

    fn escape(&mut self, into: &mut Vec<u8>) {
        let byte = self.text[self.at];
        self.at += 1;
        match byte {
            b'n' => into.push(b'\n'),
            b't' => into.push(b'\t'),
            b'r' => into.push(b'\r'),
            b'a' => into.push(7),
            b'b' => into.push(8),
            b'f' => into.push(12),
            b'v' => into.push(11),
            b'x' | b'X' => {
                let code = self.digits(2, 16);
                into.push(code as u8);
            }
            b'u' | b'U' => {
                let code = self.digits(if byte == b'u' { 4 } else { 8 }, 16);
                into.extend(char::from_u32(code).expect("the file is well formed").to_string().bytes());
            }
            b'0'..=b'7' => {
                self.at -= 1;
                let code = self.digits(3, 8);
                into.push(code as u8);
            }
            byte => into.push(byte),
        }
    }
}
