# The sites of a module, while it is loaded and when it is gone; on the wedge.

modules() {
    /programs/wedge-port '?' | grep '^modules '
}

say "before: $(modules)"
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
