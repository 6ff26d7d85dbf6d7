//! Images.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use http::Method;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;

use super::build::{self, BuildOptions};
use super::client::{Body, Client, encode, full, query};
use super::containers::{filters, text};
use super::{each, say};
use crate::format::Format;
use crate::table::{Table, ago, short_id, size, truncated};
use crate::{Error, Result};

const TAR: &str = "application/x-tar";
const BLOCK: usize = 256 * 1024;

/// What can be done with images.
#[derive(Clone, Debug, Subcommand)]
pub enum ImageVerb {
    /// List images.
    Images(ImagesOptions),
    /// Build an image from a Dockerfile.
    Build(Box<BuildOptions>),
    /// Load images from an archive.
    Load {
        /// The archive; standard input by default.
        #[arg(short, long)]
        input: Option<PathBuf>,
        /// Print nothing but errors.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Save images to an archive.
    Save {
        /// The archive; standard output by default.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// The images.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Give an image one more name.
    Tag {
        /// The image.
        source: String,
        /// The name.
        target: String,
    },
    /// Remove images.
    Rmi {
        /// Even when a container uses them.
        #[arg(short, long)]
        force: bool,
        /// The images.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Show how an image came to be.
    History {
        /// The image.
        image: String,
    },
}

/// Options of `images`.
#[derive(Clone, Debug, Args)]
pub struct ImagesOptions {
    /// Ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids.
    #[arg(long)]
    no_trunc: bool,
    /// Only those that fit: KEY=VALUE.
    #[arg(short, long)]
    filter: Vec<String>,
    /// Print by a template.
    #[arg(long)]
    format: Option<String>,
}

impl ImageVerb {
    pub(super) async fn run(&self, client: &Client) -> Result<u8> {
        match self {
            Self::Images(options) => list(client, options).await,
            Self::Build(options) => build::run(client, options).await,
            Self::Load { input, quiet } => load(client, input.clone(), *quiet).await,
            Self::Save { output, images } => save(client, output.as_ref(), images).await,
            Self::Tag { source, target } => {
                let (name, tag) = split(target);
                let query = query(&[("repo", name), ("tag", tag)]);
                client.post(&format!("/images/{}/tag{query}", encode(source))).await?;
                Ok(0)
            }
            Self::Rmi { force, images } => {
                let query = query(&[("force", if *force { "1" } else { "" })]);
                each(images, async |name| {
                    let answer = client.delete(&format!("/images/{}{query}", encode(&name))).await?;
                    let lines = answer.as_array().into_iter().flatten().flat_map(|item| {
                        ["Untagged", "Deleted"]
                            .into_iter()
                            .filter_map(move |key| item[key].as_str().map(|name| format!("{key}: {name}")))
                    });
                    Ok(lines.collect::<Vec<_>>().join("\n"))
                })
                .await
            }
            Self::History { image } => history(client, image).await,
        }
    }
}

/// A name and its tag: the colon after the last slash is the tag's.
fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

async fn list(client: &Client, options: &ImagesOptions) -> Result<u8> {
    let query = query(&[("filters", &filters(&options.filter)?)]);
    let images = client.get(&format!("/images/json{query}")).await?;
    let format = options.format.as_deref().map(Format::parse).transpose()?;
    let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    for image in images.as_array().into_iter().flatten() {
        let id = text(image, "Id");
        let id = if options.no_trunc { id.to_owned() } else { short_id(id) };
        if options.quiet {
            say(&id)?;
            continue;
        }
        let names: Vec<&str> =
            image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let names = if names.is_empty() { vec!["<none>:<none>"] } else { names };
        for name in names {
            let (repository, tag) = split(name);
            let bytes = image["Size"].as_f64().unwrap_or_default();
            let cells = [
                ("Repository", repository.to_owned()),
                ("Tag", tag.to_owned()),
                ("ID", id.clone()),
                ("CreatedSince", ago(image["Created"].as_i64().unwrap_or_default())),
                ("Size", size(bytes)),
            ];
            if let Some(format) = &format {
                let fields = cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.as_str().into()));
                say(&format.fill(&Value::Object(fields.collect())))?;
            } else {
                table.row(cells.into_iter().map(|(_, cell)| cell).collect());
            }
        }
    }
    if !options.quiet && format.is_none() {
        table.print(&mut std::io::stdout()).map_err(Error::io("write to", "the output"))?;
    }
    Ok(0)
}

async fn history(client: &Client, image: &str) -> Result<u8> {
    let layers = client.get(&format!("/images/{}/history", encode(image))).await?;
    let mut table = Table::new(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for layer in layers.as_array().into_iter().flatten() {
        table.row(vec![
            short_id(text(layer, "Id")),
            ago(layer["Created"].as_i64().unwrap_or_default()),
            truncated(text(layer, "CreatedBy"), 45),
            size(layer["Size"].as_f64().unwrap_or_default()),
            text(layer, "Comment").to_owned(),
        ]);
    }
    table.print(&mut std::io::stdout()).map_err(Error::io("write to", "the output"))?;
    Ok(0)
}

/// A body that is read on a thread of its own while it is sent.
pub(super) fn streamed(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static) -> Body {
    let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
    std::thread::spawn(move || {
        let mut writer = std::io::BufWriter::with_capacity(BLOCK, ChannelWriter(sender.clone()));
        let written = write(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = written {
            // When nobody receives any more, there is nobody to tell.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    http_body_util::BodyExt::boxed(StreamBody::new(stream.map(|chunk| chunk.map(Frame::data))))
}

struct ChannelWriter(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn load(client: &Client, input: Option<PathBuf>, quiet: bool) -> Result<u8> {
    let mut source: Box<dyn Read + Send> = match &input {
        Some(path) => Box::new(File::open(path).map_err(Error::io("open", path))?),
        None => Box::new(std::io::stdin()),
    };
    let body = streamed(move |to| std::io::copy(&mut source, to).map(|_| ()));
    let response = client.send(Method::POST, "/images/load?quiet=1", TAR, body).await?;
    let mut lines = Lines::new(response.into_body());
    while let Some(line) = lines.next().await? {
        if !quiet {
            print_progress(&line)?;
        }
    }
    Ok(0)
}

async fn save(client: &Client, output: Option<&PathBuf>, images: &[String]) -> Result<u8> {
    use std::io::IsTerminal as _;
    let mut target: Box<dyn Write> = match output {
        Some(path) => Box::new(File::create(path).map_err(Error::io("write", path))?),
        None if std::io::stdout().is_terminal() => {
            let message = "cowardly refusing to save to a terminal. Use the -o flag or redirect";
            return Err(Error::Failed { message: message.to_owned() });
        }
        None => Box::new(std::io::stdout()),
    };
    let names: Vec<_> = images.iter().map(|name| format!("names={}", encode(name))).collect();
    let path = format!("/images/get?{}", names.join("&"));
    let mut body = client.send(Method::GET, &path, "", full("")).await?.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| Error::Connection { source })?;
        if let Some(bytes) = frame.data_ref() {
            target.write_all(bytes).map_err(Error::io("write to", "the archive"))?;
        }
    }
    Ok(0)
}

/// A stream of JSON objects, one a line.
pub(super) struct Lines {
    body: hyper::body::Incoming,
    pending: Vec<u8>,
    ended: bool,
}

impl Lines {
    pub(super) fn new(body: hyper::body::Incoming) -> Self {
        Self { body, pending: Vec::new(), ended: false }
    }

    /// The next object; an error when it tells one.
    pub(super) async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return read_line(&line).map(Some);
            }
            if self.ended {
                let line = std::mem::take(&mut self.pending);
                let empty = line.iter().all(u8::is_ascii_whitespace);
                return if empty { Ok(None) } else { read_line(&line).map(Some) };
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|source| Error::Connection { source })?;
                    self.pending.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
                }
                None => self.ended = true,
            }
        }
    }
}

fn read_line(line: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(line).map_err(|source| Error::Answer { source })?;
    let message = value["errorDetail"]["message"].as_str().or(value["error"].as_str());
    match message {
        Some(message) => Err(Error::Failed { message: message.to_owned() }),
        None => Ok(value),
    }
}

/// What a line of progress says.
pub(super) fn print_progress(line: &Value) -> Result<()> {
    if let Some(text) = line["stream"].as_str() {
        let mut out = std::io::stdout();
        return out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Error::io("write to", "the output"));
    }
    match line["status"].as_str() {
        Some(status) => say(status),
        None => Ok(()),
    }
}
