"""What adds, joins, rewrites or leaves out loaded rows."""
