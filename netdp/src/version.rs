//! Which netdp this is.

use std::sync::OnceLock;

static COMMIT: OnceLock<&str> = OnceLock::new();
static TEXT: OnceLock<String> = OnceLock::new();

/// As its manifest says.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Says which commit the program is made of: the little crate of its `main` knows,
/// so that a commit has that alone compiled again. Empty where nobody knows.
pub fn is_of_commit(commit: &'static str) {
    // The first who says it is `main`.
    let _ = COMMIT.set(commit);
}

/// As short as git has it, with `-dirty` behind it where files were changed since.
pub fn commit() -> Option<&'static str> {
    COMMIT.get().copied().filter(|commit| !commit.is_empty())
}

/// The version and, where it is known, the commit: `0.1.0 (12ab34c)`.
pub fn text() -> &'static str {
    TEXT.get_or_init(|| written(commit()))
}

fn written(commit: Option<&str>) -> String {
    match commit {
        Some(commit) => format!("{VERSION} ({commit})"),
        None => VERSION.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_nobody_knows_is_left_out() {
        assert_eq!(written(None), VERSION);
        assert_eq!(written(Some("12ab34c")), format!("{VERSION} (12ab34c)"));
    }
}
