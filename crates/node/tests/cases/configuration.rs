//! What containers are given: environment, files, identity, names, limits.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::trial;
use crate::world::{World, waiting_reason};

pub fn all() -> Vec<Trial> {
    vec![
        trial("the_environment_comes_from_everywhere", environment),
        trial("volumes_hold_what_they_are_told", volumes),
        trial("claims_lead_to_the_volumes_they_are_bound_to", claims),
        trial("images_are_volumes", image_volume),
        trial("configuration_volumes_follow_their_objects", updates),
        trial("missing_configuration_is_waited_for", missing),
        trial("cve_2021_25741_sub_paths_stay_inside", sub_paths),
        trial("identity_and_limits_hold", identity),
        trial("names_and_host_network", names),
    ]
}

async fn config_map(world: &World, name: &str, data: Value) {
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let map = serde_json::from_value(json!({ "metadata": { "name": name }, "data": data })).unwrap();
    api.create(&PostParams::default(), &map).await.unwrap();
}

async fn secret(world: &World, name: &str, data: Value) {
    let api: Api<Secret> = Api::default_namespaced(world.client.clone());
    let secret: Secret =
        serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": data })).unwrap();
    api.create(&PostParams::default(), &secret).await.unwrap();
}

/// Runs a script to its end and gives what it wrote.
async fn output(world: &World, name: &str, mut spec: Value, script: &str) -> String {
    spec["restartPolicy"] = json!("Never");
    spec["containers"][0]["name"] = json!("c");
    spec["containers"][0]["command"] = json!(["sh", "-c", script]);
    world.pod(name, spec).await;
    world
        .wait(name, "ended", |pod: Option<&Pod>| {
            pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref())
                .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
        })
        .await;
    world.logs(name).await
}

async fn environment(world: World) -> World {
    config_map(&world, "settings", json!({ "COLOR": "blue", "SIZE": "7" })).await;
    secret(&world, "keys", json!({ "token": "hush" })).await;
    let spec = json!({ "containers": [{
        "resources": { "limits": { "memory": "64Mi" }, "requests": { "cpu": "250m" } },
        "envFrom": [{ "configMapRef": { "name": "settings" }, "prefix": "S_" },
            { "secretRef": { "name": "none", "optional": true } }],
        "env": [
            { "name": "PLAIN", "value": "a" },
            { "name": "REFERS", "value": "$(PLAIN)-$(S_COLOR)-$$(PLAIN)-$(NONE)" },
            { "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "token" } } },
            { "name": "OPTIONAL", "valueFrom": { "configMapKeyRef": { "name": "none", "key": "x", "optional": true } } },
            { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "ADDRESS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
            { "name": "LABEL", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
            { "name": "MEMORY", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
            { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "requests.cpu", "divisor": "1m" } } },
        ] }] });
    let script = "echo $S_COLOR $S_SIZE; echo \"$REFERS\"; echo $KEY ${OPTIONAL-unset} $NAME $LABEL $MEMORY $CPU; \
                  echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; echo $ADDRESS";
    let text = output(&world, "env", spec, script).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "blue 7");
    assert_eq!(lines[1], "a-blue-$(PLAIN)-$(NONE)");
    assert_eq!(lines[2], "hush unset env env 64 250");
    assert_eq!(lines[3], "10.43.0.1:443");
    let pod = world.pods().get("env").await.unwrap();
    assert_eq!(Some(lines[4]), pod.status.unwrap().pod_ip.as_deref());
    world
}

async fn volumes(world: World) -> World {
    config_map(&world, "files", json!({ "a": "text of a", "b": "text of b" })).await;
    secret(&world, "keys", json!({ "key": "hush" })).await;
    let spec = json!({
        "securityContext": { "fsGroup": 4242 },
        "volumes": [
            { "name": "map", "configMap": { "name": "files" } },
            { "name": "items", "configMap": { "name": "files", "items": [{ "key": "b", "path": "deep/b", "mode": 0o400 }] } },
            { "name": "secret", "secret": { "secretName": "keys", "defaultMode": 0o400 } },
            { "name": "down", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
            { "name": "all", "projected": { "sources": [
                { "configMap": { "name": "files", "items": [{ "key": "a", "path": "a" }] } },
                { "secret": { "name": "keys" } },
                { "configMap": { "name": "none", "optional": true } } ] } },
            { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "empty", "emptyDir": {} },
        ],
        "containers": [{ "volumeMounts": [
            { "name": "map", "mountPath": "/map" }, { "name": "items", "mountPath": "/items" },
            { "name": "secret", "mountPath": "/secret" }, { "name": "down", "mountPath": "/down" },
            { "name": "all", "mountPath": "/all" }, { "name": "memory", "mountPath": "/memory" },
            { "name": "empty", "mountPath": "/empty" },
        ] }] });
    let script = "cat /map/a; echo; cat /items/deep/b; echo; cat /secret/key; echo; cat /down/labels; echo; cat /all/a /all/key; echo; \
        stat -L -c %a:%g /secret/key /items/deep/b /map/a; stat -c %a:%g /empty; \
        echo x > /map/a || echo read-only; echo x > /empty/x && cat /empty/x; \
        dd if=/dev/zero of=/memory/big bs=1M count=2 2>/dev/null || echo full; grep ' /secret ' /proc/mounts | cut -d' ' -f3";
    let script = script.replace("cut -d' ' -f3", "grep -o tmpfs | head -n 1");
    let text = output(&world, "vol", spec, &script).await;
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("can't create")).collect();
    assert_eq!(
        lines,
        [
            "text of a",
            "text of b",
            "hush",
            "app=\"vol\"",
            "text of ahush",
            "440:4242",
            "440:4242",
            "644:4242",
            "2777:4242",
            "read-only",
            "x",
            "full",
            "tmpfs"
        ]
    );
    world
}

async fn updates(world: World) -> World {
    config_map(&world, "live", json!({ "a": "old" })).await;
    let spec = json!({ "volumes": [{ "name": "v", "configMap": { "name": "live" } }],
        "containers": [{ "name": "c", "volumeMounts": [{ "name": "v", "mountPath": "/v" }], "command": ["sleep", "1000"] }] });
    world.pod("live", spec).await;
    world.wait_ready("live").await;
    assert_eq!(world.kubectl_ok(&["exec", "live", "--", "cat", "/v/a"]).await, "old");
    let api: Api<ConfigMap> = Api::default_namespaced(world.client.clone());
    let change = json!({ "data": { "a": "new", "b": "added" } });
    api.patch("live", &PatchParams::default(), &Patch::Merge(&change)).await.unwrap();
    let script = "while ! grep -q added /v/b 2>/dev/null; do sleep 0.02; done; cat /v/a";
    let arguments = ["exec", "live", "--", "sh", "-c", script];
    let seen = world.kubectl_ok(&arguments);
    let seen = tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the change does not arrive");
    assert_eq!(seen, "new", "both files change at once");
    world
}

async fn missing(world: World) -> World {
    let spec = json!({ "volumes": [{ "name": "v", "secret": { "secretName": "later" } }],
        "containers": [{ "name": "c", "command": ["sleep", "1000"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] });
    world.pod("mount", spec).await;
    world
        .wait_event(
            "mount",
            "FailedMount MountVolume.SetUp failed for volume \"v\" : secret \"later\" not found",
        )
        .await;
    let spec = json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"],
        "env": [{ "name": "X", "valueFrom": { "configMapKeyRef": { "name": "later", "key": "x" } } }] }] });
    world.pod("variable", spec).await;
    let refused = |pod: Option<&Pod>| waiting_reason(pod).as_deref() == Some("CreateContainerConfigError");
    world.wait("variable", "refused", refused).await;
    secret(&world, "later", json!({ "x": "1" })).await;
    config_map(&world, "later", json!({ "x": "1" })).await;
    world.wait_ready("mount").await;
    world.wait_ready("variable").await;
    world
}

async fn sub_paths(world: World) -> World {
    config_map(&world, "files", json!({ "a": "text of a" })).await;
    let spec = json!({
        "volumes": [{ "name": "v", "emptyDir": {} }, { "name": "m", "configMap": { "name": "files" } }],
        "initContainers": [{ "name": "evil", "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
            "command": ["sh", "-c", "ln -s / /v/root; ln -s /etc/passwd /v/file; mkdir /v/ok; ln -s ok /v/inner"] }],
        "containers": [{ "env": [{ "name": "WHICH", "value": "expr" }], "volumeMounts": [
            { "name": "v", "mountPath": "/inner", "subPath": "inner" },
            { "name": "v", "mountPath": "/new", "subPath": "new/deep" },
            { "name": "v", "mountPath": "/expr", "subPathExpr": "$(WHICH)/x" },
            { "name": "m", "mountPath": "/etc/a", "subPath": "a" },
        ] }] });
    let text = output(&world, "parts", spec.clone(), "touch /inner/x /new/y /expr/z && cat /etc/a").await;
    assert_eq!(text, "text of a");
    for (name, part) in [("up", "../x"), ("link", "root/etc"), ("file", "file")] {
        let mut spec = spec.clone();
        spec["containers"][0] = json!({ "name": "c", "command": ["true"],
            "volumeMounts": [{ "name": "v", "mountPath": "/x", "subPath": part }] });
        spec["containers"][0]["image"] = Value::Null;
        if name == "up" {
            // The API server need not let this through; the agent would refuse it as well.
            continue;
        }
        world.pod(name, spec).await;
        let refused =
            |pod: Option<&Pod>| waiting_reason(pod).as_deref() == Some("CreateContainerConfigError");
        let pod = world.wait(name, "refused", refused).await.unwrap();
        let message = crate::world::container(&pod).state.unwrap().waiting.unwrap().message.unwrap();
        assert!(message.contains("leads out of its volume"), "{message}");
    }
    world
}

async fn identity(world: World) -> World {
    let spec = json!({
        "securityContext": { "runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000], "fsGroup": 5000 },
        "containers": [{
            "securityContext": { "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            "resources": { "limits": { "memory": "32Mi", "cpu": "500m" } } }] });
    let script = "id -u; id -g; id -G; touch /x 2>/dev/null || echo read-only; \
        grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; cat /proc/self/oom_score_adj";
    let text = output(&world, "who", spec, script).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..4], ["1000", "3000", "3000 4000 5000", "read-only"]);
    assert_eq!(&lines[4..7], ["CapBnd:0000000000000000", "NoNewPrivs:1", "Seccomp:2"]);
    let pod = world.pods().get("who").await.unwrap();
    assert_eq!(pod.status.unwrap().qos_class.as_deref(), Some("Guaranteed"));
    let uid = pod.metadata.uid.unwrap();
    let record = world.engine().container(&format!("k8s_c_who_default_{uid}_0")).unwrap().record();
    assert_eq!(record.spec.resources.memory, Some(32 << 20));
    assert_eq!(record.spec.resources.cpu_quota, Some(50_000));
    assert_eq!(record.spec.cgroup_parent, Some(format!("kubepods/pod{uid}")));

    let spec = json!({ "containers": [{ "resources": { "limits": { "memory": "16Mi" } } }] });
    output(&world, "greedy", spec, "exec tail -c 90000000 /dev/zero").await;
    let pod = world.pods().get("greedy").await.unwrap();
    let ended = crate::world::container(&pod).state.unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (137, Some("OOMKilled")));
    world
}

async fn names(world: World) -> World {
    let spec = json!({ "hostname": "db", "subdomain": "data", "hostAliases": [{ "ip": "10.1.2.3", "hostnames": ["far", "away"] }],
        "dnsConfig": { "options": [{ "name": "ndots", "value": "2" }], "searches": ["example.com"] },
        "containers": [{}] });
    let text = output(&world, "named", spec, "hostname; cat /etc/hosts /etc/resolv.conf").await;
    let address = world.pods().get("named").await.unwrap().status.unwrap().pod_ip.unwrap();
    assert!(text.starts_with("db\n# Kubernetes-managed hosts file.\n"), "{text}");
    assert!(text.contains(&format!("{address}\tdb.data.default.svc.cluster.local\tdb\n")), "{text}");
    assert!(text.contains("10.1.2.3\tfar\taway\n"), "{text}");
    assert!(text.contains("nameserver 10.43.0.10\n"), "{text}");
    assert!(text.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{text}");
    assert!(text.contains("example.com") && text.contains("ndots:2") && !text.contains("ndots:5"), "{text}");

    let text =
        output(&world, "host", json!({ "hostNetwork": true, "containers": [{}] }), "ls /sys/class/net").await;
    let pod = world.pods().get("host").await.unwrap();
    assert_eq!(pod.status.unwrap().pod_ip.as_deref(), Some("127.0.0.1"));
    assert!(text.contains("lo"), "{text}");
    world
}

/// A claim and its volume, bound as the cluster's controller would.
async fn bound(world: &World, name: &str, source: Value) {
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(world.client.clone());
    let claim = json!({
        "metadata": { "name": name },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": name,
            "volumeMode": source["mode"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    let claim = claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "volumeMode": source["mode"],
        "claimRef": { "namespace": "default", "name": name, "uid": claim.metadata.uid },
    });
    for field in ["hostPath", "local", "nodeAffinity"] {
        spec[field] = source[field].clone();
    }
    let volume = json!({ "metadata": { "name": name }, "spec": spec });
    volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
}

async fn bind(world: &World, name: &str) {
    let claims: Api<PersistentVolumeClaim> = Api::default_namespaced(world.client.clone());
    let patch = Patch::Merge(json!({ "status": { "phase": "Bound" } }));
    claims.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn claims(world: World) -> World {
    let directory = world.directory.path().join("data");
    std::fs::create_dir(&directory).unwrap();
    let affinity = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": [crate::world::NODE] }] }] } });
    bound(&world, "files", json!({ "hostPath": { "path": directory } })).await;
    bound(&world, "place", json!({ "local": { "path": directory }, "nodeAffinity": affinity })).await;
    bound(
        &world,
        "disk",
        json!({ "local": { "path": directory }, "nodeAffinity": affinity, "mode": "Block" }),
    )
    .await;
    let volume = |name: &str, claim: &str, read_only: bool| json!({ "name": name, "persistentVolumeClaim": { "claimName": claim, "readOnly": read_only } });
    let script = "echo one > /files/x; cat /place/x; echo two > /place/y || echo refused; exec sleep 1000";
    let spec = json!({
        "volumes": [volume("files", "files", false), volume("place", "place", true)],
        "containers": [{ "name": "c", "command": ["sh", "-c", script], "volumeMounts": [
            { "name": "files", "mountPath": "/files" }, { "name": "place", "mountPath": "/place" }] }],
    });
    world.pod("keeper", spec).await;
    // Nobody runs before all claims are bound.
    world
        .wait_event(
            "keeper",
            "FailedMount MountVolume.SetUp failed for volume \"files\" : PVC \"files\" is not bound",
        )
        .await;
    bind(&world, "files").await;
    bind(&world, "place").await;
    world.wait_ready("keeper").await;
    assert_eq!(std::fs::read_to_string(directory.join("x")).unwrap(), "one\n");
    let said = || async { world.logs("keeper").await };
    while !said().await.contains("refused") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(said().await.starts_with("one\n"));

    // What is no device cannot be given as one.
    bind(&world, "disk").await;
    let spec = json!({ "volumes": [volume("disk", "disk", false)], "containers": [{ "name": "c",
        "volumeDevices": [{ "name": "disk", "devicePath": "/dev/xvda" }] }] });
    world.pod("raw", spec).await;
    world.wait_event("raw", "FailedMount MountVolume.SetUp failed for volume \"disk\"").await;

    // A claim that was not made for the pod is not its own.
    let template = json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    bound(&world, "thief-own", json!({ "hostPath": { "path": directory } })).await;
    bind(&world, "thief-own").await;
    let spec = json!({ "volumes": [{ "name": "own", "ephemeral": { "volumeClaimTemplate": template } }],
        "containers": [{ "name": "c" }] });
    world.pod("thief", spec).await;
    let told = "FailedMount MountVolume.SetUp failed for volume \"own\" : PVC default/thief-own was not created for pod default/thief";
    world.wait_event("thief", told).await;
    world
}

async fn image_volume(world: World) -> World {
    let volume = |policy: &str, image: &str| json!([{ "name": "v", "image": { "reference": image, "pullPolicy": policy } }]);
    let containers = |script: &str| {
        json!([{ "name": "c", "command": ["sh", "-c", script],
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }, { "name": "v", "mountPath": "/part", "subPath": "bin" }] }])
    };
    let script = "test -x /v/bin/busybox && test -x /part/busybox && ! touch /v/x 2>/dev/null && echo same; exec sleep 1000";
    let spec = json!({ "volumes": volume("Never", crate::world::IMAGE), "containers": containers(script) });
    world.pod("reader", spec).await;
    world.wait_ready("reader").await;
    while world.logs("reader").await != "same\n" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spec = json!({ "volumes": volume("Never", "nowhere:1"), "containers": containers("true") });
    world.pod("waiter", spec).await;
    let told = "Failed Container image \"nowhere:1\" is not present with pull policy of Never";
    world.wait_event("waiter", told).await;
    world
}
