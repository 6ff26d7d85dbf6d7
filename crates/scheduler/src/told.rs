//! What is told of objects that are neither pods nor nodes becomes part of the picture.

use crate::hints::Event;
use crate::objects::{Fact, Identity, Kind, Told};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Takes over what is told of objects that are neither pods nor nodes.
    pub(crate) fn told(&mut self, told: Told) {
        let (kind, identity, fact) = match told {
            Told::Complete(kind) => {
                self.complete.insert(kind);
                return;
            }
            Told::Is(kind, identity, fact) => (kind, identity, Some(fact)),
            Told::Gone(kind, identity) => (kind, identity, None),
        };
        let Identity { namespace, name, uid } = identity;
        match (kind, fact) {
            (_, Some(Fact::Namespace(labels))) => {
                let old = self.picture.namespaces.insert(name, labels.clone());
                if old.as_ref() == Some(&labels) {
                    return;
                }
            }
            (_, Some(Fact::Service(selector))) => {
                self.picture.workloads.apply_service(&namespace, &name, selector);
            }
            (_, Some(Fact::Controller(selector))) => self.picture.workloads.apply_controller(&uid, selector),
            (_, Some(Fact::Budget(budget))) => {
                self.budgets.entry(namespace).or_default().insert(name, budget);
            }
            (_, Some(Fact::Claim(claim))) => {
                self.picture.volumes.claims.insert((namespace, name), *claim);
            }
            (_, Some(Fact::Volume(volume))) => {
                self.picture.volumes.volumes.insert(name, *volume);
            }
            (_, Some(Fact::Class(class))) => {
                self.picture.volumes.classes.insert(name, class);
            }
            (_, Some(Fact::Limits(limits))) => {
                self.picture.volumes.limits.insert(name, limits);
            }
            (_, Some(Fact::DeviceClaim(claim))) => {
                let key = (namespace, name);
                if claim.allocation.is_some() {
                    self.picture.devices.promised.remove(&key);
                }
                self.picture.devices.claims.insert(key, claim);
            }
            (_, Some(Fact::DeviceClass(class))) => {
                self.picture.devices.classes.insert(name, class);
            }
            (_, Some(Fact::DeviceSlice(slice))) => {
                self.picture.devices.slices.insert(name, *slice);
            }
            (Kind::DeviceClaim, None) => {
                let key = (namespace, name);
                self.picture.devices.claims.remove(&key);
                self.picture.devices.promised.remove(&key);
            }
            (Kind::DeviceClass, None) => {
                self.picture.devices.classes.remove(&name);
            }
            (Kind::DeviceSlice, None) => {
                self.picture.devices.slices.remove(&name);
            }
            (Kind::Claim, None) => {
                self.picture.volumes.claims.remove(&(namespace, name));
            }
            (Kind::Volume, None) => {
                self.picture.volumes.volumes.remove(&name);
            }
            (Kind::Class, None) => {
                self.picture.volumes.classes.remove(&name);
            }
            (Kind::NodeDrivers, None) => {
                self.picture.volumes.limits.remove(&name);
            }
            (Kind::Namespace, None) => {
                self.picture.namespaces.remove(&name);
            }
            (Kind::Service, None) => self.picture.workloads.remove_service(&namespace, &name),
            (Kind::ReplicationController | Kind::ReplicaSet | Kind::StatefulSet, None) => {
                self.picture.workloads.remove_controller(&uid);
            }
            (Kind::DisruptionBudget, None) => {
                if let Some(budgets) = self.budgets.get_mut(&namespace) {
                    budgets.remove(&name);
                    if budgets.is_empty() {
                        self.budgets.remove(&namespace);
                    }
                }
            }
        }
        if kind == Kind::Claim {
            self.waiters.values_mut().for_each(|waiter| waiter.look(&self.picture.volumes));
        }
        self.wake(Event::Other(kind));
    }
}
