//! Where this process's control group lies in the file system, for both versions of control groups.
//!
//! `/proc/self/cgroup` says which group, `/proc/self/mountinfo` where its hierarchy is mounted and which part of it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Which tree of groups.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hierarchy {
    /// Version 2: one tree for all controllers.
    Unified,
    /// Version 1: the tree of this controller.
    Legacy(&'static str),
}

/// The directories of our group and of those above it up to the mount point, our own first. None where there is no such
/// hierarchy.
pub(crate) fn lineage(hierarchy: Hierarchy) -> Vec<PathBuf> {
    lineage_under(Path::new("/"), hierarchy)
}

/// The same in the file system that begins at `root`.
pub(crate) fn lineage_under(root: &Path, hierarchy: Hierarchy) -> Vec<PathBuf> {
    let text = |path| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (text("proc/self/cgroup"), text("proc/self/mountinfo"));
    let found = find(&groups, &mounts, hierarchy).unwrap_or_default();
    let rooted = |path: PathBuf| root.join(path.strip_prefix("/").unwrap_or(&path));
    found.into_iter().map(rooted).collect()
}

/// The text of a file of a group, if there is one that we may read.
pub(crate) fn read(directory: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(directory.join(file)).ok()
}

fn find(groups: &str, mounts: &str, hierarchy: Hierarchy) -> Option<Vec<PathBuf>> {
    let group = groups.lines().find_map(|line| group_of(line, hierarchy))?;
    let mount = mounts.lines().find_map(|line| Mount::of(line, hierarchy))?;
    Some(mount.lineage(group))
}

/// A line of `/proc/self/cgroup` is `id:controllers:path`; version 2 has id 0 and no controllers.
fn group_of(line: &str, hierarchy: Hierarchy) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let ours = match hierarchy {
        Hierarchy::Unified => id == "0" && controllers.is_empty(),
        Hierarchy::Legacy(name) => controllers.split(',').any(|each| each == name),
    };
    ours.then_some(path)
}

/// A mounted hierarchy: the group `root` of it is seen at `point`.
struct Mount {
    root: String,
    point: PathBuf,
}

impl Mount {
    /// A line of `mountinfo` is `id parent device root point options [optional…] - type source superoptions`.
    fn of(line: &str, hierarchy: Hierarchy) -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let ours = match hierarchy {
            Hierarchy::Unified => kind == "cgroup2",
            Hierarchy::Legacy(name) => kind == "cgroup" && options.split(',').any(|each| each == name),
        };
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        ours.then(|| Mount {
            root: unescape(root).into_owned(),
            point: PathBuf::from(unescape(point).into_owned()),
        })
    }

    /// From `group` up to the mount point. A group that is not below `root` is seen at the mount point itself.
    fn lineage(&self, group: &str) -> Vec<PathBuf> {
        let below = Path::new(group).strip_prefix(&self.root);
        let below = below.unwrap_or(Path::new(""));
        below.ancestors().map(|path| self.point.join(path)).collect()
    }
}

/// `mountinfo` writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text.into();
    }
    let plain = text.replace("\\040", " ").replace("\\011", "\t");
    plain.replace("\\012", "\n").replace("\\134", "\\").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_GROUPS: &str = "9:name=systemd:/\n4:memory:/jobs/42\n2:cpu,cpuacct:/a:b\n0::/\n";
    const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 master:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /jobs /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn paths(groups: &str, mounts: &str, hierarchy: Hierarchy) -> Vec<String> {
        let found = find(groups, mounts, hierarchy).unwrap_or_default();
        found.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_group_of_version_2_and_those_above_it() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            paths("0::/user.slice/app\n", mounts, Hierarchy::Unified),
            [
                "/sys/fs/cgroup/user.slice/app",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup/"
            ]
        );
        let legacy = Hierarchy::Legacy("cpu");
        assert!(paths("0::/user.slice/app\n", mounts, legacy).is_empty());
    }

    #[test]
    fn each_controller_of_version_1_has_its_own() {
        let found = |hierarchy| paths(HYBRID_GROUPS, HYBRID_MOUNTS, hierarchy);
        let cpu = ["/sys/fs/cgroup/cpu,cpuacct/a:b", "/sys/fs/cgroup/cpu,cpuacct/"];
        assert_eq!(found(Hierarchy::Legacy("cpu")), cpu);
        assert_eq!(found(Hierarchy::Unified), ["/sys/fs/cgroup/unified/"]);
        assert!(found(Hierarchy::Legacy("hugetlb")).is_empty());
    }

    #[test]
    fn a_container_sees_its_part_of_the_tree() {
        let memory = Hierarchy::Legacy("memory");
        let inside = ["/sys/fs/cgroup/memory/42", "/sys/fs/cgroup/memory/"];
        assert_eq!(paths(HYBRID_GROUPS, HYBRID_MOUNTS, memory), inside);
        let outside = paths("4:memory:/elsewhere\n", HYBRID_MOUNTS, memory);
        assert_eq!(outside, ["/sys/fs/cgroup/memory/"]);
    }

    #[test]
    fn escapes_and_broken_lines() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert!(paths("0:", "x - cgroup2", Hierarchy::Unified).is_empty());
        assert!(paths("", "", Hierarchy::Unified).is_empty());
    }
}
