# The network of a process at a TAP interface: a server on the other side sends some MB, and asks this side's for as much.

ifconfig lo 127.0.0.1 up
ifconfig eth0 10.9.8.2 netmask 255.255.255.0 up
say "the card has $(cat /sys/class/net/eth0/address)"

# The guest is idle while it waits for the answer.
arping -q -c 2 -w 60 -I eth0 10.9.8.1
say "the interface answers"
seq 600000 > /tmp/numbers
wget -q -O - http://10.9.8.1/numbers | cmp - /tmp/numbers
say "numbers come"

# A program that does nothing else does not keep the other side from asking.
while :; do :; done &
busy=$!
httpd -h /tmp
until [ "$(wget -q -O - http://10.9.8.1/verdict)" = same ]; do sleep 0.2; done
kill $busy
say "numbers go"
