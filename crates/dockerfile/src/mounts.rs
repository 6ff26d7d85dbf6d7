//! `RUN --mount`: its options, as they are written and as they are meant.

use crate::instruction::MountOptions;
use crate::suggest::closest;

const KINDS: &[&str] = &["bind", "cache", "tmpfs", "secret", "ssh"];
/// The names of options, by the one that we use.
const OPTIONS: &[(&str, &[&str], &[&str])] = &[
    ("target", &["target", "dst", "destination"], KINDS),
    ("source", &["source", "src"], &["bind", "cache", "secret"]),
    ("from", &["from"], &["bind", "cache"]),
    ("id", &["id"], &["cache", "secret", "ssh"]),
    ("readonly", &["readonly", "ro"], KINDS),
    ("readwrite", &["readwrite", "rw"], KINDS),
    ("required", &["required"], &["secret", "ssh"]),
    ("sharing", &["sharing"], &["cache"]),
    ("size", &["size"], &["tmpfs"]),
    ("mode", &["mode"], &["cache", "secret", "ssh"]),
    ("uid", &["uid"], &["cache", "secret", "ssh"]),
    ("gid", &["gid"], &["cache", "secret", "ssh"]),
    ("env", &["env"], &["secret"]),
];

/// Parses the value of one `--mount`; an error names the word it is about.
pub(crate) fn parse(text: &str) -> Result<MountOptions, (String, String)> {
    let fields = fields(text).map_err(|message| (text.to_owned(), message))?;
    let mut kind = "bind".to_owned();
    for field in &fields {
        if let Some(("type", value)) = field.split_once('=').map(|(n, v)| (n.trim(), v)) {
            kind = value.to_lowercase();
        }
    }
    if !KINDS.contains(&kind.as_str()) {
        return Err((kind.clone(), format!("unsupported mount type {kind:?}{}", help(&kind, KINDS))));
    }
    let mut mount = MountOptions { kind, options: Vec::new() };
    for field in &fields {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name.trim().to_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_lowercase(), None),
        };
        if name == "type" {
            continue;
        }
        let Some((own, _, kinds)) = OPTIONS.iter().find(|(_, names, _)| names.contains(&name.as_str()))
        else {
            let known: Vec<&str> = OPTIONS.iter().flat_map(|(_, names, _)| names.iter().copied()).collect();
            let message = format!("unexpected key '{name}' in '{field}'{}", help(&name, &known));
            return Err((name, message));
        };
        if !kinds.contains(&mount.kind.as_str()) {
            let message = format!("unexpected key '{name}' for mount type '{}'", mount.kind);
            return Err((name, message));
        }
        let is_switch = matches!(*own, "readonly" | "readwrite" | "required");
        let value = match value {
            Some(value) => value,
            None if is_switch => "true".to_owned(),
            None => return Err((name.clone(), format!("invalid field '{name}': it must be {name}=VALUE"))),
        };
        let literal = !value.contains('$');
        if is_switch && literal && parse_switch(&value).is_none() {
            return Err((value.clone(), format!("invalid value for {name}: {value}")));
        }
        let sharings = ["shared", "private", "locked"];
        if *own == "sharing" && literal && !sharings.contains(&value.as_str()) {
            return Err((
                value.clone(),
                format!("unsupported sharing value {value:?}{}", help(&value, &sharings)),
            ));
        }
        mount.options.push(((*own).to_owned(), value));
    }
    let needs_target = matches!(mount.kind.as_str(), "bind" | "cache" | "tmpfs");
    if needs_target && mount.get("target").is_none_or(str::is_empty) {
        let message = format!("mount of type {} needs a target: add target=PATH", mount.kind);
        return Err((text.to_owned(), message));
    }
    if mount.kind == "cache" && mount.get("target") == Some("/") {
        return Err((text.to_owned(), "invalid cache mount target \"/\"".to_owned()));
    }
    Ok(mount)
}

fn help(word: &str, known: &[&str]) -> String {
    closest(word, known).map_or(String::new(), |near| format!(" (did you mean {near}?)"))
}

/// `true`, `1`, `t` and their opposites, in any case.
#[must_use]
pub fn parse_switch(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "t" => Some(true),
        "false" | "0" | "f" => Some(false),
        _ => None,
    }
}

/// `64m` and the like, in bytes.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, factor) = match lower.char_indices().last()? {
        (at, 'k') => (&lower[..at], 1 << 10),
        (at, 'm') => (&lower[..at], 1 << 20),
        (at, 'g') => (&lower[..at], 1 << 30),
        (at, 't') => (&lower[..at], 1_u64 << 40),
        _ => (lower, 1),
    };
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

/// The fields of a line of comma-separated values; a quoted one may hold commas, and `""` in it is a quote.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let mut field = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next() {
                    Some('"') if rest.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => return Err("failed to parse csv mounts: a quote does not end".to_owned()),
                }
            }
            match rest.next() {
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
                Some(',') => {
                    fields.push(field);
                    continue;
                }
                Some(c) => return Err(format!("failed to parse csv mounts: {c:?} behind a quote")),
            }
        }
        loop {
            match rest.next() {
                Some(',') => break,
                Some(c) => field.push(c),
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
            }
        }
        fields.push(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_several_names_and_quotes() {
        let mount = parse("type=cache,\"dst=/a,b\",ro,id=x,uid=1,mode=0700,sharing=locked").unwrap();
        assert_eq!((mount.get("target"), mount.get("readonly")), (Some("/a,b"), Some("true")));
        assert_eq!(mount.get("sharing"), Some("locked"));
        assert_eq!(parse("target=/x").unwrap().kind, "bind");
        assert_eq!(parse("type=secret,id=a,env=B,required").unwrap().get("env"), Some("B"));
        assert_eq!(parse("type=tmpfs,target=/t,size=64m").unwrap().get("size"), Some("64m"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("type=cahce,target=/x", "cahce"),
            ("type=cache", "type=cache"),
            ("type=cache,target=/", "type=cache,target=/"),
            ("type=bind,target=/x,size=1", "size"),
            ("type=cache,target=/x,sharing=all", "all"),
            ("type=secret,required=maybe", "maybe"),
            ("type=secret,id", "id"),
            ("target=/x,\"from=", "target=/x,\"from="),
        ] {
            assert_eq!(parse(text).unwrap_err().0, word, "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in
            [("7", Some(7)), ("2k", Some(2048)), ("1MiB", Some(1 << 20)), ("1gb", Some(1 << 30))]
        {
            assert_eq!(parse_size(text), size, "{text}");
        }
        assert_eq!((parse_size(""), parse_size("x"), parse_size("99999999999999t")), (None, None, None));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[a-z=,\"$ ]*") {
            let _ = parse(&text);
            let _ = parse_size(&text);
        }
    }
}
