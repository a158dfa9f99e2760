# What the kernel's operations cost; and the first thing it does says how much was executed until a program ran.

if [ -e /clock ]; then mkdir -p /dev/shm; set -- clock; else set --; fi
/programs/costs "$@" > /tmp/costs
[ -e /clock ] || /programs/workloads >> /tmp/costs
while read -r line; do
    say "$line"
done < /tmp/costs
