//! What an expression may use: variables, types of objects, and the libraries of a version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    admission,
    functions::{Library, Overload, overloads},
    schema::Declared,
    syntax::Dialect,
    types::{ObjectType, Type, signature},
};

/// The newest minor version of Kubernetes whose libraries are known.
pub const NEWEST: u32 = 37;

/// The libraries and since which minor version they are there.
const LIBRARIES: [(Library, u32); 16] = [
    (Library::Standard, 0),
    (Library::Strings, 0),
    (Library::Lists, 0),
    (Library::Regexes, 0),
    (Library::Urls, 0),
    (Library::Authorizer, 27),
    (Library::Optionals, 28),
    (Library::Quantities, 28),
    (Library::Sets, 29),
    (Library::Networks, 30),
    (Library::Formats, 31),
    (Library::Selectors, 31),
    (Library::TwoVariables, 32),
    (Library::Semver, 33),
    (Library::MoreLists, 34),
    (Library::Includes, 37),
];

/// An environment.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<String, Type>,
    objects: BTreeMap<String, Arc<ObjectType>>,
    libraries: u32,
    pub(crate) container: String,
    pub(crate) dialect: Dialect,
    /// Whether literals of lists and maps have to be of one type.
    pub(crate) homogeneous: bool,
}

impl Environment {
    /// That of Kubernetes 1.`minor`, without any variable.
    pub fn kubernetes(minor: u32) -> Environment {
        let enabled = LIBRARIES.iter().filter(|(_, since)| *since <= minor);
        let libraries = enabled.fold(0, |set, (library, _)| set | 1 << *library as u32);
        let has = |library: Library| libraries & (1 << library as u32) != 0;
        Environment {
            variables: BTreeMap::new(),
            objects: BTreeMap::new(),
            libraries,
            container: String::new(),
            dialect: Dialect {
                optional: has(Library::Optionals),
                two_variables: has(Library::TwoVariables),
                sort_by: has(Library::MoreLists),
                bind: false,
            },
            homogeneous: true,
        }
    }

    /// The language and its extensions as the specification tests them, without what Kubernetes forbids.
    pub fn specification(container: &str) -> Environment {
        let mut environment = Environment::kubernetes(NEWEST);
        environment.homogeneous = false;
        environment.dialect.bind = true;
        environment.container = container.to_owned();
        environment
    }

    /// With a variable of a type.
    #[must_use]
    pub fn with_variable(mut self, name: &str, of: Type) -> Environment {
        self.variables.insert(name.to_owned(), of);
        self
    }

    /// With a variable of a declared type.
    #[must_use]
    pub fn with_declared(self, name: &str, declared: &Declared) -> Environment {
        self.with_variable(name, declared.cel_type())
    }

    /// With an object that expressions can make by its name, and everything in it.
    #[must_use]
    pub fn with_object(mut self, declared: &Declared) -> Environment {
        let mut names = BTreeSet::new();
        self.add_object(declared, &mut names);
        self
    }

    fn add_object(&mut self, declared: &Declared, names: &mut BTreeSet<String>) {
        if let Some(item) = declared.item() {
            self.add_object(item, names);
        }
        let Some(of) = declared.object() else { return };
        if names.insert(of.name.clone()) {
            self.objects.insert(of.name.clone(), of.clone());
            for field in of.fields.values() {
                self.add_object(&field.declared, names);
            }
        }
    }

    pub(crate) fn with_library(mut self, library: Library) -> Environment {
        self.libraries |= 1 << library as u32;
        self
    }

    fn has(&self, library: Library) -> bool {
        self.libraries & (1 << library as u32) != 0
    }

    /// The ways to call a function, if there is such a function.
    pub(crate) fn function(&self, name: &str) -> Option<(&'static str, Vec<&'static Overload>)> {
        let (name, all) = overloads(name)?;
        let enabled: Vec<_> = all.iter().filter(|overload| self.has(overload.library)).collect();
        (!enabled.is_empty()).then_some((name, enabled))
    }

    pub(crate) fn object(&self, name: &str) -> Option<&Arc<ObjectType>> {
        self.objects.get(name)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    /// The type of a name that is one.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "string" => Type::String,
            "null_type" => Type::Null,
            "type" => Type::Type(None),
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "optional_type" if self.dialect.optional => Type::optional(Type::Dyn),
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            other => match self.object(other) {
                Some(of) => Type::Object(of.clone()),
                None if self.has(Library::JsonPatch) && admission::is_object(other) => {
                    Type::Object(Arc::new(admission::object_type(other)))
                }
                None => return signature::opaque(other),
            },
        })
    }

    /// The names that a name can stand for in the container, the most specific first.
    pub(crate) fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_prefix('.') {
            return vec![absolute.to_owned()];
        }
        let mut found = Vec::new();
        let mut container = self.container.as_str();
        while !container.is_empty() {
            found.push(format!("{container}.{name}"));
            container = container.rsplit_once('.').map_or("", |(outer, _)| outer);
        }
        found.push(name.to_owned());
        found
    }
}
