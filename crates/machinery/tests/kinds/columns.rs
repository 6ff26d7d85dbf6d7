//! What `kubectl get` shows for kinds without columns of their own, and headings that people know.

use dray_machinery::kinds;

/// The headings, in upper case as they are printed; those of wide output only in brackets.
fn headings(group: &str, kind: &str) -> String {
    let row = kinds::find_kind(group, kind).unwrap();
    let columns = row.columns.iter().map(|column| {
        let name = column.name.to_uppercase();
        if column.priority == 0 { name } else { format!("[{name}]") }
    });
    columns.collect::<Vec<_>>().join(" | ")
}

#[test]
fn headings_are_those_that_people_know() {
    for (group, kind, expected) in [
        (
            "",
            "PersistentVolumeClaim",
            "STATUS | VOLUME | CAPACITY | ACCESS MODES | STORAGECLASS | VOLUMEATTRIBUTESCLASS | AGE | [VOLUMEMODE]",
        ),
        ("", "LimitRange", "CREATED AT"),
        ("", "ComponentStatus", "STATUS | MESSAGE | ERROR"),
        (
            "apps",
            "DaemonSet",
            "DESIRED | CURRENT | READY | UP-TO-DATE | AVAILABLE | NODE SELECTOR | AGE | [CONTAINERS] | [IMAGES] | [SELECTOR]",
        ),
        ("apps", "StatefulSet", "READY | AGE | [CONTAINERS] | [IMAGES]"),
        ("batch", "Job", "STATUS | COMPLETIONS | DURATION | AGE | [CONTAINERS] | [IMAGES] | [SELECTOR]"),
        (
            "batch",
            "CronJob",
            "SCHEDULE | TIMEZONE | SUSPEND | ACTIVE | LAST SCHEDULE | AGE | [CONTAINERS] | [IMAGES] | [SELECTOR]",
        ),
        (
            "autoscaling",
            "HorizontalPodAutoscaler",
            "REFERENCE | TARGETS | MINPODS | MAXPODS | REPLICAS | AGE",
        ),
        ("policy", "PodDisruptionBudget", "MIN AVAILABLE | MAX UNAVAILABLE | ALLOWED DISRUPTIONS | AGE"),
        ("networking.k8s.io", "Ingress", "CLASS | HOSTS | ADDRESS | PORTS | AGE"),
        ("rbac.authorization.k8s.io", "Role", "CREATED AT"),
        ("rbac.authorization.k8s.io", "RoleBinding", "ROLE | AGE | [USERS] | [GROUPS] | [SERVICEACCOUNTS]"),
        (
            "storage.k8s.io",
            "StorageClass",
            "PROVISIONER | RECLAIMPOLICY | VOLUMEBINDINGMODE | ALLOWVOLUMEEXPANSION | AGE",
        ),
        ("apiextensions.k8s.io", "CustomResourceDefinition", "CREATED AT"),
        (
            "certificates.k8s.io",
            "CertificateSigningRequest",
            "AGE | SIGNERNAME | REQUESTOR | REQUESTEDDURATION | CONDITION",
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "FlowSchema",
            "PRIORITYLEVEL | MATCHINGPRECEDENCE | DISTINGUISHERMETHOD | AGE | MISSINGPL",
        ),
    ] {
        assert_eq!(headings(group, kind), expected, "{kind}");
    }
}

#[test]
fn the_version_that_clients_prefer_comes_first() {
    assert_eq!(kinds::find_kind("autoscaling", "HorizontalPodAutoscaler").unwrap().version, "v2");
    assert_eq!(kinds::all()[0].group, "");
}
