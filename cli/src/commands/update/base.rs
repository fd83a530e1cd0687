//! The spec that changes are made to.

use std::collections::BTreeMap;

use longshore_model::name::AppName;
use longshore_model::spec::AppSpec;
use longshore_proto::convert::decode_spec;
use longshore_proto::v1;
use prost::Message;

use crate::client::{Client, call};
use crate::error::Error;
use crate::exit::Exit;
use crate::text;

/// Different specs that are told apart by name in a message.
const SHOWN: usize = 5;

/// What the app runs: the spec of a job that was named, or the one that all its nodes have, or those of them that were named.
///
/// # Errors
///
/// No node has the app, its nodes run different specs, or the job is none of the app.
pub(super) async fn spec(
    client: &mut Client,
    app: &AppName,
    from: Option<&str>,
    nodes: &[String],
) -> Result<AppSpec, Error> {
    let spec = match from {
        Some(job_id) => of_job(client, app, job_id).await?,
        None => common(app, nodes, client.list_apps("", app.as_str()).await?)?,
    };
    decode_spec(&spec.encode_to_vec())
        .map_err(|bad| Error::new(format!("this version cannot read the app's spec: {bad}")))
}

async fn of_job(client: &mut Client, app: &AppName, job_id: &str) -> Result<v1::AppSpec, Error> {
    let (id, revision) = match job_id.split_once('@') {
        Some((id, number)) => match number.parse() {
            Ok(revision @ 1..) => (id, revision),
            _ => {
                return Err(Error::usage(format!(
                    "--from {job_id}: {number:?} is no number of a spec; give JOB or JOB@2"
                )));
            }
        },
        None => (job_id, 0),
    };
    let request = v1::GetJobRequest { job_id: id.to_owned(), spec_revision: revision };
    let job = client.jobs.get_job(call(request)).await?.into_inner().job.unwrap_or_default();
    if job.app_name != app.as_str() {
        return Err(Error::usage(format!("job {job_id} is not of {app}, but of {}", job.app_name)));
    }
    job.spec.ok_or_else(|| Error::usage(format!("job {job_id} removes {app}: it has no spec")))
}

/// The one spec of those of the apps that count; an app that is being removed does not.
fn common(app: &AppName, nodes: &[String], apps: Vec<v1::App>) -> Result<v1::AppSpec, Error> {
    let counts = |app: &v1::App| !app.removing && (nodes.is_empty() || nodes.contains(&app.node_name));
    let mut specs: Vec<(v1::AppSpec, BTreeMap<String, u32>)> = Vec::new();
    for app in apps.into_iter().filter(counts) {
        let Some(spec) = app.spec else { continue };
        let index = specs.iter().position(|(other, _)| *other == spec).unwrap_or_else(|| {
            specs.push((spec, BTreeMap::new()));
            specs.len() - 1
        });
        let job = match app.spec_revision {
            0 => app.job_id,
            revision => format!("{}@{revision}", app.job_id),
        };
        *specs[index].1.entry(job).or_default() += 1;
    }
    match specs.len() {
        0 => Err(Error::Plain { message: format!("no node has an app {:?}", app.as_str()), exit: Exit::NotFound }),
        1 => Ok(specs.remove(0).0),
        count => {
            let jobs: BTreeMap<String, u32> = specs.into_iter().flat_map(|(_, jobs)| jobs).collect();
            let mut jobs: Vec<(String, u32)> = jobs.into_iter().collect();
            jobs.sort_by_key(|(_, nodes)| std::cmp::Reverse(*nodes));
            let more = if jobs.len() > SHOWN { ", …" } else { "" };
            let told = |(job, nodes): &(String, u32)| format!("{job} on {}", text::count(*nodes, "node"));
            let jobs: Vec<String> = jobs.iter().take(SHOWN).map(told).collect();
            Err(Error::usage(format!(
                "the nodes of {app} run {count} different specs; choose the one to change by --from JOB, or some nodes by \
                 --node. They have those of {}{more}",
                jobs.join(", ")
            )))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot read its input shall fail")]
mod tests {
    use super::*;

    fn app(node: &str, job: &str, image: &str) -> v1::App {
        let image = v1::Image { source: Some(v1::image::Source::Reference(image.to_owned())), ..Default::default() };
        v1::App {
            node_name: node.to_owned(),
            job_id: job.to_owned(),
            spec: Some(v1::AppSpec { image: Some(image), ..Default::default() }),
            ..Default::default()
        }
    }

    fn spec_of(nodes: &[&str], apps: Vec<v1::App>) -> Result<String, String> {
        let nodes: Vec<String> = nodes.iter().map(|&node| node.to_owned()).collect();
        let found = common(&AppName::parse("till-x1").unwrap(), &nodes, apps);
        found.map(|spec| text::image(Some(&spec))).map_err(|error| error.text())
    }

    #[test]
    fn nodes_that_run_the_same_have_one_spec_whatever_job_brought_it() {
        assert_eq!(spec_of(&[], vec![app("a", "j1", "till:1"), app("b", "j2", "till:1")]), Ok("till:1".to_owned()));
    }

    #[test]
    fn different_specs_have_to_be_chosen_from() {
        let apps = || vec![app("a", "j1", "till:1"), app("b", "j2", "till:2"), app("c", "j2", "till:2")];
        let error = spec_of(&[], apps()).unwrap_err();
        assert!(error.contains("2 different specs") && error.ends_with("j2 on 2 nodes, j1 on 1 node"), "{error}");
        assert_eq!(spec_of(&["a"], apps()), Ok("till:1".to_owned()));
        assert_eq!(spec_of(&["b", "c"], apps()), Ok("till:2".to_owned()));
    }

    #[test]
    fn what_is_being_removed_does_not_count() {
        let going = v1::App { removing: true, ..app("a", "j1", "till:1") };
        assert_eq!(spec_of(&[], vec![going.clone(), app("b", "j2", "till:2")]), Ok("till:2".to_owned()));
        assert_eq!(spec_of(&[], vec![going]), Err("no node has an app \"till-x1\"".to_owned()));
    }
}
