//! An API server in this process, for tests that ask it without a network.
#![allow(missing_docs, unreachable_pub, reason = "helpers of tests are tests")]

use std::path::Path;

use dray_apiserver::{ApiServer, Config};

/// Opens a server, with no node behind it, on what is in a directory.
pub async fn open(directory: &Path) -> ApiServer {
    let config = Config {
        data_dir: directory.to_owned(),
        service_cidr: "10.43.0.0/16".into(),
        advertise_address: "192.0.2.1:6443".parse().unwrap(),
        names: Vec::new(),
        node_connector: None,
        extensions: Vec::new(),
    };
    ApiServer::open(config).await.unwrap()
}
