//! The runtime that plays, held to the same promises as the real ones.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_agent::runtime::fake::{FakeRuntime, Machine};
use longshore_agent::runtime::{Access, Purpose};
use longshore_agent::runtime::{Launch, Runtime};
use longshore_model::spec::{AppSpec, Image, ImageSource};
use serde_json::json;

use super::conformance::{Bench, Does, holds, key};

struct Fake(FakeRuntime);

impl Bench for Fake {
    fn new() -> Self {
        Self(FakeRuntime::new(Machine::new(Timestamp::now())))
    }

    fn runtime(&self) -> &dyn Runtime {
        &self.0
    }

    async fn launch(&self, app: &str, does: Does) -> Launch {
        let script = match does {
            Does::Stays => "create=5ms&start=5ms&opens=1:100000s",
            Does::Prints => "exit=0",
            Does::Fails => "exit=3",
        };
        let image = Image {
            source: ImageSource::Reference(format!("fake/app:1?{script}")),
            pull_policy: None,
            credential: None,
            keep_for: None,
        };
        let spec: AppSpec = serde_json::from_value(json!({ "name": "t", "image": image })).unwrap();
        let image = self.0.resolve(&image, &Access::anonymous(), Purpose::Pull).await.unwrap().image;
        self.0.pull(&image, &Access::anonymous(), Arc::new(|_| {})).await.unwrap();
        Launch {
            instance: key(app),
            revision: 7,
            run: 1,
            image,
            spec: Arc::new(spec),
            env: vec![],
            secret_env: vec![],
            configuration: Arc::default(),
            ports: vec![],
            attached: longshore_agent::accelerators::Attached::default(),
        }
    }

    async fn end(self) {
        assert_eq!(self.0.list().await.unwrap(), []);
    }
}

holds!(Fake);
