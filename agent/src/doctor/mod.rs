//! `longshore-agent doctor`: looks at everything that a node needs, and names what is amiss with a hint that mends it.
//!
//! It changes nothing and does not disturb an agent that runs: what can only be tried is not tried. `look` gathers facts,
//! `judge` makes findings of them.

mod judge;
mod look;

use jiff::Timestamp;
use longshore_doctor::{Finding, key_mode};
use longshore_settings::Mistakes;

use crate::config::{Run, RuntimeKind};
use crate::data_dir::DataDir;
use crate::runtime::embedded::{EgressChoice, look_at_egress};

/// Looks at this node as an agent with these settings would find it. `mistakes` are those of the settings, which are as if
/// they had not been given.
pub async fn examine(run: &Run, mistakes: &Mistakes) -> Vec<Finding> {
    let mut findings = judge::settings(&mistakes.0);
    let data = DataDir::new(run.data.data_dir.clone());
    let agent = look::agent(&data);
    findings.push(judge::user(nix::unistd::geteuid().as_raw()));
    findings.extend(directory(run, &data));
    findings.push(judge::agent(agent));
    findings.extend(identity(&data).await);
    match run.runtime {
        RuntimeKind::Embedded => findings.extend(embedded(run, agent)),
        RuntimeKind::Docker => findings.push(judge::engine(&run.docker_socket, look::engine(&run.docker_socket).await)),
        RuntimeKind::Fake => {}
    }
    findings.extend(judge::unit(look::unit().as_ref()));
    findings
}

/// The data directory: what it is, and what it is on.
fn directory(run: &Run, data: &DataDir) -> Vec<Finding> {
    let directory = match look::directory(data.path()) {
        Ok(Some(directory)) => directory,
        Ok(None) => return vec![judge::no_directory(data.path())],
        Err(error) => return vec![judge::unreadable(data.path(), &error)],
    };
    let mut findings = vec![judge::directory(data.path(), &directory)];
    findings.extend(judge::space(&directory.space));
    findings.push(judge::file_system(&directory, run.runtime == RuntimeKind::Embedded));
    findings.extend(judge::kind_of_runtime(run.runtime, look::has_engine_mark(data), look::has_containers(data)));
    findings
}

/// Who this node is, and whether its server knows it.
async fn identity(data: &DataDir) -> Vec<Finding> {
    let enrolment = match data.enrolment() {
        Ok(enrolment) => enrolment,
        Err(error) => return vec![judge::not_enrolled(&error)],
    };
    let mut findings = vec![judge::enrolled(&enrolment)];
    if let Some((path, mode)) = look::key_mode(data) {
        findings.push(key_mode(&path, mode));
    }
    let credentials = match data.credentials() {
        Ok(credentials) => credentials,
        Err(error) => {
            findings.push(judge::credentials(&error));
            return findings;
        }
    };
    findings.extend(judge::certificate(&credentials, Timestamp::now()));
    findings.extend(look::server(&enrolment.server, &credentials).await);
    findings
}

/// What the embedded runtime needs of the machine.
fn embedded(run: &Run, agent: Option<i32>) -> Vec<Finding> {
    let machine = look::machine();
    let mut findings = vec![
        judge::kernel(&machine.kernel),
        judge::overlay(machine.overlay),
        judge::namespaces(&machine.missing_namespaces),
        judge::cgroups(&machine.cgroups),
        judge::seccomp(machine.has_seccomp),
    ];
    // Those of the agent where it runs: a service's may be others than those of whoever asks.
    let process = look::process(agent);
    findings.extend(process.bounding.map(judge::capabilities));
    findings.extend(process.open_files.map(judge::open_files));
    let way_out = (run.egress != EgressChoice::Off).then(|| look_at_egress(run.egress));
    findings.extend(judge::egress(way_out));
    findings
}
