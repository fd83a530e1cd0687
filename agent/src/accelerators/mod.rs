//! Accelerators of this node, such as GPUs: what there is, which app holds what, and what a container gets of it.
//!
//! What there is is told by the agent's settings ([`described`]), by specs of the Container Device Interface ([`cdi`]), and
//! by the devices of makers that the agent knows; it is looked at anew whenever it matters. Who gets what is decided by
//! [`longshore_model::accelerator`], and written down in the ledger with the app.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use longshore_model::accelerator::{self, Ask, Held, Refusal, Stock, Unit};
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::spec::AppSpec;
use tokio::sync::watch;

use crate::devices::{self, DeviceNode};
use crate::ledger::{Entry, Wish};
use crate::runtime::RuntimeError;

mod ascend;
pub mod cdi;
pub mod described;
mod inventory;
mod nvidia;
pub mod report;

pub use inventory::{Accelerator, DeviceEdit, Edits, Inventory, MountEdit, Sources};

/// What a container gets with its accelerators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attached {
    /// Devices.
    pub devices: Vec<DeviceNode>,
    /// Files and directories of the node, such as the driver's libraries; canonical paths.
    pub mounts: Vec<MountEdit>,
    /// Variables, which go before those of the image and the spec.
    pub env: Vec<(String, String)>,
}

/// The accelerators of this node, and who holds them: one table for all apps, so that deployments that run at once cannot
/// race for one.
#[derive(Debug)]
pub struct AcceleratorTable {
    sources: Sources,
    state: Mutex<State>,
    stock: watch::Sender<Vec<Stock>>,
}

#[derive(Debug, Default)]
struct State {
    inventory: Inventory,
    held: Held,
}

impl AcceleratorTable {
    /// A table of what `sources` tell. Blocks for a moment.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let table = Self { sources, state: Mutex::default(), stock: watch::Sender::new(Vec::new()) };
        table.look();
        table
    }

    /// Looks at what there is, and returns it. Blocks for a moment.
    pub fn look(&self) -> Vec<Stock> {
        let inventory = inventory::discover(&self.sources);
        let mut state = self.state();
        for complaint in inventory.complaints.iter().filter(|one| !state.inventory.complaints.contains(one)) {
            tracing::warn!("{complaint}");
        }
        state.inventory = inventory;
        self.tell(&state)
    }

    /// Told whenever what there is, or how much of it is free, has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Vec<Stock>> {
        self.stock.subscribe()
    }

    /// Notes what an app holds already, as at the agent's start.
    pub fn adopt(&self, entry: &Entry) {
        let ids = if entry.wish == Wish::Gone { Vec::new() } else { needed_by(entry) };
        self.keep_only(&entry.assignment.app, &ids);
    }

    /// Gives an app the accelerators that its spec asks for, and returns all that it holds then: also those of the revision
    /// before an update, which may have to come back. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// There are too few; the app holds what it held before.
    pub fn assign(&self, app: &AppName, spec: &AppSpec) -> Result<Vec<String>, Refusal> {
        let ask = Ask::of(spec);
        if ask.is_some() {
            self.look();
        }
        let mut state = self.state();
        let State { inventory, held } = &mut *state;
        if let Some(ask) = ask {
            let mut chosen = accelerator::assign(&units_of(inventory), held, app, ask)?;
            let own = held.entry(app.clone()).or_default();
            // The order says which instance has which: what is chosen comes first, each at its place.
            own.retain(|id| !chosen.contains(id));
            chosen.append(own);
            *own = chosen;
        }
        let own = held.get(app).cloned().unwrap_or_default();
        self.tell(&state);
        Ok(own)
    }

    /// As [`AcceleratorTable::assign`], and the app gets none. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// There are too few.
    pub fn foresee(&self, app: &AppName, spec: &AppSpec) -> Result<(), Refusal> {
        let Some(ask) = Ask::of(spec) else { return Ok(()) };
        self.look();
        let state = self.state();
        accelerator::assign(&units_of(&state.inventory), &state.held, app, ask).map(drop)
    }

    /// Gives up every accelerator of an app but these, which it has already.
    pub fn keep_only(&self, app: &AppName, ids: &[String]) {
        let mut state = self.state();
        if ids.is_empty() {
            state.held.remove(app);
        } else {
            state.held.insert(app.clone(), ids.to_vec());
        }
        self.tell(&state);
    }

    /// Gives up every accelerator of an app.
    pub fn release(&self, app: &AppName) {
        self.keep_only(app, &[]);
    }

    /// What a container gets that has these accelerators. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// One of them, or a part of it, is not there any more.
    pub fn attach(&self, ids: &[String]) -> Result<Attached, RuntimeError> {
        let mut attached = Attached::default();
        for id in ids {
            let state = self.state();
            let found = state.inventory.accelerators.iter().find(|one| one.unit.id == *id).map(|one| one.edits.clone());
            drop(state);
            let edits = found.ok_or_else(|| lost(id, "it is not on this node any more"))?;
            attached.add(id, edits)?;
        }
        Ok(attached)
    }

    fn tell(&self, state: &State) -> Vec<Stock> {
        let stock = accelerator::stock(&units_of(&state.inventory), &state.held);
        self.stock.send_if_modified(|known| {
            let is_news = *known != stock;
            known.clone_from(&stock);
            is_news
        });
        stock
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn units_of(inventory: &Inventory) -> Vec<Unit> {
    inventory.accelerators.iter().map(|one| one.unit.clone()).collect()
}

/// Those of an app's accelerators that it still needs: for what it is to run, and for the revision to go back to.
#[must_use]
pub fn needed_by(entry: &Entry) -> Vec<String> {
    let assigned = Some(&*entry.assignment.spec).filter(|_| !entry.is_failed_update());
    let asks: Vec<Ask<'_>> = [assigned, entry.proven_spec()].into_iter().flatten().filter_map(Ask::of).collect();
    accelerator::trimmed(&entry.accelerators, &asks)
}

impl Attached {
    fn add(&mut self, id: &str, edits: Edits) -> Result<(), RuntimeError> {
        for edit in edits.devices {
            if self.devices.iter().any(|known| known.target == edit.target) {
                continue;
            }
            let device = devices::look(&edit.source, &edit.target, &edit.permissions);
            self.devices.push(device.map_err(|error| lost(id, &unusable(&edit.source, &error)))?);
        }
        for edit in edits.mounts {
            if self.mounts.iter().any(|known| known.target == edit.target) {
                continue;
            }
            let source = edit.source.canonicalize().map_err(|error| lost(id, &unusable(&edit.source, &error)))?;
            self.mounts.push(MountEdit { source, ..edit });
        }
        for (name, value) in edits.env {
            match self.env.iter_mut().find(|(known, _)| *known == name) {
                // Variables that name accelerators have a list of them.
                Some((_, values)) => {
                    for one in value.split(',') {
                        if values.split(',').all(|known| known != one) {
                            *values = format!("{values},{one}");
                        }
                    }
                }
                None => self.env.push((name, value)),
            }
        }
        Ok(())
    }
}

fn unusable(path: &Path, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("its {} does not exist", path.display()),
        std::io::ErrorKind::InvalidInput => format!("its {} is no device", path.display()),
        _ => format!("its {} cannot be looked at: {error}", path.display()),
    }
}

fn lost(id: &str, why: &str) -> RuntimeError {
    let message = format!("The accelerator {id} cannot be used: {why}.");
    RuntimeError { reason: FailureReason::DeviceUnavailable, message }
}

/// Where specs of the Container Device Interface are.
#[must_use]
pub fn default_cdi_dirs() -> Vec<PathBuf> {
    ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;
