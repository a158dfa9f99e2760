/*
 * A QEMU TCG plugin that counts executed instructions, exactly: those of the kernel half of the address space, and those
 * in a range of addresses, both from the moment on that the instruction at a third address is executed for the first time.
 * Arguments: out=FILE, low=HEX, high=HEX, start=HEX. FILE gets the two numbers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

static const uint64_t KERNEL_HALF = UINT64_C(1) << 63;
static uint64_t kernel_count, range_count, low, high, start;
static int started;
static const char *out;

static void start_reached(unsigned int vcpu, void *data)
{
	(void)vcpu;
	(void)data;
	if (!started)
		kernel_count = range_count = 0;
	started = 1;
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	(void)id;
	for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t address = qemu_plugin_insn_vaddr(insn);

		if (address == start)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, start_reached, QEMU_PLUGIN_CB_NO_REGS, NULL);
		if (address >= KERNEL_HALF)
			qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &kernel_count, 1);
		if (address >= low && address < high)
			qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &range_count, 1);
	}
}

static void ended(uint64_t id, void *data)
{
	FILE *file = fopen(out, "w");

	(void)id;
	(void)data;
	if (file) {
		fprintf(file, "%" PRIu64 " %" PRIu64 "\n", kernel_count, range_count);
		fclose(file);
	}
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = strdup(argv[i] + 4);
		else if (!strncmp(argv[i], "low=", 4))
			low = strtoull(argv[i] + 4, NULL, 16);
		else if (!strncmp(argv[i], "high=", 5))
			high = strtoull(argv[i] + 5, NULL, 16);
		else if (!strncmp(argv[i], "start=", 6))
			start = strtoull(argv[i] + 6, NULL, 16);
		else
			return 1;
	}
	if (!out || !start)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
