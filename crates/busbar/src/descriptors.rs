//! File descriptors: a process starts with few of them, often 1,024, and may take more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes as many descriptors as the system allows this process; a frontend needs two for each running request, and
/// accepts nobody any more when they run out. Children inherit it.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // A system that refuses leaves what was there.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
}
