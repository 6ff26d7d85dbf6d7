//! The daemon as bollard, the client of Rust programs, sees it: at the newest version of the API and in strict types.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test that cannot go on must stop here")]

mod common;

use std::collections::HashMap;
use std::io::Read as _;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, EndpointSettings, HostConfig, NetworkConnectRequest,
    NetworkCreateRequest, PortBinding, VolumeCreateRequest,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, BuildImageOptionsBuilder, CreateContainerOptionsBuilder,
    DataUsageOptionsBuilder, DownloadFromContainerOptionsBuilder, EventsOptionsBuilder,
    InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder, ListVolumesOptions,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions, RemoveVolumeOptions,
    StatsOptionsBuilder, StopContainerOptionsBuilder, TopOptionsBuilder, UploadToContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker, body_full};
use common::Daemon;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::io::AsyncWriteExt as _;

/// All that a stream of output says.
async fn text(output: impl futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>>) -> String {
    let pieces: Vec<LogOutput> = output.try_collect().await.unwrap();
    pieces.iter().map(ToString::to_string).collect()
}

fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content).unwrap();
    archive.into_inner().unwrap()
}

async fn create(docker: &Docker, name: &str, body: ContainerCreateBody) {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let body = ContainerCreateBody { image: Some("box".to_owned()), ..body };
    docker.create_container(Some(options), body).await.unwrap();
}

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|&word| word.to_owned()).collect())
}

#[test]
fn bollard_works_at_the_newest_version() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let socket = daemon.path("r/docker.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let docker = Docker::connect_with_unix(socket.to_str().unwrap(), 60, API_DEFAULT_VERSION).unwrap();
        assert_eq!(docker.ping().await.unwrap(), "OK");
        let version = docker.version().await.unwrap();
        assert_eq!(version.api_version.unwrap(), API_DEFAULT_VERSION.to_string());
        let docker = docker.negotiate_version().await.unwrap();
        assert_eq!(docker.info().await.unwrap().containers, Some(0));
        containers(&docker).await;
        files_and_builds(&docker).await;
        networks_and_volumes(&docker).await;
    });
    daemon.assert_nothing_left();
}

async fn containers(docker: &Docker) {
    let script = "echo out; echo err >&2; read line; echo got $line; exec sleep 1000";
    let ports =
        [("80/tcp".to_owned(), Some(vec![PortBinding { host_ip: None, host_port: Some(String::new()) }]))];
    let body = ContainerCreateBody {
        cmd: words(&["sh", "-c", script]),
        open_stdin: Some(true),
        labels: Some([("of".to_owned(), "bollard".to_owned())].into()),
        host_config: Some(HostConfig {
            memory: Some(64 << 20),
            port_bindings: Some(ports.into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    create(docker, "main", body).await;
    let attach = AttachContainerOptionsBuilder::default().stream(true).stdin(true).stdout(true).build();
    let mut attached = docker.attach_container("main", Some(attach)).await.unwrap();
    docker.start_container("main", None).await.unwrap();
    attached.input.write_all(b"words\n").await.unwrap();
    let mut seen = String::new();
    while !seen.contains("got words") {
        seen.push_str(&attached.output.next().await.unwrap().unwrap().to_string());
    }
    let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).tail("all").build();
    let said = text(docker.logs("main", Some(logs))).await;
    assert!(said.contains("out\n") && said.contains("err\n") && said.contains("got words\n"), "{said}");

    let inspected = docker.inspect_container("main", None::<InspectContainerOptions>).await.unwrap();
    assert_eq!(inspected.state.unwrap().running, Some(true));
    assert_eq!(inspected.host_config.unwrap().memory, Some(64 << 20));
    let settings = inspected.network_settings.unwrap();
    assert!(settings.networks.unwrap()["bridge"].ip_address.as_ref().unwrap().starts_with("172."));
    assert!(settings.ports.unwrap()["80/tcp"].as_ref().unwrap()[0].host_port.is_some());
    let filters: HashMap<&str, Vec<&str>> = [("label", vec!["of=bollard"])].into();
    let list = ListContainersOptionsBuilder::default().filters(&filters).size(true).build();
    let listed = docker.list_containers(Some(list)).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].names, words(&["/main"]));

    let exec = CreateExecOptions {
        cmd: Some(vec!["sh", "-c", "cat; echo to error >&2; exit 3"]),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec("main", exec).await.unwrap().id;
    let StartExecResults::Attached { output, mut input } =
        docker.start_exec(&exec, None::<StartExecOptions>).await.unwrap()
    else {
        panic!("it is attached");
    };
    input.write_all(b"through stdin\n").await.unwrap();
    input.shutdown().await.unwrap();
    let said = text(output).await;
    assert!(said.contains("through stdin\n") && said.contains("to error\n"), "{said}");
    assert_eq!(docker.inspect_exec(&exec).await.unwrap().exit_code, Some(3));

    let once = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let stats: Vec<_> = docker.stats("main", Some(once)).try_collect().await.unwrap();
    assert_eq!(stats[0].memory_stats.as_ref().unwrap().limit, Some(64 << 20));
    assert_eq!(stats[0].os_type.as_deref(), Some("linux"));
    let top = docker
        .top_processes("main", Some(TopOptionsBuilder::default().ps_args("aux").build()))
        .await
        .unwrap();
    assert!(top.processes.unwrap().concat().join(" ").contains("sleep"));
    let update = ContainerUpdateBody {
        memory: Some(32 << 20),
        memory_swap: Some(-1),
        ..ContainerUpdateBody::default()
    };
    docker.update_container("main", update).await.unwrap();
    docker.pause_container("main").await.unwrap();
    docker.unpause_container("main").await.unwrap();
    let stop = StopContainerOptionsBuilder::default().t(0).build();
    docker.stop_container("main", Some(stop)).await.unwrap();
    let wait = WaitContainerOptionsBuilder::default().condition("not-running").build();
    let ended: Vec<_> = docker.wait_container("main", Some(wait)).collect().await;
    match ended.as_slice() {
        [Err(bollard::errors::Error::DockerContainerWaitError { code: 137, .. })] => {}
        other => panic!("killed: {other:?}"),
    }
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let filters: HashMap<&str, Vec<&str>> = [("type", vec!["container"]), ("event", vec!["die"])].into();
    let asked =
        EventsOptionsBuilder::default().since("0").until(&until.to_string()).filters(&filters).build();
    let events: Vec<_> = docker.events(Some(asked)).try_collect().await.unwrap();
    assert_eq!(events[0].actor.as_ref().unwrap().attributes.as_ref().unwrap()["exitCode"], "137");

    match docker.inspect_container("absent", None::<InspectContainerOptions>).await {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, message }) => {
            assert_eq!(message, "No such container: absent");
        }
        other => panic!("there is none: {other:?}"),
    }
}

async fn files_and_builds(docker: &Docker) {
    let upload = UploadToContainerOptionsBuilder::default().path("/").build();
    let body = body_full(archive("note", b"written from outside").into());
    docker.upload_to_container("main", Some(upload), body).await.unwrap();
    let download = DownloadFromContainerOptionsBuilder::default().path("/note").build();
    let got: Vec<_> = docker.download_from_container("main", Some(download)).try_collect().await.unwrap();
    let got = got.concat();
    let mut entries = tar::Archive::new(got.as_slice());
    let mut content = String::new();
    entries.entries().unwrap().next().unwrap().unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "written from outside");
    let changes = docker.container_changes("main").await.unwrap().unwrap();
    assert!(changes.iter().any(|change| change.path == "/note"), "{changes:?}");

    let context = archive("Dockerfile", b"FROM box\nRUN echo built > /built\nCMD [\"cat\", \"/built\"]\n");
    let build = BuildImageOptionsBuilder::default().t("made").build();
    let told: Vec<_> =
        docker.build_image(build, None, Some(body_full(context.into()))).try_collect().await.unwrap();
    let told: String = told.iter().filter_map(|info| info.stream.clone()).collect();
    assert!(told.contains("Successfully tagged made:latest"), "{told}");
    let image = docker.inspect_image("made").await.unwrap();
    assert_eq!(image.config.unwrap().cmd, words(&["cat", "/built"]));
    assert!(docker.image_history("made").await.unwrap().len() >= 2);
    let body = ContainerCreateBody { image: Some("made".to_owned()), ..ContainerCreateBody::default() };
    let options = CreateContainerOptionsBuilder::default().name("made").build();
    docker.create_container(Some(options), body).await.unwrap();
    docker.start_container("made", None).await.unwrap();
    let ended: Vec<_> = docker.wait_container("made", None).try_collect().await.unwrap();
    assert_eq!(ended[0].status_code, 0);
    let logs = LogsOptionsBuilder::default().stdout(true).build();
    assert_eq!(text(docker.logs("made", Some(logs))).await, "built\n");

    let usage = docker.df(Some(DataUsageOptionsBuilder::default().build())).await.unwrap();
    let containers = usage.container_usage.unwrap();
    assert_eq!((containers.total_count, containers.active_count.unwrap_or(0)), (Some(2), 0));
    let remove = || Some(RemoveContainerOptionsBuilder::default().v(true).force(true).build());
    docker.remove_container("made", remove()).await.unwrap();
    docker.remove_container("main", remove()).await.unwrap();
    docker.remove_image("made", None::<RemoveImageOptions>, None).await.unwrap();
}

async fn networks_and_volumes(docker: &Docker) {
    let request = NetworkCreateRequest { name: "mesh".to_owned(), ..NetworkCreateRequest::default() };
    docker.create_network(request).await.unwrap();
    let volume = docker
        .create_volume(VolumeCreateRequest {
            name: Some("data".to_owned()),
            ..VolumeCreateRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(volume.driver, "local");
    let host = HostConfig { binds: words(&["data:/data"]), ..HostConfig::default() };
    let body = ContainerCreateBody {
        cmd: words(&["sleep", "1000"]),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    create(docker, "peer", body).await;
    docker.start_container("peer", None).await.unwrap();
    let endpoint = EndpointSettings { aliases: words(&["other"]), ..EndpointSettings::default() };
    let request = NetworkConnectRequest { container: "peer".to_owned(), endpoint_config: Some(endpoint) };
    docker.connect_network("mesh", request).await.unwrap();
    let network = docker.inspect_network("mesh", None::<InspectNetworkOptions>).await.unwrap();
    assert_eq!(network.containers.unwrap().len(), 1);
    let subnets = network.status.unwrap().ipam.unwrap().subnets.unwrap();
    assert_eq!(subnets.values().next().unwrap().ips_in_use, Some(4));
    assert_eq!(docker.list_volumes(None::<ListVolumesOptions>).await.unwrap().volumes.unwrap().len(), 1);
    let remove = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container("peer", Some(remove)).await.unwrap();
    docker.remove_network("mesh").await.unwrap();
    docker.remove_volume("data", None::<RemoveVolumeOptions>).await.unwrap();
}
