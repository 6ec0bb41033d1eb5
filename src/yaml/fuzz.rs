//! What every report of mistakes promises.

use super::problem::Problems;
use super::tree::lines;

/// The mistakes stand where they say they do in `text`, and can be shown.
pub(crate) fn stand_in(problems: &Problems, text: &str) {
    let lines = lines(text);
    assert!(!problems.list.is_empty(), "refused without a reason");
    for problem in &problems.list {
        let line = problem.line.checked_sub(1).and_then(|at| lines.get(at));
        let Some(line) = line else {
            panic!("there is no line {}: {problem:?}", problem.line);
        };
        assert_eq!(problem.source, *line);
        let columns = line.chars().count() + 1;
        assert!(
            (1..=columns).contains(&problem.column),
            "of {columns}: {problem:?}"
        );
        assert!(!problem.message.is_empty());
    }
    let places = |p: &super::problem::Problem| (p.line, p.column);
    assert!(problems.list.is_sorted_by_key(places), "{problems:#?}");
    assert!(
        !problems
            .to_string()
            .contains(|c: char| c.is_control() && c != '\n'),
        "{problems}"
    );
}
