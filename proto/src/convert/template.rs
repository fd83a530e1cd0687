//! Templates, and what jobs remember of them.

use longshore_model::template::{Template, TemplateUse};
use prost::Message;

use super::timestamp;
use crate::v1;

impl From<&Template> for v1::Template {
    /// Without the spec.
    fn from(template: &Template) -> Self {
        Self {
            name: template.key.name.to_string(),
            version: template.key.version.clone(),
            architecture: template.key.architecture.clone(),
            description: template.description.clone(),
            tags: template.tags.clone(),
            spec: None,
            aliases: template.aliases.iter().map(ToString::to_string).collect(),
            creator: template.creator.clone(),
            create_time: Some(timestamp(template.create_time)),
            etag: template.etag(),
        }
    }
}

impl From<&TemplateUse> for v1::TemplateUse {
    fn from(used: &TemplateUse) -> Self {
        Self {
            name: used.key.name.to_string(),
            version: used.key.version.clone(),
            alias: used.alias.as_ref().map(ToString::to_string).unwrap_or_default(),
            architecture: used.key.architecture.clone(),
            // They were encoded by the server that made the job; what a later one cannot read it does not show.
            overrides: (!used.overrides.is_empty())
                .then(|| v1::AppSpec::decode(used.overrides.as_slice()).ok())
                .flatten(),
        }
    }
}
