# A compiler's output: what it puts behind a branch is reached, though no label says so.
	.text
	.globl	clock
	.type	clock, @function
clock:
	cmpl	%eax, %edx
#APP
# 55 "jump_label.h" 1
	1:jmp .L2
	.pushsection __jump_table, "aw"
	.long	1b - .
	.long	.L2 - .
	.popsection
# 0 "" 2
# 184 "msr.h" 1
	rdtsc				# site: rdtsc
# 0 "" 2
#NO_APP
	salq	$32, %rdx
.L2:
#APP
# 12 "entries.c" 1
	jmp	*%rax
	mov	%ds, %edx		# site: mov-from-seg counted
	ret
# 0 "" 2
#NO_APP
	ret
