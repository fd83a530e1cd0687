//! What an engine's refusals mean. Engines tell them in sentences only, each in its own words.

use longshore_model::failure::FailureReason;

use crate::runtime::RuntimeError;

/// Words of a sentence, all of which must be in it, and what they mean; the first that fits counts.
const MEANINGS: [(&[&str], FailureReason); 17] = [
    (&["no space left on device"], FailureReason::DiskFull),
    (&["disk quota exceeded"], FailureReason::DiskFull),
    (&["port is already allocated"], FailureReason::PortInUse),
    (&["address already in use"], FailureReason::PortInUse),
    (&["no such image"], FailureReason::ImageNotFound),
    (&["image not known"], FailureReason::ImageNotFound),
    (&["unable to find user"], FailureReason::ImageInvalid),
    (&["unable to find group"], FailureReason::ImageInvalid),
    (&["error setting rlimit"], FailureReason::Unsupported),
    (&["unknown capability"], FailureReason::Unsupported),
    (&["unable to apply caps"], FailureReason::Unsupported),
    (&["error gathering device information"], FailureReason::DeviceUnavailable),
    (&["bind source path does not exist"], FailureReason::HostPathUnavailable),
    (&["exec: ", "no such file or directory"], FailureReason::CommandNotFound),
    (&["exec: ", "executable file not found"], FailureReason::CommandNotFound),
    (&["exec: ", "permission denied"], FailureReason::CommandNotFound),
    (&["exec: ", "is a directory"], FailureReason::CommandNotFound),
];

/// Everything before these words is which of its parts the engine heard it from.
const BEGINNINGS: [&str; 2] =
    ["unable to start container process: ", "driver failed programming external connectivity on "];
/// Everything from these words on repeats what was said.
const ENDINGS: [&str; 3] =
    [": unknown", ": OCI runtime attempted to invoke a command that was not found", ": OCI permission denied"];

/// The failure of something that the engine refused to do.
pub(super) fn refused(doing: &str, sentence: &str) -> RuntimeError {
    let lower = sentence.to_lowercase();
    let meaning = MEANINGS.iter().find(|(words, _)| words.iter().all(|word| lower.contains(word)));
    let reason = meaning.map_or(FailureReason::RuntimeError, |(_, reason)| *reason);
    RuntimeError { reason, message: format!("{doing} was refused by the container engine: {}", gist(sentence)) }
}

fn gist(sentence: &str) -> &str {
    let start = BEGINNINGS.iter().find_map(|words| sentence.find(words).map(|at| at + words.len())).unwrap_or(0);
    let rest = sentence[start..].trim();
    ENDINGS.iter().fold(rest, |rest, words| rest.strip_suffix(words).unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_both_engines_are_understood() {
        use FailureReason as Reason;
        let runc =
            "runc create failed: unable to start container process: exec: \"/no\": stat /no: no such file or directory";
        let table = [
            (format!("failed to create shim task: OCI runtime create failed: {runc}: unknown"), Reason::CommandNotFound),
            (
                format!("runc: {runc}: OCI runtime attempted to invoke a command that was not found"),
                Reason::CommandNotFound,
            ),
            (
                "unable to start container process: exec: \"no\": executable file not found in $PATH: unknown".to_owned(),
                Reason::CommandNotFound,
            ),
            (
                "runc: runc create failed: unable to start container process: exec: \"/etc\": permission denied: OCI permission denied"
                    .to_owned(),
                Reason::CommandNotFound,
            ),
            (
                "driver failed programming external connectivity on endpoint x (1): Bind for 0.0.0.0:80 failed: port is already allocated"
                    .to_owned(),
                Reason::PortInUse,
            ),
            (
                "cannot listen on the TCP port: listen tcp4 127.0.0.1:80: bind: address already in use".to_owned(),
                Reason::PortInUse,
            ),
            ("No such image: a:1".to_owned(), Reason::ImageNotFound),
            ("unable to find user x: no matching entries in passwd file".to_owned(), Reason::ImageInvalid),
            (
                "invalid mount config for type \"bind\": bind source path does not exist: /x".to_owned(),
                Reason::HostPathUnavailable,
            ),
            ("write /var/lib/docker/x: no space left on device".to_owned(), Reason::DiskFull),
            ("something new".to_owned(), Reason::RuntimeError),
        ];
        for (sentence, reason) in table {
            assert_eq!(refused("starting", &sentence).reason, reason, "{sentence}");
        }
        let error = refused("starting", &format!("OCI runtime create failed: {runc}: unknown"));
        let expected =
            "starting was refused by the container engine: exec: \"/no\": stat /no: no such file or directory";
        assert_eq!(error.message, expected);
    }
}
