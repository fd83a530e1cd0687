//! `longshore user create`

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::v1::{CreateUserRequest, CreateUserResponse, UserRole};

use crate::client::call;
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{job_file, json, text};

/// Add a user, and write their credentials into a directory: root.crt, client.crt and client.key.
///
/// The key is made here; the server never sees it.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Their name: lower-case letters, digits and inner dashes.
    name: String,

    /// What they may do: look; that and everything about jobs and apps; or everything.
    #[arg(long, value_enum)]
    role: Role,

    /// Life of their certificates, such as 90d; 365 days when left out, which is the most.
    #[arg(long, value_name = "TIME", value_parser = job_file::duration)]
    ttl: Option<Duration>,

    /// Directory to make for the credentials; it must not exist [default: the name].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a user may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    Viewer,
    Operator,
    Admin,
}

impl From<Role> for UserRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Admin => Self::Admin,
        }
    }
}

pub(super) async fn run(create: Create, context: &mut Context<'_>) -> Result<Exit, Error> {
    let directory = create.out.unwrap_or_else(|| PathBuf::from(&create.name));
    let made = longshore_tls::make_key_and_csr().map_err(|error| Error::new(longshore_tls::with_causes(&error)))?;
    let request = CreateUserRequest {
        name: create.name.clone(),
        role: UserRole::from(create.role).into(),
        ttl: create.ttl.map(longshore_proto::convert::duration),
        csr_der: made.csr_der,
        ..Default::default()
    };
    // Before there is a user: one whose credentials cannot be kept is of no use.
    let cannot = |error| Error::io(format!("cannot make {}", directory.display()), error);
    std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(cannot)?;
    let written = super::write(&directory.join("client.key"), &made.key_pem, 0o600);
    let answer = match written {
        Ok(()) => context.client.users.create_user(call(request)).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(error) => {
            // Nothing in it is of any use now.
            let _ = std::fs::remove_file(directory.join("client.key"));
            let _ = std::fs::remove_dir(&directory);
            return Err(error);
        }
    };
    super::write(&directory.join("root.crt"), &answer.root_certificate_pem, 0o644)?;
    super::write(&directory.join("client.crt"), &answer.certificate_chain_pem, 0o644)?;
    let until =
        text::moment(answer.user.as_ref().and_then(|user| user.certificate_expire_time.as_ref()), Timestamp::now());
    let json =
        || json::of("CreateUserResponse", &CreateUserResponse { user: answer.user.clone(), ..Default::default() });
    context.output.show(json, || {
        format!("user {} may call until {until}, with the credentials in {}", create.name, directory.display())
    })?;
    Ok(Exit::Ok)
}
