//! Debian's etcd on loopback addresses: members that are started, killed and started again.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use dray_store::{Encryption, Error, EtcdConfig, Limits, Store};

/// Where TLS needs its files.
pub struct Tls {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

/// An etcd.
pub struct Members {
    directory: tempfile::TempDir,
    members: Vec<Member>,
    tls: Option<Tls>,
}

/// Ports that nobody listens on.
fn ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Members {
    pub fn start(count: usize, tls: Option<Tls>) -> Members {
        let ports = ports(count * 2);
        let members = ports.chunks(2).enumerate().map(|(number, ports)| Member {
            name: format!("m{number}"),
            client: ports[0],
            peer: ports[1],
            process: None,
        });
        let mut etcd = Members { directory: super::common::scratch(), members: members.collect(), tls };
        for number in 0..count {
            etcd.revive(number);
        }
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Starts a member, with what it had if it lived before.
    pub fn revive(&mut self, number: usize) {
        let cluster =
            self.members.iter().map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let member = &self.members[number];
        let client = format!("{}://127.0.0.1:{}", self.scheme(), member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.directory.path().join(&member.name))
            .args(["--name", &member.name, "--initial-cluster", &cluster])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--heartbeat-interval=50", "--election-timeout=500", "--unsafe-no-fsync"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.authority);
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
        }
        let process = command.spawn().expect("these tests need etcd: install etcd-server");
        self.members[number].process = Some(process);
    }

    pub fn kill(&mut self, number: usize) {
        let mut process = self.members[number].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Which of them leads.
    pub fn leader(&self) -> usize {
        // The gateway of etcd answers JSON: a leader's own identity is that of the leader.
        let leads = |member: &Member| {
            use std::io::{Read as _, Write as _};
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", member.client)).ok()?;
            let head = "POST /v3/maintenance/status HTTP/1.1\r\nHost: e\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
            stream.write_all(head.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let field = |name: &str| {
                let (_, rest) = answer.split_once(&format!("\"{name}\":\""))?;
                Some(rest.split_once('"')?.0.to_owned())
            };
            Some(field("leader")? == field("member_id")?)
        };
        dray_testkit::eventually("a leader", Duration::from_secs(30), || {
            self.members.iter().position(|member| leads(member) == Some(true))
        })
    }

    pub fn config(&self, prefix: &str) -> EtcdConfig {
        let url = |member: &Member| format!("{}://127.0.0.1:{}", self.scheme(), member.client);
        let tls = self.tls.as_ref();
        EtcdConfig {
            endpoints: self.members.iter().map(url).collect(),
            authority: tls.map(|tls| tls.authority.clone()),
            identity: tls.map(|tls| (tls.certificate.clone(), tls.key.clone())),
            prefix: prefix.to_owned(),
        }
    }

    pub fn open(&self, prefix: &str) -> Result<Store, Error> {
        self.open_with(prefix, Limits::default(), Encryption::default())
    }

    /// The store, opened on a thread that may wait.
    pub fn open_with(&self, prefix: &str, limits: Limits, encryption: Encryption) -> Result<Store, Error> {
        let config = self.config(prefix);
        std::thread::spawn(move || Store::in_etcd(&config, limits, encryption)).join().unwrap()
    }

    /// Compacts all that is past, as etcd's own client does.
    pub fn compact(&self, revision: u64) {
        let member = self.members.iter().find(|member| member.process.is_some()).unwrap();
        let status = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("{}://127.0.0.1:{}", self.scheme(), member.client)])
            .args(["compaction", &revision.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("these tests need etcdctl: install etcd-client").success());
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut process) = member.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}
