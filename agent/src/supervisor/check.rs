//! What stands in the way of an app on this node, judged before anything of it is fetched or made.
//!
//! A task that is CHECKING is judged by what is here, one thing after the other until something stands in its way, and holds what
//! it was let have. A plan is judged by the same, of everything at once, and holds nothing: see [`foresee`].

use std::sync::Arc;
use std::time::Duration;

use longshore_model::capacity::Amounts;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::node::NetworkInterface;
use longshore_model::node_value::Facts;
use longshore_model::plan::{Candidate, Look, Obstacle};
use longshore_model::spec::AppSpec;

use super::Context;
use crate::runtime::{Access, Keyring, Purpose, Resolution, Room, RuntimeError};
use crate::{capability, environment, node};

/// How long a plan waits for a registry: long enough for a slow line, and short enough that the agent answers before its server
/// gives it up.
const IMAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the machine must be able to do, and allow.
pub(super) fn rights(context: &Context, spec: &AppSpec) -> Result<(), RuntimeError> {
    longshore_model::capability::check(spec, &capability::all(&*context.runtime))
        .map_err(|error| because(FailureReason::Unsupported, &error))?;
    context.allowances.check(spec)?;
    context.allowances.devices(spec).map(drop)
}

/// Lets an app hold what it asks for, if that is free.
pub(super) fn admit(context: &Context, app: &AppName, asked: Amounts) -> Result<(), RuntimeError> {
    context.capacity.admit(app, asked).map_err(|error| because(FailureReason::InsufficientResources, &error))
}

/// Gives an app the accelerators that it asks for, if they are free; returns all that it holds.
pub(super) fn assign(context: &Context, app: &AppName, spec: &AppSpec) -> Result<Vec<String>, RuntimeError> {
    context.accelerators.assign(app, spec).map_err(|error| because(error.reason(), &error))
}

/// Makes the host paths that are missing, and may be.
pub(super) fn host_paths(context: &Context, spec: &AppSpec) -> Result<(), RuntimeError> {
    context.host_paths.prepare(spec).map_err(|error| because(error.reason(), &error))
}

/// The node's network interfaces, as they are now.
pub(super) fn interfaces() -> Result<Vec<NetworkInterface>, RuntimeError> {
    let failed = |error| format!("The network interfaces cannot be listed: {error}.");
    node::interfaces().map_err(|error| because(FailureReason::RuntimeError, &failed(error)))
}

/// Whether the disks have room for an image that was found: also what images hold that make way for it by themselves.
pub(super) async fn room(context: &Context, found: &Resolution) -> Result<(), RuntimeError> {
    let Some(short) = found.room.iter().find(|room| room.needed > room.available) else { return Ok(()) };
    let idle = if context.collection.is_off() {
        0
    } else {
        let ledger = context.ledger.clone();
        match tokio::task::spawn_blocking(move || ledger.images()).await {
            Ok(Ok(needed)) => context.runtime.idle_images(needed).await?,
            // A pull will tell.
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
    };
    found.room.iter().try_for_each(|room| fits(room, idle)).inspect_err(|_| {
        tracing::debug!(place = %short.place.display(), idle, "a disk has no room for an image");
    })
}

fn fits(room: &Room, idle: u64) -> Result<(), RuntimeError> {
    let free = room.available.saturating_add(idle);
    if room.needed <= free {
        return Ok(());
    }
    // The one rounded up and the other down, so that they never seem to be the same.
    let (unit, size) = if room.needed < 10 << 20 { ("KiB", 1 << 10) } else { ("MiB", 1 << 20) };
    let (needed, free, place) = (room.needed.div_ceil(size), free / size, room.place.display());
    let message = format!(
        "The image takes at least {needed} {unit} of the disk that {place} is on, and of that {free} {unit} are free or can be \
         made free."
    );
    Err(RuntimeError { reason: FailureReason::DiskFull, message })
}

/// Finds everything that would stand in the way of an app, and what would be fetched for it, as the CHECKING of its task would.
/// Nothing comes of it: nothing is held, written or made. What `keyring` tells is used for this alone.
pub async fn foresee(context: &Arc<Context>, candidate: &Candidate, keyring: Arc<dyn Keyring>) -> Look {
    let (shared, asked) = (Arc::clone(context), candidate.clone());
    let found = tokio::task::spawn_blocking(move || locally(&shared, &asked)).await;
    let mut look = Look { obstacles: found.unwrap_or_else(|error| vec![interrupted(&error)]), fetch_bytes: None };
    let Candidate { app, spec, image_access, .. } = candidate;
    let access = Access::of(app.clone(), *image_access, keyring);
    let image = async {
        let found = context.runtime.resolve(&spec.image, &access, Purpose::Foresight).await?;
        Ok((found.fetch, room(context, &found).await))
    };
    let late = |_| {
        let message = format!("The registry did not say within {} s what the image is.", IMAGE_TIMEOUT.as_secs());
        Err(because(FailureReason::RegistryUnreachable, &message))
    };
    match tokio::time::timeout(IMAGE_TIMEOUT, image).await.unwrap_or_else(late) {
        Ok((fetch, room)) => {
            look.fetch_bytes = Some(fetch);
            look.obstacles.extend(room.err().map(|error| obstacle(&error)));
        }
        Err(error) => look.obstacles.push(obstacle(&error)),
    }
    look
}

/// What can be found without asking anybody. Blocks for a moment.
fn locally(context: &Context, candidate: &Candidate) -> Vec<Obstacle> {
    let Candidate { app, spec, node_labels, .. } = candidate;
    let mut found = Vec::new();
    let mut add = |reason, error: &dyn std::fmt::Display| found.push(Obstacle::new(reason, &error.to_string()));
    let facts = Facts { name: &context.node, host_ip: *context.host_ip.borrow(), labels: node_labels };
    let filled = environment::check(spec, &facts).and_then(|()| environment::fill(spec, &facts));
    // Of what is not filled in everything but the paths is as it would be.
    let checked = match &filled {
        Ok(filled) => filled,
        Err(missing) => {
            add(missing.reason(), missing);
            spec
        }
    };
    if let Err(error) = rights(context, checked) {
        add(error.reason, &error);
    }
    if let Err(error) = context.capacity.foresee(app, Amounts::of(spec)) {
        add(FailureReason::InsufficientResources, &error);
    }
    if let Err(error) = context.accelerators.foresee(app, checked) {
        add(error.reason(), &error);
    }
    if filled.is_ok() {
        context.host_paths.foresee(checked).iter().for_each(|error| add(error.reason(), error));
    }
    match interfaces() {
        Ok(interfaces) => {
            let refusals = context.ports.foresee(app, spec, &interfaces, rand::random());
            refusals.iter().for_each(|error| add(error.reason(), error));
        }
        Err(error) => add(error.reason, &error),
    }
    found
}

fn obstacle(error: &RuntimeError) -> Obstacle {
    Obstacle::new(error.reason, &error.message)
}

fn interrupted(error: &tokio::task::JoinError) -> Obstacle {
    Obstacle::new(FailureReason::RuntimeError, &format!("The check was interrupted: {error}."))
}

fn because(reason: FailureReason, error: &impl ToString) -> RuntimeError {
    RuntimeError { reason, message: error.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn an_image_needs_room_and_what_makes_way_for_it_counts() {
        let room = |needed, available| Room { place: "/data".into(), needed, available };
        assert_eq!(fits(&room(0, 0), 0), Ok(()), "it is here");
        assert_eq!(fits(&room(5 << 20, 5 << 20), 0), Ok(()));
        assert_eq!(fits(&room(5 << 20, 1 << 20), 4 << 20), Ok(()));
        assert_eq!(fits(&room(u64::MAX, u64::MAX), u64::MAX), Ok(()));
        for (needed, told) in [((5 << 20) + 1, "5121 KiB"), ((50 << 20) + 1, "51 MiB")] {
            let error = fits(&room(needed, needed - (1 << 20)), (1 << 20) - 1).unwrap_err();
            assert_eq!(error.reason, FailureReason::DiskFull);
            assert!(error.message.starts_with(&format!("The image takes at least {told} of the disk")), "{error}");
        }
    }
}
