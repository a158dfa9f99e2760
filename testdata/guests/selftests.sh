# Linux's own self-tests: those at boot have run by now; here are those in modules, and what else patches kernel text.

mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing

# Not all of them are in all releases.
for module in test_module memcpy_kunit stackinit_kunit test_string test_user_copy kprobe_event_gen_test \
    synth_event_gen_test test_static_key_base test_static_keys; do
    [ -e /modules/$module.ko ] || continue
    insmod /modules/$module.ko
    say "module $module loaded"
done
for module in test_static_keys test_static_key_base synth_event_gen_test kprobe_event_gen_test test_user_copy test_string \
    stackinit_kunit memcpy_kunit test_module; do
    [ -e /modules/$module.ko ] || continue
    rmmod $module
done

insmod /modules/test_fpu.ko
cat /sys/kernel/debug/selftest_helpers/test_fpu
rmmod test_fpu
say "FPU test passed"

# A kprobe that saves the registers, on a function that ftrace traces at the same time.
echo 'p:opened do_sys_openat2 name=+0($arg2):ustring' > kprobe_events
echo do_sys_openat2 > set_ftrace_filter
echo function > current_tracer
echo 1 > events/kprobes/opened/enable
cat /proc/version > /dev/null
cat trace > /tmp/trace
echo 0 > events/kprobes/opened/enable
echo nop > current_tracer
echo > kprobe_events
grep 'opened:.*name="/proc/version"' /tmp/trace
grep 'do_sys_openat2 <-' /tmp/trace
say "tracing works"

echo 0 > /sys/devices/system/cpu/cpu1/online
[ "$(grep -c ^processor /proc/cpuinfo)" = 1 ]
echo 1 > /sys/devices/system/cpu/cpu1/online
[ "$(grep -c ^processor /proc/cpuinfo)" = 2 ]
taskset 2 true
say "CPU 1 went and came back"
