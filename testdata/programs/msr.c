/*
 * Reads and writes model-specific registers through the module msr, whose accesses are all `rdmsr_safe` and `wrmsr_safe`:
 * the exception table turns the #GP of a register that is not there, or takes no such value, into EIO.
 *
 * QEMU's TCG answers RDMSR of any register, with 0 if it knows none of that number, so a read that fails is to be seen
 * on other hosts only. A WRMSR that fails it has: IA32_PKRS with a bit of its upper half set.
 */
#include <asm/msr.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "verdict.h"

enum { APIC_BASE = 0x1b, TSC = 0x10, SYSENTER_CS = 0x174, PKRS = 0x6e1, MISSING = 0x12345678 };

static char name[64];

static const char *named(int cpu, const char *what)
{
	snprintf(name, sizeof(name), "msr-%d-%s", cpu, what);
	return name;
}

static const char *outcome(ssize_t result)
{
	return result < 0 ? strerror(errno) : "done";
}

static void by_position(int cpu, int msr)
{
	uint64_t value = 0;
	ssize_t result = pread(msr, &value, 8, TSC);
	bool good;

	verdict(result == 8, named(cpu, "read-tsc"), "%s", outcome(result));
	result = pread(msr, &value, 8, APIC_BASE);
	verdict(result == 8 && (value & ~UINT64_C(0xfff)) == 0xfee00000, named(cpu, "read-apic-base"), "%s, %#" PRIx64,
		outcome(result), value);

	value = 0;
	result = pread(msr, &value, 8, MISSING);
	verdict(result < 0 ? errno == EIO : value == 0, named(cpu, "read-missing"), "%s", outcome(result));

	result = pread(msr, &value, 8, SYSENTER_CS);
	good = result == 8 && pwrite(msr, &value, 8, SYSENTER_CS) == 8;
	verdict(good, named(cpu, "write-same"), "%s", outcome(result));

	value = UINT64_C(1) << 63;
	result = pwrite(msr, &value, 8, PKRS);
	verdict(result < 0 && errno == EIO, named(cpu, "write-bad"), "%s", outcome(result));
	result = pread(msr, &value, 8, PKRS);
	verdict(result < 0 || value == 0, named(cpu, "read-after-write-bad"), "%s", outcome(result));
}

/* With all general-purpose registers: eax, ecx, edx, ebx, esp, ebp, esi, edi (arch/x86/lib/msr-reg.S). */
static void by_registers(int cpu, int msr)
{
	uint32_t registers[8] = { 0, APIC_BASE, 0, 3, 0, 5, 6, 7 };
	ssize_t result = ioctl(msr, X86_IOC_RDMSR_REGS, registers);
	bool kept = registers[1] == APIC_BASE && registers[3] == 3 && registers[5] == 5 && registers[7] == 7;

	verdict(result == 0 && kept && registers[0] >> 12 == 0xfee00, named(cpu, "read-by-registers"), "%s, %#x",
		outcome(result), registers[0]);

	memcpy(registers, (uint32_t[8]){ 0, PKRS, 1U << 31, 3, 0, 5, 6, 7 }, sizeof(registers));
	result = ioctl(msr, X86_IOC_WRMSR_REGS, registers);
	verdict(result < 0 && errno == EIO, named(cpu, "write-bad-by-registers"), "%s", outcome(result));
}

int main(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (int cpu = 0; cpu < cpus; cpu++) {
		char path[64];
		int msr;

		snprintf(path, sizeof(path), "/dev/cpu/%d/msr", cpu);
		msr = open(path, O_RDWR);
		CHECK(msr >= 0);
		by_position(cpu, msr);
		by_registers(cpu, msr);
		close(msr);
	}
	return failed;
}
