//! A place that a user names, checked as far as that can be done without asking anyone.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

use super::address;

/// Longest URL in bytes.
pub const TARGET_BYTES_MAX: usize = 2_048;

/// Where messages may go, beside the rule that addresses are public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutwardPolicy {
    /// Whether `http://` is allowed beside `https://`.
    pub allow_http: bool,
    /// Ports that are allowed; none means all.
    pub ports: Vec<u16>,
    /// Networks that are allowed although they are not public.
    pub allow: Vec<IpNet>,
}

impl OutwardPolicy {
    /// Whether messages may go to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        address::is_allowed(address, &self.allow)
    }
}

/// Why a text is no place for messages. The text says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Too long.
    #[error("must have at most {TARGET_BYTES_MAX} characters")]
    Length,
    /// A character that a URL writes as `%XX`, or `%` without two digits.
    #[error("holds characters that a URL must write as %XX")]
    Characters,
    /// No URL at all.
    #[error("is no URL: {0}")]
    Syntax(String),
    /// Another scheme.
    #[error("must begin with {}", if *.allow_http { "https:// or http://" } else { "https://" })]
    Scheme {
        /// Whether plain HTTP would do.
        allow_http: bool,
    },
    /// A user name or a password.
    #[error("must hold no user name and no password")]
    UserInfo,
    /// `#...`, which is never sent.
    #[error("must have no fragment")]
    Fragment,
    /// A port that is not allowed.
    #[error("has port {found}; allowed is {}", .allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Port {
        /// The port.
        found: u16,
        /// Those that are.
        allowed: Vec<u16>,
    },
    /// The address is not public.
    #[error("leads to an address that is not of the public Internet")]
    Address,
}

/// A checked place. A name in it may still lead anywhere: that is seen when it is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutwardTarget {
    url: Url,
    place: String,
}

impl OutwardTarget {
    /// Checks a text.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn parse(text: &str, policy: &OutwardPolicy) -> Result<Self, TargetError> {
        if text.len() > TARGET_BYTES_MAX {
            return Err(TargetError::Length);
        }
        let scheme = TargetError::Scheme { allow_http: policy.allow_http };
        let is_taken = text.starts_with("https://") || (policy.allow_http && text.starts_with("http://"));
        if !is_taken {
            return Err(scheme);
        }
        if !has_url_characters(text) {
            return Err(TargetError::Characters);
        }
        let url = Url::parse(text).map_err(|error| TargetError::Syntax(error.to_string()))?;
        if !url.username().is_empty() || url.password().is_some() || authority(text).contains('@') {
            return Err(TargetError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(TargetError::Fragment);
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(TargetError::Syntax("there is no host".to_owned()));
        };
        if port == 0 || !(policy.ports.is_empty() || policy.ports.contains(&port)) {
            return Err(TargetError::Port { found: port, allowed: policy.ports.clone() });
        }
        let place = format!("{host}:{port}");
        let target = Self { url, place };
        if target.address().is_some_and(|address| !policy.allows(address)) {
            return Err(TargetError::Address);
        }
        Ok(target)
    }

    /// Host and port, in one spelling: what limits count by.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The address, where the host is one and no name: then nobody is asked for it.
    pub(super) fn address(&self) -> Option<IpAddr> {
        if self.url.domain().is_some() {
            return None;
        }
        self.url.host_str()?.trim_matches(['[', ']']).parse().ok()
    }
}

/// What stands between `//` and the path.
fn authority(text: &str) -> &str {
    let rest = text.split_once("//").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The characters of RFC 3986, each escape whole. Parsers of browsers mend everything else, each in a way of its own.
fn has_url_characters(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#@!$&'()*+,;=".contains(&byte);
    let bytes = text.as_bytes();
    let path_at = text.find("//").map_or(0, |at| at + 2) + authority(text).len();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        // Around an IPv6 address alone.
        b'[' | b']' => at < path_at,
        byte => plain(*byte),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str, policy: &OutwardPolicy) -> TargetError {
        OutwardTarget::parse(text, policy).expect_err(text)
    }

    #[test]
    fn a_place_is_https_and_public() {
        let policy = OutwardPolicy::default();
        for (text, place) in [
            ("https://example.com", "example.com:443"),
            ("https://EXAMPLE.com/hook?a=b%20c", "example.com:443"),
            ("https://example.com:8443/@me", "example.com:8443"),
            ("https://8.8.8.8/", "8.8.8.8:443"),
            ("https://[2606:4700::1111]/", "[2606:4700::1111]:443"),
        ] {
            assert_eq!(OutwardTarget::parse(text, &policy).expect(text).place(), place);
        }
        for text in
            ["http://example.com", "ftp://example.com", "example.com", "", "HTTPS://example.com", "https:/x"]
        {
            assert_eq!(refused(text, &policy), TargetError::Scheme { allow_http: false }, "{text}");
        }
        for text in [
            "https://",
            "https://:443/",
            "https://?x",
            "https://[::1",
            "https://exa%00mple.com",
            "https://a:99999/",
        ] {
            assert!(matches!(refused(text, &policy), TargetError::Syntax(_)), "{text}");
        }
        for text in [
            "https://a@example.com",
            "https://a:b@example.com/",
            "https://@example.com/",
            "https://:@example.com",
        ] {
            assert_eq!(refused(text, &policy), TargetError::UserInfo, "{text}");
        }
        for text in [
            "https://example.com/a b",
            "https://example.com/%zz",
            "https://example.com/\\..",
            "https://é.com",
            "https://example.com/[x]",
            "https://example.com/%4",
        ] {
            assert_eq!(refused(text, &policy), TargetError::Characters, "{text}");
        }
        assert_eq!(refused("https://example.com/#x", &policy), TargetError::Fragment);
        let long = format!("https://example.com/{}", "x".repeat(TARGET_BYTES_MAX));
        assert_eq!(refused(&long, &policy), TargetError::Length);
    }

    #[test]
    fn every_spelling_of_an_address_is_seen_through() {
        let policy = OutwardPolicy::default();
        for host in [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "127.0.0.1.",
            "10.0.0.1",
            "169.254.169.254",
            "0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[fe80::1]",
            "%31%32%37.0.0.1",
        ] {
            assert_eq!(refused(&format!("https://{host}/"), &policy), TargetError::Address, "{host}");
        }
    }

    #[test]
    fn an_operator_may_allow_plain_http_ports_and_networks() {
        let policy = OutwardPolicy {
            allow_http: true,
            ports: vec![443, 8080],
            allow: vec!["127.0.0.0/8".parse().expect("a network")],
        };
        assert!(OutwardTarget::parse("http://127.0.0.1:8080/", &policy).is_ok());
        let refusal = refused("http://127.0.0.1/", &policy);
        assert_eq!(refusal.to_string(), "has port 80; allowed is 443, 8080");
        assert_eq!(refused("http://10.0.0.1:8080/", &policy), TargetError::Address);
        assert_eq!(refused("ws://127.0.0.1:8080/", &policy), TargetError::Scheme { allow_http: true });
        let any_port = OutwardPolicy { ports: Vec::new(), ..policy };
        assert!(matches!(refused("http://127.0.0.1:0/", &any_port), TargetError::Port { found: 0, .. }));
    }
}
