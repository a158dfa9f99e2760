# Entries of five bytes, made by a macro, found by number.
	.text
	.macro	entry value
	mov	%ds,%edx
	mov	$\value,%al
	ret
	.endm
compute:	lea	entries(%rip),%rdx
	xor	%eax,%eax
	lea	(%rdi,%rdi,4),%rdi
	add	%rdi,%rdx
	jmp	*%rdx
entries:	entry	1
	entry	2
	entry	3
	entry	4
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
