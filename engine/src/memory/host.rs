//! The host's memory: how much this process may take, and how much it took.

use std::path::{Path, PathBuf};

/// Share of the memory that a process may take by itself: the rest is for other processes, and for the system.
pub const HOST_SHARE: f64 = 0.75;

/// Taken for a limit where the system does not say how much memory it has.
const UNKNOWN: u64 = u64::MAX / 2;

/// [`HOST_SHARE`] of the machine's memory, or of the control group's limit where that is lower.
pub(crate) fn share_of_host() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let installed = read(Path::new("/proc/meminfo")).and_then(|text| kibibytes(&text, "MemTotal"));
    let limit = read(Path::new("/proc/self/cgroup")).and_then(|groups| group_limit(&groups, read));
    installed.into_iter().chain(limit).min().map_or(UNKNOWN, |bytes| (bytes as f64 * HOST_SHARE) as u64)
}

/// The most memory that this process has had resident so far, in bytes, mapped files included; `None` where the
/// system does not say.
pub fn peak_host_memory() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM")
}

/// A field of `/proc/meminfo` or `/proc/self/status`, in bytes.
fn kibibytes(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest limit of the process's control group and those around it: `memory.max` of version 2,
/// `memory.limit_in_bytes` of version 1. A container may see its own group as the root, or be told the host's path.
fn group_limit(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut files: Vec<PathBuf> = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        files.extend(Path::new(group).ancestors().map(|group| {
            let inside = group.strip_prefix("/").unwrap_or(group);
            Path::new(root).join(inside).join(file)
        }));
    }
    // `max`, and a number near 2⁶³, are no limit.
    let limits = files.iter().filter_map(|file| read(file)?.trim().parse::<u64>().ok());
    limits.filter(|limit| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        group_limit(groups, |path| files.get(path.to_str()?).map(|text| (*text).to_owned()))
    }

    #[test]
    fn the_lowest_limit_of_all_groups_around_the_process_counts() {
        let files = [
            ("/sys/fs/cgroup/job/memory.max", "8589934592\n"),
            ("/sys/fs/cgroup/job/step/memory.max", "max\n"),
            ("/sys/fs/cgroup/memory.max", "34359738368\n"),
        ];
        assert_eq!(limit("0::/job/step\n", &files), Some(8 << 30));
        // A container's own group is its root, whatever path it is told.
        assert_eq!(limit("0::/docker/abc\n", &files), Some(32 << 30));
        assert_eq!(limit("0::/\n", &files[1..2]), None);
    }

    #[test]
    fn groups_of_the_first_version_have_the_memory_controllers_limit() {
        let groups = "5:cpu,cpuacct:/a\n4:memory:/a/b\n0::/\n";
        let files = [
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712"),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824"),
            ("/sys/fs/cgroup/cpu/a/memory.limit_in_bytes", "1"),
        ];
        assert_eq!(limit(groups, &files), Some(1 << 30));
        assert_eq!(limit(groups, &files[..1]), None);
    }

    #[test]
    fn fields_of_the_systems_tables_are_bytes() {
        let text = "MemTotalX:  7 kB\nMemTotal:       16384 kB\nMemFree: 12 kB\n";
        assert_eq!(kibibytes(text, "MemTotal"), Some(16 << 20));
        assert_eq!(kibibytes(text, "VmHWM"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak_below_its_share_of_the_host() {
        let peak = peak_host_memory().expect("Linux tells it");
        assert!(peak > 1 << 16 && peak < share_of_host(), "{peak} of {}", share_of_host());
    }
}
