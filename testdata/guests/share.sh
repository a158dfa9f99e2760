# Directories of the host: share0 can be changed, and in share1 nothing can.

mkdir /share /still
share() {
    mount -t 9p -o "trans=virtio,version=9p2000.L,$1" share0 /share
}
fails() {
    if "$@" 2> /error; then say "FAIL: $*"; exit 1; fi
}

for cache in none mmap loose; do
    share "cache=$cache"
    [ "$(cat /share/greeting)" = "from the host" ]
    [ "$(sha256sum < /share/big)" = "$(cat /share/sum)" ]
    dd if=/share/big of=/share/copy bs=77777 2> /dev/null
    echo "by way of $cache" > "/share/answer-$cache"
    echo "and more" >> "/share/answer-$cache"
    sync
    echo 3 > /proc/sys/vm/drop_caches
    [ "$(sha256sum < /share/copy)" = "$(cat /share/sum)" ]
    [ "$(tail -n 1 "/share/answer-$cache")" = "and more" ]
    cp /bin/busybox "/share/busybox-$cache"
    chmod 755 "/share/busybox-$cache"
    [ "$("/share/busybox-$cache" echo executed)" = executed ]
    umount /share
    say "files go both ways with cache=$cache"
done

share cache=none
[ "$(ls /share/thousand | wc -l)" = 1000 ]
[ "$(cat /share/thousand/entry-* | wc -l)" = 1000 ]
mkdir /share/made
for number in $(seq 1000); do : > "/share/made/$number"; done
[ "$(ls /share/made | sort -n | tr '\n' ' ')" = "$(seq 1000 | tr '\n' ' ')" ]
fails rmdir /share/made
rm /share/made/1*
[ "$(ls /share/made | wc -l)" = 888 ]
say "directories have a thousand entries"

mkdir -p /share/from/deep /share/to
echo moved > /share/from/deep/file
exec 3< /share/from/deep/file
mv /share/from/deep /share/to/there
mv /share/to/there/file /share/to/file
[ "$(cat /share/to/file) $(cat <&3)" = "moved moved" ]
exec 3> /share/to/gone
rm /share/to/gone
echo "nobody's" >&3
exec 3>&-
ln /share/to/file /share/to/other
[ "$(stat -c %h /share/to/file)" = 2 ]
say "names change"

ln -s ../greeting /share/to/inside
[ "$(cat /share/to/inside)" = "from the host" ]
[ "$(readlink /share/outside)" = "/host-only" ]
fails cat /share/outside/secret
mkdir /host-only
echo "the guest's own" > /host-only/secret
[ "$(cat /share/outside/secret)" = "the guest's own" ]
ln -sf / /share/to/root
say "symbolic links lead to what is in the guest"

fails cat /share/closed
grep -q "Permission denied" /error
fails chmod 4755 /share/to/file
grep -q "Operation not permitted" /error
fails mknod /share/device c 1 3
fails chown 12345 /share/to/file
grep -q "Operation not permitted" /error
chown "$(stat -c %u /share/to/file)" /share/to/file
mkfifo /share/to/pipe
[ -p /share/to/pipe ]
chmod 640 /share/to/file
touch -d "2001-02-03 04:05:06" /share/to/file
[ "$(stat -c "%a %y" /share/to/file)" = "640 2001-02-03 04:05:06.000000000 +0000" ]
truncate -s 100000 /share/to/other
[ "$(stat -c %s /share/to/file)" = 100000 ]
df /share > /dev/null
say "rights are those of the host's user"

mount -t 9p -o trans=virtio,version=9p2000.L share1 /still
[ "$(cat /still/file)" = "still" ]
for command in "touch /still/file" "touch /still/new" "rm /still/file" "mkdir /still/new" "ln -s x /still/new" \
    "mv /still/file /still/new" "chmod 600 /still/file" "truncate -s 0 /still/file" "mkfifo /still/new"; do
    fails $command
    grep -q "Read-only file system" /error
done
say "what is read-only does not change"

mkdir /none
fails mount -t 9p -o trans=virtio,version=9p2000.L share2 /none
