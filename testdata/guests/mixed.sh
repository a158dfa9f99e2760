# All loads at once for /seconds seconds, and beside them every way to wait for a time.

seconds=10
[ ! -e /seconds ] || seconds=$(cat /seconds)
# Where files are kept in pages that can be mapped.
mount -t tmpfs tmpfs /tmp

(status=0; /programs/timers "$seconds" > /tmp/timers 2>&1 || status=$?; echo "timers ended with status $status" >> /tmp/timers) &
# Where the wedge shadows page tables, how many of its own it has, ten times.
: > /tmp/shadow
[ ! -x /programs/wedge-port ] || (
    for part in 1 2 3 4 5 6 7 8 9 10; do
        sleep $((seconds / 10))
        /programs/wedge-port '?' | sed -n 's/^shadow tables //p' >> /tmp/shadow
    done
) &
status=0
/programs/mixed "$seconds" > /tmp/mixed 2>&1 || status=$?
echo "mixed ended with status $status" >> /tmp/mixed
wait
for load in mixed timers; do
    while read -r line; do say "$line"; done < /tmp/$load
done
[ ! -s /tmp/shadow ] || say "ok shadow: tables" $(cat /tmp/shadow)
