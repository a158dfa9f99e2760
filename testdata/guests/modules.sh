# Loads, uses and unloads every module, again and again. Modules are loaded in the order of their names.

ROUNDS=50

use() {
    case $1 in
        msr) [ "$(dd if=/dev/cpu/0/msr bs=8 skip=2 count=1 2> /dev/null | wc -c)" = 8 ] ;; # register 0x10, the TSC
        cpuid) dd if=/dev/cpu/0/cpuid bs=16 count=1 2> /dev/null | cmp - /tmp/cpuid ;;
        dummy) ip link set dummy0 up && ip link set dummy0 down ;;
        test_fpu) cat /sys/kernel/debug/selftest_helpers/test_fpu > /dev/null ;;
    esac
}

names=$(cd /modules && ls | sed 's/\.ko$//')
reversed=
for name in $names; do reversed="$name $reversed"; done
mount -t debugfs debugfs /sys/kernel/debug 2> /dev/null || true
insmod /modules/cpuid.ko
dd if=/dev/cpu/0/cpuid bs=16 count=1 of=/tmp/cpuid 2> /dev/null
rmmod cpuid

round=0
while [ $round != $ROUNDS ]; do
    for name in $names; do
        insmod /modules/$name.ko
        use $name
    done
    for name in $reversed; do rmmod $name; done
    round=$((round + 1))
done
[ ! -s /proc/modules ]
say "ok modules: $round rounds of" $names
