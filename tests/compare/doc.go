// Command compare runs Weir beside other caches of registries, and beside servers that set the
// limits, and prints one table.
//
// The upstream is simulated in this process: a registry whose distance and bandwidth a workload
// chooses. The clients are in this process too. Each server is a process of its own on the
// loopback interface; its processor time and memory are the kernel's account of it and its
// children. All of them share the machine, so only figures of one run can be compared.
//
// A workload runs on all servers by turns, for some rounds. Each figure is the median of the
// rounds; a ratio is one of two figures of the same round.
package main
