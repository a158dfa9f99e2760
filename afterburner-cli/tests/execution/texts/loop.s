# Another one.
	.text
compute:	mov	%edi,%eax
	mov	$2,%ecx
	loop	.+7
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
