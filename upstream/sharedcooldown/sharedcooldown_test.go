package sharedcooldown_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/sharedcooldown"
)

func TestMain(m *testing.M) {
	// A second after its Close, the client of Redis notices that it no longer has to
	// wait for a server that is away.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

var _ upstream.Cooldowns = (*sharedcooldown.Cooldowns)(nil)

const (
	hub    = "registry.test:443"
	pulls  = "manifest" // the operation of most tests
	prefix = "weir-test"
	retry  = 50 * time.Millisecond
)

// instance is the cooldowns of one mirror.
type instance struct {
	*sharedcooldown.Cooldowns
	log *testutil.LogBuffer
}

func newInstance(t *testing.T, server *redistest.Server) *instance {
	t.Helper()
	i := &instance{log: new(testutil.LogBuffer)}
	opts := sharedcooldown.Options{Prefix: prefix, Logger: slog.New(slog.NewTextHandler(i.log, nil)), Retry: retry}
	if server != nil {
		opts.Redis = server.Client(t)
	}
	i.Cooldowns = sharedcooldown.New(opts)
	t.Cleanup(i.Close)
	return i
}

// watching receives the limits that a client of an instance is informed of.
type watching struct{ told chan time.Time }

func (i *instance) watch(t *testing.T, upstream, account string) watching {
	t.Helper()
	return i.watchOperation(t, upstream, account, pulls)
}

func (i *instance) watchOperation(t *testing.T, upstream, account, operation string) watching {
	t.Helper()
	w := watching{make(chan time.Time, 100)}
	t.Cleanup(i.Subscribe(upstream, account, operation, func(until time.Time) { w.told <- until }))
	return w
}

// expect waits until the client is informed of a cooldown of about that end. The
// client may hear of earlier ends before, and of one end more than once.
func (w watching) expect(t *testing.T, when string, until time.Time) {
	t.Helper()
	var got time.Time
	deadline := time.After(time.Minute)
	for until.Sub(got) > 2*time.Second {
		select {
		case got = <-w.told:
		case <-deadline:
			t.Fatalf("%s: limited until %v, want %v", when, got, until)
		}
	}
	if got.Sub(until) > 2*time.Second {
		t.Errorf("%s: limited until %v, want %v", when, got, until)
	}
}

func (w watching) expectNothing(t *testing.T, when string) {
	t.Helper()
	select {
	case got := <-w.told:
		t.Errorf("%s: limited until %v", when, got)
	default:
	}
}

func in(d time.Duration) time.Time { return time.Now().Add(d) }

func TestWithinOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstance(t, nil)
		defer i.Close()
		one, other := i.watch(t, hub, "account"), i.watch(t, hub, "account")
		anonymous, elsewhere := i.watch(t, hub, ""), i.watch(t, "other.test:443", "account")
		blobs := i.watchOperation(t, hub, "account", "blob")
		until := in(time.Minute)
		i.Limit(hub, "account", pulls, until)
		one.expect(t, "the client with the 429", until)
		other.expect(t, "another client", until)
		i.watch(t, hub, "account").expect(t, "a later client", until)
		anonymous.expectNothing(t, "another account")
		elsewhere.expectNothing(t, "another upstream")
		blobs.expectNothing(t, "another operation")
		time.Sleep(time.Minute)
		i.watch(t, hub, "account").expectNothing(t, "after the cooldown")
	})
}

func TestUnsubscribe(t *testing.T) {
	i := newInstance(t, nil)
	calls := 0
	stop := i.Subscribe(hub, "", pulls, func(time.Time) { calls++ })
	i.Limit(hub, "", pulls, in(time.Minute))
	stop()
	i.Limit(hub, "", pulls, in(time.Hour))
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

// A limit is never dropped as one that is over while it is being recorded.
func TestLimitsDuringExchanges(t *testing.T) {
	const limits = 3000
	server := redistest.Start(t)
	i := newInstance(t, server)
	var busy sync.WaitGroup
	stop := make(chan struct{})
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				i.Subscribe("other.test:443", "", pulls, func(time.Time) {})() // another exchange
			}
		}
	})
	for n := range limits {
		i.Limit(fmt.Sprint(n), "", pulls, in(time.Hour))
	}
	close(stop)
	busy.Wait()
	client := server.Client(t)
	got := int64(0)
	for deadline := in(10 * time.Second); got < limits && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = client.DBSize(t.Context()).Val()
	}
	if got != limits {
		t.Errorf("Redis knows %d limits of %d", got, limits)
	}
}

func TestAmongInstances(t *testing.T) {
	server := redistest.Start(t)
	one, other := newInstance(t, server), newInstance(t, server)
	w, anonymous := other.watch(t, hub, "account"), other.watch(t, hub, "")
	until := in(5 * time.Minute)
	one.Limit(hub, "account", pulls, until)
	w.expect(t, "an instance that runs", until)
	anonymous.expectNothing(t, "another account")

	newInstance(t, server).watch(t, hub, "account").expect(t, "an instance that starts later", until)

	client := server.Client(t)
	names := must(t)(client.Keys(t.Context(), "*").Result())
	if len(names) != 1 || !strings.HasPrefix(names[0], prefix+":cooldown:") || strings.Contains(names[0], "registry") || strings.Contains(names[0], "account") {
		t.Fatalf("the keys are %q", names)
	}
	if left := client.PTTL(t.Context(), names[0]).Val(); left > 5*time.Minute || left < 4*time.Minute {
		t.Errorf("the key lives for %v", left)
	}
}

func must(t *testing.T) func([]string, error) []string {
	return func(v []string, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Each operation has a key of its own, and its subscribers hear of no other one.
func TestOperationsAmongInstances(t *testing.T) {
	server := redistest.Start(t)
	one, other := newInstance(t, server), newInstance(t, server)
	ends := make(map[string]time.Time)
	watched := make(map[string]watching)
	for i, operation := range []string{"manifest", "blob", "list", "token"} {
		ends[operation] = in(time.Duration(i+1) * 10 * time.Second)
		watched[operation] = other.watchOperation(t, hub, "account", operation)
	}
	for operation, until := range ends {
		one.Limit(hub, "account", operation, until)
	}
	for operation, w := range watched {
		w.expect(t, operation, ends[operation])
		newInstance(t, server).watchOperation(t, hub, "account", operation).expect(t, operation+", an instance that starts later", ends[operation])
	}
	if names := must(t)(server.Client(t).Keys(t.Context(), "*").Result()); len(names) != len(ends) {
		t.Errorf("the keys are %q", names)
	}
}

// The keys and messages of earlier versions, which knew no operations, are ignored, and
// those of this version mean nothing to them.
func TestEarlierVersions(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	sum := sha256.Sum256([]byte("weir rest v1\n" + hub + "\naccount"))
	name := hex.EncodeToString(sum[:16])
	if err := client.Set(t.Context(), prefix+":rest:"+name, "later", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	i, other := newInstance(t, server), newInstance(t, server)
	w := i.watch(t, hub, "account")
	for _, channel := range []string{":rests", ":cooldowns"} {
		if err := client.Publish(t.Context(), prefix+channel, `{"rest":"`+name+`","left_ms":60000}`).Err(); err != nil {
			t.Fatal(err)
		}
	}
	earlier := client.Subscribe(t.Context(), prefix+":rests")
	t.Cleanup(func() { earlier.Close() })
	if _, err := earlier.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	until := in(10 * time.Second)
	other.Limit(hub, "account", pulls, until)
	w.expect(t, "by its own version", until) // and by no earlier one before
	select {
	case got := <-earlier.Channel():
		t.Errorf("an earlier version is told %v", got)
	default:
	}
}

// Garbage on the channel and in keys stops neither instance.
func TestGarbage(t *testing.T) {
	server := redistest.Start(t)
	one, other := newInstance(t, server), newInstance(t, server)
	w := other.watch(t, hub, "")
	one.Limit(hub, "", pulls, in(time.Minute))
	w.expect(t, "before", in(time.Minute))
	client := server.Client(t)
	names := must(t)(client.Keys(t.Context(), "*").Result())
	name := strings.TrimPrefix(names[0], prefix+":cooldown:")
	for _, text := range []string{
		"", "{", `{"version":2,"name":1}`, `{"version":2,"name":"` + name + `","left_ms":-5}`,
		`{"version":2,"name":"` + name + `","left_ms":1e99}`, `{"version":3,"name":"` + name + `","left_ms":3600000}`,
		`{"name":"` + name + `","left_ms":3600000}`, `{"rest":"` + name + `","left_ms":3600000}`,
		`{"version":2,"name":"of nobody","left_ms":3600000}`,
	} {
		if err := client.Publish(t.Context(), prefix+":cooldowns", text).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Del(t.Context(), names[0]).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.RPush(t.Context(), names[0], "a list that does not expire").Err(); err != nil {
		t.Fatal(err)
	}
	newInstance(t, server).watch(t, "other.test:443", "")
	one.Limit(hub, "", pulls, in(2*time.Minute))
	w.expect(t, "after", in(2*time.Minute))
	if strings.Contains(one.log.String()+other.log.String(), "not shared") {
		t.Errorf("the log says that something failed: %s", one.log)
	}
}

// While Redis is away a cooldown stays in its process. Its remaining time is
// shared once Redis is back. The log has one line for each of the two changes.
func TestRedisFails(t *testing.T) {
	for name, c := range map[string]struct{ fail, mend func(*redistest.Server) }{
		"dead":   {(*redistest.Server).Stop, (*redistest.Server).Restart},
		"frozen": {(*redistest.Server).Pause, (*redistest.Server).Resume},
	} {
		for _, from := range []string{"at start", "in the middle"} {
			t.Run(name+" "+from, func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				if from == "at start" {
					c.fail(server)
				}
				one, other := newInstance(t, server), newInstance(t, server)
				here, there := one.watch(t, hub, ""), other.watch(t, hub, "")
				if from == "in the middle" {
					one.Limit(hub, "", pulls, in(time.Minute))
					here.expect(t, "before, here", in(time.Minute))
					there.expect(t, "before, there", in(time.Minute))
					c.fail(server)
				}
				for _, i := range []*instance{one, other} {
					i.waitFor(t, "not shared until Redis is back", 1)
				}
				until := in(10 * time.Minute)
				one.Limit(hub, "", pulls, until)
				here.expect(t, "in the same process", until)
				if from == "at start" {
					there.expectNothing(t, "without Redis")
				}
				c.mend(server)
				for _, i := range []*instance{one, other} {
					i.waitFor(t, "shared through Redis again", 1)
				}
				there.expect(t, "when Redis is back", until)
				one.waitFor(t, "not shared until Redis is back", 1)
				newInstance(t, server).watch(t, hub, "").expect(t, "an instance that starts later", until)
			})
		}
	}
}

// A Redis that restarts has lost the cooldowns, and gets them again.
func TestRedisForgets(t *testing.T) {
	server := redistest.Start(t)
	one := newInstance(t, server)
	until := in(10 * time.Minute)
	one.watch(t, hub, "").expectNothing(t, "before")
	one.Limit(hub, "", pulls, until)
	newInstance(t, server).watch(t, hub, "").expect(t, "before it forgets", until)
	server.Stop()
	one.waitFor(t, "not shared until Redis is back", 1)
	server.Restart()
	one.waitFor(t, "shared through Redis again", 1)
	newInstance(t, server).watch(t, hub, "").expect(t, "after it forgot", until)
}

// waitFor waits until the log holds a text that many times.
func (i *instance) waitFor(t *testing.T, text string, times int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for strings.Count(i.log.String(), text) < times {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the log lacks %q:\n%s", text, i.log)
		}
	}
	if got := strings.Count(i.log.String(), text); got != times {
		t.Errorf("the log says %d times %q, want %d:\n%s", got, text, times, i.log)
	}
}

// No call waits for Redis, not even for one that accepts connections and is
// silent.
func TestNothingWaitsForRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Pause()
	i := newInstance(t, server)
	start := time.Now()
	w := i.watch(t, hub, "")
	i.Limit(hub, "", pulls, in(time.Minute))
	w.expect(t, "here", in(time.Minute))
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	start = time.Now()
	i.Close()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("Close took %v", took)
	}
}
