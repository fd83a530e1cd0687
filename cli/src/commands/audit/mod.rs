//! `longshore audit`

mod list;
mod verify;

use clap::Subcommand;

use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;

/// The audit log: who did what when.
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List entries of the audit log, newest first unless told otherwise.
    List(list::List),
    /// Follow the whole audit log from hash to hash, and say whether it is what was written.
    Verify(verify::Verify),
}

pub(super) async fn run(audit: Audit, mut context: Context<'_>) -> Result<Exit, Error> {
    match audit {
        Audit::List(list) => list::run(list, &mut context).await,
        Audit::Verify(verify) => verify::run(verify, &mut context).await,
    }
}
