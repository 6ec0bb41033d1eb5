//! What `herd top` shows and does, on terminals that are only pretended.

use std::time::{Duration, Instant};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::app::{App, Deed, Look, News};
use super::draw::{self, Palette};

struct Shown {
    app: App,
    now: Instant,
}

fn session(id: &str, generation: u64, memory: u64, cpu: f64, age_ms: u64) -> serde_json::Value {
    json!({
        "id": id, "generation": generation, "kind": "browser", "sandbox": "on", "outdated": false, "state": "bound", "reason": null,
        "detail": null, "worker": format!("w{generation}"), "pid": 4000 + generation, "endpoint": null,
        "created": "2026-01-31T12:00:00.000Z", "age_ms": age_ms, "holders": 1, "requests": 0, "streams": 1, "holds": 0,
        "ends_in_ms": null, "ends_for": null, "ended": null, "death": null,
        "usage": {"processes": 12, "memory_bytes": memory, "cpu_seconds": cpu},
    })
}

fn look(sessions: &[serde_json::Value]) -> News {
    let of = |value| serde_json::from_value(value).unwrap();
    News::Looked(Box::new(Look {
        sessions: serde_json::from_value(json!(sessions)).unwrap(),
        pools: serde_json::from_value(json!([{
            "kind": "browser", "min": 1, "max": 10, "starting": 1, "warm": 2, "bound": 3, "dying": 0, "queued": 4,
            "queue_max": 100, "longest_wait_ms": 3200, "backoff_ms": null, "sandbox": "on", "outdated": 0, "removed": false,
        }]))
        .unwrap(),
        host: serde_json::from_value(json!({
            "memory_available_bytes": 3_000_000_000_u64, "memory_total_bytes": 8_000_000_000_u64, "cpus": 4,
            "load_average": 1.25, "memory_some_percent": null, "cpu_some_percent": null,
        }))
        .unwrap(),
        draining: false,
        version: of(json!({
            "version": "1.2.3", "pid": 7, "data_url": "http://127.0.0.1:8080", "session_header": "x-session-id",
            "started": "2026-01-31T12:00:00.000Z", "uptime_ms": 7_380_000,
            "build": { "commit": null, "target": "x", "rustc": "1" }, "config_generation": 1,
        })),
    }))
}

impl Shown {
    /// Three sessions: `big` of the most memory, `busy` of the most CPU, `new` the newest.
    fn three() -> Self {
        let mut shown = Self {
            app: App::new(),
            now: Instant::now(),
        };
        for (busy, seconds) in [(1.0, 0), (2.5, 2)] {
            shown.now += Duration::from_secs(seconds);
            let sessions = [
                session("big", 1, 900_000_000, 5.0, 3_600_000),
                session("busy", 2, 20_000_000, busy, 60_000),
                session("new", 3, 10_000_000, 0.5, 5_000),
            ];
            shown.app.hear(look(&sessions), shown.now);
        }
        shown
    }

    fn hear(&mut self, news: News) {
        self.app.hear(news, self.now);
    }

    fn press(&mut self, keys: &str) -> Option<Deed> {
        let mut deed = None;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '↓' => KeyCode::Down,
                '⇞' => KeyCode::PageUp,
                key => KeyCode::Char(key),
            };
            self.text(100, 20);
            deed = self.app.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        deed
    }

    fn text(&mut self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let (app, now) = (&mut self.app, self.now);
        terminal
            .draw(|frame| draw::draw(frame, app, &Palette::plain(), now))
            .unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height)
            .map(|y| line(y).trim_end().to_owned() + "\n")
            .collect()
    }

    /// The ids, from top to bottom.
    fn order(&mut self) -> Vec<String> {
        let text = self.text(100, 20);
        let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
        text.lines()
            .map(first)
            .filter(|word| ["big", "busy", "new"].contains(&word.as_str()))
            .collect()
    }
}

#[test]
fn everything_stands_on_one_screen() {
    assert_eq!(
        Shown::three().text(120, 8),
        "\
herd 1.2.3  up 2h03m  http://127.0.0.1:8080  3.0 GB of 8.0 GB free  load 1.25 on 4 CPUs                             live
SESSION                         KIND        STATE     PID       PROCS  MEMORYv    CPU%  HOLDERS      AGE  ENDS
big                             browser     bound     4001         12   900 MB     0.0        1    1h00m  when released
busy                            browser     bound     4002         12    20 MB    75.0        1    1m00s  when released
new                             browser     bound     4003         12    10 MB     0.0        1       5s  when released


3 sessions   m c a sort  r reverse  / filter  Enter output  x stop  space pause  ? help  q quit
"
    );
}

#[test]
fn pools_show_what_takes_their_slots_and_who_waits() {
    let text = Shown::three().text(120, 20);
    assert!(
        text.contains("browser [######++++>>........]"),
        "bound, warm, starting: {text}"
    );
    assert!(text.contains("6/10 3 bound"), "{text}");
    assert!(text.contains("4 queued, first for 3s"), "{text}");
}

#[test]
fn sessions_are_sorted_by_memory_cpu_or_age_and_the_other_way_round() {
    let mut shown = Shown::three();
    assert_eq!(shown.order(), ["big", "busy", "new"]);
    shown.press("c");
    assert_eq!(shown.order()[0], "busy");
    shown.press("a");
    assert_eq!(shown.order(), ["new", "busy", "big"]);
    shown.press("r");
    assert_eq!(shown.order(), ["big", "busy", "new"]);
}

#[test]
fn a_filter_leaves_what_fits_and_escape_empties_it() {
    let mut shown = Shown::three();
    shown.press("/bu");
    assert_eq!(shown.order(), ["busy"]);
    shown.press("x\n");
    let text = shown.text(100, 20);
    assert!(
        text.contains("no session fits the filter; Esc empties it"),
        "{text}"
    );
    shown.press("\x1b");
    assert_eq!(shown.order().len(), 3);
}

#[test]
fn a_session_is_stopped_only_after_a_yes_and_never_its_successor() {
    let mut shown = Shown::three();
    assert_eq!(shown.press("↓x"), None);
    assert!(shown.text(100, 20).contains("Stop busy?"));
    assert_eq!(shown.press("n"), None);
    assert!(!shown.text(100, 20).contains("Stop busy?"));
    let stop = Deed::Stop {
        id: "busy".to_owned(),
        generation: 2,
    };
    assert_eq!(shown.press("xy"), Some(stop));
    shown.hear(News::Stopped {
        id: "busy".to_owned(),
        generation: 2,
        result: Err("it is of generation 9 now".to_owned()),
    });
    assert!(
        shown
            .text(100, 20)
            .contains("busy was not stopped: it is of generation 9 now")
    );
}

#[test]
fn the_keys_of_vi_choose_and_stop_nothing() {
    let mut shown = Shown::three();
    let follow = |id: &str| {
        Some(Deed::Follow {
            id: id.to_owned(),
            number: 1,
        })
    };
    assert_eq!(shown.press("jjk\n"), follow("busy"));
}

#[test]
fn what_was_stopped_leaves_the_list_and_its_successor_stays() {
    let mut shown = Shown::three();
    let report = json!({"id": "busy", "principal": null, "outcome": "ended", "death": null});
    let stopped = |generation| News::Stopped {
        id: "busy".to_owned(),
        generation,
        result: Ok(serde_json::from_value(report.clone()).unwrap()),
    };
    shown.hear(stopped(1000));
    assert_eq!(shown.order(), ["big", "busy", "new"]);
    shown.hear(stopped(2));
    assert_eq!(shown.order(), ["big", "new"]);
}

#[test]
fn the_choice_stays_with_its_session_and_with_its_place_when_that_is_gone() {
    let mut shown = Shown::three();
    shown.press("↓");
    let left = [
        session("busy", 2, 2_000_000_000, 2.5, 62_000),
        session("big", 1, 900_000_000, 5.0, 3_602_000),
        session("new", 3, 10_000_000, 0.5, 7_000),
    ];
    shown.hear(look(&left));
    shown.press("x");
    assert!(shown.text(100, 20).contains("Stop busy?"), "first by now");
    shown.press("n");
    shown.hear(look(&left[1..]));
    shown.press("x");
    assert!(shown.text(100, 20).contains("Stop big?"));
}

#[test]
fn output_is_followed_bounded_and_can_be_read_back() {
    let mut shown = Shown::three();
    let Some(Deed::Follow { id, number }) = shown.press("\n") else {
        panic!("output is not followed");
    };
    assert_eq!(id, "big");
    let lines = |range: std::ops::Range<usize>| News::Output {
        of: number,
        lines: range.map(|line| format!("line {line}")).collect(),
    };
    shown.hear(lines(0..2500));
    shown.hear(News::Output {
        of: number + 1,
        lines: vec!["of another".to_owned()],
    });
    let text = shown.text(100, 20);
    assert!(
        text.contains("output of big (500 older lines not kept)"),
        "{text}"
    );
    assert!(
        text.contains("line 2499") && !text.contains("of another"),
        "{text}"
    );
    shown.press("⇞");
    let read = shown.text(100, 20);
    assert!(
        read.contains("further down") && !read.contains("line 2499"),
        "{read}"
    );
    shown.hear(lines(2500..2503));
    let still: Vec<String> = shown.text(100, 20).lines().skip(11).map(str::to_owned).collect();
    let before: Vec<String> = read.lines().skip(11).map(str::to_owned).collect();
    assert_eq!(still, before, "who reads further up is left there");
    shown.hear(News::OutputEnded {
        of: number,
        why: "its worker has ended".to_owned(),
    });
    assert!(shown.text(100, 20).contains("(its worker has ended)"));
    assert_eq!(shown.press("\x1b"), Some(Deed::Unfollow));
    assert!(!shown.text(100, 20).contains("output of"));
}

#[test]
fn a_pause_keeps_what_is_shown() {
    let mut shown = Shown::three();
    shown.press(" ");
    shown.hear(look(&[]));
    let text = shown.text(100, 20);
    assert!(text.contains("PAUSED") && text.contains("busy"), "{text}");
    shown.press(" ");
    shown.hear(look(&[]));
    assert!(shown.text(100, 20).contains("no sessions; the first request"));
}

#[test]
fn a_herd_that_cannot_be_reached_is_told_until_it_is_back() {
    let mut shown = Shown::three();
    let away = || News::Away {
        why: "herd is not running (no control socket at /run/x); start it with `herd start`".to_owned(),
    };
    shown.hear(away());
    shown.now += Duration::from_secs(65);
    shown.hear(away());
    let text = shown.text(100, 20);
    assert!(text.contains("UNREACHABLE for 1m05s, reconnecting"), "{text}");
    assert!(text.contains("herd is not running"), "{text}");
    assert!(text.contains("busy"), "what was known is still shown: {text}");
    shown.hear(look(&[]));
    assert!(shown.text(100, 20).contains("live"));
}

#[test]
fn any_size_will_do() {
    let mut shown = Shown::three();
    for keys in ["", "\n", "\x1b?", "\x1bx"] {
        shown.press(keys);
        for width in [1, 2, 9, 30, 60, 80, 300] {
            for height in [1, 2, 3, 5, 12, 60] {
                shown.text(width, height);
            }
        }
    }
    shown.press("n");
    let narrow = shown.text(40, 12);
    assert!(
        narrow.contains("SESSION") && narrow.contains("MEMORYv") && !narrow.contains("KIND"),
        "{narrow}"
    );
}

#[test]
fn names_cannot_drive_the_terminal() {
    let mut shown = Shown::three();
    shown.hear(look(&[session("evil\x1b[2J\n\u{202e}", 9, 1, 0.0, 1)]));
    let text = shown.text(100, 20);
    assert!(text.contains("evil") && !text.contains('\x1b'), "{text:?}");
}
