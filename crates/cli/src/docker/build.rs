//! `build`: the context goes to the daemon as a stream, and what the daemon says comes back.

use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;

use super::client::{Client, encode, query};
use super::transfer::{Lines, print_progress, streamed};
use super::{run, say};
use crate::{Error, Result};

/// Options of `build`.
#[derive(Clone, Debug, Args)]
pub struct BuildOptions {
    /// The image's name and tag; may be given several times.
    #[arg(short, long)]
    tag: Vec<String>,
    /// The Dockerfile; CONTEXT/Dockerfile by default.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// A build argument: NAME=VALUE, or NAME with its value here.
    #[arg(long)]
    build_arg: Vec<String>,
    /// The stage to stop at.
    #[arg(long, default_value = "")]
    target: String,
    /// A label: KEY[=VALUE].
    #[arg(long)]
    label: Vec<String>,
    /// The network of RUN steps.
    #[arg(long, default_value = "")]
    network: String,
    /// Do every step again.
    #[arg(long)]
    no_cache: bool,
    /// Print the image's id only.
    #[arg(short, long)]
    quiet: bool,
    /// The directory to build from.
    context: PathBuf,
}

impl BuildOptions {
    /// The Dockerfile's path in the context.
    fn dockerfile(&self) -> Result<String> {
        let Some(file) = &self.file else { return Ok("Dockerfile".to_owned()) };
        let whole = |path: &Path| std::fs::canonicalize(path).map_err(Error::io("use", path));
        let (file, context) = (whole(file)?, whole(&self.context)?);
        let inside = file.strip_prefix(&context).map_err(|_| {
            Error::invalid(
                "--file",
                format!("{} is outside of the context {}", file.display(), context.display()),
            )
        })?;
        Ok(inside.to_string_lossy().into_owned())
    }

    fn query(&self) -> Result<String> {
        let arguments: serde_json::Map<_, _> = self
            .build_arg
            .iter()
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.into()),
                None => (pair.clone(), std::env::var(pair).ok().into()),
            })
            .collect();
        let labels: serde_json::Map<_, _> = self
            .label
            .iter()
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let map = |map: serde_json::Map<_, _>| serde_json::Value::Object(map).to_string();
        let mut text = query(&[
            ("dockerfile", &self.dockerfile()?),
            ("buildargs", &map(arguments)),
            ("labels", &map(labels)),
            ("target", &self.target),
            ("networkmode", &self.network),
            ("nocache", if self.no_cache { "1" } else { "" }),
            ("rm", "1"),
            ("version", "1"),
        ]);
        for tag in &self.tag {
            text.push_str(&format!("&t={}", encode(tag)));
        }
        Ok(text)
    }
}

pub(super) async fn run(client: &Client, options: &BuildOptions) -> Result<u8> {
    run::directory(&options.context)?;
    let path = format!("/build{}", options.query()?);
    let context = options.context.clone();
    let body = streamed(move |to| {
        let mut archive = tar::Builder::new(to);
        archive.follow_symlinks(false);
        archive.append_dir_all("", &context)?;
        archive.finish()
    });
    let response = client.send(Method::POST, &path, "application/x-tar", body).await?;
    let mut lines = Lines::new(response.into_body());
    let mut id = None;
    while let Some(line) = lines.next().await? {
        if let Some(found) = line["aux"]["ID"].as_str() {
            id = Some(found.to_owned());
        }
        if !options.quiet {
            print_progress(&line)?;
        }
    }
    match id {
        Some(id) if options.quiet => say(&id)?,
        Some(_) => {}
        None => return Err(Error::Failed { message: "the build ended without an image".to_owned() }),
    }
    Ok(0)
}
