//! The spelling of which port leads where, which is kubectl's.

use std::str::FromStr;

/// A port of this machine, and the port of an instance that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// Here; 0 for one that is free.
    pub(super) local: u16,
    /// There.
    pub(super) remote: u16,
}

/// It is spelled otherwise.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write LOCAL:REMOTE such as 8080:80, :80 for any free port here, or 80 for the same on both sides; ports are 1 to 65535"
)]
pub(super) struct NotPorts;

impl FromStr for Ports {
    type Err = NotPorts;

    fn from_str(text: &str) -> Result<Self, NotPorts> {
        // Digits alone: what Rust reads as a number may also have a sign.
        let port = |digits: &str| match digits.parse() {
            Ok(port @ 1..) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(NotPorts),
        };
        match text.split_once(':') {
            None => port(text).map(|both| Self { local: both, remote: both }),
            Some(("" | "0", remote)) => Ok(Self { local: 0, remote: port(remote)? }),
            Some((local, remote)) => Ok(Self { local: port(local)?, remote: port(remote)? }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_spelled_as_kubectl_has_them() {
        for (text, local, remote) in [("8080:80", 8080, 80), (":80", 0, 80), ("0:80", 0, 80), ("80", 80, 80)] {
            assert_eq!(text.parse(), Ok(Ports { local, remote }), "{text}");
        }
        for text in
            ["", ":", "80:", "0", "80:0", ":0", "65536", "80:65536", "+80", "-1", "a", "80:80:80", "80/tcp", " 80"]
        {
            assert_eq!(text.parse::<Ports>(), Err(NotPorts), "{text:?}");
        }
    }
}
