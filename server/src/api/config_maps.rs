//! ConfigMapService.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use longshore_model::configuration::{Kind, check_content};
use longshore_model::name::ConfigurationName;
use longshore_model::validate::{Path, Violations};
use longshore_proto::convert::{self, FromWire};
use longshore_proto::v1;
use tonic::{Request, Response, Status};
use v1::config_map_service_server::ConfigMapService;

use super::configurations::{self, Change, DATA, Desk, Held, New};
use super::pages::{Asked, Listing};
use super::repeats::Beside;
use super::{Context, status};
use crate::vault::Vault;

const RESOURCE: &str = "config_map";

/// ConfigMapService.
pub struct ConfigMapApi(Desk);

impl ConfigMapApi {
    /// The service over a store.
    #[must_use]
    pub fn new(context: Context, vault: Arc<Vault>) -> Self {
        Self(Desk { kind: Kind::ConfigMap, context, vault })
    }
}

fn answer(held: &Held) -> Option<v1::ConfigMap> {
    let text = |(key, value): (&String, &longshore_model::secret::SecretBytes)| {
        (key.clone(), String::from_utf8_lossy(value.reveal()).into_owned())
    };
    let data: BTreeMap<_, _> = held.content.iter().map(text).collect();
    Some(convert::config_map(&held.configuration, data))
}

#[async_trait]
impl ConfigMapService for ConfigMapApi {
    async fn create_config_map(
        &self,
        request: Request<v1::CreateConfigMapRequest>,
    ) -> Result<Response<v1::CreateConfigMapResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let given = request.config_map.unwrap_or_default();
        let resource = Path::Root.field(RESOURCE);
        let name = ConfigurationName::from_wire(given.name, resource.field("name"), &mut bad);
        let content = configurations::content(given.data);
        check_content(&content, resource.field(DATA), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let made = self.0.create(New { name, content, beside }).await?;
        Ok(Response::new(v1::CreateConfigMapResponse { config_map: answer(&made) }))
    }

    async fn list_config_maps(
        &self,
        request: Request<v1::ListConfigMapsRequest>,
    ) -> Result<Response<v1::ListConfigMapsResponse>, Status> {
        let request = request.into_inner();
        let texts = [request.filter.as_str()];
        let listing = Listing::new("ListConfigMaps", &texts);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let found = self.0.list(&listing, &asked, &request.filter).await?;
        let items = found.items.iter().map(|one| convert::config_map(one, BTreeMap::new())).collect();
        let (config_maps, next_page_token) = listing.close(&found, items);
        Ok(Response::new(v1::ListConfigMapsResponse { config_maps, next_page_token }))
    }

    async fn get_config_map(
        &self,
        request: Request<v1::GetConfigMapRequest>,
    ) -> Result<Response<v1::GetConfigMapResponse>, Status> {
        let held = self.0.get(request.into_inner().name).await?;
        Ok(Response::new(v1::GetConfigMapResponse { config_map: answer(&held) }))
    }

    async fn update_config_map(
        &self,
        request: Request<v1::UpdateConfigMapRequest>,
    ) -> Result<Response<v1::UpdateConfigMapResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let v1::UpdateConfigMapRequest { config_map, update_mask, .. } = request;
        let given = config_map.unwrap_or_default();
        let content = configurations::content(given.data);
        let named = configurations::masked(update_mask.as_ref(), &content, &mut bad);
        let resource = Path::Root.field(RESOURCE);
        let name = ConfigurationName::from_wire(given.name, resource.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        let change = Change { name, etag: given.etag, named, content, beside };
        let changed = self.0.update(change, resource.field(DATA)).await?;
        Ok(Response::new(v1::UpdateConfigMapResponse { config_map: answer(&changed) }))
    }

    async fn delete_config_map(
        &self,
        request: Request<v1::DeleteConfigMapRequest>,
    ) -> Result<Response<v1::DeleteConfigMapResponse>, Status> {
        let caller = status::caller(&request)?.clone();
        let mut request = request.into_inner();
        let mut bad = Violations::default();
        let beside = Beside::read(&mut request, &caller, &mut bad);
        let name = ConfigurationName::from_wire(request.name, Path::Root.field("name"), &mut bad);
        let Some(name) = name.filter(|_| bad.0.is_empty()) else { return Err(status::invalid(bad)) };
        self.0.delete(name, beside).await?;
        Ok(Response::new(v1::DeleteConfigMapResponse {}))
    }
}
