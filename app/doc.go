// Package app assembles a running mirror from a configuration.
//
// [Run] is the life of a server: it builds the parts, listens, puts changed
// configuration files in force, and drains at shutdown. The parts are grouped by
// how long they last:
//
//	storageParts   the layers of the store, from start to end     storage.go
//	shared         tokens and cooldowns, in Redis beyond an instance   shared.go, advice_redis.go
//	engine         lookups, downloads, background jobs             engine.go
//	routing        names to namespaces, until the next reload      routing.go
//
// build.go puts them together and mounts the API and the operations endpoints
// (ops.go) behind one listener. translate.go turns the configuration into
// namespaces; nothing else reads its blocks. advice.go and advice_wire.go turn the typed
// reasons of lower packages into sentences with configuration keys.
//
// [OpenUpstreams] makes only the clients of upstreams, for probes.
//
// With cmd/weir this is the only package that knows the configuration.
package app
