//! Claims and volumes against the real API server, in the same process.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use support::{Cluster, NODE, gone, merge, when};

struct Storage {
    cluster: Cluster,
    claims: Api<PersistentVolumeClaim>,
    volumes: Api<PersistentVolume>,
    classes: Api<StorageClass>,
}

async fn storage() -> Storage {
    let cluster = support::cluster().await;
    let all = || cluster.client.clone();
    let node: Node = serde_json::from_value(
        json!({ "metadata": { "name": NODE, "labels": { "kubernetes.io/hostname": "here.example" } } }),
    )
    .unwrap();
    Api::<Node>::all(all()).create(&PostParams::default(), &node).await.unwrap();
    let (claims, volumes, classes) = (Api::default_namespaced(all()), Api::all(all()), Api::all(all()));
    when(&classes, "local-path", "the class", |_| true).await;
    Storage { cluster, claims, volumes, classes }
}

impl Storage {
    async fn claim(&self, name: &str, spec: Value) -> PersistentVolumeClaim {
        let mut claim = json!({
            "metadata": { "name": name },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } },
            },
        });
        merge(&mut claim["spec"], spec);
        self.cluster.create(claim).await
    }

    async fn volume(&self, name: &str, spec: Value) -> PersistentVolume {
        let mut volume = json!({
            "metadata": { "name": name },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" },
                "hostPath": { "path": "/tmp/volume" },
            },
        });
        merge(&mut volume["spec"], spec);
        let volume = serde_json::from_value(volume).unwrap();
        self.volumes.create(&PostParams::default(), &volume).await.unwrap()
    }

    async fn class(&self, change: Value) {
        let class = serde_json::from_value(change).unwrap();
        self.classes.create(&PostParams::default(), &class).await.unwrap();
    }

    async fn bound(&self, name: &str) -> PersistentVolumeClaim {
        when(&self.claims, name, "its volume", |claim| claim_phase(claim) == "Bound").await
    }

    async fn phase(&self, name: &str, phase: &str) -> PersistentVolume {
        when(&self.volumes, name, phase, |volume| {
            volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase)
        })
        .await
    }

    async fn patch_claim(&self, name: &str, patch: Value) {
        self.claims.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Does what the scheduler does for the first pod of a claim.
    async fn select_node(&self, name: &str, node: &str) {
        let annotations = json!({ "volume.kubernetes.io/selected-node": node });
        self.patch_claim(name, json!({ "metadata": { "annotations": annotations } })).await;
    }
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn volume_name(claim: &PersistentVolumeClaim) -> String {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default()
}

fn held(claim: &PersistentVolumeClaim) -> String {
    claim.status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_gets_the_smallest_volume_that_fits() {
    let storage = storage().await;
    storage.volume("large", json!({ "capacity": { "storage": "10Gi" } })).await;
    storage.volume("small", json!({})).await;
    storage.phase("large", "Available").await;
    storage.phase("small", "Available").await;
    storage.claim("data", json!({ "storageClassName": "" })).await;
    let claim = storage.bound("data").await;
    assert_eq!((volume_name(&claim).as_str(), held(&claim).as_str()), ("small", "2Gi"));
    assert_eq!(claim.annotations()["pv.kubernetes.io/bind-completed"], "yes");
    assert_eq!(claim.annotations()["pv.kubernetes.io/bound-by-controller"], "yes");
    let volume = storage.phase("small", "Bound").await;
    assert_eq!(volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid, claim.metadata.uid);
    assert!(volume.status.unwrap().last_phase_transition_time.is_some());

    // Two that want the same: one gets the other volume, and nobody gets one that is taken.
    for name in ["one", "two"] {
        storage.claim(name, json!({ "storageClassName": "" })).await;
    }
    storage.cluster.event("FailedBinding", "no persistent volumes available for this claim").await;
    storage.volume("another", json!({})).await;
    let (one, two) = (storage.bound("one").await, storage.bound("two").await);
    let mut names = [volume_name(&one), volume_name(&two)];
    names.sort();
    assert_eq!(names, ["another", "large"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_the_other_first_is_bound_to_it() {
    let storage = storage().await;
    let kept = json!({ "claimRef": { "namespace": "default", "name": "later" }, "storageClassName": "x" });
    storage.volume("kept", kept).await;
    storage.phase("kept", "Available").await;
    storage.claim("greedy", json!({ "storageClassName": "x", "volumeName": "kept" })).await;
    storage.cluster.event("FailedBinding", "volume \"kept\" already bound to a different claim.").await;
    storage.claim("later", json!({ "storageClassName": "x" })).await;
    assert_eq!(volume_name(&storage.bound("later").await), "kept");
    let volume = storage.phase("kept", "Bound").await;
    assert!(!volume.annotations().contains_key("pv.kubernetes.io/bound-by-controller"));

    storage.claim("asks", json!({ "storageClassName": "", "volumeName": "named" })).await;
    storage.volume("named", json!({ "capacity": { "storage": "1Mi" } })).await;
    storage.cluster.event("VolumeMismatch", "requested PV is too small").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_of_a_volume_without_its_claim() {
    let storage = storage().await;
    for (name, policy) in [("keep", "Retain"), ("drop", "Delete"), ("clean", "Recycle")] {
        let spec = json!({ "persistentVolumeReclaimPolicy": policy, "storageClassName": name });
        storage.volume(name, spec).await;
        storage.claim(name, json!({ "storageClassName": name })).await;
        storage.bound(name).await;
        storage.claims.delete(name, &DeleteParams::default()).await.unwrap();
        gone(&storage.claims, name).await;
    }
    storage.phase("keep", "Released").await;
    let failed = storage.phase("drop", "Failed").await;
    assert!(failed.status.unwrap().message.unwrap().contains("no deletable volume plugin matched"));
    storage.phase("clean", "Failed").await;
    storage.cluster.event("VolumeFailedRecycle", "No recycler plugin found for the volume!").await;
    // Whoever has looked after it gives it back.
    let free = Patch::Merge(json!({ "spec": { "claimRef": null } }));
    storage.volumes.patch("keep", &PatchParams::default(), &free).await.unwrap();
    storage.phase("keep", "Available").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_volume_is_gone_is_lost() {
    let storage = storage().await;
    storage.volume("v", json!({})).await;
    storage.claim("data", json!({ "storageClassName": "" })).await;
    storage.bound("data").await;
    storage.volumes.delete("v", &DeleteParams::default()).await.unwrap();
    let volume = storage.volumes.get("v").await.unwrap();
    assert_eq!(volume.finalizers(), ["kubernetes.io/pv-protection"]);
    let force = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    storage.volumes.patch("v", &PatchParams::default(), &force).await.unwrap();
    let claim = when(&storage.claims, "data", "its loss", |claim| claim_phase(claim) == "Lost").await;
    assert_eq!(claim.status.unwrap().capacity, None);
    storage.cluster.event("ClaimLost", "Bound claim has lost its PersistentVolume.").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_is_made_for_the_first_pod_and_removed_with_the_claim() {
    let storage = storage().await;
    storage.claim("data", json!({})).await;
    let event = storage.cluster.event("WaitForFirstConsumer", "waiting for first consumer").await;
    assert_eq!(event.source.unwrap().component.as_deref(), Some("persistentvolume-controller"));
    assert_eq!(
        storage.claims.get("data").await.unwrap().spec.unwrap().storage_class_name.unwrap(),
        "local-path"
    );
    storage.select_node("data", NODE).await;
    let claim = storage.bound("data").await;
    assert_eq!(claim.annotations()["volume.kubernetes.io/storage-provisioner"], "dray.io/local-path");
    let name = format!("pvc-{}", claim.uid().unwrap());
    assert_eq!(volume_name(&claim), name);
    let directory = storage.cluster.directory().join("volumes").join(&name);
    assert!(directory.is_dir());
    let volume = storage.phase(&name, "Bound").await;
    let spec = volume.spec.as_ref().unwrap();
    assert_eq!(spec.host_path.as_ref().unwrap().path, directory.to_str().unwrap());
    let affinity = serde_json::to_value(&spec.node_affinity).unwrap();
    let values = &affinity["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"];
    assert_eq!(values, &json!(["here.example"]));
    storage.cluster.event("ProvisioningSucceeded", &format!("Successfully provisioned volume {name}")).await;

    // A volume that is deleted before its claim goes after it, and so does what it holds.
    std::fs::write(directory.join("file"), "data").unwrap();
    storage.volumes.delete(&name, &DeleteParams::default()).await.unwrap();
    assert!(storage.volumes.get(&name).await.unwrap().metadata.deletion_timestamp.is_some());
    storage.claims.delete("data", &DeleteParams::default()).await.unwrap();
    gone(&storage.claims, "data").await;
    gone(&storage.volumes, &name).await;
    assert!(!directory.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_are_made_by_their_own_node_only_and_kept_where_that_is_asked_for() {
    let storage = storage().await;
    storage
        .class(json!({ "metadata": { "name": "kept" }, "provisioner": "dray.io/local-path", "reclaimPolicy": "Retain" }))
        .await;
    storage.claim("elsewhere", json!({})).await;
    storage.select_node("elsewhere", "there").await;
    storage.claim("block", json!({ "volumeMode": "Block" })).await;
    storage.select_node("block", NODE).await;
    storage.cluster.event("ProvisioningFailed", "a directory cannot be a block device").await;
    storage.claim("data", json!({ "storageClassName": "kept" })).await;
    let name = volume_name(&storage.bound("data").await);
    storage.claims.delete("data", &DeleteParams::default()).await.unwrap();
    storage.phase(&name, "Released").await;
    let directory = storage.cluster.directory().join("volumes").join(&name);
    storage.volumes.delete(&name, &DeleteParams::default()).await.unwrap();
    gone(&storage.volumes, &name).await;
    assert!(directory.is_dir());
    assert_eq!(volume_name(&storage.claims.get("elsewhere").await.unwrap()), "");
    assert_eq!(std::fs::read_dir(storage.cluster.directory().join("volumes")).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_names_a_path_of_others_is_not_followed() {
    let storage = storage().await;
    let precious = storage.cluster.directory().join("precious");
    std::fs::create_dir(&precious).unwrap();
    let volume = serde_json::from_value(json!({
        "metadata": { "name": "pvc-evil",
            "annotations": { "pv.kubernetes.io/provisioned-by": "dray.io/local-path" } },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "hostPath": { "path": precious },
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": { "namespace": "default", "name": "none", "uid": "gone" },
        },
    }));
    storage.volumes.create(&PostParams::default(), &volume.unwrap()).await.unwrap();
    storage.phase("pvc-evil", "Released").await;
    // One that is made and removed after it shows that it was looked at.
    storage.claim("data", json!({})).await;
    storage.select_node("data", NODE).await;
    let name = volume_name(&storage.bound("data").await);
    storage.claims.delete("data", &DeleteParams::default()).await.unwrap();
    gone(&storage.volumes, &name).await;
    assert!(precious.is_dir());
    storage.phase("pvc-evil", "Released").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_grows_and_its_volume_with_it() {
    let storage = storage().await;
    storage.claim("data", json!({})).await;
    storage.select_node("data", NODE).await;
    let name = volume_name(&storage.bound("data").await);
    let more = json!({ "spec": { "resources": { "requests": { "storage": "5Gi" } } } });
    storage.patch_claim("data", more).await;
    let claim = when(&storage.claims, "data", "more", |claim| held(claim) == "5Gi").await;
    assert_eq!(claim.status.unwrap().conditions.unwrap_or_default(), []);
    let volume = storage.volumes.get(&name).await.unwrap();
    assert_eq!(volume.spec.unwrap().capacity.unwrap()["storage"].0, "5Gi");
    storage.cluster.event("VolumeResizeSuccessful", "Resize volume succeeded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_came_before_the_default_class_gets_it() {
    let storage = storage().await;
    storage.classes.delete("local-path", &DeleteParams::default()).await.unwrap();
    storage.claim("data", json!({})).await;
    storage.cluster.event("FailedBinding", "no storage class is set").await;
    storage
        .class(json!({
            "metadata": { "name": "others",
                "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
            "provisioner": "example.com/disks",
        }))
        .await;
    let claim = when(&storage.claims, "data", "its class", |claim| {
        claim.spec.as_ref().unwrap().storage_class_name.as_deref() == Some("others")
    });
    claim.await;
    storage.cluster.event("ExternalProvisioning", "external provisioner 'example.com/disks'").await;
    storage.claim("lost", json!({ "storageClassName": "none" })).await;
    storage.cluster.event("ProvisioningFailed", "storageclass.storage.k8s.io \"none\" not found").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_claims_of_its_own_which_go_with_it() {
    let storage = storage().await;
    storage.claim("user-taken", json!({})).await;
    let template = |labels: Value| {
        json!({ "volumeClaimTemplate": { "metadata": { "labels": labels }, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } } })
    };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": "user" },
        "spec": {
            "nodeName": NODE,
            "containers": [{ "name": "c", "image": "web" }],
            "volumes": [
                { "name": "scratch", "ephemeral": template(json!({ "a": "b" })) },
                { "name": "taken", "ephemeral": template(json!({})) },
            ],
        },
    }))
    .unwrap();
    let pod = storage.cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
    let claim = when(&storage.claims, "user-scratch", "the claim", |_| true).await;
    assert_eq!(claim.labels()["a"], "b");
    let owner = &claim.owner_references()[0];
    assert_eq!((Some(&owner.uid), owner.controller), (pod.metadata.uid.as_ref(), Some(true)));
    storage
        .cluster
        .event("FailedBinding", "was not created for pod default/user (pod is not the owner)")
        .await;
    storage.cluster.pods().delete("user", &DeleteParams::default().grace_period(0)).await.unwrap();
    gone(&storage.claims, "user-scratch").await;
    assert!(storage.claims.get("user-taken").await.unwrap().metadata.deletion_timestamp.is_none());
}
