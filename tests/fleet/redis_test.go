package fleet

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// inARow is how many images in a row two replicas must share: their keys are on all masters of a
// Redis Cluster, with near certainty.
const inARow = 6

// Replicas act as one through a Redis Cluster whose user has the rights of docs/operations.md.
// One of its masters dies: pulls go on, and the replicas act as one again after the election.
func TestReplicasOnRedisCluster(t *testing.T) {
	testutil.Long(t, "waits for the election of a Redis Cluster")
	t.Parallel()
	cluster := redistest.StartCluster(t, replicaUser(t)...)
	f := pairOn(t, fmt.Sprintf("url = \"redis://weir:p4ss@%s\"", cluster.Addrs()))
	f.actAsOne(t, "at the start")
	cluster.Fail("any key", (*redistest.Server).Stop, func() { f.shares(t) })
	f.actAsOne(t, "after the election")
}

// Replicas act as one through a Redis that a Sentinel watches, with TLS and a user that has the
// rights of docs/operations.md. The Sentinel makes another server the master, and they act as one
// there.
func TestReplicasOnSentinel(t *testing.T) {
	testutil.Long(t, "waits for a failover by a Sentinel")
	t.Parallel()
	authority := redistest.NewAuthority(t)
	settings := slices.Concat(authority.TLS(), []string{"--requirepass", "admin", "--masterauth", "admin", "--repl-diskless-sync-delay", "0"}, replicaUser(t))
	master := redistest.Start(t, settings...)
	host, port, err := net.SplitHostPort(master.Addr())
	harness.Must(t, err)
	second := redistest.Start(t, append(settings, "--replicaof", host, port)...)
	sentinel := redistest.StartSentinel(t, master, append(authority.TLS(), "--sentinel", "auth-pass "+redistest.Group+" admin")...)
	certificate, key := authority.Issue("weir", time.Now().AddDate(1, 0, 0))
	ask := func(server *redistest.Server, command ...string) string {
		t.Helper()
		host, port, err := net.SplitHostPort(server.Addr())
		harness.Must(t, err)
		args := []string{"-h", host, "-p", port, "--tls", "--cacert", authority.File(), "--cert", certificate, "--key", key, "--no-auth-warning"}
		if server != sentinel {
			args = append(args, "-a", "admin")
		}
		out, _ := exec.CommandContext(t.Context(), testutil.Program(t, "redis-cli", "redis-tools"), append(args, command...)...).CombinedOutput()
		return string(out)
	}
	f := pairOn(t, fmt.Sprintf("url = \"rediss://weir:p4ss@%s/1?master_name=%s\"\nserver_ca_bundle = %q\nclient_certificate = %q\nclient_private_key = %q",
		sentinel.Addr(), redistest.Group, authority.File(), certificate, key))
	f.actAsOne(t, "at the start")
	if refused := strings.TrimSpace(ask(master, "ACL", "LOG")); refused != "" {
		t.Errorf("refused:\n%s", refused)
	}
	harness.Eventually(t, "the Sentinel knows the second server and begins", func() bool {
		f.shares(t)
		return strings.HasPrefix(ask(sentinel, "SENTINEL", "FAILOVER", redistest.Group), "OK")
	})
	harness.Eventually(t, "the second server is the master", func() bool {
		f.shares(t)
		return strings.Contains(ask(second, "INFO", "replication"), "role:master")
	})
	master.Stop()
	f.actAsOne(t, "after the failover")
}

// pairOn starts two replicas with settings of cache.redis.
func pairOn(t *testing.T, redis string) *fleet {
	t.Helper()
	f := &fleet{upstream: upstreamtest.New(t)}
	config := fmt.Sprintf("[cache.redis]\n%s\nsecret_key = %q\n[cluster]\nsecret = %q\npeer_port = 0\nlease_secs = 2\n", redis, replicaSecret, replicaSecret) +
		block(f.upstream, `tag_ttl = "1h"`)
	for range 2 {
		f.replicas = append(f.replicas, harness.StartWeir(t, config))
	}
	return f
}

// actAsOne fails the test unless the replicas share several images in a row.
func (f *fleet) actAsOne(t *testing.T, when string) {
	t.Helper()
	row := 0
	harness.Eventually(t, "the replicas act as one "+when, func() bool {
		row++
		if !f.shares(t) {
			row = 0
		}
		return row == inARow
	})
}

// shares pulls a new image through each replica. The pulls must not fail. It reports whether
// the upstream was asked for the tag once, and sent the layer once.
func (f *fleet) shares(t *testing.T) bool {
	t.Helper()
	f.images++
	tag := fmt.Sprint(f.images)
	layer := append([]byte(tag), content(mib/8, 23)...) // large enough for samples
	i := addImage(f.upstream, tag, layer)
	for _, w := range f.replicas {
		pull(t, w, i, tag)
	}
	asked := slices.DeleteFunc(f.upstream.Log(), func(r upstreamtest.Record) bool {
		return !strings.HasSuffix(r.URI, "/manifests/"+tag)
	})
	return len(asked) == 1 && len(f.bodies(digest.FromBytes(layer))) == 1
}
