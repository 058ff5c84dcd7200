//! Network namespaces as objects.
//!
//! A [`Namespace`] is an open file descriptor of one network namespace. A
//! thread enters a namespace for good or leaves it by entering another, so
//! [`Namespace::run`] always works on a thread of its own and no other thread
//! ever changes the namespace it runs in.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// The calling thread's namespace. `/proc/self` would be the main thread's.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// What went wrong with a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("can't create the network namespace {}: {source}{}", .path.display(), privilege_hint(.source))]
    Create { path: PathBuf, source: io::Error },
    #[error(
        "the network namespace {path} exists already; when nothing uses it, remove it with 'umount {path}; rm {path}'",
        path = .path.display()
    )]
    Exists { path: PathBuf },
    #[error("can't open the network namespace {}: {source}{}", .path.display(), privilege_hint(.source))]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is not a network namespace; give a path such as /proc/PID/ns/net or /run/netns/NAME", .0.display())]
    NotANamespace(PathBuf),
    #[error("can't enter the network namespace {}: {source}{}", .path.display(), privilege_hint(.source))]
    Enter { path: PathBuf, source: io::Error },
    #[error("can't read the cookie of the network namespace {}: {source}", .path.display())]
    Cookie { path: PathBuf, source: io::Error },
}

impl NetnsError {
    /// Whether there is no namespace at the path: no other reason keeps it
    /// from being opened.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NotANamespace(_) => true,
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

fn privilege_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run netdp as root (it needs CAP_SYS_ADMIN)",
        _ => "",
    }
}

/// An open network namespace.
///
/// The namespace lives at least as long as this value, even when its last
/// process ends and its path is removed.
#[derive(Debug)]
pub struct Namespace {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    inode: u64,
    /// Whether `path` is a bind mount made by [`Namespace::create`].
    mounted: bool,
}

impl Namespace {
    /// Makes a new network namespace, mounted at `dir/name`, with its loopback
    /// interface up. Dropping the value unmounts and removes the path.
    ///
    /// # Errors
    /// When the path exists, `dir` can't be made or written, or the privilege
    /// to make namespaces and mounts is missing.
    pub fn create(dir: &Path, name: &str) -> Result<Self, NetnsError> {
        let path = dir.join(name);
        let failed = |source| NetnsError::Create {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(failed)?;
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(NetnsError::Exists { path });
            }
            Err(error) => return Err(failed(error)),
        }
        let made = thread::scope(|scope| {
            on_thread(scope, || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                loopback_up()?;
                mount(
                    Some(CURRENT),
                    &path,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
                File::open(CURRENT)
            })
        });
        match made.and_then(|file| Ok((file.metadata()?.ino(), file))) {
            Ok((inode, file)) => Ok(Self {
                fd: Arc::new(file.into()),
                path,
                inode,
                mounted: true,
            }),
            Err(error) => {
                remove_mount(&path);
                Err(failed(error))
            }
        }
    }

    /// Opens an existing namespace, such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the path can't be opened or is no network namespace.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open {
            path: path.into(),
            source,
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        // Opening a pipe or a device could block or have effects of its own.
        if !metadata.is_file() {
            return Err(NetnsError::NotANamespace(path.into()));
        }
        let file = File::open(path).map_err(failed)?;
        if namespace_type(file.as_fd()) != Some(CloneFlags::CLONE_NEWNET) {
            return Err(NetnsError::NotANamespace(path.into()));
        }
        let inode = file.metadata().map_err(failed)?.ino();
        Ok(Self {
            fd: Arc::new(file.into()),
            path: path.into(),
            inode,
            mounted: false,
        })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` isn't mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new(CURRENT))
    }

    /// Another reference to the same namespace, which leaves the path alone
    /// when it is dropped.
    pub fn reference(&self) -> Self {
        Self {
            fd: Arc::clone(&self.fd),
            path: self.path.clone(),
            inode: self.inode,
            mounted: false,
        }
    }

    /// The path given to [`create`](Self::create) or [`open`](Self::open).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its path still leads to this namespace.
    pub fn is_at_its_path(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
    }

    /// The inode number that `/proc/PID/ns/net` shows. It is given to another
    /// namespace once this one is gone; see [`cookie`](Self::cookie).
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The kernel's identity of the namespace, unique until the next boot; the
    /// value `bpf_get_netns_cookie` gives. From Linux 5.14.
    ///
    /// # Errors
    /// When the namespace can't be entered or the kernel is older.
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        self.run(socket_cookie)?
            .map_err(|source| NetnsError::Cookie {
                path: self.path.clone(),
                source,
            })
    }

    /// Runs `f` inside the namespace, on a thread made for it, and waits. A
    /// panic in `f` goes on in the caller.
    ///
    /// # Errors
    /// When the thread can't be made or can't enter the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        thread::scope(|scope| {
            on_thread(scope, || {
                setns(&self.fd, CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            })
        })
        .map_err(|source| NetnsError::Enter {
            path: self.path.clone(),
            source,
        })
    }

    /// [`run`](Self::run)s `f` in several namespaces, one after another on one
    /// thread.
    ///
    /// # Errors
    /// When the thread can't be made; for each namespace, when it can't be
    /// entered.
    pub fn run_in_each<T: Send>(
        namespaces: &[&Self],
        mut f: impl FnMut(&Self) -> T + Send,
    ) -> io::Result<Vec<Result<T, NetnsError>>> {
        let mut visit = |namespace: &Self| match setns(&namespace.fd, CloneFlags::CLONE_NEWNET) {
            Ok(()) => Ok(f(namespace)),
            Err(errno) => Err(NetnsError::Enter {
                path: namespace.path.clone(),
                source: errno.into(),
            }),
        };
        thread::scope(|scope| {
            on_thread(scope, || {
                Ok(namespaces.iter().map(|it| visit(it)).collect())
            })
        })
    }

    /// A command that enters the namespace before it becomes `program`. Mounts
    /// are unchanged: `/sys/class/net` still shows the caller's namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let fd = Arc::clone(&self.fd);
        let mut command = Command::new(program);
        // SAFETY: setns is a plain system call and nothing here allocates or
        // takes a lock, so the closure may run between fork and exec.
        unsafe {
            command.pre_exec(move || Ok(setns(&fd, CloneFlags::CLONE_NEWNET)?));
        }
        command
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.mounted {
            remove_mount(&self.path);
        }
    }
}

/// Runs `f` on a new thread of `scope`, for work that changes the thread's
/// namespace.
fn on_thread<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    f: impl FnOnce() -> io::Result<T> + Send + 'scope,
) -> io::Result<T> {
    thread::Builder::new()
        .name("netns".into())
        .spawn_scoped(scope, f)?
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn remove_mount(path: &Path) {
    // Not mounted when create failed half-way; nothing else can be done about
    // either failure.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("can't remove {}: {error}", path.display());
    }
}

mod ioctl {
    // NS_GET_NSTYPE of linux/nsfs.h.
    nix::ioctl_none!(ns_get_nstype, 0xb7, 0x3);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// The kind of namespace behind `fd`; none when it is another kind of file.
fn namespace_type(fd: BorrowedFd<'_>) -> Option<CloneFlags> {
    // SAFETY: the request takes no argument, and files that don't know it
    // answer ENOTTY.
    let kind = unsafe { ioctl::ns_get_nstype(fd.as_raw_fd()) }.ok()?;
    CloneFlags::from_bits(kind)
}

/// Brings `lo` of the calling thread's namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request reads an ifreq with a name and flags, both set.
    unsafe { ioctl::siocsifflags(fd.as_raw_fd(), &request) }?;
    Ok(())
}

fn socket_cookie() -> io::Result<u64> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes a u64, and pointer and length are of one.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}
