//! What `/proc/PID/mountinfo` says (proc_pid_mountinfo(5)).

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount<'a> {
    /// Numbers of the file system's device: major, minor.
    pub device: (u64, u64),
    /// What of the file system is mounted.
    pub root: &'a str,
    /// Where, as the process sees it.
    pub point: String,
    /// Type of the file system.
    pub filesystem: &'a str,
    /// What was given as its source.
    pub source: &'a str,
}

/// The mounts that a file's text lists; a later one may lie on an earlier one.
pub fn mounts(text: &str) -> impl DoubleEndedIterator<Item = Mount<'_>> {
    text.lines().filter_map(Mount::of)
}

impl<'a> Mount<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(2);
        let (major, minor) = place.next()?.split_once(':')?;
        let (root, point) = (place.next()?, place.next()?);
        let mut kind = kind.split(' ');
        Some(Self {
            device: (major.parse().ok()?, minor.parse().ok()?),
            root,
            point: unescaped(point),
            filesystem: kind.next()?,
            source: kind.next()?,
        })
    }
}

/// Space, tab, newline and backslash are written in octal there.
fn unescaped(path: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(path.to_owned(), |path, (escaped, plain)| {
        path.replace(escaped, plain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_line() {
        let line = "31 25 0:27 /inner /mnt/my\\040groups rw,nosuid shared:9 - cgroup2 none rw\n";
        let found: Vec<Mount<'_>> = mounts(line).collect();
        let expected = Mount {
            device: (0, 27),
            root: "/inner",
            point: "/mnt/my groups".to_owned(),
            filesystem: "cgroup2",
            source: "none",
        };
        assert_eq!(found, [expected]);
    }
}
