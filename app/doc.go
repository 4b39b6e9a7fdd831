// Package app assembles a running mirror from a configuration.
//
// [Run] is the life of a server: it builds the parts, listens, puts changed
// configuration files in force, and drains at shutdown. build.go stacks the
// parts, reload.go swaps those that a changed configuration touches, and
// [OpenUpstreams] makes only the clients of upstreams, for probes.
//
// With cmd/weir this is the only package that knows the configuration.
package app
