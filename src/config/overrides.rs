//! What the command line and the environment say over the file: flag > `HERD_*` variable > file >
//! default. clap puts the flag before the variable; [`Overrides::apply`] puts both before the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::model::Config;
use super::text::{Address, Directory, FromText, SocketPath};

/// Which file to read.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigFile {
    /// The configuration file
    #[arg(
        long = "config",
        env = "HERD_CONFIG",
        value_name = "FILE",
        default_value = "herd.yaml"
    )]
    pub path: PathBuf,
}

/// Flags and variables that win over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Address of the data plane, instead of network.data_bind
    #[arg(long, env = "HERD_DATA_BIND", value_name = "IP:PORT", value_parser = data_bind)]
    pub data_bind: Option<SocketAddr>,
    /// Socket of the control plane, instead of control.socket
    #[arg(long, env = "HERD_CONTROL_SOCKET", value_name = "PATH", value_parser = control_socket)]
    pub control_socket: Option<PathBuf>,
    /// Directory for workers' directories and sockets, instead of state_dir
    #[arg(long, env = "HERD_STATE_DIR", value_name = "DIR", value_parser = state_dir)]
    pub state_dir: Option<PathBuf>,
}

impl Overrides {
    pub fn apply(self, config: &mut Config) {
        if let Some(address) = self.data_bind {
            config.network.data_bind = address;
        }
        if let Some(path) = self.control_socket {
            config.control_socket = Some(path);
        }
        if let Some(path) = self.state_dir {
            config.state_dir = Some(path);
        }
    }
}

fn data_bind(text: &str) -> Result<SocketAddr, String> {
    Address::from_text(text).map(|address| address.0)
}

fn control_socket(text: &str) -> Result<PathBuf, String> {
    SocketPath::from_text(text).map(|path| path.0)
}

fn state_dir(text: &str) -> Result<PathBuf, String> {
    Directory::from_text(text).map(|path| path.0)
}
