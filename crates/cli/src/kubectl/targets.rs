//! Which objects a command means: `pod x y`, `pod/x deploy/y`, `-l app=x`, or those of files.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use super::Session;
use super::client::encode;
use super::resources::{Resource, text};
use crate::{Error, Result};

/// A kind, and the names of some of it; no names means all.
#[derive(Debug)]
pub(super) struct Target<'a> {
    pub(super) resource: &'a Resource,
    pub(super) names: Vec<String>,
}

/// Reads `pods,svc`, `pod x y` or `pod/x svc/y`.
pub(super) fn parse<'a>(session: &'a Session, arguments: &[String]) -> Result<Vec<Target<'a>>> {
    let Some(first) = arguments.first() else {
        return Err(Error::Failed {
            message: "error: You must specify the type of resource. See: dray kubectl api-resources"
                .to_owned(),
        });
    };
    if first.contains('/') {
        let mut targets: Vec<Target<'a>> = Vec::new();
        for argument in arguments {
            let (kind, name) = argument.split_once('/').ok_or_else(|| Error::Failed {
                message: format!("error: there is no need to specify a resource type as a separate argument when passing arguments in resource/name form: {argument:?}"),
            })?;
            let resource = session.resources.find(kind)?;
            match targets.last_mut().filter(|target| target.resource.plural == resource.plural) {
                Some(target) => target.names.push(name.to_owned()),
                None => targets.push(Target { resource, names: vec![name.to_owned()] }),
            }
        }
        return Ok(targets);
    }
    let mut targets = Vec::new();
    for kind in first.split(',') {
        for resource in session.resources.matching(kind)? {
            targets.push(Target { resource, names: arguments[1..].to_vec() });
        }
    }
    Ok(targets)
}

/// The one object that `pod/x`, `pod x` or, with a kind by default, `x` means.
pub(super) fn one<'a>(
    session: &'a Session,
    arguments: &[String],
    default_kind: &str,
) -> Result<(&'a Resource, String)> {
    match arguments {
        [only] => match only.split_once('/') {
            Some((kind, name)) => Ok((session.resources.find(kind)?, name.to_owned())),
            None => Ok((session.resources.find(default_kind)?, only.clone())),
        },
        [kind, name] => Ok((session.resources.find(kind)?, name.clone())),
        _ => Err(Error::Failed { message: "error: one object must be named, as pod/NAME".to_owned() }),
    }
}

/// The query of a list.
pub(super) fn selectors(labels: &str, fields: &str) -> String {
    let pairs = [("labelSelector", labels), ("fieldSelector", fields)];
    let pairs: Vec<_> = pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    pairs.join("&")
}

/// All objects of files, directories and standard input (`-`).
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(Error::io("read", "standard input"))?;
            documents(&text, file, &mut objects)?;
        } else if file.is_dir() {
            let entries = fs::read_dir(file).map_err(Error::io("list", file))?;
            let mut paths: Vec<_> =
                entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
            paths.retain(|path| {
                path.extension()
                    .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e))
            });
            paths.sort();
            for path in paths {
                documents(
                    &fs::read_to_string(&path).map_err(Error::io("read", &path))?,
                    &path,
                    &mut objects,
                )?;
            }
        } else {
            documents(&fs::read_to_string(file).map_err(Error::io("read", file))?, file, &mut objects)?;
        }
    }
    if objects.is_empty() {
        return Err(Error::Failed { message: "error: no objects passed; use -f FILE".to_owned() });
    }
    Ok(objects)
}

fn documents(text: &str, file: &Path, objects: &mut Vec<Value>) -> Result<()> {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|error| Error::Failed {
            message: format!("error: error parsing {}: {error}", file.display()),
        })?;
        if value.is_null() {
            continue;
        }
        if self::text(&value, "kind") == "List" {
            objects.extend(value["items"].as_array().into_iter().flatten().cloned());
        } else {
            objects.push(value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_several_documents_and_lists() {
        let text = "---\nkind: A\n---\n# nothing\n---\nkind: List\nitems: [{kind: B}, {kind: C}]\n";
        let mut objects = Vec::new();
        documents(text, Path::new("x"), &mut objects).unwrap();
        let kinds: Vec<_> = objects.iter().map(|object| self::text(object, "kind")).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert!(documents("a: [", Path::new("x"), &mut objects).is_err());
    }
}
