//! Values that several modules' tests build on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use longshore_model::spec::{AppSpec, ImageSource};

/// A spec that runs one instance of an image.
pub(crate) fn spec(image: &str) -> AppSpec {
    AppSpec::new("till", ImageSource::Reference(image.to_owned()))
}
