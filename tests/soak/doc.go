// Package soak lets 64 clients pull through the real mirror while everything
// around it fails: its upstreams, Redis, its configuration, and the mirror
// itself. It is a test and nothing else:
//
//	go test ./tests/soak -soak.duration=10m -timeout 40m -v
//
// The cast are two real registries that hold the same content, the second one
// behind bearer tokens, each behind a proxy that fails on demand; a real Redis;
// and the real binary. The troublemaker (trouble_test.go) breaks and mends them
// in a random order that a seed decides; weather_test.go records the faults and
// their times. The clients (client_test.go) pull as docker, podman and
// containerd do; judge_test.go compares each byte of each answer with the
// content and finds answers that a client must never see. The observer
// (observer_test.go) watches the process, and report_test.go prints the result.
//
// TestFleetSoak does the same to replicas that share a bucket and a Redis
// (fleet_test.go, bucket_test.go): a pull that a client tries again elsewhere
// always comes. Half of the clients are redirected to the bucket
// (redirect_test.go), and one more mirror evicts from it (evictor_test.go).
//
// Without flags it takes less than a minute, with a mirror that detects data
// races; from two minutes on the mirror is the one that is shipped.
package soak
