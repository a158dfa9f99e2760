# Numeric labels that are defined twice.
	.text
compute:	mov	%edi,%eax
	jmp	1f+5
1:	mov	%ds,%edx
	imul	$31,%eax,%eax
1:	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
