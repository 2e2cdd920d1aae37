//! Addresses the sidecar listens on.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where the sidecar listens: a unix socket, or loopback TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// `unix:/path`; the socket is made with mode 0600.
    Unix(PathBuf),
    /// A loopback address. Port 0 takes a free one.
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    /// Reads `unix:/path` or `address:port`.
    ///
    /// # Errors
    /// A text that says what is accepted; also for an address that is not loopback, because there is neither TLS nor a token to protect it.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(format!("`{text}` needs an absolute path, such as `unix:/run/pillion/pillion.sock`"))
            };
        }
        let text = text.strip_prefix("http://").unwrap_or(text);
        let address = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        let address = address
            .parse::<SocketAddr>()
            .map_err(|_| format!("`{text}` is no address to listen on; write `unix:/path` or `127.0.0.1:port`"))?;
        loopback(address).map(Self::Tcp)
    }
}

/// Refuses an address that other machines can reach.
pub(super) fn loopback(address: SocketAddr) -> Result<SocketAddr, String> {
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!(
            "`{address}` can be reached from other machines, and the sidecar has no TLS or token to protect it; use a loopback address or a unix socket"
        ))
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        for text in ["unix:/run/p.sock", "127.0.0.1:7070", "[::1]:0"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/p.sock".parse::<Listen>(), Ok(Listen::Unix("/run/p.sock".into())));
        assert_eq!("localhost:7070".parse::<Listen>().unwrap().to_string(), "127.0.0.1:7070");
    }

    #[test]
    fn refuses_what_others_can_reach() {
        for text in ["0.0.0.0:7070", "[::]:7070", "192.0.2.1:7070"] {
            assert!(text.parse::<Listen>().unwrap_err().contains("other machines"), "{text}");
        }
        for text in ["", "7070", "unix:", "unix:relative.sock", "example:7070"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
