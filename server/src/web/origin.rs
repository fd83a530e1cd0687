//! Where a web page comes from.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;
use url::{Host, Url};

/// What a page may come from, as browsers write it: `https://console.example.com`, with a port unless it is the usual one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Why a text is no origin of pages that may be allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It stands for every page.
    #[error("every page of anybody could act for its visitors; name each origin that may call")]
    Any,
    /// It stands for pages that have none.
    #[error("pages of anybody can have the origin \"null\"; name an origin such as https://console.example.com")]
    Null,
    /// It is no URL.
    #[error("not an origin, such as https://console.example.com: {0}")]
    NotAUrl(url::ParseError),
    /// Its scheme is not of the web.
    #[error("an origin begins with https://, not with {0}:")]
    Scheme(String),
    /// Whoever is between the page's server and the browser could change the page.
    #[error("a page that comes over http can be changed on its way; use https (http is for localhost only)")]
    Insecure,
    /// It has no host of its own.
    #[error("an origin is one host; name each host that may call")]
    Wildcard,
    /// More than scheme, host and port.
    #[error("an origin is a scheme, a host and a port; you mean {0}")]
    TooMuch(String),
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        match text {
            "*" => return Err(OriginError::Any),
            "null" => return Err(OriginError::Null),
            _ => {}
        }
        let url = Url::parse(text).map_err(OriginError::NotAUrl)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(OriginError::Scheme(url.scheme().to_owned()));
        }
        if url.host_str().is_some_and(|host| host.contains('*')) {
            return Err(OriginError::Wildcard);
        }
        let is_local = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if url.scheme() == "http" && !is_local {
            return Err(OriginError::Insecure);
        }
        let written = url.origin().ascii_serialization();
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(OriginError::TooMuch(written));
        }
        // What a URL's origin is written with can stand in a header.
        HeaderValue::from_str(&written).map(Self).map_err(|_| OriginError::TooMuch(written))
    }
}

impl PartialEq<HeaderValue> for Origin {
    fn eq(&self, header: &HeaderValue) -> bool {
        self.0 == *header
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let cases = [
            ("https://console.example.com", "https://console.example.com"),
            ("HTTPS://Console.Example.com/", "https://console.example.com"),
            ("https://console.example.com:443", "https://console.example.com"),
            ("https://console.example.com:8443", "https://console.example.com:8443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://192.0.2.7:444", "https://192.0.2.7:444"),
            ("https://[2001:DB8:0::1]", "https://[2001:db8::1]"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:3000", "http://[::1]:3000"),
        ];
        for (text, expected) in cases {
            let origin: Origin = text.parse().unwrap();
            assert_eq!(origin.to_string(), expected, "{text}");
            assert!(origin == HeaderValue::from_static(expected));
        }
    }

    #[test]
    fn what_would_open_more_than_one_origin_is_refused_with_the_reason() {
        let too_much = |text: &str| OriginError::TooMuch(text.to_owned());
        let cases = [
            ("*", OriginError::Any),
            ("null", OriginError::Null),
            ("https://*.example.com", OriginError::Wildcard),
            ("http://console.example.com", OriginError::Insecure),
            ("http://localhost.example.com", OriginError::Insecure),
            ("http://192.168.1.7:5173", OriginError::Insecure),
            ("ftp://console.example.com", OriginError::Scheme("ftp".to_owned())),
            ("file:///srv/index.html", OriginError::Scheme("file".to_owned())),
            ("console.example.com:443", OriginError::Scheme("console.example.com".to_owned())),
            ("https://console.example.com/app", too_much("https://console.example.com")),
            ("https://console.example.com/?a=b", too_much("https://console.example.com")),
            ("https://console.example.com/#a", too_much("https://console.example.com")),
            ("https://ann:secret@console.example.com", too_much("https://console.example.com")),
            ("console.example.com", OriginError::NotAUrl(url::ParseError::RelativeUrlWithoutBase)),
            ("", OriginError::NotAUrl(url::ParseError::RelativeUrlWithoutBase)),
            ("https://", OriginError::NotAUrl(url::ParseError::EmptyHost)),
            ("https://console.example.com:70000", OriginError::NotAUrl(url::ParseError::InvalidPort)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Origin>(), Err(expected), "{text}");
        }
        let error = "https://ann:secret@x.example/".parse::<Origin>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
