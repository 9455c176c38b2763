#!/bin/sh
# root.sh ROOT DATA CODE PYTHON_PREFIX COMMAND...: run COMMAND in a root made of this machine's read-only
# folders, with DATA as the one that can be written. A broken packet may turn a command into any
# other: here it finds nothing to destroy and no process but its own. Started by `unshare` in new user,
# mount and process namespaces.
set -e
root=$1 data=$2 code=$3 python=$4
shift 4
share() { mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; mount -o remount,bind,ro "$root$2" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$root$2"; }
mount -t tmpfs none "$root"
share /usr /usr
for link in bin sbin lib lib64; do
    if [ -L "/$link" ]; then cp -P "/$link" "$root/$link"; elif [ -d "/$link" ]; then share "/$link" "/$link"; fi
done
case $python in /usr | /usr/*) ;; *) share "$python" "$python" ;; esac
share "$code" /code/tests/faults
mkdir -p "$root/data/local/tmp" "$root/proc" "$root/dev/pts" "$root/etc" "$root/tmp"
mount --bind "$data" "$root/data/local/tmp"
mount -t proc none "$root/proc"
mount -t devpts -o newinstance,ptmxmode=0666 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
[ -f /etc/ld.so.cache ] && cp /etc/ld.so.cache "$root/etc/"
exec chroot "$root" env -i PATH=/usr/bin:/bin PYTHONPATH=/code PYTHONDONTWRITEBYTECODE=1 "$@"
