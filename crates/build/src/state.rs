//! A stage as far as it has come: a configuration, layers, and the variables that hold.

use std::collections::BTreeMap;

use dray_image::{Digest, History, Image, ImageConfig, Layer, NewImage};

use crate::Result;
use crate::platform::Platform;
use crate::result::Trail;

/// Arguments of builds that count without being declared, and that change nothing in the cache.
pub(crate) const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
const DEFAULT_SHELL: &[&str] = &["/bin/sh", "-c"];

/// An image in the making.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Layer>,
    /// The id that the image would have now; none before the first step of `FROM scratch`.
    pub(crate) id: Option<Digest>,
    /// All that led here, times aside: what a step that writes no file depends on.
    pub(crate) lineage: String,
    /// The steps since the image that it began with.
    pub(crate) trail: Vec<Trail>,
}

/// How a step is told in the history.
pub(crate) struct Told<'a> {
    pub(crate) created_by: &'a str,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) comment: Option<String>,
}

impl State {
    pub(crate) fn scratch() -> Self {
        Self {
            config: ImageConfig::scratch(),
            layers: Vec::new(),
            id: None,
            lineage: "scratch".to_owned(),
            trail: Vec::new(),
        }
    }

    pub(crate) fn of(image: Image) -> Self {
        let lineage = image.id.hex().to_owned();
        Self { config: image.config, layers: image.layers, id: Some(image.id), lineage, trail: Vec::new() }
    }

    /// The chain id of the topmost layer.
    pub(crate) fn top(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }

    /// The history's entry of a step.
    pub(crate) fn history(&self, told: Told<'_>, layer: Option<&Layer>) -> History {
        History {
            created: Some(told.created),
            created_by: Some(told.created_by.to_owned()),
            author: self.config.author.clone(),
            comment: told.comment,
            empty_layer: layer.is_none(),
        }
    }

    /// Adds a step that is called by `key`, with the layer it made, if it made one.
    pub(crate) fn commit(&mut self, key: &str, history: History, layer: Option<Layer>) -> Result<()> {
        self.lineage = crate::cache::Key::new("lineage").with(&self.lineage).with(key).finish();
        self.trail.push(Trail {
            key: key.to_owned(),
            history: self.config.history.len(),
            layer: layer.as_ref().map(|_| self.layers.len()),
        });
        self.config.created.clone_from(&history.created);
        self.config.history.push(history);
        self.layers.extend(layer);
        self.id = Some(self.new_image().id()?);
        Ok(())
    }

    pub(crate) fn new_image(&self) -> NewImage {
        NewImage { config: self.config.clone(), layers: self.layers.clone() }
    }

    /// What `docker build` prints of the id.
    pub(crate) fn short_id(&self) -> &str {
        self.id.as_ref().map_or("", Digest::short)
    }

    pub(crate) fn shell(&self) -> Vec<String> {
        match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => DEFAULT_SHELL.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    /// A variable of the image's environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let entries = self.config.config.env.iter();
        entries
            .filter_map(|entry| entry.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let env = &mut self.config.config.env;
        match env.iter_mut().find(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name)) {
            Some(present) => *present = entry,
            None => env.push(entry),
        }
    }
}

/// The arguments of a build, as one stage sees them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    /// Given by the caller.
    given: BTreeMap<String, Option<String>>,
    /// Declared before the first stage, with their values.
    global: BTreeMap<String, String>,
    /// Declared in the stage, with their defaults.
    declared: BTreeMap<String, Option<String>>,
}

impl Arguments {
    /// What is known before the first line: `target` is what the stage is built for.
    pub(crate) fn new(given: BTreeMap<String, Option<String>>, target: &Platform, stage: &str) -> Self {
        let host = Platform::host();
        let mut global = BTreeMap::new();
        for (prefix, platform) in [("TARGET", target), ("BUILD", &host)] {
            for (name, value) in [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", platform.variant.clone()),
            ] {
                global.insert(format!("{prefix}{name}"), value);
            }
        }
        let stage = if stage.is_empty() { "default" } else { stage };
        global.insert("TARGETSTAGE".to_owned(), stage.to_owned());
        Self { given, global, declared: BTreeMap::new() }
    }

    /// What a stage that stands on another inherits of it.
    pub(crate) fn inherit(&mut self, other: &Self) {
        self.declared.clone_from(&other.declared);
    }

    /// An `ARG` before the first `FROM`.
    pub(crate) fn declare_global(&mut self, name: &str, default: Option<String>) {
        let given = self.given.get(name).cloned().flatten();
        if let Some(value) = given.or(default) {
            self.global.insert(name.to_owned(), value);
        }
    }

    pub(crate) fn global_names(&self) -> impl Iterator<Item = &str> {
        self.global.keys().map(String::as_str)
    }

    pub(crate) fn global(&self, name: &str) -> Option<String> {
        self.global.get(name).cloned()
    }

    /// An `ARG` of a stage.
    pub(crate) fn declare(&mut self, name: &str, default: Option<String>) {
        self.declared.insert(name.to_owned(), default);
    }

    /// The value of a declared argument.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let default = self.declared.get(name)?;
        self.given
            .get(name)
            .cloned()
            .flatten()
            .or_else(|| default.clone())
            .or_else(|| self.global.get(name).cloned())
    }

    /// The arguments that a RUN sees, `NAME=value`: those declared that the environment does not have.
    pub(crate) fn for_run(&self, state: &State) -> Vec<String> {
        let names = self.declared.keys().filter(|name| state.variable(name).is_none());
        names.filter_map(|name| Some(format!("{name}={}", self.value(name)?))).collect()
    }

    /// Proxies that were given and not declared.
    pub(crate) fn proxies(&self) -> Vec<String> {
        let named = PROXIES.iter().filter(|name| !self.declared.contains_key(**name));
        named.filter_map(|name| Some(format!("{name}={}", self.given.get(*name)?.as_ref()?))).collect()
    }

    /// The names that were given.
    pub(crate) fn given_names(&self) -> impl Iterator<Item = &str> {
        let foreign = |name: &str| {
            PROXIES.contains(&name) || name.starts_with("BUILDKIT_") || name == "SOURCE_DATE_EPOCH"
        };
        self.given.keys().map(String::as_str).filter(move |name| !foreign(name))
    }
}
