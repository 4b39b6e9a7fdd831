package tests

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// documentedUser returns the n-th user of docs/operations.md, in the form of
// [redistest.Start], with a password.
func documentedUser(t *testing.T, n int, password string, more ...string) []string {
	t.Helper()
	page, err := os.ReadFile("../docs/operations.md")
	harness.Must(t, err)
	lines := regexp.MustCompile(`(?m)^ACL SETUSER (.*)$`).FindAllStringSubmatch(string(page), -1)
	if n >= len(lines) {
		t.Fatalf("docs/operations.md has %d users, want more than %d", len(lines), n)
	}
	rules := strings.Fields(strings.Replace(lines[n][1], "PASSWORD", password, 1))
	return append(append([]string{"--user"}, rules...), more...)
}

// redisCLI returns what Redis answers to the administrator.
func redisCLI(t *testing.T, server *redistest.Server, options []string, command ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(server.Addr())
	harness.Must(t, err)
	args := append([]string{"-h", host, "-p", port}, options...)
	return harness.Run(t, exec.CommandContext(t.Context(), testutil.Program(t, "redis-cli", "redis-tools"), append(args, command...)...))
}

// expectUsed checks that each right of a user was used.
func expectUsed(t *testing.T, server *redistest.Server, options, user []string) {
	t.Helper()
	for _, rule := range user {
		if right, isRight := strings.CutPrefix(rule, "+"); isRight {
			harness.Eventually(t, right+" is used", func() bool {
				return strings.Contains(redisCLI(t, server, options, "INFO", "commandstats"), "cmdstat_"+right+":calls=")
			})
		}
	}
}

// expectNothingRefused checks that no command lacked a right, and no login failed.
func expectNothingRefused(t *testing.T, server *redistest.Server, options []string) {
	t.Helper()
	if refused := strings.TrimSpace(redisCLI(t, server, options, "ACL", "LOG")); refused != "" {
		t.Errorf("refused:\n%s", refused)
	}
}

// Mirrors share tokens and cooldowns through a Redis and a Sentinel that speak TLS only,
// want a client certificate of a private authority, have passwords, and grant the rights
// of docs/operations.md and no others. A renewed certificate and a new password take
// effect without a restart.
func TestRedisRights(t *testing.T) {
	t.Parallel()
	authority := redistest.NewAuthority(t)
	user, watcher := documentedUser(t, 0, "p4ss"), documentedUser(t, 1, "w4tch")
	redis := redistest.Start(t, append(append(authority.TLS(), "--requirepass", "admin"), user...)...)
	sentinel := redistest.StartSentinel(t, redis, append(append(authority.TLS(),
		"--sentinel", "auth-pass "+redistest.Group+" admin", "--requirepass", "sentinel-admin"), watcher...)...)
	certificate, key := authority.Issue("weir", time.Now().AddDate(1, 0, 0))
	secret := filepath.Join(t.TempDir(), "password")
	harness.WriteFile(t, secret, "sentinel-admin\n")
	table := fmt.Sprintf("[cache.redis]\nurl = \"rediss://weir:p4ss@%s/1?master_name=%s\"\nserver_ca_bundle = %q\nclient_certificate = %q\nclient_private_key = %q\n",
		sentinel.Addr(), redistest.Group, authority.File(), certificate, key)

	limited := upstreamtest.New(t)
	s := newSharing(t, "")
	_, blocks, _ := strings.Cut(s.config, "[repository")
	blocks = "[repository" + blocks + block("limited", limited)
	one := harness.StartWeir(t, table+fmt.Sprintf("sentinel_password_file = %q\n", secret)+blocks)
	other := harness.StartWeir(t, table+"sentinel_username = \"weir\"\nsentinel_password = \"w4tch\"\n"+blocks)
	s.sharesAgain(t, one, other)
	s.RevokeTokens()
	s.pull(t, "revoked", one, "org/again0")
	s.sharesAgain(t, one, other)
	limited.Fault(upstreamtest.Any, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600"))
	expect(t, "limited", one.Get(t, manifestPath("limited/org/app", "v1")), http.StatusTooManyRequests, "")
	other.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", limited.Host)
	harness.StartWeir(t, table+"sentinel_username = \"weir\"\nsentinel_password = \"w4tch\"\n"+blocks).
		MetricIs(t, 1, "weir_upstream_cooldown", "upstream", limited.Host)

	tls := []string{"--tls", "--cacert", authority.File(), "--cert", certificate, "--key", key, "--no-auth-warning"}
	expectUsed(t, redis, append(tls, "-a", "admin"), user)
	expectNothingRefused(t, redis, append(tls, "-a", "admin"))
	expectNothingRefused(t, sentinel, append(tls, "-a", "sentinel-admin")) // a Sentinel does not count commands

	// The Sentinel gets another password, and the client another certificate.
	redisCLI(t, sentinel, append(tls, "-a", "sentinel-admin"), "ACL", "SETUSER", "default", "resetpass", ">sentinel-new")
	authority.Issue("weir", time.Now().AddDate(2, 0, 0))
	rename(t, secret, "sentinel-new\n")
	one.Logs(t, "the changed configuration is in force")
	other.Logs(t, "the changed configuration is in force")
	s.sharesAgain(t, one, other)
	for _, w := range []*harness.Weir{one, other} {
		for _, word := range []string{"p4ss", "w4tch", "sentinel-admin", "sentinel-new"} {
			if strings.Contains(w.Log.String(), word) {
				t.Errorf("the log has the password %s", word)
			}
		}
	}
}

// A certificate of an authority that Weir does not know is named with the remedy, once,
// and clients do not notice. A corrected configuration takes effect at once.
func TestRedisOfAnUnknownAuthority(t *testing.T) {
	t.Parallel()
	authority, other := redistest.NewAuthority(t), redistest.NewAuthority(t)
	redis := redistest.Start(t, append(authority.TLS(), "--tls-auth-clients", "no")...)
	s := newSharing(t, "rediss://"+redis.Addr())
	with := func(a *redistest.Authority) string {
		return strings.Replace(s.config, "key_prefix", fmt.Sprintf("server_ca_bundle = %q\nkey_prefix", a.File()), 1)
	}
	one, two := harness.StartWeir(t, with(other)), harness.StartWeir(t, with(authority))
	s.expectPull(t, "one", one, "org/app", 1)
	one.Logs(t, "rate limits of upstreams are not shared until Redis is back. Set cache.redis.server_ca_bundle to the authority", "unknown authority")
	rename(t, one.Config, with(authority))
	s.sharesAgain(t, one, two)
}

// A cluster loses a master: pulls go on, sharing is back as soon as a replica is
// elected, and the log has one line for each of the two changes. The user of the
// cluster has the rights of docs/operations.md and no others.
func TestRedisCluster(t *testing.T) {
	testutil.Long(t, "waits for the election of a Redis Cluster")
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	harness.Must(t, err)
	more := regexp.MustCompile("In a Redis Cluster, the user also needs `([^`]+)`").FindSubmatch(page)
	if more == nil {
		t.Fatal("docs/operations.md does not say what a user of a cluster needs")
	}
	user := documentedUser(t, 0, "p4ss", strings.Fields(string(more[1]))...)
	cluster := redistest.StartCluster(t, user...)
	limited := upstreamtest.New(t)
	limited.Fault(upstreamtest.Any, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "600"))
	s := newSharing(t, "redis://weir:p4ss@"+cluster.Addrs())
	s.config = strings.Replace(s.config, "weir-test", "weir", 1) + block("limited", limited)
	one, other := harness.StartWeir(t, s.config), harness.StartWeir(t, s.config)
	s.sharesAgain(t, one, other)

	round := 0
	failed := cluster.Fail("weir:cooldowns", (*redistest.Server).Stop, func() {
		round++
		s.pull(t, "during the election", one, fmt.Sprint("org/during", round))
		s.pull(t, "during the election", other, fmt.Sprint("org/during", round))
	})
	s.sharesAgain(t, one, other)
	harness.Eventually(t, "cooldowns are shared again", func() bool {
		return one.Log.Count("rate limits of upstreams are shared through Redis again") == 1 && other.Log.Count("rate limits of upstreams are shared through Redis again") == 1
	})
	expect(t, "limited", one.Get(t, manifestPath("limited/org/app", "v1")), http.StatusTooManyRequests, "")
	other.MetricIs(t, 1, "weir_upstream_cooldown", "upstream", limited.Host)
	failed.Restart()
	for range 30 { // tokens of all masters
		round++
		s.pull(t, "after the election", one, fmt.Sprint("org/after", round))
		s.pull(t, "after the election", other, fmt.Sprint("org/after", round))
	}
	for _, w := range []*harness.Weir{one, other} {
		for away, back := range map[string]string{
			"the shared token cache fails":     "the shared token cache is back",
			"rate limits of upstreams are not": "rate limits of upstreams are shared through Redis again",
		} {
			if n := w.Log.Count(away); n > 1 || n != w.Log.Count(back) {
				t.Errorf("%q %d times, and %q %d times, want one each", away, n, back, w.Log.Count(back))
			}
		}
	}
	for _, server := range cluster.Servers {
		expectNothingRefused(t, server, nil)
	}
}

// A stranger with all rights in Redis plants tokens and cooldowns, and sends messages
// and values that are larger than the memory of the mirrors should be. Pulls go on with
// tokens of the mirrors' own.
func TestHostileRedis(t *testing.T) {
	testutil.Long(t, "waits for the breaker of the token cache again and again")
	t.Parallel()
	const value = 24 << 20 // Redis itself does not deliver messages of more than 32 MiB
	redis := redistest.Start(t)
	s := newSharing(t, redis.URL())
	sealed := strings.Replace(s.config, "key_prefix", "secret_key = \"a secret of at least 32 characters\"\nkey_prefix", 1)
	one, other := harness.StartWeir(t, sealed), harness.StartWeir(t, sealed)
	s.sharesAgain(t, one, other)
	cli := func(command ...string) string { return strings.TrimSpace(redisCLI(t, redis, nil, command...)) }

	// Each key gets the token of another one, with its seal, and another mirror starts.
	s.pull(t, "one", one, "org/a")
	first := strings.Fields(cli("KEYS", "weir-test:token:*"))
	s.pull(t, "one", one, "org/b")
	for _, key := range strings.Fields(cli("KEYS", "weir-test:token:*")) {
		cli("COPY", first[0], key, "REPLACE")
	}
	later := harness.StartWeir(t, sealed)
	s.expectPull(t, "a token of another key", later, "org/b", 1)

	// The figure before the bounds: all 24 MiB, and the process ended at a length beyond
	// its memory.
	before := peak(t, other)
	large := filepath.Join(t.TempDir(), "large")
	harness.WriteFile(t, large, strings.Repeat("x", value))
	send := func(command ...string) {
		host, port, err := net.SplitHostPort(redis.Addr())
		harness.Must(t, err)
		run := exec.CommandContext(t.Context(), testutil.Program(t, "redis-cli", "redis-tools"), append([]string{"-h", host, "-p", port, "-x"}, command...)...)
		run.Stdin, err = os.Open(large)
		harness.Must(t, err)
		harness.Run(t, run)
	}
	send("SET", first[0])
	// A mirror that finds Redis slow at that moment does not get the message.
	harness.Eventually(t, "the mirror has refused the message", func() bool {
		send("PUBLISH", "weir-test:cooldowns")
		return harness.Within(25*time.Second, func() bool { return other.Log.Count("an answer with a length of") > 0 })
	})
	other.Logs(t, "rate limits of upstreams are not shared until Redis is back", "an answer with a length of")
	s.pull(t, "after the large message", other, "org/a")
	other.Logs(t, "rate limits of upstreams are shared through Redis again")
	if grown := peak(t, other) - before; grown > value/2 {
		t.Errorf("the mirror grew by %d MiB", grown>>20)
	}
	s.sharesAgain(t, one, other)
}

// peak returns the largest resident memory of a mirror so far.
func peak(t *testing.T, w *harness.Weir) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Cmd.Process.Pid))
	harness.Must(t, err)
	var kib int
	if match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); match != nil {
		_, err = fmt.Sscan(string(match[1]), &kib)
		harness.Must(t, err)
	}
	return kib << 10
}
