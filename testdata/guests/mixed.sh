# All loads at once for /seconds seconds, and beside them every way to wait for a time.

seconds=10
[ ! -e /seconds ] || seconds=$(cat /seconds)
# Where files are kept in pages that can be mapped.
mount -t tmpfs tmpfs /tmp

(status=0; /programs/timers "$seconds" > /tmp/timers 2>&1 || status=$?; echo "timers ended with status $status" >> /tmp/timers) &
status=0
/programs/mixed "$seconds" > /tmp/mixed 2>&1 || status=$?
echo "mixed ended with status $status" >> /tmp/mixed
wait
for load in mixed timers; do
    while read -r line; do say "$line"; done < /tmp/$load
done
