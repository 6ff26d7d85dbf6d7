//! A definition, read: what it says of each of its versions.

use std::{fmt, ops::Deref, sync::Arc};

use dray_cel::rules::Validator;
use dray_machinery::{Kind, kinds::custom, object, schema::Schema};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::{Columns, check::MINOR, convert::Conversion, registry::by_priority, structural::Structural};

/// Where a scale reads and writes: paths of names, with a dot before each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scale {
    pub(crate) wanted: String,
    pub(crate) found: String,
    /// Empty where there is none.
    pub(crate) selector: String,
}

/// One version of a definition.
pub(crate) struct Version {
    pub(crate) kind: &'static Kind,
    pub(crate) served: bool,
    pub(crate) structural: Structural,
    /// The same for whoever merges and applies.
    pub(crate) schema: Schema,
    pub(crate) rules: Option<Validator>,
    pub(crate) columns: Columns,
    pub(crate) scale: Option<Scale>,
    /// What clients are told when they use it; empty where it is not deprecated.
    pub(crate) deprecation: String,
    /// How the text of an object begins that is stored in this version.
    head: String,
}

/// A definition that is served.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) versions: Vec<Version>,
    /// Which of them objects are stored in.
    stored: usize,
    pub(crate) conversion: Conversion,
    /// Whether it is on its way out.
    pub(crate) terminating: bool,
    /// Changes with what it says.
    pub(crate) fingerprint: [u8; 32],
    /// The revision since which objects are written as it says.
    pub(crate) since: u64,
    /// Says to whoever watches that it is not served any more, or not so.
    closed: Arc<watch::Sender<bool>>,
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition").field("name", &self.name).finish_non_exhaustive()
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn text(value: &Value, path: &[&str]) -> String {
    object::text(value, path).to_owned()
}

/// Whether a definition has a condition.
pub(crate) fn is_true(definition: &Value, condition: &str) -> bool {
    let conditions = object::at(definition, &["status", "conditions"]).as_array();
    conditions.into_iter().flatten().any(|one| one["type"] == condition && one["status"] == "True")
}

/// What tells one definition from another that says something else.
pub(crate) fn fingerprint(definition: &Value) -> [u8; 32] {
    let mut digest = Sha256::new();
    let parts = [&definition["metadata"]["uid"], &definition["spec"], &definition["status"]["acceptedNames"]];
    for part in parts {
        digest.update(part.to_string().as_bytes());
        digest.update([0]);
    }
    digest.finalize().into()
}

/// What a client is told that uses a version which is deprecated, and what he may use instead.
fn deprecation(version: &Value, all: &Value, group: &str, kind: &str) -> String {
    if version["deprecated"] != true {
        return String::new();
    }
    let given = object::text(version, &["deprecationWarning"]);
    if !given.is_empty() {
        return given.to_owned();
    }
    let name = object::text(version, &["name"]);
    let fine = all
        .as_array()
        .into_iter()
        .flatten()
        .filter(|other| other["served"] == true && other["deprecated"] != true);
    let newer =
        fine.map(|other| object::text(other, &["name"])).filter(|other| by_priority(other, name).is_lt());
    let words = format!("{group}/{name} {kind} is deprecated");
    match newer.min_by(|one, two| by_priority(one, two)) {
        Some(other) => format!("{words}; use {group}/{other} {kind}"),
        None => words,
    }
}

impl Definition {
    /// Reads a definition whose names are accepted.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub(crate) fn read(definition: &Value, since: u64) -> Result<Definition, String> {
        let spec = &definition["spec"];
        let terminating = object::is_terminating(definition);
        let all = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let versions: Vec<Version> = all
            .iter()
            .map(|version| Version::read(definition, version, terminating))
            .collect::<Result<_, _>>()?;
        let stored = all.iter().position(|version| version["storage"] == true);
        Ok(Definition {
            name: text(definition, &["metadata", "name"]),
            versions,
            stored: stored.ok_or("no version is stored")?,
            conversion: Conversion::read(&spec["conversion"]),
            terminating,
            fingerprint: fingerprint(definition),
            since,
            closed: Arc::new(watch::Sender::new(false)),
        })
    }

    /// Goes on where one ends that says the same of its objects: whoever watches goes on, too.
    pub(crate) fn succeed(&mut self, before: &Definition) {
        self.since = before.since;
        self.closed = before.closed.clone();
    }

    /// Whether it goes on where another ends.
    pub(crate) fn succeeds(&self, before: &Definition) -> bool {
        Arc::ptr_eq(&self.closed, &before.closed)
    }

    /// The version that objects are stored in.
    pub(crate) fn stored(&self) -> &Version {
        &self.versions[self.stored]
    }

    /// The version of a name, as "example.com/v1".
    pub(crate) fn of_api_version(&self, api_version: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.kind.api_version() == api_version)
    }

    /// Ends the watches that began under it.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Comes true when it is not served any more.
    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }
}

impl Version {
    fn read(definition: &Value, version: &Value, terminating: bool) -> Result<Version, String> {
        let (spec, names) = (&definition["spec"], &definition["status"]["acceptedNames"]);
        let subresource = |name: &str| &version["subresources"][name];
        let fields = version["selectableFields"].as_array().into_iter().flatten();
        let fields = fields.map(|field| {
            let path = object::text(field, &["jsonPath"]);
            path.trim_start_matches('.').split('.').map(str::to_owned).collect()
        });
        let described = custom::Described {
            group: text(spec, &["group"]),
            version: text(version, &["name"]),
            kind: text(names, &["kind"]),
            list: text(names, &["listKind"]),
            plural: text(names, &["plural"]),
            singular: text(names, &["singular"]),
            short_names: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            status: subresource("status").is_object(),
            scale: subresource("scale").is_object(),
            terminating,
            fields: fields.collect(),
        };
        let kind =
            custom::row(&described).ok_or("too many kinds have been defined since the server started")?;
        let schema = &version["schema"]["openAPIV3Schema"];
        let scale = subresource("scale");
        Ok(Version {
            kind,
            served: version["served"] == true,
            structural: Structural::read(schema),
            schema: Schema::of_custom(schema)?,
            rules: Validator::new(schema, true, MINOR),
            columns: Columns::read(&version["additionalPrinterColumns"]),
            scale: scale.is_object().then(|| Scale {
                wanted: text(scale, &["specReplicasPath"]),
                found: text(scale, &["statusReplicasPath"]),
                selector: text(scale, &["labelSelectorPath"]),
            }),
            deprecation: deprecation(version, &spec["versions"], &described.group, &described.kind),
            head: format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.kind, kind.api_version()),
        })
    }
}

/// One version of a definition, as a request asks for it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Custom {
    pub(crate) definition: Arc<Definition>,
    version: usize,
}

impl Custom {
    /// The version of a name, if it is served.
    pub(crate) fn find(definition: &Arc<Definition>, name: &str) -> Option<Custom> {
        let version =
            definition.versions.iter().position(|version| version.served && version.kind.version == name)?;
        Some(Custom { definition: definition.clone(), version })
    }

    /// The version that objects are stored in, served or not.
    pub(crate) fn stored(definition: &Arc<Definition>) -> Custom {
        Custom { definition: definition.clone(), version: definition.stored }
    }

    /// Another version of the same definition, served or not.
    pub(crate) fn other(&self, name: &str) -> Option<Custom> {
        let version = self.definition.versions.iter().position(|version| version.kind.version == name)?;
        Some(Custom { definition: self.definition.clone(), version })
    }

    /// Whether an object is stored in the version in which objects are stored now.
    pub(crate) fn is_stored_so(&self, json: &[u8]) -> bool {
        json.starts_with(self.definition.stored().head.as_bytes())
    }

    /// Whether the text of a stored object is what a client of this version gets.
    pub(crate) fn is_current(&self, revision: u64, json: &[u8]) -> bool {
        revision > self.definition.since && json.starts_with(self.head.as_bytes())
    }
}

impl Deref for Custom {
    type Target = Version;

    fn deref(&self) -> &Version {
        &self.definition.versions[self.version]
    }
}
