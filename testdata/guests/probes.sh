# Kprobes, kretprobes and the function tracer on functions full of sensitive instructions, all at once: breakpoints on the
# very instructions (/sites, one FUNCTION+OFFSET per line), probes at the functions' entries, where ftrace calls, and returns.

# No access to an MSR that faults: Linux 6.1 does not find the fix-up of an instruction that a kprobe executes elsewhere.
work() {
    /programs/load 1 > /tmp/verdicts
    dd if=/dev/cpu/0/msr of=/dev/null bs=8 skip=2 count=1 2> /dev/null # register 0x10, the TSC
    /programs/frames > /dev/null
    cat /sys/bus/pci/devices/*/config > /dev/null
    # Nothing else is sure to leave the processor idle: beside other work the load's naps are over before they begin.
    sleep 1
    while read -r line; do say "$line"; done < /tmp/verdicts
}

insmod /modules/msr.ko
echo 0 > /proc/sys/debug/exception-trace
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing
# Room for all of a run: the busy functions must not push the rare ones out.
echo 16384 > buffer_size_kb
functions=$(sed 's/+.*//' /sites | sort -u)

for optimised in 1 0; do
    echo $optimised > /proc/sys/debug/kprobes-optimization
    set=0 refused=0
    for site in $(cat /sites); do
        if echo "p:site_${set}_${site%+*} $site" 2> /dev/null >> kprobe_events; then
            set=$((set + 1))
        else
            refused=$((refused + 1))
            say "refused: $site"
        fi
    done
    for function in $functions; do
        echo "p:entry_$function $function" >> kprobe_events || say "refused: $function"
        echo "r:return_$function $function" >> kprobe_events || say "refused: return of $function"
    done
    say "ok probes-set-$optimised: $set sites, $refused refused"

    echo $functions > set_ftrace_filter
    echo function > current_tracer
    echo 1 > events/kprobes/enable
    work
    echo 0 > tracing_on
    echo 0 > events/kprobes/enable
    awk '$(NF) ~ /^<-/ { print $(NF - 1) }' trace | sort -u > /tmp/traced
    echo > trace
    for function in $functions; do
        grep -qx $function /tmp/traced || say "FAIL probes-trace-$optimised-$function: not traced"
        for kind in entry return; do
            grep -q "^ *${kind}_$function  *[1-9]" kprobe_profile || say "FAIL probes-$kind-$optimised-$function: not hit"
        done
        grep -q "^ *site_[0-9]*_$function  *[1-9]" kprobe_profile || say "FAIL probes-site-$optimised-$function: not hit"
    done
    say "ok probes-hit-$optimised: $(echo $functions | wc -w) functions"
    say "probes hit: $(awk '$2 > 0' kprobe_profile | wc -l) of $(wc -l < kprobe_profile)"
    echo 1 > tracing_on

    echo nop > current_tracer
    echo > set_ftrace_filter
    echo > kprobe_events
    [ ! -s kprobe_profile ]
    work
    say "ok probes-removed-$optimised: the kernel lives"
done
rmmod msr
