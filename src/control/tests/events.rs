//! The stream of events.

use super::*;

/// The events of an answer that has ended, as JSON.
fn events(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect()
}

#[test]
fn a_session_leaves_its_story_and_a_reader_can_come_back_to_it() {
    local(async {
        let herd = start();
        herd.ask("PUT", "/v1/sessions/a").await;
        herd.json("DELETE", "/v1/sessions/a").await;
        let (head, text) = herd.ask("GET", "/v1/events?replay=100&follow=false").await;
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let all = events(&text);
        assert_eq!(
            types(&all),
            [
                "worker.ready",
                "session.created",
                "control.create",
                "control.stop",
                "session.ended",
                "worker.gone"
            ]
        );
        assert_eq!(all[3]["by"]["uid"], nix::unistd::geteuid().as_raw());
        assert_eq!(all[4]["reason"], "stopped");
        assert_eq!(all[5]["death"]["processes"], 2);

        let last = all[3]["id"].as_str().unwrap();
        let (_, text) = herd
            .ask_with(
                "GET",
                "/v1/events?follow=false",
                &format!("last-event-id: {last}\r\n"),
                "",
            )
            .await;
        assert_eq!(types(&events(&text)), ["session.ended", "worker.gone"]);
        let (_, text) = herd
            .ask(
                "GET",
                &format!("/v1/events?follow=false&after={last}&session=a&worker=browser"),
            )
            .await;
        assert_eq!(types(&events(&text)), ["session.ended", "worker.gone"]);
        let (_, text) = herd
            .ask("GET", "/v1/events?replay=100&follow=false&session=b")
            .await;
        assert!(events(&text).is_empty(), "{text}");
        // The last of those that are wanted, whatever has happened since.
        herd.hold("/v1/sessions/other/hold").await;
        let last = "/v1/events?replay=1&follow=false&session=a";
        let (_, text) = herd.ask("GET", last).await;
        assert_eq!(types(&events(&text)), ["worker.gone"]);
    });
}

#[test]
fn a_reader_of_an_earlier_herd_is_told_that_it_has_missed_something() {
    local(async {
        let herd = start();
        herd.ask("PUT", "/v1/sessions/a").await;
        let (_, text) = herd.ask("GET", "/v1/events?after=1-7&follow=false").await;
        let all = events(&text);
        assert_eq!(types(&all)[..2], ["events.lost", "worker.ready"]);
        assert_eq!(all[0]["missed"], Value::Null);
    });
}

#[test]
fn events_are_told_as_they_happen_until_herd_ends() {
    local(async {
        let herd = start();
        let mut stream = herd.send("GET", "/v1/events", "").await;
        read_until(&mut stream, ":\n\n").await;
        herd.ask("PUT", "/v1/sessions/a").await;
        let text = read_until(&mut stream, "control.create").await;
        assert!(text.contains("event: session.created\ndata: {"), "{text}");
        herd.stop.send(()).unwrap();
        read_until(&mut stream, "0\r\n\r\n").await;
    });
}

#[test]
fn a_wrong_position_is_refused() {
    local(async {
        let herd = start();
        let (_, body) = herd.ask("GET", "/v1/events?after=x").await;
        assert!(body.contains("after is the id of an event"), "{body}");
        let (_, body) = herd
            .ask_with("GET", "/v1/events", "last-event-id: 9\r\n", "")
            .await;
        assert!(body.contains("Last-Event-ID is not the id of an event"), "{body}");
    });
}
