# Becomes the first process of a host for a container engine: in mount, PID and
# network namespaces of its own, below the files of unpacked packages.
# $1 the packages' folder, $2 an empty one, $3 the netdp command, $4 the control
# groups that are seen
set -e
mount -t tmpfs -o mode=755 engine "$2"
cd "$2"
mkdir upper work root
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay root
cd root
mkdir -p proc sys dev run tmp var/tmp root old usr/local/bin usr/lib/cni opt/cni/bin usr/local/lib/netavark
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind "$4" sys/fs/cgroup
mount -t bpf -o mode=0700 bpf sys/fs/bpf
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
# No overlay is made upon an overlay.
for folder in docker containers containerd netdp; do
    mkdir -p "var/lib/$folder"
    mount -t tmpfs -o mode=711 "$folder" "var/lib/$folder"
done
rm -f var/run
ln -s /run var/run
: >usr/local/bin/netdp
mount --bind "$3" usr/local/bin/netdp
for folder in usr/lib/cni opt/cni/bin usr/local/lib/netavark; do
    ln -sf /usr/local/bin/netdp "$folder/netdp"
done
ln -s netdp usr/local/bin/netdp-runc
echo "127.0.0.1 localhost" >etc/hosts
: >etc/resolv.conf
pivot_root . old
umount -l /old
: >/run/prepared
# Takes what orphans leave.
sleep infinity &
wait
