//! Networks, volumes, and the daemon itself.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::client::{Client, encode, full, query};
use super::containers::{filters, text};
use super::transfer::Lines;
use super::{each, say};
use crate::table::{Table, short_id};
use crate::{Error, Result};

/// What can be done with networks.
#[derive(Clone, Debug, Subcommand)]
pub enum NetworkVerb {
    /// List networks.
    Ls {
        /// Ids only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make a network.
    Create {
        /// Its addresses.
        #[arg(long)]
        subnet: Option<String>,
        /// Nothing outside is reachable from it.
        #[arg(long)]
        internal: bool,
        /// A label: KEY[=VALUE].
        #[arg(long)]
        label: Vec<String>,
        /// Its name.
        name: String,
    },
    /// Remove networks.
    Rm {
        /// The networks.
        #[arg(required = true)]
        networks: Vec<String>,
    },
    /// Show all about networks.
    Inspect {
        /// The networks.
        #[arg(required = true)]
        networks: Vec<String>,
    },
}

/// What can be done with volumes.
#[derive(Clone, Debug, Subcommand)]
pub enum VolumeVerb {
    /// List volumes.
    Ls {
        /// Names only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Make a volume.
    Create {
        /// Its name; the daemon chooses one without it.
        name: Option<String>,
    },
    /// Remove volumes.
    Rm {
        /// The volumes.
        #[arg(required = true)]
        volumes: Vec<String>,
    },
    /// Show all about volumes.
    Inspect {
        /// The volumes.
        #[arg(required = true)]
        volumes: Vec<String>,
    },
}

/// What can be asked of the daemon.
#[derive(Clone, Debug, Subcommand)]
pub enum SystemVerb {
    /// Show the versions of client and daemon.
    Version,
    /// Show what the daemon knows of itself and its host.
    Info,
    /// Show what happens, as it happens.
    Events {
        /// Only what fits: KEY=VALUE.
        #[arg(short, long)]
        filter: Vec<String>,
        /// Not before this time.
        #[arg(long, default_value = "")]
        since: String,
        /// Until this time, and then no more.
        #[arg(long, default_value = "")]
        until: String,
    },
}

fn labels(given: &[String]) -> Value {
    let pairs = given.iter().map(|label| label.split_once('=').unwrap_or((label, "")));
    Value::Object(pairs.map(|(key, value)| (key.to_owned(), value.into())).collect())
}

async fn show(client: &Client, path: &str, names: &[String]) -> Result<u8> {
    let mut found = Vec::new();
    for name in names {
        found.push(client.get(&format!("{path}{}", encode(name))).await?);
    }
    say(&serde_json::to_string_pretty(&found).map_err(|source| Error::Answer { source })?)?;
    Ok(0)
}

fn print(table: &Table) -> Result<u8> {
    table.print(&mut std::io::stdout()).map_err(Error::io("write to", "the output"))?;
    Ok(0)
}

impl NetworkVerb {
    pub(super) async fn run(&self, client: &Client) -> Result<u8> {
        match self {
            Self::Ls { quiet } => {
                let networks = client.get("/networks").await?;
                let mut table = Table::new(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"]);
                for network in networks.as_array().into_iter().flatten() {
                    let id = short_id(text(network, "Id"));
                    if *quiet {
                        say(&id)?;
                    }
                    let cell = |field| text(network, field).to_owned();
                    table.row(vec![id, cell("Name"), cell("Driver"), cell("Scope")]);
                }
                if *quiet { Ok(0) } else { print(&table) }
            }
            Self::Create { subnet, internal, label, name } => {
                let mut body = json!({ "Name": name, "Internal": internal, "Labels": labels(label) });
                if let Some(subnet) = subnet {
                    body["IPAM"] = json!({ "Config": [{ "Subnet": subnet }] });
                }
                let answer = client.json(Method::POST, "/networks/create", Some(&body)).await?;
                say(text(&answer, "Id"))?;
                Ok(0)
            }
            Self::Rm { networks } => {
                each(networks, async |name| {
                    client.delete(&format!("/networks/{}", encode(&name))).await.map(|_| name)
                })
                .await
            }
            Self::Inspect { networks } => show(client, "/networks/", networks).await,
        }
    }
}

impl VolumeVerb {
    pub(super) async fn run(&self, client: &Client) -> Result<u8> {
        match self {
            Self::Ls { quiet } => {
                let volumes = client.get("/volumes").await?;
                let mut table = Table::new(&["DRIVER", "VOLUME NAME"]);
                for volume in volumes["Volumes"].as_array().into_iter().flatten() {
                    if *quiet {
                        say(text(volume, "Name"))?;
                    }
                    table.row(vec![text(volume, "Driver").to_owned(), text(volume, "Name").to_owned()]);
                }
                if *quiet { Ok(0) } else { print(&table) }
            }
            Self::Create { name } => {
                let body = json!({ "Name": name.clone().unwrap_or_default() });
                let answer = client.json(Method::POST, "/volumes/create", Some(&body)).await?;
                say(text(&answer, "Name"))?;
                Ok(0)
            }
            Self::Rm { volumes } => {
                each(volumes, async |name| {
                    client.delete(&format!("/volumes/{}", encode(&name))).await.map(|_| name)
                })
                .await
            }
            Self::Inspect { volumes } => show(client, "/volumes/", volumes).await,
        }
    }
}

impl SystemVerb {
    pub(super) async fn run(&self, client: &Client) -> Result<u8> {
        match self {
            Self::Version => {
                say(&format!("Client:\n Version:           {}", env!("CARGO_PKG_VERSION")))?;
                let version = client.get("/version").await?;
                let lines = [
                    ("Version", "Version"),
                    ("API version", "ApiVersion"),
                    ("Minimum API", "MinAPIVersion"),
                    ("Kernel", "KernelVersion"),
                    ("Architecture", "Arch"),
                ];
                say("Server:")?;
                for (name, field) in lines {
                    say(&format!(" {:<18} {}", format!("{name}:"), text(&version, field)))?;
                }
                Ok(0)
            }
            Self::Info => {
                let info = client.get("/info").await?;
                say(&serde_json::to_string_pretty(&info).map_err(|source| Error::Answer { source })?)?;
                Ok(0)
            }
            Self::Events { filter, since, until } => {
                let query = query(&[("filters", &filters(filter)?), ("since", since), ("until", until)]);
                let response = client.send(Method::GET, &format!("/events{query}"), "", full("")).await?;
                let mut lines = Lines::new(response.into_body());
                while let Some(event) = lines.next().await? {
                    say(&event.to_string())?;
                }
                Ok(0)
            }
        }
    }
}
