//! Builds on a real engine: what COPY, ADD and WORKDIR leave in an image. RUN is tested with the whole daemon.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod world;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dray_build::{BuildRequest, ContextSource, Error, Event, NoClient};
use dray_image::{Digest, Reference};
use dray_testkit::isolate;
use tokio::sync::mpsc;
use world::World;

/// Builds from the files below a directory; answers the image and what was told.
async fn build(world: &World, context: &Path, dockerfile: &str) -> (Result<Digest, Error>, String) {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", context).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(dockerfile.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, "Dockerfile", dockerfile.as_bytes()).unwrap();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o4750);
    header.set_size(0);
    archive.append_link(&mut header, "sub/same", "sub/c").unwrap();
    let archive = std::io::Cursor::new(archive.into_inner().unwrap());
    let (sender, mut receiver) = mpsc::channel(8);
    let told = tokio::spawn(async move {
        let mut told = String::new();
        while let Some(event) = receiver.recv().await {
            if let Event::Text(text) = event {
                told.push_str(&text);
            }
        }
        told
    });
    let request = BuildRequest { context: ContextSource::archive(archive), ..BuildRequest::default() };
    let result = world.builder.build(request, Arc::new(NoClient), sender).await;
    let result = match result {
        Ok(built) => built.record(&[Reference::parse("made").unwrap()]).await,
        Err(error) => Err(error),
    };
    (result, told.await.unwrap())
}

/// The topmost directory that has a path of the image.
fn find(world: &World, id: &Digest, path: &str) -> PathBuf {
    let image = world.engine.images().resolve(id.as_str()).unwrap();
    let lower = world.engine.images().lower_directories(&image.layers).unwrap();
    let mut found = lower.iter().map(|layer| layer.join(path));
    found.find(|path| path.symlink_metadata().is_ok()).unwrap_or_else(|| panic!("no {path}"))
}

fn read(world: &World, id: &Digest, path: &str) -> String {
    fs::read_to_string(find(world, id, path)).unwrap()
}

fn scratch_is_empty(world: &World) -> bool {
    fs::read_dir(world.directory.path().join("d/scratch")).unwrap().next().is_none()
}

fn context(directory: &Path) -> PathBuf {
    let context = directory.join("context");
    fs::create_dir_all(context.join("sub/deep")).unwrap();
    for (name, content) in [("a.txt", "a"), ("b.txt", "b"), ("sub/c", "c"), ("sub/deep/d", "d")] {
        fs::write(context.join(name), content).unwrap();
    }
    fs::set_permissions(context.join("sub/c"), fs::Permissions::from_mode(0o4750)).unwrap();
    std::os::unix::fs::symlink("sub/c", context.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", context.join("sub/outside")).unwrap();
    std::os::unix::fs::chown(context.join("a.txt"), Some(12), Some(13)).unwrap();
    context
}

#[test]
fn copies_what_docker_copies() {
    isolate();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let context = context(world.directory.path());
        let dockerfile = "FROM scratch AS first\n\
            COPY a.txt /one/name\nCOPY *.txt /all/\nCOPY sub /dir\nCOPY link /followed\n\
            COPY --chown=3:4 --chmod=711 sub/deep /owned/new\nWORKDIR /work\nCOPY b.txt .\nADD sub/[c] ./\n\
            FROM scratch\nCOPY --from=first / /\nCOPY --from=first /owned/new/d /flat\n";
        let (result, _) = build(&world, &context, dockerfile).await;
        let id = result.unwrap();
        for (path, content) in [
            ("one/name", "a"),
            ("all/a.txt", "a"),
            ("all/b.txt", "b"),
            ("dir/deep/d", "d"),
            ("followed", "c"),
            ("owned/new/d", "d"),
            ("work/b.txt", "b"),
            ("work/c", "c"),
            ("flat", "d"),
        ] {
            assert_eq!(read(&world, &id, path), content, "{path}");
        }
        let owned = fs::metadata(find(&world, &id, "owned/new/d")).unwrap();
        assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (3, 4, 0o711));
        let parent = fs::metadata(find(&world, &id, "owned")).unwrap();
        assert_eq!((parent.uid(), parent.gid()), (3, 4), "directories made for a copy are its owner's");
        assert_eq!(
            fs::metadata(find(&world, &id, "one/name")).unwrap().uid(),
            0,
            "the context has no owners"
        );
        let first = fs::metadata(find(&world, &id, "dir/c")).unwrap();
        let second = fs::metadata(find(&world, &id, "dir/same")).unwrap();
        assert_eq!((first.ino(), first.mode() & 0o7777), (second.ino(), 0o4750), "hard links stay");
        let link = fs::read_link(find(&world, &id, "dir/outside")).unwrap();
        assert_eq!(link, Path::new("/etc/shadow"), "links are copied, not followed");
        assert!(scratch_is_empty(&world));

        let (again, told) = build(&world, &context, dockerfile).await;
        assert_eq!((again.unwrap(), told.matches("Using cache").count()), (id, 10));
        fs::set_permissions(context.join("a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
        let (changed, told) = build(&world, &context, dockerfile).await;
        assert_eq!((changed.is_ok(), told.matches("Using cache").count()), (true, 0), "modes count");
        world.engine.close().await;
    });
}

#[test]
fn links_of_an_image_lead_nowhere_else() {
    isolate();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let context = context(world.directory.path());
        let victim = world.directory.path().join("victim");
        fs::create_dir(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, context.join("escape")).unwrap();
        std::os::unix::fs::symlink("usr/lib", context.join("lib")).unwrap();
        // The context's own links do not lead out of it either.
        let (result, _) = build(&world, &context, "FROM scratch\nCOPY escape /x\n").await;
        assert!(
            matches!(result, Err(ref error) if matches!(error.inner(), Error::NoSource { .. })),
            "{result:?}"
        );
        fs::create_dir(context.join("links")).unwrap();
        fs::rename(context.join("escape"), context.join("links/escape")).unwrap();
        fs::rename(context.join("lib"), context.join("links/lib")).unwrap();
        let (result, _) =
            build(&world, &context, "FROM scratch\nCOPY links /\nCOPY a.txt /escape/a\nCOPY b.txt /lib/b\n")
                .await;
        let id = result.unwrap();
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "nothing was written outside");
        assert_eq!(read(&world, &id, "usr/lib/b"), "b", "links inside are followed");
        let inside = victim.strip_prefix("/").unwrap().join("a");
        assert_eq!(read(&world, &id, inside.to_str().unwrap()), "a");

        let (result, _) = build(
            &world,
            &context,
            "FROM scratch\nCOPY sub /a.txt\nCOPY a.txt /a.txt/deep/\nCOPY a.txt /a.txt/deep\n",
        )
        .await;
        assert!(result.is_ok(), "{result:?}");
        let (result, _) = build(&world, &context, "FROM scratch\nCOPY a.txt /f\nCOPY sub /f\n").await;
        assert!(
            matches!(result, Err(ref error) if matches!(error.inner(), Error::Copy { .. })),
            "{result:?}"
        );
        assert!(scratch_is_empty(&world));
        world.engine.close().await;
    });
}

#[test]
fn damaged_contexts_are_refused() {
    isolate();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let refused = |bytes: Vec<u8>| {
            let builder = world.builder.clone();
            async move {
                let (sender, receiver) = mpsc::channel(8);
                let request = BuildRequest {
                    context: ContextSource::archive(std::io::Cursor::new(bytes)),
                    ..BuildRequest::default()
                };
                let result = builder.build(request, Arc::new(NoClient), sender).await;
                drop(receiver);
                result.unwrap_err()
            }
        };
        assert!(matches!(refused(Vec::new()).await, Error::NoDockerfile { .. }));
        assert!(matches!(refused(vec![7; 3000]).await, Error::Context { .. }));
        assert!(matches!(refused(vec![0x1f, 0x8b, 8, 0, 0]).await, Error::Context { .. }));
        for cut in [&b"BZh91AY"[..], b"\xfd7zXZ\0\0"] {
            assert!(matches!(refused(cut.to_vec()).await, Error::Context { .. }));
        }
        assert!(scratch_is_empty(&world));
        world.engine.close().await;
    });
}

#[test]
fn a_cached_layer_that_is_gone_is_made_again() {
    isolate();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let context = context(world.directory.path());
        let dockerfile = "FROM scratch\nCOPY a.txt /a\nCOPY b.txt /b\n";
        let first = build(&world, &context, dockerfile).await.0.unwrap();
        let layer = find(&world, &first, "b").parent().unwrap().parent().unwrap().to_owned();
        fs::remove_dir_all(layer).unwrap();
        let (second, told) = build(&world, &context, dockerfile).await;
        let second = second.unwrap();
        assert_eq!(told.matches("Using cache").count(), 1, "the layer below is still there: {told}");
        assert_eq!((read(&world, &second, "a").as_str(), read(&world, &second, "b").as_str()), ("a", "b"));
        // A removal of all images leaves what the cache needs, and a pruning takes that, too.
        for id in [&first, &second] {
            let _ = world.engine.images().remove(id.as_str(), true, |_| Vec::new());
        }
        let layers = || fs::read_dir(world.directory.path().join("d/image/layers")).unwrap().count();
        assert_eq!(layers(), 2);
        let pruned = world.builder.prune(|_| true).await.unwrap();
        assert!(pruned.entries.len() >= 2 && pruned.bytes >= 2, "{pruned:?}");
        assert_eq!(layers(), 0);
        world.engine.close().await;
    });
}

#[test]
fn cve_2024_24557_the_cache_key_covers_everything() {
    isolate();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let context = context(world.directory.path());
        // Each pair differs in one thing that a poisoned cache would take for the same.
        let pairs = [
            ("HEALTHCHECK CMD a", "HEALTHCHECK CMD b"),
            ("HEALTHCHECK CMD a b", "HEALTHCHECK CMD [\"a\", \"b\"]"),
            ("ONBUILD RUN a", "ONBUILD RUN b"),
            ("CMD [\"a b\"]", "CMD [\"a\", \"b\"]"),
            ("ENV a=b c=d", "ENV a=\"b c=d\""),
            ("SHELL [\"a\"]", "SHELL [\"b\"]"),
            ("COPY a.txt /x", "COPY a.txt /y"),
            ("COPY a.txt /x/", "COPY b.txt /x/"),
            ("COPY --chown=1 a.txt /x", "COPY --chown=2 a.txt /x"),
            ("COPY --chmod=600 a.txt /x", "COPY --chmod=644 a.txt /x"),
            ("VOLUME a b", "VOLUME [\"a b\"]"),
            ("LABEL a=\"b c=d\"", "LABEL a=b c=d"),
        ];
        for (one, other) in pairs {
            let first = build(&world, &context, &format!("FROM scratch\n{one}\n")).await;
            let (second, told) = build(&world, &context, &format!("FROM scratch\n{other}\n")).await;
            let (first, second) = (first.0.unwrap(), second.unwrap());
            assert!(first != second && !told.contains("Using cache"), "{one} and {other}");
        }
        world.engine.close().await;
    });
}
