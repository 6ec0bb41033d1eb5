//! Sessions that are made by asking for them.

use super::*;

pub(super) const JSON: &str = "content-type: application/json\r\n";

pub(super) fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap()
}

pub(super) fn parse(body: &str) -> Value {
    serde_json::from_str(body).unwrap()
}

#[test]
fn a_session_is_put_once_and_ends_after_its_ttl_unless_it_is_used() {
    local(async {
        let herd = start();
        let (head, body) = herd.ask("PUT", "/v1/sessions/a").await;
        assert_eq!(status(&head), "201", "{head}\n{body}");
        assert!(head.contains("location: /v1/sessions/a\r\n"), "{head}");
        let session = parse(&body);
        assert_eq!(
            (&session["kind"], &session["state"]),
            (&"browser".into(), &"bound".into())
        );
        assert_eq!(session["holders"], 0);
        assert_eq!(session["ends_for"], "ttl", "{session}");

        let (head, body) = herd.ask("PUT", "/v1/sessions/a").await;
        assert_eq!(status(&head), "200", "{head}");
        assert_eq!(parse(&body)["generation"], session["generation"]);

        let (head, _) = herd
            .ask_with("PUT", "/v1/sessions/a", JSON, r#"{"worker":"shell"}"#)
            .await;
        assert!(head.contains("x-herd-error: worker_mismatch"), "{head}");
        let (head, body) = herd
            .ask_with("PUT", "/v1/sessions/b", JSON, r#"{"wait":"refuse"}"#)
            .await;
        assert!(head.contains("x-herd-error: at_capacity"), "{head}\n{body}");
        assert!(head.contains("retry-after: "), "{head}");
    });
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    local(async {
        let herd = start();
        let headers = format!("{JSON}content-length: 50\r\nexpect: 100-continue\r\n");
        for (method, path) in [
            ("PUT", "/v1/sessions/a"),
            ("POST", "/v1/sessions"),
            ("POST", "/v1/sessions/a/token"),
        ] {
            let mut stream = herd.send(method, path, &headers).await;
            // From here on the body is waited for; time runs as soon as nothing else does.
            read_until(&mut stream, "100 Continue\r\n\r\n").await;
            stream.write_all(b"{").await.unwrap();
            tokio::time::pause();
            let answer = read_until(&mut stream, "}").await;
            tokio::time::resume();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{path}: {answer}");
            assert!(answer.contains("x-herd-error: request_timeout\r\n"), "{answer}");
            assert!(answer.contains("application/problem+json"), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
            assert!(answer.contains("the body did not arrive within 10 s"), "{answer}");
            let rest = within("the end", stream.read(&mut [0; 1])).await;
            assert_eq!(rest.unwrap_or(0), 0, "nothing follows");
        }
        let list = herd.json("GET", "/v1/sessions?all=true").await;
        assert_eq!(list["sessions"], Value::Array(vec![]), "nothing was made");
    });
}

#[test]
fn a_client_that_prefers_not_to_wait_gets_an_early_answer() {
    local(async {
        let herd = start();
        let _hold = herd.hold("/v1/sessions/first/hold").await;
        let prefer = "prefer: respond-async\r\n";
        let (head, body) = herd.ask_with("PUT", "/v1/sessions/second", prefer, "").await;
        assert_eq!(status(&head), "202", "{head}\n{body}");
        assert!(head.contains("preference-applied: respond-async"), "{head}");
        assert!(head.contains("location: /v1/sessions/second\r\n"), "{head}");
        assert_eq!(parse(&body)["id"], "second");
        // The client is gone, and its session still waits for its place.
        herd.until("second", "queued").await;
        herd.json("DELETE", "/v1/sessions/first").await;
        herd.until("second", "bound").await;
        // What is there already is told at once.
        let (head, _) = herd
            .ask_with(
                "PUT",
                "/v1/sessions/second",
                "prefer: respond-async, wait=30\r\n",
                "",
            )
            .await;
        assert_eq!(status(&head), "200", "{head}");
    });
}

#[test]
fn what_nobody_waited_for_is_told_as_an_event_if_it_fails() {
    local(async {
        let herd = start();
        let _hold = herd.hold("/v1/sessions/first/hold").await;
        let prefer = "prefer: respond-async\r\n";
        herd.ask_with("PUT", "/v1/sessions/second", prefer, "").await;
        herd.until("second", "queued").await;
        herd.json("DELETE", "/v1/sessions/second").await;
        let mut events = herd.send("GET", "/v1/events?replay=100&session=second", "").await;
        let text = read_until(&mut events, "session.refused").await;
        assert!(text.contains(r#""code":"session_ended""#), "{text}");
    });
}

#[test]
fn an_idempotency_key_mints_one_session() {
    local(async {
        let herd = start();
        let key = "idempotency-key: 7f3a\r\n";
        let (head, body) = herd.ask_with("POST", "/v1/sessions", key, "").await;
        assert_eq!(status(&head), "201", "{head}\n{body}");
        let session = parse(&body);
        let id = session["id"].as_str().unwrap();
        assert_eq!(id.len(), 32, "{id}");
        assert!(
            head.contains(&format!("location: /v1/sessions/{id}\r\n")),
            "{head}"
        );

        let (head, body) = herd.ask_with("POST", "/v1/sessions", key, "").await;
        assert_eq!((status(&head), &parse(&body)["id"]), ("201", &session["id"]));
        // Not even once it has ended.
        herd.json("DELETE", &format!("/v1/sessions/{id}")).await;
        let (head, body) = herd.ask_with("POST", "/v1/sessions", key, "").await;
        assert_eq!((status(&head), &parse(&body)["state"]), ("201", &"ended".into()));

        let headers = format!("{key}{JSON}");
        let (head, _) = herd
            .ask_with("POST", "/v1/sessions", &headers, r#"{"worker":"shell"}"#)
            .await;
        assert_eq!(status(&head), "422", "{head}");
        assert!(head.contains("x-herd-error: idempotency_key_reused"), "{head}");
        let (_, body) = herd.ask("POST", "/v1/sessions").await;
        assert_ne!(parse(&body)["id"], session["id"]);
    });
}

#[test]
fn a_body_that_is_wrong_is_told_how() {
    local(async {
        let herd = start();
        let large = " ".repeat((64 << 10) + 1);
        for (headers, body, status, code, part) in [
            (
                "",
                "{}",
                "415",
                "unsupported_media_type",
                "Content-Type: application/json",
            ),
            (
                "content-type: application/json\r\ncontent-encoding: gzip\r\n",
                "{}",
                "415",
                "unsupported_media_type",
                "compressed",
            ),
            (JSON, "{", "400", "bad_request", "EOF while parsing"),
            (JSON, "[]", "400", "bad_request", "a JSON object"),
            (JSON, "{} {}", "400", "bad_request", "trailing characters"),
            (
                JSON,
                r#"{"kind":"x"}"#,
                "400",
                "bad_request",
                "unknown field `kind`, expected `worker` or `wait`",
            ),
            (
                JSON,
                r#"{"wait":"long"}"#,
                "400",
                "bad_request",
                "wait: unknown variant `long`",
            ),
            (
                JSON,
                r#"{"worker":"x"}"#,
                "404",
                "unknown_worker",
                "there is browser, shell",
            ),
            (JSON, &large, "413", "payload_too_large", "65536 bytes"),
        ] {
            let (head, answer) = herd.ask_with("PUT", "/v1/sessions/a", headers, body).await;
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{body:.40}: {head}"
            );
            assert!(
                head.contains(&format!("x-herd-error: {code}\r\n")),
                "{body:.40}: {head}"
            );
            assert!(answer.contains(part), "{body:.40}: {answer}");
        }
        assert_eq!(
            herd.json("GET", "/v1/sessions?all").await["sessions"],
            serde_json::json!([])
        );
    });
}

#[test]
fn a_stop_that_means_another_incarnation_stops_nothing() {
    local(async {
        let herd = start();
        let (_, body) = herd.ask("PUT", "/v1/sessions/a").await;
        let first = parse(&body)["generation"].as_u64().unwrap();
        herd.json("DELETE", &format!("/v1/sessions/a?generation={first}"))
            .await;
        let (_, body) = herd.ask("PUT", "/v1/sessions/a").await;
        let second = parse(&body)["generation"].as_u64().unwrap();
        let (head, body) = herd
            .ask("DELETE", &format!("/v1/sessions/a?generation={first}"))
            .await;
        assert!(
            head.contains("409 Conflict") && head.contains("x-herd-error: stale_generation"),
            "{head}"
        );
        assert!(body.contains(&format!("generation {second} now")), "{body}");
        herd.until("a", "bound").await;
    });
}
