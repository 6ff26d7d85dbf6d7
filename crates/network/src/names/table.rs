//! The names of containers, by network.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use super::{Answer, Question, Record, RecordData, RecordKind, Zone};

/// Short: a container that is started again may have another address.
const TIME_TO_LIVE: Duration = Duration::from_secs(10);

/// The names of every network; one for a daemon.
#[derive(Debug, Default)]
pub struct Names {
    networks: RwLock<HashMap<String, Network>>,
}

#[derive(Debug, Default)]
struct Network {
    /// What `name.NETWORK` is looked up by.
    label: String,
    internal: bool,
    addresses: HashMap<String, BTreeSet<IpAddr>>,
    pointers: HashMap<IpAddr, String>,
}

impl Names {
    /// No names.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a network by its id; `label` is its name, for `container.network`. From an internal network
    /// no question leaves the host (CVE-2024-29018).
    pub fn add_network(&self, network: &str, label: &str, internal: bool) {
        let mut networks = self.networks.write();
        let entry = networks.entry(network.to_owned()).or_default();
        entry.label = label.to_ascii_lowercase();
        entry.internal = internal;
    }

    /// Forgets a network and its names.
    pub fn remove_network(&self, network: &str) {
        self.networks.write().remove(network);
    }

    /// Adds the names of an address; the first is the one the address is shown by.
    pub fn add(&self, network: &str, address: IpAddr, names: &[String]) {
        let mut networks = self.networks.write();
        let network = networks.entry(network.to_owned()).or_default();
        for name in names {
            network.addresses.entry(name.to_ascii_lowercase()).or_default().insert(address);
        }
        if let Some(first) = names.first() {
            network.pointers.insert(address, first.clone());
        }
    }

    /// Forgets every name of an address.
    pub fn remove(&self, network: &str, address: IpAddr) {
        if let Some(network) = self.networks.write().get_mut(network) {
            network.addresses.retain(|_, addresses| {
                addresses.remove(&address);
                !addresses.is_empty()
            });
            network.pointers.remove(&address);
        }
    }

    /// What a container sees that is on these networks, by their ids.
    pub fn view(self: &Arc<Self>, networks: Vec<String>) -> Arc<View> {
        Arc::new(View {
            names: self.clone(),
            networks: RwLock::new(networks),
            aliases: RwLock::default(),
            turn: AtomicUsize::new(0),
        })
    }
}

/// The names that one container can see.
#[derive(Debug)]
pub struct View {
    names: Arc<Names>,
    networks: RwLock<Vec<String>>,
    /// Names that only this container has, and what everybody calls those.
    aliases: RwLock<HashMap<String, String>>,
    /// Several addresses of a name are given in turn.
    turn: AtomicUsize,
}

impl View {
    /// Changes the networks the container is on.
    pub fn set_networks(&self, networks: Vec<String>) {
        *self.networks.write() = networks;
    }

    /// Sets the names, in lower case, that this container alone has for others.
    pub fn set_aliases(&self, aliases: HashMap<String, String>) {
        *self.aliases.write() = aliases;
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let aliases = self.aliases.read();
        let name = aliases.get(name).map_or(name, String::as_str);
        let networks = self.names.networks.read();
        for id in self.networks.read().iter() {
            let Some(network) = networks.get(id) else { continue };
            let qualified = || name.strip_suffix(network.label.as_str())?.strip_suffix('.');
            let found = network.addresses.get(name).or_else(|| network.addresses.get(qualified()?));
            if let Some(addresses) = found {
                return addresses.iter().copied().collect();
            }
        }
        Vec::new()
    }

    fn pointer(&self, address: IpAddr) -> Option<String> {
        let networks = self.names.networks.read();
        self.networks.read().iter().find_map(|id| {
            let network = networks.get(id)?;
            Some(format!("{}.{}", network.pointers.get(&address)?, network.label))
        })
    }

    /// A container that is on internal networks only asks nobody outside.
    fn unknown(&self) -> Answer {
        let networks = self.names.networks.read();
        let own = self.networks.read();
        let mut own = own.iter().filter_map(|id| networks.get(id)).peekable();
        if own.peek().is_some() && own.all(|network| network.internal) {
            Answer::Failed
        } else {
            Answer::Forward
        }
    }
}

impl Zone for View {
    fn answer(&self, question: &Question) -> Answer {
        let record = |data| Record { name: question.name.clone(), time_to_live: TIME_TO_LIVE, data };
        if let Some(address) = question.reverse_address() {
            return match (self.pointer(address), question.kind) {
                (Some(name), RecordKind::Ptr | RecordKind::Any) => {
                    Answer::records(vec![record(RecordData::Pointer(name))])
                }
                (Some(_), _) => Answer::records(Vec::new()),
                (None, _) => self.unknown(),
            };
        }
        let addresses = self.addresses(&question.name);
        if addresses.is_empty() {
            return self.unknown();
        }
        let mut answers: Vec<_> = addresses
            .into_iter()
            .filter(|address| match question.kind {
                RecordKind::A => address.is_ipv4(),
                RecordKind::Aaaa => address.is_ipv6(),
                RecordKind::Any => true,
                _ => false,
            })
            .map(|address| record(RecordData::Address(address)))
            .collect();
        if answers.len() > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len();
            answers.rotate_left(turn);
        }
        Answer::records(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(view: &View, name: &str, kind: RecordKind) -> Answer {
        view.answer(&Question { name: name.to_owned(), kind, client: ([127, 0, 0, 1], 1).into() })
    }

    fn texts(answer: Answer) -> Vec<String> {
        match answer {
            Answer::Records { answers, .. } => answers
                .into_iter()
                .map(|record| match record.data {
                    RecordData::Address(address) => address.to_string(),
                    RecordData::Pointer(name) => name,
                    other => panic!("{other:?}"),
                })
                .collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn a_container_sees_its_networks_only() {
        let names = Names::new();
        names.add_network("n1", "front", false);
        names.add_network("n2", "back", true);
        names.add("n1", [10, 0, 0, 2].into(), &["Web".to_owned(), "alias".to_owned()]);
        names.add("n1", [10, 0, 0, 3].into(), &["other".to_owned(), "alias".to_owned()]);
        names.add("n2", [10, 1, 0, 2].into(), &["db".to_owned()]);
        let front = names.view(vec!["n1".to_owned()]);
        assert_eq!(texts(ask(&front, "web", RecordKind::A)), ["10.0.0.2"]);
        assert_eq!(texts(ask(&front, "web.front", RecordKind::A)), ["10.0.0.2"]);
        assert_eq!(
            texts(ask(&front, "web", RecordKind::Aaaa)),
            Vec::<String>::new(),
            "no data, but the name exists"
        );
        assert_eq!(texts(ask(&front, "2.0.0.10.in-addr.arpa", RecordKind::Ptr)), ["Web.front"]);
        let mut first: Vec<_> =
            (0..2).map(|_| texts(ask(&front, "alias", RecordKind::A))[0].clone()).collect();
        first.sort();
        assert_eq!(first, ["10.0.0.2", "10.0.0.3"], "in turn");
        assert_eq!(ask(&front, "db", RecordKind::A), Answer::Forward);
        front.set_aliases([("mine".to_owned(), "web".to_owned())].into());
        assert_eq!(texts(ask(&front, "mine", RecordKind::A)), ["10.0.0.2"], "a link");
        let back = names.view(vec!["n2".to_owned()]);
        assert_eq!(ask(&back, "example.com", RecordKind::A), Answer::Failed, "cve_2024_29018");
        back.set_networks(vec!["n2".to_owned(), "n1".to_owned()]);
        assert_eq!(ask(&back, "example.com", RecordKind::A), Answer::Forward);
        names.remove("n1", [10, 0, 0, 2].into());
        assert_eq!(ask(&front, "web", RecordKind::A), Answer::Forward);
        assert_eq!(texts(ask(&front, "alias", RecordKind::A)), ["10.0.0.3"]);
        names.remove_network("n1");
        assert_eq!(ask(&front, "alias", RecordKind::A), Answer::Forward);
    }
}
