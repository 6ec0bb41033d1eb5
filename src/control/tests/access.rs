//! Sessions of principals, and tokens for them.

use super::creating::{JSON, parse, status};
use super::*;

fn with_auth() -> Herd {
    start_with(&auth())
}

fn auth() -> String {
    let sha256 = |key: &str| data_encoding::HEXLOWER.encode(&crate::access::keys::digest_of(key));
    format!(
        "auth:\n  keys:\n    alice: {{sha256: {}, sessions: 1}}\n    bob: {{sha256: {}, workers: [shell]}}\n",
        sha256("herd_alice_0123456789"),
        sha256("herd_bob_0123456789")
    )
}

#[test]
fn two_principals_sessions_of_one_id_are_made_found_and_stopped_apart() {
    local(async {
        let herd = with_auth();
        let (head, body) = herd.ask("PUT", "/v1/sessions/a?principal=alice").await;
        assert_eq!(status(&head), "201", "{head}\n{body}");
        assert!(
            head.contains("location: /v1/sessions/a?principal=alice\r\n"),
            "{head}"
        );
        let session = parse(&body);
        assert_eq!(
            (&session["id"], &session["principal"]),
            (&"a".into(), &"alice".into())
        );
        let (head, _) = herd
            .ask_with(
                "PUT",
                "/v1/sessions/a?principal=bob",
                JSON,
                r#"{"worker":"browser"}"#,
            )
            .await;
        assert!(head.contains("x-herd-error: worker_not_allowed"), "{head}");
        // Without a word about it, the first kind that bob may use.
        let (head, _) = herd.ask("PUT", "/v1/sessions/a?principal=bob").await;
        assert_eq!(status(&head), "201", "{head}");

        let list = herd.json("GET", "/v1/sessions").await;
        assert_eq!(list["sessions"].as_array().unwrap().len(), 2, "{list}");
        let list = herd.json("GET", "/v1/sessions?principal=bob").await;
        assert_eq!(list["sessions"].as_array().unwrap().len(), 1, "{list}");
        assert_eq!(list["sessions"][0]["kind"], "shell");
        for (method, path) in [
            ("GET", "a"),
            ("DELETE", "a"),
            ("GET", "a/logs"),
            ("GET", "a/logs?generation=1"),
        ] {
            let (head, body) = herd.ask(method, &format!("/v1/sessions/{path}")).await;
            assert_eq!(status(&head), "409", "nobody's {path}: {head}");
            assert!(head.contains("x-herd-error: principal_required"), "{head}");
            assert!(body.contains("add ?principal=NAME"), "{body}");
        }
        let mut nobodys = herd
            .send("GET", "/v1/sessions/a/exec?command=id", exec::HANDSHAKE)
            .await;
        let refused = read_until(&mut nobodys, "}\n").await;
        assert!(refused.contains("x-herd-error: principal_required"), "{refused}");
        let (head, _) = herd.ask("GET", "/v1/sessions/b?principal=bob").await;
        assert!(head.contains("x-herd-error: unknown_session"), "{head}");

        let (_, metrics) = herd.ask("GET", "/metrics").await;
        for line in [
            "herd_principal_sessions{principal=\"alice\"} 1\n",
            "herd_principal_sessions{principal=\"bob\"} 1\n",
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
        let report = herd.json("DELETE", "/v1/sessions/a?principal=alice").await;
        assert_eq!(
            (&report["id"], &report["principal"]),
            (&"a".into(), &"alice".into())
        );
        let bobs = herd.json("GET", "/v1/sessions/a?principal=bob").await;
        assert_eq!(bobs["state"], "bound", "{bobs}");
        let (_, events) = herd
            .ask("GET", "/v1/events?replay=100&follow=false&session=alice/a")
            .await;
        assert!(
            events.contains("session.ended") && events.contains("control.stop"),
            "{events}"
        );
        assert!(!events.contains("bob/a"), "{events}");
    });
}

#[test]
fn a_session_of_the_time_before_auth_is_found_by_the_name_it_had() {
    use crate::control::former::tests::{burial, kept};
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let herd = start_after(kept(dir.path(), vec![burial("old", 7)]), &auth());
        let shown = herd.json("GET", "/v1/sessions/old").await;
        assert_eq!(
            (&shown["state"], &shown["generation"]),
            (&"ended".into(), &7.into())
        );
        let (head, body) = herd.ask("GET", "/v1/sessions/old/logs").await;
        assert!(
            status(&head) == "200" && body.contains("farewell"),
            "{head}\n{body}"
        );
        let (head, _) = herd.ask("DELETE", "/v1/sessions/old").await;
        assert!(head.contains("x-herd-error: unknown_session"), "{head}");
        let (head, body) = herd.ask("GET", "/v1/sessions/old/logs?generation=8").await;
        assert!(head.contains("x-herd-error: unknown_session"), "{head}");
        assert!(body.contains("session old has no generation 8; "), "{body}");
        let (head, _) = herd.ask("PUT", "/v1/sessions/old").await;
        assert!(head.contains("x-herd-error: principal_required"), "{head}");
    });
}

#[test]
fn with_auth_a_new_session_is_somebodys_and_without_it_nobodys() {
    local(async {
        let herd = with_auth();
        for (method, path) in [
            ("PUT", "/v1/sessions/a"),
            ("POST", "/v1/sessions"),
            ("GET", "/v1/sessions/a/hold"),
            ("POST", "/v1/sessions/a/token"),
        ] {
            let (head, _) = herd.ask(method, path).await;
            assert!(
                head.contains("x-herd-error: principal_required"),
                "{path}: {head}"
            );
            let (head, body) = herd.ask(method, &format!("{path}?principal=carol")).await;
            assert_eq!(status(&head), "404", "{path}: {head}");
            assert!(body.contains("herd.yaml has no auth.keys.carol"), "{body}");
        }
        let (head, _) = herd.ask("PUT", "/v1/sessions/a?principal=Al%20ice").await;
        assert_eq!(status(&head), "400", "{head}");
        drop(herd);

        let herd = start();
        let (head, _) = herd.ask("PUT", "/v1/sessions/a?principal=alice").await;
        assert!(head.contains("x-herd-error: unknown_principal"), "{head}");
        let (head, _) = herd.ask("POST", "/v1/sessions/a/token").await;
        assert!(head.contains("x-herd-error: no_auth"), "{head}");
    });
}

#[test]
fn a_quota_holds_for_the_api_too_and_a_minted_session_counts() {
    local(async {
        let herd = with_auth();
        let (head, body) = herd.ask("POST", "/v1/sessions?principal=alice").await;
        assert_eq!(status(&head), "201", "{head}\n{body}");
        let (head, body) = herd.ask("PUT", "/v1/sessions/b?principal=alice").await;
        assert_eq!(status(&head), "429", "{head}");
        assert!(
            head.contains("x-herd-error: quota_exceeded") && head.contains("retry-after: 1"),
            "{head}"
        );
        assert!(body.contains("so many sessions at a time: 1"), "{body}");
    });
}

#[test]
fn sessions_that_the_api_makes_count_against_the_rate_and_those_that_it_finds_do_not() {
    local(async {
        let sha256 = data_encoding::HEXLOWER.encode(&crate::access::keys::digest_of("herd_alice_0123456789"));
        let herd = start_with(&format!(
            "auth: {{keys: {{alice: {{sha256: {sha256}, session_rate: 2/h, session_burst: 2}}}}}}\n"
        ));
        let (put, shell) = ("/v1/sessions/a?principal=alice", r#"{"worker":"shell"}"#);
        for (method, path, body, expected) in [
            ("PUT", put, "", "201"),
            ("PUT", put, "", "200"),
            ("POST", "/v1/sessions?principal=alice", shell, "201"),
            ("PUT", put, "", "200"),
            ("POST", "/v1/sessions?principal=alice", "", "429"),
            ("PUT", "/v1/sessions/b?principal=alice", "", "429"),
            ("GET", "/v1/sessions/b/hold?principal=alice", "", "429"),
        ] {
            let (head, body) = herd.ask_with(method, path, JSON, body).await;
            assert_eq!(status(&head), expected, "{method} {path}: {head}\n{body}");
            if expected == "429" {
                assert!(head.contains("x-herd-error: quota_exceeded"), "{head}");
                assert!(body.contains("used up its rate of new sessions"), "{body}");
                let wait = head.split("retry-after: ").nth(1).unwrap();
                let wait: u64 = wait.split("\r\n").next().unwrap().parse().unwrap();
                assert!((1700..=1800).contains(&wait), "{head}");
            }
        }
        let (_, metrics) = herd.ask("GET", "/metrics").await;
        let counted = r#"herd_rejections_total{worker="browser",reason="quota_exceeded"} 3"#;
        assert!(metrics.contains(counted), "{metrics}");
    });
}

#[test]
fn an_idempotency_key_is_of_one_principal() {
    local(async {
        let herd = with_auth();
        let key = "idempotency-key: k\r\n";
        let (first, body) = herd
            .ask_with("POST", "/v1/sessions?principal=alice", key, "")
            .await;
        assert_eq!(status(&first), "201", "{body}");
        let (_, again) = herd
            .ask_with("POST", "/v1/sessions?principal=alice", key, "")
            .await;
        assert_eq!(parse(&again)["id"], parse(&body)["id"]);
        let (other, _) = herd.ask_with("POST", "/v1/sessions?principal=bob", key, "").await;
        assert_eq!(status(&other), "422", "{other}");
    });
}

#[test]
fn a_token_says_what_it_is_for_and_signing_is_told_without_it() {
    local(async {
        let herd = with_auth();
        let path = "/v1/sessions/a/token?principal=bob";
        let (head, body) = herd
            .ask_with("POST", path, JSON, r#"{"ttl_ms":60000,"worker":"shell"}"#)
            .await;
        assert_eq!(status(&head), "201", "{head}\n{body}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        let signed = parse(&body);
        let token = signed["token"].as_str().unwrap();
        assert!(token.starts_with("herd1."), "{signed}");
        assert_eq!(
            signed["url"],
            format!("http://127.0.0.1:8080/?herd_token={token}"),
            "{signed}"
        );
        assert_eq!(
            (&signed["id"], &signed["principal"], &signed["worker"]),
            (&"a".into(), &"bob".into(), &"shell".into())
        );
        for (body, code) in [
            (r#"{"ttl_ms":999}"#, "bad_request"),
            (r#"{"ttl_ms":86400001}"#, "bad_request"),
            (r#"{"ttl":1000}"#, "bad_request"),
            (r#"{"worker":"nope"}"#, "unknown_worker"),
            (r#"{"worker":"browser"}"#, "worker_not_allowed"),
        ] {
            let (head, _) = herd.ask_with("POST", path, JSON, body).await;
            assert!(
                head.contains(&format!("x-herd-error: {code}\r\n")),
                "{body}: {head}"
            );
        }
        let (_, events) = herd.ask("GET", "/v1/events?replay=100&follow=false").await;
        assert!(
            events.contains("control.token") && events.contains("bob/a"),
            "{events}"
        );
        assert!(!events.contains(token), "{events}");
        let list = herd.json("GET", "/v1/sessions").await;
        assert_eq!(list["sessions"], Value::Array(vec![]), "a token makes no session");
    });
}
