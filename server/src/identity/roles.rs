//! Every RPC and who may call it.

use longshore_model::identity::Role;

/// Who may call an RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone who can connect, with a certificate or without.
    Anyone,
    /// Callers with one of these roles.
    Roles(&'static [Role]),
}

const ALL: Access = Access::Roles(&[Role::Admin, Role::Operator, Role::Viewer, Role::Node]);
const PEOPLE: Access = Access::Roles(&[Role::Admin, Role::Operator, Role::Viewer]);
const OPERATORS: Access = Access::Roles(&[Role::Admin, Role::Operator]);
const ADMINS: Access = Access::Roles(&[Role::Admin]);
const NODES: Access = Access::Roles(&[Role::Node]);

/// The one table. A test holds it against the descriptors of everything that is served.
const TABLE: [(&str, Access); 68] = [
    ("/grpc.health.v1.Health/Check", ALL),
    ("/grpc.health.v1.Health/Watch", ALL),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", PEOPLE),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", PEOPLE),
    ("/longshore.v1.AgentService/AnswerCheck", NODES),
    ("/longshore.v1.AgentService/FetchConfiguration", NODES),
    ("/longshore.v1.AgentService/FetchRegistryCredential", NODES),
    ("/longshore.v1.AgentService/OpenChannel", NODES),
    ("/longshore.v1.AgentService/OpenSession", NODES),
    ("/longshore.v1.AgentService/RenewCertificate", NODES),
    ("/longshore.v1.AgentService/ReportAccelerators", NODES),
    ("/longshore.v1.AgentService/UploadLogs", NODES),
    // Who deploys an app may run what they like in one anyway.
    ("/longshore.v1.AppService/ExecApp", OPERATORS),
    ("/longshore.v1.AppService/ForwardPort", OPERATORS),
    ("/longshore.v1.AppService/GetApp", PEOPLE),
    ("/longshore.v1.AppService/GetLogFiles", PEOPLE),
    ("/longshore.v1.AppService/ListAppEvents", PEOPLE),
    ("/longshore.v1.AppService/ListApps", PEOPLE),
    ("/longshore.v1.AppService/ReadLogs", PEOPLE),
    ("/longshore.v1.AppService/RemoveApp", OPERATORS),
    // It tells what everybody did, and from where.
    ("/longshore.v1.AuditService/ListAuditEntries", ADMINS),
    // As specs are, whose settings they are.
    ("/longshore.v1.ConfigMapService/CreateConfigMap", OPERATORS),
    ("/longshore.v1.ConfigMapService/DeleteConfigMap", OPERATORS),
    ("/longshore.v1.ConfigMapService/GetConfigMap", PEOPLE),
    ("/longshore.v1.ConfigMapService/ListConfigMaps", PEOPLE),
    ("/longshore.v1.ConfigMapService/UpdateConfigMap", OPERATORS),
    // The token in the request decides.
    ("/longshore.v1.EnrollmentService/Enroll", Access::Anyone),
    ("/longshore.v1.JobService/CreateJob", OPERATORS),
    ("/longshore.v1.JobService/GetJob", PEOPLE),
    ("/longshore.v1.JobService/GroupFailures", PEOPLE),
    ("/longshore.v1.JobService/ListJobs", PEOPLE),
    ("/longshore.v1.JobService/ListTasks", PEOPLE),
    // It tells as much of what there is as a job that is only checked.
    ("/longshore.v1.JobService/PlanJob", OPERATORS),
    ("/longshore.v1.JobService/ResumeJob", OPERATORS),
    ("/longshore.v1.JobService/RetryJob", OPERATORS),
    ("/longshore.v1.JobService/StopJob", OPERATORS),
    ("/longshore.v1.JobService/WaitJob", PEOPLE),
    ("/longshore.v1.JobService/WatchJob", PEOPLE),
    ("/longshore.v1.NodeService/ApproveNode", ADMINS),
    ("/longshore.v1.NodeService/CreateEnrollmentToken", ADMINS),
    ("/longshore.v1.NodeService/DeleteEnrollmentToken", ADMINS),
    ("/longshore.v1.NodeService/DeleteNode", ADMINS),
    ("/longshore.v1.NodeService/DenyNode", ADMINS),
    ("/longshore.v1.NodeService/GetNode", PEOPLE),
    ("/longshore.v1.NodeService/ListEnrollmentTokens", ADMINS),
    ("/longshore.v1.NodeService/ListNodes", PEOPLE),
    ("/longshore.v1.NodeService/ListPendingNodes", ADMINS),
    // Labels decide where jobs go: they are the fleet's layout, not a job's business.
    ("/longshore.v1.NodeService/UpdateNode", ADMINS),
    ("/longshore.v1.NodeService/UpdateNodeLabels", ADMINS),
    // Who names a credential in a job needs to see which there are; nobody sees a password.
    ("/longshore.v1.RegistryCredentialService/CreateRegistryCredential", ADMINS),
    ("/longshore.v1.RegistryCredentialService/DeleteRegistryCredential", ADMINS),
    ("/longshore.v1.RegistryCredentialService/GetRegistryCredential", OPERATORS),
    ("/longshore.v1.RegistryCredentialService/ListRegistryCredentials", OPERATORS),
    ("/longshore.v1.RegistryCredentialService/UpdateRegistryCredential", ADMINS),
    // Who names a secret in a job needs to see which there are; nobody sees a value.
    ("/longshore.v1.SecretService/CreateSecret", ADMINS),
    ("/longshore.v1.SecretService/DeleteSecret", ADMINS),
    ("/longshore.v1.SecretService/GetSecret", OPERATORS),
    ("/longshore.v1.SecretService/ListSecrets", OPERATORS),
    ("/longshore.v1.SecretService/UpdateSecret", ADMINS),
    // As jobs are, which are made of them.
    ("/longshore.v1.TemplateService/CreateTemplate", OPERATORS),
    ("/longshore.v1.TemplateService/DeleteTemplate", OPERATORS),
    ("/longshore.v1.TemplateService/GetTemplate", PEOPLE),
    ("/longshore.v1.TemplateService/ListTemplates", PEOPLE),
    ("/longshore.v1.TemplateService/SetTemplateAlias", OPERATORS),
    ("/longshore.v1.UserService/CreateUser", ADMINS),
    ("/longshore.v1.UserService/ListUsers", ADMINS),
    // Everybody their own.
    ("/longshore.v1.UserService/RenewUserCertificate", PEOPLE),
    ("/longshore.v1.UserService/RevokeUser", ADMINS),
];

/// Who may call the RPC with this path (`/package.Service/Method`); `None` when there is no such RPC.
#[must_use]
pub fn access(path: &str) -> Option<Access> {
    TABLE.binary_search_by(|(known, _)| (*known).cmp(path)).ok().map(|index| TABLE[index].1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Paths of every RPC in these descriptors.
    fn paths(descriptors: &[u8]) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut paths = BTreeSet::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    paths.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        paths
    }

    #[test]
    fn every_rpc_has_an_entry_and_every_entry_an_rpc() {
        let served = [
            longshore_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let rpcs: BTreeSet<String> = served.into_iter().flat_map(paths).collect();
        let entries: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rpcs.difference(&entries).collect::<Vec<_>>(), Vec::<&String>::new(), "RPCs without an entry");
        assert_eq!(entries.difference(&rpcs).collect::<Vec<_>>(), Vec::<&String>::new(), "entries without an RPC");
        assert!(rpcs.contains("/longshore.v1.JobService/CreateJob"));
    }

    #[test]
    fn the_table_is_sorted_and_found_by_path() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (path, expected) in TABLE {
            assert_eq!(access(path), Some(expected), "{path}");
        }
        assert_eq!(access("/longshore.v1.JobService/Createjob"), None);
        assert_eq!(access(""), None);
    }

    #[test]
    fn only_enrolment_needs_no_certificate_and_only_nodes_act_as_nodes() {
        for (path, access) in TABLE {
            match access {
                Access::Anyone => assert_eq!(path, "/longshore.v1.EnrollmentService/Enroll"),
                Access::Roles(roles) if path.contains(".AgentService/") => assert_eq!(roles, [Role::Node], "{path}"),
                Access::Roles(roles) => {
                    assert!(roles.contains(&Role::Admin), "{path}");
                    let health = path.starts_with("/grpc.health.");
                    assert_eq!(roles.contains(&Role::Node), health, "{path}");
                    assert!(!roles.contains(&Role::Viewer) || roles.contains(&Role::Operator), "{path}");
                }
            }
        }
    }
}
