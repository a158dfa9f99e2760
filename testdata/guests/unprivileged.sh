# What a program without privileges can have the kernel do, and what it costs.

/programs/unprivileged > /tmp/costs
while read -r line; do
    say "$line"
done < /tmp/costs
