//! Mirrors: registries that a node asks before the one that an image is in.

use std::str::FromStr;

use longshore_model::registry::{Scope, ScopeError};
use oci_spec::distribution::Reference;

/// A mirror of a registry, as `REGISTRY=MIRROR` or `REGISTRY=MIRROR/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Of which images.
    of: Scope,
    /// Where they are, and below which repository.
    at: Scope,
}

/// Why a text is no mirror.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    /// No `=`.
    #[error("must be REGISTRY=MIRROR, such as docker.io=mirror.example.com:5000")]
    Shape,
    /// The registry is none.
    #[error("the registry {0}")]
    Registry(ScopeError),
    /// The mirror is none.
    #[error("the mirror {0}")]
    Mirror(ScopeError),
    /// It would be asked before itself.
    #[error("the mirror is the registry itself")]
    Same,
}

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let (of, at) = text.split_once('=').ok_or(MirrorError::Shape)?;
        let of = Scope::parse(of).map_err(MirrorError::Registry)?;
        let at = Scope::parse(at).map_err(MirrorError::Mirror)?;
        if of == at { Err(MirrorError::Same) } else { Ok(Self { of, at }) }
    }
}

impl Mirror {
    /// Host and repository of an image at this mirror; `None` where it does not have it.
    pub(super) fn place(&self, reference: &Reference) -> Option<(&str, String)> {
        self.of.fits(reference)?;
        let repository = match self.at.prefix() {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        Some((self.at.host(), repository))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn place(mirror: &str, reference: &str) -> Option<String> {
        let (mirror, reference) = (mirror.parse::<Mirror>().unwrap(), reference.parse().unwrap());
        mirror.place(&reference).map(|(host, repository)| format!("{host}/{repository}"))
    }

    #[test]
    fn a_mirror_has_the_images_of_its_registry_under_their_own_names_or_below_a_prefix() {
        assert_eq!(place("docker.io=m.test:5000", "nginx:1").as_deref(), Some("m.test:5000/library/nginx"));
        assert_eq!(place("docker.io=m.test/hub", "acme/till").as_deref(), Some("m.test/hub/acme/till"));
        assert_eq!(place("r.test/shop=m.test", "r.test/shop/till").as_deref(), Some("m.test/shop/till"));
        assert_eq!(place("r.test/shop=m.test", "r.test/other"), None);
        assert_eq!(place("r.test=m.test", "r.test:5000/till"), None);
    }

    #[test]
    fn what_is_no_mirror_is_refused_with_the_part_that_is_wrong() {
        let error = |text: &str| text.parse::<Mirror>().unwrap_err();
        assert_eq!(error("docker.io"), MirrorError::Shape);
        assert_eq!(error("Docker.io=m.test"), MirrorError::Registry(ScopeError::Host));
        assert_eq!(error("docker.io=https://m.test"), MirrorError::Mirror(ScopeError::Scheme));
        assert_eq!(error("docker.io=index.docker.io"), MirrorError::Same);
    }
}
