//! Pods whose volumes are somewhere, or are yet to be: the test is the controller that binds them.

use crate::support::{Cluster, cluster, message, size, when};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

fn using(claim: &str) -> Value {
    json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] })
}

impl Cluster {
    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::default_namespaced(self.client.clone())
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    async fn class(&self, name: &str, provisioner: &str, mode: &str) {
        let class =
            json!({ "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode });
        let class: StorageClass = serde_json::from_value(class).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &class).await.unwrap();
    }

    async fn claim(&self, name: &str, class: &str) {
        let claim = json!({ "metadata": { "name": name }, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } } } });
        let claim = serde_json::from_value(claim).unwrap();
        self.claims().create(&PostParams::default(), &claim).await.unwrap();
    }

    async fn volume(&self, name: &str, class: &str, node: &str) {
        let volume = json!({ "metadata": { "name": name }, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" },
            "hostPath": { "path": "/srv" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [node] }] }] } } } });
        let volume = serde_json::from_value(volume).unwrap();
        self.volumes().create(&PostParams::default(), &volume).await.unwrap();
        let available = Patch::Merge(json!({ "status": { "phase": "Available" } }));
        self.volumes().patch_status(name, &PatchParams::default(), &available).await.unwrap();
    }

    /// What the controller does that binds volumes.
    async fn bind(&self, claim: &str, volume: &str) {
        let bound = Patch::Merge(json!({
            "metadata": { "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
            "spec": { "volumeName": volume } }));
        self.claims().patch(claim, &PatchParams::default(), &bound).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_wait_get_a_volume_that_is_there_and_their_pod_its_node() {
    let cluster = cluster().await;
    for name in ["one", "two"] {
        cluster.node(name, json!({}), size("4")).await;
    }
    cluster.pod("a", using("late")).await;
    let preempting = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(
        cluster.refusal_of("a").await,
        format!("0/2 nodes are available: persistentvolumeclaim \"late\" not found. {preempting}")
    );
    cluster.class("late", "kubernetes.io/no-provisioner", "WaitForFirstConsumer").await;
    cluster.claim("late", "late").await;
    let nothing = format!(
        "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. {preempting}"
    );
    cluster.pod_when("a", |pod| message(pod).as_ref() == Some(&nothing)).await;
    cluster.volume("v", "late", "two").await;
    let is_given = |volume: &PersistentVolume| {
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        claim.is_some_and(|claim| claim.name.as_deref() == Some("late") && claim.uid.is_some())
    };
    when(&cluster.volumes(), "v", is_given).await;
    let pod = cluster.pods().get("a").await.unwrap();
    assert_eq!(pod.spec.unwrap().node_name, None);
    cluster.bind("late", "v").await;
    assert_eq!(cluster.node_of("a").await, "two");
    // Another pod of the claim has to go where the volume is.
    cluster.pod("b", using("late")).await;
    assert_eq!(cluster.node_of("b").await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_made_where_a_pod_is_to_be_and_elsewhere_if_that_fails() {
    let cluster = cluster().await;
    cluster.node("one", json!({}), size("4")).await;
    cluster.class("made", "example.com/disk", "WaitForFirstConsumer").await;
    cluster.claim("made", "made").await;
    cluster.pod("a", using("made")).await;
    const SELECTED: &str = "volume.kubernetes.io/selected-node";
    let node = |claim: &PersistentVolumeClaim| claim.metadata.annotations.as_ref()?.get(SELECTED).cloned();
    when(&cluster.claims(), "made", |claim| node(claim).as_deref() == Some("one")).await;
    // Whoever makes volumes cannot make one there.
    cluster.node("two", json!({}), size("8")).await;
    let cordon = Patch::Merge(json!({ "spec": { "unschedulable": true } }));
    let nodes = Api::<k8s_openapi::api::core::v1::Node>::all(cluster.client.clone());
    nodes.patch("one", &PatchParams::default(), &cordon).await.unwrap();
    let taken_back = Patch::Merge(json!({ "metadata": { "annotations": { SELECTED: null } } }));
    cluster.claims().patch("made", &PatchParams::default(), &taken_back).await.unwrap();
    when(&cluster.claims(), "made", |claim| node(claim).as_deref() == Some("two")).await;
    cluster.volume("v", "made", "two").await;
    cluster.bind("made", "v").await;
    assert_eq!(cluster.node_of("a").await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_do_not_wait_have_to_be_bound_first() {
    let cluster = cluster().await;
    cluster.node("one", json!({}), size("4")).await;
    cluster.class("now", "example.com/disk", "Immediate").await;
    cluster.claim("now", "now").await;
    cluster.pod("a", using("now")).await;
    assert_eq!(
        cluster.refusal_of("a").await,
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes are \
         available: 1 Preemption is not helpful for scheduling."
    );
    cluster.volume("v", "now", "one").await;
    cluster.bind("now", "v").await;
    assert_eq!(cluster.node_of("a").await, "one");
}
