# Entries whose rest is skipped by an assignment to the current place.
	.text
compute:	lea	entries(%rip),%rax
	lea	(%rax,%rdi,8),%rax
	jmp	*%rax
entries:
	.rept	4
	mov	%ds,%edx
	mov	$2,%al
	ret
	.	= . + 3
	.endr
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
