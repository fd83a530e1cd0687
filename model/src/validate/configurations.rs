//! What a spec takes from config maps and secrets, without what depends on what there is.

use std::collections::HashMap;

use super::{Path, Violations, at_most, env_name, quoted};
use crate::configuration::{check_key, needs, visit};
use crate::host_path;
use crate::limits;
use crate::name::ConfigurationName;
use crate::quantity;
use crate::spec::{AppSpec, EnvFrom, Projection};

/// Checks the names and keys of all references.
pub(super) fn configurations(spec: &AppSpec, path: Path<'_>, bad: &mut Violations) {
    visit(spec, path, |reference, name, key| {
        if let Err(error) = ConfigurationName::parse(reference.name) {
            bad.add(name, error.to_string());
        }
        if let Some(wanted) = reference.key {
            check_key(wanted, key, bad);
        }
    });
    let count = needs(spec).len();
    if count > limits::MAX_APP_CONFIGURATIONS {
        let limit = limits::MAX_APP_CONFIGURATIONS;
        bad.add(path, format!("takes from {count} config maps and secrets; at most {limit} are allowed"));
    }
}

/// Checks what becomes environment as a whole.
pub(super) fn env_from(sources: &[EnvFrom], path: Path<'_>, bad: &mut Violations) {
    at_most(sources.len(), limits::MAX_ENV_FROM, path, bad);
    for (index, source) in sources.iter().enumerate() {
        if !source.prefix.is_empty() {
            env_name(&source.prefix, path.index(index).field("prefix"), bad);
        }
    }
}

/// Checks where keys become files.
pub(super) fn projection(taken: &Projection, path: Path<'_>, bad: &mut Violations) {
    let items = path.field("items");
    at_most(taken.items.len(), limits::MAX_CONFIGURATION_KEYS, items, bad);
    mode(taken.mode, path.field("mode"), bad);
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, item) in taken.items.iter().enumerate() {
        let entry = items.index(index);
        mode(item.mode, entry.field("mode"), bad);
        let path = entry.field("path");
        let is_relative = !item.path.starts_with('/');
        // A path that is sound below the root is sound below a directory.
        match host_path::normalise(&format!("/{}", item.path)) {
            Ok(normal) if is_relative && normal != "/" => {
                let outer = seen.keys().find(|other| is_below(other, &normal) || is_below(&normal, other)).cloned();
                if let Some(first) = seen.insert(normal, index) {
                    bad.add(path, format!("is the same as that of items[{first}]"));
                } else if let Some(outer) = outer {
                    bad.add(path, format!("and another of these paths, {}, cannot both be files", quoted(&outer)));
                }
            }
            Ok(_) => bad.add(path, format!("{} is not a relative path such as tls/key.pem", quoted(&item.path))),
            Err(error) => bad.add(path, error.to_string()),
        }
    }
}

fn is_below(inner: &str, outer: &str) -> bool {
    inner != outer && host_path::is_within(inner, outer)
}

fn mode(mode: Option<u32>, path: Path<'_>, bad: &mut Violations) {
    if let Some(mode) = mode.filter(|mode| *mode > 0o777) {
        bad.add(path, format!("is {}; it must be at most 0777", quantity::mode::format(mode)));
    }
}
