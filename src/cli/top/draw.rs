//! `herd top` on a frame of any size.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row as TableRow, Table, TableState};

use super::app::{App, Direction, Flow, Link, Mode, Output, Row, Sort};
use crate::cli::ps;
use crate::cli::show;
use crate::control::views::{Pool, State};

/// Colours, or none (https://no-color.org): everything is told by words and weight as well.
pub(super) struct Palette {
    good: Style,
    changing: Style,
    bad: Style,
    faint: Style,
    strong: Style,
    chosen: Style,
}

impl Palette {
    pub(super) fn of_environment() -> Self {
        match std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            true => Self::plain(),
            false => Self::coloured(),
        }
    }

    fn coloured() -> Self {
        let of = |colour| Style::new().fg(colour);
        Self {
            good: of(Color::Green),
            changing: of(Color::Yellow),
            bad: of(Color::Red),
            ..Self::plain()
        }
    }

    pub(super) fn plain() -> Self {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        Self {
            good: Style::new(),
            changing: Style::new(),
            bad: bold,
            faint: Style::new().add_modifier(Modifier::DIM),
            strong: bold,
            chosen: Style::new().add_modifier(Modifier::REVERSED),
        }
    }
}

pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, palette: &Palette, now: Instant) {
    app.settle();
    let all = frame.area();
    let pools = match all.height {
        0..10 => 0,
        height => u16::try_from(app.pools.len()).unwrap_or(u16::MAX).min(height / 4),
    };
    let output = match (&app.output, all.height) {
        (Some(_), 12..) => all.height / 2,
        _ => 0,
    };
    let [head, kinds, list, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(pools),
        Constraint::Min(2),
        Constraint::Length(output),
        Constraint::Length(1),
    ])
    .areas(all);
    draw_head(frame, app, palette, now, head);
    draw_pools(frame, app, palette, kinds);
    draw_list(frame, app, palette, list);
    if let Some(shown) = &app.output {
        // Where there is no room for both, output is what was asked for.
        draw_output(frame, shown, palette, if output > 0 { below } else { list });
    }
    draw_foot(frame, app, palette, now, foot);
    match &app.mode {
        Mode::Help => draw_help(frame, palette, all),
        Mode::AskStop { id, .. } => draw_question(frame, id, palette, all),
        Mode::List | Mode::Filter => {}
    }
}

fn draw_head(frame: &mut Frame<'_>, app: &App, palette: &Palette, now: Instant, area: Rect) {
    let mut told = vec![Span::styled("herd", palette.strong)];
    if let Some(version) = &app.version {
        let up = show::duration(Duration::from_millis(version.uptime_ms));
        told.push(Span::raw(format!(
            " {}  up {up}  {}",
            version.version, version.data_url
        )));
    }
    if let Some(host) = &app.host {
        if let (Some(free), Some(total)) = (host.memory_available_bytes, host.memory_total_bytes) {
            let (free, total) = (show::size(free), show::size(total));
            told.push(Span::styled(format!("  {free} of {total} free"), palette.faint));
        }
        if let Some(load) = host.load_average {
            let cpus = show::count(host.cpus, "CPU", "CPUs");
            told.push(Span::styled(format!("  load {load:.2} on {cpus}"), palette.faint));
        }
    }
    let state = match (&app.link, app.flow, app.draining) {
        (Link::Away { since, .. }, ..) => {
            let away = show::duration(Duration::from_secs(now.duration_since(*since).as_secs()));
            Span::styled(format!("UNREACHABLE for {away}, reconnecting"), palette.bad)
        }
        (Link::Waiting, ..) => Span::styled("connecting", palette.faint),
        (Link::Live, Flow::Paused, _) => Span::styled("PAUSED", palette.changing.patch(palette.strong)),
        (Link::Live, Flow::Running, true) => Span::styled("DRAINING", palette.changing.patch(palette.strong)),
        (Link::Live, Flow::Running, false) => Span::styled("live", palette.good),
    };
    let width = u16::try_from(state.width()).unwrap_or(u16::MAX).min(area.width);
    let [left, right] = Layout::horizontal([Constraint::Min(0), Constraint::Length(width)])
        .spacing(1)
        .areas(area);
    frame.render_widget(Line::from(told), left);
    frame.render_widget(Line::from(state).alignment(Alignment::Right), right);
}

fn draw_pools(frame: &mut Frame<'_>, app: &App, palette: &Palette, area: Rect) {
    let widest = app.pools.iter().map(|pool| pool.kind.chars().count()).max();
    let name = u16::try_from(widest.unwrap_or(0)).unwrap_or(u16::MAX).min(24);
    let rows = app.pools.iter().map(|pool| {
        let taken = pool.starting + pool.warm + pool.bound + pool.dying;
        let state = |count: usize, word: &str| {
            let style = if count == 0 { palette.faint } else { Style::new() };
            Cell::from(Span::styled(format!("{count} {word}"), style))
        };
        TableRow::new([
            Cell::from(Span::styled(pool.kind.clone(), palette.strong)),
            Cell::from(bar(pool, 20, palette)),
            Cell::from(Line::from(format!("{taken}/{}", pool.max)).alignment(Alignment::Right)),
            state(pool.bound, "bound"),
            state(pool.warm, "warm"),
            state(pool.starting, "starting"),
            state(pool.dying, "dying"),
            Cell::from(queue(pool, palette)),
        ])
    });
    let widths = [
        Constraint::Length(name.max(4)),
        Constraint::Length(22),
        Constraint::Length(9),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(12),
        Constraint::Length(10),
        Constraint::Min(0),
    ];
    // Without room for words, the bar and its numbers.
    let shown = if area.width < 60 { 3 } else { widths.len() };
    frame.render_widget(Table::new(rows, &widths[..shown]).column_spacing(1), area);
}

/// `[###++>x....]`: bound, warm, starting, dying, free.
fn bar(pool: &Pool, width: usize, palette: &Palette) -> Line<'static> {
    let parts = [
        (pool.bound, "#", palette.good),
        (pool.warm, "+", palette.faint),
        (pool.starting, ">", palette.changing),
        (pool.dying, "x", palette.bad),
    ];
    let taken: usize = parts.iter().map(|(count, ..)| count).sum();
    // Lowering max kills nothing: for a while there may be more.
    let whole = pool.max.max(taken).max(1);
    let (mut spans, mut sum, mut drawn) = (vec![Span::raw("[")], 0, 0);
    for (count, sign, style) in parts {
        sum += count;
        // What is there is seen, however little of the whole it is.
        let end = (sum * width / whole)
            .max(drawn + usize::from(count > 0))
            .min(width);
        spans.push(Span::styled(sign.repeat(end - drawn), style));
        drawn = end;
    }
    spans.push(Span::styled(".".repeat(width - drawn), palette.faint));
    spans.push(Span::raw("]"));
    Line::from(spans)
}

fn queue(pool: &Pool, palette: &Palette) -> Line<'static> {
    if let Some(backoff) = pool.backoff_ms {
        let left = show::duration(Duration::from_millis(backoff));
        return Span::styled(format!("starts fail; refused for {left}"), palette.bad).into();
    }
    if pool.queued == 0 {
        return Line::default();
    }
    let waited = pool
        .longest_wait_ms
        .map(Duration::from_millis)
        .map(show::duration);
    let waited = waited
        .map(|waited| format!(", first for {waited}"))
        .unwrap_or_default();
    Span::styled(format!("{} queued{waited}", pool.queued), palette.changing).into()
}

/// A column: from how wide a frame on it is shown, and how wide it is.
struct Column {
    heading: &'static str,
    from: u16,
    width: Constraint,
    sort: Option<Sort>,
    numeric: bool,
    cell: fn(&Row, &Palette) -> Span<'static>,
}

const COLUMNS: &[Column] = &[
    column("SESSION", 0, Constraint::Fill(3), |row, _| {
        Span::raw(row.session.name())
    }),
    column("KIND", 70, Constraint::Fill(1), |row, _| {
        Span::raw(row.session.kind.clone())
    }),
    column("STATE", 46, Constraint::Length(8), |row, palette| {
        let style = match row.session.state {
            State::Bound => palette.good,
            State::Queued | State::Starting | State::Ending => palette.changing,
            State::Ended => palette.faint,
        };
        Span::styled(row.session.state.word(), style)
    }),
    column("PID", 100, Constraint::Length(8), |row, _| {
        or_dash(row.session.pid)
    }),
    number("PROCS", 84, 5, None, |row, _| {
        or_dash(row.session.usage.map(|used| used.processes))
    }),
    number("MEMORY", 0, 7, Some(Sort::Memory), |row, _| {
        or_dash(row.session.usage.map(|used| show::size(used.memory_bytes)))
    }),
    number("CPU%", 0, 6, Some(Sort::Cpu), |row, _| {
        or_dash(row.cpu.map(|cpu| format!("{:.1}", cpu * 100.0)))
    }),
    number("HOLDERS", 92, 7, None, |row, _| {
        Span::raw(row.session.holders.to_string())
    }),
    number("AGE", 56, 7, Some(Sort::Age), |row, _| {
        Span::raw(show::duration(Duration::from_millis(row.session.age_ms)))
    }),
    column("ENDS", 80, Constraint::Length(14), |row, _| {
        Span::raw(ps::ends(&row.session))
    }),
];

const fn column(
    heading: &'static str,
    from: u16,
    width: Constraint,
    cell: fn(&Row, &Palette) -> Span<'static>,
) -> Column {
    Column {
        heading,
        from,
        width,
        sort: None,
        numeric: false,
        cell,
    }
}

const fn number(
    heading: &'static str,
    from: u16,
    width: u16,
    sort: Option<Sort>,
    cell: fn(&Row, &Palette) -> Span<'static>,
) -> Column {
    Column {
        heading,
        from,
        width: Constraint::Length(width),
        sort,
        numeric: true,
        cell,
    }
}

fn or_dash(value: Option<impl ToString>) -> Span<'static> {
    Span::raw(value.map_or_else(|| "-".to_owned(), |value| value.to_string()))
}

fn draw_list(frame: &mut Frame<'_>, app: &mut App, palette: &Palette, area: Rect) {
    app.page = usize::from(area.height.saturating_sub(1)).max(1);
    let (rows, chosen) = app.listed();
    if rows.is_empty() {
        let why = match (app.count(), &app.link) {
            (0, Link::Live) => "no sessions; the first request that carries an X-Session-ID header makes one",
            (0, Link::Waiting | Link::Away { .. }) => "",
            _ => "no session fits the filter; Esc empties it",
        };
        frame.render_widget(Paragraph::new(Span::styled(why, palette.faint)), area);
        return;
    }
    let shown: Vec<&Column> = COLUMNS
        .iter()
        .filter(|column| column.from <= area.width)
        .collect();
    let aligned = |column: &Column, span: Span<'static>| {
        let line = Line::from(span);
        match column.numeric {
            true => line.alignment(Alignment::Right),
            false => line,
        }
    };
    let heading = |column: &&Column| {
        let sorted = column.sort == Some(app.sort);
        let text = match (sorted, app.direction) {
            (false, _) => column.heading.to_owned(),
            (true, Direction::First) => format!("{}v", column.heading),
            (true, Direction::Reversed) => format!("{}^", column.heading),
        };
        let style = if sorted { palette.strong } else { palette.faint };
        aligned(column, Span::styled(text, style))
    };
    // Only rows in sight are made: there may be thousands.
    let height = usize::from(area.height.saturating_sub(1));
    let first = chosen
        .unwrap_or(0)
        .saturating_sub(height / 2)
        .min(rows.len().saturating_sub(height));
    let body = rows.iter().skip(first).take(height).map(|row| {
        TableRow::new(
            shown
                .iter()
                .map(|column| aligned(column, (column.cell)(row, palette))),
        )
    });
    let table = Table::new(body, shown.iter().map(|column| column.width))
        .header(TableRow::new(shown.iter().map(heading)))
        .column_spacing(2)
        .row_highlight_style(palette.chosen);
    let mut state = TableState::new().with_selected(chosen.map(|at| at - first));
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_output(frame: &mut Frame<'_>, output: &Output, palette: &Palette, area: Rect) {
    frame.render_widget(Clear, area);
    let mut title = vec![Span::styled(format!(" output of {} ", output.id), palette.strong)];
    if output.dropped > 0 {
        let dropped = show::count(
            usize::try_from(output.dropped).unwrap_or(usize::MAX),
            "older line",
            "older lines",
        );
        title.push(Span::styled(format!("({dropped} not kept) "), palette.changing));
    }
    if output.back > 0 {
        title.push(Span::styled(
            format!("({} further down) ", output.back),
            palette.changing,
        ));
    }
    if let Some(why) = &output.ended {
        title.push(Span::styled(format!("({why}) "), palette.changing));
    }
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(palette.faint)
        .title(Line::from(title));
    let inside = block.inner(area);
    let height = usize::from(inside.height);
    let end = output.lines.len().saturating_sub(output.back);
    let lines = output.lines.iter().take(end).skip(end.saturating_sub(height));
    let text: Vec<Line<'_>> = lines.map(|line| Line::raw(line.as_str())).collect();
    frame.render_widget(Paragraph::new(text).block(block), area);
}

fn draw_foot(frame: &mut Frame<'_>, app: &App, palette: &Palette, now: Instant, area: Rect) {
    let line = match (&app.mode, &app.link, app.notice(now)) {
        (Mode::Filter, ..) => Line::from(vec![
            Span::styled("filter: ", palette.strong),
            Span::raw(app.filter.clone()),
            Span::styled("_", palette.faint),
        ]),
        (_, Link::Away { why, .. }, _) => Line::styled(why.clone(), palette.bad),
        (_, _, Some(notice)) if notice.bad => Line::styled(notice.text.clone(), palette.bad),
        (_, _, Some(notice)) => Line::styled(notice.text.clone(), palette.good),
        _ => {
            let count = show::count(app.count(), "session", "sessions");
            let filter = match app.filter.is_empty() {
                true => String::new(),
                false => format!(", filter {:?}", app.filter),
            };
            Line::styled(
                format!(
                    "{count}{filter}   m c a sort  r reverse  / filter  Enter output  x stop  space pause  ? help  q quit"
                ),
                palette.faint,
            )
        }
    };
    frame.render_widget(line, area);
}

fn draw_question(frame: &mut Frame<'_>, id: &str, palette: &Palette, all: Rect) {
    let text = vec![
        Line::styled(format!("Stop {id}?"), palette.strong),
        Line::raw("Its worker's whole process tree is killed at once."),
        Line::raw(""),
        Line::raw("y or Enter: stop    any other key: leave it"),
    ];
    popup(frame, text, palette, all);
}

fn draw_help(frame: &mut Frame<'_>, palette: &Palette, all: Rect) {
    let keys = [
        (
            "arrows, j, k, PgUp, PgDn, Home, End",
            "choose a session; with output open, PgUp and PgDn read it",
        ),
        ("m  c  a", "sort by memory, CPU, age"),
        ("r", "reverse"),
        ("/", "filter by id, kind, state, worker, pid"),
        ("Enter, l", "show or close its output"),
        ("x, Delete", "stop it"),
        ("space, p", "pause"),
        ("Esc", "close output, or empty the filter"),
        ("q, Ctrl-C", "quit"),
    ];
    let mut text = Vec::from(keys.map(|(keys, what)| {
        Line::from(vec![
            Span::styled(format!("{keys:36}"), palette.strong),
            Span::raw(what),
        ])
    }));
    text.push(Line::raw(""));
    text.push(Line::raw("[#+>x.]  bound, warm, starting, dying, free"));
    popup(frame, text, palette, all);
}

fn popup(frame: &mut Frame<'_>, text: Vec<Line<'_>>, palette: &Palette, all: Rect) {
    let width = text.iter().map(Line::width).max().unwrap_or(0);
    let width = u16::try_from(width + 4).unwrap_or(u16::MAX).min(all.width);
    let height = u16::try_from(text.len() + 2).unwrap_or(u16::MAX).min(all.height);
    let area = Rect::new(
        all.x + (all.width - width) / 2,
        all.y + (all.height - height) / 2,
        width,
        height,
    );
    let block = Block::bordered()
        .border_style(palette.faint)
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(text).block(block), area);
}
