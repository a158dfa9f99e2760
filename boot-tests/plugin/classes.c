/*
 * A QEMU TCG plugin that counts how often each instruction was executed that could be a sensitive one. What is sensitive is
 * not decided here: the filter below passes every encoding of one and many others, and the reader of the file disassembles.
 *
 * An instruction is its address and its bytes, so text that is rewritten at run time is counted apart from what stood there
 * before. An attempt counts as an execution: one that faults is counted, and counted again if it is tried again. Every
 * iteration of a repeated string instruction counts too, for TCG executes them one by one.
 *
 * Arguments: out=FILE; zero=HEX, an address at whose executions all counts start again from zero; snap=HEX, an address at
 * whose k-th execution (counted from the last zero) the counts are frozen, and times=K, 1 if not given. Without snap, the
 * counts are those at the end. The instructions at these two addresses should not be sensitive themselves. FILE gets lines
 * "ADDRESS BYTES COUNT", address and bytes in hexadecimal; it is empty if snap was never reached. For one CPU.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

enum { LONGEST = 15, BUCKETS = 1 << 16 };

/* Never freed: translated code adds to the count. */
struct counter {
	struct counter *next;
	uint64_t address, count, frozen;
	size_t size;
	unsigned char bytes[LONGEST];
};

static struct counter *buckets[BUCKETS];
static const char *out;
static uint64_t snap, zero, times = 1, reached;
static bool frozen;

static struct counter *counter(uint64_t address, const unsigned char *bytes, size_t size)
{
	struct counter **bucket = &buckets[(address ^ address >> 16) % BUCKETS];
	struct counter *found;

	for (found = *bucket; found; found = found->next)
		if (found->address == address && found->size == size && !memcmp(found->bytes, bytes, size))
			return found;
	found = calloc(1, sizeof(*found));
	if (!found || size > LONGEST)
		abort();
	found->next = *bucket;
	found->address = address;
	found->size = size;
	memcpy(found->bytes, bytes, size);
	return *bucket = found;
}

static void each(void (*visit)(struct counter *, FILE *), FILE *file)
{
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct counter *at = buckets[i]; at; at = at->next)
			visit(at, file);
}

static void clear(struct counter *at, FILE *file)
{
	(void)file;
	at->count = 0;
}

static void freeze(struct counter *at, FILE *file)
{
	(void)file;
	at->frozen = at->count;
}

static void print(struct counter *at, FILE *file)
{
	if (!at->frozen)
		return;
	fprintf(file, "%016" PRIx64 " ", at->address);
	for (size_t i = 0; i < at->size; i++)
		fprintf(file, "%02x", at->bytes[i]);
	fprintf(file, " %" PRIu64 "\n", at->frozen);
}

static void at_zero(unsigned int cpu, void *data)
{
	(void)cpu;
	(void)data;
	each(clear, NULL);
	reached = 0;
}

static void at_snap(unsigned int cpu, void *data)
{
	(void)cpu;
	(void)data;
	if (!frozen && ++reached == times) {
		each(freeze, NULL);
		frozen = true;
	}
}

/* Opcodes by SDM Vol. 2D, Tables, those that any sensitive instruction has. */
static bool candidate(const unsigned char *bytes, size_t size)
{
	static const char prefixes[] = "\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3";
	static const char one_byte[] = "\x6c\x6d\x6e\x6f\x8c\x8e\x9c\x9d\xca\xcb\xcc\xcd\xcf\xe4\xe5\xe6\xe7\xec\xed\xee\xef"
				       "\xf1\xf4\xfa\xfb\xff";
	static const char two_bytes[] = "\x01\x02\x03\x05\x06\x07\x08\x09\x20\x21\x22\x23\x30\x31\x32\x33\x34\x35\x37\x38"
					"\x3a\x78\x79\xa0\xa1\xa2\xa8\xa9\xaa\xae\xb2\xb4\xb5\xc7";
	size_t at = 0;

	while (at < size && bytes[at] && strchr(prefixes, bytes[at]))
		at++;
	if (at < size && (bytes[at] & 0xf0) == 0x40) /* REX */
		at++;
	if (at >= size)
		return false;
	if (bytes[at] != 0x0f)
		return bytes[at] && strchr(one_byte, bytes[at]);
	return at + 1 < size && (!bytes[at + 1] || strchr(two_bytes, bytes[at + 1]));
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const unsigned char *bytes = qemu_plugin_insn_data(insn);
		size_t size = qemu_plugin_insn_size(insn);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		if (zero && address == zero)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_zero, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (snap && address == snap)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_snap, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (candidate(bytes, size))
			qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64,
								   &counter(address, bytes, size)->count, 1);
	}
}

static void ended(uint64_t id, void *data)
{
	FILE *file = fopen(out, "w");

	(void)id;
	(void)data;
	if (!snap)
		each(freeze, NULL);
	if (file) {
		each(print, file);
		fclose(file);
	}
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
		else if (!strncmp(argv[i], "snap=", 5))
			snap = strtoull(argv[i] + 5, NULL, 16);
		else if (!strncmp(argv[i], "zero=", 5))
			zero = strtoull(argv[i] + 5, NULL, 16);
		else if (!strncmp(argv[i], "times=", 6))
			times = strtoull(argv[i] + 6, NULL, 10);
		else
			return 1;
	}
	if (!out)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
