//! Containers: everything but the making of them.

use clap::{Args, Subcommand};
use futures_util::TryStreamExt as _;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio_util::io::StreamReader;

use super::client::{Client, encode, full, query};
use super::options::ContainerOptions;
use super::run::{self, ExecOptions, RunOptions};
use super::{each, say, stream};
use crate::format::Format;
use crate::table::{Table, ago, short_id, truncated};
use crate::text::complain;
use crate::{Error, Result};

const COMMAND_WIDTH: usize = 20;

/// What can be done with containers.
#[derive(Clone, Debug, Subcommand)]
pub enum ContainerVerb {
    /// Make a container and run it.
    Run(Box<RunOptions>),
    /// Make a container.
    Create(Box<ContainerOptions>),
    /// List containers.
    Ps(PsOptions),
    /// Run a command in a running container.
    Exec(ExecOptions),
    /// Show what a container has written.
    Logs(LogsOptions),
    /// Show all about containers, images, networks or volumes.
    Inspect(InspectOptions),
    /// Start containers.
    Start {
        /// The containers.
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Stop containers.
    Stop(StopOptions),
    /// Stop containers and start them again.
    Restart(StopOptions),
    /// Send a signal to containers.
    Kill {
        /// The signal.
        #[arg(short, long, default_value = "KILL")]
        signal: String,
        /// The containers.
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Remove containers.
    Rm(RmOptions),
    /// Wait until containers have ended and print their exit codes.
    Wait {
        /// The containers.
        #[arg(required = true)]
        containers: Vec<String>,
    },
    /// Connect the terminal to a running container.
    Attach {
        /// Leave standard input alone.
        #[arg(long)]
        no_stdin: bool,
        /// The container.
        container: String,
    },
    /// Give a container another name.
    Rename {
        /// The container.
        container: String,
        /// The name.
        name: String,
    },
    /// List the published ports of a container.
    Port {
        /// The container.
        container: String,
    },
}

/// Options of `ps`.
#[derive(Clone, Debug, Args)]
pub struct PsOptions {
    /// Those that have ended too.
    #[arg(short, long)]
    all: bool,
    /// Ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands.
    #[arg(long)]
    no_trunc: bool,
    /// Only those that fit: KEY=VALUE.
    #[arg(short, long)]
    filter: Vec<String>,
    /// Print by a template.
    #[arg(long)]
    format: Option<String>,
}

/// Options of `logs`.
#[derive(Clone, Debug, Args)]
pub struct LogsOptions {
    /// Go on with what is written from now on.
    #[arg(short, long)]
    follow: bool,
    /// The last lines only.
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// With the time of each line.
    #[arg(short, long)]
    timestamps: bool,
    /// Not before this time.
    #[arg(long, default_value = "")]
    since: String,
    /// Not after this time.
    #[arg(long, default_value = "")]
    until: String,
    /// The container.
    container: String,
}

/// Options of `inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectOptions {
    /// Print by a template.
    #[arg(short, long)]
    format: Option<String>,
    /// What kind of thing: container, image, network or volume.
    #[arg(long = "type", default_value = "")]
    kind: String,
    /// Their names or ids.
    #[arg(required = true)]
    names: Vec<String>,
}

/// Options of `stop` and `restart`.
#[derive(Clone, Debug, Args)]
pub struct StopOptions {
    /// Seconds before they are killed.
    #[arg(short = 't', long, alias = "timeout")]
    time: Option<i64>,
    /// The signal.
    #[arg(short, long, default_value = "")]
    signal: String,
    /// The containers.
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Options of `rm`.
#[derive(Clone, Debug, Args)]
pub struct RmOptions {
    /// Running ones too.
    #[arg(short, long)]
    force: bool,
    /// Their anonymous volumes too.
    #[arg(short, long)]
    volumes: bool,
    /// The containers.
    #[arg(required = true)]
    containers: Vec<String>,
}

impl ContainerVerb {
    pub(super) async fn run(&self, client: &Client) -> Result<u8> {
        match self {
            Self::Run(options) => run::run(client, options).await,
            Self::Create(options) => run::create(client, options).await,
            Self::Exec(options) => run::exec(client, options).await,
            Self::Ps(options) => list(client, options).await,
            Self::Logs(options) => logs(client, options).await,
            Self::Inspect(options) => inspect(client, options).await,
            Self::Start { containers } => post_each(client, containers, "start").await,
            Self::Stop(options) => post_each(client, &options.containers, &options.verb("stop")).await,
            Self::Restart(options) => post_each(client, &options.containers, &options.verb("restart")).await,
            Self::Kill { signal, containers } => {
                post_each(client, containers, &format!("kill{}", query(&[("signal", signal)]))).await
            }
            Self::Rm(options) => {
                let flag = |set| if set { "1" } else { "" };
                let query = query(&[("force", flag(options.force)), ("v", flag(options.volumes))]);
                each(&options.containers, async |name| {
                    client.delete(&format!("/containers/{}{query}", encode(&name))).await.map(|_| name)
                })
                .await
            }
            Self::Wait { containers } => {
                each(containers, async |name| {
                    let answer = client.post(&format!("/containers/{}/wait", encode(&name))).await?;
                    Ok(answer["StatusCode"].to_string())
                })
                .await
            }
            Self::Attach { no_stdin, container } => run::attach(client, container, !no_stdin).await,
            Self::Rename { container, name } => {
                let query = query(&[("name", name)]);
                client.post(&format!("/containers/{}/rename{query}", encode(container))).await?;
                Ok(0)
            }
            Self::Port { container } => ports(client, container).await,
        }
    }
}

impl StopOptions {
    fn verb(&self, verb: &str) -> String {
        let time = self.time.map(|time| time.to_string()).unwrap_or_default();
        format!("{verb}{}", query(&[("t", &time), ("signal", &self.signal)]))
    }
}

async fn post_each(client: &Client, containers: &[String], verb: &str) -> Result<u8> {
    each(containers, async |name| {
        client.post(&format!("/containers/{}/{verb}", encode(&name))).await.map(|_| name)
    })
    .await
}

/// `KEY=VALUE`s as the API takes them.
pub(super) fn filters(given: &[String]) -> Result<String> {
    let mut all = serde_json::Map::new();
    for filter in given {
        let (key, value) = filter
            .split_once('=')
            .ok_or_else(|| Error::invalid("--filter", format!("{filter:?} is not KEY=VALUE")))?;
        let values = all.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(value.into());
        }
    }
    Ok(if all.is_empty() { String::new() } else { Value::Object(all).to_string() })
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn published(container: &Value) -> String {
    let ports = container["Ports"].as_array().into_iter().flatten();
    let ports: Vec<_> = ports
        .map(|port| {
            let inside = format!("{}/{}", port["PrivatePort"], text(port, "Type"));
            match port["PublicPort"].as_u64() {
                Some(outside) => format!("{}:{outside}->{inside}", text(port, "IP")),
                None => inside,
            }
        })
        .collect();
    ports.join(", ")
}

async fn list(client: &Client, options: &PsOptions) -> Result<u8> {
    let all = if options.all { "1" } else { "" };
    let query = query(&[("all", all), ("filters", &filters(&options.filter)?)]);
    let containers = client.get(&format!("/containers/json{query}")).await?;
    let format = options.format.as_deref().map(Format::parse).transpose()?;
    let mut table = Table::new(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    for container in containers.as_array().into_iter().flatten() {
        let id = text(container, "Id");
        let id = if options.no_trunc { id.to_owned() } else { short_id(id) };
        if options.quiet {
            say(&id)?;
            continue;
        }
        let command = text(container, "Command");
        let command = if options.no_trunc { command.to_owned() } else { truncated(command, COMMAND_WIDTH) };
        let names = container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<_> = names.map(|name| name.trim_start_matches('/')).collect();
        let cells = [
            ("ID", id),
            ("Image", text(container, "Image").to_owned()),
            ("Command", format!("\"{command}\"")),
            ("RunningFor", ago(container["Created"].as_i64().unwrap_or_default())),
            ("Status", text(container, "Status").to_owned()),
            ("Ports", published(container)),
            ("Names", names.join(",")),
        ];
        if let Some(format) = &format {
            let mut fields: serde_json::Map<String, Value> =
                cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.as_str().into())).collect();
            fields.insert("State".to_owned(), container["State"].clone());
            say(&format.fill(&Value::Object(fields)))?;
        } else {
            table.row(cells.into_iter().map(|(_, cell)| cell).collect());
        }
    }
    if !options.quiet && format.is_none() {
        table.print(&mut std::io::stdout()).map_err(Error::io("write to", "the output"))?;
    }
    Ok(0)
}

async fn logs(client: &Client, options: &LogsOptions) -> Result<u8> {
    let flag = |set| if set { "1" } else { "" };
    let id = encode(&options.container);
    let record = client.get(&format!("/containers/{id}/json")).await?;
    let query = query(&[
        ("stdout", "1"),
        ("stderr", "1"),
        ("follow", flag(options.follow)),
        ("timestamps", flag(options.timestamps)),
        ("tail", &options.tail),
        ("since", &options.since),
        ("until", &options.until),
    ]);
    let response = client.send(Method::GET, &format!("/containers/{id}/logs{query}"), "", full("")).await?;
    let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
    stream::print(StreamReader::new(body), record["Config"]["Tty"] == true).await?;
    Ok(0)
}

async fn inspect(client: &Client, options: &InspectOptions) -> Result<u8> {
    let format = options.format.as_deref().map(Format::parse).transpose()?;
    let kinds = [
        ("container", "/containers/", "/json"),
        ("image", "/images/", "/json"),
        ("network", "/networks/", ""),
        ("volume", "/volumes/", ""),
    ];
    let mut found = Vec::new();
    let mut code = 0;
    'names: for name in &options.names {
        for (kind, before, after) in kinds {
            if !options.kind.is_empty() && options.kind != kind {
                continue;
            }
            match client.get(&format!("{before}{}{after}", encode(name))).await {
                Ok(value) => {
                    found.push(value);
                    continue 'names;
                }
                Err(Error::Daemon { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let kind = if options.kind.is_empty() { "object" } else { &options.kind };
        complain(&format!("Error: No such {kind}: {name}"));
        code = 1;
    }
    match format {
        Some(format) => found.iter().try_for_each(|value| say(&format.fill(value)))?,
        None => say(&serde_json::to_string_pretty(&found).map_err(|source| Error::Answer { source })?)?,
    }
    Ok(code)
}

async fn ports(client: &Client, container: &str) -> Result<u8> {
    let record = client.get(&format!("/containers/{}/json", encode(container))).await?;
    for (inside, bindings) in record["NetworkSettings"]["Ports"].as_object().into_iter().flatten() {
        for binding in bindings.as_array().into_iter().flatten() {
            say(&format!("{inside} -> {}:{}", text(binding, "HostIp"), text(binding, "HostPort")))?;
        }
    }
    Ok(0)
}
