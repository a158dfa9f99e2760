/*
 * What a module's own sites are worth: the interrupt flag as seen between nested local_irq_save and local_irq_restore. In a
 * kernel without privileges a site that was not rewritten reads, or leaves, another flag than the kernel's.
 */
#include <linux/irqflags.h>
#include <linux/module.h>

/* Right is 0110. */
static noinline int nested(void)
{
	unsigned long outer, inner;
	int before, inside, between, after;

	before = irqs_disabled();
	local_irq_save(outer);
	inside = irqs_disabled();
	local_irq_save(inner);
	local_irq_restore(inner);
	between = irqs_disabled();
	local_irq_restore(outer);
	after = irqs_disabled();
	return before * 1000 + inside * 100 + between * 10 + after;
}

static int get_nested(char *buffer, const struct kernel_param *parameter)
{
	return sprintf(buffer, "%04d\n", nested());
}

/* /sys/module/NAME/parameters/nested: now, not when it was loaded. */
static const struct kernel_param_ops nested_ops = { .get = get_nested };
module_param_cb(nested, &nested_ops, NULL, 0444);

static __always_inline int nested_at_start(void)
{
	unsigned long flags;
	int outside, inside;

	local_irq_save(flags);
	inside = irqs_disabled();
	local_irq_restore(flags);
	outside = irqs_disabled();
	pr_info("%s: %d%d, then %04d\n", KBUILD_MODNAME, inside, outside, nested());
	return 0;
}

MODULE_LICENSE("GPL");
