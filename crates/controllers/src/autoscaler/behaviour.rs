//! How fast the number of pods may change: what was recommended lately, what was changed lately, and the rules of both.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// For so long the highest recommendation counts, where nothing is said (the reference's
/// `--horizontal-pod-autoscaler-downscale-stabilization`).
const DOWN_WINDOW: i32 = 300;
/// Where nothing is said, the number may become so many times as large at once, or this large.
const FACTOR: i32 = 2;
const LEAST: i32 = 4;

/// What is remembered of an autoscaler.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    recommended: Vec<(Timestamp, i32)>,
    added: Vec<(Timestamp, i32)>,
    removed: Vec<(Timestamp, i32)>,
    /// The pods that it last was about, as a selector.
    pub(super) selector: String,
}

/// A condition as it follows: whether it holds, its reason and words.
pub(super) type Said = (bool, &'static str, &'static str);

/// How many pods there are to be, and what is said of that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) replicas: i32,
    pub(super) able: Said,
    pub(super) limited: Said,
}

/// What bounds a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) least: i32,
    pub(super) most: i32,
}

fn since(now: Timestamp, seconds: i32) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MIN)
}

fn changed(events: &[(Timestamp, i32)], seconds: i32, now: Timestamp) -> i32 {
    let start = since(now, seconds);
    events.iter().filter(|(at, _)| *at > start).fold(0, |sum: i32, (_, change)| sum.saturating_add(*change))
}

fn policies(rules: &HPAScalingRules) -> &[HPAScalingPolicy] {
    rules.policies.as_deref().unwrap_or_default()
}

fn longest(rules: &HPAScalingRules) -> i32 {
    policies(rules).iter().map(|policy| policy.period_seconds).max().unwrap_or(0)
}

/// The rules of a direction, with what is said where they say nothing.
pub(super) fn rules(given: Option<&HPAScalingRules>, up: bool) -> HPAScalingRules {
    let policy = |kind: &str, value| HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: 15 };
    let mut rules = given.cloned().unwrap_or_default();
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    rules.stabilization_window_seconds.get_or_insert(if up { 0 } else { DOWN_WINDOW });
    rules.policies.get_or_insert_with(|| {
        if up { vec![policy("Pods", 4), policy("Percent", 100)] } else { vec![policy("Percent", 100)] }
    });
    rules
}

impl History {
    /// What an autoscaler is seen with first counts as what was recommended.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// Notes that the number was changed.
    pub(super) fn note_change(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        (before, after): (i32, i32),
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let up = after > before;
        let given = if up { &behavior.scale_up } else { &behavior.scale_down };
        let start = since(now, longest(&rules(given.as_ref(), up)));
        let events = if up { &mut self.added } else { &mut self.removed };
        events.retain(|(at, _)| *at >= start);
        events.push((now, before.abs_diff(after).try_into().unwrap_or(i32::MAX)));
    }

    /// Makes of what the metrics ask for what is done now.
    pub(super) fn decide(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        wanted: i32,
        now: Timestamp,
    ) -> Decision {
        let up = rules(behavior.and_then(|behavior| behavior.scale_up.as_ref()), true);
        let down = rules(behavior.and_then(|behavior| behavior.scale_down.as_ref()), false);
        let window = |rules: &HPAScalingRules| rules.stabilization_window_seconds.unwrap_or(0);
        let (stable, reason, words) = if behavior.is_none() || wanted < bounds.current {
            let recent = self.recent(window(&down), now).max();
            (
                recent.map_or(wanted, |recent| recent.max(wanted)),
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        } else {
            let recent = self.recent(window(&up), now).min();
            (
                recent.map_or(wanted, |recent| recent.min(wanted)),
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
        };
        let oldest = since(now, window(&up).max(window(&down)));
        self.recommended.retain(|(at, _)| *at >= oldest);
        self.recommended.push((now, wanted));
        let able = if stable == wanted {
            (true, "ReadyForNewScale", "recommended size matches current size")
        } else {
            (true, reason, words)
        };
        let (replicas, reason, words) = match behavior {
            None => within(bounds, stable, most_at_once(bounds.current)),
            Some(_) => self.within_rules(&up, &down, bounds, stable, now),
        };
        Decision { replicas, able, limited: (replicas != stable, reason, words) }
    }

    fn recent(&self, seconds: i32, now: Timestamp) -> impl Iterator<Item = i32> {
        let start = since(now, seconds);
        self.recommended.iter().filter(move |(at, _)| *at > start).map(|(_, replicas)| *replicas)
    }

    fn within_rules(
        &self,
        up: &HPAScalingRules,
        down: &HPAScalingRules,
        bounds: Bounds,
        wanted: i32,
        now: Timestamp,
    ) -> (i32, &'static str, &'static str) {
        let current = bounds.current;
        if wanted > current {
            let limit = self.most_by_rules(up, current, now).max(current);
            return above(wanted, bounds.most, limit).unwrap_or((wanted, WITHIN.0, WITHIN.1));
        }
        if wanted < current {
            let limit = self.least_by_rules(down, current, now).min(current);
            let (least, reason, words) = if bounds.least < limit {
                (
                    limit,
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                )
            } else {
                (bounds.least, FEW.0, FEW.1)
            };
            if wanted < least {
                return (least, reason, words);
            }
        }
        (wanted, WITHIN.0, WITHIN.1)
    }

    fn most_by_rules(&self, rules: &HPAScalingRules, current: i32, now: Timestamp) -> i32 {
        let proposals = policies(rules).iter().map(|policy| {
            let start = current.saturating_sub(changed(&self.added, policy.period_seconds, now));
            if policy.type_ == "Pods" {
                start.saturating_add(policy.value)
            } else {
                // A cast of what is too large gives the largest.
                (f64::from(start) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32
            }
        });
        let chosen = match rules.select_policy.as_deref() {
            Some("Disabled") => Some(current),
            Some("Min") => proposals.min(),
            _ => proposals.max(),
        };
        chosen.unwrap_or(current)
    }

    fn least_by_rules(&self, rules: &HPAScalingRules, current: i32, now: Timestamp) -> i32 {
        let proposals = policies(rules).iter().map(|policy| {
            // What was added in the meantime is not part of where the period began.
            let removed = changed(&self.removed, policy.period_seconds, now);
            let added = changed(&self.added, policy.period_seconds, now);
            let start = current.saturating_sub(added).saturating_add(removed);
            if policy.type_ == "Pods" {
                start.saturating_sub(policy.value)
            } else {
                (f64::from(start) * (1.0 - f64::from(policy.value) / 100.0)) as i32
            }
        });
        let chosen = match rules.select_policy.as_deref() {
            Some("Disabled") => Some(current),
            Some("Min") => proposals.max(),
            _ => proposals.min(),
        };
        chosen.unwrap_or(current)
    }
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

fn most_at_once(current: i32) -> i32 {
    current.saturating_mul(FACTOR).max(LEAST)
}

/// The most there may be, if more are wanted.
fn above(wanted: i32, most: i32, limit: i32) -> Option<(i32, &'static str, &'static str)> {
    let (most, reason, words) = if most > limit {
        (limit, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
    } else {
        (most, "TooManyReplicas", "the desired replica count is more than the maximum replica count")
    };
    (wanted > most).then_some((most, reason, words))
}

fn within(bounds: Bounds, wanted: i32, limit: i32) -> (i32, &'static str, &'static str) {
    if wanted < bounds.least {
        return (bounds.least, FEW.0, FEW.1);
    }
    above(wanted, bounds.most, limit).unwrap_or((wanted, WITHIN.0, WITHIN.1))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn behavior(value: Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(value).unwrap()
    }

    fn bounds(current: i32) -> Bounds {
        Bounds { current, least: 1, most: 100 }
    }

    #[test]
    fn without_rules_it_falls_slowly_and_doubles_at_most() {
        let mut history = History::default();
        history.begin(10, at(0));
        let mut decide = |current, wanted, seconds| {
            let decision = history.decide(None, bounds(current), wanted, at(seconds));
            (decision.replicas, decision.able.1, decision.limited.0, decision.limited.1)
        };
        assert_eq!(decide(10, 5, 10), (10, "ScaleDownStabilized", false, "DesiredWithinRange"));
        assert_eq!(decide(10, 6, 200), (10, "ScaleDownStabilized", false, "DesiredWithinRange"));
        assert_eq!(decide(10, 4, 320), (6, "ScaleDownStabilized", false, "DesiredWithinRange"));
        assert_eq!(decide(6, 50, 330), (12, "ReadyForNewScale", true, "ScaleUpLimit"));
        let mut small = History::default();
        let decision = small.decide(None, Bounds { current: 1, least: 1, most: 3 }, 9, at(0));
        assert_eq!((decision.replicas, decision.limited.1), (3, "TooManyReplicas"));
        let decision = small.decide(None, Bounds { current: 2, least: 2, most: 9 }, 0, at(1000));
        assert_eq!((decision.replicas, decision.limited.1), (2, "TooFewReplicas"));
    }

    #[test]
    fn policies_bound_what_changes_in_their_periods() {
        let rules = behavior(json!({
            "scaleUp": { "policies": [{ "type": "Pods", "value": 4, "periodSeconds": 60 }] },
            "scaleDown": { "stabilizationWindowSeconds": 0,
                "policies": [{ "type": "Percent", "value": 10, "periodSeconds": 60 }] },
        }));
        let rules = Some(&rules);
        let mut history = History::default();
        let decision = history.decide(rules, bounds(10), 40, at(0));
        assert_eq!((decision.replicas, decision.limited.1), (14, "ScaleUpLimit"));
        history.note_change(rules, (10, 14), at(0));
        assert_eq!(history.decide(rules, bounds(14), 40, at(30)).replicas, 14);
        assert_eq!(history.decide(rules, bounds(14), 40, at(61)).replicas, 18);
        let decision = history.decide(rules, bounds(50), 1, at(200));
        assert_eq!((decision.replicas, decision.limited.1), (45, "ScaleDownLimit"));
        history.note_change(rules, (50, 45), at(200));
        assert_eq!(history.decide(rules, bounds(45), 1, at(230)).replicas, 45);
    }

    #[test]
    fn the_choice_among_policies() {
        let check = |select: &str, up: i32, down: i32| {
            let policies = json!([
                { "type": "Pods", "value": 2, "periodSeconds": 60 },
                { "type": "Percent", "value": 50, "periodSeconds": 60 },
            ]);
            let rules =
                json!({ "selectPolicy": select, "policies": policies, "stabilizationWindowSeconds": 0 });
            let rules = behavior(json!({ "scaleUp": rules, "scaleDown": rules }));
            let mut history = History::default();
            assert_eq!(history.decide(Some(&rules), bounds(10), 90, at(0)).replicas, up, "{select}");
            assert_eq!(history.decide(Some(&rules), bounds(10), 1, at(0)).replicas, down, "{select}");
        };
        check("Max", 15, 5);
        check("Min", 12, 8);
        check("Disabled", 10, 10);
    }

    #[test]
    fn windows_keep_it_steady_both_ways() {
        let rules = behavior(json!({
            "scaleUp": { "stabilizationWindowSeconds": 60 }, "scaleDown": { "stabilizationWindowSeconds": 120 },
        }));
        let mut history = History::default();
        history.begin(10, at(0));
        let decision = history.decide(Some(&rules), bounds(10), 15, at(30));
        assert_eq!((decision.replicas, decision.able.1), (10, "ScaleUpStabilized"));
        assert_eq!(history.decide(Some(&rules), bounds(10), 16, at(61)).replicas, 15);
        let decision = history.decide(Some(&rules), bounds(15), 3, at(70));
        assert_eq!((decision.replicas, decision.able.1), (16, "ScaleDownStabilized"));
    }
}
