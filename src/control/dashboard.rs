//! The dashboard: one page and its files, built into herd. They tell nothing of this herd, so they are served to whoever
//! can connect; what the page shows it asks of the API, with a key where one is needed.

use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};
use http::{HeaderName, HeaderValue};

use super::answer::{self, Answer, Problem};

/// Nothing but what herd serves itself, and no way for text to become script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; frame-ancestors 'none'; form-action 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

static OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
static RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

struct File {
    name: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const PAGE: &str = include_str!("dashboard/index.html");

macro_rules! script {
    ($name:literal) => {
        File {
            name: $name,
            content_type: "text/javascript; charset=utf-8",
            text: include_str!(concat!("dashboard/", $name)),
        }
    };
}

const FILES: &[File] = &[
    File {
        name: "style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("dashboard/style.css"),
    },
    script!("api.js"),
    script!("detail.js"),
    script!("grid.js"),
    script!("kinds.js"),
    script!("live.js"),
    script!("main.js"),
    script!("model.js"),
    script!("words.js"),
];

/// `GET /`
pub(super) fn page() -> Answer {
    guarded(answer::file("text/html; charset=utf-8", PAGE))
}

/// `GET /dashboard/{file}`
pub(super) fn file(name: &str) -> Result<Answer, Problem> {
    FILES
        .iter()
        .find(|file| file.name == name)
        .map(|file| guarded(answer::file(file.content_type, file.text)))
        .ok_or_else(|| Problem::not_found(&format!("/dashboard/{name}")))
}

fn guarded(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    for (name, value) in [
        (&CONTENT_SECURITY_POLICY, POLICY),
        (&X_FRAME_OPTIONS, "DENY"),
        (&REFERRER_POLICY, "no-referrer"),
        (&OPENER_POLICY, "same-origin"),
        (&RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_disk() -> Vec<String> {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/dashboard");
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_file_of_the_dashboard_is_served() {
        let mut served: Vec<&str> = FILES.iter().map(|file| file.name).collect();
        served.sort_unstable();
        assert_eq!(served, on_disk());
    }

    #[test]
    fn what_the_page_and_its_scripts_load_is_there() {
        let mut seen = 0;
        for text in FILES.iter().map(|file| file.text).chain([PAGE]) {
            for part in text
                .split("from \"./")
                .skip(1)
                .chain(text.split("\"dashboard/").skip(1))
            {
                let name = part.split('"').next().unwrap();
                assert!(FILES.iter().any(|file| file.name == name), "{name}");
                seen += 1;
            }
        }
        assert!(seen > 8, "only {seen} references seen");
    }

    #[test]
    fn no_script_makes_markup_of_text() {
        for File { name, text, .. } in FILES {
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "setHTML",
                "DOMParser",
                "createContextualFragment",
            ] {
                assert!(!text.contains(sink), "{name} has {sink}");
            }
        }
        for attribute in [" onclick", " onload", " style=", "javascript:", "<script>"] {
            assert!(!PAGE.contains(attribute), "the page has {attribute}");
        }
    }
}
