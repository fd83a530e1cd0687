//! Which fields a request to change something is about: `update_mask` of AIP-134.
//!
//! Without a mask, those that the request gives; `*` stands for all of them. What only the server sets is passed over, as
//! AIP-203 has it: whoever reads a resource, changes it and sends it back with a mask of all that it read is right to do so.

use longshore_model::validate::{Path, Violations, quoted};
use prost_types::FieldMask;

/// What there is of a resource.
pub(super) struct Fields {
    /// What can be changed.
    pub(super) changeable: &'static [&'static str],
    /// Those among them that are maps: single keys of theirs can be named, too.
    pub(super) maps: &'static [&'static str],
    /// What the server sets, and what names the resource.
    pub(super) fixed: &'static [&'static str],
}

/// Something that shall change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A whole field.
    Field(&'static str),
    /// One key of a map.
    Key(&'static str, String),
}

impl Named {
    /// The field that it is, or is in.
    pub(super) fn field(&self) -> &'static str {
        match self {
            Self::Field(field) | Self::Key(field, _) => field,
        }
    }
}

impl Fields {
    /// Reads a mask; `is_given` says of a field whether the request has a value for it.
    pub(super) fn read(
        &self,
        mask: Option<&FieldMask>,
        is_given: impl Fn(&str) -> bool,
        bad: &mut Violations,
    ) -> Vec<Named> {
        let every = || self.changeable.iter().copied();
        let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
        if paths.is_empty() {
            return every().filter(|field| is_given(field)).map(Named::Field).collect();
        }
        let mut named = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let (top, rest) = path.split_once('.').map_or((path.as_str(), None), |(top, rest)| (top, Some(rest)));
            let find = |fields: &[&'static str]| fields.iter().copied().find(|field| *field == top);
            match (find(self.changeable), rest) {
                _ if path == "*" => named.extend(every().map(Named::Field)),
                (Some(field), None) => named.push(Named::Field(field)),
                (Some(field), Some(key)) if self.maps.contains(&field) => {
                    // As AIP-161 writes keys that are no words.
                    let bare = key.strip_prefix('`').and_then(|key| key.strip_suffix('`'));
                    named.push(Named::Key(field, bare.unwrap_or(key).to_owned()));
                }
                _ if find(self.fixed).is_some() => {}
                _ => {
                    let mask = Path::Root.field("update_mask");
                    let description = format!("{} is nothing that can be changed; there are {}", quoted(path), self);
                    bad.add(mask.field("paths").index(index), description);
                }
            }
        }
        named
    }
}

impl std::fmt::Display for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for field in self.changeable {
            write!(f, "{field}, ")?;
            if self.maps.contains(field) {
                write!(f, "{field}.KEY, ")?;
            }
        }
        f.write_str("* for all")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
mod tests {
    use prost::Message;

    use super::*;

    const BOOK: Fields = Fields { changeable: &["title", "labels"], maps: &["labels"], fixed: &["name", "info"] };

    fn read(paths: Option<&[&str]>) -> Result<Vec<Named>, Violations> {
        let mask = paths.map(|paths| FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        let mut bad = Violations::default();
        let named = BOOK.read(mask.as_ref(), |field| field == "title", &mut bad);
        bad.or(named)
    }

    #[test]
    fn a_mask_names_what_changes() {
        let (title, labels) = (Named::Field("title"), Named::Field("labels"));
        let key = |key: &str| Named::Key("labels", key.to_owned());
        for nothing in [None, Some([].as_slice())] {
            assert_eq!(read(nothing).unwrap(), std::slice::from_ref(&title), "what is given");
        }
        assert_eq!(read(Some(&["*"])).unwrap(), [title, labels.clone()]);
        assert_eq!(read(Some(&["labels"])).unwrap(), [labels]);
        let keys = read(Some(&["labels.role", "labels.`example.com/site`", "labels.example.com/site"])).unwrap();
        assert_eq!(keys, [key("role"), key("example.com/site"), key("example.com/site")]);
        assert_eq!(read(Some(&["name", "info.cpus"])).unwrap(), [], "what the server sets is passed over");
    }

    #[test]
    fn what_cannot_be_changed_is_named_with_its_place() {
        let bad = read(Some(&["title", "titel", "title.x", ""])).unwrap_err();
        let found: Vec<&str> = bad.0.iter().map(|found| found.field.as_str()).collect();
        assert_eq!(found, ["update_mask.paths[1]", "update_mask.paths[2]", "update_mask.paths[3]"]);
        let expected = "\"titel\" is nothing that can be changed; there are title, labels, labels.KEY, * for all";
        assert_eq!(bad.0[0].description, expected);
    }

    /// Every field of a resource is either.
    #[test]
    fn all_fields_of_resources_are_known() {
        let set = prost_types::FileDescriptorSet::decode(longshore_proto::DESCRIPTORS).unwrap();
        let resources = [
            ("Node", super::super::nodes::FIELDS),
            ("RegistryCredential", super::super::credentials::FIELDS),
            ("ConfigMap", super::super::configurations::FIELDS),
            ("Secret", super::super::configurations::FIELDS),
        ];
        for (name, fields) in resources {
            let messages = set.file.iter().flat_map(|file| &file.message_type);
            let message = messages.into_iter().find(|message| message.name() == name).unwrap();
            let known = || fields.changeable.iter().chain(fields.fixed);
            let unknown = message.field.iter().filter(|field| !known().any(|known| *known == field.name()));
            assert_eq!(unknown.map(|field| field.name()).collect::<Vec<_>>(), Vec::<&str>::new(), "{name}");
        }
    }
}
