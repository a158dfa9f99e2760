# The wedge is switched off and on under load, again and again; then the text is looked at from outside, off and on.

ask() {
    /programs/wedge-port "$1" > /tmp/answer || { say "FAIL switching: $(cat /tmp/answer)"; exit 1; }
}

switches=0
busy=0
# On a busy machine one load is over after a few.
while [ $switches -le 20 ]; do
    /programs/load 4 > /tmp/verdicts &
    load=$!
    while kill -0 $load 2> /dev/null; do
        ask 0
        busy=$((busy + $(sed -n 's/^busy //p' /tmp/answer)))
        ask 1
        busy=$((busy + $(sed -n 's/^busy //p' /tmp/answer)))
        switches=$((switches + 2))
    done
    wait $load || say "FAIL load: status $?"
    while read -r line; do say "$line"; done < /tmp/verdicts
done
say "ok switching: more than 20 switches"
say "switched $switches times, $busy sites busy"
ask 0
say "off: $(grep -v afterburn /tmp/answer | tr '\n' ' ')"
ask '?'
grep -q '^state off$' /tmp/answer
grep '^kept ' /tmp/answer > /tmp/kept
while read -r line; do say "$line"; done < /tmp/kept
say "look at the text: off"
sleep 2
ask 1
say "on: $(grep -v afterburn /tmp/answer | tr '\n' ' ')"
ask '?'
grep -q '^state on$' /tmp/answer
say "look at the text: on"
sleep 2
