# Linux's user-space tests of its entry code.

for program in /programs/*; do
    if ! "$program" > /tmp/output 2>&1; then
        grep -v '^.OK.\|^.RUN.' /tmp/output
        say "$(basename "$program") failed"
        exit 1
    fi
    say "$(basename "$program") passed"
done
