# Processes come and go, and the guest says so, without an end.
echo "forks: begins"
while :; do
    i=0
    while [ $i -lt 20 ]; do
        (:)
        i=$((i + 1))
    done
    echo "forks: alive"
done
