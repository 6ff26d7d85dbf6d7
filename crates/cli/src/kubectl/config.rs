//! The kubeconfig: which server, whom to trust, and who asks.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::{Error, Result};

/// Where the daemon writes one for the administrator.
const DEFAULT_PATH: &str = "/var/lib/dray/kubeconfig";

/// What the client has to know.
#[derive(Clone)]
pub(crate) struct Config {
    /// As `https://127.0.0.1:6443`.
    pub(crate) server: String,
    pub(crate) namespace: String,
    pub(crate) token: Option<String>,
    pub(crate) tls: Arc<ClientConfig>,
}

#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<Named<Cluster>>,
    #[serde(default)]
    users: Vec<Named<User>>,
    #[serde(default)]
    contexts: Vec<Named<Context>>,
    #[serde(default, rename = "current-context")]
    current_context: String,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(flatten)]
    value: T,
}

#[derive(Deserialize)]
struct Cluster {
    cluster: ClusterFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterFields {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct User {
    user: UserFields,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserFields {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

#[derive(Deserialize)]
struct Context {
    context: ContextFields,
}

#[derive(Deserialize)]
struct ContextFields {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

fn find<'a, T>(all: &'a [Named<T>], kind: &str, name: &str) -> Result<&'a T> {
    let found = all.iter().find(|named| named.name == name).map(|named| &named.value);
    found.ok_or_else(|| Error::invalid("kubeconfig", format!("it has no {kind} {name:?}")))
}

/// The PEM text that stands in the file, or in the file that it names.
fn pem(data: Option<&String>, file: Option<&PathBuf>, beside: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(data) = data {
        let bytes = STANDARD.decode(data.trim());
        return bytes.map(Some).map_err(|error| Error::invalid("kubeconfig", error.to_string()));
    }
    let Some(file) = file else { return Ok(None) };
    let path = beside.parent().unwrap_or(Path::new("/")).join(file);
    fs::read(&path).map(Some).map_err(Error::io("read", path))
}

impl Config {
    /// Reads the file that was named, or `$KUBECONFIG`, or the administrator's.
    pub(crate) fn load(path: Option<&Path>, context: Option<&str>) -> Result<Self> {
        let given = path.map(Path::to_owned).or_else(|| {
            let paths = env::var_os("KUBECONFIG")?;
            env::split_paths(&paths).find(|path| !path.as_os_str().is_empty())
        });
        let home = || env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
        let path = given.or_else(home).unwrap_or_else(|| DEFAULT_PATH.into());
        let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let file: Kubeconfig = serde_yaml_ng::from_str(&text)
            .map_err(|error| Error::invalid(format!("kubeconfig {}", path.display()), error.to_string()))?;
        let context = &find(&file.contexts, "context", context.unwrap_or(&file.current_context))?.context;
        let cluster = &find(&file.clusters, "cluster", &context.cluster)?.cluster;
        let user = &find(&file.users, "user", &context.user)?.user;
        Ok(Self {
            server: cluster.server.trim_end_matches('/').to_owned(),
            namespace: context.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            token: user.token.clone(),
            tls: Arc::new(tls(cluster, user, &path)?),
        })
    }
}

fn tls(cluster: &ClusterFields, user: &UserFields, path: &Path) -> Result<ClientConfig> {
    let bad = |error: &dyn std::fmt::Display| Error::invalid("kubeconfig", error.to_string());
    let mut roots = RootCertStore::empty();
    let authority =
        pem(cluster.certificate_authority_data.as_ref(), cluster.certificate_authority.as_ref(), path)?;
    for certificate in CertificateDer::pem_slice_iter(&authority.unwrap_or_default()) {
        roots.add(certificate.map_err(|error| bad(&error))?).map_err(|error| bad(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_root_certificates(roots);
    let certificate = pem(user.client_certificate_data.as_ref(), user.client_certificate.as_ref(), path)?;
    let key = pem(user.client_key_data.as_ref(), user.client_key.as_ref(), path)?;
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(&certificate).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| bad(&error))?;
    builder.with_client_auth_cert(chain.map_err(|error| bad(&error))?, key).map_err(|error| bad(&error))
}
