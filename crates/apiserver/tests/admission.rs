//! Admission with the real kubectl: what is added to pods and claims, and what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use support::cluster;

fn pod(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

const CREATE: &[&str] = &["create", "-f", "-"];
const PLAIN: &str = "containers: [{name: c, image: c}]";

#[test]
fn a_pod_is_somebody_and_finds_its_token() {
    let cluster = cluster();
    let other = "serviceAccountName: other, containers: [{name: c, image: c}]";
    let missing = cluster.refused(CREATE, &pod("p", other));
    let words = "error looking up service account default/other: serviceaccount \"other\" not found";
    assert!(missing.contains(words), "{missing}");
    cluster
        .ok(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"pull"}]}"#], "");
    cluster.ok(CREATE, &pod("p", "initContainers: [{name: i, image: i}], containers: [{name: c, image: c}]"));
    let shown = cluster.ok(&["get", "pod", "p", "-o", "jsonpath={.spec.serviceAccountName} {.spec.imagePullSecrets[*].name} {.spec['initContainers','containers'][*].volumeMounts[*].mountPath}"], "");
    let mount = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(shown, format!("default pull {mount} {mount}"));
    let volume =
        cluster.ok(&["get", "pod", "p", "-o", "jsonpath={.spec.volumes[*].projected.sources[*]}"], "");
    for part in [r#""expirationSeconds":3607"#, "kube-root-ca.crt", "metadata.namespace"] {
        assert!(volume.contains(part), "{part}: {volume}");
    }
    cluster.ok(CREATE, &pod("q", "automountServiceAccountToken: false, containers: [{name: c, image: c}]"));
    assert_eq!(cluster.ok(&["get", "pod", "q", "-o", "jsonpath={.spec.volumes}"], ""), "");
}

#[test]
fn containers_keep_within_the_limits_of_their_namespace() {
    let cluster = cluster();
    let range = "{apiVersion: v1, kind: LimitRange, metadata: {name: l}, spec: {limits: [
      {type: Container, default: {cpu: 500m, memory: 256Mi}, defaultRequest: {cpu: 100m}, max: {cpu: '1'}, min: {memory: 64Mi}},
      {type: Pod, max: {cpu: '1500m'}}, {type: PersistentVolumeClaim, max: {storage: 1Gi}, min: {storage: 1Mi}}]}}";
    cluster.ok(CREATE, range);
    cluster.ok(CREATE, &pod("p", PLAIN));
    let shown = cluster.ok(&["get", "pod", "p", "-o", "jsonpath={.spec.containers[0].resources}"], "");
    assert_eq!(
        shown,
        r#"{"limits":{"cpu":"500m","memory":"256Mi"},"requests":{"cpu":"100m","memory":"256Mi"}}"#
    );
    let told = cluster
        .ok(&["get", "pod", "p", "-o", r"jsonpath={.metadata.annotations.kubernetes\.io/limit-ranger}"], "");
    assert!(told.starts_with("LimitRanger plugin set: "), "{told}");
    let large = "containers: [{name: c, image: c, resources: {limits: {cpu: '2', memory: 32Mi}}}]";
    let refused = cluster.refused(CREATE, &pod("q", large));
    for words in [
        "maximum cpu usage per Container is 1, but limit is 2",
        "minimum memory usage per Container is 64Mi, but request is 32Mi",
        "maximum cpu usage per Pod is 1500m, but limit is 2",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    let claim = "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {accessModes: [ReadWriteOnce],
      resources: {requests: {storage: 2Gi}}}}";
    let refused = cluster.refused(CREATE, claim);
    assert!(
        refused.contains("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"),
        "{refused}"
    );
}

#[test]
fn classes_give_what_objects_do_not_say() {
    let cluster = cluster();
    let objects = "
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: high}, value: 1000, preemptionPolicy: Never}
---
{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: usual}, value: 7, globalDefault: true}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fast, annotations:
  {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: x}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: web, annotations:
  {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: example.com/x}}
---
{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: sealed}, handler: sealed, overhead: {podFixed: {cpu: 10m}},
  scheduling: {nodeSelector: {a: b}, tolerations: [{key: k, operator: Exists}]}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i}, spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}
";
    for object in objects.split("---") {
        cluster.ok(CREATE, object);
    }
    cluster.ok(CREATE, &pod("usual", PLAIN));
    cluster.ok(CREATE, &pod("high", "priorityClassName: high, containers: [{name: c, image: c}]"));
    let of = |name: &str| {
        let path = "jsonpath={.spec.priorityClassName} {.spec.priority} {.spec.preemptionPolicy}";
        cluster.ok(&["get", "pod", name, "-o", path], "")
    };
    assert_eq!(of("usual"), "usual 7 PreemptLowerPriority");
    assert_eq!(of("high"), "high 1000 Never");
    let none =
        cluster.refused(CREATE, &pod("none", "priorityClassName: none, containers: [{name: c, image: c}]"));
    assert!(none.contains("no PriorityClass with name none was found"), "{none}");
    let second = "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: two}, value: 1, globalDefault: true}";
    assert!(cluster.refused(CREATE, second).contains("PriorityClass usual is already marked as default"));

    let claim = "jsonpath={.spec.storageClassName} {.metadata.finalizers}";
    assert_eq!(cluster.ok(&["get", "pvc", "c", "-o", claim], ""), r#"fast ["kubernetes.io/pvc-protection"]"#);
    assert_eq!(cluster.ok(&["get", "ingress", "i", "-o", "jsonpath={.spec.ingressClassName}"], ""), "web");
    cluster.ok(CREATE, &pod("sealed", "runtimeClassName: sealed, containers: [{name: c, image: c}]"));
    let sealed = cluster.ok(
        &[
            "get",
            "pod",
            "sealed",
            "-o",
            "jsonpath={.spec.overhead} {.spec.nodeSelector} {.spec.tolerations[*].key}",
        ],
        "",
    );
    assert!(
        sealed.starts_with(r#"{"cpu":"10m"} {"a":"b"} "#) && sealed.contains(" k") || sealed.ends_with('k'),
        "{sealed}"
    );
    let none =
        cluster.refused(CREATE, &pod("none", "runtimeClassName: none, containers: [{name: c, image: c}]"));
    assert!(none.contains("RuntimeClass \"none\" not found"), "{none}");
}

#[test]
fn a_namespace_says_how_much_its_pods_may_do() {
    let cluster = cluster();
    let label = |level: &str| {
        cluster.run(
            &[
                "label",
                "--overwrite",
                "namespace",
                "default",
                &format!("pod-security.kubernetes.io/enforce={level}"),
            ],
            "",
        )
    };
    assert!(label("lax").stderr.contains("must be one of privileged, baseline, restricted"));
    assert!(label("baseline").success);
    cluster.ok(CREATE, &pod("plain", PLAIN));
    let host = cluster.refused(CREATE, &pod("host", "hostNetwork: true, containers: [{name: c, image: c}]"));
    assert!(
        host.contains(r#"violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#),
        "{host}"
    );
    let stricter = label("restricted");
    assert!(stricter.stderr.contains("existing pods in namespace \"default\" violate"), "{stricter:?}");
    assert!(stricter.stderr.contains("plain: allowPrivilegeEscalation != false"), "{stricter:?}");
    assert!(cluster.refused(CREATE, &pod("q", PLAIN)).contains("runAsNonRoot != true"));
    label("privileged");
    cluster.ok(&["label", "namespace", "default", "pod-security.kubernetes.io/warn=restricted"], "");
    let warned = cluster.run(&["create", "deployment", "d", "--image=c"], "");
    assert!(
        warned.success && warned.stderr.contains("would violate PodSecurity \"restricted:latest\""),
        "{warned:?}"
    );
}
