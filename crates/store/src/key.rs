//! Keys: a resource ("core/pods", "apps/deployments") and a name in it ("default/web", or "node-1").

use std::{fmt, sync::Arc};

/// Where a value lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    resource: Arc<str>,
    name: Arc<str>,
}

const ROOT: &str = "/registry/";

impl Key {
    /// A key. `resource` is "GROUP/PLURAL" with exactly one slash, `name` is "NAMESPACE/NAME" or "NAME".
    pub fn new(resource: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Key {
        Key { resource: resource.into(), name: name.into() }
    }

    /// "GROUP/PLURAL".
    pub fn resource(&self) -> &Arc<str> {
        &self.resource
    }

    /// "NAMESPACE/NAME", or "NAME" where the resource has no namespaces.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn encode(&self) -> String {
        format!("{ROOT}{}/{}", self.resource, self.name)
    }

    pub(crate) fn decode(text: &str) -> Option<Key> {
        let rest = text.strip_prefix(ROOT)?;
        let group_end = rest.find('/')?;
        let resource_end = group_end + 1 + rest[group_end + 1..].find('/')?;
        Some(Key::new(&rest[..resource_end], &rest[resource_end + 1..]))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ROOT}{}/{}", self.resource, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::Key;

    #[test]
    fn decodes_what_it_encodes() {
        for (resource, name) in [("core/pods", "default/web"), ("core/nodes", "node-1")] {
            let key = Key::new(resource, name);
            assert_eq!(Key::decode(&key.encode()), Some(key));
        }
        assert_eq!(Key::decode("/registry/core"), None);
        assert_eq!(Key::decode("meta"), None);
    }
}
