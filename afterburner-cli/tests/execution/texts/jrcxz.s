# A branch of eight bits only, over a site.
	.text
compute:	mov	%edi,%eax
	xor	%ecx,%ecx
	jrcxz	.+7
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
