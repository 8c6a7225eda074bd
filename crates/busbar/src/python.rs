//! The Python behind us: on a base image our `python3` stands first in PATH, and everything that is none of our modules
//! belongs to the base's own.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Becomes the next program of the same name in PATH, with the same arguments. Returns only where there is none, or where
/// the arguments ask for a module of Dynamo's, which no other Python has either.
pub(crate) fn hand_over(argv: &[String]) -> Option<std::io::Error> {
    let name = argv.first()?.rsplit('/').next()?;
    if !matches!(name, "python3" | "python") || asks_for_dynamo(&argv[1..]) {
        return None;
    }
    let us = std::env::current_exe().ok()?;
    let next = behind(name, &us, std::env::var_os("PATH")?.as_os_str())?;
    // Its own path as its name: by that it finds its libraries.
    Some(Command::new(&next).args(&argv[1..]).exec())
}

fn asks_for_dynamo(args: &[String]) -> bool {
    args.windows(2).any(|pair| pair[0] == "-m" && pair[1].split('.').next() == Some("dynamo"))
}

/// The first file called `name` in `path` that is not `us`.
fn behind(name: &str, us: &Path, path: &OsStr) -> Option<PathBuf> {
    let us = us.canonicalize().ok()?;
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| {
        // One that is a link to us would only come back here.
        file.canonicalize().is_ok_and(|real| real != us && real.is_file())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_behind_us_is_the_next_of_the_name_that_is_not_us() {
        let machine = tempfile::tempdir().unwrap();
        let folder = |name: &str| machine.path().join(name);
        for name in ["ours", "bin", "empty"] {
            std::fs::create_dir(folder(name)).unwrap();
        }
        let us = folder("busbar");
        std::fs::write(&us, "us").unwrap();
        symlink(&us, folder("ours").join("python3")).unwrap();
        std::fs::write(folder("bin").join("python3.12"), "python").unwrap();
        symlink("python3.12", folder("bin").join("python3")).unwrap();
        let path = std::env::join_paths([folder("ours"), folder("empty"), folder("bin")]).unwrap();
        assert_eq!(behind("python3", &us, &path), Some(folder("bin").join("python3")));
        assert_eq!(behind("python", &us, &path), None);
        let path = std::env::join_paths([folder("ours")]).unwrap();
        assert_eq!(behind("python3", &us, &path), None);
    }

    #[test]
    fn modules_of_dynamo_are_never_handed_over() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(asks_for_dynamo(&words("-u -m dynamo.planner --x")));
        for line in ["-m dynamometer", "-c import_dynamo", "script.py -m", "-m vllm.entrypoints.openai.api_server"] {
            assert!(!asks_for_dynamo(&words(line)), "{line}");
        }
    }
}
