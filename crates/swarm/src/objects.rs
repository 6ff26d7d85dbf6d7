//! Secrets and configs.

use serde_json::{Value, json};

use crate::cluster::Swarm;
use crate::defaults;
use crate::error::{Error, Result};
use crate::model::{Cluster, Object, find};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Its data is never shown.
    Secret,
    /// Its data is shown.
    Config,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }

    /// Where task templates name those they use, and by which field.
    pub(crate) fn references(self) -> (&'static str, &'static str) {
        match self {
            Self::Secret => ("Secrets", "SecretID"),
            Self::Config => ("Configs", "ConfigID"),
        }
    }

    fn document(self, object: &Object) -> Value {
        let mut document = object.document();
        if self == Self::Secret
            && let Some(spec) = document["Spec"].as_object_mut()
        {
            spec.remove("Data");
        }
        document
    }
}

impl Cluster {
    pub(crate) fn objects(&self, kind: Kind) -> &std::collections::BTreeMap<String, Object> {
        match kind {
            Kind::Secret => &self.secrets,
            Kind::Config => &self.configs,
        }
    }

    fn objects_mut(&mut self, kind: Kind) -> &mut std::collections::BTreeMap<String, Object> {
        match kind {
            Kind::Secret => &mut self.secrets,
            Kind::Config => &mut self.configs,
        }
    }

    fn object(&self, kind: Kind, name: &str) -> Result<&Object> {
        find(self.objects(kind).values(), name, |object| object)
            .ok_or_else(|| Error::NotFound { kind: kind.name(), name: name.to_owned() })
    }
}

impl Swarm {
    /// Makes a secret or config; `data` is what `spec.Data` holds in base 64. Gives its id.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, [`Error::Invalid`] for a bad name or size.
    pub fn create_object(&self, kind: Kind, spec: &Value) -> Result<String> {
        const LARGEST: usize = 700_000;
        let name = spec["Name"].as_str().unwrap_or_default().to_owned();
        let is_valid = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !is_valid {
            return Err(Error::invalid(format!(
                "{} name must be 1 to 64 letters, digits, '-', '_' and '.': {name:?}",
                kind.name()
            )));
        }
        if spec["Data"].as_str().is_some_and(|data| data.len() > LARGEST) {
            return Err(Error::invalid(format!("{} data must be no larger than 500 KiB", kind.name())));
        }
        self.change(|cluster| {
            if cluster.objects(kind).values().any(|object| object.name() == name) {
                return Err(Error::Exists { kind: kind.name(), name });
            }
            let mut whole = json!({ "Labels": {} });
            defaults::overlay(&mut whole, spec);
            let object = Object::new(cluster.next(), whole);
            let id = object.id.clone();
            cluster.objects_mut(kind).insert(id.clone(), object);
            Ok(id)
        })
    }

    /// All of a kind.
    ///
    /// # Errors
    /// [`Error::NotManager`].
    pub fn list_objects(&self, kind: Kind) -> Result<Vec<Value>> {
        self.read(|cluster| Ok(cluster.objects(kind).values().map(|object| kind.document(object)).collect()))
    }

    /// One by id, name, or prefix of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn inspect_object(&self, kind: Kind, name: &str) -> Result<Value> {
        self.read(|cluster| Ok(kind.document(cluster.object(kind, name)?)))
    }

    /// Changes the labels; nothing else can be changed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfSequence`], [`Error::Invalid`] for any other change.
    pub fn update_object(&self, kind: Kind, name: &str, version: u64, spec: &Value) -> Result<()> {
        self.change(|cluster| {
            let object = cluster.object(kind, name)?.clone();
            if object.index != version {
                return Err(Error::OutOfSequence);
            }
            let changes = |field: &str| {
                spec.get(field).is_some_and(|value| !value.is_null() && *value != object.spec[field])
            };
            if changes("Name") || changes("Data") {
                return Err(Error::invalid("only updates to Labels are allowed"));
            }
            let mut whole = object.spec.clone();
            whole["Labels"] =
                spec.get("Labels").filter(|labels| !labels.is_null()).cloned().unwrap_or(json!({}));
            let index = cluster.next();
            if let Some(object) = cluster.objects_mut(kind).get_mut(&object.id) {
                object.change(index, whole);
            }
            Ok(())
        })
    }

    /// Removes one that no service uses.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] when it is used.
    pub fn remove_object(&self, kind: Kind, name: &str) -> Result<()> {
        self.change(|cluster| {
            let object = cluster.object(kind, name)?;
            let (id, name) = (object.id.clone(), object.name().to_owned());
            let (list, field) = kind.references();
            let user = cluster.services.values().find(|service| {
                let used = service.object.spec["TaskTemplate"]["ContainerSpec"][list].as_array();
                used.is_some_and(|used| used.iter().any(|one| one[field] == id.as_str()))
            });
            if let Some(user) = user {
                return Err(Error::invalid(format!(
                    "{} '{name}' is in use by the following service: {}",
                    kind.name(),
                    user.object.name()
                )));
            }
            cluster.objects_mut(kind).remove(&id);
            Ok(())
        })
    }
}
