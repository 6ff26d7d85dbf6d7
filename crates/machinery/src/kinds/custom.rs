//! Rows of kinds that definitions add while the server runs.
//!
//! Everything that looks at a kind looks at a row that stays for ever, as the built-in ones do. So that rows made at run time
//! can be looked at in the same way, each distinct one is made once and kept: a definition that comes again finds its row. What
//! is kept is names only, and its number is bounded. Schemas, columns and conversions are not part of a row.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::{Kind, Subresource, carry_status, drop_status};

/// The most rows that are made in the life of a process, so that their names take some tens of megabytes at most.
pub const ROWS_LIMIT: usize = 65_536;

/// What a definition says about one of its versions, as far as a row has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Described {
    /// Group.
    pub group: String,
    /// Version.
    pub version: String,
    /// The kind's name.
    pub kind: String,
    /// The name of its lists.
    pub list: String,
    /// The resource's name, plural.
    pub plural: String,
    /// The same in the singular.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether the status is changed on its own.
    pub status: bool,
    /// Whether it scales.
    pub scale: bool,
    /// Whether it is on its way out, so that nothing is made or changed any more.
    pub terminating: bool,
    /// The paths of the fields that selectors may ask about.
    pub fields: Vec<Vec<String>>,
}

static ROWS: LazyLock<Mutex<HashMap<Described, &'static Kind>>> = LazyLock::new(Mutex::default);

fn kept(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn all_kept<'a>(texts: impl IntoIterator<Item = &'a String>) -> &'static [&'static str] {
    let texts: Box<[&'static str]> = texts.into_iter().map(|text| kept(text)).collect();
    Box::leak(texts)
}

/// The name by which documents know the schema of a custom kind: "com.example.v1.Widget".
fn schema_name(described: &Described) -> String {
    let group: Vec<&str> = described.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), described.version, described.kind)
}

/// The row of what a definition says; none where too many have been made.
pub fn row(described: &Described) -> Option<&'static Kind> {
    // Nothing panics while it is locked.
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(row) = rows.get(described) {
        return Some(row);
    }
    if rows.len() >= ROWS_LIMIT {
        return None;
    }
    let subresources: &[Subresource] = match (described.scale, described.status) {
        (true, true) => &[Subresource::Scale, Subresource::Status],
        (true, false) => &[Subresource::Scale],
        (false, true) => &[Subresource::Status],
        (false, false) => &[],
    };
    let fields = described.fields.iter().map(|path| (kept(&path.join(".")), all_kept(path)));
    let fields: Box<[(&'static str, &'static [&'static str])]> = fields.collect();
    let made = Kind {
        group: kept(&described.group),
        version: kept(&described.version),
        kind: kept(&described.kind),
        list: kept(&described.list),
        plural: kept(&described.plural),
        singular: kept(&described.singular),
        short_names: all_kept(&described.short_names),
        categories: all_kept(&described.categories),
        namespaced: described.namespaced,
        defined: true,
        terminating: described.terminating,
        schema: kept(&schema_name(described)),
        subresources,
        generation: true,
        unconditional_update: false,
        fields: Box::leak(fields),
        prepare_create: if described.status { drop_status } else { Kind::BASE.prepare_create },
        prepare_update: if described.status { carry_status } else { Kind::BASE.prepare_update },
        columns: &[],
        ..Kind::BASE
    };
    let made: &'static Kind = Box::leak(Box::new(made));
    rows.insert(described.clone(), made);
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_description_is_the_same_row() {
        let mut described = Described {
            group: "example.com".into(),
            version: "v1".into(),
            kind: "Widget".into(),
            list: "WidgetCollection".into(),
            plural: "widgets".into(),
            singular: "widget".into(),
            short_names: vec!["wd".into()],
            categories: vec!["all".into()],
            namespaced: true,
            status: true,
            scale: false,
            terminating: false,
            fields: vec![vec!["spec".into(), "color".into()]],
        };
        let one = row(&described).unwrap();
        assert!(std::ptr::eq(one, row(&described.clone()).unwrap()));
        assert_eq!(
            (one.storage().as_str(), one.list_kind().as_str()),
            ("example.com/widgets", "WidgetCollection")
        );
        assert_eq!(one.schema, "com.example.v1.Widget");
        assert_eq!(one.field(&serde_json::json!({ "spec": { "color": "red" } }), "spec.color"), "red");
        assert!(one.has(Subresource::Status) && !one.has(Subresource::Scale));
        assert!(one.verbs().contains(&"create"));
        described.terminating = true;
        let other = row(&described).unwrap();
        assert_ne!(one.verbs(), other.verbs());
    }
}
