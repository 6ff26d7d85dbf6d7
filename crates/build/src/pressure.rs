//! A full disk: what can be had again is given up, the build cache before images, until there is room.
//!
//! Never what a container, a pod or a running build uses, and never an image that is here alone: one that was built or loaded
//! has no registry to bring it back.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dray_engine::Engine;
use dray_image::{Deletion, Digest, Image};
use jiff::Timestamp;

use crate::builder::blocking;
use crate::error::IoContext;
use crate::{Builder, Result};

/// When to give up what, in percent of the file system that holds the data directory, and how often to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// At this much use it begins; 100 means never.
    pub high: u8,
    /// Below this much use it ends.
    pub low: u8,
    /// Between two looks.
    pub period: Duration,
    /// What was used less long ago stays, whatever the disk says: it is about to be used again.
    pub least_age: Duration,
}

impl Default for Pressure {
    /// The kubelet's thresholds, and a look each minute.
    fn default() -> Self {
        Self { high: 85, low: 80, period: Duration::from_secs(60), least_age: Duration::from_secs(120) }
    }
}

/// What was given up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relief {
    /// Entries of the build cache.
    pub steps: usize,
    /// Images.
    pub images: usize,
}

/// How full the file system of a path is, in percent, rounded up. What only root may use counts as used.
fn use_of(path: &Path) -> Result<u8> {
    let stat = rustix::fs::statvfs(path).map_err(std::io::Error::from).io("look at the disk of", path)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bavail);
    let percent = (used * 100).checked_div(stat.f_blocks.max(1)).unwrap_or(0);
    Ok(u8::try_from(percent).unwrap_or(100).min(100))
}

/// Looks at the disk for as long as it is polled.
pub async fn watch(builder: Builder, pressure: Pressure) {
    let mut used = BTreeMap::new();
    loop {
        note_use(&builder.engine, &mut used);
        match builder.relieve(&pressure, &used).await {
            Ok(relief) if relief != Relief::default() => {
                tracing::info!(
                    steps = relief.steps,
                    images = relief.images,
                    "the disk was full: gave up what can be had again"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %error.chain(), "cannot make room on the disk"),
        }
        tokio::time::sleep(pressure.period).await;
    }
}

/// Notes which images are in use now.
fn note_use(engine: &Engine, used: &mut BTreeMap<Digest, Timestamp>) {
    let now = Timestamp::now();
    for container in engine.containers() {
        used.insert(container.image.clone(), now);
        used.extend(container.images.iter().map(|mounted| (mounted.image.clone(), now)));
    }
}

/// Whether an image can be had again: its registry knows it by its digest, or nobody knows it by any name.
fn can_be_had_again(image: &Image) -> bool {
    image.references.is_empty() || image.references.iter().any(|name| name.digest().is_some())
}

impl Builder {
    /// Gives up what can be had again if the disk is too full, the longest unused first.
    ///
    /// # Errors
    /// When the disk cannot be looked at, or something cannot be removed.
    async fn relieve(&self, pressure: &Pressure, used: &BTreeMap<Digest, Timestamp>) -> Result<Relief> {
        let data = self.engine.config().data_dir.clone();
        let mut relief = Relief::default();
        if pressure.high == 100 || use_of(&data)? < pressure.high {
            return Ok(relief);
        }
        let mut steps = self.cached();
        steps.sort_by_key(|step| step.used);
        for step in steps.iter().filter(|step| pressure.is_old(step.used)) {
            if use_of(&data)? < pressure.low {
                return Ok(relief);
            }
            let key = step.key.clone();
            relief.steps += self.prune(move |step| step.key == key).await?.entries.len();
        }
        let (engine, pressure, used) = (self.engine.clone(), *pressure, used.clone());
        relief.images = blocking(move || give_up_images(&engine, &pressure, &used, &data)).await?;
        Ok(relief)
    }
}

impl Pressure {
    fn is_old(&self, time: Timestamp) -> bool {
        let age = Timestamp::now().duration_since(time);
        age >= self.least_age.try_into().unwrap_or_default()
    }
}

fn give_up_images(
    engine: &Engine,
    pressure: &Pressure,
    used: &BTreeMap<Digest, Timestamp>,
    data: &Path,
) -> Result<usize> {
    let images = engine.images();
    let last = |image: &Image| {
        let family = images.family(image);
        let last = family.iter().filter_map(|id| used.get(id)).max().copied();
        last.max(image.added.parse().ok()).unwrap_or_default()
    };
    let mut candidates = images.list()?;
    // Images of other platforms go with the one that stands for all.
    let inner = images.inner_images();
    candidates.retain(|image| {
        !inner.contains(&image.id) && can_be_had_again(image) && pressure.is_old(last(image))
    });
    candidates.sort_by_key(last);
    let mut count = 0;
    for image in candidates {
        if use_of(data)? < pressure.low {
            break;
        }
        // A container may have been made of it meanwhile.
        let family = images.family(&image);
        let containers = engine.containers();
        if containers.iter().any(|container| family.iter().any(|id| container.uses_image(id))) {
            continue;
        }
        for deletion in images.remove(image.id.as_str(), true, |_| Vec::new())? {
            match deletion {
                Deletion::Untagged(name) => engine.image_event("untag", &image.id, &name),
                Deletion::Deleted(id) => engine.image_event("delete", &id, id.as_str()),
            }
        }
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_registry_has_can_be_had_again() {
        let digest = Digest::of(b"x");
        let image = |names: &[&str]| {
            let names = names.iter().map(|name| dray_image::Reference::parse(name).unwrap()).collect();
            Image { references: names, ..image_without_names() }
        };
        assert!(can_be_had_again(&image(&[])));
        assert!(can_be_had_again(&image(&["box:1", &format!("box@{digest}")])));
        assert!(!can_be_had_again(&image(&["box:1", "other:2"])));
    }

    fn image_without_names() -> Image {
        Image {
            id: Digest::of(b"image"),
            config: dray_image::ImageConfig::scratch(),
            layers: Vec::new(),
            references: Vec::new(),
            added: Timestamp::now().to_string(),
        }
    }

    #[test]
    fn the_disk_has_a_use() {
        assert!(use_of(Path::new("/proc")).is_ok_and(|percent| percent <= 100));
        assert!(use_of(Path::new("/nowhere")).is_err());
    }
}
