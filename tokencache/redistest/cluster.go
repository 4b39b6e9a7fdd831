package redistest

import (
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weirhq/weir/internal/testutil"
)

// Cluster is a cluster of three masters with one replica each. Each replica is elected
// within seconds after the end of its master.
type Cluster struct {
	t       testing.TB
	Servers []*Server
}

// StartCluster runs a cluster until the test ends, and returns when it answers.
// Settings are those of each server in the form of [Start].
func StartCluster(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	create := []string{"--cluster", "create"}
	for range 6 {
		_, bus, err := net.SplitHostPort(testutil.FreeAddr(t))
		if err != nil {
			t.Fatal(err)
		}
		// A short node timeout makes a failover of two seconds. A replica copies its
		// master at once, since it cannot be elected before.
		server := Start(t, append([]string{"--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "1000",
			"--repl-diskless-sync-delay", "0"}, settings...)...)
		c.Servers = append(c.Servers, server)
		create = append(create, server.Addr())
	}
	cli(t, append(create, "--cluster-replicas", "1", "--cluster-yes")...)
	for _, server := range c.Servers {
		c.await("a server that works", func(s *Server) bool {
			role := c.ask(server, "INFO", "replication")
			return s == server && strings.Contains(c.ask(server, "CLUSTER", "INFO"), "cluster_state:ok") &&
				(strings.Contains(role, "role:master") || strings.Contains(role, "master_link_status:up"))
		})
	}
	return c
}

// Addrs returns the addresses of the servers as they stand in a URL.
func (c *Cluster) Addrs() string {
	var addrs []string
	for _, server := range c.Servers {
		addrs = append(addrs, server.Addr())
	}
	return strings.Join(addrs, ",")
}

// Client returns a client of the cluster like that of a [Server].
func (c *Cluster) Client(t testing.TB) *redis.ClusterClient {
	t.Helper()
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: strings.Split(c.Addrs(), ","), ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1,
	})
	t.Cleanup(func() { client.Close() })
	return client
}

// Fail makes the master that has a key fail, and calls during until another server has
// taken its place. It returns the old master.
func (c *Cluster) Fail(key string, fail func(*Server), during func()) *Server {
	c.t.Helper()
	failed := c.await("a master of "+key, func(s *Server) bool { return c.has(s, key) })
	fail(failed)
	elected := make(chan struct{})
	go func() {
		defer close(elected)
		c.await("another master of "+key, func(s *Server) bool { return s != failed && c.has(s, key) })
	}()
	for {
		select {
		case <-elected:
			return failed
		default:
			during()
		}
	}
}

// has reports whether a server is the master of a key.
func (c *Cluster) has(server *Server, key string) bool {
	// The others name the server that has the key, and all complain while a master is
	// missing.
	answer := c.ask(server, "GET", key)
	return !strings.HasPrefix(answer, "MOVED") && !strings.HasPrefix(answer, "CLUSTERDOWN")
}

func (c *Cluster) ask(server *Server, command ...string) string {
	c.t.Helper()
	return cli(c.t, append([]string{"-u", "redis://" + server.Addr()}, command...)...)
}

// await returns the first server that runs and fulfils a condition.
func (c *Cluster) await(what string, fulfils func(*Server) bool) *Server {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, server := range c.Servers {
			if server.running() && fulfils(server) {
				return server
			}
		}
	}
	c.t.Errorf("redistest: the cluster does not have %s", what)
	return c.Servers[0]
}

// cli returns what redis-cli prints.
func cli(t testing.TB, args ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), testutil.Program(t, "redis-cli", "redis-tools"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("redistest: redis-cli: %v\n%s", err, output)
	}
	return strings.TrimSpace(string(output))
}
