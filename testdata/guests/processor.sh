# Programs about the processor, one after the other; each says what it finds, line by line.

echo 0 > /proc/sys/debug/exception-trace # no line of the kernel's for every signal

for program in /programs/*; do
    name=$(basename "$program")
    status=0
    timeout -s KILL 300 "$program" > /tmp/verdicts 2>&1 || status=$?
    while read -r line || [ "$line" ]; do say "$line"; done < /tmp/verdicts
    if [ $status = 0 ]; then say "ok $name: ended"; else say "FAIL $name: status $status"; fi
done
