//! What is asked for.

use std::fmt;

/// What a request asks for: a verb on a resource, or on a path that is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The verb, as "list" of a resource or "get" of a path.
    pub verb: &'a str,
    /// The group; empty for the core group.
    pub group: &'a str,
    /// The resource's plural name; empty when a path is asked for.
    pub resource: &'a str,
    /// The subresource; empty for the resource itself.
    pub subresource: &'a str,
    /// The namespace; empty for all, and where there are none.
    pub namespace: &'a str,
    /// The object's name; empty for a collection.
    pub name: &'a str,
    /// The field selector; empty for none.
    pub fields: &'a str,
    /// The path, when no resource is asked for.
    pub path: &'a str,
}

impl<'a> Attributes<'a> {
    /// A verb on a path that is no resource.
    pub fn path(verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes { verb, path, ..Attributes::default() }
    }

    /// Whether a resource is asked for.
    pub fn is_resource(&self) -> bool {
        self.path.is_empty()
    }

    /// "pods", or "pods/log".
    pub fn qualified(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// In the words of a refusal, after "cannot".
impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_resource() {
            return write!(f, "{} path {:?}", self.verb, self.path);
        }
        write!(f, "{} resource {:?} in API group {:?}", self.verb, self.qualified(), self.group)?;
        if self.namespace.is_empty() {
            f.write_str(" at the cluster scope")
        } else {
            write!(f, " in the namespace {:?}", self.namespace)
        }
    }
}
