//! The frontend `dockerfile.v0`: what clients say in attributes, as a request to the builder.

use std::collections::{BTreeMap, HashMap};

use dray_build::{
    Attestations, BuildRequest, CacheImport, ContextSource, DockerfileSource, Entitlements, NamedContext,
    NoCache, Platform, Provenance,
};
use dray_engine::{NetworkMode, Resources, Ulimit};
use serde::Deserialize;

use crate::grpc::Status;

/// Attributes by name.
pub(crate) type Attributes = BTreeMap<String, String>;

/// Names of directories unless attributes say otherwise.
const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";
/// Where a client's own addresses are.
const UPLOADS: &str = "http://buildkit-session/";

/// Where the main context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MainContext {
    /// A directory of the client's.
    Local(String),
    /// What the client sends for an address of its own.
    Upload(String),
    /// An address.
    Remote(String),
    /// An input of this name.
    Input,
}

/// A context with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OtherContext {
    Local(String),
    Image(String),
    Remote(String),
    /// An image of a layout that the client lends.
    Layout(ClientLayout),
    /// An input of this name.
    Input(String),
}

/// A layout that a client lends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientLayout {
    /// What the session calls it.
    pub(crate) store: String,
    /// What in it is meant.
    pub(crate) digest: String,
}

/// A build in the words of the frontend.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) request: BuildRequest,
    pub(crate) context: MainContext,
    pub(crate) named: BTreeMap<String, OtherContext>,
    /// Caches of the client's that steps may be taken from.
    pub(crate) caches: Vec<ClientLayout>,
    /// Sessions that have directories, by the directory's name.
    pub(crate) local_sessions: BTreeMap<String, String>,
    /// Keys of directories, by the directory's name.
    pub(crate) shared_keys: HashMap<String, String>,
}

/// A cache as clients name it in JSON.
#[derive(Debug, Deserialize)]
struct CacheEntry {
    #[serde(alias = "type", rename = "Type")]
    kind: String,
    #[serde(alias = "attrs", rename = "Attrs", default)]
    attributes: BTreeMap<String, String>,
}

fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn number<T: std::str::FromStr>(attributes: &Attributes, name: &str) -> Result<Option<T>, Status> {
    match attributes.get(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text
            .parse()
            .map(Some)
            .map_err(|_| Status::invalid(format!("invalid {name}: {text:?} is no number"))),
    }
}

/// Entries of a list that is written with commas, where quotes protect commas.
fn fields(text: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let (mut field, mut is_quoted) = (String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(letter),
        }
    }
    fields.push(field);
    fields.retain(|field| !field.is_empty());
    fields
}

fn ulimits(text: &str) -> Result<Vec<Ulimit>, Status> {
    let one = |field: &String| {
        let wrong = || Status::invalid(format!("invalid ulimit {field:?}: write it as NAME=SOFT[:HARD]"));
        let (name, values) = field.split_once('=').ok_or_else(wrong)?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let value = |text: &str| text.parse::<i64>().map_err(|_| wrong());
        Ok(Ulimit { name: name.to_owned(), soft: value(soft)?, hard: value(hard)? })
    };
    fields(text).iter().map(one).collect()
}

/// `name=address` and `name=[address]` as the lines that the engine knows.
fn extra_hosts(text: &str) -> Result<Vec<String>, Status> {
    let one = |field: &String| {
        let wrong = || Status::invalid(format!("invalid host {field:?}: write it as NAME=ADDRESS"));
        let (name, address) = field.split_once('=').ok_or_else(wrong)?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().map_err(|_| wrong())?;
        Ok(format!("{name}:{address}"))
    };
    fields(text).iter().map(one).collect()
}

fn network(text: &str) -> Result<NetworkMode, Status> {
    match text {
        "" | "default" | "sandbox" => Ok(NetworkMode::Default),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        other => Err(Status::invalid(format!("invalid network mode {other:?}: use default, none or host"))),
    }
}

/// The images and the client's layouts whose caches are to be used.
fn cache_from(attributes: &Attributes) -> Result<(Vec<CacheImport>, Vec<ClientLayout>), Status> {
    let mut images: Vec<String> = attributes.get("cache-from").map(|text| fields(text)).unwrap_or_default();
    let mut layouts = Vec::new();
    if let Some(text) = attributes.get("cache-imports").filter(|text| !text.is_empty()) {
        let entries: Option<Vec<CacheEntry>> = serde_json::from_str(text)
            .map_err(|error| Status::invalid(format!("invalid cache-imports: {error}")))?;
        for mut entry in entries.unwrap_or_default() {
            let mut attribute = |name| entry.attributes.remove(name);
            match (entry.kind.as_str(), attribute("ref"), attribute("src"), attribute("digest")) {
                ("registry", Some(image), ..) => images.push(image),
                ("local", _, Some(directory), Some(digest)) => {
                    layouts.push(ClientLayout { store: format!("local:{directory}"), digest });
                }
                // A cache that cannot be read costs time only, as with BuildKit.
                (kind, ..) => tracing::warn!(kind, "a cache of this kind cannot be imported"),
            }
        }
    }
    images.sort();
    images.dedup();
    Ok((images.into_iter().map(CacheImport::Image).collect(), layouts))
}

fn other_context(value: &str) -> OtherContext {
    let rest = |prefix| value.strip_prefix(prefix).map(str::to_owned);
    if let Some(image) = rest("docker-image://") {
        return OtherContext::Image(image);
    }
    if let Some(name) = rest("local:") {
        return OtherContext::Local(name);
    }
    if let Some(name) = rest("input:") {
        return OtherContext::Input(name);
    }
    if let Some((name, digest)) = value.strip_prefix("oci-layout://").and_then(|rest| rest.split_once('@')) {
        // A tag may stand between the two; the digest says it all.
        let store = name.split_once(':').map_or(name, |(store, _)| store);
        return OtherContext::Layout(ClientLayout {
            store: format!("oci:{store}"),
            digest: digest.to_owned(),
        });
    }
    OtherContext::Remote(value.to_owned())
}

fn attestations(attributes: &Attributes) -> Attestations {
    let provenance = attributes.get("attest:provenance").and_then(|text| {
        let options = fields(text);
        let is_off = options.iter().any(|option| option == "disabled=true" || option == "false");
        let is_inline = options.iter().any(|option| option == "inline-only=true");
        // What is wanted inside of other answers only is given to nobody.
        if is_off || is_inline {
            return None;
        }
        Some(if options.iter().any(|option| option == "mode=max") {
            Provenance::Maximal
        } else {
            Provenance::Minimal
        })
    });
    let sbom = attributes.get("attest:sbom").is_some_and(|text| {
        !fields(text).iter().any(|option| option == "disabled=true" || option == "false")
    });
    Attestations { provenance, sbom }
}

/// Reads what a client has said.
pub(crate) fn read(attributes: &Attributes, entitlements: &[String]) -> Result<Wanted, Status> {
    let text = |name: &str| attributes.get(name).map(String::as_str).unwrap_or_default();
    let given = |name: &str| Some(text(name)).filter(|text| !text.is_empty()).map(str::to_owned);
    let prefixed = |prefix: &'static str| {
        attributes
            .iter()
            .filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())))
    };
    let context_name = given("contextkey").unwrap_or_else(|| CONTEXT.to_owned());
    let context = match text("context") {
        "" => MainContext::Local(context_name),
        address => match address.strip_prefix(UPLOADS) {
            Some(_) => MainContext::Upload(address[UPLOADS.len() - 1..].to_owned()),
            None if address.starts_with("input:") => MainContext::Input,
            None => MainContext::Remote(address.to_owned()),
        },
    };
    let filename = given("filename").unwrap_or_else(|| "Dockerfile".to_owned());
    let dockerfile = match (given("dockerfilekey"), &context) {
        (Some(name), _) => DockerfileSource::Local { name, path: filename },
        (None, MainContext::Local(_)) => {
            DockerfileSource::Local { name: DOCKERFILE.to_owned(), path: filename }
        }
        (None, _) => DockerfileSource::Context(filename),
    };
    let platforms = fields(text("platform"));
    let platforms = platforms
        .iter()
        .map(|platform| platform.parse::<Platform>().map_err(|error| Status::invalid(error.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    let mut named = BTreeMap::new();
    for (name, value) in prefixed("context:") {
        // `name::platform` is for builds of several platforms, where each has a name of its own.
        let name = name.split_once("::").map_or(name.as_str(), |(name, _)| name).to_lowercase();
        named.insert(name, other_context(&value));
    }
    let (cache_from, caches) = cache_from(attributes)?;
    let checks = checks(text("build-arg:BUILDKIT_DOCKERFILE_CHECK"));
    let request = BuildRequest {
        dockerfile,
        platforms,
        build_args: prefixed("build-arg:").map(|(name, value)| (name, Some(value))).collect(),
        labels: prefixed("label:").collect(),
        target: text("target").to_owned(),
        no_cache: match attributes.get("no-cache") {
            None => NoCache::Never,
            Some(stages) if stages.is_empty() => NoCache::All,
            Some(stages) => NoCache::Stages(fields(stages).into_iter().collect()),
        },
        cache_from,
        pull: text("image-resolve-mode") == "pull",
        network: network(text("force-network-mode"))?,
        resources: Resources {
            memory: number(attributes, "memory")?,
            memory_swap: number(attributes, "memswap")?,
            cpu_shares: number(attributes, "cpushares")?,
            cpu_period: number(attributes, "cpuperiod")?,
            cpu_quota: number(attributes, "cpuquota")?,
            cpuset_cpus: given("cpusetcpus"),
            cpuset_mems: given("cpusetmems"),
            ..Resources::default()
        },
        ulimits: ulimits(text("ulimit"))?,
        extra_hosts: extra_hosts(text("add-hosts"))?,
        shm_size: number(attributes, "shm-size")?.filter(|size| *size != 0),
        cgroup_parent: given("cgroup-parent"),
        hostname: given("build-arg:BUILDKIT_SANDBOX_HOSTNAME").or_else(|| given("hostname")),
        entitlements: Entitlements {
            insecure: entitlements.iter().any(|name| name == "security.insecure"),
            host_network: entitlements.iter().any(|name| name == "network.host"),
        },
        attestations: attestations(attributes),
        skip_checks: checks.0,
        checks_are_errors: checks.1,
        ..BuildRequest::default()
    };
    Ok(Wanted {
        request,
        context,
        named,
        caches,
        local_sessions: prefixed("local-sessionid:").collect(),
        shared_keys: prefixed("sharedkey:localdir:").collect(),
    })
}

/// `skip=A,B;error=true`: the checks that say nothing, and whether the others fail a build.
fn checks(text: &str) -> (std::collections::BTreeSet<String>, bool) {
    let option =
        |name: &str| text.split(';').find_map(|option| option.trim().strip_prefix(name)?.strip_prefix('='));
    let skipped = option("skip").map(|names| names.split(',').map(|name| name.trim().to_owned()).collect());
    (skipped.unwrap_or_default(), option("error").is_some_and(is_true))
}

impl OtherContext {
    /// The same in the builder's words; layouts and inputs are for the caller.
    pub(crate) fn plain(self) -> Option<NamedContext> {
        match self {
            Self::Local(name) => Some(NamedContext::Local(name)),
            Self::Image(name) => Some(NamedContext::Image(name)),
            Self::Remote(address) => Some(NamedContext::Remote(address)),
            Self::Layout(_) | Self::Input(_) => None,
        }
    }
}

impl MainContext {
    /// The same in the builder's words; uploads and inputs are for the caller.
    pub(crate) fn plain(&self) -> Option<ContextSource> {
        match self {
            Self::Local(name) => Some(ContextSource::Local(name.clone())),
            Self::Remote(address) => Some(ContextSource::Remote(address.clone())),
            Self::Upload(_) | Self::Input => None,
        }
    }
}

#[cfg(test)]
#[path = "frontend_tests.rs"]
mod tests;
