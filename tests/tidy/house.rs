//! Finds the repository's text files, and which modules among them are compiled for tests only.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::source::{Source, TEST_MARK, paths};

/// All files under `folder` that are ours and text.
fn walk(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    const SKIPPED: &[&str] = &[
        "target",
        ".git",
        "corpus",
        "artifacts",
        "proptest-regressions",
    ];
    const TEXT: &[&str] = &[
        "rs", "toml", "md", "service", "socket", "sh", "py", "yml", "yaml", "conf", "html", "js",
        "css",
    ];
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder of the repository")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let extension = path
            .extension()
            .and_then(|end| end.to_str())
            .unwrap_or_default();
        if SKIPPED.contains(&name) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, found);
        } else if TEXT.contains(&extension) || matches!(name, "Makefile" | "run") {
            let text = fs::read_to_string(&path).expect("readable text");
            let inner = path.strip_prefix(root).expect("below the root");
            found.push(Source::new(&inner.to_string_lossy(), &text));
        }
    }
}

/// The folder or file, without its ending, of each module that is declared for tests only.
pub fn test_modules(sources: &[Source]) -> HashSet<String> {
    let mut found = HashSet::new();
    for source in sources {
        for (at, _) in source.code.match_indices(TEST_MARK) {
            found.extend(test_module(source, at + TEST_MARK.len()));
        }
    }
    found
}

/// The file of the module whose declaration follows `at`, if it is one.
fn test_module(source: &Source, at: usize) -> Option<String> {
    // The code has the path blanked, the text has not.
    let text = source.text[at..].trim_start();
    if let Some(path) = text.strip_prefix("#[path = \"") {
        let (file, _) = path.split_once(".rs\"")?;
        let (folder, _) = source.path.rsplit_once('/')?;
        return Some(format!("{folder}/{file}"));
    }
    let declared = text.trim_start_matches("pub ").strip_prefix("mod ")?;
    let name = paths(declared).first()?.first()?.clone();
    let folder = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
    Some(format!("{folder}/{name}"))
}

pub fn house() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    walk(root, root, &mut sources);
    let tests = test_modules(&sources);
    for source in &mut sources {
        let module = source.path.trim_end_matches(".rs");
        let is_test = |test: &String| module == test || module.starts_with(&format!("{test}/"));
        if tests.iter().any(is_test) {
            source.product = String::new();
            source.test_lines = source.text.lines().count();
        }
    }
    sources
}
