//! Values that several modules' tests build on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use longshore_model::spec::{AppSpec, Image, ImageSource, Network, Resources, RestartPolicy, Startup};

/// A spec that runs one instance of an image.
pub(crate) fn spec(image: &str) -> AppSpec {
    AppSpec {
        name: "till".to_owned(),
        image: Image { source: ImageSource::Reference(image.to_owned()), pull_policy: None, credential: None },
        command: Vec::new(),
        args: Vec::new(),
        env: Vec::new(),
        resources: Resources::default(),
        restart_policy: RestartPolicy::Always,
        instances: 1,
        volumes: Vec::new(),
        network: Network::default(),
        startup: Startup::default(),
        privileged: false,
        host_pid: false,
    }
}
