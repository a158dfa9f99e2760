/*
 * A QEMU TCG plugin that says how many instructions were executed when the guest came to a marker: a NOP,
 * nopl 0xabe700NN(%rax,%rax), that nothing but our own programs contains. It counts from the first instruction in a range
 * of addresses on, and counts those of Xen, which has its own part of the address space (Xen 4.17,
 * xen/arch/x86/include/asm/config.h: 0xffff800000000000-0xffff87ffffffffff; Linux runs nothing there), apart as well.
 *
 * Arguments: out=FILE, low=HEX, high=HEX. FILE gets lines "NUMBER ALL XEN", the first with number 0 and
 * what was executed before, the others with the number of a marker and what was executed since. For one CPU.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

static const uint64_t XEN_LOW = UINT64_C(0xffff800000000000), XEN_HIGH = UINT64_C(0xffff880000000000);
static const unsigned char MARKER[] = { 0x0f, 0x1f, 0x84, 0x00 }, MAGIC[] = { 0x00, 0xe7, 0xab };
static uint64_t all, xen, low, high;
static bool started;
static FILE *out;

static void print(uintptr_t number)
{
	fprintf(out, "%" PRIuPTR " %" PRIu64 " %" PRIu64 "\n", number, all, xen);
}

/* What is translated for the first time is executed next. */
static void start(void)
{
	print(0);
	started = true;
	all = xen = 0;
}

static void at_marker(unsigned int cpu, void *number)
{
	(void)cpu;
	print((uintptr_t)number);
}

static bool is_marker(const struct qemu_plugin_insn *insn)
{
	const unsigned char *bytes = qemu_plugin_insn_data(insn);

	return qemu_plugin_insn_size(insn) == 8 && !memcmp(bytes, MARKER, sizeof(MARKER)) &&
	       !memcmp(bytes + 5, MAGIC, sizeof(MAGIC));
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		if (!started && address >= low && address <= high)
			start();
		qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &all, 1);
		if (address >= XEN_LOW && address < XEN_HIGH)
			qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &xen, 1);
		if (is_marker(insn)) {
			uintptr_t number = ((const unsigned char *)qemu_plugin_insn_data(insn))[4];

			qemu_plugin_register_vcpu_insn_exec_cb(insn, at_marker, QEMU_PLUGIN_CB_NO_REGS, (void *)number);
		}
	}
}

static void ended(uint64_t id, void *data)
{
	(void)id;
	(void)data;
	fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
		else if (!strncmp(argv[i], "low=", 4))
			low = strtoull(argv[i] + 4, NULL, 16);
		else if (!strncmp(argv[i], "high=", 5))
			high = strtoull(argv[i] + 5, NULL, 16);
		else
			return 1;
	}
	if (!out)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
