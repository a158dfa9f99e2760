# A shell in a domU that says where it is.

say "under $(cat /sys/hypervisor/type), $(cat /sys/hypervisor/uuid)"
[ "$(echo annotated | tr a-z A-Z)" = ANNOTATED ]
say "shell works"
