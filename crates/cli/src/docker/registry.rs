//! Images from and to registries, and who the user is there.

use std::collections::HashMap;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use clap::Args;
use http::{HeaderMap, HeaderValue, Method};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use super::client::{Client, encode, full, query};
use super::credentials::{Config, key, registry_of};
use super::say;
use super::transfer::Lines;
use crate::{Error, Result};

/// Options of `login`.
#[derive(Clone, Debug, Args)]
pub struct LoginOptions {
    /// The user.
    #[arg(short, long, default_value = "")]
    username: String,
    /// The password; others on this machine may see it.
    #[arg(short, long, default_value = "", conflicts_with = "password_stdin")]
    password: String,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// The registry; Docker Hub by default.
    #[arg(default_value = "")]
    registry: String,
}

fn headers(image: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(header) = Config::read()?.header(registry_of(image))
        && let Ok(mut value) = HeaderValue::from_str(&header)
    {
        value.set_sensitive(true);
        headers.insert("x-registry-auth", value);
    }
    Ok(headers)
}

/// A name and what stands behind it: a tag, a digest, or nothing.
fn split(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

/// Draws progress: on a terminal a line for each layer that changes in place, and otherwise a line for each step.
struct Progress {
    lines: HashMap<String, usize>,
    is_terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { lines: HashMap::new(), is_terminal: std::io::stdout().is_terminal() }
    }

    fn draw(&mut self, line: &Value) -> Result<()> {
        let Some(status) = line["status"].as_str() else { return Ok(()) };
        let id = line["id"].as_str().unwrap_or_default();
        let (at, of) = (line["progressDetail"]["current"].as_f64(), line["progressDetail"]["total"].as_f64());
        if id.is_empty() {
            return say(status);
        }
        if !self.is_terminal {
            // Steps only: bytes would be a line each.
            return if at.is_some() { Ok(()) } else { say(&format!("{id}: {status}")) };
        }
        let text = match (at, of) {
            (Some(at), Some(of)) if of > 0.0 => {
                format!("{id}: {status} {}/{}", crate::table::size(at), crate::table::size(of))
            }
            _ => format!("{id}: {status}"),
        };
        let count = self.lines.len();
        let mut out = std::io::stdout();
        let drawn = match self.lines.get(id) {
            Some(row) => {
                let up = count - row;
                write!(out, "\x1b[{up}A\r\x1b[2K{text}\x1b[{up}B\r")
            }
            None => {
                self.lines.insert(id.to_owned(), count);
                writeln!(out, "{text}")
            }
        };
        drawn.and_then(|()| out.flush()).map_err(Error::io("write to", "the output"))
    }
}

async fn follow(client: &Client, path: &str, image: &str, quiet: bool) -> Result<()> {
    let response = client.send_with(Method::POST, path, headers(image)?, full("")).await?;
    let mut lines = Lines::new(response.into_body());
    let mut progress = Progress::new();
    while let Some(line) = lines.next().await? {
        if !quiet {
            progress.draw(&line)?;
        }
    }
    Ok(())
}

/// Brings an image here.
pub(super) async fn bring(client: &Client, image: &str, platform: &str, quiet: bool) -> Result<()> {
    let (name, tag) = split(image);
    let query = query(&[("fromImage", name), ("tag", tag), ("platform", platform)]);
    follow(client, &format!("/images/create{query}"), image, quiet).await
}

pub(super) async fn pull(client: &Client, image: &str, platform: &str, quiet: bool) -> Result<u8> {
    bring(client, image, platform, quiet).await?;
    say(image)?;
    Ok(0)
}

pub(super) async fn push(client: &Client, image: &str, quiet: bool) -> Result<u8> {
    let (name, tag) = split(image);
    let query = query(&[("tag", tag)]);
    follow(client, &format!("/images/{}/push{query}", encode(name)), image, quiet).await?;
    if quiet {
        say(image)?;
    }
    Ok(0)
}

/// Asks at the terminal; what is secret is not shown.
fn ask(question: &str, is_secret: bool) -> Result<String> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        let message = "there is no terminal to ask at: give --username and --password-stdin";
        return Err(Error::Failed { message: message.to_owned() });
    }
    let failed = || Error::io("read", "the terminal");
    let mut error = std::io::stderr();
    write!(error, "{question}: ").and_then(|()| error.flush()).map_err(failed())?;
    let before = tcgetattr(&input).map_err(|errno| failed()(errno.into()))?;
    if is_secret {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Now, &silent).map_err(|errno| failed()(errno.into()))?;
    }
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    if is_secret {
        let _ = tcsetattr(&input, OptionalActions::Now, &before);
        let _ = writeln!(error);
    }
    read.map_err(failed())?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

pub(super) async fn login(client: &Client, options: &LoginOptions) -> Result<u8> {
    let username = match options.username.as_str() {
        "" if !options.password_stdin => ask("Username", false)?,
        "" => return Err(Error::Failed { message: "--password-stdin needs --username".to_owned() }),
        name => name.to_owned(),
    };
    let password = match (options.password.as_str(), options.password_stdin) {
        ("", true) => {
            let text =
                std::io::read_to_string(std::io::stdin()).map_err(Error::io("read", "the password"))?;
            text.trim_end_matches(['\n', '\r']).to_owned()
        }
        ("", false) => ask("Password", true)?,
        (password, _) => password.to_owned(),
    };
    let body = json!({ "username": username, "password": password, "serveraddress": key(&options.registry) });
    let answer = client.json(Method::POST, "/auth", Some(&body)).await?;
    let token = answer["IdentityToken"].as_str().unwrap_or_default();
    Config::read()?.keep(&options.registry, &username, &password, token)?;
    say(answer["Status"].as_str().unwrap_or("Login Succeeded"))?;
    Ok(0)
}

pub(super) fn logout(registry: &str) -> Result<u8> {
    let name = key(registry);
    if Config::read()?.forget(registry)? {
        say(&format!("Removing login credentials for {name}"))?;
    } else {
        say(&format!("Not logged in to {name}"))?;
    }
    Ok(0)
}
