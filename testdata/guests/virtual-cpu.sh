# What the kernel finds on a virtual CPU: what it is not shown it must not believe in, and it ticks and idles.

flags=" $(grep -m 1 '^flags' /proc/cpuinfo) "
for hidden in apic hypervisor la57 mce monitor mtrr pat pku smap smep svm umip vmx x2apic xsaves; do
    case "$flags" in *" $hidden "*) say "FAIL virtual-cpu: $hidden is shown" ;; esac
done
# What the host has not enabled for anybody is not there, either.
absent=" $(cat /absent 2> /dev/null || true) "
for shown in fpu fsgsbase invpcid nx pcid pge sse2 syscall xsave; do
    case "$flags$absent" in
        *" $shown "*" $shown "*) say "FAIL virtual-cpu: $shown is shown" ;;
        *" $shown "*) ;;
        *) say "FAIL virtual-cpu: $shown is not shown" ;;
    esac
done
grep -q ' 48 bits virtual$' /proc/cpuinfo || say "FAIL virtual-cpu: $(grep -m 1 '^address sizes' /proc/cpuinfo)"
grep -q 'XT-PIC  *timer' /proc/interrupts || say "FAIL virtual-cpu: no timer of the PIC"

# Ticks of 10 ms: user, nice, system, idle.
idle() { awk '/^cpu / { print $5 }' /proc/stat; }
before=$(idle)
sleep 2
after=$(idle)
[ $((after - before)) -gt 100 ] || say "FAIL virtual-cpu: idle for $((after - before)) of 200 ticks"
say "idle for $((after - before)) of 200 ticks"
say "ok virtual-cpu: $(grep -c ^processor /proc/cpuinfo) processor"
