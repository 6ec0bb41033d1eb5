//! The first line of a script.

use std::path::PathBuf;

/// What runs a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub(super) path: PathBuf,
    /// The program that `env` looks up in PATH.
    pub(super) looked_up: Option<String>,
}

/// Reads `#!…` as execve(2) does; `None` if `head` starts no script.
pub(super) fn interpreter(head: &[u8]) -> Option<Interpreter> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let (path, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if !path.starts_with('/') {
        return None;
    }
    let path = PathBuf::from(path);
    let is_env = path.file_name().is_some_and(|name| name == "env");
    let looked_up = is_env.then(|| looked_up(rest.trim())).flatten();
    Some(Interpreter { path, looked_up })
}

/// The program in the arguments of env(1), past its options and assignments.
fn looked_up(arguments: &str) -> Option<String> {
    // The kernel hands over everything as one argument, so words matter only after -S.
    let words = match arguments.strip_prefix("--split-string") {
        Some(rest) => rest.trim_start_matches('='),
        None => match arguments.split_once("-S") {
            Some((options, rest)) if options.chars().all(|c| "-iv".contains(c)) => rest,
            _ => arguments,
        },
    };
    let mut words = words.split_whitespace();
    words
        .find(|word| !word.starts_with('-') && !word.contains('='))
        .map(|word| word.trim_matches(['"', '\'']).to_owned())
}

/// The version manager whose stand-in for a program this script is, if it is one: it runs whatever that
/// manager chooses at the time, and nothing of it can be known from the script.
pub(super) fn shim(text: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(text);
    [
        ("pyenv", "/pyenv\" exec \""),
        ("rbenv", "/rbenv\" exec \""),
        ("nodenv", "/nodenv\" exec \""),
        ("asdf", "asdf exec "),
    ]
    .into_iter()
    .find_map(|(manager, mark)| text.contains(mark).then_some(manager))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (String, Option<String>) {
        let found = interpreter(line.as_bytes()).unwrap();
        (found.path.display().to_string(), found.looked_up)
    }

    #[test]
    fn the_first_line_is_read_as_the_kernel_does() {
        assert_eq!(read("#!/bin/sh\necho"), ("/bin/sh".into(), None));
        assert_eq!(read("#! /bin/sh -e\r\n"), ("/bin/sh".into(), None));
        assert_eq!(
            read("#!/usr/bin/env python3\n"),
            ("/usr/bin/env".into(), Some("python3".into()))
        );
        for split in [
            "-S node --flag x",
            "-iS node",
            "--split-string=node -x",
            "-S A=b node",
        ] {
            let line = format!("#!/usr/bin/env {split}\n");
            assert_eq!(
                read(&line),
                ("/usr/bin/env".into(), Some("node".into())),
                "{line}"
            );
        }
    }

    #[test]
    fn anything_else_is_no_script() {
        for head in ["", "#", "#!\n", "#!relative\n", "\u{7f}ELF", "import os"] {
            assert_eq!(interpreter(head.as_bytes()), None, "{head:?}");
        }
    }

    #[test]
    fn stand_ins_of_version_managers_are_recognised() {
        let text = "#!/usr/bin/env bash\nexec \"/home/me/.pyenv/libexec/pyenv\" exec \"$program\" \"$@\"\n";
        assert_eq!(shim(text.as_bytes()), Some("pyenv"));
        assert_eq!(shim(b"#!/bin/sh\nexec real \"$@\"\n"), None);
    }
}
