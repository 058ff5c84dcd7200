#!/bin/busybox sh
# The virtual machine's first process. What it reports goes to the second
# serial port, everything else to the console.

/bin/busybox --install -s /bin
# busybox's own come before what is on PATH.
ip=/usr/sbin/ip tc=/usr/sbin/tc
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=1

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
# Traces that nobody asked for cost the emulated processor most of its time.
dmesg -n 4
while read -r module; do
    insmod "/modules/$module" || echo "module $module was refused"
done </modules/order
$ip link set lo up

# Lines end as they are written.
stty -F /dev/ttyS1 raw

# report NAME COMMAND...: what COMMAND prints, and how it ends.
report() {
    name=$1
    shift
    {
        echo "begin $name"
        "$@"
        echo "end $? $name"
    } >/dev/ttyS1
}

# What a clsact qdisc on the uplink holds.
attached() {
    for hook in ingress egress; do
        $tc filter show dev uplink $hook 2>&1
    done
}

# The daemon with an uplink: what the verifier says to each program, what it
# finds on this kernel, and whether it takes everything away again.
load() {
    $ip link add uplink type veth peer name wire || return 1
    $ip link set uplink up || return 1
    RUST_LOG=netdp=debug netdp daemon --uplink uplink 2>/run/daemon.log &
    daemon=$!
    tries=0
    until netdp ps >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries = 100 ] || ! kill -0 $daemon 2>/dev/null; then
            cat /run/daemon.log
            return 1
        fi
        sleep 0.2
    done
    cat /run/daemon.log
    attached
}

unload() {
    kill $daemon && wait $daemon && netdp daemon --cleanup || return 1
    left=$(attached; find /sys/fs/bpf -mindepth 1 ! -name '*.debug')
    $ip link del uplink
    [ -z "$left" ] || { echo "left: $left"; return 1; }
}

# The tests that were given along, by name and what their names hold.
tests() {
    export NETDP_BIN=/usr/bin/netdp
    failed=0
    while read -r test names; do
        echo "$test:"
        # shellcheck disable=SC2086 # several names
        "/tests/$test" --show-output --test-threads=1 $names || failed=1
    done </tests/list
    return $failed
}

if [ -e /bench ]; then
    # shellcheck disable=SC2046 # several arguments
    report bench netdp bench $(cat /bench)
    poweroff -f
fi

# By a pipe: on a terminal, the demo would draw.
{
    report load load
    report doctor netdp doctor
    report unload unload
    report demo netdp demo --rounds 0 --format json
    # Once more with other options of networks, such as pairs of netkit.
    if [ -e /tests/list ]; then
        NETDP_DEFAULT_NETWORK_OPTS=$(cat /tests/options)
        export NETDP_DEFAULT_NETWORK_OPTS
        report demo-with-options netdp demo --rounds 0 --format json
        report tests-with-options tests
    fi
} 2>&1 | cat

poweroff -f
