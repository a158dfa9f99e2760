# Waits while the text is looked at from outside.

say "look at the text: off"
sleep 2
