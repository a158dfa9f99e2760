# A tour of the running kernel, for those who have no terminal.

say "$(uname -a)"
say "$(grep 'model name' /proc/cpuinfo)"
say "$(cat /sites), $(wc -c < /sys/kernel/notes) bytes of notes in the kernel"
for module in msr cpuid; do
    insmod /modules/$module.ko
    say "loaded: $(grep $module /proc/modules)"
    rmmod $module
done
