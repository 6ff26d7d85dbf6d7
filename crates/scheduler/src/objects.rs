//! The other kinds as the scheduler needs them, and what it is told of them: that one is so, or gone, or that a whole
//! list has come. It must not know what is made of it.

use std::collections::{BTreeMap, HashMap};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::device_objects;
use crate::devices::{DeviceClaim, DeviceClass, Slice};
use crate::model::resource;
use crate::selector::{Labels, Selector};
use crate::storage;
use crate::volumes::{Claim, Class, Volume};

/// Which object something is said of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// What is followed besides pods and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Namespace,
    Service,
    ReplicationController,
    ReplicaSet,
    StatefulSet,
    DisruptionBudget,
    Claim,
    Volume,
    Class,
    NodeDrivers,
    DeviceClaim,
    DeviceClass,
    DeviceSlice,
}

/// All of it.
pub(crate) const KINDS: [Kind; 13] = [
    Kind::Namespace,
    Kind::Service,
    Kind::ReplicationController,
    Kind::ReplicaSet,
    Kind::StatefulSet,
    Kind::DisruptionBudget,
    Kind::Claim,
    Kind::Volume,
    Kind::Class,
    Kind::NodeDrivers,
    Kind::DeviceClaim,
    Kind::DeviceClass,
    Kind::DeviceSlice,
];

/// What an object says.
#[derive(Debug)]
pub(crate) enum Fact {
    Namespace(Labels),
    Service(Labels),
    Controller(Selector),
    Budget(Budget),
    Claim(Box<Claim>),
    Volume(Box<Volume>),
    Class(Class),
    /// How many volumes each driver may attach to a node.
    Limits(BTreeMap<String, i64>),
    DeviceClaim(Box<DeviceClaim>),
    DeviceClass(DeviceClass),
    DeviceSlice(Box<Slice>),
}

/// One thing that is told.
#[derive(Debug)]
pub(crate) enum Told {
    Is(Kind, Identity, Fact),
    Gone(Kind, Identity),
    /// A whole list of a kind has come.
    Complete(Kind),
}

/// How many pods may be taken away.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    pub(crate) selector: Selector,
    pub(crate) allowed: i64,
    /// Names of pods that are on their way out, and have been counted.
    pub(crate) leaving: Vec<String>,
}

macro_rules! object {
    ($name:ident, $group:literal, $version:literal, $plural:literal, $scope:ty, { $($field:ident: $type:ty),* }) => {
        #[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub(crate) struct $name {
            #[serde(deserialize_with = "crate::model::lean_metadata")]
            metadata: ObjectMeta,
            $($field: $type,)*
        }

        // The name of the type is that of the kind.
        resource!($name, $group, $version, stringify!($name), $plural, $scope);
    };
}

pub(crate) use object;

object!(Namespace, "", "v1", "namespaces", ClusterResourceScope, {});
object!(Service, "", "v1", "services", NamespaceResourceScope, { spec: PlainSelector });
object!(ReplicationController, "", "v1", "replicationcontrollers", NamespaceResourceScope, { spec: PlainSelector });
object!(ReplicaSet, "apps", "apps/v1", "replicasets", NamespaceResourceScope, { spec: FullSelector });
object!(StatefulSet, "apps", "apps/v1", "statefulsets", NamespaceResourceScope, { spec: FullSelector });
object!(PodDisruptionBudget, "policy", "policy/v1", "poddisruptionbudgets", NamespaceResourceScope, {
    spec: FullSelector, status: BudgetStatus
});

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PlainSelector {
    selector: Option<Labels>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FullSelector {
    selector: Option<LabelSelector>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct BudgetStatus {
    disruptions_allowed: i64,
    disrupted_pods: HashMap<String, Time>,
}

/// Everything that is told of all [`KINDS`].
pub(crate) fn follow(client: &Client) -> impl stream::Stream<Item = Told> + Unpin + Send + use<> {
    let all = KINDS.iter().map(|kind| match kind {
        Kind::Namespace => one(client, *kind, |object: Namespace| {
            Fact::Namespace(object.metadata.labels.unwrap_or_default())
        }),
        Kind::Service => {
            one(client, *kind, |object: Service| Fact::Service(object.spec.selector.unwrap_or_default()))
        }
        Kind::ReplicationController => one(client, *kind, |object: ReplicationController| {
            Fact::Controller(Selector::of(object.spec.selector.unwrap_or_default().iter()))
        }),
        Kind::ReplicaSet => one(client, *kind, |object: ReplicaSet| {
            Fact::Controller(Selector::new(object.spec.selector.as_ref()))
        }),
        Kind::StatefulSet => one(client, *kind, |object: StatefulSet| {
            Fact::Controller(Selector::new(object.spec.selector.as_ref()))
        }),
        Kind::Claim => one(client, *kind, storage::claim),
        Kind::Volume => one(client, *kind, storage::volume),
        Kind::Class => one(client, *kind, storage::class),
        Kind::NodeDrivers => one(client, *kind, storage::limits),
        Kind::DeviceClaim => one(client, *kind, device_objects::claim),
        Kind::DeviceClass => one(client, *kind, device_objects::class),
        Kind::DeviceSlice => one(client, *kind, device_objects::slice),
        Kind::DisruptionBudget => one(client, *kind, |object: PodDisruptionBudget| {
            Fact::Budget(Budget {
                selector: Selector::new(object.spec.selector.as_ref()),
                allowed: object.status.disruptions_allowed,
                leaving: object.status.disrupted_pods.into_keys().collect(),
            })
        }),
    });
    stream::select_all(all)
}

/// What is told of one kind.
fn one<K>(client: &Client, kind: Kind, read: fn(K) -> Fact) -> BoxStream<'static, Told>
where
    K: kube::Resource<DynamicType = ()>
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let config = watcher::Config::default().streaming_lists();
    let events = watch(Api::<K>::all(client.clone()), config).default_backoff();
    let mut known = Known::default();
    events.flat_map(move |event| stream::iter(known.read(kind, event, read))).boxed()
}

/// Which objects of a kind there are, so that those that a new list does not bring are told to be gone.
#[derive(Default)]
struct Known {
    all: HashMap<(String, String), String>,
    /// While a list comes, those that it has not brought.
    missing: Option<HashMap<(String, String), String>>,
}

impl Known {
    fn read<K: k8s_openapi::Metadata<Ty = ObjectMeta>>(
        &mut self,
        kind: Kind,
        event: watcher::Result<Event<K>>,
        read: fn(K) -> Fact,
    ) -> Vec<Told> {
        let identify = |object: &K| {
            let metadata = object.metadata();
            Identity {
                namespace: metadata.namespace.clone().unwrap_or_default(),
                name: metadata.name.clone().unwrap_or_default(),
                uid: metadata.uid.clone().unwrap_or_default(),
            }
        };
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let identity = identify(&object);
                let key = (identity.namespace.clone(), identity.name.clone());
                if let Some(missing) = &mut self.missing {
                    missing.remove(&key);
                }
                self.all.insert(key, identity.uid.clone());
                vec![Told::Is(kind, identity, read(object))]
            }
            Ok(Event::Delete(object)) => {
                let identity = identify(&object);
                self.all.remove(&(identity.namespace.clone(), identity.name.clone()));
                vec![Told::Gone(kind, identity)]
            }
            Ok(Event::Init) => {
                self.missing = Some(self.all.clone());
                Vec::new()
            }
            Ok(Event::InitDone) => {
                let missing = self.missing.take().unwrap_or_default();
                let gone = missing.into_iter().map(|((namespace, name), uid)| {
                    self.all.remove(&(namespace.clone(), name.clone()));
                    Told::Gone(kind, Identity { namespace, name, uid })
                });
                let mut told: Vec<Told> = gone.collect();
                told.push(Told::Complete(kind));
                told
            }
            // The stream tries again by itself, with growing pauses.
            Err(error) => {
                tracing::warn!(?kind, %error, "watching failed");
                Vec::new()
            }
        }
    }
}
