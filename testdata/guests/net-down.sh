# A network whose other end is gone: the link is down, what is sent goes nowhere, and all else goes on.

ifconfig eth0 up
until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 0.1; done
say "the link is down"
ifconfig eth0 10.0.2.15
if arping -q -c 2 -w 2 -I eth0 10.0.2.2; then exit 1; fi
