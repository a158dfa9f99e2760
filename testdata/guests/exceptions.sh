# Exceptions at the kernel's own sensitive instructions, which its fix-ups must get, and at those of a process.

insmod /modules/msr.ko
echo 0 > /proc/sys/debug/exception-trace # no line of the kernel's for every signal

for program in msr frames segments narrow-stack local-tables thread-areas xstate sensitive; do
    /programs/$program > /tmp/verdicts || say "FAIL $program: status $?"
    while read -r line; do say "$line"; done < /tmp/verdicts
done

rmmod msr
say "the kernel lives: $(sh -c 'echo yes')"
