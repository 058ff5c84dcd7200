//! What the documentation names is there.

use std::path::{Path, PathBuf};

/// What names tests.
const DOCUMENTS: [&str; 3] = ["docs/nat.md", "docs/links.md", "docs/names.md"];

/// Folders in which a test that they name may stand.
const FOLDERS: [&str; 6] = [
    "netdp/tests",
    "tests/tests",
    "netdp-common/tests",
    "netdp-common/src",
    "netdp/src/model",
    "netdp/src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What stands between backticks and has the form `file::function`.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(|(file, function)| is_path(file) && is_path(function))
}

fn is_path(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/');
    !text.is_empty() && text.chars().all(allowed)
}

#[test]
fn each_test_that_is_named_exists() {
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        assert!(check(document, &text) >= 5, "{document} names few tests");
    }
}

fn check(document: &str, text: &str) -> usize {
    let mut count = 0;
    for (file, function) in named(text) {
        let source = FOLDERS
            .iter()
            .map(|folder| root().join(folder).join(file).with_extension("rs"))
            .find(|path| path.is_file())
            .unwrap_or_else(|| panic!("{document} names {file}, which is no file of tests"));
        let source = std::fs::read_to_string(source).unwrap();
        assert!(
            source.contains(&format!("fn {function}(")),
            "{document} names {file}::{function}, which does not exist"
        );
        count += 1;
    }
    count
}
