# Where a transaction goes on is a branch, too.
	.text
compute:	mov	%edi,%eax
	jmp	1f
	xbegin	.+11
1:	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
