# The load of the switching guest; then the text is looked at from outside.

/programs/load 4 > /tmp/verdicts
say "look at the text: off"
sleep 2
