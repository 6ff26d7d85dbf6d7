//! What says which pods belong together: Services, and the controllers of pods. Pods that say nothing about spreading
//! are spread by it.

use std::collections::{BTreeMap, HashMap};

use crate::ask::Ask;
use crate::selector::{Labels, Selector};

/// Services by namespace and name, controllers by uid.
#[derive(Debug, Default)]
pub(crate) struct Workloads {
    services: HashMap<String, BTreeMap<String, Labels>>,
    controllers: HashMap<String, Selector>,
}

impl Workloads {
    pub(crate) fn apply_service(&mut self, namespace: &str, name: &str, selector: Labels) {
        self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), selector);
    }

    pub(crate) fn remove_service(&mut self, namespace: &str, name: &str) {
        if let Some(services) = self.services.get_mut(namespace) {
            services.remove(name);
            if services.is_empty() {
                self.services.remove(namespace);
            }
        }
    }

    pub(crate) fn apply_controller(&mut self, uid: &str, selector: Selector) {
        self.controllers.insert(uid.to_owned(), selector);
    }

    pub(crate) fn remove_controller(&mut self, uid: &str) {
        self.controllers.remove(uid);
    }

    /// What takes the pods that belong to a pod; it is empty if it belongs to nothing.
    pub(crate) fn siblings(&self, ask: &Ask) -> Selector {
        let labels = &ask.occupant.labels;
        let mut merged = Labels::new();
        for selector in self.services.get(ask.namespace()).into_iter().flat_map(BTreeMap::values) {
            let takes = selector.iter().all(|(key, value)| labels.get(key) == Some(value));
            if takes && !selector.is_empty() {
                merged.extend(selector.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        let mut selector = Selector::of(merged.iter());
        if let Some(controller) = self.controllers.get(ask.pod.owner()) {
            selector.extend(controller);
        }
        selector
    }
}
