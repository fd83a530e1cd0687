//! `longshore version`

use crate::error::Error;
use crate::exit::Exit;
use crate::json::Json;
use crate::output::Output;

pub(super) fn run(output: &mut Output) -> Result<Exit, Error> {
    let version = env!("CARGO_PKG_VERSION");
    let json = || Json::Object(vec![("version".to_owned(), Json::Text(version.to_owned()))]);
    output.show(json, || format!("longshore {version}"))?;
    Ok(Exit::Ok)
}
