//! What the documentation names is there.

use std::path::{Path, PathBuf};

/// What names tests.
const DOCUMENTS: [&str; 7] = [
    "docs/nat.md",
    "docs/links.md",
    "docs/names.md",
    "docs/cni.md",
    "docs/docker.md",
    "docs/sockmap.md",
    "docs/direct.md",
];

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
        let test = test_in(&source, function);
        let test =
            test.unwrap_or_else(|why| panic!("{document} names {file}::{function}, which {why}"));
        let line = text
            .lines()
            .find(|line| line.contains(&format!("{file}::{function}`")));
        assert!(
            !test.is_ignored || line.is_some_and(|line| line.contains("(long)")),
            "{document} names {file}::{function}, which runs only where it is asked for: \
             write (long) behind it"
        );
        count += 1;
    }
    count
}

/// A function that the test runner finds.
#[derive(Debug)]
struct Test {
    /// Runs only where it is asked for.
    is_ignored: bool,
}

/// Looks for a function by its name, and for the attribute above it that makes
/// it a test: also inside `proptest!`, where each function has it.
fn test_in(source: &str, function: &str) -> Result<Test, &'static str> {
    let start = format!("fn {function}(");
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| {
        let line = line.trim_start_matches("pub ").trim_start_matches("async ");
        line.starts_with(&start)
    });
    let at = at.ok_or("does not exist")?;
    // Attributes and comments, up to what stands before the function.
    let above: Vec<&str> = lines[..at]
        .iter()
        .rev()
        .copied()
        .take_while(|line| !line.is_empty() && !line.ends_with(['{', '}', ';']))
        .filter(|line| line.starts_with("#["))
        .collect();
    let is = |name: &str| above.iter().any(|attribute| attribute.starts_with(name));
    if !["#[test]", "#[tokio::test"].into_iter().any(is) {
        return Err("is no test: it has no #[test]");
    }
    Ok(Test {
        is_ignored: is("#[ignore"),
    })
}

#[test]
fn a_function_without_its_attribute_is_no_test() {
    let source = "\
        #[test]\n\
        fn one() {\n\
        }\n\
        \n\
        fn two() {\n\
        }\n\
        // #[test]\n\
        fn three() {}\n\
        \n\
        /// Takes its time.\n\
        #[tokio::test]\n\
        #[ignore = \"an hour\"]\n\
        async fn four() {}\n";
    assert!(!test_in(source, "one").unwrap().is_ignored);
    assert!(test_in(source, "two").unwrap_err().contains("no #[test]"));
    assert!(test_in(source, "three").unwrap_err().contains("no #[test]"));
    assert!(test_in(source, "four").unwrap().is_ignored);
    assert!(test_in(source, "fou").unwrap_err().contains("not exist"));
}
