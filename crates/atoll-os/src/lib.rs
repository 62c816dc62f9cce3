//! Every operating-system level thing: tun, netlink, namespaces, cgroups, nftables, containers, hypervisor processes.
