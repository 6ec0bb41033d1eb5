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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::config::parse;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        overrides: Overrides,
    }

    const FILE: &str = "network: {data_bind: \"127.0.0.1:1\"}\ncontrol: {socket: /file/c}\nstate_dir: /file/s\n\
                        workers: {a: {cmd: [x]}}\n";

    fn applied(flags: &[&str]) -> Config {
        let mut config = parse(FILE, "herd.yaml").expect("valid");
        let line = Line::try_parse_from([&["herd"], flags].concat()).expect("valid flags");
        line.overrides.apply(&mut config);
        config
    }

    #[test]
    fn a_flag_wins_over_the_file_and_nothing_else_changes() {
        let config = applied(&[
            "--data-bind",
            "0.0.0.0:2",
            "--control-socket",
            "/flag/c",
            "--state-dir",
            "/flag/s",
        ]);
        assert_eq!(config.network.data_bind.to_string(), "0.0.0.0:2");
        assert_eq!(config.control_socket.as_deref(), Some("/flag/c".as_ref()));
        assert_eq!(config.state_dir.as_deref(), Some("/flag/s".as_ref()));

        let config = applied(&["--state-dir", "/flag/s"]);
        assert_eq!(config.network.data_bind.to_string(), "127.0.0.1:1");
        assert_eq!(config.control_socket.as_deref(), Some("/file/c".as_ref()));
    }

    #[test]
    fn every_override_has_its_documented_variable() {
        let command = Line::command();
        let variables: Vec<(&str, String)> = command
            .get_arguments()
            .filter_map(|arg| Some((arg.get_long()?, arg.get_env()?.to_string_lossy().into_owned())))
            .collect();
        let expected = [
            ("config", "HERD_CONFIG"),
            ("data-bind", "HERD_DATA_BIND"),
            ("control-socket", "HERD_CONTROL_SOCKET"),
            ("state-dir", "HERD_STATE_DIR"),
        ];
        assert_eq!(
            variables,
            expected.map(|(flag, variable)| (flag, variable.to_owned()))
        );
    }

    #[test]
    fn a_wrong_flag_is_told_what_to_write_instead() {
        let error = Line::try_parse_from(["herd", "--data-bind", "8080"])
            .expect_err("refused")
            .to_string();
        assert!(error.contains("is only a port; write 127.0.0.1:8080"), "{error}");
    }
}
