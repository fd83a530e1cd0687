//! `longshore user`

mod create;
mod list;
mod renew;
mod revoke;

use std::path::Path;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// Users: people and programs with client certificates.
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Add a user, and write their credentials into a directory.
    Create(create::Create),
    /// List users, by name unless told otherwise.
    List(list::List),
    /// Revoke a user: no certificate of theirs works again.
    Revoke(revoke::Revoke),
    /// Renew your own certificate.
    Renew(renew::Renew),
}

pub(super) async fn run(user: User, mut context: Context<'_>) -> Result<Exit, Error> {
    match user {
        User::Create(create) => create::run(create, &mut context).await,
        User::List(list) => list::run(list, &mut context).await,
        User::Revoke(revoke) => revoke::run(revoke, &mut context).await,
        User::Renew(renew) => renew::run(renew, &mut context).await,
    }
}

/// Replaces a file at once, so that a crash leaves the old text or the new one. Keys are for their owner's eyes only.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let unfinished = path.with_extension(format!("new-{:08x}", rand::random::<u32>()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&unfinished)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&unfinished, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&unfinished);
        Error::io(format!("cannot write {}", path.display()), error)
    })
}
