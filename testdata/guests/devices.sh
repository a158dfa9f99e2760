# Devices of the machine, by PCI: a disk gives back what was written to it, in some thousand interrupts, and the gateway of
# QEMU's network answers.

mke2fs /dev/vda > /dev/null
mount -t ext2 /dev/vda /tmp
seq 200000 > /tmp/numbers
sync
echo 3 > /proc/sys/vm/drop_caches
[ "$(md5sum < /tmp/numbers)" = "$(seq 200000 | md5sum)" ]
umount /tmp
say "a file system is made, written and read"

dd if=/dev/vda of=/dev/null bs=4k count=4096 iflag=direct 2> /dev/null
interrupts() { sed -n "s/^ *[0-9]*: *\([0-9]*\) .*$1.*/\1/p" /proc/interrupts; }
[ "$(interrupts virtio0)" -gt 4096 ]
say "interrupts come"

ifconfig eth0 10.0.2.15 up
ping -c 3 10.0.2.2 > /dev/null
[ "$(interrupts virtio1)" -gt 2 ]
say "the gateway answers"
