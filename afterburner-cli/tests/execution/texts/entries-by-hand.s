# Entries of eight bytes without a label or an alignment, found by number.
	.text
compute:	lea	entries(%rip),%rax
	imul	$8,%edi,%edi
	add	%rdi,%rax
	jmp	*%rax
entries:
	mov	$1,%eax
	mov	%ds,%edx
	ret
	mov	$2,%eax
	mov	%ds,%edx
	ret
	mov	$3,%eax
	mov	%ds,%edx
	ret
	mov	$4,%eax
	mov	%ds,%edx
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
