# A fixed amount of work, counted by the wedge.

/programs/wedge-port z > /dev/null
/programs/syscall-mix > /tmp/verdicts
/programs/wedge-port c > /tmp/counters
while read -r line; do say "counter $line"; done < /tmp/counters
say "$(cat /tmp/verdicts)"
