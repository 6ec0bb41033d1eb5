//! What a user of herd.yaml meets: values, defaults, and the text of every mistake.

mod mistakes;
mod shaken;
mod values;
mod wording;

use super::*;

const ISSUE: &str = r#"workers:
  browser:
    cmd: ["npx", "playwright", "run-server", "--port", "{{.Port}}"]
    min: 1
    max: 5
    ttl: "15m"
    reuse: false
    health_path: "/"
"#;

fn good(text: &str) -> Config {
    parse(text, "herd.yaml").unwrap_or_else(|problems| panic!("should be valid:\n{problems}"))
}

/// The headlines of every problem, without source lines.
fn bad(text: &str) -> Vec<String> {
    let problems = parse(text, "herd.yaml")
        .map(|_| ())
        .expect_err("should be refused");
    let headline = |p: &Problem| {
        let separator = if p.path.is_empty() { "" } else { ": " };
        format!("{}:{}: {}{separator}{}", p.line, p.column, p.path, p.message)
    };
    problems.list.iter().map(headline).collect()
}

/// A kind `a` with these lines, each indented by four; they start on line 4.
fn kind(lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("workers:\n  a:\n    cmd: [x]\n{lines}")
}

/// Each text with the one headline it gets.
fn each_is_refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(bad(text), [*expected], "for\n{text}");
    }
}

/// Each setting of a kind with the one headline it gets.
fn each_setting_is_refused(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        assert_eq!(bad(&kind(lines)), [*expected], "for\n{lines}");
    }
}
