//! What can go wrong with the node's network.

use std::io;

/// Why the network is not as the plan wants it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not change the machine's network.
    #[error("the network needs {capability}: run as root, or give the program that capability")]
    Privilege {
        /// `CAP_NET_ADMIN` or `CAP_SYS_ADMIN`.
        capability: &'static str,
    },
    /// A tool is not installed.
    #[error("{tool} is not installed: apt-get install {package}")]
    ToolMissing {
        /// Program name.
        tool: &'static str,
        /// Debian package that has it.
        package: &'static str,
    },
    /// A tool failed; its own words are in `message`.
    #[error("{command} failed: {message}")]
    Tool {
        /// What was run.
        command: String,
        /// Its standard error.
        message: String,
    },
    /// The configuration cannot work.
    #[error("the network configuration is wrong: {0}")]
    Config(String),
    /// The plan contradicts itself or names something that the kernel cannot hold.
    #[error("the network plan is wrong: {0}")]
    Plan(String),
    /// The VPC or the interface is not in the plan that was applied last.
    #[error("{0} is not in the applied network plan")]
    NotInPlan(String),
    /// Another process holds the interface's tap.
    #[error("the tap of {0} is held by another process")]
    TapBusy(String),
    /// A system call failed.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        matches!(self, Error::Tool { .. } | Error::TapBusy(_) | Error::Io { .. })
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let action = action.into();
        move |source| Error::Io { action, source }
    }
}
