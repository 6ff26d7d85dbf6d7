//! Pods that claim devices.

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::support::{Cluster, cluster, message, size, when};

impl Cluster {
    async fn device_claim(&self, name: &str) -> Api<ResourceClaim> {
        let claims = Api::<ResourceClaim>::default_namespaced(self.client.clone());
        let claim = json!({ "metadata": { "name": name }, "spec": { "devices": { "requests": [
            { "name": "r", "exactly": { "deviceClassName": "gpu" } }] } } });
        claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
        claims
    }

    async fn pod_with_device(&self, name: &str, claim: &str) {
        let entry = json!([{ "name": "r", "resourceClaimName": claim }]);
        self.pod(name, json!({ "resourceClaims": entry })).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_where_the_devices_are_that_they_claim() {
    let cluster = cluster().await;
    for name in ["one", "two"] {
        cluster.node(name, json!({}), size("4")).await;
    }
    let class: DeviceClass =
        serde_json::from_value(json!({ "metadata": { "name": "gpu" }, "spec": { "selectors": [
        { "cel": { "expression": "device.driver == 'gpu.example.com'" } }] } }))
        .unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &class).await.unwrap();
    let claims = cluster.device_claim("first").await;
    cluster.pod_with_device("a", "first").await;
    let nothing = "0/2 nodes are available: 2 cannot allocate all claims. preemption: 0/2 nodes are available: 2 \
                   Preemption is not helpful for scheduling.";
    assert_eq!(cluster.refusal_of("a").await, nothing);
    let slice: ResourceSlice = serde_json::from_value(json!({ "metadata": { "name": "s" }, "spec": {
        "driver": "gpu.example.com", "nodeName": "two", "devices": [{ "name": "d" }],
        "pool": { "name": "two", "generation": 1, "resourceSliceCount": 1 } } }))
    .unwrap();
    Api::all(cluster.client.clone()).create(&PostParams::default(), &slice).await.unwrap();
    assert_eq!(cluster.node_of("a").await, "two");
    let claim = when(&claims, "first", |claim: &ResourceClaim| {
        claim.status.as_ref().is_some_and(|status| status.allocation.is_some())
    })
    .await;
    let status = claim.status.unwrap();
    let devices = status.allocation.unwrap().devices.unwrap().results.unwrap();
    assert_eq!((devices.len(), devices[0].device.as_str(), devices[0].request.as_str()), (1, "d", "r"));
    assert_eq!(status.reserved_for.unwrap()[0].name, "a");
    assert_eq!(claim.metadata.finalizers.unwrap(), ["resource.kubernetes.io/delete-protection"]);
    // Who uses the same claim goes to the same node; there is nothing for another.
    cluster.pod_with_device("b", "first").await;
    assert_eq!(cluster.node_of("b").await, "two");
    cluster.device_claim("second").await;
    cluster.pod_with_device("c", "second").await;
    cluster.pod_when("c", |pod| message(pod).as_deref() == Some(nothing)).await;
}
