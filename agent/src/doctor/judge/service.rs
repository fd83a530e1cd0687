//! The program, its settings, its unit, and the engine beside it.

use longshore_doctor::Finding;

use crate::runtime::docker::Address;

/// What an engine says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Engine {
    /// Name and version.
    pub(in crate::doctor) version: String,
    /// Whether it runs as a user other than root.
    pub(in crate::doctor) is_rootless: bool,
    /// What it cannot limit.
    pub(in crate::doctor) unlimited: Vec<&'static str>,
}

/// An installed unit of systemd's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Unit {
    /// Where it is.
    pub(in crate::doctor) path: String,
    /// Its text, with those of its drop-ins after it.
    pub(in crate::doctor) text: String,
    /// Whether it starts at boot.
    pub(in crate::doctor) is_enabled: bool,
}

/// Settings that are wrong, or that none is.
pub(in crate::doctor) fn settings(mistakes: &[String]) -> Vec<Finding> {
    let check = "settings";
    if mistakes.is_empty() {
        return vec![Finding::fine(check, "no mistake in flags, variables and the file")];
    }
    let hint = "The agent does not start like this. `longshore-agent config` checks again.";
    mistakes.iter().map(|mistake| Finding::broken(check, mistake.clone(), hint)).collect()
}

/// Who asks.
pub(in crate::doctor) fn user(uid: u32) -> Finding {
    if uid == 0 {
        return Finding::fine("user", "root");
    }
    let found = format!("the user with number {uid}, who does not see what the agent sees");
    Finding::broken("user", found, "Run it as root; the agent needs root too.")
}

/// Whether an agent runs on the data directory.
pub(in crate::doctor) fn agent(pid: Option<i32>) -> Finding {
    match pid {
        Some(pid) => Finding::fine("agent", format!("runs as process {pid}")),
        None => {
            let found = "does not run; apps that are up stay up, and nothing new happens";
            Finding::degraded("agent", found, "Run `systemctl start longshore-agent`; its log says why it ended.")
        }
    }
}

/// The engine that is to run the containers.
pub(in crate::doctor) fn engine(address: &Address, engine: Result<Engine, String>) -> Finding {
    let check = "engine";
    let engine = match engine {
        Ok(engine) => engine,
        Err(why) => {
            let hint = "Start the engine, or name its socket by --docker-socket: unix:///run/docker.sock for Docker, \
                        unix:///run/podman/podman.sock for Podman (`systemctl enable --now podman.socket`).";
            return Finding::broken(check, why, hint);
        }
    };
    let version = &engine.version;
    if engine.is_rootless {
        let found = format!("{version} at {address} does not run as root: host paths, limits and low ports fail");
        return Finding::broken(check, found, "Name the socket of an engine that runs as root by --docker-socket.");
    }
    if !engine.unlimited.is_empty() {
        let found = format!("{version} at {address} does not limit {}", engine.unlimited.join(" and "));
        let hint = "Specs with such limits are refused. The kernel's controllers may be off: see `docker info`.";
        return Finding::degraded(check, found, hint);
    }
    Finding::fine(check, format!("{version} at {address}"))
}

/// The unit, where there is one.
pub(in crate::doctor) fn unit(unit: Option<&Unit>) -> Vec<Finding> {
    let check = "unit";
    let Some(unit) = unit else {
        return vec![Finding::fine(check, "none is installed; whoever starts the agent must not kill its children")];
    };
    let mode = value(&unit.text, "KillMode").unwrap_or("control-group");
    let mut findings = Vec::new();
    if mode != "process" {
        let found = format!("{} has KillMode={mode}: a restart of the agent kills all apps", unit.path);
        let hint = "Remove the override: `systemctl revert longshore-agent` brings KillMode=process back.";
        findings.push(Finding::degraded(check, found, hint));
    }
    if !unit.is_enabled {
        let found = format!("{} is not enabled: after a reboot no app comes back", unit.path);
        findings.push(Finding::degraded(check, found, "Run `systemctl enable longshore-agent`."));
    }
    if findings.is_empty() {
        findings.push(Finding::fine(check, format!("{}, KillMode=process, enabled", unit.path)));
    }
    findings
}

/// The last value of a setting in a unit's `[Service]` section; an empty one takes back those before.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut section = "";
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[Service]"
            && let Some((key, value)) = line.split_once('=')
            && key.trim_end() == name
        {
            found = Some(value.trim()).filter(|value| !value.is_empty());
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use longshore_doctor::Verdict;

    use super::*;

    #[test]
    fn every_mistake_is_a_finding() {
        assert_eq!(settings(&[])[0].verdict, Verdict::Fine);
        let found = settings(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(found.iter().map(|finding| finding.found.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Broken));
        assert_eq!((user(0).verdict, user(1000).verdict), (Verdict::Fine, Verdict::Broken));
        assert_eq!((agent(Some(7)).verdict, agent(None).verdict), (Verdict::Fine, Verdict::Degraded));
    }

    #[test]
    fn an_engine_is_there_as_root_and_limits() {
        let address: Address = "unix:///run/docker.sock".parse().unwrap();
        let whole = Engine { version: "Docker 20.10.24, API 1.41".to_owned(), ..Engine::default() };
        let table = [
            (Ok(whole.clone()), Verdict::Fine, "Docker 20.10.24, API 1.41 at unix:///run/docker.sock"),
            (Ok(Engine { is_rootless: true, ..whole.clone() }), Verdict::Broken, "does not run as root"),
            (Ok(Engine { unlimited: vec!["CPU", "memory"], ..whole }), Verdict::Degraded, "limit CPU and memory"),
            (Err("cannot be reached".to_owned()), Verdict::Broken, "cannot be reached"),
        ];
        for (facts, verdict, words) in table {
            let finding = engine(&address, facts);
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
            assert_eq!(finding.hint.is_empty(), verdict == Verdict::Fine);
        }
    }

    #[test]
    fn a_unit_leaves_containers_alone_and_starts_at_boot() {
        let with = |text: &str, is_enabled| Unit { path: "/u".to_owned(), text: text.to_owned(), is_enabled };
        let good = "[Service]\nKillMode=process\n";
        let verdicts = |given: Option<&Unit>| unit(given).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(None), [Verdict::Fine]);
        assert_eq!(verdicts(Some(&with(good, true))), [Verdict::Fine]);
        assert_eq!(verdicts(Some(&with(good, false))), [Verdict::Degraded]);
        assert_eq!(verdicts(Some(&with("[Service]\n", false))), [Verdict::Degraded; 2]);
        for override_ in ["[Service]\nKillMode=mixed", "[Service]\n KillMode = control-group", "[Service]\nKillMode="] {
            assert_eq!(
                verdicts(Some(&with(&format!("{good}\n{override_}\n"), true))),
                [Verdict::Degraded],
                "{override_}"
            );
        }
        for other in ["[Install]\nKillMode=mixed", "#KillMode=mixed", "[Service]\nXKillMode=mixed"] {
            assert_eq!(verdicts(Some(&with(&format!("{good}\n{other}\n"), true))), [Verdict::Fine], "{other}");
        }
    }
}
