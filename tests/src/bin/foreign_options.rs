//! Sets an option of a socket by calls of 32 bits and of x32, as any thread of a
//! program for x86-64 can, and prints what each was answered. Ends by a signal
//! where the kernel has no calls of 32 bits.

#[cfg(target_arch = "x86_64")]
fn main() {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let socket = socket.as_raw_fd() as u32;
    let below = calls::Below::new();
    let (level, option) = (libc::SOL_SOCKET as u32, libc::SO_KEEPALIVE as u32);
    let value = below.put(0, &[1]);
    let arguments = below.put(16, &[socket, level, option, value, 4]);
    let ring = below.put(64, &[0; 30]);
    let own = [socket, level, option, value, 4];
    for (name, said) in [
        ("setsockopt", calls::by_32_bits(366, own)),
        (
            "socketcall",
            calls::by_32_bits(102, [14, arguments, 0, 0, 0]),
        ),
        // Anything else goes on: this is getpid.
        ("getpid", calls::by_32_bits(20, [0; 5]).min(0)),
        (
            "io_uring_setup",
            calls::by_32_bits(425, [1, ring, 0, 0, 0]).min(0),
        ),
        ("x32", calls::by_x32(541, own)),
    ] {
        println!("{name} {said}");
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    std::process::abort();
}

#[cfg(target_arch = "x86_64")]
mod calls {
    use std::arch::asm;
    use std::ptr;

    /// A page that calls of 32 bits can name.
    pub struct Below(*mut u32);

    impl Below {
        pub fn new() -> Self {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a new page, of nobody else's.
            let page = unsafe { libc::mmap(ptr::null_mut(), 4096, rights, flags, -1, 0) };
            assert_ne!(page, libc::MAP_FAILED);
            Self(page.cast())
        }

        /// Where the words lie then, so many bytes from the page's begin.
        pub fn put(&self, at: usize, words: &[u32]) -> u32 {
            assert!(at + size_of_val(words) <= 4096);
            // SAFETY: within the page.
            let to = unsafe { self.0.byte_add(at) };
            // SAFETY: as above; the words lie elsewhere.
            unsafe { ptr::copy_nonoverlapping(words.as_ptr(), to, words.len()) };
            to as usize as u32
        }
    }

    /// What the kernel answers a call of 32 bits.
    pub fn by_32_bits(number: u32, [a, b, c, d, e]: [u32; 5]) -> i32 {
        let answer: i32;
        // SAFETY: rbx is LLVM's own and put back; pointers are into `Below`. The
        // kernel may clear r8 to r11.
        unsafe {
            asm!(
                "xchg rbx, {first}",
                "int 0x80",
                "xchg rbx, {first}",
                first = inout(reg) u64::from(a) => _,
                inout("eax") number => answer,
                in("ecx") b,
                in("edx") c,
                in("esi") d,
                in("edi") e,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
        answer
    }

    /// The same of x32.
    pub fn by_x32(number: i64, [a, b, c, d, e]: [u32; 5]) -> i32 {
        const X32: i64 = 0x4000_0000;
        // SAFETY: pointers are into `Below`.
        let answer = unsafe { libc::syscall(X32 | number, a, b, c, d, e) };
        let error = std::io::Error::last_os_error().raw_os_error();
        if answer == 0 { 0 } else { -error.unwrap_or(0) }
    }
}
