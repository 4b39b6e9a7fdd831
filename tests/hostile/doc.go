// Package hostile lets strangers attack the real mirror in every way that
// docs/security.md lists, all together, while honest clients pull. It is a test
// and nothing else:
//
//	go test ./tests/hostile -hostile.duration=1m -timeout 10m -v
//
// Each attack is an actor in a file of its own (actor_test.go describes them): a
// registry with its token service and CDN, hostile clients of it and of the honest
// blocks, a stranger in Redis, or one at the disk. The honest clients
// (client_test.go) pull images that they know in advance, and compare each byte. By turns
// they pull the same images through another mirror, which is not attacked: a busy machine
// slows both.
//
// Without flags it takes less than a minute. -hostile.race attacks a mirror that detects
// data races, and -hostile.only=tarpit,ranger lets all other actors stay away.
package hostile
