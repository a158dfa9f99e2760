# Loads, uses and unloads every module, again and again. Modules are loaded in the order of their names. Then those of
# testdata/modules, many at once and in other orders: each says what it finds of the interrupt flag.

ROUNDS=50

use() {
    case $1 in
        msr) [ "$(dd if=/dev/cpu/0/msr bs=8 skip=2 count=1 2> /dev/null | wc -c)" = 8 ] ;; # register 0x10, the TSC
        cpuid) dd if=/dev/cpu/0/cpuid bs=16 count=1 2> /dev/null | cmp - /tmp/cpuid ;;
        dummy) ip link set dummy0 up && ip link set dummy0 down ;;
        test_fpu) cat /sys/kernel/debug/selftest_helpers/test_fpu > /dev/null ;;
    esac
}

names=$(cd /modules && ls | sed '/^nested_/d; /^ordered_/d; s/\.ko$//')
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

insert() {
    for name in "$@"; do
        insmod /modules/$name.ko
        loads=$((loads + 1))
    done
}

remove() {
    for name in "$@"; do rmmod $name; done
}

# What every module that is loaded finds now.
check() {
    for directory in /sys/module/nested_* /sys/module/ordered_*; do
        [ -e $directory/parameters ] || continue
        read -r flag < $directory/parameters/nested
        [ $flag = 0110 ] || say "FAIL $directory: $flag"
        checks=$((checks + 1))
    done
}

nested=$(cd /modules && ls | sed -n '/^nested_/s/\.ko$//p; /^ordered_/s/\.ko$//p')
loads=0
checks=0
dmesg -c > /dev/null
insert $nested
check
odd=
even=
for name in $nested; do
    case $name in
        *[13579]) odd="$name $odd" ;;
        *) even="$even $name" ;;
    esac
done
remove $odd
check
insert $odd
check
remove $even $odd
[ ! -s /proc/modules ]
for order in "000 001 002" "000 002 001" "001 000 002" "001 002 000" "002 000 001" "002 001 000"; do
    for first in nested ordered; do
        for number in $order; do insert ${first}_$number; done
        check
        for number in 001 000 002; do
            remove ${first}_$number
            [ $first = ordered ] || insert ordered_$number
            check
        done
        [ $first = ordered ] || remove ordered_002 ordered_000 ordered_001
    done
done
[ ! -s /proc/modules ]
[ "$(dmesg | grep -c ': 10, then 0110')" = $loads ] || say "FAIL nested-log: $(dmesg | grep ', then' | grep -v '10, then 0110' | head -n 1)"
say "ok nested: $loads loaded, $checks checked"
