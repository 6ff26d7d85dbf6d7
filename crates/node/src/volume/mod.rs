//! A pod's volumes: made before its containers, kept up to date, and taken away with it.

mod claim;
mod payload;
mod size;
mod source;
mod subpath;

pub(crate) use size::{FileSystem, file_system, measure};

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use dray_engine::{DeviceSpec, ImageMount, Mount, MountSource};
use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::api::Kind;
use crate::context::Context;
use crate::error::{IoContext, blocking};
use crate::spec::environment::Addresses;
use crate::{Error, Result, quantity};

/// What lies behind a volume's name.
#[derive(Clone, Debug)]
enum Place {
    /// A directory, or a single file, of this machine.
    Path(PathBuf),
    /// A block device.
    Device(PathBuf),
    /// An image, by its reference.
    Image(String),
}

/// The same, and what may be done with it.
#[derive(Clone, Debug)]
struct Root {
    place: Place,
    /// Whether containers may never write to it.
    read_only: bool,
}

/// The volumes of a pod that are ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volumes {
    directory: PathBuf,
    roots: BTreeMap<String, Root>,
}

/// Which ConfigMaps and Secrets the pod's volumes show.
pub(crate) fn referenced(pod: &Pod) -> BTreeSet<(Kind, String)> {
    let mut found = BTreeSet::new();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if let Some(map) = &volume.config_map {
            found.insert((Kind::ConfigMap, map.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()) {
            found.insert((Kind::Secret, name));
        }
        let projected = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
        for source in projected.into_iter().flatten() {
            if let Some(map) = &source.config_map {
                found.insert((Kind::ConfigMap, map.name.clone()));
            }
            if let Some(secret) = &source.secret {
                found.insert((Kind::Secret, secret.name.clone()));
            }
        }
    }
    found
}

/// Makes a directory with exactly this mode, whatever the umask.
fn directory(path: &Path, mode: u32) -> Result<()> {
    std::fs::create_dir_all(path).io("create", path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).io("change mode of", path)
}

fn group_of(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

impl Volumes {
    /// Makes all volumes of the pod. Those that are there already are kept, with what they hold.
    ///
    /// # Errors
    /// The first volume that cannot be made, named as the kubelet does.
    pub(crate) async fn prepare(
        context: &Context,
        pod: &Pod,
        pod_directory: &Path,
        addresses: &Addresses,
    ) -> Result<Self> {
        let mut volumes = Self { directory: pod_directory.to_owned(), roots: BTreeMap::new() };
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let root = volumes.prepare_one(context, pod, volume, addresses).await.map_err(|error| {
                Error::pod(format!(
                    "MountVolume.SetUp failed for volume {:?} : {}",
                    volume.name,
                    error.chain()
                ))
            })?;
            volumes.roots.insert(volume.name.clone(), root);
        }
        Ok(volumes)
    }

    /// Writes anew what ConfigMaps, Secrets and the pod's own fields have become.
    pub(crate) async fn refresh(&self, context: &Context, pod: &Pod, addresses: &Addresses) -> Result<()> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if source::has_payload(volume) {
                self.prepare_one(context, pod, volume, addresses).await?;
            }
        }
        Ok(())
    }

    fn path_of(&self, kind: &str, name: &str) -> PathBuf {
        // The API server lets no name with a slash through; were one to come, it must not lead anywhere else.
        self.directory.join("volumes").join(kind).join(name.replace('/', "_").replace("..", "_"))
    }

    async fn prepare_one(
        &self,
        context: &Context,
        pod: &Pod,
        volume: &Volume,
        addresses: &Addresses,
    ) -> Result<Root> {
        let group = group_of(pod);
        if let Some(empty) = &volume.empty_dir {
            let path = self.path_of("empty-dir", &volume.name);
            let memory = empty.medium.as_deref() == Some("Memory");
            let limit = empty.size_limit.as_ref().and_then(quantity::parse).map(|limit| limit.units());
            if empty.medium.as_deref().is_some_and(|medium| !matches!(medium, "" | "Memory")) {
                return Err(Error::pod("only the media \"\" and \"Memory\" are supported"));
            }
            let made = path.clone();
            blocking(move || make_empty(&made, memory, limit, group)).await?;
            return Ok(Root { place: Place::Path(path), read_only: false });
        }
        if let Some(host) = &volume.host_path {
            let host = host.clone();
            return blocking(move || host_path(&host)).await;
        }
        if let Some(claim) = claim::Wanted::of(pod, volume) {
            return claim::find(context, pod, &claim).await;
        }
        if let Some(image) = &volume.image {
            let reference = image.reference.clone().unwrap_or_default();
            return Ok(Root { place: Place::Image(reference), read_only: true });
        }
        if source::has_payload(volume) {
            let payload = source::payload(context, pod, volume, addresses).await?;
            let (kind, secret) = source::kind(volume);
            let path = self.path_of(kind, &volume.name);
            let made = path.clone();
            blocking(move || {
                directory(&made, 0o755)?;
                if secret {
                    // What is secret is never written to a disk.
                    mount_memory(&made, None, 0o755)?;
                }
                payload::write(&made, &payload, group)
            })
            .await?;
            return Ok(Root { place: Place::Path(path), read_only: true });
        }
        Err(Error::pod("this kind of volume is not supported"))
    }

    /// The devices of one container.
    ///
    /// # Errors
    /// For a device without a volume, or of a volume that is none.
    pub(crate) fn devices(&self, container: &Container) -> Result<Vec<DeviceSpec>> {
        let wanted = container.volume_devices.iter().flatten();
        wanted
            .map(|wanted| match self.roots.get(&wanted.name) {
                Some(Root { place: Place::Device(path), read_only }) => Ok(DeviceSpec {
                    host_path: path.to_string_lossy().into_owned(),
                    container_path: wanted.device_path.clone(),
                    permissions: if *read_only { "rm" } else { "rwm" }.to_owned(),
                }),
                Some(_) => Err(Error::pod(format!(
                    "volume {} has volumeMode Filesystem, but is specified in volumeDevices",
                    wanted.name
                ))),
                None => Err(Error::pod(format!("volume device {:?} has no volume", wanted.name))),
            })
            .collect()
    }

    /// The mounts of one container.
    ///
    /// # Errors
    /// For a mount without a volume, or a path in a volume that leads out of it.
    pub(crate) async fn mounts(
        &self,
        container: &Container,
        expand: impl Fn(&String) -> String,
    ) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        let mut parts = Vec::new();
        for wanted in container.volume_mounts.iter().flatten() {
            let root = self
                .roots
                .get(&wanted.name)
                .ok_or_else(|| Error::pod(format!("volume mount {:?} has no volume", wanted.name)))?;
            let part = wanted
                .sub_path_expr
                .as_ref()
                .map(&expand)
                .or_else(|| wanted.sub_path.clone())
                .filter(|part| !part.is_empty());
            let propagation = match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                _ => "",
            };
            let target = if wanted.mount_path.starts_with('/') {
                wanted.mount_path.clone()
            } else {
                format!("/{}", wanted.mount_path)
            };
            let source = match &root.place {
                Place::Path(path) => {
                    if let Some(part) = part {
                        parts.push((mounts.len(), path.clone(), part));
                    }
                    bind(path)
                }
                Place::Image(image) => {
                    MountSource::Image(ImageMount { image: image.clone(), subpath: part.unwrap_or_default() })
                }
                Place::Device(_) => {
                    return Err(Error::pod(format!(
                        "volume {} has volumeMode Block, but is specified in volumeMounts",
                        wanted.name
                    )));
                }
            };
            mounts.push(Mount {
                source,
                target: trimmed(target),
                read_only: root.read_only || wanted.read_only == Some(true),
                only_top_read_only: !matches!(
                    wanted.recursive_read_only.as_deref(),
                    Some("Enabled" | "IfPossible")
                ),
                propagation: propagation.to_owned(),
            });
        }
        if parts.is_empty() {
            return Ok(mounts);
        }
        let place = self.directory.join("parts").join(&container.name);
        blocking(move || {
            release(&place)?;
            for (index, root, part) in parts {
                let target = place.join(index.to_string());
                subpath::bind(&root, &part, &target)?;
                mounts[index].source = bind(&target);
            }
            Ok(mounts)
        })
        .await
    }
}

fn bind(path: &Path) -> MountSource {
    let path = path.to_string_lossy().into_owned();
    MountSource::Bind { path, create: false, non_recursive: false }
}

fn trimmed(target: String) -> String {
    match target.trim_end_matches('/') {
        "" => target,
        trimmed => trimmed.to_owned(),
    }
}

fn make_empty(path: &Path, memory: bool, limit: Option<i64>, group: Option<u32>) -> Result<()> {
    let fresh = !path.exists();
    if fresh {
        directory(path, 0o777)?;
    }
    if memory {
        mount_memory(path, limit, 0o777)?;
    }
    if let Some(group) = group.filter(|_| fresh || memory) {
        std::os::unix::fs::chown(path, None, Some(group)).io("change group of", path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2777)).io("change mode of", path)?;
    }
    Ok(())
}

/// Mounts a file system in memory, unless it is there already.
fn mount_memory(path: &Path, limit: Option<i64>, mode: u32) -> Result<()> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let parent = path.parent().unwrap_or(path);
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).io("look at", path);
    let is_mounted = rustix::fs::statfs(path).io("look at", path)?.f_type == TMPFS_MAGIC
        && device(path)? != device(parent)?;
    if is_mounted {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        options.push_str(&format!(",size={limit}"));
    }
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str()).io("mount memory on", path)
}

fn host_path(wanted: &HostPathVolumeSource) -> Result<Root> {
    let path = PathBuf::from(&wanted.path);
    if !path.is_absolute() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::pod(format!("hostPath {} must be absolute without \"..\"", path.display())));
    }
    let kind = wanted.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" if !path.exists() => directory(&path, 0o755)?,
        "FileOrCreate" if !path.exists() => {
            std::fs::write(&path, "").io("create", &path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
                .io("change mode of", &path)?;
        }
        // Docker made missing directories, and Kubernetes kept that.
        "" if !path.exists() => directory(&path, 0o755)?,
        _ => {}
    }
    let metadata = std::fs::metadata(&path)
        .map_err(|_| Error::pod(format!("hostPath type check failed: {} does not exist", path.display())))?;
    let file_type = metadata.file_type();
    let (fits, what) = match kind {
        "Directory" | "DirectoryOrCreate" => (file_type.is_dir(), "a directory"),
        "File" | "FileOrCreate" => (file_type.is_file(), "a file"),
        "Socket" => (file_type.is_socket(), "a socket"),
        "CharDevice" => (file_type.is_char_device(), "a character device"),
        "BlockDevice" => (file_type.is_block_device(), "a block device"),
        "" => (true, ""),
        other => return Err(Error::pod(format!("hostPath type {other} is not supported"))),
    };
    if !fits {
        return Err(Error::pod(format!("hostPath type check failed: {} is not {what}", path.display())));
    }
    Ok(Root { place: Place::Path(path), read_only: false })
}

/// Takes everything below a directory away: first what is mounted there, and only when nothing is mounted any more
/// the files, so that nothing behind a mount is ever deleted.
///
/// # Errors
/// When something stays mounted or cannot be removed.
pub(crate) fn release(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    unmount_below(path)?;
    std::fs::remove_dir_all(path).io("remove", path)
}

/// Unmounts everything at or below a path.
///
/// # Errors
/// When something stays mounted.
pub(crate) fn unmount_below(path: &Path) -> Result<()> {
    for mounted in mounts_below(path)?.into_iter().rev() {
        rustix::mount::unmount(&mounted, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .io("unmount", &mounted)?;
    }
    if let Some(left) = mounts_below(path)?.first() {
        return Err(Error::Io {
            action: "unmount",
            path: left.clone(),
            source: std::io::ErrorKind::ResourceBusy.into(),
        });
    }
    Ok(())
}

/// The mount points at or below a path, in the order they were mounted (proc_pid_mountinfo(5)).
fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    const TABLE: &str = "/proc/thread-self/mountinfo";
    let path = std::fs::canonicalize(path).io("resolve", path)?;
    let table = std::fs::read_to_string(TABLE).io("read", TABLE)?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(&path))
        .collect())
}

/// Undoes the kernel's octal escapes for blanks, tabs, line feeds and backslashes.
fn unescape(text: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = (bytes[index] == b'\\')
            .then(|| bytes.get(index + 1..index + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                index += 4;
            }
            None => {
                plain.push(bytes[index]);
                index += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\04"), "/a\\04");
        assert_eq!(unescape("\\"), "\\");
    }
}
