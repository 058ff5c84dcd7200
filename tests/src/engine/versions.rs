//! Each test with every version of an engine: a module for a version, whose tests
//! are handed its folder of packages.

/// With the oldest Docker and the newest.
#[macro_export]
macro_rules! with_each_docker {
    ($($test:ident),* $(,)?) => {
        $crate::with_each_version! {
            "needs a real Docker: cargo xtask test engines",
            { docker_20_10: "debian-12", docker_newest: "newest" },
            [$($test),*]
        }
    };
}

/// With CNI, netavark 1 and netavark 2.
#[macro_export]
macro_rules! with_each_podman {
    ($($test:ident),* $(,)?) => {
        $crate::with_each_version! {
            "needs a real Podman: cargo xtask test engines",
            { podman_4_3: "debian-12", podman_5: "debian-13", podman_6: "newest-podman" },
            [$($test),*]
        }
    };
}

/// With the oldest containerd and the newest.
#[macro_export]
macro_rules! with_each_containerd {
    ($($test:ident),* $(,)?) => {
        $crate::with_each_version! {
            "needs a real containerd: cargo xtask test engines",
            { containerd_1_6: "debian-12", containerd_newest: "newest" },
            [$($test),*]
        }
    };
}

/// What those above are made of.
#[doc(hidden)]
#[macro_export]
macro_rules! with_each_version {
    ($needs:literal, { $($version:ident: $packages:literal),* }, $tests:tt) => {
        $($crate::with_each_version! { $needs, $version, $packages, $tests })*
    };
    ($needs:literal, $version:ident, $packages:literal, [$($test:ident),*]) => {
        mod $version {
            $(#[test]
            #[ignore = $needs]
            fn $test() {
                super::$test($packages);
            })*
        }
    };
}
