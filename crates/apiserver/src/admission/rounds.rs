//! Rounds of those who change objects: when one changes something after others had their say, those of them who want to
//! are asked again, once.

use std::collections::BTreeSet;

use serde_json::Value;

/// Which members of a plugin are asked in which round.
#[derive(Default)]
pub(super) struct Members {
    /// Those that have been asked, and want to be asked again when something changes afterwards.
    asked: BTreeSet<String>,
    /// Those that are to be asked again.
    again: BTreeSet<String>,
    /// What the object was when the last of them had been asked.
    last: Value,
}

/// The rounds of one request.
#[derive(Default)]
pub(super) struct Rounds {
    /// Whether this is the second round.
    pub(super) is_second: bool,
    /// Whether there has to be one.
    pub(super) needs_second: bool,
    pub(super) policies: Members,
    pub(super) webhooks: Members,
}

impl Members {
    /// Begins with a round on an object.
    pub(super) fn begin(&mut self, is_second: bool, object: &Value) {
        if is_second && self.last != *object {
            self.again.append(&mut self.asked);
        }
    }

    /// Whether a member is asked in this round: in the second, who was asked in the first and has reason to be again.
    pub(super) fn is_due(&self, is_second: bool, member: &str) -> bool {
        !is_second || self.again.contains(member)
    }

    /// Notes that a member changed the object.
    pub(super) fn changed(&mut self) {
        self.again.append(&mut self.asked);
    }

    /// Notes that a member was asked that wants to be asked again.
    pub(super) fn asked(&mut self, member: String) {
        self.asked.insert(member);
    }

    /// Ends a round.
    pub(super) fn end(&mut self, object: &Value) {
        self.last = object.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_was_asked_before_a_change_is_asked_again() {
        let mut members = Members::default();
        members.begin(false, &json!(1));
        assert!(members.is_due(false, "first") && members.is_due(false, "second"));
        members.asked("first".into());
        members.changed();
        members.asked("second".into());
        members.end(&json!(2));
        members.begin(true, &json!(2));
        assert!(members.is_due(true, "first") && !members.is_due(true, "second"));
        // Others have changed it meanwhile.
        members.begin(true, &json!(3));
        assert!(members.is_due(true, "second") && !members.is_due(true, "third"));
    }
}
