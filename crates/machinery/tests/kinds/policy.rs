use dray_machinery::{Subresource::Status, kinds};
use serde_json::json;

use super::{case, yaml};

#[test]
fn autoscalers() {
    let scaler = case(
        "autoscaling/v2 HorizontalPodAutoscaler",
        "spec: {maxReplicas: 5, scaleTargetRef: {kind: Deployment, name: web, apiVersion: apps/v1}}",
    );
    scaler.defaults(
        "{}",
        "spec: {minReplicas: 1, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]}",
    );
    scaler.defaults(
        "spec: {behavior: {scaleDown: {stabilizationWindowSeconds: 60}}}",
        "
spec: {behavior: {
  scaleUp: {stabilizationWindowSeconds: 0, selectPolicy: Max,
    policies: [{type: Pods, value: 4, periodSeconds: 15}, {type: Percent, value: 100, periodSeconds: 15}]},
  scaleDown: {stabilizationWindowSeconds: 60, selectPolicy: Max, policies: [{type: Percent, value: 100, periodSeconds: 15}]}}}
",
    );
    scaler.refuses(&[
        ("spec: {minReplicas: 0}", &["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"]),
        ("spec: {maxReplicas: 0, minReplicas: null}", &["spec.maxReplicas: Invalid value: 0: must be greater than 0", "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"]),
        ("spec: {minReplicas: 6}", &["spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"]),
        ("spec: {scaleTargetRef: {kind: '', name: a/b}}", &["spec.scaleTargetRef.kind: Required value", "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'"]),
        (
            "spec: {metrics: [{type: Pods, resource: {name: cpu, target: {type: Utilization, averageUtilization: 0}}}]}",
            &[
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ],
        ),
        (
            "spec: {metrics: [{type: External, external: {metric: {name: q}, target: {type: Value, value: 1, averageValue: 1}}}]}",
            &["spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target"],
        ),
        (
            "spec: {behavior: {scaleUp: {stabilizationWindowSeconds: 3601, policies: [{type: Some, value: 0, periodSeconds: 1801}]}}}",
            &[
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Some\": supported values: \"Percent\", \"Pods\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ],
        ),
    ]);
    scaler.refuses_parts(
        Status,
        "{}",
        &[(
            "status: {currentReplicas: -1}",
            &["status.currentReplicas: Invalid value: -1: must be greater than or equal to 0"],
        )],
    );
    scaler.shows(
        "status: {currentReplicas: 2, currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 40}}}]}",
        json!(["test", "Deployment/web", "cpu: 40%/80%", "1", 5, 2, "100s"]),
    );
}

#[test]
fn both_versions_of_an_autoscaler_are_the_same() {
    let stored = yaml(
        "
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web, annotations: {mine: kept}}
spec:
  minReplicas: 1
  maxReplicas: 5
  scaleTargetRef: {kind: Deployment, name: web}
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}
  - {type: Pods, pods: {metric: {name: rps, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: '5'}}}
  - {type: Object, object: {metric: {name: q}, describedObject: {kind: Service, name: s}, target: {type: Value, value: '3'}}}
  - {type: External, external: {metric: {name: e}, target: {type: AverageValue, averageValue: '2'}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 70}}}
  behavior: {scaleDown: {selectPolicy: Max}}
status:
  currentReplicas: 2
  currentMetrics:
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 40}}}
  - {type: Pods, pods: {metric: {name: rps}, current: {averageValue: '4'}}}
  conditions: [{type: AbleToScale, status: 'True'}]
",
    );
    let old = kinds::find_version("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap();
    let alias = old.stored_as.unwrap();
    let mut shown = stored.clone();
    (alias.from_stored)(&mut shown);
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 60);
    assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 40);
    assert_eq!(shown["metadata"]["annotations"].as_object().unwrap().len(), 5);
    let metrics: serde_json::Value = serde_json::from_str(
        shown["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].as_str().unwrap(),
    )
    .unwrap();
    assert_eq!(
        metrics[0],
        json!({ "type": "Resource", "resource": { "name": "memory", "targetAverageValue": "1Gi" } })
    );
    assert_eq!(
        metrics[2]["object"],
        json!({ "target": { "kind": "Service", "name": "s" }, "metricName": "q", "targetValue": "3" })
    );
    // What v1 shows has only fields that v1 has.
    let unknown =
        dray_machinery::schema::conform(&mut shown, dray_machinery::schema::find(old.schema).unwrap())
            .unwrap();
    assert!(unknown.is_empty(), "{unknown:?}");
    (alias.to_stored)(&mut shown);
    assert_eq!(shown, stored);
}

#[test]
fn the_older_version_of_an_autoscaler_has_the_same_rules() {
    let scaler = case(
        "autoscaling/v1 HorizontalPodAutoscaler",
        "spec: {maxReplicas: 5, scaleTargetRef: {kind: Deployment, name: web}}",
    );
    scaler.defaults("{}", "spec: {minReplicas: 1, targetCPUUtilizationPercentage: 80}");
    scaler.refuses(&[
        (
            "spec: {targetCPUUtilizationPercentage: 0}",
            &["spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"],
        ),
        (
            "spec: {maxReplicas: 0}",
            &["spec.maxReplicas: Invalid value: 0…", "spec.maxReplicas: Invalid value: 0…"],
        ),
    ]);
    scaler.shows("{}", json!(["test", "Deployment/web", "cpu: <unknown>/80%", "1", 5, 0, "100s"]));
    assert!(scaler.kind.has(Status));
}

#[test]
fn disruption_budgets() {
    let budget = case("policy/v1 PodDisruptionBudget", "spec: {minAvailable: 1, selector: {}}");
    budget.refuses(&[
        ("spec: {maxUnavailable: 1}", &["spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1,\"selector\":{}}: minAvailable and maxUnavailable cannot be both set"]),
        ("spec: {minAvailable: -1}", &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"]),
        ("spec: {minAvailable: 101%}", &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"]),
        ("spec: {selector: {matchExpressions: [{key: a, operator: In}]}}", &["spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"]),
        ("spec: {unhealthyPodEvictionPolicy: Never}", &["spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""]),
    ]);
    budget.shows("status: {disruptionsAllowed: 2}", json!(["test", "1", "N/A", 2, "100s"]));
}

#[test]
fn quotas_and_limits() {
    let quota = case("v1 ResourceQuota", "spec: {hard: {pods: 5, requests.cpu: 1, count/jobs.batch: 2}}");
    quota.refuses(&[
        ("spec: {hard: {pods: 1500m}}", &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"]),
        (
            "spec: {hard: {cpu: -1}}",
            &["spec.hard[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
        ),
        (
            "spec: {hard: {things: 1}}",
            &["spec.hard[things]: Invalid value: \"things\": must be a standard resource for quota"],
        ),
        (
            "spec: {scopes: [BestEffort, NotBestEffort], hard: {requests.cpu: null}}",
            &["spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes"],
        ),
        (
            "spec: {scopes: [BestEffort]}",
            &["spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource"],
        ),
        ("spec: {scopes: [Some]}", &["spec.scopes: Invalid value: [\"Some\"]: unsupported scope"]),
    ]);
    quota.refuses_updates(&[(
        "spec: {scopes: [Terminating]}",
        &["spec.scopes: Invalid value: [\"Terminating\"]: field is immutable"],
    )]);
    quota.shows(
        "status: {hard: {pods: 5, limits.cpu: 2}, used: {pods: 1}}",
        json!(["test", "pods: 1/5", "limits.cpu: 0/2", "100s"]),
    );
    let range = case("v1 LimitRange", "spec: {limits: [{type: Container, max: {cpu: 2}, min: {cpu: 1}}]}");
    range.defaults("{}", "spec: {limits: [{type: Container, max: {cpu: '2'}, min: {cpu: '1'}, default: {cpu: '2'}, defaultRequest: {cpu: '2'}}]}");
    range.refuses(&[
        ("spec: {limits: [{type: Pod, max: {cpu: 1}, min: {cpu: 2}}]}", &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"]),
        ("spec: {limits: [{type: Pod, default: {cpu: 1}}]}", &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"]),
        ("spec: {limits: [{type: PersistentVolumeClaim}]}", &["spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"]),
        ("spec: {limits: [{type: Pod}, {type: Pod}]}", &["spec.limits[1].type: Duplicate value: \"Pod\""]),
        ("spec: {limits: [{type: Pod, maxLimitRequestRatio: {cpu: 500m}}]}", &["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"]),
    ]);
}

#[test]
fn priorities_and_leases() {
    let class = case("scheduling.k8s.io/v1 PriorityClass", "value: 5");
    class.defaults("{}", "preemptionPolicy: PreemptLowerPriority");
    class.refuses(&[
        ("value: 1000000001", &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]),
        ("metadata: {name: system-mine}", &["metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: \"system-mine\" is not a known system priority class"]),
        ("{metadata: {name: system-node-critical}, value: 2000001000}", &[]),
        ("preemptionPolicy: Some", &["preemptionPolicy: Unsupported value: \"Some\": supported values: \"Never\", \"PreemptLowerPriority\""]),
    ]);
    class.refuses_updates(&[
        ("value: 6", &["value: Forbidden: may not be changed in an update."]),
        ("preemptionPolicy: Never", &["preemptionPolicy: Invalid value: \"Never\": field is immutable"]),
    ]);
    class.shows("{}", json!(["test", 5, false, "100s", "PreemptLowerPriority"]));
    let lease = case("coordination.k8s.io/v1 Lease", "spec: {holderIdentity: me}");
    lease.refuses(&[
        (
            "spec: {leaseDurationSeconds: 0}",
            &["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"],
        ),
        (
            "spec: {leaseTransitions: -1}",
            &["spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (
            "spec: {preferredHolder: you}",
            &["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"],
        ),
    ]);
    lease.shows("{}", json!(["test", "me", "100s"]));
}
