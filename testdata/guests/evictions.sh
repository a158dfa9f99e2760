# Programs that use each stack of the kernel's, on a host that may evict one of them all the time;
# and how often it has.

echo 0 > /proc/sys/debug/exception-trace # no line of the kernel's for every signal

for program in /programs/*; do
    name=$(basename "$program")
    [ "$name" != wedge-port ] || continue
    status=0
    timeout -s KILL 600 "$program" > /tmp/verdicts 2>&1 || status=$?
    while read -r line || [ "$line" ]; do
        case $line in ok* | FAIL* | skip*) say "$line" ;; esac
    done < /tmp/verdicts
    if [ $status = 0 ]; then say "ok $name: ended"; else say "FAIL $name: status $status"; fi
done
say "$(/programs/wedge-port '?' | grep '^shadow evictions' || echo no shadow)"
