//! RUN on a real engine, with a client that gives secrets and an agent.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use dray_build::{
    BoxFuture, BuildRequest, Client, ClientError, Credentials, Duplex, Entitlements, Error, Event,
    LocalDirectory, LocalFilter, NoCache, NoClient, ProgressFn,
};
use dray_engine::{NetworkMode, Resources};
use dray_testkit::eventually;
use libtest_mimic::{Arguments, Trial};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{World, cached, id, of};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // This binary is the containers' shim as well.
    dray_runtime::shim::main_if_requested();
    let trials = vec![
        trial("secrets_are_seen_and_not_kept", secrets_are_seen_and_not_kept),
        trial("secrets_as_variables_are_on_no_disk", secrets_as_variables_are_on_no_disk),
        trial("proxies_are_in_no_key_and_no_history", proxies_are_in_no_key_and_no_history),
        trial("agents_answer_in_a_step", agents_answer_in_a_step),
        trial("stages_run_at_once", stages_run_at_once),
        trial("equal_steps_are_made_once", equal_steps_are_made_once),
        trial("locked_caches_have_one_user", locked_caches_have_one_user),
        trial("a_failure_ends_all_stages", a_failure_ends_all_stages),
        trial("a_client_that_goes_leaves_nothing", a_client_that_goes_leaves_nothing),
        trial("steps_respect_their_limits", steps_respect_their_limits),
        trial("a_given_time_holds_for_what_runs", a_given_time_holds_for_what_runs),
        trial("caches_are_listed_and_pruned", caches_are_listed_and_pruned),
        trial("cve_2024_23651_links_lead_to_no_place_of_the_host", cve_2024_23651),
        trial("cve_2024_23652_mount_points_go_and_nothing_else", cve_2024_23652),
        trial("cve_2024_23653_privileges_must_be_granted", cve_2024_23653),
        trial("cve_2024_24557_keys_cover_all_that_runs", cve_2024_24557),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial<F: Future<Output = ()> + 'static>(name: &'static str, test: fn(World) -> F) -> Trial {
    Trial::test(name, move || {
        world::run(|| async {
            let world = World::new().await;
            world.engine.images().load(dray_testkit::busybox_archive("box:latest").as_slice()).unwrap();
            fs::create_dir(world.directory.path().join("empty")).unwrap();
            test(world).await;
        });
        Ok(())
    })
}

impl World {
    fn dockerfile(&self, dockerfile: &str) -> BuildRequest {
        BuildRequest { network: NetworkMode::None, ..of(&self.directory.path().join("empty"), dockerfile) }
    }

    async fn end(self) {
        eventually("the containers to go", PATIENCE, || self.engine.containers().is_empty().then_some(()));
        self.assert_nothing_left();
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        assert!(!mounts.contains("build-mounts"), "{mounts}");
        self.engine.close().await;
    }
}

/// Gives secrets, and an agent that answers each byte with the next one.
#[derive(Default)]
struct Giving {
    secrets: BTreeMap<String, Vec<u8>>,
    asked: Mutex<Vec<String>>,
}

impl Client for Giving {
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<u8>, ClientError>> {
        self.asked.lock().push(id.to_owned());
        let found = self.secrets.get(id).cloned();
        let found = found.ok_or_else(|| ClientError::Missing { what: format!("secret {id}") });
        Box::pin(std::future::ready(found))
    }

    fn ssh<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Box<dyn Duplex>, ClientError>> {
        let (mine, theirs) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let mut mine = mine;
            while let Ok(byte) = mine.read_u8().await {
                if mine.write_u8(byte + 1).await.is_err() {
                    break;
                }
            }
        });
        Box::pin(std::future::ready(Ok(Box::new(theirs) as Box<dyn Duplex>)))
    }

    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, ClientError>> {
        NoClient.credentials(host)
    }

    fn local<'a>(
        &'a self,
        name: &'a str,
        filter: &'a LocalFilter,
        progress: ProgressFn<'a>,
    ) -> BoxFuture<'a, Result<LocalDirectory, ClientError>> {
        NoClient.local(name, filter, progress)
    }
}

fn giving(value: &str) -> Arc<Giving> {
    Arc::new(Giving {
        secrets: BTreeMap::from([("s".to_owned(), value.as_bytes().to_vec())]),
        ..Giving::default()
    })
}

async fn secrets_are_seen_and_not_kept(world: World) {
    let dockerfile = "FROM box\n\
        RUN --mount=type=secret,id=s wc -c < /run/secrets/s > /size; stat -c %a:%u /run/secrets/s >> /size\n\
        RUN --mount=type=secret,id=s,target=/etc/own,mode=0440,uid=7,gid=8 stat -c %a:%u:%g /etc/own > /own\n\
        RUN --mount=type=secret,id=s,env=TOKEN echo ${#TOKEN} > /length; test ! -e /run/secrets/s\n";
    let (built, events) = world.build_for(world.dockerfile(dockerfile), giving("hush-hush")).await;
    let built = built.unwrap();
    assert_eq!(world.read(&built, "size"), "9\n400:0\n");
    assert_eq!((world.read(&built, "own"), world.read(&built, "length")), ("440:7:8\n".into(), "9\n".into()));
    for path in ["run/secrets", "etc/own", "run"] {
        assert!(!world.exists(&built, path), "{path} is left in the image");
    }
    let config = serde_json::to_string(&built.first().unwrap().config).unwrap();
    assert!(!config.contains("hush-hush") && !format!("{events:?}").contains("hush-hush"));
    // Another value makes no other step, and a step that is found asks for none.
    let other = giving("another");
    let (again, events) =
        world.build_for(world.dockerfile(dockerfile), Arc::clone(&other) as Arc<dyn Client>).await;
    assert_eq!((id(&again.unwrap()), cached(&events)), (id(&built), 3));
    assert!(other.asked.lock().is_empty());
    let data = fs::read_dir(world.directory.path().join("d/build-cache")).unwrap();
    for entry in data {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("hush"), "{text}");
    }
    drop(built);
    world.end().await;
}

/// The files below a directory.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = open.pop() {
        // What a step writes may go while this looks.
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

async fn secrets_as_variables_are_on_no_disk(world: World) {
    const SECRET: &str = "never-on-a-disk-5f3a";
    let request = world.dockerfile(
        "FROM box\nRUN --mount=type=secret,id=s,env=S --mount=type=cache,target=/c echo ${#S} > /c/ready && while [ ! -e /c/go ]; do sleep 0.05; done && echo ${#S} > /length\n",
    );
    let data = world.directory.path().join("d");
    let holds = |data: &Path| {
        let holds = |path: &PathBuf| {
            fs::read(path)
                .is_ok_and(|bytes| bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()))
        };
        files_below(data).into_iter().find(holds)
    };
    let looking = {
        let data = data.clone();
        tokio::task::spawn_blocking(move || {
            let ready = eventually("the step to run", PATIENCE, || {
                let files = files_below(&data.join("build-cache-mounts"));
                files.into_iter().find(|path| path.file_name().is_some_and(|name| name == "ready"))
            });
            let found = holds(&data);
            fs::write(ready.with_file_name("go"), "").unwrap();
            found
        })
    };
    let (built, _) = world.build_for(request, giving(SECRET)).await;
    let built = built.unwrap();
    assert_eq!(looking.await.unwrap(), None, "while the step runs");
    assert_eq!(world.read(&built, "length").trim(), SECRET.len().to_string());
    assert_eq!(holds(&data), None, "after it");
    drop(built);
    world.end().await;
}

async fn proxies_are_in_no_key_and_no_history(world: World) {
    let request = |proxy: &str| BuildRequest {
        build_args: BTreeMap::from([("https_proxy".to_owned(), Some(proxy.to_owned()))]),
        ..world.dockerfile("FROM box\nRUN echo $https_proxy > /seen\n")
    };
    let (first, _) = world.build_for(request("http://user:word@one"), Arc::new(NoClient)).await;
    let first = first.unwrap();
    assert_eq!(world.read(&first, "seen").trim(), "http://user:word@one");
    let config = serde_json::to_string(&first.first().unwrap().config).unwrap();
    assert!(!config.contains("word@one") && !config.contains("https_proxy="), "{config}");
    let (second, events) = world.build_for(request("http://other"), Arc::new(NoClient)).await;
    let second = second.unwrap();
    assert_eq!((cached(&events), id(&second)), (1, id(&first)));
    // One that the Dockerfile declares is an argument like others.
    let declared = |proxy: &str| BuildRequest {
        build_args: BTreeMap::from([("https_proxy".to_owned(), Some(proxy.to_owned()))]),
        ..world.dockerfile("FROM box\nARG https_proxy\nRUN echo $https_proxy > /seen\n")
    };
    world.build_for(declared("http://one"), Arc::new(NoClient)).await.0.unwrap();
    let (other, events) = world.build_for(declared("http://two"), Arc::new(NoClient)).await;
    let other = other.unwrap();
    assert_eq!((cached(&events), world.read(&other, "seen").trim()), (0, "http://two"));
    drop((first, second, other));
    world.end().await;
}

async fn agents_answer_in_a_step(world: World) {
    let dockerfile = "FROM box\nRUN --mount=type=ssh --mount=type=cache,target=/c \
        test -S $SSH_AUTH_SOCK && echo $SSH_AUTH_SOCK > /where && touch /c/ready && while [ ! -e /c/done ]; do sleep 0.05; done\n";
    let caches = world.directory.path().join("d/build-cache-mounts");
    let mounts = world.directory.path().join("d/build-mounts");
    let talk = async {
        let find = || {
            let mut entries = fs::read_dir(&caches).ok()?.flatten().map(|entry| entry.path().join("data"));
            entries.find(|path| path.join("ready").exists())
        };
        let cache = loop {
            match find() {
                Some(cache) => break cache,
                None => tokio::task::yield_now().await,
            }
        };
        let agents = fs::read_dir(&mounts).unwrap().flatten().map(|entry| entry.path().join("agent"));
        let agent = agents.into_iter().find(|path| path.exists()).unwrap();
        let mut stream = tokio::net::UnixStream::connect(agent).await.unwrap();
        stream.write_u8(41).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 42);
        fs::write(cache.join("done"), "").unwrap();
    };
    let request = world.dockerfile(dockerfile);
    let ((built, _), ()) = tokio::join!(world.build_for(request, giving("")), talk);
    let built = built.unwrap();
    assert_eq!(world.read(&built, "where"), "/run/buildkit/ssh_agent.0\n");
    assert!(!world.exists(&built, "run/buildkit"));
    drop(built);
    world.end().await;
}

async fn stages_run_at_once(world: World) {
    // Each waits for what the other makes, so that they end only together.
    let dockerfile = "FROM box AS a\nRUN --mount=type=cache,target=/c touch /c/a; while [ ! -e /c/b ]; do sleep 0.05; done; echo a > /a\n\
        FROM box AS b\nRUN --mount=type=cache,target=/c touch /c/b; while [ ! -e /c/a ]; do sleep 0.05; done; echo b > /b\n\
        FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    let built = world.build(world.dockerfile(dockerfile)).await.unwrap();
    assert_eq!((world.read(&built, "a"), world.read(&built, "b")), ("a\n".into(), "b\n".into()));
    drop(built);
    world.end().await;
}

async fn equal_steps_are_made_once(world: World) {
    let run = "RUN --mount=type=cache,target=/c echo x >> /c/count; sleep 0.2; wc -l < /c/count > /n";
    let dockerfile = format!(
        "FROM box AS a\n{run}\nFROM box AS b\n{run}\nFROM scratch\nCOPY --from=a /n /a\nCOPY --from=b /n /b\n"
    );
    // Without the cache once more, but not twice.
    for (no_cache, made) in [(NoCache::Never, "1\n"), (NoCache::Never, "1\n"), (NoCache::All, "2\n")] {
        let request = BuildRequest { no_cache, ..world.dockerfile(&dockerfile) };
        let built = world.build(request).await.unwrap();
        assert_eq!((world.read(&built, "a"), world.read(&built, "b")), (made.into(), made.into()));
        drop(built);
    }
    world.end().await;
}

async fn locked_caches_have_one_user(world: World) {
    let run = |n: u32| {
        format!(
            "FROM box AS s{n}\nRUN --mount=type=cache,id=l,target=/c,sharing=locked mkdir /c/busy && sleep 0.1 && rmdir /c/busy && echo {n} > /n\n"
        )
    };
    let dockerfile =
        format!("{}{}FROM scratch\nCOPY --from=s1 /n /1\nCOPY --from=s2 /n /2\n", run(1), run(2));
    let built = world.build(world.dockerfile(&dockerfile)).await.unwrap();
    assert_eq!((world.read(&built, "1"), world.read(&built, "2")), ("1\n".into(), "2\n".into()));
    // Private ones have each their own.
    let run = |n: u32| {
        format!(
            "FROM box AS p{n}\nRUN --mount=type=cache,id=p,target=/c,sharing=private mkdir /c/mine-$$-{n} && sleep 0.3 && ls /c | wc -l > /n\n"
        )
    };
    let dockerfile =
        format!("{}{}FROM scratch\nCOPY --from=p1 /n /1\nCOPY --from=p2 /n /2\n", run(1), run(2));
    let built = world.build(world.dockerfile(&dockerfile)).await.unwrap();
    assert_eq!((world.read(&built, "1"), world.read(&built, "2")), ("1\n".into(), "1\n".into()));
    drop(built);
    world.end().await;
}

async fn a_failure_ends_all_stages(world: World) {
    let dockerfile = "FROM box AS long\nRUN --mount=type=cache,target=/c touch /c/begun; sleep 1000\n\
        FROM box AS bad\nRUN --mount=type=cache,target=/c while [ ! -e /c/begun ]; do sleep 0.05; done; echo why >&2; exit 9\n\
        FROM scratch\nCOPY --from=long /x /\nCOPY --from=bad /x /\n";
    let (result, events) = world.build_for(world.dockerfile(dockerfile), Arc::new(NoClient)).await;
    let error = result.unwrap_err();
    assert!(matches!(error.inner(), Error::Run { code: 9, .. }), "{error:?}");
    let place = error.place().unwrap();
    assert_eq!((place.range.start_line, place.file.as_str()), (4, "Dockerfile"));
    let failed = events.iter().find_map(|event| match event {
        Event::Vertex(vertex) if !vertex.error.is_empty() => Some(vertex),
        _ => None,
    });
    assert_eq!(place.vertex.as_ref(), failed.map(|vertex| &vertex.digest));
    let logged = |event: &Event| matches!(event, Event::Log(log) if log.stream == 2 && log.bytes == b"why\n");
    assert!(events.iter().any(logged));
    let text = |event: &Event| matches!(event, Event::Text(text) if text.contains("why"));
    assert!(events.iter().any(text), "what it said is told although an earlier stage was not done");
    world.end().await;
}

async fn a_client_that_goes_leaves_nothing(world: World) {
    world.files("c", &[("a", "a")]);
    let dockerfile = "FROM box\nRUN --mount=target=/m,rw --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \
        --mount=type=secret,id=s --mount=type=ssh echo begun; sleep 1000\n";
    let (sender, mut receiver) = tokio::sync::mpsc::channel(64);
    let request =
        BuildRequest { network: NetworkMode::None, ..of(&world.directory.path().join("c"), dockerfile) };
    let builder = world.builder.clone();
    let building = tokio::spawn(async move { builder.build(request, giving("x"), sender).await });
    while let Some(event) = receiver.recv().await {
        if matches!(&event, Event::Log(log) if log.bytes.starts_with(b"begun")) {
            break;
        }
    }
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    assert!(mounts.contains("build-mounts"), "the mounts are there: {mounts}");
    drop(receiver);
    assert!(matches!(building.await.unwrap(), Err(Error::Cancelled)));
    world.end().await;
}

async fn steps_respect_their_limits(world: World) {
    let mut request = world.dockerfile("FROM box\nRUN sleep 1000\n");
    request.time_limit = Some(Duration::from_millis(300));
    let error = world.build(request).await.unwrap_err();
    assert!(matches!(error.inner(), Error::TimedOut { .. }), "{error:?}");
    let mut request = world.dockerfile("FROM box\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n");
    request.resources =
        Resources { memory: Some(32 << 20), memory_swap: Some(32 << 20), ..Resources::default() };
    let error = world.build(request).await.unwrap_err();
    assert!(matches!(error.inner(), Error::Run { code: 137, .. }), "{error:?}");
    world.end().await;
}

async fn a_given_time_holds_for_what_runs(world: World) {
    let request = || BuildRequest {
        no_cache: NoCache::All,
        source_date_epoch: Some(1_000_000_000),
        ..world
            .dockerfile("FROM box\nRUN mkdir -p /d/e && echo x > /d/e/f && ln -s f /d/e/l && touch /tmp/t\n")
    };
    let first = world.build(request()).await.unwrap();
    let second = world.build(request()).await.unwrap();
    assert_eq!(id(&first), id(&second));
    let root = first.open(first.first().unwrap()).unwrap().unwrap();
    assert_eq!(root.stat("d/e/f").unwrap().st_mtime, 1_000_000_000);
    drop((first, second, root));
    world.end().await;
}

async fn caches_are_listed_and_pruned(world: World) {
    let dockerfile = "FROM box\nRUN --mount=type=cache,id=big,target=/c dd if=/dev/zero of=/c/x bs=1M count=3 2>/dev/null\n";
    drop(world.build(world.dockerfile(dockerfile)).await.unwrap());
    let steps = world.builder.cached();
    let cache = steps.iter().find(|step| step.kind == "exec.cachemount").unwrap();
    assert_eq!((cache.size, cache.description.as_str(), cache.in_use), (3 << 20, "cached mount big", false));
    let pruned = world.builder.prune(|step| step.kind == "exec.cachemount").await.unwrap();
    assert_eq!((pruned.entries.len(), pruned.bytes >= 3 << 20), (1, true));
    assert!(world.builder.cached().iter().all(|step| step.kind != "exec.cachemount"));
    world.end().await;
}

async fn cve_2024_23651(world: World) {
    let victim = world.directory.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("secret"), "of the host").unwrap();
    let dockerfile = format!(
        "FROM box AS evil\nRUN ln -s {0} /evil && mkdir /dir && ln -s {0} /dir/evil\n\
         FROM box\nRUN --mount=type=cache,id=e,target=/c ln -s {0} /c/link\n\
         RUN --mount=type=cache,id=e,target=/c cat /c/link/secret > /stolen 2>/dev/null; true\n\
         RUN --mount=type=cache,id=n,from=evil,source=/dir,target=/c ls /c/evil/ > /listed 2>/dev/null; true\n",
        victim.display()
    );
    let built = world.build(world.dockerfile(&dockerfile)).await.unwrap();
    assert_eq!((world.read(&built, "stolen"), world.read(&built, "listed")), (String::new(), String::new()));
    for source in ["/evil", "/dir/evil", "/evil/secret", "../../../victim"] {
        let dockerfile = format!(
            "FROM box AS evil\nRUN ln -s {0} /evil && mkdir /dir && ln -s {0} /dir/evil\n\
             FROM box\nRUN --mount=from=evil,source={source},target=/m,rw cat /m/secret\n",
            victim.display()
        );
        assert!(world.build(world.dockerfile(&dockerfile)).await.is_err(), "{source}");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    drop(built);
    world.end().await;
}

async fn cve_2024_23652(world: World) {
    let victim = world.directory.path().join("victim");
    fs::create_dir_all(victim.join("deep")).unwrap();
    let dockerfile = format!(
        "FROM box\nRUN ln -s etc /linked && mkdir /kept\n\
         RUN --mount=type=cache,target=/stub/deep/er --mount=type=tmpfs,target=/kept --mount=type=tmpfs,target=/linked/in true\n\
         RUN --mount=type=tmpfs,target=/used/t touch /used/file\n\
         RUN --mount=type=tmpfs,target=/moved/deep umount /moved/deep 2>/dev/null; mv /moved /elsewhere 2>/dev/null && ln -s {} /moved; true\n",
        victim.display()
    );
    let built = world.build(world.dockerfile(&dockerfile)).await.unwrap();
    for gone in ["stub", "etc/in", "used/t"] {
        assert!(!world.exists(&built, gone), "{gone} is left");
    }
    for stays in ["kept", "linked", "used/file"] {
        assert!(world.exists(&built, stays), "{stays} went");
    }
    assert!(victim.join("deep").exists());
    drop(built);
    world.end().await;
}

async fn cve_2024_23653(world: World) {
    let dockerfile =
        "FROM box\nRUN --security=insecure mkdir -p /m && mount -t tmpfs x /m && echo yes > /x\n";
    let error = world.build(world.dockerfile(dockerfile)).await.unwrap_err();
    assert!(matches!(error.inner(), Error::NotGranted { .. }), "{error:?}");
    let host = "FROM box\nRUN --network=host true\n";
    let error = world.build(world.dockerfile(host)).await.unwrap_err();
    assert!(matches!(error.inner(), Error::NotGranted { .. }), "{error:?}");
    let mut request = world.dockerfile(dockerfile);
    request.entitlements = Entitlements { insecure: true, host_network: true };
    let built = world.build(request).await.unwrap();
    assert_eq!(world.read(&built, "x"), "yes\n");
    // What was made with privileges is not found by who has none.
    let error = world.build(world.dockerfile(dockerfile)).await.unwrap_err();
    assert!(matches!(error.inner(), Error::NotGranted { .. }), "{error:?}");
    drop(built);
    world.end().await;
}

async fn cve_2024_24557(world: World) {
    let marked = "date +%N > /x";
    let mut seen = Vec::new();
    for dockerfile in [
        format!("FROM box\nRUN {marked}\n"),
        format!("FROM box\nENV A=1\nRUN {marked}\n"),
        format!("FROM box\nENV A=2\nRUN {marked}\n"),
        format!("FROM box\nARG A=1\nRUN {marked}\n"),
        format!("FROM box\nUSER user\nRUN {marked} || true\n"),
        format!("FROM box\nWORKDIR /tmp\nRUN {marked}\n"),
        format!("FROM box\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN {marked}\n"),
        format!("FROM box\nRUN --mount=type=tmpfs,target=/t {marked}\n"),
        format!("FROM box\nRUN --mount=type=cache,target=/t {marked}\n"),
        format!("FROM box\nRUN --mount=type=cache,target=/t,id=i {marked}\n"),
        format!("FROM box\nRUN --mount=target=/t {marked}\n"),
        format!("FROM box\nRUN --mount=target=/t,rw {marked}\n"),
        "FROM box\nRUN [\"/bin/sh\", \"-c\", \"date  +%N > /x\"]\n".to_owned(),
    ] {
        let (built, events) = world.build_for(world.dockerfile(&dockerfile), Arc::new(NoClient)).await;
        let built = built.unwrap();
        assert_eq!(cached(&events), 0, "{dockerfile}");
        assert!(!seen.contains(id(&built)), "{dockerfile}");
        seen.push(id(&built).clone());
    }
    // And one that is the same is found.
    let (_, events) = world
        .build_for(world.dockerfile(&format!("FROM box\nLABEL x=y\nRUN {marked}\n")), Arc::new(NoClient))
        .await;
    assert_eq!(cached(&events), 1);
    let mut request = world.dockerfile(&format!("FROM box\nRUN {marked}\n"));
    request.extra_hosts = vec!["a:10.0.0.1".to_owned()];
    let (_, events) = world.build_for(request, Arc::new(NoClient)).await;
    assert_eq!(cached(&events), 0);
    world.end().await;
}
