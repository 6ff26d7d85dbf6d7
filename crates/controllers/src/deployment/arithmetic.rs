//! How many pods of each generation there may be. Pure numbers.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How far a rollout may leave the number that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// So many more.
    pub(super) surge: i32,
    /// So many may be missing.
    pub(super) unavailable: i32,
}

impl Limits {
    /// Percentages are of the number that is wanted; a surge is rounded up, what is missing is rounded down, and
    /// where both would be nothing one may be missing, or the rollout could not move.
    pub(super) fn new(
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
        desired: i32,
    ) -> Limits {
        let surge = scaled(surge, desired, true);
        let mut unavailable = scaled(unavailable, desired, false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Limits { surge, unavailable: unavailable.min(desired) }
    }
}

pub(crate) fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    let text = match value {
        None => return 0,
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text,
    };
    let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
    let product = percent.max(0).saturating_mul(i64::from(total));
    let result = if up { product.saturating_add(99) / 100 } else { product / 100 };
    i32::try_from(result).unwrap_or(i32::MAX)
}

/// How large the new set may become while the old ones are still there.
pub(super) fn new_set_size(desired: i32, surge: i32, all: i32, current: i32) -> i32 {
    let most = desired.saturating_add(surge);
    if all >= most {
        return current;
    }
    current + (most - all).min(desired - current).max(0)
}

/// By how many pods old sets may shrink together.
pub(super) fn old_sets_excess(desired: i32, unavailable: i32, all: i32, new_unavailable: i32) -> i32 {
    all - (desired - unavailable) - new_unavailable
}

/// How many available pods are more than must be, of sets given as how many each is to have and how many are available. A
/// set that was just scaled down tells of pods that are about to go: they no longer count.
pub(super) fn spare(desired: i32, unavailable: i32, sets: impl IntoIterator<Item = (i32, i32)>) -> i32 {
    let staying: i32 = sets.into_iter().map(|(replicas, available)| available.min(replicas)).sum();
    staying - (desired - unavailable)
}

/// A set as proportional scaling sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// How many pods it is to have.
    pub(super) replicas: i32,
    /// How many its Deployment was allowed at most when it was last scaled.
    pub(super) most_then: Option<i32>,
}

/// New sizes of sets, in their order, when a Deployment is scaled in the middle of a rollout: each set grows or
/// shrinks by its part, and what rounding leaves is the first one's, or of those behind it where that one has too few
/// to give.
pub(super) fn proportional(shares: &[Share], desired: i32, surge: i32, status_replicas: i32) -> Vec<i32> {
    let total: i32 = shares.iter().map(|share| share.replicas).sum();
    let allowed = if desired > 0 { desired + surge } else { 0 };
    let to_add = allowed - total;
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(shares.len());
    for share in shares {
        let mut size = share.replicas;
        if to_add != 0 {
            let part = proportion(*share, desired, surge, status_replicas, to_add, added);
            size += part;
            added += part;
        }
        sizes.push(size);
    }
    let mut left = to_add - added;
    for size in &mut sizes {
        let change = left.max(-*size);
        *size += change;
        left -= change;
    }
    sizes
}

fn proportion(share: Share, desired: i32, surge: i32, status: i32, to_add: i32, added: i32) -> i32 {
    if share.replicas == 0 || to_add == added {
        return 0;
    }
    let fraction = if desired == 0 {
        -share.replicas
    } else {
        let then = share.most_then.unwrap_or(status).max(1);
        let exact = f64::from(share.replicas) * f64::from(desired + surge) / f64::from(then);
        exact.round() as i32 - share.replicas
    };
    let left = to_add - added;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(surge: &str, unavailable: &str, desired: i32) -> (i32, i32) {
        let value = |text: &str| match text.parse() {
            Ok(number) => IntOrString::Int(number),
            Err(_) => IntOrString::String(text.to_owned()),
        };
        let limits = Limits::new(Some(&value(surge)), Some(&value(unavailable)), desired);
        (limits.surge, limits.unavailable)
    }

    #[test]
    fn percentages_are_rounded_towards_progress() {
        assert_eq!(limits("25%", "25%", 3), (1, 0));
        assert_eq!(limits("25%", "25%", 10), (3, 2));
        assert_eq!(limits("25%", "25%", 1), (1, 0));
        assert_eq!(limits("0", "0%", 5), (0, 1));
        assert_eq!(limits("0", "10", 5), (0, 5));
        assert_eq!(limits("100%", "0", 4), (4, 0));
        assert_eq!(limits("25%", "25%", 0), (0, 0));
    }

    #[test]
    fn the_new_set_grows_into_what_is_free() {
        assert_eq!(new_set_size(3, 1, 3, 0), 1);
        assert_eq!(new_set_size(3, 1, 4, 1), 1);
        assert_eq!(new_set_size(3, 1, 0, 0), 3);
        assert_eq!(new_set_size(10, 3, 10, 2), 5);
    }

    #[test]
    fn pods_that_are_about_to_go_are_not_to_spare() {
        assert_eq!(spare(4, 1, [(4, 4), (0, 0)]), 1);
        // The old set has not noticed yet that it is to have three.
        assert_eq!(spare(4, 1, [(3, 4), (1, 0)]), 0);
        assert_eq!(spare(4, 1, [(3, 4), (1, 1)]), 1);
        assert_eq!(spare(4, 1, [(3, 2), (1, 0)]), -1);
    }

    #[test]
    fn old_sets_shrink_as_far_as_enough_is_available() {
        assert_eq!(old_sets_excess(3, 0, 4, 1), 0);
        assert_eq!(old_sets_excess(3, 0, 4, 0), 1);
        assert_eq!(old_sets_excess(10, 2, 13, 3), 2);
    }

    #[test]
    fn scaling_in_a_rollout_keeps_the_parts() {
        let share = |replicas| Share { replicas, most_then: Some(13) };
        assert_eq!(proportional(&[share(8), share(5)], 20, 6, 13), [16, 10]);
        assert_eq!(proportional(&[share(8), share(5)], 5, 2, 13), [4, 3]);
        assert_eq!(proportional(&[share(8), share(5)], 0, 0, 13), [0, 0]);
        assert_eq!(proportional(&[share(3)], 3, 0, 3), [3]);
        // Each is rounded up to one, and the first has none to give back.
        let shares = [1, 23, 21, 19, 13].map(|replicas| Share { replicas, most_then: Some(77) });
        assert_eq!(proportional(&shares, 2, 1, 77), [0, 0, 1, 1, 1]);
    }

    proptest! {
        #[test]
        fn scaled_sets_together_are_as_many_as_allowed(
            replicas in prop::collection::vec(1..50i32, 1..6), desired in 1..200i32, surge in 0..20i32,
        ) {
            let total: i32 = replicas.iter().sum();
            let shares: Vec<_> =
                replicas.iter().map(|&replicas| Share { replicas, most_then: Some(total) }).collect();
            let sizes = proportional(&shares, desired, surge, total);
            prop_assert!(sizes.iter().all(|&size| size >= 0));
            prop_assert_eq!(sizes.iter().sum::<i32>(), desired + surge);
        }

        #[test]
        fn limits_never_stop_a_rollout(surge in 0..100i32, unavailable in 0..100i32, desired in 1..500i32) {
            let percent = |value: i32| IntOrString::String(format!("{value}%"));
            let limits = Limits::new(Some(&percent(surge)), Some(&percent(unavailable)), desired);
            prop_assert!(limits.surge + limits.unavailable > 0);
            prop_assert!(limits.unavailable <= desired);
        }
    }
}
