# Nothing: what is counted is the boot itself.
