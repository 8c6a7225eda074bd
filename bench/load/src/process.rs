//! CPU time and memory of the processes under load, from `/proc`.

/// CPU seconds so far, user and system, of all threads of these processes.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| ticks(*pid)).sum::<f64>() / 100.0 // USER_HZ is 100 on every Linux.
}

/// Resident memory in MB (10⁶ bytes) of all of them.
pub fn rss_mb(pids: &[u32]) -> f64 {
    let kib = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned));
        line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    pids.iter().map(kib).sum::<f64>() * 1024.0 / 1e6
}

fn ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15; the name before them may hold spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default().to_owned();
    after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
}
