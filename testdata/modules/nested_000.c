/* Sites in text that is freed after the module was loaded, and in text that stays. */
#include "nested.h"

static int __init start(void)
{
	return nested_at_start();
}

static void __exit stop(void)
{
	pr_info("%s: ends with %04d\n", KBUILD_MODNAME, nested());
}

module_init(start);
module_exit(stop);
