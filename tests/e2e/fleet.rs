//! The load program, small: its figures are of no use here, but a fleet of light agents must come up, get two jobs done
//! and come back to a server that was killed.

use std::process::Command;

use longshore_tests::process::{binary, succeed};

#[test]
fn a_small_fleet_gets_its_jobs_done_and_comes_back() {
    let printed = succeed(Command::new(binary("longshore-fleet")).args(["--agents", "50", "--idle", "1"]));
    for figure in ["connect", "job 2: submit to SUCCEEDED", "bytes per agent", "idle wire", "reconnect"] {
        assert!(printed.contains(figure), "{figure} is missing from\n{printed}");
    }
}
