//! AuditService.

use async_trait::async_trait;
use longshore_model::limits::MAX_PAGE;
use longshore_model::validate::Violations;
use longshore_proto::v1;
use tonic::{Request, Response, Status};
use v1::audit_service_server::AuditService;

use super::pages::{Asked, Listing};
use super::{Context, filters, status};

/// AuditService.
pub struct AuditApi(pub Context);

#[async_trait]
impl AuditService for AuditApi {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let request = request.into_inner();
        let filters = [request.filter.as_str()];
        let listing = Listing::new("ListAuditEntries", &filters);
        let mut bad = Violations::default();
        let filter = filters::read(&request.filter, filters::AUDIT, &mut bad);
        let asked = Asked::new(request.page_size, &request.page_token, &request.order_by);
        let mut scan = listing.scan(&asked, (!filter.is_empty()).then_some(MAX_PAGE), &mut bad);
        bad.or(()).map_err(status::invalid)?;
        let mut ends = None;
        while scan.goes_on() {
            let found = self.0.store.audit_log(scan.query()).await.map_err(status::store)?;
            scan.take(found.page, |entry| filter.matches(|field| filters::deed(&entry.deed, field)));
            ends = Some((found.base, found.head));
        }
        let found = scan.finish();
        let (entries, next_page_token) =
            listing.close(&found, found.items.iter().cloned().map(v1::AuditEntry::from).collect());
        let (base, head) = ends.unzip();
        Ok(Response::new(v1::ListAuditEntriesResponse {
            entries,
            next_page_token,
            base: base.map(v1::AuditHead::from),
            head: head.map(v1::AuditHead::from),
        }))
    }
}
