# A table of data by other directives.
	.text
compute:	lea	t(%rip),%rdx
	movzbl	(%rdx,%rdi),%eax
	ret
t:	.dcb.b	1,0xfa
	.dc.b	0x8c,0xda
	.dc.w	0x310f
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
