//! What differs between versions of the Docker API, asked as clients of these versions do.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use common::Daemon;
use serde_json::{Value, json};

#[test]
fn each_version_is_answered_as_it_expects() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    assert_eq!(daemon.get("/version")["ApiVersion"], "1.53");
    let answer = daemon.post("/v1.54/containers/create", &json!({}));
    assert!(answer.contains("400 Bad Request") && answer.contains("Maximum supported API version is 1.53"));
    daemon.ok(&[
        "run",
        "-d",
        "--name",
        "cc",
        "box",
        "sh",
        "-c",
        "head -c 5000 /dev/zero > /file; sleep 1000",
    ]);
    daemon.ok(&["create", "--name", "idle", "-v", "/anonymous", "box", "true"]);

    let inspect = |version: &str| daemon.get(&format!("/v{version}/containers/cc/json"));
    let (old, new) = (inspect("1.51"), inspect("1.52"));
    let address = &new["NetworkSettings"]["Networks"]["bridge"]["IPAddress"];
    assert!(address.as_str().is_some_and(|address| address.starts_with("172.")), "{new}");
    assert_eq!(old["NetworkSettings"]["IPAddress"], *address);
    assert_eq!(old["NetworkSettings"]["Bridge"], "");
    assert_eq!(new["NetworkSettings"].get("IPAddress"), None);
    assert_eq!(new["NetworkSettings"]["Ports"], old["NetworkSettings"]["Ports"]);
    assert_eq!((old["Config"].get("OnBuild"), new["Config"].get("OnBuild")), (Some(&Value::Null), None));

    let image = |version: &str| daemon.get(&format!("/v{version}/images/box/json"));
    assert_eq!(image("1.49")["Config"]["Hostname"], "");
    assert_eq!(image("1.50")["Config"].get("Hostname"), None);
    assert_eq!(image("1.51")["Author"], "");
    assert_eq!(image("1.52").get("Author"), None);
    assert_eq!(
        (image("1.43")["VirtualSize"].clone(), image("1.44").get("VirtualSize")),
        (image("1.44")["Size"].clone(), None)
    );

    let network = |version: &str| daemon.get(&format!("/v{version}/networks/bridge"));
    assert_eq!(network("1.51").get("Status"), None);
    let network = network("1.52");
    let subnet = network["IPAM"]["Config"][0]["Subnet"].as_str().unwrap();
    // The network's own address, its broadcast address, the gateway and the one that runs.
    let wanted = json!({ "IPsInUse": 4, "DynamicIPsAvailable": 65_532 });
    assert_eq!(network["Status"]["IPAM"]["Subnets"][subnet], wanted, "{network}");

    let old = daemon.get("/v1.51/system/df");
    assert_eq!((old["Containers"].as_array().unwrap().len(), old.get("ContainerUsage")), (2, None));
    let both = daemon.get("/v1.53/system/df");
    assert_eq!(both["LayersSize"], both["ImageUsage"]["TotalSize"]);
    assert_eq!(
        (&both["ImageUsage"]["ActiveCount"], both["ImageUsage"].get("Reclaimable")),
        (&json!(1), None)
    );
    let new = daemon.get("/v1.53/system/df?verbose=1");
    assert_eq!(new.get("Containers"), None);
    let containers = &new["ContainerUsage"];
    assert_eq!(
        (&containers["TotalCount"], &containers["ActiveCount"]),
        (&json!(2), &json!(1)),
        "{containers}"
    );
    assert!(containers["TotalSize"].as_u64().unwrap() >= 5000, "{containers}");
    assert_eq!(containers["Items"].as_array().unwrap().len(), 2);
    assert_eq!(new["VolumeUsage"]["Items"][0]["UsageData"]["RefCount"], 1);
    let some = daemon.get("/v1.53/system/df?type=volume");
    assert_eq!((&some["Images"], some.get("ImageUsage")), (&Value::Null, None));

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let event = |version: &str| {
        let filters = "%7B%22event%22%3A%5B%22create%22%5D%2C%22type%22%3A%5B%22container%22%5D%7D";
        let path = format!("/v{version}/events?since=0&until={}&filters={filters}", now + 1);
        let answer = daemon.request("GET", &path, "");
        let line = answer.lines().find(|line| line.starts_with('{')).unwrap();
        (answer.to_lowercase(), serde_json::from_str::<Value>(line).unwrap())
    };
    let (head, old) = event("1.51");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert_eq!((&old["status"], &old["id"]), (&json!("create"), &old["Actor"]["ID"]));
    let (head, new) = event("1.53");
    assert!(head.contains("content-type: application/jsonl\r\n"), "{head}");
    assert_eq!((&new["Action"], new.get("status")), (&json!("create"), None));

    // An empty list of bindings is one to any port.
    let body = json!({ "Image": "box", "Cmd": ["sleep", "1000"], "MacAddress": "02:42:ac:11:00:77",
        "HostConfig": { "PortBindings": { "80/tcp": [] } } });
    for (version, warns) in [("1.51", false), ("1.52", true)] {
        let answer = daemon.post(&format!("/v{version}/containers/create?name=v{version}"), &body);
        assert_eq!(answer.contains("have an empty list of port-bindings: 80/tcp"), warns, "{answer}");
        let name = format!("v{version}");
        daemon.ok(&["start", &name]);
        let ports = daemon.ok(&["port", &name, "80/tcp"]);
        assert!(ports.starts_with("0.0.0.0:"), "{ports}");
        let mac = daemon.ok(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.MacAddress}}", &name]);
        assert_eq!(mac == "02:42:ac:11:00:77", !warns, "an address of the container as a whole: {mac}");
    }
}
