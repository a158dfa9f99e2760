# The network of a process: an address by DHCP, and a server behind the gateway that sends some MB and takes them back. `port`
# has its number.

cat > /tmp/configure <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig "$interface" "$ip" netmask "$subnet" up
route add default gw "${router%% *}"
echo "${router%% *}" > /tmp/gateway
END
chmod 755 /tmp/configure
ifconfig lo 127.0.0.1 up
ifconfig eth0 up
udhcpc -i eth0 -n -q -t 20 -T 1 -s /tmp/configure > /dev/null 2>&1
[ "$(cat /sys/class/net/eth0/carrier) $(cat /sys/class/net/eth0/address)" = "1 02:61:62:75:72:6e" ]
say "an address is given"

# The guest is idle while it waits for the answer.
gateway=$(cat /tmp/gateway)
arping -q -c 2 -w 60 -I eth0 "$gateway"
say "the gateway answers"

server="http://$gateway:$(cat /port)"
seq 600000 > /tmp/numbers
wget -q -O - "$server/numbers" | cmp - /tmp/numbers
say "numbers come"
[ "$(wget -q -O - --post-file=/tmp/numbers "$server/numbers")" = taken ]
say "numbers go"

# A program that does nothing else does not keep them from coming.
while :; do :; done &
busy=$!
arping -q -c 2 -w 60 -I eth0 "$gateway"
wget -q -O - "$server/numbers" | cmp - /tmp/numbers
kill $busy
say "numbers come while a program runs"

[ "$(sed -n 's/^ *10: *\([0-9]*\) .*virtio0.*/\1/p' /proc/interrupts)" -gt 10 ]
