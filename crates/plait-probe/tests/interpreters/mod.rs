//! The interpreters that there are, and programs of Python that run in them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The interpreters of this machine by version, one each; the versions that are missing are named.
pub(crate) fn interpreters() -> Vec<PathBuf> {
    let versions = ["3.11", "3.12", "3.13", "3.14", "3.15", "3.13t", "3.14t"];
    let (found, missing): (Vec<_>, Vec<_>) = versions
        .iter()
        .map(|version| (version, find(version)))
        .partition(|(_, path)| path.is_some());
    for (version, _) in missing {
        eprintln!("skipped: no Python {version}");
    }
    found.into_iter().filter_map(|(_, path)| path).collect()
}

fn find(version: &str) -> Option<PathBuf> {
    let name = format!("python{version}");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    let installed = std::fs::read_dir(home.join(".pyenv/versions"))
        .into_iter()
        .flatten()
        .flatten();
    let folders = installed
        .map(|entry| entry.path().join("bin"))
        .chain(std::env::split_paths(&path));
    folders
        .map(|folder| folder.join(&name))
        .find(|path| runs(path, version))
}

/// Whether it is there and is that version: names may stand for a chooser of versions.
fn runs(path: &Path, version: &str) -> bool {
    let says = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2] + 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')))";
    let said = path
        .exists()
        .then(|| Command::new(path).args(["-c", says]).output().ok())
        .flatten();
    said.is_some_and(|said| said.stdout.trim_ascii() == version.as_bytes())
}

/// A program that runs until this is dropped.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts one of `tests/programs`; with what it says first, up to an empty line.
    pub(crate) fn start(python: &Path, name: &str) -> (Program, Vec<String>) {
        let file = format!("{}/tests/programs/{name}", env!("CARGO_MANIFEST_DIR"));
        Self::run(Command::new(python).arg(file))
    }

    pub(crate) fn run(command: &mut Command) -> (Program, Vec<String>) {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let lines = output.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
        let lines = lines.collect();
        (Program { child }, lines)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
