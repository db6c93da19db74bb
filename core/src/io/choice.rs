//! Which backend is asked for, and which one a reactor got.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::SetupError;

/// Environment variable that chooses for reactors whose configuration does not:
/// [`ReactorConfig::io`](crate::ReactorConfig::io) left at `None`.
pub const IO_VARIABLE: &str = "SLUICE_IO";

/// Which I/O backend a reactor is asked to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoChoice {
    /// io_uring; where the host does not allow it, epoll, with one line in the
    /// log of the process that says why.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll with `recvmmsg` and `sendmmsg`.
    Epoll,
}

/// The I/O backend a reactor works with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoBackend {
    /// io_uring.
    Uring,
    /// epoll with `recvmmsg` and `sendmmsg`.
    Epoll,
}

/// A text that names no backend.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no I/O backend; there are auto, uring and epoll")]
pub struct UnknownIo(String);

impl IoChoice {
    /// What the environment variable [`IO_VARIABLE`] asks for; `Auto` when it is
    /// not set or empty.
    ///
    /// # Errors
    /// It is set to something else.
    pub fn from_environment() -> Result<Self, UnknownIo> {
        match std::env::var_os(IO_VARIABLE) {
            Some(text) if !text.is_empty() => text.to_string_lossy().parse(),
            _ => Ok(Self::Auto),
        }
    }

    /// As it is written in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

impl FromStr for IoChoice {
    type Err = UnknownIo;

    fn from_str(text: &str) -> Result<Self, UnknownIo> {
        [Self::Auto, Self::Uring, Self::Epoll]
            .into_iter()
            .find(|choice| choice.as_str() == text)
            .ok_or_else(|| UnknownIo(text.to_owned()))
    }
}

impl fmt::Display for IoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for IoBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        })
    }
}

/// Says once in the life of the process that io_uring was refused; every core is
/// refused for the same reason.
pub(super) fn note_fallback(reason: &SetupError) {
    static NOTED: AtomicBool = AtomicBool::new(false);
    if NOTED.swap(true, Ordering::Relaxed) {
        tracing::debug!(%reason, "io_uring refused again; this core uses epoll, too");
    } else {
        tracing::warn!("using epoll: {reason}; to silence this, ask for epoll");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_read_as_it_is_written() {
        for choice in [IoChoice::Auto, IoChoice::Uring, IoChoice::Epoll] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
    }

    #[test]
    fn what_names_no_backend_is_refused_with_the_list() {
        let error = "kqueue".parse::<IoChoice>().unwrap_err();
        assert_eq!(error.to_string(), "\"kqueue\" is no I/O backend; there are auto, uring and epoll");
        assert!("".parse::<IoChoice>().is_err());
    }
}
