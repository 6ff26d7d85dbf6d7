//! Mounts as Docker words them: `Binds`, `Mounts` and `Tmpfs`.

use std::collections::BTreeMap;

use dray_engine::{ImageMount, Mount, MountSource, VolumeMount};

use crate::error::{ApiError, Result};
use crate::wire::request;

request! {
    pub(crate) MountRequest {
        kind: String = "Type",
        source: String = "Source",
        target: String = "Target",
        read_only: bool = "ReadOnly",
        bind: BindOptions = "BindOptions",
        volume: VolumeOptions = "VolumeOptions",
        tmpfs: TmpfsOptions = "TmpfsOptions",
        image: ImageOptions = "ImageOptions",
    }
}
request! {
    pub(crate) ImageOptions {
        subpath: String = "Subpath",
    }
}
request! {
    pub(crate) BindOptions {
        propagation: String = "Propagation",
        create: bool = "CreateMountpoint",
        non_recursive: bool = "NonRecursive",
        only_top_read_only: bool = "ReadOnlyNonRecursive",
        all_read_only: bool = "ReadOnlyForceRecursive",
    }
}
request! {
    pub(crate) VolumeOptions {
        no_copy: bool = "NoCopy",
        subpath: String = "Subpath",
        labels: BTreeMap<String, String> = "Labels",
        driver: DriverConfig = "DriverConfig",
    }
}
request! {
    pub(crate) DriverConfig {
        name: String = "Name",
        options: BTreeMap<String, String> = "Options",
    }
}
request! {
    pub(crate) TmpfsOptions {
        size: Option<u64> = "SizeBytes",
        mode: Option<u32> = "Mode",
        options: Vec<Vec<String>> = "Options",
    }
}

/// `SOURCE:TARGET[:OPTIONS]`, a source that is no absolute path being a volume.
pub(crate) fn parse_bind(bind: &str) -> Result<Mount> {
    let invalid = || ApiError::bad_request(format!("invalid volume specification: '{bind}'"));
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid()),
    };
    if source.is_empty() || target.is_empty() {
        return Err(invalid());
    }
    let mut mount = Mount {
        source: if source.starts_with('/') {
            MountSource::Bind { path: source.to_owned(), create: true, non_recursive: false }
        } else {
            MountSource::Volume(VolumeMount { name: source.to_owned(), ..VolumeMount::default() })
        },
        target: target.to_owned(),
        read_only: false,
        only_top_read_only: false,
        propagation: String::new(),
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            // SELinux labels mean nothing where there is no SELinux.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => {
                if let MountSource::Volume(volume) = &mut mount.source {
                    volume.no_copy = true;
                }
            }
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                mount.propagation = option.to_owned();
            }
            _ => return Err(ApiError::bad_request(format!("invalid mode: {options}"))),
        }
    }
    Ok(mount)
}

/// A path in a volume or an image. Where it leads is decided there; here only its form counts.
fn subpath(kind: &str, path: String) -> Result<String> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(ApiError::bad_request(format!(
            "invalid mount config for type \"{kind}\": subpath must be a relative path within the {kind}",
        )));
    }
    Ok(path)
}

pub(crate) fn parse_mount(mount: MountRequest) -> Result<Mount> {
    let source = match mount.kind.as_str() {
        "bind" => MountSource::Bind {
            path: mount.source,
            create: mount.bind.create,
            non_recursive: mount.bind.non_recursive,
        },
        "volume" => {
            let VolumeOptions { no_copy, subpath: path, labels, driver } = mount.volume;
            crate::volumes::check_driver(&driver.name)?;
            let (subpath, options) = (subpath("volume", path)?, driver.options);
            MountSource::Volume(VolumeMount { name: mount.source, no_copy, subpath, labels, options })
        }
        "image" if mount.source.is_empty() => {
            return Err(ApiError::bad_request(
                "invalid mount config for type \"image\": field Source must not be empty",
            ));
        }
        "image" => MountSource::Image(ImageMount {
            image: mount.source,
            subpath: subpath("image", mount.image.subpath)?,
        }),
        "tmpfs" => {
            let options =
                mount.tmpfs.options.iter().map(|option| option.join("=")).collect::<Vec<_>>().join(",");
            let mut parsed = parse_tmpfs(&mount.target, &options)?.source;
            if let MountSource::Tmpfs { size, mode, .. } = &mut parsed {
                *size = mount.tmpfs.size.or(*size);
                *mode = mount.tmpfs.mode.or(*mode);
            }
            parsed
        }
        other => return Err(ApiError::bad_request(format!("mount type unknown: {other:?}"))),
    };
    if mount.target.is_empty() {
        return Err(ApiError::bad_request("invalid mount config: field Target must not be empty"));
    }
    let bind = &mount.bind;
    if bind.only_top_read_only && bind.all_read_only {
        return Err(ApiError::bad_request(
            "invalid mount config for type \"bind\": mount can either be ReadOnlyNonRecursive or ReadOnlyForceRecursive, not both",
        ));
    }
    if (bind.only_top_read_only || bind.all_read_only) && !mount.read_only {
        return Err(ApiError::bad_request(
            "invalid mount config for type \"bind\": mount must be read-only for ReadOnlyNonRecursive and ReadOnlyForceRecursive",
        ));
    }
    Ok(Mount {
        source,
        target: mount.target,
        read_only: mount.read_only || mount.kind == "image",
        only_top_read_only: mount.bind.only_top_read_only,
        propagation: mount.bind.propagation,
    })
}

pub(crate) fn parse_tmpfs(target: &str, options: &str) -> Result<Mount> {
    let invalid = |option: &str| ApiError::bad_request(format!("invalid tmpfs option {option:?}"));
    let (mut size, mut mode, mut read_only, mut others) = (None, None, false, Vec::new());
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size = Some(parse_size(value).ok_or_else(|| invalid(option))?),
            Some(("mode", value)) => {
                mode = Some(u32::from_str_radix(value, 8).map_err(|_| invalid(option))?);
            }
            Some(("uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol", _)) => others.push(option.to_owned()),
            Some(_) => return Err(invalid(option)),
            None if option == "ro" => read_only = true,
            None => others.push(option.to_owned()),
        }
    }
    let source = MountSource::Tmpfs { size, mode, options: others };
    Ok(Mount {
        source,
        target: target.to_owned(),
        read_only,
        only_top_read_only: false,
        propagation: String::new(),
    })
}

pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_paths_or_volumes() {
        let bind = parse_bind("/a:/b:ro,rshared").unwrap();
        assert!(bind.read_only && bind.propagation == "rshared");
        let wanted = MountSource::Bind { path: "/a".into(), create: true, non_recursive: false };
        assert_eq!(bind.source, wanted);
        let volume = parse_bind("data:/b:nocopy").unwrap();
        let wanted = VolumeMount { name: "data".into(), no_copy: true, ..VolumeMount::default() };
        assert_eq!(volume.source, MountSource::Volume(wanted));
        for text in ["", ":", "a", "a:", "/a:/b:bogus", "a:b:c:d"] {
            assert!(parse_bind(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("10m"), Some(10 << 20));
        assert_eq!(parse_size("1KB"), Some(1024));
        assert_eq!(parse_size("x"), None);
        assert_eq!(parse_size("99999999999999999999g"), None);
    }
}
