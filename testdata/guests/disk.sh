# Disks: what is written to them is there when the kernel has forgotten it, and what cannot be written says so. vda and vdb
# can be written, vdc cannot, of vdd the host does not take what lies beyond 512 MB, and vde is a snapshot, full of x.

forget() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
}

[ "$(cat /sys/block/vda/serial) $(cat /sys/block/vdb/serial)" = "afterburner-0 afterburner-1" ]
mke2fs /dev/vda > /dev/null
mount -t ext2 /dev/vda /tmp
seq 200000 > /tmp/numbers
forget
[ "$(md5sum < /tmp/numbers)" = "$(seq 200000 | md5sum)" ]
umount /tmp
say "a file system is made, written and read"

pattern() {
    yes "what the guest has written" | head -c 4194304
}
pattern | dd of=/dev/vdb bs=4k seek=256 conv=fsync 2> /dev/null
forget
[ "$(dd if=/dev/vdb bs=1M skip=1 count=4 2> /dev/null | md5sum)" = "$(pattern | md5sum)" ]
[ "$(dd if=/dev/vdb bs=1M count=1 2> /dev/null | tr -d '\0' | wc -c)" = 0 ]
say "a pattern is written and read"

[ "$(cat /sys/block/vda/ro) $(cat /sys/block/vdc/ro)" = "0 1" ]
if dd if=/dev/zero of=/dev/vdc bs=512 count=1 conv=fsync 2> /dev/null; then exit 1; fi
[ "$(head -c 9 /dev/vdc)" = "read-only" ]
say "a disk that cannot be written is not written"

dd if=/dev/zero of=/dev/vdd bs=1M count=1 seek=100 conv=fsync 2> /dev/null
if dd if=/dev/zero of=/dev/vdd bs=1M count=1 seek=600 conv=fsync 2> /dev/null; then exit 1; fi
say "what the host does not take is an error"

dd if=/dev/zero of=/dev/vde bs=512 seek=3 count=7 conv=fsync 2> /dev/null
forget
[ "$(tr '\0' y < /dev/vde | tr -d y | wc -c) $(tr -d '\0' < /dev/vde | tr -d x | wc -c)" = "29184 0" ]
say "a snapshot is written and read"

[ "$(sed -n 's/^ *10: *\([0-9]*\) .*virtio0.*/\1/p' /proc/interrupts)" -gt 10 ]
