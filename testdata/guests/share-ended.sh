# Whoever serves a directory is ended, from outside.
mkdir /share
mount -t 9p -o trans=virtio,version=9p2000.L share0 /share
echo "share: $(cat /share/file)"
while [ "$(ls /share 2> /dev/null)" = file ]; do :; done
if cat /share/file 2> /error; then exit 1; fi
grep -q "Input/output error" /error
umount /share
echo "share: I/O errors"
