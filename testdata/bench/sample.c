/* What the compiler makes of this, many times over, is the text that the text stage is timed on: mostly ordinary
 * code, line tables, and now and then the inline assembly of a kernel. */

typedef unsigned long word;

struct node {
	struct node *next;
	word key, value;
	char name[16];
};

extern int report(const char *format, ...);
extern word lookups, hits;

static inline word save_flags(void)
{
	word flags;
	asm volatile("# save_flags\n\tpushf ; pop %0" : "=rm"(flags) : : "memory");
	asm volatile("cli" : : : "memory");
	return flags;
}

static inline void restore_flags(word flags)
{
	if (flags & 0x200)
		asm volatile("sti" : : : "memory");
}

static inline int read_msr_safe(unsigned msr, word *value)
{
	unsigned low, high;
	int error;
	asm volatile("1: rdmsr ; xor %[error], %[error]\n"
		     "2:\n\t.section .fixup,\"ax\"\n"
		     "3: mov $-5, %[error]\n\tjmp 2b\n\t.previous\n"
		     "\t.pushsection \"__ex_table\",\"a\"\n\t.balign 4\n\t.long (1b) - .\n\t.long (3b) - .\n\t.long 0\n\t.popsection\n"
		     : [error] "=r"(error), "=a"(low), "=d"(high) : "c"(msr));
	*value = low | (word)high << 32;
	return error;
}

struct node *find(struct node *list, word key)
{
	lookups++;
	for (; list; list = list->next) {
		if (list->key == key) {
			hits++;
			return list;
		}
	}
	return 0;
}

word hash(const char *name, word length)
{
	word h = 14695981039346656037ul;
	while (length--)
		h = (h ^ (unsigned char)*name++) * 1099511628211ul;
	return h;
}

int insert(struct node **list, struct node *fresh, const char *name)
{
	word flags, length = 0;
	while (name[length] && length < sizeof fresh->name - 1) {
		fresh->name[length] = name[length];
		length++;
	}
	fresh->name[length] = 0;
	fresh->key = hash(name, length);
	if (find(*list, fresh->key)) {
		report("%s: exists; hash %lx, \"%s\"\n", __func__, fresh->key, name);
		return -17;
	}
	flags = save_flags();
	fresh->next = *list;
	*list = fresh;
	restore_flags(flags);
	return 0;
}

word sum(const struct node *list, word (*weight)(const struct node *))
{
	word total = 0;
	for (; list; list = list->next) {
		switch (list->value & 7) {
		case 0: total += weight(list); break;
		case 1: total -= list->value; break;
		case 2: total ^= list->value << 3; break;
		case 3: total |= list->value >> 5; break;
		case 4: total *= list->value; break;
		case 5: total += list->key % 10; break;
		default: total++;
		}
	}
	return total;
}

int temperature(unsigned cpu)
{
	word status;
	if (read_msr_safe(0x19c, &status))
		return -1;
	if (!(status & 1ul << 31))
		report("cpu %u: no valid reading: %#lx\n", cpu, status);
	return (int)(status >> 16 & 0x7f);
}
