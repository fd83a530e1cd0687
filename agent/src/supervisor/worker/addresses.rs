//! Follows the addresses of interfaces that an app's ports are bound to, while its containers run.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use longshore_model::failure::FailureReason;
use longshore_model::{backoff, capability};

use super::{Worker, blocking, refusal};
use crate::clock::later;
use crate::runtime::RuntimeError;
use crate::supervisor::plan::ContainerState;
use crate::{node, ports};

/// What a worker knows of the addresses of its app.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Whether they have to be looked at.
    pub(super) due: bool,
    /// Looks in a row that came to nothing.
    failures: u32,
    /// They are looked at again then.
    pub(super) again: Option<jiff::Timestamp>,
    /// The run of each instance that was told, and what.
    told: BTreeMap<u32, (u32, BTreeMap<String, Ipv4Addr>)>,
}

impl Following {
    /// Looks at once, for what has changed while no agent was there.
    pub(super) fn begin() -> Self {
        Self { due: true, ..Self::default() }
    }
}

impl Worker {
    /// Leads ports of interfaces to the addresses that these have now. Ports of one that has none stay where they are.
    pub(super) async fn follow_addresses(&mut self) {
        let now = self.context.clock.now();
        let is_time = self.following.again.is_some_and(|moment| moment <= now);
        if !std::mem::take(&mut self.following.due) && !is_time {
            return;
        }
        self.following.again = None;
        match self.follow().await {
            Ok(()) => self.following.failures = 0,
            // An engine, or a shim that is older than this: they are bound anew with the next container.
            Err(error) if error.reason == FailureReason::Unsupported => {
                tracing::warn!(app = %self.app.entry.assignment.app, %error, "ports stay at an address that may be gone");
            }
            Err(error) => {
                tracing::warn!(app = %self.app.entry.assignment.app, %error, "ports are not at their interface's address");
                self.following.failures = self.following.failures.saturating_add(1);
                self.following.again = Some(later(now, backoff::RESTART.delay(self.following.failures)));
            }
        }
    }

    async fn follow(&mut self) -> Result<(), RuntimeError> {
        let side = self.app.target_side();
        let old = self.app.ports_of(side).to_vec();
        if old.iter().all(|port| port.host_interface.is_none()) {
            return Ok(());
        }
        let interfaces = blocking(|| {
            node::interfaces().map_err(|error| {
                refusal(FailureReason::RuntimeError, format!("The network interfaces cannot be listed: {error}."))
            })
        })
        .await?;
        let (moved, addresses) = ports::moved(&old, &interfaces);
        let capabilities = self.context.runtime.capabilities();
        let can_follow = capabilities.iter().any(|word| word == capability::NETWORK_PORTS_FOLLOW);
        if moved == old && !can_follow {
            return Ok(());
        }
        let spare = self.app.spare_ports(side);
        let app = self.app.entry.assignment.app.clone();
        let taken = self.context.ports.relocate(&app, &moved, &spare);
        taken.map_err(|error| refusal(error.reason(), error.to_string()))?;
        let is_up = |(index, container): (&u32, &crate::supervisor::plan::Container)| {
            matches!(container.state, ContainerState::Running(_)).then_some(*index)
        };
        for index in self.app.containers.iter().filter_map(is_up).collect::<Vec<_>>() {
            let news = (self.run_of(index), addresses.clone());
            if self.following.told.get(&index) == Some(&news) {
                continue;
            }
            let key = self.key(index);
            let told = Arc::clone(&self.context.runtime).relocate(&key, &addresses).await;
            if let Err(error) = told {
                // Its socket is where it was; another instance's may have moved.
                let both: Vec<_> = spare.iter().chain(&moved).cloned().collect();
                let _ = self.context.ports.relocate(&app, &old, &both);
                return Err(error);
            }
            self.following.told.insert(index, news);
        }
        if moved != old {
            tracing::info!(%app, ?addresses, "ports have followed their interfaces");
            self.app.set_ports(side, moved);
            self.persist().await;
        }
        Ok(())
    }
}
