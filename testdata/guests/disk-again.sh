# The file system that `disk.sh` has made, in another boot, on a disk that cannot be written.

mount -t ext2 -o ro /dev/vda /tmp
[ "$(md5sum < /tmp/numbers)" = "$(seq 200000 | md5sum)" ]
umount /tmp
say "the file system is still there"
