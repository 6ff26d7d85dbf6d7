//! Start, end, restart, probes, adoption.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use libtest_mimic::Trial;
use serde_json::json;

use crate::trial;
use crate::world::{NODE, World, condition, container, is_ready, processes, waiting_reason};

pub fn all() -> Vec<Trial> {
    vec![
        trial("the_node_registers_and_is_ready", node_registers),
        trial("a_pod_runs_is_ready_and_goes", pod_runs),
        trial("exit_codes_decide_the_phase", exit_codes),
        trial("a_container_that_crashes_is_started_again_and_backs_off", crashes),
        trial("init_containers_come_first_and_sidecars_stay", init_containers),
        trial("images_that_are_missing_are_told_and_waited_for", missing_images),
        trial("readiness_and_liveness_probes_count", probes),
        trial("a_startup_probe_holds_the_others_back", startup_probe),
        trial("hooks_run", hooks),
        trial("a_restarted_agent_takes_running_pods_over", adoption),
        trial("what_is_left_of_deleted_pods_goes_at_the_start", orphans),
        trial("programs_that_do_not_exist_are_told", start_errors),
        trial("a_deadline_ends_a_pod", deadline),
        trial("many_pods_start_at_once", many),
        trial("pods_come_back_after_everything_was_stopped", reboot),
        trial("a_status_that_is_overwritten_is_told_again", overwritten),
        trial("a_changed_image_replaces_the_container", changed_image),
        trial("a_container_removed_by_hand_is_made_again", removed_by_hand),
        trial("readiness_gates_are_others_to_open", gates),
        trial("an_agent_killed_in_the_middle_goes_on_where_it_was", killed_in_the_middle),
        trial("a_pod_for_which_there_is_no_room_has_failed", rejected),
        trial("nothing_starts_while_everything_is_being_stopped", ended_while_starting),
        trial("a_force_deleted_pod_is_killed", force_delete),
    ]
}

async fn node_registers(world: World) -> World {
    let nodes: Api<Node> = Api::all(world.client.clone());
    let ready = |node: Option<&Node>| {
        node.and_then(|node| node.status.as_ref()?.conditions.as_ref())
            .is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
    };
    let node = await_condition(nodes, NODE, ready).await.unwrap().unwrap();
    let labels = node.metadata.labels.unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], NODE);
    assert_eq!(labels["tier"], "test");
    let status = node.status.unwrap();
    let capacity = status.capacity.unwrap();
    assert_eq!(capacity["pods"].0, "110");
    assert!(capacity["memory"].0.ends_with("Ki"));
    assert_eq!(status.node_info.unwrap().container_runtime_version, "dray://0.1.0");
    assert_eq!(status.addresses.unwrap()[0].address, "127.0.0.1");
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    let lease = await_condition(leases, NODE, |lease: Option<&Lease>| lease.is_some()).await.unwrap();
    assert_eq!(lease.unwrap().spec.unwrap().holder_identity.as_deref(), Some(NODE));
    let table = world.kubectl_ok(&["get", "nodes"]).await;
    assert!(table.contains(NODE) && table.contains("Ready"), "{table}");
    // What somebody says that it has, pods can have.
    let nodes: Api<Node> = Api::all(world.client.clone());
    let patch = Patch::Merge(json!({ "status": { "capacity": { "example.com/thing": "3" } } }));
    nodes.patch_status(NODE, &PatchParams::default(), &patch).await.unwrap();
    let has = |node: Option<&Node>| {
        let allocatable = node.and_then(|node| node.status.as_ref()?.allocatable.as_ref());
        allocatable.and_then(|all| all.get("example.com/thing")).is_some_and(|amount| amount.0 == "3")
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), await_condition(nodes, NODE, has)).await;
    waited.expect("the agent does not look again").unwrap();
    world
}

async fn pod_runs(world: World) -> World {
    let begin = Instant::now();
    let made = world
        .pod(
            "web",
            json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "echo up; exec sleep 1000"] }] }),
        )
        .await;
    let pod = world.wait_ready("web").await;
    eprintln!("a bound pod was ready after {:?}", begin.elapsed());
    let uid = made.metadata.uid.unwrap();
    let status = pod.status.clone().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    assert!(status.pod_ip.is_some() && status.start_time.is_some());
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    for kind in ["PodScheduled", "Initialized", "ContainersReady", "PodReadyToStartContainers"] {
        assert_eq!(condition(Some(&pod), kind).as_deref(), Some("True"), "{kind}");
    }
    let one = container(&pod);
    assert!(one.ready && one.started == Some(true) && one.restart_count == 0);
    assert!(one.image_id.starts_with("sha256:"));
    let name = format!("k8s_c_web_default_{uid}_0");
    let record = world.engine().container(&name).unwrap().record();
    assert_eq!(one.container_id, Some(format!("dray://{}", record.id)));
    for event in ["Pulled", "Created Container created: c", "Started Container started: c"] {
        world.wait_event("web", event).await;
    }
    let begin = Instant::now();
    world.delete("web").await;
    world.wait_gone("web").await;
    eprintln!("a pod whose program ignores SIGTERM was gone after {:?}", begin.elapsed());
    assert!(world.engine().container(&name).is_err());
    assert!(world.engine().sandboxes().is_empty());
    world.wait_event("web", "Killing Stopping container c").await;
    world
}

async fn exit_codes(world: World) -> World {
    for (name, script, policy, phase, code, reason) in [
        ("done", "exit 0", "Never", "Succeeded", 0, "Completed"),
        ("failed", "echo because > /dev/termination-log; exit 3", "Never", "Failed", 3, "Error"),
        ("on-failure", "exit 0", "OnFailure", "Succeeded", 0, "Completed"),
    ] {
        let spec = json!({ "restartPolicy": policy, "containers": [{ "name": "c", "command": ["sh", "-c", script] }] });
        world.pod(name, spec).await;
        let pod = world.wait_phase(name, phase).await;
        let terminated = container(&pod).state.unwrap().terminated.unwrap();
        assert_eq!((terminated.exit_code, terminated.reason.as_deref()), (code, Some(reason)), "{name}");
        if code == 3 {
            assert_eq!(terminated.message.as_deref(), Some("because\n"));
        }
    }
    let log = json!({ "restartPolicy": "Never", "containers": [{ "name": "c",
        "terminationMessagePolicy": "FallbackToLogsOnError", "command": ["sh", "-c", "echo said; exit 1"] }] });
    world.pod("log", log).await;
    let pod = world.wait_phase("log", "Failed").await;
    assert_eq!(container(&pod).state.unwrap().terminated.unwrap().message.as_deref(), Some("said\n"));
    assert_eq!(world.logs("log").await, "said\n", "the log of a pod that has ended stays");
    world
}

async fn crashes(world: World) -> World {
    world.pod("crash", json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "exit 5"] }] })).await;
    let backing_off = |pod: Option<&Pod>| waiting_reason(pod).as_deref() == Some("CrashLoopBackOff");
    let pod = world.wait("crash", "backing off", backing_off).await.unwrap();
    let one = container(&pod);
    assert_eq!(one.restart_count, 1, "the first restart comes at once");
    assert_eq!(one.last_state.unwrap().terminated.unwrap().exit_code, 5);
    let message = one.state.unwrap().waiting.unwrap().message.unwrap();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
        "{message}"
    );
    assert_eq!(pod.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert!(!is_ready(Some(&pod)));
    world.wait_event("crash", "BackOff Back-off restarting failed container c").await;
    world
}

async fn init_containers(world: World) -> World {
    let spec = json!({
        "restartPolicy": "Never",
        "volumes": [{ "name": "v", "emptyDir": {} }],
        "initContainers": [
            { "name": "one", "command": ["sh", "-c", "echo 1 >> /v/order"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] },
            { "name": "side", "restartPolicy": "Always", "command": ["sh", "-c", "echo side >> /v/order; sleep 1000"],
              "startupProbe": { "exec": { "command": ["grep", "-q", "side", "/v/order"] }, "periodSeconds": 1 },
              "volumeMounts": [{ "name": "v", "mountPath": "/v" }] },
            { "name": "two", "command": ["sh", "-c", "echo 2 >> /v/order"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] },
        ],
        "containers": [{ "name": "c", "command": ["cat", "/v/order"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }],
    });
    world.pod("init", spec).await;
    let pod = world.wait_phase("init", "Succeeded").await;
    assert_eq!(world.kubectl_ok(&["logs", "init", "-c", "c"]).await, "1\nside\n2\n");
    let init = pod.status.unwrap().init_container_statuses.unwrap();
    let names: Vec<&str> = init.iter().map(|status| status.name.as_str()).collect();
    assert_eq!(names, ["one", "side", "two"]);
    assert!(init[0].ready && init[2].ready);

    let spec = json!({ "restartPolicy": "Never",
        "initContainers": [{ "name": "bad", "command": ["false"] }], "containers": [{ "name": "c", "command": ["true"] }] });
    world.pod("init-fails", spec).await;
    let pod = world.wait_phase("init-fails", "Failed").await;
    assert_eq!(waiting_reason(Some(&pod)).as_deref(), Some("PodInitializing"));
    world
}

async fn missing_images(world: World) -> World {
    for (name, policy, reason) in
        [("never", "Never", "ErrImageNeverPull"), ("missing", "IfNotPresent", "ErrImagePull")]
    {
        let spec = json!({ "containers": [{ "name": "c", "image": "late:1", "imagePullPolicy": policy, "command": ["sleep", "1000"] }] });
        world.pod(name, spec).await;
        let waits = move |pod: Option<&Pod>| waiting_reason(pod).as_deref() == Some(reason);
        world.wait(name, reason, waits).await;
    }
    let backs_off = |pod: Option<&Pod>| waiting_reason(pod).as_deref() == Some("ImagePullBackOff");
    let pod = world.wait("missing", "ImagePullBackOff", backs_off).await.unwrap();
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
    let spec = json!({ "containers": [{ "name": "c", "image": "box:1", "imagePullPolicy": "Always" }] });
    world.pod("always", spec).await;
    world.wait_event("always", "Failed failed to pull image \"box:1\": cannot reach").await;

    // The image comes, and the pods do not wait out their pauses.
    let images = std::sync::Arc::clone(world.engine().images());
    let loaded = tokio::task::spawn_blocking(move || {
        images.load(dray_testkit::busybox_archive("late:1").as_slice()).unwrap()
    })
    .await
    .unwrap();
    let id = world.engine().images().resolve("late:1").unwrap().id;
    assert_eq!(loaded.len(), 1);
    world.engine().image_event("load", &id, "late:1");
    world.wait_ready("missing").await;
    world.wait_ready("never").await;
    world
}

async fn probes(world: World) -> World {
    let script = "mkdir -p /www; echo hi > /www/index.html; touch /tmp/alive; exec httpd -f -p 8080 -h /www";
    let spec = json!({ "containers": [{ "name": "c", "command": ["sh", "-c", script],
        "ports": [{ "name": "http", "containerPort": 8080 }],
        "readinessProbe": { "httpGet": { "path": "/index.html", "port": "http" }, "periodSeconds": 1, "failureThreshold": 1 },
        "livenessProbe": { "exec": { "command": ["test", "-e", "/tmp/alive"] }, "periodSeconds": 1, "failureThreshold": 1 } }] });
    let begin = Instant::now();
    world.pod("probed", spec).await;
    world.wait_ready("probed").await;
    eprintln!("a pod with a readiness probe was ready after {:?}", begin.elapsed());

    world.kubectl_ok(&["exec", "probed", "--", "rm", "/www/index.html"]).await;
    world.wait("probed", "unready", |pod: Option<&Pod>| !is_ready(pod)).await;
    world
        .wait_event("probed", "Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404")
        .await;
    world.kubectl_ok(&["exec", "probed", "--", "touch", "/www/index.html"]).await;
    let pod = world.wait_ready("probed").await;
    let conditions = pod.status.unwrap().conditions.unwrap();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((&ready.reason, &ready.message), (&None, &None), "what was wrong before is not said any more");

    world.kubectl_ok(&["exec", "probed", "--", "rm", "/tmp/alive"]).await;
    let restarted = |pod: Option<&Pod>| pod.is_some_and(|pod| container(pod).restart_count == 1);
    world.wait("probed", "restarted", restarted).await;
    world.wait_ready("probed").await;
    world.wait_event("probed", "Killing Container c failed liveness probe, will be restarted").await;

    let spec = json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"],
        "readinessProbe": { "tcpSocket": { "port": 81 }, "periodSeconds": 1, "failureThreshold": 1 } }] });
    world.pod("closed", spec).await;
    world.wait_phase("closed", "Running").await;
    world.wait_event("closed", "Unhealthy Readiness probe failed: dial tcp").await;
    let spec = json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"],
        "readinessProbe": { "httpGet": { "scheme": "HTTPS", "host": "127.0.0.1", "port": world.address.port(), "path": "/readyz" } } }] });
    world.pod("secure", spec).await;
    world.wait_ready("secure").await;
    assert!(!is_ready(world.pods().get_opt("closed").await.unwrap().as_ref()));
    world
}

async fn startup_probe(world: World) -> World {
    let spec = json!({ "containers": [{ "name": "c", "command": ["sh", "-c", "sleep 1; touch /tmp/up; exec sleep 1000"],
        "startupProbe": { "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1, "failureThreshold": 10 },
        "livenessProbe": { "exec": { "command": ["test", "-e", "/tmp/up"] }, "periodSeconds": 1, "failureThreshold": 1 } }] });
    world.pod("slow", spec).await;
    let running = world.wait_phase("slow", "Running").await;
    assert_eq!(container(&running).started, Some(false));
    let pod = world.wait_ready("slow").await;
    assert_eq!((container(&pod).started, container(&pod).restart_count), (Some(true), 0));
    world
}

async fn hooks(world: World) -> World {
    let directory = world.directory.path().join("hooks");
    std::fs::create_dir(&directory).unwrap();
    let spec = json!({
        "terminationGracePeriodSeconds": 10,
        "volumes": [{ "name": "h", "hostPath": { "path": directory, "type": "Directory" } }],
        "containers": [{ "name": "c", "command": ["sh", "-c", "trap 'echo term >> /h/log; exit 0' TERM; while true; do sleep 0.05; done"],
            "volumeMounts": [{ "name": "h", "mountPath": "/h" }],
            "lifecycle": {
                "postStart": { "exec": { "command": ["sh", "-c", "echo started >> /h/log"] } },
                "preStop": { "exec": { "command": ["sh", "-c", "echo stopping >> /h/log"] } } } }],
    });
    world.pod("hooked", spec).await;
    world.wait_ready("hooked").await;
    let log = || std::fs::read_to_string(directory.join("log")).unwrap();
    assert_eq!(log(), "started\n");
    world.delete("hooked").await;
    world.wait_gone("hooked").await;
    assert_eq!(log(), "started\nstopping\nterm\n");
    assert!(directory.exists(), "a hostPath is not the pod's to delete");
    world
}

async fn adoption(mut world: World) -> World {
    let spec = json!({ "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }],
        "containers": [{ "name": "c", "command": ["sh", "-c", "echo kept > /v/x; echo before; sleep 1000"],
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
            "readinessProbe": { "exec": { "command": ["test", "-e", "/v/x"] }, "periodSeconds": 1 } }] });
    world.pod("stays", spec.clone()).await;
    world.pod("goes", spec).await;
    let before = container(&world.wait_ready("stays").await);
    world.wait_ready("goes").await;
    world.kill_agent().await;
    // While nobody looks, one is killed.
    world.pods().delete("goes", &DeleteParams::default()).await.unwrap();
    world.start_agent().await;
    world.wait_gone("goes").await;
    let after = container(&world.wait_ready("stays").await);
    assert_eq!((after.container_id, after.restart_count), (before.container_id, 0));
    assert_eq!(world.kubectl_ok(&["exec", "stays", "--", "cat", "/v/x"]).await, "kept\n");
    assert_eq!(world.logs("stays").await, "before\n");
    world
}

async fn orphans(mut world: World) -> World {
    world.pod("lost", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("lost").await;
    world.kill_agent().await;
    world.pods().delete("lost", &DeleteParams::default().grace_period(0)).await.unwrap();
    world.wait_gone("lost").await;
    world.start_agent().await;
    let engine = world.engine().clone();
    let gone = async {
        while !engine.containers().is_empty() || !engine.sandboxes().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("left-overs stay");
    world
}

async fn start_errors(world: World) -> World {
    world.pod("nosuch", json!({ "containers": [{ "name": "c", "command": ["nosuch"] }] })).await;
    world.wait_event("nosuch", "Failed Error: ").await;
    let failed = |pod: Option<&Pod>| {
        pod.is_some_and(|pod| {
            let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            status.is_some_and(|all| {
                all[0].last_state.as_ref().is_some_and(|last| {
                    last.terminated
                        .as_ref()
                        .is_some_and(|ended| ended.reason.as_deref() == Some("StartError"))
                })
            })
        })
    };
    let pod = world.wait("nosuch", "failed to start", failed).await.unwrap();
    assert_eq!(container(&pod).last_state.unwrap().terminated.unwrap().exit_code, 128);

    let spec = json!({ "securityContext": { "runAsNonRoot": true }, "containers": [{ "name": "c", "command": ["true"] }] });
    world.pod("root", spec).await;
    let refused = |pod: Option<&Pod>| waiting_reason(pod).as_deref() == Some("CreateContainerConfigError");
    let pod = world.wait("root", "refused", refused).await.unwrap();
    let message = container(&pod).state.unwrap().waiting.unwrap().message.unwrap();
    assert!(message.starts_with("container has runAsNonRoot and image will run as root"), "{message}");
    world
}

async fn deadline(world: World) -> World {
    let spec =
        json!({ "activeDeadlineSeconds": 1, "containers": [{ "name": "c", "command": ["sleep", "1000"] }] });
    world.pod("late", spec).await;
    let pod = world.wait_phase("late", "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    world
}

async fn many(world: World) -> World {
    let begin = Instant::now();
    let names: Vec<String> = (0..10).map(|number| format!("many-{number}")).collect();
    for name in &names {
        world.pod(name, json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    }
    let mut addresses = std::collections::HashSet::new();
    for name in &names {
        addresses.insert(world.wait_ready(name).await.status.unwrap().pod_ip.unwrap());
    }
    eprintln!("ten pods were ready after {:?}", begin.elapsed());
    assert_eq!(addresses.len(), names.len());
    world
}

async fn reboot(mut world: World) -> World {
    let spec = json!({ "volumes": [{ "name": "v", "emptyDir": {} }], "containers": [{ "name": "c",
        "command": ["sh", "-c", "echo run >> /v/runs; exec sleep 1000"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] });
    world.pod("back", spec).await;
    world.wait_ready("back").await;
    world.kill_agent().await;
    world.stop_everything().await;
    world.start_agent().await;
    let restarted =
        |pod: Option<&Pod>| is_ready(pod) && pod.is_some_and(|pod| container(pod).restart_count == 1);
    let pod = world.wait("back", "restarted", restarted).await.unwrap();
    assert_eq!(pod.status.unwrap().pod_ips.unwrap().len(), 1);
    assert_eq!(world.kubectl_ok(&["exec", "back", "--", "cat", "/v/runs"]).await, "run\nrun\n");
    world
}

async fn overwritten(world: World) -> World {
    world.pod("told", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("told").await;
    let patch = json!({ "status": { "conditions": [{ "type": "Ready", "status": "False", "reason": "NodeNotReady" }] } });
    let patched =
        world.pods().patch_status("told", &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
    assert!(!is_ready(Some(&patched)));
    world.wait_ready("told").await;
    world
}

async fn changed_image(world: World) -> World {
    let images = std::sync::Arc::clone(world.engine().images());
    tokio::task::spawn_blocking(move || {
        images.load(dray_testkit::busybox_archive("box:2").as_slice()).unwrap();
    })
    .await
    .unwrap();
    world.pod("new", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("new").await;
    world.kubectl_ok(&["set", "image", "pod/new", "c=box:2"]).await;
    let replaced =
        |pod: Option<&Pod>| is_ready(pod) && pod.is_some_and(|pod| container(pod).restart_count == 1);
    let pod = world.wait("new", "replaced", replaced).await.unwrap();
    assert_eq!(container(&pod).image, "box:2");
    world.wait_event("new", "Killing Container c definition changed, will be restarted").await;
    world
}

async fn force_delete(world: World) -> World {
    let spec = json!({ "terminationGracePeriodSeconds": 600, "containers": [{ "name": "c", "command": ["sleep", "1000"] }] });
    world.pod("stuck", spec).await;
    world.wait_ready("stuck").await;
    // Its program does not end by SIGTERM: only the second word helps.
    world.delete("stuck").await;
    world.wait_event("stuck", "Killing").await;
    world.pods().delete("stuck", &DeleteParams::default().grace_period(0)).await.unwrap();
    world.wait_gone("stuck").await;
    let engine = world.engine().clone();
    let gone = async {
        while !engine.containers().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the container goes on");
    world
}

async fn removed_by_hand(world: World) -> World {
    let made =
        world.pod("kept", json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    world.wait_ready("kept").await;
    let name = format!("k8s_c_kept_default_{}_0", made.metadata.uid.unwrap());
    let handle = world.engine().container(&name).unwrap();
    world.engine().remove(&handle, true, true).await.unwrap();
    let again = |pod: Option<&Pod>| is_ready(pod) && pod.is_some_and(|pod| container(pod).restart_count == 1);
    let pod = world.wait("kept", "running again", again).await.unwrap();
    assert_eq!(container(&pod).last_state.unwrap().terminated.unwrap().exit_code, 137);
    world
}

async fn gates(world: World) -> World {
    let spec = json!({ "readinessGates": [{ "conditionType": "example.com/open" }],
        "containers": [{ "name": "c", "command": ["sleep", "1000"] }] });
    world.pod("gated", spec).await;
    let contained = |pod: Option<&Pod>| condition(pod, "ContainersReady").as_deref() == Some("True");
    let pod = world.wait("gated", "running", contained).await.unwrap();
    assert!(!is_ready(Some(&pod)));
    let patch = json!({ "status": { "conditions": [{ "type": "example.com/open", "status": "True" }] } });
    world.pods().patch_status("gated", &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
    let pod = world.wait_ready("gated").await;
    assert_eq!(condition(Some(&pod), "example.com/open").as_deref(), Some("True"), "others' conditions stay");
    world
}

async fn killed_in_the_middle(mut world: World) -> World {
    for (round, delay) in [0_u64, 5, 12, 25, 60].into_iter().enumerate() {
        let names: Vec<String> = (0..3).map(|number| format!("r{round}-{number}")).collect();
        for name in &names {
            let spec = json!({ "volumes": [{ "name": "v", "emptyDir": { "medium": "Memory" } }],
                "initContainers": [{ "name": "i", "command": ["true"] }],
                "containers": [{ "name": "c", "command": ["sleep", "1000"], "volumeMounts": [{ "name": "v", "mountPath": "/v" }] }] });
            world.pod(name, spec).await;
        }
        // The moment is what is tried out here, not a condition that is waited for.
        tokio::time::sleep(Duration::from_millis(delay)).await;
        world.kill_agent().await;
        world.start_agent().await;
        for name in &names {
            world.wait_ready(name).await;
        }
        let running = world
            .engine()
            .containers()
            .iter()
            .filter(|record| record.state.status == dray_engine::Status::Running)
            .count();
        assert_eq!(running, 3 * (round + 1), "each pod has one container, and no other runs");
        dray_testkit::eventually("processes that belong to nobody to end", Duration::from_secs(10), || {
            (processes() == running).then_some(())
        });
        assert_eq!(world.engine().sandboxes().len(), 3 * (round + 1));
    }
    world
}

async fn rejected(world: World) -> World {
    let port = |port: u16| json!([{ "containerPort": 80, "hostPort": port, "hostIP": "127.0.0.1" }]);
    let spec = |ports: serde_json::Value| {
        json!({ "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "c", "command": ["sleep", "1000"], "ports": ports }] })
    };
    world.pod("first", spec(port(8123))).await;
    world.wait_ready("first").await;
    world.pod("second", spec(port(8123))).await;
    let pod = world.wait_phase("second", "Failed").await;
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    let told = "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(status.message.as_deref(), Some(told));
    assert!(status.container_statuses.is_none() && status.pod_ip.is_none());
    world.wait_event("second", "NodePorts Predicate NodePorts failed").await;
    let much = json!({ "requests": { "cpu": "1000" } });
    world.pod("large", json!({ "containers": [{ "name": "c", "resources": much }] })).await;
    let pod = world.wait_phase("large", "Failed").await;
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(world.engine().containers().len(), 1);
    // What one has given back another can have.
    for name in ["second", "large", "first"] {
        world.delete(name).await;
        world.wait_gone(name).await;
    }
    world.pod("third", spec(port(8123))).await;
    world.wait_ready("third").await;
    world
}

async fn ended_while_starting(world: World) -> World {
    let names: Vec<String> = (0..12).map(|number| format!("pod-{number}")).collect();
    for name in &names {
        world.pod(name, json!({ "containers": [{ "name": "c", "command": ["sleep", "1000"] }] })).await;
    }
    while processes() == 0 {
        tokio::task::yield_now().await;
    }
    world.engine().stop_everything().await;
    assert_eq!((processes(), world.engine().sandboxes().len()), (0, 0));
    // The agent goes on trying, and nothing comes of it.
    let failed = |pod: Option<&Pod>| {
        waiting_reason(pod)
            .is_some_and(|reason| matches!(reason.as_str(), "RunContainerError" | "CrashLoopBackOff"))
    };
    let refused = async {
        loop {
            for name in &names {
                if failed(world.pods().get_opt(name).await.unwrap().as_ref()) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("the agent gave up");
    assert_eq!((processes(), world.engine().sandboxes().len()), (0, 0));
    world
}
