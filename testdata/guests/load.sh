# A mixed load on all CPUs for /seconds seconds; meanwhile /command is run again and again.

seconds=10
[ ! -e /seconds ] || seconds=$(cat /seconds)
[ -e /command ] || echo 'sleep 1' > /command

(/programs/load "$seconds" > /tmp/verdicts || say "FAIL load: status $?"; echo > /tmp/ended) &
rounds=0
until [ -e /tmp/ended ]; do
    . /command
    rounds=$((rounds + 1))
done
wait
while read -r line; do say "$line"; done < /tmp/verdicts
say "ok load-command: $rounds rounds"
