/* The same, beside sites over which the kernel applies an alternative before anybody sees them. */
#include <asm/msr.h>

#include "nested.h"

static int get_ordered(char *buffer, const struct kernel_param *parameter)
{
	u64 first = rdtsc_ordered();

	return sprintf(buffer, "%d\n", rdtsc_ordered() > first);
}

static const struct kernel_param_ops ordered_ops = { .get = get_ordered };
module_param_cb(ordered, &ordered_ops, NULL, 0444);

static int __init start(void)
{
	return nested_at_start();
}

static void __exit stop(void)
{
}

module_init(start);
module_exit(stop);
