# Linux's tests of its x86 entry code, each with its verdict in one line: exit status, and the marks that it printed.

# That a program ends by an exception is told by its verdict.
echo 0 > /proc/sys/debug/exception-trace

count() {
    grep -c "^\[$1\]" /tmp/output || true
}

for program in /programs/*; do
    status=0
    timeout -s KILL 250 "$program" > /tmp/output 2>&1 || status=$?
    # A child that outlives its parent, as that of entry_from_vm86, may still print its copy of what is in the buffer.
    tries=0
    while [ $tries -lt 50 ] && pidof "$(basename "$program")" > /dev/null; do
        tries=$((tries + 1))
        sleep 0.1
    done
    verdict=ok
    if [ $status != 0 ]; then
        verdict=FAIL
        tail -n 20 /tmp/output | while read -r line; do say "output: $line"; done
    fi
    marks="$(count OK) OK, $(count FAIL) FAIL, $(count SKIP) SKIP, $(count WARN) WARN, $(count NOTE) NOTE"
    say "$verdict x86-$(basename "$program"): status $status, $marks"
done
