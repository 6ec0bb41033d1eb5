//! Lists, metrics, pressure, readiness, drains.

use super::*;

fn ids(list: &Value) -> Vec<&str> {
    let sessions = list["sessions"].as_array().unwrap();
    sessions
        .iter()
        .map(|session| session["id"].as_str().unwrap())
        .collect()
}

#[test]
fn lists_are_filtered_and_come_in_pages() {
    local(async {
        let herd = start();
        let _a = herd.hold("/v1/sessions/a/hold?worker=browser").await;
        let _b = herd.hold("/v1/sessions/b/hold?worker=shell").await;
        let _c = herd.send("GET", "/v1/sessions/c/hold?worker=shell", "").await;
        herd.until("c", "queued").await;
        assert_eq!(
            ids(&herd.json("GET", "/v1/sessions?worker=shell").await),
            ["b", "c"]
        );
        assert_eq!(
            ids(&herd.json("GET", "/v1/sessions?state=queued,ended").await),
            ["c"]
        );
        let list = herd.json("GET", "/v1/sessions?limit=2").await;
        assert_eq!(ids(&list), ["a", "b"]);
        let next = list["next"].as_str().unwrap();
        let list = herd
            .json("GET", &format!("/v1/sessions?limit=2&after={next}"))
            .await;
        assert_eq!((ids(&list), &list["next"]), (vec!["c"], &Value::Null));
        // Whoever asks until there is no `next` would ask for ever.
        let (_, body) = herd.ask("GET", "/v1/sessions?limit=0").await;
        assert!(body.contains("limit is a number from 1 to 10000"), "{body}");
        let (_, body) = herd.ask("GET", "/v1/sessions?worker=shall").await;
        assert!(body.contains("there is browser, shell"), "{body}");
        let (_, body) = herd.ask("GET", "/v1/sessions?state=alive").await;
        assert!(
            body.contains("state is one or more of queued, starting, bound, ending, ended"),
            "{body}"
        );
    });
}

#[test]
fn pools_are_shown_with_what_presses_on_them() {
    local(async {
        let herd = start();
        let _a = herd.hold("/v1/sessions/a/hold").await;
        let _b = herd.send("GET", "/v1/sessions/b/hold", "").await;
        herd.until("b", "queued").await;
        let pool = herd.json("GET", "/v1/workers/browser").await;
        assert_eq!((&pool["bound"], &pool["queued"]), (&1.into(), &1.into()));
        assert!(pool["longest_wait_ms"].is_u64(), "{pool}");
        let pressure = herd.json("GET", "/v1/pressure").await;
        assert_eq!(pressure["workers"][0]["available"], 0, "{pressure}");
        assert_eq!(pressure["workers"][1]["available"], 1, "{pressure}");
        assert!(
            pressure["host"]["memory_available_bytes"].as_u64().unwrap() > 0,
            "{pressure}"
        );
        let (head, _) = herd.ask("GET", "/v1/workers/x").await;
        assert!(head.contains("x-herd-error: unknown_worker"), "{head}");
    });
}

#[test]
fn metrics_count_what_happened() {
    local(async {
        let herd = start();
        herd.ask("PUT", "/v1/sessions/a").await;
        let refuse = "content-type: application/json\r\n";
        herd.ask_with("PUT", "/v1/sessions/b", refuse, r#"{"wait":"refuse"}"#)
            .await;
        let hold = herd.hold("/v1/sessions/c/hold?worker=shell").await;
        drop(hold);
        herd.until("c", "ended").await;
        let (head, text) = herd.ask("GET", "/metrics").await;
        assert!(
            head.contains("content-type: application/openmetrics-text"),
            "{head}"
        );
        for line in [
            r#"herd_sessions{worker="browser",state="bound"} 1"#,
            r#"herd_sessions{worker="shell",state="bound"} 0"#,
            r#"herd_workers{worker="browser",state="bound"} 1"#,
            r#"herd_rejections_total{worker="browser",reason="at_capacity"} 1"#,
            r#"herd_sessions_ended_total{worker="shell",reason="disconnected"} 1"#,
            r#"herd_disconnect_to_dead_seconds_count{worker="shell"} 1"#,
            r#"herd_worker_start_duration_seconds_count{worker="shell",path="cold"} 1"#,
            r#"herd_worker_crashes_total{worker="shell"} 0"#,
            r#"herd_worker_start_failures_total{worker="shell",reason="exec"} 0"#,
            "# UNIT herd_session_duration_seconds seconds",
            "process_open_fds ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
        let page = include_str!("../../../docs/api.md");
        for line in text.lines().filter(|line| line.starts_with("# TYPE herd_")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(page.contains(&format!("`{name}")), "{name} is not in docs/api.md");
        }
    });
}

/// Metrics that Grafana's dashboard does without, and why.
const NOT_ON_THE_DASHBOARD: [(&str, &str); 1] = [(
    "herd_config_last_reload_success_timestamp_seconds",
    "the line of herd_config_generation rises at that moment",
)];

#[test]
fn grafanas_dashboard_shows_every_metric_and_asks_for_no_other() {
    let page = include_str!("../../../docs/api.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `herd_"));
    let metrics: std::collections::BTreeSet<String> = rows
        .filter(|row| {
            ["| gauge |", "| counter |", "| histogram |"]
                .iter()
                .any(|of| row.contains(of))
        })
        .map(|row| format!("herd_{}", row.split('`').next().unwrap()))
        .collect();
    assert!(metrics.len() > 20, "{metrics:?}");

    let dashboard = include_str!("../../../examples/grafana/herd.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap());
    // The variables ask for some as well.
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let variables = variables
        .iter()
        .filter_map(|variable| variable["definition"].as_str());
    let mut shown = std::collections::BTreeSet::new();
    for query in queries.chain(variables) {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("herd_")) {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(metrics.contains(name), "{name} is not in docs/api.md: {query}");
            shown.insert(name.to_owned());
        }
    }
    let left_out = NOT_ON_THE_DASHBOARD.map(|(name, _)| name.to_owned());
    assert_eq!(&shown | &left_out.into(), metrics);
    let also_shown = NOT_ON_THE_DASHBOARD
        .iter()
        .find(|(name, _)| shown.contains(*name));
    assert_eq!(also_shown, None, "is said to be left out");
    let ids: std::collections::BTreeSet<u64> =
        panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels of one id");
}

#[test]
fn a_drain_refuses_new_sessions_and_ends_herd_when_the_last_has_ended() {
    local(async {
        let mut herd = start();
        let ready = herd.json("GET", "/readyz").await;
        assert_eq!(ready["ready"], true, "{ready}");
        let hold = herd.hold("/v1/sessions/a/hold").await;
        let (head, body) = herd.ask("POST", "/v1/drain").await;
        assert!(head.starts_with("HTTP/1.1 202"), "{head}");
        assert!(body.contains(r#""bound":1"#), "{body}");
        let (head, _) = herd.ask("GET", "/readyz").await;
        assert!(head.starts_with("HTTP/1.1 503"), "{head}");
        let (head, _) = herd.ask("PUT", "/v1/sessions/b").await;
        assert!(head.contains("x-herd-error: draining"), "{head}");
        // Once more does nothing.
        herd.ask("POST", "/v1/drain").await;
        drop(hold);
        within("the end of the driver", herd.tasks.join_next())
            .await
            .unwrap()
            .unwrap();
    });
}

#[test]
fn a_head_is_a_get_without_its_body() {
    local(async {
        let herd = start();
        let (head, body) = herd.ask("HEAD", "/v1/version").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(body, "");
        let version = herd.json("GET", "/v1/version").await;
        assert_eq!(version["pid"], std::process::id());
    });
}
