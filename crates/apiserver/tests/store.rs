//! A store that is not as it is by default, as kubectl sees it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use dray_apiserver::{EtcdConfig, StoreConfig};
use support::{Cluster, cluster, cluster_on};

const CREATE: &[&str] = &["create", "-f", "-"];

fn config_map(name: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}, data: {{text: {text}}}}}")
}

fn size(cluster: &Cluster) -> u64 {
    let metrics = cluster.ok(&["get", "--raw", "/metrics"], "");
    let line = metrics.lines().find(|line| line.starts_with("apiserver_storage_size_bytes")).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_full_store_says_so_and_takes_deletes() {
    let empty = size(&cluster());
    // Room for two of these beside what every cluster has.
    let quota = empty + 250_000;
    let cluster = cluster_on(StoreConfig { quota_bytes: Some(quota), ..StoreConfig::default() });
    cluster.ok(CREATE, &config_map("first", 100_000));
    cluster.ok(CREATE, &config_map("second", 100_000));
    let refused = cluster.refused(CREATE, &config_map("third", 100_000));
    assert!(refused.contains("etcdserver: mvcc: database space exceeded"), "{refused}");
    let smaller = r#"{"data":{"text":"x"}}"#;
    cluster.ok(&["patch", "configmap", "first", "--type=merge", "-p", smaller], "");
    cluster.ok(&["delete", "configmap", "second"], "");
    assert!(size(&cluster) < quota);
    cluster.ok(CREATE, &config_map("third", 100_000));
}

fn encryption(path: &std::path::Path, providers: &str) {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
         resources: [{{resources: [secrets, things.example.com], providers: [{providers}]}}]\n"
    );
    // As editors and volumes do: readers never see half a file.
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

#[test]
fn secrets_are_encrypted_and_keys_exchanged_while_the_server_runs() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("encryption.yaml");
    let key = |name: &str| {
        format!(
            "{{aesgcm: {{keys: [{{name: {name}, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}}]}}}}"
        )
    };
    encryption(&file, &format!("{}, {{identity: {{}}}}", key("first")));
    let mut cluster = cluster_on(StoreConfig { encryption: Some(file.clone()), ..StoreConfig::default() });
    let store = cluster.directory.path().join("store");
    let found = |text: &str| {
        let files =
            std::fs::read_dir(&store).unwrap().filter_map(|file| std::fs::read(file.unwrap().path()).ok());
        files.filter(|content| content.windows(text.len()).any(|window| window == text.as_bytes())).count()
    };
    cluster.ok(&["create", "secret", "generic", "s", "--from-literal=password=swordfish"], "");
    cluster.ok(&["create", "configmap", "c", "--from-literal=word=halibut"], "");
    // What is stored of it is base64.
    assert_eq!((found("c3dvcmRmaXNo"), found("swordfish")), (0, 0));
    assert!(found("halibut") > 0 && found("k8s:enc:aesgcm:v1:first:") > 0);
    encryption(&file, &format!("{}, {}", key("second"), key("first")));
    dray_testkit::eventually("the secrets to be written anew", std::time::Duration::from_secs(20), || {
        (found("k8s:enc:aesgcm:v1:first:") == 0).then_some(())
    });
    encryption(&file, &key("second"));
    cluster.restart();
    let secret = cluster.ok(&["get", "secret", "s", "-o", "jsonpath={.data.password}"], "");
    assert_eq!(secret, "c3dvcmRmaXNo");
    assert_eq!((found("c3dvcmRmaXNo"), found("k8s:enc:aesgcm:v1:first:")), (0, 0));
}

/// An etcd of one member, while it lives.
struct Etcd {
    process: std::process::Child,
    config: EtcdConfig,
    _directory: tempfile::TempDir,
}

impl Etcd {
    fn start() -> Etcd {
        let directory = tempfile::tempdir().unwrap();
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [client, peer] = listeners.map(|listener| format!("http://{}", listener.local_addr().unwrap()));
        let process = std::process::Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("this test needs etcd: install etcd-server");
        let config =
            EtcdConfig { endpoints: vec![client], prefix: "/dray".to_owned(), ..EtcdConfig::default() };
        Etcd { process, config, _directory: directory }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn two_servers_share_an_etcd() {
    let mut etcd = Etcd::start();
    let store = || StoreConfig { etcd: Some(etcd.config.clone()), ..StoreConfig::default() };
    let servers = [cluster_on(store()), cluster_on(store())];
    let get = ["get", "configmap", "c", "-o", "jsonpath={.data.text}"];
    servers[0].ok(CREATE, &config_map("c", 3));
    assert_eq!(servers[0].ok(&get, ""), "xxx");
    let seen = |server: &Cluster, text: &str| {
        dray_testkit::eventually("the other server to see it", std::time::Duration::from_secs(20), || {
            let said = server.run(&get, "");
            (said.success && said.stdout == text).then_some(())
        });
    };
    seen(&servers[1], "xxx");
    servers[1].ok(&["patch", "configmap", "c", "--type=merge", "-p", r#"{"data":{"text":"y"}}"#], "");
    assert_eq!(servers[1].ok(&get, ""), "y");
    seen(&servers[0], "y");
    let refused = servers[0].refused(CREATE, &config_map("c", 3));
    assert!(refused.contains("AlreadyExists"), "{refused}");
    servers[0].ok(&["delete", "configmap", "c"], "");
    // Without etcd reads go on and writes say what is missing.
    etcd.process.kill().unwrap();
    etcd.process.wait().unwrap();
    servers[1].ok(&["get", "namespaces"], "");
    let refused = servers[1].refused(CREATE, &config_map("d", 3));
    assert!(refused.contains("etcd is not available"), "{refused}");
}
