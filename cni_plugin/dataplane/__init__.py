"""A pod's traffic rules, from a Redirect to the kernel: nftables, legacy iptables, namespaces."""
