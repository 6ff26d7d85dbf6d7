//! The log of a container as its shim is told of it: the file, where lines go besides, and what each of them carries.
//! Reading one is `logs`' business.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dray_runtime::launch::LogFile;

use crate::record::ContainerRecord;
use crate::spec::LogForward;

/// The log of a container, when it is kept.
pub(crate) fn of(record: &ContainerRecord, path: PathBuf) -> Option<LogFile> {
    let policy = &record.spec.log;
    policy.keep.then(|| LogFile {
        path,
        max_size: policy.max_size,
        max_files: policy.max_files.max(1),
        attributes: attributes(record),
        forward: policy.forward.clone().map(|forward| filled_in(forward, record)),
    })
}

/// The name that a container's lines carry.
fn tag(record: &ContainerRecord) -> String {
    let template = record.spec.log.tag.as_deref().unwrap_or("{{.ID}}");
    let values = [
        ("ID", record.id.short()),
        ("FullID", record.id.as_str()),
        ("Name", record.name.as_str()),
        ("ImageName", record.spec.image.as_str()),
        ("ImageFullID", record.image.as_str()),
        ("ImageID", record.image.as_str().get(7..19).unwrap_or_default()),
        ("DaemonName", "dray"),
    ];
    let mut tag = template.to_owned();
    for (name, value) in values {
        tag = tag.replace(&format!("{{{{.{name}}}}}"), value);
        tag = tag.replace(&format!("{{{{ .{name} }}}}"), value);
    }
    tag
}

/// What each line carries besides its text.
fn attributes(record: &ContainerRecord) -> BTreeMap<String, String> {
    let policy = &record.spec.log;
    let mut attributes = BTreeMap::new();
    for name in &policy.labels {
        if let Some(value) = record.spec.labels.get(name) {
            attributes.insert(name.clone(), value.clone());
        }
    }
    for entry in &record.env {
        if let Some((name, value)) = entry.split_once('=')
            && policy.env.iter().any(|wanted| wanted == name)
        {
            attributes.insert(name.to_owned(), value.to_owned());
        }
    }
    if policy.tag.is_some() {
        attributes.insert("tag".to_owned(), tag(record));
    }
    attributes
}

fn filled_in(forward: LogForward, record: &ContainerRecord) -> LogForward {
    match forward {
        LogForward::Syslog { address, facility, format, .. } => {
            LogForward::Syslog { address, facility, tag: tag(record), format }
        }
        LogForward::Journald { .. } => {
            let tag = tag(record);
            let own = [
                ("CONTAINER_ID", record.id.short().to_owned()),
                ("CONTAINER_ID_FULL", record.id.to_string()),
                ("CONTAINER_NAME", record.name.clone()),
                ("CONTAINER_TAG", tag.clone()),
                ("IMAGE_NAME", record.spec.image.clone()),
                ("SYSLOG_IDENTIFIER", tag),
            ];
            let more = attributes(record).into_iter().filter(|(name, _)| name != "tag");
            let field = |name: String| {
                let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
                name.chars().map(plain).collect::<String>().trim_start_matches('_').to_owned()
            };
            let fields = own.into_iter().map(|(name, value)| (name.to_owned(), value));
            LogForward::Journald {
                fields: fields.chain(more.map(|(name, value)| (field(name), value))).collect(),
            }
        }
    }
}
