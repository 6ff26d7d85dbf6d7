//! The instructions that write files: WORKDIR, COPY, ADD and RUN.

use std::path::PathBuf;
use std::sync::Arc;

use dray_engine::{NetworkMode, Root};
use dray_image::{Digest, Layer};

use crate::builder::blocking;
use crate::cache::Key;
use crate::chmod::Chmod;
use crate::configure::{script_path, words};
use crate::run::RunJob;
use crate::run_mounts::RunMount;
use crate::sources::Tree;
use crate::stage::{StageRun, Step};
use crate::transfer::{self, Found, Job};
use crate::{Error, Result, remote};
use dray_dockerfile::expand::Expander;
use dray_dockerfile::ignore::Ignore;
use dray_dockerfile::{Command, Run, Transfer};

/// The prefix by which the classic builder's history tells what made no process.
const NOP: &str = "/bin/sh -c #(nop) ";

impl StageRun<'_> {
    /// The key of a step on the files below, with what holds for the whole build.
    fn key(&self, kind: &str) -> Key {
        let session = &self.graph.session;
        Key::new(kind)
            .with(self.state.top().map_or("", Digest::as_str))
            .with(format!("{:?}", session.epoch))
            .with(if session.request.classic { "classic" } else { "" })
    }

    /// Makes a layer of what `work` writes into the stage's file system; none when that is nothing.
    async fn write(
        &self,
        owner: String,
        work: impl FnOnce(&Root) -> Result<()> + Send + 'static,
    ) -> Result<Option<Layer>> {
        let engine = self.graph.session.builder.engine.clone();
        let (layers, newest) = (self.state.layers.clone(), self.graph.session.epoch);
        blocking(move || {
            let layer = engine.write_layer(&layers)?;
            work(layer.root())?;
            Ok(layer.commit(&owner, newest)?)
        })
        .await
    }

    pub(crate) async fn workdir(&mut self, title: &str, path: &str) -> Result<()> {
        let path = self.scope.expand(&self.state, path)?;
        if path.is_empty() || path.contains('\0') {
            return Err(Error::invalid("cannot normalize nothing: WORKDIR needs a path"));
        }
        let absolute = transfer::absolute(&self.state.config.config.working_dir, &path);
        let absolute = if absolute == "/" { absolute } else { absolute.trim_end_matches('/').to_owned() };
        let told = format!("WORKDIR {absolute}");
        // With the classic builder new directories are root's, with BuildKit the user's.
        let user = &self.state.config.config.user;
        let owner = (!self.graph.session.request.classic && !user.is_empty()).then(|| user.clone());
        let step = Step {
            title: title.to_owned(),
            key: self.key("workdir").with(&absolute).with(owner.as_deref().unwrap_or_default()).finish(),
            told: (format!("{NOP}{told}"), told),
            kind: "regular",
            inputs: Vec::new(),
            working_dir: Some(absolute.clone()),
        };
        let Some(making) = self.begin(step).await? else { return Ok(()) };
        let made = self
            .write(making.owner(), move |root| {
                let owner = owner.map(|owner| transfer::parse_owner(root, &owner)).transpose();
                let owner = owner.map_err(Error::invalid)?;
                transfer::make_directories(root, &PathBuf::from(&absolute), owner).map(drop)
            })
            .await;
        self.finish(making, made).await
    }

    /// COPY or ADD with its variables replaced.
    fn job(&self, instruction: &'static str, transfer: &Transfer, keep_owners: bool) -> Result<Job> {
        let state = &self.state;
        let fail = |why: String| Error::Copy { instruction, why };
        let destination = self.scope.expand(state, &transfer.destination)?;
        if destination.is_empty() {
            return Err(fail("the destination is empty".to_owned()));
        }
        let chmod = match &transfer.chmod {
            None => None,
            Some(text) => {
                let text = self.scope.expand(state, text)?;
                let invalid = || {
                    fail(format!(
                        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or symbolic as u=rwX,go=rX"
                    ))
                };
                Some(Chmod::parse(&text).ok_or_else(invalid)?)
            }
        };
        let mut texts = Vec::new();
        for heredoc in &transfer.texts {
            let content = if heredoc.expand {
                let lookup = |name: &str| {
                    state.variable(name).map(str::to_owned).or_else(|| self.scope.arguments.value(name))
                };
                let expander = Expander { escape: self.scope.escape, lookup: &lookup };
                expander.text(&heredoc.content).map_err(Error::invalid)?
            } else {
                heredoc.content.clone()
            };
            texts.push((heredoc.name.clone(), content));
        }
        let excludes = self.scope.expand_all(state, &transfer.excludes)?;
        let excludes = Ignore::of_list(&excludes).map_err(|why| fail(format!("--exclude: {why}")))?;
        Ok(Job {
            instruction,
            sources: self.scope.expand_all(state, &transfer.sources)?,
            texts,
            destination: transfer::absolute(&state.config.config.working_dir, &destination),
            chown: transfer.chown.as_ref().map(|owner| self.scope.expand(state, owner)).transpose()?,
            chmod,
            keep_owners,
            parents: transfer.parents,
            excludes: Arc::new(excludes),
            unpack: transfer.unpack.unwrap_or(instruction == "ADD"),
            newest: self.graph.session.epoch,
            fetched: Vec::new(),
        })
    }

    pub(crate) async fn transfer(
        &mut self,
        title: &str,
        instruction: &'static str,
        transfer: &Transfer,
    ) -> Result<()> {
        let from = transfer.from.as_ref().map(|from| self.scope.expand(&self.state, from)).transpose()?;
        let mut inputs = Vec::new();
        let mut job = self.job(instruction, transfer, false)?;
        if instruction == "ADD" {
            self.fetch(&mut job, transfer).await?;
        }
        let source = match &from {
            Some(from) => {
                let platform = self.platform.clone();
                let (tree, vertex) = self.graph.tree(self.index, from, &platform).await?;
                inputs.extend(vertex);
                tree
            }
            // What stands in the Dockerfile or comes from an address needs no context.
            None if job.sources.is_empty() => self.graph.session.nothing().await?,
            None => self.graph.session.main_context().await?,
        };
        job.keep_owners = source.keeps_owners();
        let digest = self.digest_of(&job, &source).await?;
        let mut options = String::new();
        let flags = [("chown", &job.chown), ("chmod", &transfer.chmod), ("from", &from)];
        for (name, value) in flags {
            if let Some(value) = value {
                options.push_str(&format!(" --{name}={value}"));
            }
        }
        let (found, digest) = digest;
        let kind = if found.len() + job.texts.len() + job.fetched.len() > 1 { "multi" } else { "file" };
        let classic = format!("{NOP}{instruction}{options} {kind}:{digest} in {} ", job.destination);
        let modern = format!("{title} # buildkit");
        // A layer that does not depend on what is below is made on nothing; names of users need the files below.
        let by_number =
            job.chown.as_deref().is_none_or(|owner| owner.chars().all(|c| c.is_ascii_digit() || c == ':'));
        let linked = transfer.link && by_number;
        let key = if linked { Key::new("link").with(format!("{:?}", job.newest)) } else { self.key("copy") };
        let exact = format!(
            "{instruction} {:?} {:?} {} {} {:?}",
            job.chown,
            job.chmod,
            job.keep_owners,
            job.destination,
            (job.parents, job.unpack)
        );
        let key = key.with(&digest).with(exact);
        let (link_key, key) = if linked {
            let link = key.finish();
            let key = self.key("linked").with(&link).finish();
            (Some(link), key)
        } else {
            (None, key.finish())
        };
        let step = Step {
            title: title.to_owned(),
            key,
            told: (classic, modern),
            kind: "regular",
            inputs,
            working_dir: None,
        };
        let Some(making) = self.begin(step).await? else { return Ok(()) };
        let owner = making.owner();
        let made = match link_key {
            Some(link) => self.link(link, owner, job, source, found).await,
            None => self.write(owner, move |root| job.run(source.root(), &found, root)).await,
        };
        self.finish(making, made).await
    }

    /// The sources that a job names, and the digest of all that it copies.
    async fn digest_of(&self, job: &Job, source: &Arc<Tree>) -> Result<(Vec<Found>, String)> {
        let session = Arc::clone(&self.graph.session);
        let (job, source) = (job.clone(), Arc::clone(source));
        blocking(move || {
            let found = job.find(source.root())?;
            let key = source.identity().map(|identity| {
                Key::new("digest")
                    .with(identity)
                    .with(format!("{found:?}"))
                    .with_all(job.excludes.patterns())
                    .with(format!("{:?} {}", job.texts, job.parents))
                    .finish()
            });
            if let Some(known) = key.as_deref().and_then(|key| session.memo(key)) {
                return Ok((found, known));
            }
            let digest = job.digest(source.root(), &found)?;
            if let Some(key) = key {
                session.remember(key, digest.clone());
            }
            Ok((found, digest))
        })
        .await
    }

    /// A layer made on nothing and then put on what is below.
    async fn link(
        &self,
        link: String,
        owner: String,
        job: Job,
        source: Arc<Tree>,
        found: Vec<Found>,
    ) -> Result<Option<Layer>> {
        let session = Arc::clone(&self.graph.session);
        let cache = Arc::clone(&session.builder.cache);
        session.pins.add(&link);
        let _alone = cache.flight(&link).lock_owned().await;
        let below = self.state.top().cloned();
        let engine = session.builder.engine.clone();
        let title = job.destination.clone();
        blocking(move || {
            let layer = match cache.find(&link, None) {
                Some(entry) => entry.layer,
                None => {
                    let made = engine.write_layer(&[])?;
                    job.run(source.root(), &found, made.root())?;
                    let layer = made.commit(&crate::cache::owner(&link), job.newest)?;
                    let history = dray_image::History {
                        created_by: Some(format!("link to {title}")),
                        empty_layer: layer.is_none(),
                        ..dray_image::History::default()
                    };
                    let made = jiff::Timestamp::now();
                    let entry = crate::cache::Entry {
                        history,
                        layer: layer.clone(),
                        kind: "regular".to_owned(),
                        made,
                    };
                    cache.put(&link, &entry)?;
                    layer
                }
            };
            match (layer, below) {
                (Some(layer), Some(below)) => Ok(Some(engine.images().put_layer_on(&below, &layer, &owner)?)),
                (Some(layer), None) => {
                    engine.images().lease(&owner, &layer.chain_id)?;
                    Ok(Some(layer))
                }
                (None, _) => Ok(None),
            }
        })
        .await
    }

    /// Fetches the sources of an ADD that are addresses.
    async fn fetch(&self, job: &mut Job, transfer: &Transfer) -> Result<()> {
        let (far, near): (Vec<String>, Vec<String>) = std::mem::take(&mut job.sources)
            .into_iter()
            .partition(|source| dray_dockerfile::is_url(source) || remote::is_git(source));
        job.sources = near;
        if far.is_empty() {
            return Ok(());
        }
        let session = &self.graph.session;
        let checksum =
            transfer.checksum.as_ref().map(|text| self.scope.expand(&self.state, text)).transpose()?;
        if checksum.is_some() && far.len() + job.sources.len() > 1 {
            return Err(Error::Copy {
                instruction: "ADD",
                why: "checksum can't be specified for multiple sources".to_owned(),
            });
        }
        // What an address gives is kept as it is, unless unpacking is asked for.
        let unpack = transfer.unpack.unwrap_or(false);
        for address in far {
            let fetcher = remote::Fetcher {
                engine: &session.builder.engine,
                client: &session.client,
                keep_git: transfer.keep_git_dir,
            };
            let fetched = fetcher.source(&address, checksum.as_deref(), unpack).await?;
            session.materials.lock().insert(fetched.address.clone(), fetched.digest.clone());
            job.fetched.push(Arc::new(fetched));
        }
        Ok(())
    }

    pub(crate) async fn run_instruction(&mut self, title: &str, run: &Run) -> Result<()> {
        let session = Arc::clone(&self.graph.session);
        let args = words(&self.state, &run.command);
        let arguments = self.scope.arguments.for_run(&self.state);
        let mut told = args.join(" ");
        if !arguments.is_empty() {
            told = format!("|{} {} {told}", arguments.len(), arguments.join(" "));
        }
        let network = run.network.as_ref().map(|mode| self.scope.expand(&self.state, mode)).transpose()?;
        let network = match network.as_deref() {
            Some("none") => NetworkMode::None,
            Some("host")
                if session.request.network != NetworkMode::Host
                    && !session.request.entitlements.host_network =>
            {
                return Err(Error::NotGranted { what: "network.host", entitlement: "network.host" });
            }
            Some("host") => NetworkMode::Host,
            Some("default") | None => session.request.network.clone(),
            Some(other) => return Err(Error::invalid(format!("unknown value for --network: {other}"))),
        };
        let insecure = run.security.as_deref() == Some("insecure");
        if insecure && !session.request.entitlements.insecure {
            return Err(Error::NotGranted { what: "security.insecure", entitlement: "security.insecure" });
        }
        let (mounts, inputs) = self.mounts(run).await?;
        let identities = {
            let (mounts, session) = (mounts.clone(), Arc::clone(&session));
            blocking(move || mounts.iter().map(|mount| mount.identity(&session)).collect::<Result<Vec<_>>>())
                .await?
        };
        let script = match &run.command {
            Command::Script(text) => Some((script_path(&text.name), text.content.clone())),
            _ => None,
        };
        let config = &self.state.config.config;
        let request = &session.request;
        let key = self
            .key("run")
            .with(self.platform.to_string())
            .with_all(&config.env)
            .with(&config.working_dir)
            .with(&config.user)
            .with_all(config.volumes.keys().filter(|_| request.classic))
            .with_all(&args)
            .with_all(&arguments)
            .with(format!("{network:?} {insecure} {script:?}"))
            .with_all(&identities)
            .with(format!("{:?} {:?} {:?}", request.shm_size, request.ulimits, request.hostname))
            .with_all(&request.extra_hosts)
            .finish();
        let step = Step {
            title: title.to_owned(),
            key,
            told: (told.clone(), format!("RUN {told} # buildkit")),
            kind: "regular",
            inputs,
            working_dir: None,
        };
        let mut env = self.scope.arguments.proxies();
        env.extend(arguments);
        let Some(making) = self.begin(step).await? else { return Ok(()) };
        let job = RunJob { args, env, network, insecure, mounts, script };
        let made = job.run(self, &making).await;
        self.finish(making, made).await
    }

    /// The mounts of a RUN, and the vertices that their files come from.
    async fn mounts(&self, run: &Run) -> Result<(Vec<RunMount>, Vec<Digest>)> {
        let (mut mounts, mut inputs, mut agents) = (Vec::new(), Vec::new(), 0);
        for options in &run.mounts {
            let mut options = options.clone();
            for (_, value) in &mut options.options {
                *value = self.scope.expand(&self.state, value)?;
            }
            let from = match (options.get("from"), options.kind.as_str()) {
                (Some(from), "bind" | "cache") if !from.is_empty() => {
                    let (tree, vertex) = self.graph.tree(self.index, from, &self.platform).await?;
                    inputs.extend(vertex);
                    Some(tree)
                }
                (_, "bind") => Some(self.graph.session.main_context().await?),
                _ => None,
            };
            let working_dir = &self.state.config.config.working_dir;
            mounts.push(RunMount::new(&options, from, working_dir, agents)?);
            agents += usize::from(options.kind == "ssh");
        }
        Ok((mounts, inputs))
    }
}
