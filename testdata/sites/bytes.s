# Instructions encoded by hand.
	.text
	.byte	0x0f, 0x01, 0xca	# site: clac
	.byte 0x0f,0x01,0xcb		# site: stac
	.byte	15
	.byte	1
	.byte	238			# site-start: rdpkru
	.byte	0x48, 0x0f, 0xc7, 0x2f	# site: xsaves
	.byte	0x0f, 0x30 ; nop	# site: wrmsr
	.byte	0xf3; insb		# site: ins
	nop
1:	.byte	0x0f, 0x01, 0xd0	# site: xgetbv
	# several in a row, and one that ends within a directive
	.byte	0x0f, 0x01
	.byte	0xca			# site-start: clac
	.byte	0x0f, 0x01, 0xcb	# site: stac
	nop
	movl	$1, %eax
