# In Intel syntax, `$` is the current place.
	.text
compute:	mov	%edi,%eax
	.intel_syntax	noprefix
	jmp	$+7
	.att_syntax	prefix
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
