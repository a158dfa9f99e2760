# Many programs at the same time, each of which comes to its end.
i=0
while [ $i -lt 40 ]; do
    (sleep 1; echo ended >> /tmp/many) &
    i=$((i + 1))
done
wait
echo "many: $(grep -c ended /tmp/many) have ended"
