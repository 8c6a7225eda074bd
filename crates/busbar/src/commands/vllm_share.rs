//! How several vLLMs share a machine that has no GPU. Pure.
//!
//! Left alone, a vLLM on CPUs takes nine tenths of the memory for its KV cache, so that the second one does not start,
//! and binds its threads to the first cores, as the second one does too.
//!
//! Source: vLLM 0.32.0, `platforms/cpu.py`, `v1/worker/cpu_worker.py` and `utils/ompmultiprocessing.py`.

/// Part of the machine's memory for the KV caches of all: beside them each vLLM needs 4 GB for its own processes.
const KV_SHARE: u64 = 8;

/// Bounds of one vLLM's KV cache, GiB: vLLM counts in whole ones.
const KV_GIB: (u64, u64) = (1, 16);

/// Flags by which a manifest decides on the memory itself.
const MEMORY_FLAGS: [&str; 2] = ["--kv-cache-memory-bytes", "--gpu-memory-utilization"];

/// What each of `workers` vLLMs is told by its environment, on a machine with `cores` and `memory` bytes; `arguments`
/// are the manifest's. What somebody has set already is for the caller to leave alone.
pub(super) fn environment(
    workers: usize,
    cores: usize,
    memory: u64,
    arguments: &[String],
) -> Vec<(&'static str, String)> {
    let workers = workers.max(1);
    let mut told = Vec::new();
    let decided = |argument: &String| {
        let flag = argument.split('=').next().unwrap_or_default().replace('_', "-");
        MEMORY_FLAGS.contains(&flag.as_str())
    };
    if !arguments.iter().any(decided) {
        let gib = (memory >> 30) / KV_SHARE / workers as u64;
        told.push(("VLLM_CPU_KVCACHE_SPACE", gib.clamp(KV_GIB.0, KV_GIB.1).to_string()));
    }
    // A single one is best bound by itself, to all cores but one.
    if workers > 1 {
        told.push(("VLLM_CPU_OMP_THREADS_BIND", "nobind".to_owned()));
        told.push(("OMP_NUM_THREADS", (cores / workers).max(1).to_string()));
    }
    told
}

/// The machine's memory in `/proc/meminfo`, bytes.
pub(super) fn memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(workers: usize, cores: usize, gib: u64, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        let told = environment(workers, cores, gib << 30, &arguments);
        told.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn two_on_a_laptop_share_its_memory_and_its_cores() {
        let threads = "VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS";
        assert_eq!(told(2, 2, 23, &[]), format!("VLLM_CPU_KVCACHE_SPACE=1 {threads}=1"));
        assert_eq!(told(2, 16, 128, &[]), format!("VLLM_CPU_KVCACHE_SPACE=8 {threads}=8"));
        assert_eq!(told(4, 2, 8, &[]), format!("VLLM_CPU_KVCACHE_SPACE=1 {threads}=1"));
    }

    #[test]
    fn a_single_one_has_its_bound_and_binds_itself() {
        assert_eq!(told(1, 64, 1024, &[]), "VLLM_CPU_KVCACHE_SPACE=16");
    }

    #[test]
    fn a_manifest_that_decides_on_its_memory_is_left_to_it() {
        for flag in ["--kv-cache-memory-bytes=1", "--gpu_memory_utilization"] {
            assert_eq!(told(1, 2, 64, &["--seed", "1", flag, "0.3"]), "", "{flag}");
        }
    }

    #[test]
    fn the_machine_says_its_memory() {
        assert_eq!(memory("MemTotal:       24630504 kB\nMemFree: 1 kB\n"), Some(24_630_504 * 1024));
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }
}
