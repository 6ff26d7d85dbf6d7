//! Images.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::build::{self, BuildOptions};
use super::client::{Client, encode, full, query};
use super::containers::{filters, text};
use super::registry::{self, LoginOptions};
use super::transfer::{Lines, print_progress, streamed};
use super::{each, say};
use crate::format::Format;
use crate::table::{Table, ago, short_id, size, truncated};
use crate::{Error, Result};

const TAR: &str = "application/x-tar";

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
    /// Bring an image from a registry.
    Pull {
        /// Print the image's name only.
        #[arg(short, long)]
        quiet: bool,
        /// For which platform, OS/ARCHITECTURE[/VARIANT].
        #[arg(long, default_value = "")]
        platform: String,
        /// The image.
        image: String,
    },
    /// Give an image to a registry.
    Push {
        /// Print the image's name only.
        #[arg(short, long)]
        quiet: bool,
        /// The image.
        image: String,
    },
    /// Keep a name and a password for a registry.
    Login(LoginOptions),
    /// Forget what is kept for a registry.
    Logout {
        /// The registry; Docker Hub by default.
        #[arg(default_value = "")]
        registry: String,
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
            Self::Pull { quiet, platform, image } => registry::pull(client, image, platform, *quiet).await,
            Self::Push { quiet, image } => registry::push(client, image, *quiet).await,
            Self::Login(options) => registry::login(client, options).await,
            Self::Logout { registry } => registry::logout(registry),
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
