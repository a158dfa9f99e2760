# The sites of a module, while it is loaded and when it is gone; on the wedge.

modules() {
    /programs/wedge-port '?' | grep '^modules '
}

left() {
    /programs/wedge-port '?' | grep '^left-in-modules ' || true
}

say "before: $(modules), left:" $(left)
insmod /modules/cpuid.ko
insmod /modules/msr.ko
say "loaded: $(modules)"
dd if=/dev/cpu/0/cpuid bs=16 count=1 > /dev/null
/programs/wedge-port c > /tmp/counters || true
say "counted: $(grep -c '^ffffffffa0.* cpuid ' /tmp/counters)"
rmmod msr
say "one gone: $(modules)"
rmmod cpuid
say "both gone: $(modules)"
insmod /modules/ordered_000.ko
say "with alternatives: $(modules), left:" $(left)
say "nested: $(cat /sys/module/ordered_000/parameters/nested), ordered: $(cat /sys/module/ordered_000/parameters/ordered)"

# While the sites are switched off modules come and go unseen. Virtual mode cannot be switched off.
insmod /modules/cpuid.ko
/programs/wedge-port 0 > /dev/null || true
rmmod cpuid
insmod /modules/msr.ko
/programs/wedge-port 1 > /dev/null || true
say "switched: $(modules), nested: $(cat /sys/module/ordered_000/parameters/nested)"
rmmod msr
rmmod ordered_000
say "all gone: $(modules), left:" $(left)
