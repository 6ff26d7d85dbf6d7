//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use dray_build::pressure::Pressure;
use dray_cli::docker::DockerCommand;
use dray_cli::kubectl::{GlobalOptions, KubectlCommand};
use dray_engine::{DefaultPool, Led};
use dray_scheduler::Profile;

/// A container engine and a Kubernetes cluster in one daemon.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Arguments {
    /// Where the Docker API listens, for commands that use it.
    #[arg(short = 'H', long, global = true)]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground.
    Up(Box<UpOptions>),
    /// Stop the daemon; containers go on, unless --all is given.
    Down(DownOptions),
    /// Run a registry (OCI distribution) over an image store of its own, in the foreground.
    Registry(RegistryOptions),
    /// Keep the cluster's objects, certificates and keys in a file, whether a daemon runs or not.
    Backup(BackupOptions),
    /// Make a cluster of a backup, where there is none.
    Restore(RestoreOptions),
    /// Say what the host offers and what it lacks.
    Doctor,
    /// Run containers from OCI bundles, with the command line of runc.
    #[command(disable_help_flag = true)]
    Runtime {
        /// See `dray runtime --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    #[command(flatten)]
    Docker(DockerCommand),
    /// Talk to the Kubernetes API: get, apply, logs and the like.
    Kubectl(KubectlOptions),
}

/// Options of `dray kubectl`.
#[derive(Debug, Args)]
pub(crate) struct KubectlOptions {
    #[command(flatten)]
    pub(crate) options: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: KubectlCommand,
}

/// A path that stays right when somebody works in another directory.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Options of `dray up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpOptions {
    /// Where images, containers and the cluster's objects are kept.
    #[arg(long, default_value = "/var/lib/dray", value_parser = absolute)]
    pub(crate) data_dir: PathBuf,
    /// Where sockets and namespaces are kept.
    #[arg(long, default_value = "/run/dray", value_parser = absolute)]
    pub(crate) run_dir: PathBuf,
    /// Where the Kubernetes API listens.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub(crate) api_listen: SocketAddr,
    /// This machine's name in the cluster; the host's name by default.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// Where the Docker API listens; RUN_DIR/docker.sock by default.
    #[arg(long, value_parser = absolute)]
    pub(crate) docker_socket: Option<PathBuf>,
    /// Give containers a user namespace: default, USER[:GROUP] of /etc/subuid and /etc/subgid, or FIRST-LAST.
    #[arg(long, value_name = "USERS")]
    pub(crate) userns_remap: Option<String>,
    /// Cut the subnets of new networks from these addresses, base=SUBNET,size=BITS; can be given more than once.
    #[arg(long = "default-address-pool", value_name = "POOL")]
    pub(crate) default_address_pools: Vec<DefaultPool>,
    /// Lead connections to published ports of 127.0.0.1 straight to the container: those of the processes of this control
    /// group of the unified hierarchy, a directory, or of all or none; DRAY_CONNECT_GROUP or all by default
    #[arg(long, value_name = "GROUP")]
    pub(crate) connect_group: Option<String>,
    /// Pull images of docker.io from this URL first; can be given more than once.
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub(crate) registry_mirrors: Vec<String>,
    /// Take any certificate, and none, from this registry or network; can be given more than once.
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]|CIDR")]
    pub(crate) insecure_registries: Vec<String>,
    /// Give up the build cache, and then images that a registry has, when the disk is this full, in percent; 100 means never.
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) image_gc_high_threshold: u8,
    /// Stop giving up when the disk is less full than this.
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) image_gc_low_threshold: u8,
    /// Look at the disk this often.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) image_gc_period: u64,
    /// Keep what was used less long ago.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub(crate) minimum_image_ttl: u64,
    /// Give out and take in images as a registry at this address.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) registry: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) registry_access: RegistryAccess,
    #[command(flatten)]
    pub(crate) audit: AuditOptions,
    /// Place pods that ask for the scheduler NAME by other preferences: KEY is a score with its weight, or strategy with
    /// LeastAllocated or MostAllocated; can be given more than once.
    #[arg(long = "scheduler-profile", value_name = "NAME[:KEY=VALUE,...]")]
    pub(crate) scheduler_profiles: Vec<Profile>,
    #[command(flatten)]
    pub(crate) store: StoreOptions,
}

/// Where and how the cluster's objects are kept.
#[derive(Clone, Debug, Args)]
pub(crate) struct StoreOptions {
    /// Take no more objects when all of them together have this many bytes; deletes are always taken.
    #[arg(long = "quota-backend-bytes", value_name = "BYTES", default_value_t = 2 * 1024 * 1024 * 1024)]
    pub(crate) quota_backend_bytes: u64,
    /// Encrypt objects on the disk as this file says (EncryptionConfiguration of apiserver.config.k8s.io/v1); it is read again,
    /// and everything written anew, when it changes.
    #[arg(long = "encryption-provider-config", value_name = "FILE", value_parser = absolute)]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Keep the cluster's objects in this etcd, which other servers may share, in place of files: URLs of its members.
    #[arg(long = "etcd-servers", value_name = "URL", value_delimiter = ',')]
    pub(crate) etcd_servers: Vec<String>,
    /// Whose certificates the members of etcd may have, a PEM file.
    #[arg(long = "etcd-cafile", value_name = "FILE", value_parser = absolute, requires = "etcd_servers")]
    pub(crate) etcd_cafile: Option<PathBuf>,
    /// The certificate by which etcd knows this server, a PEM file.
    #[arg(long = "etcd-certfile", value_name = "FILE", value_parser = absolute, requires_all = ["etcd_servers", "etcd_keyfile"])]
    pub(crate) etcd_certfile: Option<PathBuf>,
    /// The key of that certificate, a PEM file.
    #[arg(long = "etcd-keyfile", value_name = "FILE", value_parser = absolute, requires = "etcd_certfile")]
    pub(crate) etcd_keyfile: Option<PathBuf>,
    /// What the keys in etcd begin with.
    #[arg(long = "etcd-prefix", value_name = "PREFIX", default_value = "/dray")]
    pub(crate) etcd_prefix: String,
}

impl StoreOptions {
    /// Whether other servers may work on the same objects.
    pub(crate) fn is_shared(&self) -> bool {
        !self.etcd_servers.is_empty()
    }

    /// What the API server is told.
    pub(crate) fn config(&self) -> dray_apiserver::StoreConfig {
        dray_apiserver::StoreConfig {
            quota_bytes: Some(self.quota_backend_bytes),
            encryption: self.encryption_provider_config.clone(),
            etcd: self.is_shared().then(|| dray_apiserver::EtcdConfig {
                endpoints: self.etcd_servers.clone(),
                authority: self.etcd_cafile.clone(),
                identity: self.etcd_certfile.clone().zip(self.etcd_keyfile.clone()),
                prefix: self.etcd_prefix.clone(),
            }),
        }
    }
}

/// What is written of requests to the Kubernetes API.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditOptions {
    /// Write an audit log of the Kubernetes API by this policy (audit.k8s.io/v1), a YAML file.
    #[arg(long = "audit-policy-file", value_name = "FILE", value_parser = absolute, requires = "audit_log_path")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// The audit log; - is the standard output.
    #[arg(long = "audit-log-path", value_name = "FILE", requires = "audit_policy_file")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// Put the audit log aside when it is this large, in MiB; 0 means never.
    #[arg(long = "audit-log-maxsize", default_value_t = 100, value_name = "MEBIBYTES")]
    pub(crate) audit_log_maxsize: u32,
    /// Keep this many audit logs that were put aside; 0 means all.
    #[arg(long = "audit-log-maxbackup", default_value_t = 0, value_name = "COUNT")]
    pub(crate) audit_log_maxbackup: u32,
    /// Delete audit logs that were put aside after this many days; 0 means never.
    #[arg(long = "audit-log-maxage", default_value_t = 0, value_name = "DAYS")]
    pub(crate) audit_log_maxage: u32,
}

impl AuditOptions {
    /// What the API server is told, when there is to be a log.
    pub(crate) fn audit(&self) -> Option<dray_apiserver::Audit> {
        let rotation = dray_apiserver::Rotation {
            days: self.audit_log_maxage,
            files: self.audit_log_maxbackup,
            mebibytes: self.audit_log_maxsize,
        };
        let (policy, log) = (self.audit_policy_file.clone()?, self.audit_log_path.clone()?);
        Some(dray_apiserver::Audit { policy, log, rotation })
    }
}

/// Whom a registry serves, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct RegistryAccess {
    /// The registry's users, a file as `htpasswd -B` writes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) htpasswd: Option<PathBuf>,
    /// Give the registry's users bearer tokens in place of basic authentication.
    #[arg(long, requires = "htpasswd")]
    pub(crate) tokens: bool,
    /// Let anybody pull: give tokens for that without a password.
    #[arg(long, requires = "tokens")]
    pub(crate) anonymous_pull: bool,
    /// Take the tokens of another authority, which gives them at this URL.
    #[arg(long, value_name = "URL", requires_all = ["token_service", "token_issuer", "token_key"], conflicts_with = "htpasswd")]
    pub(crate) token_realm: Option<String>,
    /// By which name that authority knows the registry.
    #[arg(long, value_name = "NAME")]
    pub(crate) token_service: Option<String>,
    /// By which name that authority signs.
    #[arg(long, value_name = "NAME")]
    pub(crate) token_issuer: Option<String>,
    /// The public key of that authority, a PEM file.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_key: Option<PathBuf>,
    /// The registry's certificate with those between it and its authority, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key of that certificate, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// Options of `dray registry`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RegistryOptions {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Where its images are kept.
    #[arg(long, default_value = "/var/lib/dray-registry", value_parser = absolute, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Give out what the registry at this URL has, keep it, and take nothing from clients.
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,
    /// Take any certificate, and none, from the mirrored registry if it is this one.
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]|CIDR")]
    pub(crate) insecure_registries: Vec<String>,
    /// Do not serve: remove what no manifest is made of, and tell how much that was.
    #[arg(long)]
    pub(crate) collect_garbage: bool,
    #[command(flatten)]
    pub(crate) access: RegistryAccess,
}

impl UpOptions {
    /// Whose connections are led.
    pub(crate) fn led(&self) -> Led {
        let variable = || std::env::var("DRAY_CONNECT_GROUP").ok().filter(|group| !group.is_empty());
        match self.connect_group.clone().or_else(variable).as_deref() {
            None | Some("all") => Led::Everybody,
            Some("none") => Led::Nobody,
            Some(group) => Led::Group(group.into()),
        }
    }

    /// When to give up what can be had again.
    pub(crate) fn pressure(&self) -> Pressure {
        Pressure {
            high: self.image_gc_high_threshold,
            low: self.image_gc_low_threshold.min(self.image_gc_high_threshold),
            period: Duration::from_secs(self.image_gc_period),
            least_age: Duration::from_secs(self.minimum_image_ttl),
        }
    }

    /// The node's name: what was given, or the host's name in lower case.
    pub(crate) fn node_name(&self) -> String {
        self.node_name
            .clone()
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase())
    }

    /// Where the node agent has its files.
    pub(crate) fn node_dir(&self) -> PathBuf {
        self.data_dir.join("node")
    }
}

/// Options of `dray backup`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BackupOptions {
    /// The file to write. Whoever reads it can act as the cluster's administrator.
    #[arg(value_parser = absolute)]
    pub(crate) file: PathBuf,
    /// The data directory of the daemon.
    #[arg(long, default_value = "/var/lib/dray", value_parser = absolute)]
    pub(crate) data_dir: PathBuf,
}

/// Options of `dray restore`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreOptions {
    /// A file that `dray backup` wrote.
    #[arg(value_parser = absolute)]
    pub(crate) file: PathBuf,
    /// The data directory of the daemon that will go on with it.
    #[arg(long, default_value = "/var/lib/dray", value_parser = absolute)]
    pub(crate) data_dir: PathBuf,
}

/// Options of `dray down`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DownOptions {
    /// The run directory of the daemon to stop.
    #[arg(long, default_value = "/run/dray", value_parser = absolute)]
    pub(crate) run_dir: PathBuf,
    /// Stop the containers too, and take links and packet rules away.
    #[arg(long)]
    pub(crate) all: bool,
}
