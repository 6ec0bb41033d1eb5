//! Errors in words: what went wrong, and why, down to the last cause.

/// An error and its causes, except those that it names itself.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        match names(&text, &cause) {
            true => text,
            false => format!("{text}: {cause}"),
        }
    })
}

/// Whether the text has the cause as a part of its own: a file called `h` is in every hash.
fn names(text: &str, cause: &str) -> bool {
    text.match_indices(cause).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + cause.len()..]);
        let begins = before.is_empty() || before.ends_with(": ") || before.ends_with('(');
        begins && (after.is_empty() || after.starts_with([':', ';', ',', ')']))
    })
}

#[cfg(test)]
mod tests {
    use super::told;
    use anyhow::Context;

    #[test]
    fn a_cause_that_an_error_names_itself_is_not_told_twice() {
        let taken = || std::io::Error::other("in use");
        let named = Err::<(), _>(taken()).context("cannot listen: in use; choose another");
        assert_eq!(
            told(named.unwrap_err().as_ref()),
            "cannot listen: in use; choose another"
        );
        let plain = Err::<(), _>(taken()).context("cannot listen");
        assert_eq!(told(plain.unwrap_err().as_ref()), "cannot listen: in use");
        let short = Err::<(), _>(std::io::Error::other("h")).context("layer 1 (sha256:0h1)");
        assert_eq!(told(short.unwrap_err().as_ref()), "layer 1 (sha256:0h1): h");
    }

    #[test]
    fn the_cause_of_a_cause_is_told_too() {
        let refused = Err::<(), _>(std::io::Error::other("refused"));
        let deep = refused.context("tcp connect").context("no connection");
        assert_eq!(
            told(deep.unwrap_err().as_ref()),
            "no connection: tcp connect: refused"
        );
    }
}
