//! The options of `run` and `create`, and the request that they make.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::{Error, Result};

/// Options of `run` and `create`.
#[derive(Clone, Debug, Args)]
pub struct ContainerOptions {
    /// Give the container a name.
    #[arg(long, default_value = "")]
    pub(super) name: String,
    /// Keep standard input open.
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the process a terminal.
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Set a variable, or take it from this environment.
    #[arg(short, long)]
    env: Vec<String>,
    /// Read variables from a file.
    #[arg(long)]
    env_file: Vec<PathBuf>,
    /// Mount a directory of the host or a named volume: SOURCE:TARGET[:OPTIONS].
    #[arg(short, long)]
    volume: Vec<String>,
    /// Mount a tmpfs: TARGET[:OPTIONS].
    #[arg(long)]
    tmpfs: Vec<String>,
    /// Publish a port: [[ADDRESS:]PORT:]PORT[/PROTOCOL].
    #[arg(short, long)]
    publish: Vec<String>,
    /// Publish all exposed ports.
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Working directory inside.
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// User and group: USER[:GROUP].
    #[arg(short, long, default_value = "")]
    user: String,
    /// Host name inside.
    #[arg(long, default_value = "")]
    hostname: String,
    /// Most memory: bytes, or with k, m or g.
    #[arg(short, long)]
    memory: Option<String>,
    /// Most processor time, in processors.
    #[arg(long)]
    cpus: Option<f64>,
    /// Most processes.
    #[arg(long)]
    pids_limit: Option<i64>,
    /// The network to be in.
    #[arg(long, alias = "net", default_value = "")]
    network: String,
    /// One more name in the network.
    #[arg(long)]
    network_alias: Vec<String>,
    /// Another entry point than the image's.
    #[arg(long)]
    entrypoint: Option<String>,
    /// Make the root file system read-only.
    #[arg(long)]
    read_only: bool,
    /// Add a capability.
    #[arg(long)]
    cap_add: Vec<String>,
    /// Take a capability away.
    #[arg(long)]
    cap_drop: Vec<String>,
    /// Give the process all of the host's devices and capabilities.
    #[arg(long)]
    privileged: bool,
    /// no, on-failure[:TIMES], always or unless-stopped.
    #[arg(long, default_value = "no")]
    restart: String,
    /// Remove the container when it has ended.
    #[arg(long)]
    pub(super) rm: bool,
    /// A label: KEY[=VALUE].
    #[arg(short, long)]
    label: Vec<String>,
    /// Run a small init as the first process.
    #[arg(long)]
    init: bool,
    /// no-new-privileges, seccomp=unconfined and the like.
    #[arg(long)]
    security_opt: Vec<String>,
    /// Another name for an address: NAME:ADDRESS.
    #[arg(long)]
    add_host: Vec<String>,
    /// The signal that stops it.
    #[arg(long, default_value = "")]
    stop_signal: String,
    /// Seconds to stop before it is killed.
    #[arg(long)]
    stop_timeout: Option<i64>,
    /// The image.
    image: String,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `KEY=VALUE` as it is; `KEY` with its value here, left out when it has none.
pub(super) fn environment(given: &[String]) -> Vec<String> {
    given
        .iter()
        .filter_map(|pair| {
            if pair.contains('=') {
                return Some(pair.clone());
            }
            std::env::var(pair).ok().map(|value| format!("{pair}={value}"))
        })
        .collect()
}

fn environment_files(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let lines =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        found.extend(lines.map(str::to_owned));
    }
    Ok(environment(&found))
}

/// Bytes, from a number with b, k, m, g or t.
fn bytes(text: &str) -> Result<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: f64 = match &lower[digits.len()..] {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(Error::invalid("size", format!("'{text}'"))),
    };
    let number: f64 = digits.parse().map_err(|_| Error::invalid("size", format!("'{text}'")))?;
    #[allow(clippy::cast_possible_truncation, reason = "a size beyond 63 bits is refused by the daemon")]
    Ok((number * factor) as i64)
}

/// `[[ADDRESS:]PORT:]PORT[/PROTOCOL]` as its parts.
fn port(text: &str) -> Result<(String, Value)> {
    let bad = || Error::invalid("--publish", format!("{text:?} is not [[ADDRESS:]PORT:]PORT[/PROTOCOL]"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (outside, inside) = match ports.rsplit_once(':') {
        Some((outside, inside)) => (outside, inside),
        None => ("", ports),
    };
    let (address, outside) = outside.rsplit_once(':').unwrap_or(("", outside));
    let number = |text: &str| text.parse::<u16>().is_ok();
    if !number(inside) || !(outside.is_empty() || number(outside)) {
        return Err(bad());
    }
    let address = address.trim_matches(['[', ']']);
    Ok((format!("{inside}/{protocol}"), json!({ "HostIp": address, "HostPort": outside })))
}

/// The host's side of a mount becomes absolute; names of volumes stay.
fn bind(text: &str) -> Result<String> {
    let Some((source, rest)) = text.split_once(':') else { return Ok(text.to_owned()) };
    if !source.starts_with(['.', '~']) {
        return Ok(text.to_owned());
    }
    let here = std::env::current_dir().map_err(Error::io("find", "the current directory"))?;
    let path = here.join(source);
    let path = fs::canonicalize(&path).unwrap_or(path);
    Ok(format!("{}:{rest}", path.display()))
}

fn labels(given: &[String]) -> BTreeMap<&str, &str> {
    given.iter().map(|label| label.split_once('=').unwrap_or((label, ""))).collect()
}

impl ContainerOptions {
    fn restart_policy(&self) -> Result<Value> {
        let (name, times) = self.restart.split_once(':').unwrap_or((&self.restart, "0"));
        let times: i64 =
            times.parse().map_err(|_| Error::invalid("--restart", format!("{times:?} is no number")))?;
        Ok(json!({ "Name": name, "MaximumRetryCount": times }))
    }

    /// The body of the request.
    pub(super) fn body(&self, attach: bool) -> Result<Value> {
        let mut ports: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for text in &self.publish {
            let (inside, outside) = port(text)?;
            ports.entry(inside).or_default().push(outside);
        }
        let exposed: BTreeMap<&str, Value> = ports.keys().map(|port| (port.as_str(), json!({}))).collect();
        let (anonymous, binds): (Vec<_>, Vec<_>) =
            self.volume.iter().partition(|volume| !volume.contains(':'));
        let binds = binds.iter().map(|text| bind(text)).collect::<Result<Vec<_>>>()?;
        let anonymous: BTreeMap<&str, Value> =
            anonymous.iter().map(|path| (path.as_str(), json!({}))).collect();
        let tmpfs: BTreeMap<&str, &str> =
            self.tmpfs.iter().map(|text| text.split_once(':').unwrap_or((text, ""))).collect();
        let mut variables = environment_files(&self.env_file)?;
        variables.extend(environment(&self.env));
        let mut host = json!({
            "Binds": binds,
            "Tmpfs": tmpfs,
            "PortBindings": ports,
            "PublishAllPorts": self.publish_all,
            "ReadonlyRootfs": self.read_only,
            "CapAdd": self.cap_add,
            "CapDrop": self.cap_drop,
            "Privileged": self.privileged,
            "RestartPolicy": self.restart_policy()?,
            "AutoRemove": self.rm,
            "SecurityOpt": self.security_opt,
            "ExtraHosts": self.add_host,
            "NetworkMode": if self.network.is_empty() { "default" } else { &self.network },
        });
        if let Some(memory) = &self.memory {
            host["Memory"] = json!(bytes(memory)?);
        }
        if let Some(cpus) = self.cpus {
            #[allow(clippy::cast_possible_truncation, reason = "the daemon refuses what is out of range")]
            let nano = (cpus * 1e9) as i64;
            host["NanoCpus"] = json!(nano);
        }
        if let Some(limit) = self.pids_limit {
            host["PidsLimit"] = json!(limit);
        }
        if self.init {
            host["Init"] = json!(true);
        }
        let mut body = json!({
            "Image": self.image,
            "Env": variables,
            "Labels": labels(&self.label),
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && attach,
            "AttachStdin": self.interactive && attach,
            "AttachStdout": attach,
            "AttachStderr": attach,
            "WorkingDir": self.workdir,
            "User": self.user,
            "Hostname": self.hostname,
            "StopSignal": self.stop_signal,
            "ExposedPorts": exposed,
            "Volumes": anonymous,
            "HostConfig": host,
        });
        if !self.command.is_empty() {
            body["Cmd"] = json!(self.command);
        }
        if let Some(entrypoint) = &self.entrypoint {
            body["Entrypoint"] = if entrypoint.is_empty() { json!([""]) } else { json!([entrypoint]) };
        }
        if let Some(timeout) = self.stop_timeout {
            body["StopTimeout"] = json!(timeout);
        }
        if !self.network_alias.is_empty() {
            body["NetworkingConfig"] =
                json!({ "EndpointsConfig": { &self.network: { "Aliases": self.network_alias } } });
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_three_parts() {
        assert_eq!(port("80").unwrap(), ("80/tcp".to_owned(), json!({ "HostIp": "", "HostPort": "" })));
        assert_eq!(
            port("127.0.0.1:8080:80/udp").unwrap(),
            ("80/udp".to_owned(), json!({ "HostIp": "127.0.0.1", "HostPort": "8080" }))
        );
        assert_eq!(port("[::1]:1:2").unwrap().1, json!({ "HostIp": "::1", "HostPort": "1" }));
        for bad in ["", "x", "70000", "1:x", "a:b:c:d"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("64m").unwrap(), 64 << 20);
        assert_eq!(bytes("1.5g").unwrap(), 3 << 29);
        assert_eq!(bytes("42").unwrap(), 42);
        assert!(bytes("4x").is_err() && bytes("m").is_err());
    }
}
