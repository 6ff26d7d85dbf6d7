//! Who serves which version of which group, in an order that clients are told. Whoever looks takes the whole and keeps it
//! while he looks; a change makes another.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use dray_machinery::object;
use serde_json::Value;

use super::automatic::{self, MANAGED};
use crate::{
    custom::by_priority,
    passage::dial::{self, Identity, Tls, Trust},
    server::Extension,
};

/// A version of a group, as an APIService registers it.
pub(crate) struct Registered {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// The specification that says so.
    pub(super) spec: Value,
    /// How this server looks after it; empty where it does not.
    pub(super) managed: String,
    /// Why its condition `Available` is as it is; empty where it has none.
    pub(super) reason: String,
    /// Who serves it, when this server does not.
    pub(crate) remote: Option<Remote>,
}

/// A server of others.
pub(crate) struct Remote {
    pub(super) place: Place,
    /// Whether it answered when it was looked at.
    pub(crate) is_available: bool,
}

/// Where a server of others is.
pub(super) enum Place {
    /// Behind a Service.
    Service(Behind),
    /// In this process.
    Here(Arc<dyn Extension>),
}

/// A Service, and how the server behind it is spoken with.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) namespace: String,
    pub(super) service: String,
    pub(super) port: u16,
    /// How TLS is spoken with it, or why it cannot be.
    pub(super) tls: Result<Tls, String>,
}

/// What an APIService is read with: who this server is to others, and what is in this process.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) extensions: &'a [Arc<dyn Extension>],
}

/// The condition `Available` of an APIService.
fn available(service: &Value) -> Option<&Value> {
    let mut conditions = service["status"]["conditions"].as_array()?.iter();
    conditions.find(|condition| condition["type"] == "Available")
}

impl Registered {
    fn read(name: &str, service: &Value, reader: Reader<'_>) -> Registered {
        let text = |field: &str| object::text(service, &["spec", field]).to_owned();
        let reference = &service["spec"]["service"];
        let remote = if reference.is_object() {
            Some(Remote::read(service, reader.identity))
        } else {
            let is_meant =
                |one: &&Arc<dyn Extension>| one.group() == text("group") && one.version() == text("version");
            let found = reader.extensions.iter().find(is_meant).cloned();
            found.map(|extension| Remote { place: Place::Here(extension), is_available: true })
        };
        Registered {
            name: name.to_owned(),
            group: text("group"),
            version: text("version"),
            spec: service["spec"].clone(),
            managed: service["metadata"]["labels"][MANAGED].as_str().unwrap_or_default().to_owned(),
            reason: available(service).map_or("", |one| object::text(one, &["reason"])).to_owned(),
            remote,
        }
    }

    /// Whether it is served outside of this process.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| matches!(remote.place, Place::Service(_)))
    }

    fn priority(&self, field: &str) -> i64 {
        self.spec[field].as_i64().unwrap_or_default()
    }
}

impl Remote {
    fn read(object: &Value, identity: &Identity) -> Remote {
        let spec = &object["spec"];
        let text = |field: &str| object::text(spec, &["service", field]).to_owned();
        let (namespace, service) = (text("namespace"), text("name"));
        let trust = if spec["insecureSkipTLSVerify"] == true {
            Trust::Anybody
        } else {
            Trust::Bundle(object::text(spec, &["caBundle"]))
        };
        let tls = dial::config(trust, Some(identity))
            .map(|config| Tls { name: format!("{service}.{namespace}.svc"), config });
        let port = spec["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let is_available = available(object).is_some_and(|one| one["status"] == "True");
        let behind = Behind { namespace, service, port: port.unwrap_or(443), tls };
        Remote { place: Place::Service(behind), is_available }
    }
}

/// Everything that is registered, by the name of the APIService.
#[derive(Clone, Default)]
pub(crate) struct Directory(BTreeMap<String, Arc<Registered>>);

/// A group, and its versions with the first the preferred one.
pub(crate) type Group<'a> = (&'a str, Vec<&'a str>);

impl Directory {
    pub(super) fn set(&mut self, name: &str, service: &Value, reader: Reader<'_>) {
        self.0.insert(name.to_owned(), Arc::new(Registered::read(name, service, reader)));
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Registered>> {
        self.0.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Registered>> {
        self.0.values()
    }

    /// What others serve.
    pub(crate) fn remotes(&self) -> impl Iterator<Item = (&Arc<Registered>, &Remote)> {
        self.0.values().filter_map(|registered| Some((registered, registered.remote.as_ref()?)))
    }

    /// A version of a group, when others serve it.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<&Arc<Registered>> {
        self.0.get(&format!("{version}.{group}")).filter(|registered| registered.remote.is_some())
    }

    /// How early a version, and its group, come.
    fn priority(&self, group: &str, version: &str) -> (i64, i64) {
        match self.0.get(&format!("{version}.{group}")) {
            Some(known) => (known.priority("groupPriorityMinimum"), known.priority("versionPriority")),
            None => automatic::priority(group, version),
        }
    }

    /// The groups that there are, and their versions, in the order that clients are told; `own` are those of this server.
    pub(crate) fn groups<'a>(&'a self, own: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Group<'a>> {
        let others = self.remotes().map(|(one, _)| (one.group.as_str(), one.version.as_str()));
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (group, version) in own.chain(others) {
            let versions = groups.entry(group).or_default();
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        let mut groups: Vec<(i64, Group<'_>)> = groups
            .into_iter()
            .map(|(group, mut versions)| {
                versions.sort_by(|one, two| {
                    let rank = |version: &str| Reverse(self.priority(group, version).1);
                    rank(one).cmp(&rank(two)).then_with(|| by_priority(one, two))
                });
                let first = versions.iter().map(|version| self.priority(group, version).0).max();
                (first.unwrap_or_default(), (group, versions))
            })
            .collect();
        // Those of the same rank stay in the order of their names.
        groups.sort_by_key(|(rank, _)| Reverse(*rank));
        groups.into_iter().map(|(_, group)| group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dray_machinery::kinds;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use serde_json::json;

    fn identity() -> Identity {
        let made = rcgen::generate_simple_self_signed(vec!["test".to_owned()]).unwrap();
        Identity {
            chain: vec![CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()],
            key: PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap(),
        }
    }

    fn registered(
        directory: &mut Directory,
        group: &str,
        version: &str,
        priorities: (i64, i64),
        others: bool,
    ) {
        let service = if others { json!({ "namespace": "n", "name": "s" }) } else { Value::Null };
        let spec = json!({
            "group": group, "version": version, "groupPriorityMinimum": priorities.0,
            "versionPriority": priorities.1, "service": service,
        });
        let (identity, extensions) = (identity(), &[]);
        let reader = Reader { identity: &identity, extensions };
        directory.set(&format!("{version}.{group}"), &json!({ "spec": spec }), reader);
    }

    #[test]
    fn groups_and_versions_come_by_their_priorities() {
        let mut directory = Directory::default();
        for (group, version, priorities, others) in [
            ("late.com", "v1", (100, 10), true),
            ("early.com", "v1alpha1", (17_650, 10), true),
            ("early.com", "v1", (100, 10), true),
            ("early.com", "v2beta1", (100, 20), true),
            ("widgets.com", "v1", (1000, 100), false),
            // This server serves it no more, though it is still said to.
            ("gone.com", "v1", (1000, 100), false),
        ] {
            registered(&mut directory, group, version, priorities, others);
        }
        let own = [
            ("widgets.com", "v1"),
            ("widgets.com", "v2"),
            ("another.com", "v1"),
            ("authorization.k8s.io", "v1"),
            ("authentication.k8s.io", "v1"),
        ];
        let found = directory.groups(own.into_iter());
        let expected = [
            ("authentication.k8s.io", vec!["v1"]),
            ("early.com", vec!["v2beta1", "v1", "v1alpha1"]),
            ("authorization.k8s.io", vec!["v1"]),
            ("another.com", vec!["v1"]),
            ("widgets.com", vec!["v2", "v1"]),
            ("late.com", vec!["v1"]),
        ];
        assert_eq!(found, expected);
        assert!(directory.remote("late.com", "v1").is_some());
        assert!(directory.remote("widgets.com", "v1").is_none());
    }

    #[test]
    fn groups_of_this_server_come_in_the_order_of_the_reference() {
        let directory = Directory::default();
        let own = kinds::all().iter().map(|kind| (kind.group, kind.version));
        let mut rows: Vec<&str> = kinds::all().iter().map(|kind| kind.group).collect();
        rows.dedup();
        let found: Vec<&str> = directory.groups(own).into_iter().map(|(group, _)| group).collect();
        // The rows have the oldest group first, and the king of groups second.
        let found: Vec<&str> = found.into_iter().filter(|group| *group != super::super::GROUP).collect();
        rows.retain(|group| *group != super::super::GROUP);
        assert_eq!(found, rows);
    }
}
