//! `longshore registry list`

use jiff::Timestamp;
use longshore_proto::v1::{ListRegistryCredentialsRequest, ListRegistryCredentialsResponse, RegistryCredential};

use crate::client::{PAGE, all_pages, call};
use crate::commands::Context;
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, text};

/// List credentials, by name unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only credentials that match, such as `registry = registry.example.com*`; docs/api.md has the grammar.
    #[arg(long, default_value = "", hide_default_value = true)]
    filter: String,

    /// Order, such as `create_time desc`: fields with commas between them, each alone or with ` desc`; docs/api.md lists them.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FIELDS")]
    order_by: String,
}

pub(super) async fn run(list: List, context: &mut Context<'_>) -> Result<Exit, Error> {
    let List { filter, order_by } = list;
    let request = ListRegistryCredentialsRequest { page_size: PAGE, filter, order_by, ..Default::default() };
    let registry_credentials = all_pages(async |page_token| {
        let request = ListRegistryCredentialsRequest { page_token, ..request.clone() };
        let page = context.client.registries.list_registry_credentials(call(request)).await?.into_inner();
        Ok((page.registry_credentials, page.next_page_token))
    })
    .await?;
    let page = ListRegistryCredentialsResponse { registry_credentials, ..Default::default() };
    let json = || json::of("ListRegistryCredentialsResponse", &page);
    context.output.show(json, || table(&page.registry_credentials, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn table(credentials: &[RegistryCredential], now: Timestamp) -> String {
    let row = |credential: &RegistryCredential| {
        let authority = if credential.ca_certificate_pem.is_empty() { "no" } else { "yes" };
        let changed = text::age(credential.update_time.as_ref(), now);
        let RegistryCredential { name, registry, username, .. } = credential.clone();
        [name, registry, username, authority.to_owned(), changed]
    };
    text::table(["NAME", "REGISTRY", "USER", "OWN CA", "CHANGED"], credentials.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_credentials() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let shop = RegistryCredential {
            name: "shop".to_owned(),
            registry: "registry.example.com/shop".to_owned(),
            username: "robot".to_owned(),
            update_time: at(0),
            ..Default::default()
        };
        let own = RegistryCredential {
            name: "own".to_owned(),
            ca_certificate_pem: "-----BEGIN".to_owned(),
            update_time: at(940),
            ..shop.clone()
        };
        let now = Timestamp::from_second(1000).unwrap_or_default();
        let expected = "\
NAME  REGISTRY                   USER   OWN CA  CHANGED
own   registry.example.com/shop  robot  yes     60s
shop  registry.example.com/shop  robot  no      16m";
        assert_eq!(table(&[own, shop], now), expected);
    }
}
