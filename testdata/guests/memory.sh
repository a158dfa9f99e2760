# Memory: how much there is, and that much of it can be used.

[ "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)" -gt 5500000 ]
say "more than 5.5 GB"
mount -t tmpfs -o size=64m tmpfs /tmp
dd if=/dev/zero bs=1M count=32 2> /dev/null | tr '\0' a > /tmp/file
[ "$(tr -d a < /tmp/file | wc -c) $(wc -c < /tmp/file)" = "0 33554432" ]
say "32 MB written and read"
