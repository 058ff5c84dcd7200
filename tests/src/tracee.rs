//! A process that is stopped at a system call of choice.

use std::io;

use libc::{c_void, pid_t, ptrace_syscall_info};

/// A traced process. The thread that began it does all the rest (ptrace(2)); it
/// goes on when this is dropped.
#[derive(Debug)]
pub struct Tracee(pid_t);

impl Tracee {
    /// # Panics
    /// When it can't be traced.
    #[track_caller]
    pub fn stop(process: pid_t) -> Self {
        let traced = Self(process);
        let options = libc::PTRACE_O_TRACESYSGOOD as usize as *mut c_void;
        traced.request(libc::PTRACE_SEIZE, 0, options);
        traced.request(libc::PTRACE_INTERRUPT, 0, std::ptr::null_mut());
        traced.wait();
        traced
    }

    /// Lets it go on until it is about to make a call of this number, with these
    /// first arguments that are given.
    ///
    /// # Panics
    /// When it ends before.
    #[track_caller]
    pub fn run_to(&self, number: i64, arguments: &[Option<u64>]) {
        loop {
            self.request(libc::PTRACE_SYSCALL, 0, std::ptr::null_mut());
            self.wait();
            let Some((called, given)) = self.call() else {
                continue;
            };
            let mut pairs = arguments.iter().zip(given);
            if called == number as u64 && pairs.all(|(it, given)| it.is_none_or(|it| it == given)) {
                return;
            }
        }
    }

    /// The call that it is about to make.
    fn call(&self) -> Option<(u64, [u64; 6])> {
        // SAFETY: plain numbers.
        let mut info: ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let length = size_of_val(&info);
        self.request(
            libc::PTRACE_GET_SYSCALL_INFO,
            length,
            (&raw mut info).cast(),
        );
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return None;
        }
        // SAFETY: it is the variant that the kernel wrote.
        Some(unsafe { (info.u.entry.nr, info.u.entry.args) })
    }

    #[track_caller]
    fn request(&self, request: u32, addr: usize, data: *mut c_void) {
        // SAFETY: what `data` points to is as long as the request says.
        let done = unsafe { libc::ptrace(request, self.0, addr, data) };
        assert!(done >= 0, "ptrace: {}", io::Error::last_os_error());
    }

    #[track_caller]
    fn wait(&self) {
        let mut status = 0;
        // SAFETY: the kernel writes the number.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        assert!(waited == self.0 && libc::WIFSTOPPED(status), "it ended");
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // SAFETY: plain numbers.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}
