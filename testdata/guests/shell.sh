# A shell that forks, pipes, sleeps and takes signals; then every module is loaded, used and unloaded.

[ "$(echo annotated | tr a-z A-Z)" = ANNOTATED ]
sleep 1 &
wait $!
if sh -c 'kill -SEGV $$'; then exit 1; fi
say "text at $(grep ' _text$' /proc/kallsyms)"
say "shell works"
[ ! -e /content ] || say "content $(md5sum < /content)"

for module in msr cpuid dummy; do
    [ -e /modules/$module.ko ] || continue
    insmod /modules/$module.ko
    grep "^$module " /proc/modules
    case $module in
        msr) [ "$(dd if=/dev/cpu/0/msr bs=8 skip=2 count=1 | wc -c)" = 8 ] ;; # register 0x10, the TSC
        cpuid) dd if=/dev/cpu/0/cpuid bs=16 count=1 | grep -E 'Auth|Genu' ;;
        dummy) ip link set dummy0 up ;;
    esac > /dev/null
    rmmod $module
    if grep "^$module " /proc/modules; then exit 1; fi
    say "module $module loaded, used and unloaded"
done
