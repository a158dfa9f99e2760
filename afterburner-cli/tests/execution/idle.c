/* Sequences of sensitive instructions in several asm statements, between which a compiler has something to say to a
 * debugger: lines, scopes of inlined functions, where variables are. */

extern int wanted(long);
extern long counter;

static inline void enable(void) { asm volatile("sti" ::: "memory"); }
static inline void halt(void) { asm volatile("hlt" ::: "memory"); }
static inline void disable(void) { asm volatile("cli" ::: "memory"); }

static inline unsigned long flags(void)
{
	unsigned long value;

	asm volatile("pushfq\n\tpopq %0" : "=rm"(value)::"memory");
	return value;
}

static inline void restore(unsigned long value)
{
	asm volatile("pushq %0" ::"g"(value) : "memory");
	asm volatile("popfq" ::: "memory", "cc");
}

static inline unsigned long flags_in_two(void)
{
	unsigned long value;

	asm volatile("pushf");
	asm volatile("pop %0" : "=r"(value));
	return value;
}

void idle(long times)
{
	for (long time = 0; time < times; time++) {
		long before = counter;

		if (wanted(before)) {
			enable();
			halt();
		} else {
			enable();
			asm volatile("nop");
			halt();
		}
		disable();
		counter = before + 1;
	}
}

unsigned long save(unsigned long *where)
{
	unsigned long value = flags_in_two();
	int selector;

	*where = value & 0x200;
	asm volatile("movl %%ds, %0" : "=r"(selector));
	value = flags() | selector;
	disable();
	restore(value);
	return value;
}

int feature(int leaf)
{
	int a = leaf, b, c = 0, d;

	asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (a > 3) {
		int high;

		asm volatile("rdmsr" : "=a"(a), "=d"(high) : "c"(0x10));
		b += high;
	}
	return a + b + c + d;
}
