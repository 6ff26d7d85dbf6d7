//! A store that is not as it is by default, as kubectl sees it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use dray_apiserver::StoreConfig;
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
